"""esptool's logger while we use it: nothing reaches the terminal, progress reaches whoever asked for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pytest_hut.board.shared_setting import SharedSetting

ProgressReceiver = Callable[[int, int], None]

_receivers = threading.local()


def quiet_esptool() -> contextlib.AbstractContextManager[None]:
    """Make esptool silent while anybody is inside, in whatever thread; its log is the process's, and is put back."""
    return _log.changed()


@contextlib.contextmanager
def progress_to(receiver: ProgressReceiver) -> Iterator[None]:
    """Send the progress that esptool logs in this thread to `receiver` while inside."""
    _receivers.current = receiver
    try:
        yield
    finally:
        del _receivers.current


def _adapter() -> Any:
    from esptool.logger import TemplateLogger

    class Adapter(TemplateLogger):  # type: ignore[misc]
        def print(self, *args: Any, **kwargs: Any) -> None: ...
        def note(self, message: str) -> None: ...
        def warning(self, message: str) -> None: ...
        def error(self, message: str) -> None: ...
        def stage(self, finish: bool = False) -> None: ...
        def set_verbosity(self, verbosity: str) -> None: ...

        def progress_bar(self, cur_iter: int, total_iters: int, *_args: Any, **_kwargs: Any) -> None:
            receiver: ProgressReceiver | None = getattr(_receivers, "current", None)
            if receiver is not None:
                receiver(cur_iter, total_iters)

    return Adapter()


def _replace_log() -> Any:
    from esptool.logger import EspLog, log

    before = EspLog.instance
    log.set_logger(_adapter())
    return before


def _put_log_back(before: Any) -> None:
    from esptool.logger import EspLog

    EspLog.instance = before


_log = SharedSetting(_replace_log, _put_log_back)
