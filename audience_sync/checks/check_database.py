"""Check that the membership database exists, has the current schema, is writable, and has the configured bindings.

The write test runs in a transaction that is rolled back.
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
from audience_sync.store import backup_mark, binding, generations, relocation, schema
from audience_sync.store.database import Database, connect, display_url, verify

CHECK: Final = "database"


def look(settings: Settings) -> Generator[Finding, None, Database | None]:
    """Check the database, and return it open if it can be used."""
    url = settings.database.url
    try:
        database = connect(url.get_secret_value())
    except EXPECTED as raised:
        yield error(CHECK, str(url), raised)
        return None
    try:
        relocation.require_current(database)
        verify(database)
        if missing := sorted(set(schema.metadata.tables) - set(sa.inspect(database.engine).get_table_names())):
            raise AudienceSyncError(
                f"{display_url(database.engine.url)} has no table {', '.join(missing)}",
                hint="restore the database from a backup: something other than audience-sync removed what is missing",
            )
        attempt(database, lambda connection: _write(connection, settings.identity))
    except EXPECTED as raised:
        database.close()
        known = explain(raised, url.get_secret_value()) if isinstance(raised, sa.exc.SQLAlchemyError) else None
        yield error(CHECK, str(url), known or raised)
        return None
    yield ok(CHECK, str(url), "schema is current; database is writable")
    yield from _mark(database)
    return database


def _mark(database: Database) -> Iterator[Finding]:
    """Yield problems of the high-water mark."""
    mark = str(backup_mark.path_of(database.engine))
    if backup_mark.is_missing(database):
        yield warning(CHECK, mark, backup_mark.MISSING, remedy=backup_mark.MISSING_HINT)
    try:
        backup_mark.require_writable(database)
    except MarkUnusable as raised:
        yield error(CHECK, mark, raised)


def attempt(database: Database, write: Callable[[Connection], object]) -> None:
    """Write something and roll it back; raises the errors of `write` and of the database."""
    with database.write() as connection:
        write(connection)
        connection.rollback()


def _write(connection: Connection, identity: str) -> None:
    binding.bind_identity(connection, identity)
    generations.next_generation(connection, 0)
