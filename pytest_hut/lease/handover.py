"""Handing a held lock to another process of the same session: the descriptor itself goes over a Unix socket.

Both then share one open file description, so the lock stays taken until the last of them is gone, however each ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator

from pytest_hut.errors import InfrastructureError
from pytest_hut.lease.several import HeldLocks

ANSWER_S = 30.0
LONGEST_ID = 64

_PEER = struct.Struct("3i")
"""Process, user and group at the other end, see unix(7)."""


class LockOffice:
    """Serves descriptors of held locks to processes of this user; `close` ends it, the locks stay as they are."""

    def __init__(self, held: HeldLocks) -> None:
        self._held = held
        # In the abstract namespace: no file to leave behind, and no path that can be too long.
        self.address = f"\0hut-locks-{os.getpid()}-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(self.address)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, name="hut-lock-office", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # Closed.
            with peer, contextlib.suppress(OSError):
                peer.settimeout(ANSWER_S)
                _, user, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
                lock = self._held.locks.get(peer.recv(LONGEST_ID).decode(errors="replace"))
                if lock is None or not lock.held or user != os.getuid():
                    peer.send(b"no")
                else:
                    socket.send_fds(peer, [b"ok"], [lock.fileno()])


@contextlib.contextmanager
def borrowed_lock(office: str, slot_id: str) -> Iterator[int]:
    """Hold, while inside, the lock of a slot that the process behind `office` holds; yields its descriptor.

    Raises InfrastructureError when that process is gone or does not hold it.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(ANSWER_S)
            peer.connect(office)
            peer.send(slot_id.encode())
            answer, descriptors, _, _ = socket.recv_fds(peer, 16, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise InfrastructureError(f"the lock of {slot_id} cannot be had from the session ({error.strerror})") from None
    if answer != b"ok" or not descriptors:
        raise InfrastructureError(f"the session does not hold the lock of {slot_id}")
    try:
        yield descriptors[0]
    finally:
        os.close(descriptors[0])  # Never unlocked here: that would unlock it for the session, too.
