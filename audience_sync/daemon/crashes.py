"""Crashes of threads in the log: in one line, as everything else, and without people's data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


@contextmanager
def crashes_logged() -> Iterator[None]:
    """Log the crash of any thread, unless the program that runs the daemon has a hook of its own for them."""
    before = threading.excepthook
    if before is threading.__excepthook__:
        threading.excepthook = _log_hooked
    try:
        yield
    finally:
        threading.excepthook = before


def log_crash(thread: threading.Thread | None, error: BaseException | None) -> None:
    """Log that a bug has ended a thread."""
    log.error("thread_crashed", thread=None if thread is None else thread.name, exc_info=error)


def _log_hooked(crash: threading.ExceptHookArgs) -> None:
    log_crash(crash.thread, crash.exc_value)
