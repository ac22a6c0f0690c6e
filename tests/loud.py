"""A command whose libraries log all that they can, as somebody has them do who looks for a fault.

With `CRASH` in its environment every request to Schematic ends in an exception that nobody foresaw.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.commands import Command, _run

CRASH = "TESTS_CRASH"
LOGGERS = (
    "alembic", "apscheduler", "asyncio", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.proxy",
    "httpx", "psycopg", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.orm", "sqlalchemy.pool", "structlog", "urllib3",
    "uvicorn", "uvicorn.access", "uvicorn.error",
)  # fmt: skip


class LoudCommand(Command):
    """A command that runs, and logs everything."""

    @staticmethod
    def target() -> Callable[[list[str], dict[str, str], Sequence[str], str], None]:
        """Return the function that the process runs."""
        return _shout


def _shout(words: list[str], environment: dict[str, str], streams: Sequence[str], folder: str) -> None:
    import psycopg  # noqa: F401, PLC0415 - it makes itself quiet when it is imported

    logging.basicConfig(level=1, stream=sys.stderr, format="%(levelname)s %(name)s %(pathname)s %(message)s %(args)s")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(1)
    if environment.get(CRASH):
        _break_requests()
    _run(words, environment, streams, folder)


def _break_requests() -> None:
    import httpx  # noqa: PLC0415 - the process that forks has imported it

    def stream(_client: httpx.Client, method: str, url: str, *, content: bytes | None = None, **_: Any) -> object:
        everything = [method, url, content]
        raise RuntimeError(f"a forced end of {len(everything)} things")

    httpx.Client.stream = stream  # type: ignore[method-assign, assignment]  # in this process alone
