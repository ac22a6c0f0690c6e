"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

from audience_sync.store.database import Database


def wait_until(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    """Return as soon as the condition holds; fail the test when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def somebody_waits(database: Database) -> bool:
    """Tell whether a Postgres transaction waits for a lock."""
    with database.read() as connection:
        return bool(connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar())
