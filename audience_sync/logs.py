"""Configure logging: text lines on a terminal, JSON lines elsewhere (under systemd, in a file), always on stderr.

Under journald, every line begins with its priority. Times are ISO 8601 in UTC with milliseconds.

Unexpected exceptions are logged with their type and location only. Their messages and local variables could contain
personal data or a key.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from audience_sync.core.text import printable
from audience_sync.journal import is_journal, with_priority
from audience_sync.segment.timestamps import iso

log = structlog.get_logger()


def configure() -> None:
    """Set up structlog, and send the libraries' own warnings the same way: at INFO httpx would log every request."""
    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _place,
        _head,
    ]
    if sys.stderr.isatty():
        render: list[Processor] = [_for_terminal, structlog.dev.ConsoleRenderer()]
    elif is_journal(sys.stderr):
        render = [_for_journal]
    else:
        render = [structlog.processors.JSONRenderer()]
    stream = cast("TextIO", _Stderr(sys.stderr))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *steps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    structlog.configure(processors=[*steps, *render], logger_factory=structlog.PrintLoggerFactory(stream))


class _Stderr:
    """Standard error, whose reader may go away: nothing must end because it cannot be logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, if anybody reads."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, if anybody reads."""
        with suppress(OSError):
            self._stream.flush()


def _head(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put in front what people look for first: when, how bad, and what."""
    head = {"timestamp": iso(datetime.now(UTC)), "level": event.pop("level"), "event": event.pop("event")}
    return {**head, **event}


def _for_journal(logger: WrappedLogger, method: str, event: EventDict) -> str:
    line = structlog.processors.JSONRenderer()(logger, method, event)
    return with_priority(line if isinstance(line, str) else line.decode(), str(event.get("level")))


def _place(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the kind and the place of an exception where the exception is."""
    match event.pop("exc_info", None):
        case BaseException() as error:
            pass
        case (_, error, _):  # of a library
            pass
        case given:
            error = sys.exc_info()[1] if given else None
    if error is not None:
        event["exception"] = "\n".join(_lines(error))
    return event


def _lines(error: BaseException) -> Iterator[str]:
    """Yield the kind and the frames of an exception, innermost last, and of what it comes from."""
    yield type(error).__name__
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield "from"
        yield from _lines(cause)


def _for_terminal(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave out empty values and join lists. Control characters of sources and servers must not reach the terminal."""
    texts = {name: _joined(value) if isinstance(value, list | tuple) else value for name, value in event.items()}
    return {
        name: printable(value, lines=True) if isinstance(value, str) else value
        for name, value in texts.items()
        if value not in {None, ""}
    }


def _joined(values: Sequence[str]) -> str:
    """Join names, or the lines of a text whose first one may introduce the others."""
    return ", ".join(value.strip() for value in values).replace(":, ", ": ", 1)


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
