"""Bringing a membership database to this program's schema. Alembic is here alone: few commands need it to be loaded."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from audience_sync.db import Database, migrations, revision_of, revisions, verify


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
