"""Generations: the numbers that make the idempotency key of a value new. Each is greater than all before it."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from audience_sync.store import backup_mark, settings_table
from audience_sync.store.database import after_commit


def next_generation(connection: Connection, now_ms: int) -> int:
    """Issue a generation: greater than every one before, and about the time in milliseconds.

    The mark next to a SQLite database is raised to it once this transaction is committed.

    Raises:
        DatabaseOlder: greater ones were issued before: the database comes from a backup.
        MarkUnusable: the mark cannot be read.
    """
    backup_mark.require_not_behind(connection)
    backup_mark.begin(connection, now_ms)
    after_commit(connection, backup_mark.keep)
    return settings_table.count_on(connection, "generation", least=now_ms, step=1)


def advance(connection: Connection, now_ms: int) -> None:
    """Make this commit newer than all before it for the high-water mark, where there is one; see `store.backup_mark`.

    Raises:
        DatabaseOlder: the database comes from a backup.
        MarkUnusable: the mark cannot be read.
    """
    if backup_mark.path_of(connection.engine) is not None:  # elsewhere all writers would wait for this one row
        next_generation(connection, now_ms)
