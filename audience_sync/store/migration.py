"""Migrate a membership database to the schema of this version.

Only this module imports Alembic, which is slow to load.
"""

from __future__ import annotations

import sqlite3

from alembic import command
from alembic.config import Config

from audience_sync.errors import AudienceSyncError
from audience_sync.store.database import Database, display_url, migrations, revision_of, revisions, verify


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


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the schema to this program's revision; return the revisions before and after.

    Raises:
        SchemaOutOfDate: the schema is of a newer program.
    """
    before, known = revision_of(database), revisions()
    if before is not None and before not in known:
        verify(database)
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, known[-1]
