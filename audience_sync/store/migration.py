"""Migrate a membership database to the schema of this version.

Only this module imports Alembic, which is slow to load.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from audience_sync.database_error import explain, first_line
from audience_sync.errors import AudienceSyncError
from audience_sync.store.database import (
    Database,
    display_url,
    file_of,
    migrations,
    revision_in,
    revision_of,
    revisions,
    verify,
)
from audience_sync.store.migration_backup import NeededSpace, back_up, backup_path

VERSIONS: Final[Mapping[str, str]] = {
    "0001": "audience-sync 0.1.0",
    "0002": "audience-sync 0.2.0",
    "0003": "audience-sync 0.3.0",
    "0004": "audience-sync 0.4.0",
    "0005": "audience-sync 0.5.0",
    "0008": "audience-sync 0.6.0",
    "0009": "audience-sync 0.7.0",
    "0011": "audience-sync 0.8.0",
    "0014": "audience-sync 0.9.0",
}
"""The releases by the revision of their schema; a release adds a line if it has a new one."""


def let_shrink(database: Database) -> bool:
    """Have a SQLite file give space back that it no longer needs; False if it did already, or is on Postgres.

    A file that audience-sync made is so from the start. Another one, made empty by a person or copied with a tool, is
    rewritten whole, once: that takes as much space on the disk again, and nobody else may be at work on it.

    Raises:
        AudienceSyncError: somebody else is, or the disk is full.
    """
    if not database.is_sqlite:
        return False
    connection = database.engine.raw_connection()  # not possible within a transaction
    try:
        cursor = connection.cursor()
        if cursor.execute("PRAGMA auto_vacuum").fetchone()[0]:
            return False
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        cursor.execute("VACUUM")
    except sqlite3.Error as error:
        raise AudienceSyncError(
            f"cannot rewrite {display_url(database.engine.url)} to release unused space: {error}",
            hint="nothing was lost, and the database works; run `audience-sync migrate` again when the disk has"
            " free space and no other process uses the database",
        ) from None
    else:
        return True
    finally:
        connection.close()


class Migrated(NamedTuple):
    """The revisions of the schema before, None for none, and after; and the backup of a SQLite file if one was made."""

    before: str | None
    after: str
    backup: Path | None = None


def migrate(database: Database, *, backup_at: datetime | None = None) -> Migrated:
    """Bring the schema to this program's revision; make a backup of an older SQLite file first if `backup_at` is set.

    All of it happens or nothing: the migrations share one transaction.

    Raises:
        SchemaOutOfDate: the schema is of a newer program.
        AudienceSyncError: the disk is too small, the backup cannot be written, or a migration failed.
    """
    known = revisions()
    if (found := revision_of(database)) is not None and found not in known:
        verify(database)
    with database.write() as connection:
        before = revision_in(connection)  # nobody else can migrate it now
        file = file_of(database.engine)
        backup = None
        if file is not None and before is not None and before != known[-1]:
            pending = known[known.index(before) + 1 :]
            NeededSpace.of(file, pending, with_backup=backup_at is not None).require(file)
            if backup_at is not None:
                backup = backup_path(file, before, backup_at)
                back_up(file, backup)
        with _undone(database, before, backup):
            upgrade(connection)
    return Migrated(before, known[-1], backup)


def upgrade(connection: Connection) -> None:
    """Bring the schema to this program's revision, within a transaction."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def version_of(revision: str) -> str:
    """Return the newest release with the schema of a revision; without one, say so in words."""
    return VERSIONS.get(revision, "the version that created it")


@contextmanager
def _undone(database: Database, before: str | None, backup: Path | None) -> Iterator[None]:
    """Say of a failed migration that nothing was changed, and remove the backup, which is not needed then."""
    try:
        yield
    except AudienceSyncError:
        _remove(backup)
        raise
    except (sa.exc.SQLAlchemyError, sqlite3.Error, CommandError) as error:
        _remove(backup)
        url = database.engine.url
        known = explain(error, url) if isinstance(error, sa.exc.SQLAlchemyError) else None
        if before is None and known is not None:
            raise known from error
        usable = "" if before is None else f"; {version_of(before)} can still use it with schema {before}"
        raise AudienceSyncError(
            f"the migration of {display_url(url)} failed and changed nothing{usable}: {first_line(error)}",
            hint=known.hint if known else "report this with the message above",
        ) from error


def _remove(backup: Path | None) -> None:
    if backup is not None:
        backup.unlink(missing_ok=True)
