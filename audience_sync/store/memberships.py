"""Memberships by shard, the plans that wait to become memberships, and the history of what did.

The table changes only in `apply` (and in `retract` and `forget`), always together with history, outbox, digests and the
audience's count: whoever sees one sees all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.model import Change, ChangeKind, Member
from audience_sync.core.shards import SHARDS, Digest, from_line
from audience_sync.store import audiences, bulk, identifiers, outbox
from audience_sync.store.runs import RunRow

_HASH = 16  # bytes of a digest; those behind them are the hash of the rows as they were read


class ShardChanges(NamedTuple):
    """What a run makes of one shard: the changes, and the digest of the shard once they are applied.

    The digest is None when only some of the shard's changes are here. Where nobody was before, `newcomers` are the
    lines of those who enter, sorted, and stand for as many changes: a first sync has nothing else.
    """

    shard: int
    changes: list[Change]
    digest: Digest | None
    reading: bytes = b""  # a hash of the rows as they were read; empty: it says nothing
    newcomers: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Return how many changes there are."""
        return len(self.changes) + len(self.newcomers)

    def entered(self) -> list[str]:
        """Return the profile keys of those who enter."""
        keys = [line.partition("\t")[0] for line in self.newcomers]
        return keys + [change.profile_key for change in self.changes if change.kind is ChangeKind.ENTERED]

    def every(self) -> list[Change]:
        """Return all changes, newcomers too."""
        return [*(Change(ChangeKind.ENTERED, *member) for member in map(from_line, self.newcomers)), *self.changes]


def lines(connection: Connection, audience_id: int, shard: int) -> list[str]:
    """Return the members of one shard as sorted lines."""
    return lines_by_shard(connection, audience_id, [shard]).get(shard, [])


def lines_by_shard(connection: Connection, audience_id: int, shards: Sequence[int]) -> dict[int, list[str]]:
    """Return the members of some shards as sorted lines, joined where they lie: `core.shards.to_line` in SQL.

    All of a shard come as one text: a row costs several times as much on its way here, and the interpreter's lock is
    free while the database works.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    tab, end, join = ("char(9)", "char(10)", "group_concat") if is_sqlite else ("chr(9)", "chr(10)", "string_agg")
    texts = connection.exec_driver_sql(
        f"SELECT shard, {join}(CASE WHEN value IS NOT NULL"
        f" THEN profile_key || {tab} || COALESCE(identifiers, '') || {tab} || value"
        f" WHEN identifiers IS NOT NULL THEN profile_key || {tab} || identifiers ELSE profile_key END, {end})"
        f" FROM memberships WHERE audience_id = {int(audience_id)} AND shard IN ({', '.join(map(str, shards))})"
        " GROUP BY shard"
    )
    return {shard: sorted(text.split("\n")) for shard, text in texts}


def digests(connection: Connection, audience_id: int) -> dict[int, Digest]:
    """Return the digest of each shard that has one."""
    return {shard: Digest(members, hashes[:_HASH]) for shard, members, hashes in _kept(connection, audience_id)}


def readings(connection: Connection, audience_id: int) -> dict[int, bytes]:
    """Return for each shard the hash of the rows as they were read, if its members are those rows."""
    return {shard: hashes[_HASH:] for shard, _, hashes in _kept(connection, audience_id) if hashes[_HASH:]}


def _kept(connection: Connection, audience_id: int) -> list[tuple[int, int, bytes]]:
    rows = connection.execute(
        sa.text("SELECT shard, members, digest FROM shards WHERE audience_id = :a"), {"a": audience_id}
    )
    return [(shard, members, bytes(hashes)) for shard, members, hashes in rows]


def delivered_profiles(
    connection: Connection, audience_ids: Collection[int], shard: int, profile_keys: Collection[str]
) -> set[str]:
    """Return which of these profiles of a shard are in one of some audiences, with nothing of that left to send."""
    if not audience_ids or not profile_keys:
        return set()
    listed = ", ".join(map(str, audience_ids))
    rows = connection.execute(
        sa.text(
            f"SELECT profile_key FROM memberships m WHERE audience_id IN ({listed}) AND shard = :s"
            f" AND profile_key IN ({bulk.each(connection, 'keys')}) AND NOT EXISTS (SELECT 1 FROM outbox o"
            " WHERE o.shard = m.shard AND o.profile_key = m.profile_key AND o.audience_id = m.audience_id)"
        ),
        {"s": shard, "keys": bulk.texts(connection, profile_keys)},
    )
    return set(rows.scalars())


def stage(connection: Connection, run_id: int, compared: Sequence[ShardChanges]) -> None:
    """Keep the changes of some shards as part of a run's plan."""
    changes = (
        (run_id, s.shard, c.profile_key, c.kind.value, c.identifiers, c.value) for s in compared for c in s.every()
    )
    bulk.insert(connection, tables.staged, changes)
    bulk.insert(connection, tables.staged_shards, ((run_id, s.shard, *_hashes(s)) for s in compared))


