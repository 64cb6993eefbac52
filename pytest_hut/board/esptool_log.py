"""esptool's logger while we use it: nothing reaches the terminal, progress reaches whoever asked for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class QuietLog:
    """Takes what esptool would print."""

    def __init__(self) -> None:
        self._progress: Callable[[int, int], None] | None = None

    @contextlib.contextmanager
    def progress_to(self, receiver: Callable[[int, int], None]) -> Iterator[None]:
        """Send progress to `receiver` for a while."""
        self._progress = receiver
        try:
            yield
        finally:
            self._progress = None

    def progress(self, done: int, total: int) -> None:
        """Note progress."""
        if self._progress is not None:
            self._progress(done, total)


@contextlib.contextmanager
def quiet_esptool() -> Iterator[QuietLog]:
    """Make esptool log through one of these while inside; its log is the process's, so it is put back afterwards."""
    from esptool.logger import EspLog, TemplateLogger, log

    quiet = QuietLog()

    class Adapter(TemplateLogger):  # type: ignore[misc]
        def print(self, *args: Any, **kwargs: Any) -> None: ...
        def note(self, message: str) -> None: ...
        def warning(self, message: str) -> None: ...
        def error(self, message: str) -> None: ...
        def stage(self, finish: bool = False) -> None: ...
        def set_verbosity(self, verbosity: str) -> None: ...

        def progress_bar(self, cur_iter: int, total_iters: int, *_args: Any, **_kwargs: Any) -> None:
            quiet.progress(cur_iter, total_iters)

    before = EspLog.instance
    log.set_logger(Adapter())
    try:
        yield quiet
    finally:
        EspLog.instance = before
