"""The engine behind the command line and the daemon: opens what a piece of work needs, and closes it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from audience_sync import db, holders
from audience_sync.config import Settings
from audience_sync.db import Database
from audience_sync.leasing import Workspace
from audience_sync.seams import Seams


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """Open the membership database, to look or for one short write.

    Raises:
        SchemaOutOfDate: it is missing, or its schema is older or newer than this program's.
    """
    database = db.connect(settings.database.url.get_secret_value())
    try:
        db.verify(database)
        yield database
    finally:
        database.close()


@contextmanager
def working(settings: Settings, seams: Seams) -> Iterator[Workspace]:
    """Open the membership database as a holder of leases.

    Raises:
        SchemaOutOfDate: it is missing, or its schema is older or newer than this program's.
    """
    with opened(settings) as database:
        holder = holders.enter(database)
        try:
            yield Workspace(database=database, holder=holder, seams=seams)
        finally:
            holder.close()


def create(settings: Settings) -> tuple[str | None, str]:
    """Create the membership database, or bring its schema up to date; return the revisions before and after."""
    from audience_sync.migrating import migrate  # noqa: PLC0415 - Alembic is a fifth of every command's start

    database = db.connect(settings.database.url.get_secret_value(), create=True)
    try:
        return migrate(database)
    finally:
        database.close()
