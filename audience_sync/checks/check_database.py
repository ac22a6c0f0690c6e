"""The membership database: there, of this program's schema, writable, and bound as configured.

What would be written is written in a transaction that is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Settings
from audience_sync.database_error import explain
from audience_sync.errors import AudienceSyncError, MarkUnusable
from audience_sync.store import backup_mark, binding, generations, schema
from audience_sync.store.database import Database, connect, display_url, verify

CHECK: Final = "database"


def look(settings: Settings) -> Generator[Finding, None, Database | None]:
    """Yield how the database stands, and return it open if it can be used."""
    url = settings.database.url
    try:
        database = connect(url.get_secret_value())
    except EXPECTED as raised:
        yield error(CHECK, str(url), raised)
        return None
    try:
        verify(database)
        if missing := sorted(set(schema.metadata.tables) - set(sa.inspect(database.engine).get_table_names())):
            raise AudienceSyncError(
                f"{display_url(database.engine.url)} has no table {', '.join(missing)}",
                hint="restore it from a backup: something other than audience-sync removed that",
            )
        attempt(database, lambda connection: _write(connection, settings.identity))
    except EXPECTED as raised:
        database.close()
        known = explain(raised, url.get_secret_value()) if isinstance(raised, sa.exc.SQLAlchemyError) else None
        yield error(CHECK, str(url), known or raised)
        return None
    yield ok(CHECK, str(url), "has the current schema and is writable")
    yield from _mark(database)
    return database


def _mark(database: Database) -> Iterator[Finding]:
    """Yield what is wrong with the high-water mark, if anything."""
    mark = str(backup_mark.path_of(database.engine))
    if backup_mark.is_missing(database):
        yield warning(CHECK, mark, backup_mark.MISSING, remedy=backup_mark.MISSING_HINT)
    try:
        backup_mark.require_writable(database)
    except MarkUnusable as raised:
        yield error(CHECK, mark, raised)


def attempt(database: Database, write: Callable[[Connection], object]) -> None:
    """Write something and take it back; raises what `write` raises, and the database's errors."""
    with database.write() as connection:
        write(connection)
        connection.rollback()


def _write(connection: Connection, identity: str) -> None:
    binding.bind_identity(connection, identity)
    generations.next_generation(connection, 0)
