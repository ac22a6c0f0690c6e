"""Compare the members of every audience with their digest and count, to detect damage to the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.checks.finding import Finding, error, ok
from audience_sync.core.model import Severity
from audience_sync.core.text import counted
from audience_sync.database_error import NOT_UTF8
from audience_sync.errors import AudienceSyncError
from audience_sync.store import audiences, memberships
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database, tuning_of
from audience_sync.store.memberships import Digest
from audience_sync.sync.duckdb_diff import DuckDbDiff, wrapping_of

CHECK: Final = "memberships"


def look(database: Database) -> Iterator[Finding]:
    """Check the memberships of each audience."""
    with database.read() as connection:
        ids = [row.id for row in audiences.every(connection)]
        strangers = memberships.count_without_audience(connection)
    if strangers:
        yield _wrong(
            "memberships",
            f"{counted(strangers, 'row')} of an audience that does not exist",
            remedy="restore a backup, or stop the service and delete these rows of `memberships`",
        )
    for audience_id in ids:
        with database.read() as connection:
            if not database.is_sqlite:  # SQLite readers always have one snapshot
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = audiences.by_id(connection, audience_id)
            try:
                yield from list(_audience(connection, row))
            except AudienceSyncError as refused:  # no space for temporary files
                yield error(CHECK, row.key, refused)
            except sa.exc.DBAPIError as damage:
                if NOT_UTF8 not in str(damage):
                    raise
                yield _wrong(
                    row.key,
                    "a member has bytes that are not valid text, so the members cannot be compared",
                    remedy="restore a backup; or stop the service, delete the invalid rows of `memberships` and"
                    f" the audience's row of `digests`, and run `audience-sync sync {row.key}`",
                )


def _audience(connection: Connection, row: AudienceRow) -> Iterator[Finding]:
    kept = memberships.digest(connection, row.id)
    found = _digest(connection, row, kept)
    is_known = kept is not None and kept.version == found.version
    is_damaged = is_known and kept != found
    if is_damaged:
        yield _wrong(
            row.key,
            "its members differ from what the last sync wrote",
            remedy=f"`audience-sync sync {row.key} --resync` compares every member again and sends every value again",
        )
    if found.members != row.members:
        yield _wrong(
            row.key,
            f"has {counted(found.members, 'member')}, but the stored count is {row.members:,}: guards and plans use"
            " the wrong number",
            remedy="repair the members first, then check again"
            if is_damaged
            else f"stop the service, then set the column `members` of this audience in the table `audiences` to"
            f" {found.members}",
        )
    orphans = memberships.count_without_run(connection, row.id)
    if orphans:
        yield _wrong(
            row.key,
            f"{orphans:,} of its members have a `run_id` or `entered_run_id` that does not match any of its"
            " runs, so views and commands do not show them",
            remedy="restore a backup; or stop the service, set that column of `memberships` to the last run"
            f" of this audience, and run `audience-sync sync {row.key} --resync`",
        )
    if not is_damaged and not orphans and found.members == row.members:
        digest = (
            "the digest and the stored count" if is_known else "the stored count; the next sync computes the digest"
        )
        yield ok(CHECK, row.key, f"{counted(found.members, 'member')} verified against {digest}")


def _digest(connection: Connection, row: AudienceRow, kept: Digest | None) -> Digest:
    """Return the digest of the members, computed in the same way as the stored one."""
    wrapping = None if kept is None else wrapping_of(kept.version)
    with DuckDbDiff(wrapping, tuning=tuning_of(connection)) as diff:
        diff.add_members(memberships.texts(connection, row.id, wrapping))
        return diff.digest()


def _wrong(subject: str, message: str, *, remedy: str) -> Finding:
    return Finding(CHECK, subject, Severity.ERROR, message, remedy, 1)
