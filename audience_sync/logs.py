"""Logs: lines for people on a terminal, JSON lines elsewhere (under systemd, in a file); always on stderr.

Of an exception that nobody foresaw they have its kind and its place. Its words and its local variables they have not:
there may be people's data in them, or a key.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator

import structlog
from structlog.typing import EventDict, WrappedLogger

from audience_sync.core.printable import printable


def configure() -> None:
    """Set up structlog, and keep the libraries' own logs to warnings: httpx would log every request."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    person = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _place,
            *([_harmless, structlog.dev.ConsoleRenderer()] if person else [structlog.processors.JSONRenderer()]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _place(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the kind and the place of an exception where the exception is."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
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


def _harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let nothing steer the terminal: sources and servers have their say in many a value."""
    return {name: printable(said, lines=True) if isinstance(said, str) else said for name, said in event.items()}