def _hashes(shard: ShardChanges) -> tuple[int | None, bytes | None]:
    """Return how many members a shard will have, and what is kept of their hashes."""
    return (None, None) if shard.digest is None else (shard.digest.members, shard.digest.hash + shard.reading)


def next_staged(connection: Connection, run_id: int, *, at_most: int) -> tuple[int, int] | None:
    """Return the next shards of a run's plan with about `at_most` changes, first and last; None when all is done."""
    shards = connection.execute(
        sa.text(
            "SELECT p.shard, (SELECT count(*) FROM staged s WHERE s.run_id = p.run_id AND s.shard = p.shard)"
            " FROM staged_shards p WHERE p.run_id = :r ORDER BY p.shard"
        ),
        {"r": run_id},
    )
    first, last, changes = None, 0, 0
    for shard, count in shards:
        first, last = shard if first is None else first, shard
        changes += count
        if changes >= at_most:
            break
    return None if first is None else (first, last)


def unstage(connection: Connection, run_id: int, *, low: int = 0, high: int = SHARDS - 1) -> None:
    """Drop a run's plan, or some shards of it."""
    for table in ("staged", "staged_shards"):
        connection.execute(
            sa.text(f"DELETE FROM {table} WHERE run_id = :r AND shard BETWEEN :low AND :high"),
            {"r": run_id, "low": low, "high": high},
        )


def apply(connection: Connection, run: RunRow, compared: Sequence[ShardChanges]) -> None:
    """Make the changes of some shards true: memberships, history, outbox, digests and count, all in one."""
    entering = [shard for shard in compared if shard.newcomers and not shard.changes]
    if entering:
        _enter(connection, run, entering)
    others = [shard for shard in compared if shard.changes or not shard.newcomers]
    if others:
        low, high = min(shard.shard for shard in others), max(shard.shard for shard in others)
        stage(connection, run.id, others)
        apply_staged(connection, run, low=low, high=high)


