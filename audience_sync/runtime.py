"""Open and close what the command line and the daemon work with: the membership database and the workspace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from audience_sync import kill_points
from audience_sync.clock import Clock
from audience_sync.config import Settings
from audience_sync.database_error import explained
from audience_sync.errors import DatabaseMoved, SchemaOlder, SchemaOutOfDate
from audience_sync.folders import require_temporary_folder
from audience_sync.kill_points import pass_by
from audience_sync.store import backup_mark, holders, relocation
from audience_sync.store.database import Database, connect, verify
from audience_sync.store.workspace import Workspace
from audience_sync.tuning import DEFAULT_TUNING

TUNING = DEFAULT_TUNING
"""The tuning of every database that is opened here; tests of commands put another value in its place."""


def _ignore(_: str) -> None:
    """Say nothing."""


@contextmanager
def opened(
    settings: Settings,
    *,
    reach: Callable[[str], None] = pass_by,
    on_wait: Callable[[], None] | None = None,
    even_moved: bool = False,
) -> Iterator[Database]:
    """Open the membership database, to look or for one short write; `on_wait` is called as `Database` says.

    Raises:
        SchemaOutOfDate: it is missing, or its schema is older or newer than this program's.
        DatabaseMoved: it was moved to another one, and not `even_moved`.
        CopyUnfinished: it is a copy that was interrupted.
        AudienceSyncError: it fails while it is open, in a way that a person can do something about.
    """
    url = settings.database.url.get_secret_value()
    database = connect(url, reach=reach, tuning=TUNING)
    database.on_wait = on_wait
    try:
        with explained(url):
            try:
                relocation.require_current(database)
            except DatabaseMoved:
                if not even_moved:
                    raise
            verify(database)
            yield database
    finally:
        database.close()


@contextmanager
def working(
    settings: Settings,
    clock: Clock,
    *,
    any_age: bool = False,
    warn: Callable[[str], None] = _ignore,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Workspace]:
    """Open the membership database as a holder of leases; with `any_age` also one that comes from a backup.

    `warn` is called with a sentence if the database may come from a backup, `on_wait` as `Database` says.

    Raises:
        SchemaOutOfDate: it is missing, or its schema is older or newer than this program's.
        DatabaseOlder: it is older than what was sent from it.
    """
    reach = kill_points.killer(os.environ)
    with opened(settings, reach=reach, on_wait=on_wait) as database:
        require_temporary_folder(os.environ)
        if not any_age:
            if backup_mark.is_missing(database):
                warn(f"{backup_mark.MISSING}; {backup_mark.MISSING_HINT}")
            backup_mark.require_newest(database)
        holder = holders.enter(database)
        try:
            yield Workspace(database=database, holder=holder, clock=clock, reach=reach)
        finally:
            holder.close()


def older_schema(settings: Settings) -> SchemaOlder | None:
    """Return the error for a database that needs a migration; None if it does not need one or does not exist."""
    try:
        with opened(settings):
            return None
    except SchemaOlder as older:
        return older
    except SchemaOutOfDate:
        return None


class Created(NamedTuple):
    """The revisions of the schema before, None for none, and after; the backup; and whether the file can shrink now."""

    before: str | None
    after: str
    backup: Path | None
    can_shrink_now: bool


def create(settings: Settings, *, backup_at: datetime | None = None) -> Created:
    """Create the membership database, or bring it up to date; `backup_at` as in `migration.migrate`."""
    from audience_sync.store import migration  # noqa: PLC0415 - Alembic is a fifth of every command's start

    url = settings.database.url.get_secret_value()
    database = connect(url, create=True, tuning=TUNING)
    try:
        with explained(url):
            relocation.require_current(database)
            migrated = migration.migrate(database, backup_at=backup_at)
            return Created(*migrated, can_shrink_now=migration.let_shrink(database))
    finally:
        database.close()
