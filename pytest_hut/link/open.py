"""The one place that decides what carries a slot's line."""

from __future__ import annotations

from pytest_hut.link.base import Link
from pytest_hut.link.rfc2217 import Rfc2217Link
from pytest_hut.link.tty import TtyLink
from pytest_hut.link.url import UrlLink


def link_for(port: str, baudrate: int) -> Link:
    """Return the (still closed) link for a device path or a pyserial URL."""
    if port.lower().startswith("rfc2217://"):
        return Rfc2217Link(port, baudrate)
    return UrlLink(port, baudrate) if "://" in port else TtyLink(port, baudrate)