def apply_staged(connection: Connection, run: RunRow, *, low: int, high: int) -> None:
    """Make what is staged for some shards true, as `apply` does, and drop it from the plan."""
    place = {"a": run.audience_id, "r": run.id, "g": run.generation, "low": low, "high": high}
    staged = "FROM staged WHERE run_id = :r AND shard BETWEEN :low AND :high"
    gone = connection.execute(sa.text(f"SELECT shard, profile_key {staged} AND kind = '{ChangeKind.EXITED}'"), place)
    exits = [(run.audience_id, shard, key) for shard, key in gone]
    counted = connection.execute(sa.text(f"SELECT kind, count(*) {staged} GROUP BY kind"), place)
    kinds: dict[str, int] = dict(counted.all())
    statements = (
        (
            "INSERT INTO memberships"
            " (audience_id, shard, profile_key, identifiers, value, entered_run_id, generation)"
            f" SELECT :a, shard, profile_key, identifiers, value, :r, :g {staged} AND kind <> '{ChangeKind.EXITED}'"
            " ORDER BY shard, profile_key ON CONFLICT (audience_id, shard, profile_key) DO UPDATE SET"
            " identifiers = excluded.identifiers, value = excluded.value, generation = excluded.generation"
        ),
        (
            "INSERT INTO changes (run_id, shard, profile_key, kind, identifiers, value)"
            f" SELECT run_id, shard, profile_key, kind, identifiers, value {staged} ORDER BY shard, profile_key"
        ),
        (
            "INSERT INTO shards (audience_id, shard, members, digest)"
            " SELECT :a, shard, members, digest FROM staged_shards"
            " WHERE run_id = :r AND shard BETWEEN :low AND :high AND digest IS NOT NULL"
            " ON CONFLICT (audience_id, shard) DO UPDATE SET members = excluded.members, digest = excluded.digest"
        ),
        (
            "DELETE FROM shards WHERE audience_id = :a AND shard IN (SELECT shard FROM staged_shards"
            " WHERE run_id = :r AND shard BETWEEN :low AND :high AND digest IS NULL)"
        ),
    )
    outbox.enqueue(connection, run, low=low, high=high)
    if kinds.get("updated"):
        identifiers.mark_updates(connection, run, low=low, high=high)
    for statement in statements:
        connection.execute(sa.text(statement), place)
    # By their keys: for a condition on several columns SQLite would look through all members of the shards.
    bulk.delete(connection, tables.memberships, ("audience_id", "shard", "profile_key"), exits)
    audiences.add_members(connection, run.audience_id, kinds.get("entered", 0) - kinds.get("exited", 0))
    unstage(connection, run.id, low=low, high=high)


def _enter(connection: Connection, run: RunRow, entering: Sequence[ShardChanges]) -> None:
    """Make everybody of some shards a member where nobody was, which is most of what a first sync does."""
    bulk.insert_members(
        connection,
        ((shard.shard, shard.newcomers) for shard in entering),
        audience_id=run.audience_id,
        run_id=run.id,
        generation=run.generation,
    )
    low, high = min(shard.shard for shard in entering), max(shard.shard for shard in entering)
    connection.execute(
        sa.text(
            "INSERT INTO changes (run_id, shard, profile_key, kind, identifiers, value)"
            f" SELECT entered_run_id, shard, profile_key, '{ChangeKind.ENTERED}', identifiers, value FROM memberships"
            " WHERE audience_id = :a AND shard BETWEEN :low AND :high AND entered_run_id = :r AND generation = :g"
            " ORDER BY shard, profile_key"
        ),
        {"a": run.audience_id, "r": run.id, "g": run.generation, "low": low, "high": high},
    )
    outbox.enqueue_members(connection, run, low=low, high=high)
    bulk.upsert(connection, tables.shards, ((run.audience_id, s.shard, *_hashes(s)) for s in entering if s.digest))
    forget_digests(connection, run.audience_id, [s.shard for s in entering if s.digest is None])
    audiences.add_members(connection, run.audience_id, sum(len(shard.newcomers) for shard in entering))


def members_of(connection: Connection, audience_id: int, *, at_most: int) -> list[tuple[int, Member]]:
    """Return the first members of an audience with their shards."""
    rows = connection.execute(
        sa.text(
            "SELECT shard, profile_key, identifiers, value FROM memberships WHERE audience_id = :a"
            " ORDER BY shard, profile_key LIMIT :n"
        ),
        {"a": audience_id, "n": at_most},
    )
    return [(shard, Member(*rest)) for shard, *rest in rows]


def forget_digests(connection: Connection, audience_id: int, shards: Iterable[int]) -> None:
    """Drop the digests of some shards: the next sync compares them row by row."""
    bulk.delete(connection, tables.shards, ("audience_id", "shard"), [(audience_id, shard) for shard in shards])
