"""Every membership against the digest of its shard, and every audience's count: what only damage could have changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy.engine import Connection

from audience_sync.checking.finding import Finding, State, ok
from audience_sync.core.shards import SHARDS, digest
from audience_sync.db import Database
from audience_sync.store import audiences, memberships
from audience_sync.store.audiences import AudienceRow

CHECK: Final = "memberships"
NAMED = 10  # shards that a finding names


def look(database: Database) -> Iterator[Finding]:
    """Yield how the memberships of each audience stand; one shard is in memory at a time."""
    with database.read() as connection:
        ids = [row.id for row in audiences.every(connection)]
    for audience_id in ids:
        with database.read() as connection:
            if not database.is_sqlite:  # a reader of SQLite has one snapshot anyway
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield from list(_audience(connection, audiences.by_id(connection, audience_id)))


def _audience(connection: Connection, row: AudienceRow) -> Iterator[Finding]:
    kept = memberships.digests(connection, row.id)
    members, damaged = 0, []
    for shard in range(SHARDS):
        found = digest(memberships.lines(connection, row.id, shard))
        members += found.members
        if shard in kept and kept[shard] != found:
            damaged.append(shard)
    if damaged:
        yield _wrong(
            row,
            f"{len(damaged):,} of {len(kept):,} shards are not what the last sync wrote: {_some(damaged)}",
            remedy=f"`audience-sync sync {row.key} --resync` compares everybody anew and sends every value again",
        )
    if members != row.members:
        yield _wrong(
            row,
            f"has {members:,} members, but its count says {row.members:,}: guards and plans reckon with a wrong number",
            remedy="repair the shards first, then check again"
            if damaged
            else f"stop the service, and set `members` of this row of `audiences` to {members}",
        )
    if not damaged and members == row.members:
        yield ok(
            CHECK, row.key, f"{members:,} members agree with the digests of {len(kept):,} shards and with the count"
        )


def _wrong(row: AudienceRow, message: str, *, remedy: str) -> Finding:
    return Finding(CHECK, row.key, State.ERROR, message, remedy, 1)


def _some(shards: list[int]) -> str:
    return ", ".join(map(str, shards[:NAMED])) + (" …" if len(shards) > NAMED else "")
