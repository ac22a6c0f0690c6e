"""Memberships by shard, the plans that wait to become memberships, and the history of what did.

The table changes only in `apply` (and in `retract` and `forget`), always together with history, outbox, digests and the
audience's count: whoever sees one sees all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.model import Change, ChangeKind, Member
from audience_sync.core.shards import Digest
from audience_sync.store import audiences, bulk, outbox
from audience_sync.store.runs import RunRow


class ShardChanges(NamedTuple):
    """What a run makes of one shard: the changes, and the digest of the shard once they are applied.

    The digest is None when only some of the shard's changes are here.
    """

    shard: int
    changes: list[Change]
    digest: Digest | None


def lines(connection: Connection, audience_id: int, shard: int) -> set[str]:
    """Return the members of one shard as lines, joined where they lie: `core.shards.to_line` in SQL."""
    tab = "char(9)" if connection.dialect.name == "sqlite" else "chr(9)"
    rows = connection.exec_driver_sql(
        "SELECT CASE WHEN value IS NOT NULL"
        f" THEN profile_key || {tab} || COALESCE(identifiers, '') || {tab} || value"
        f" WHEN identifiers IS NOT NULL THEN profile_key || {tab} || identifiers ELSE profile_key END"
        f" FROM memberships WHERE audience_id = {int(audience_id)} AND shard = {int(shard)}"
    )
    return set(rows.scalars())


def digests(connection: Connection, audience_id: int) -> dict[int, Digest]:
    """Return the digest of each shard that has one."""
    rows = connection.execute(
        sa.text("SELECT shard, members, digest FROM shards WHERE audience_id = :a"), {"a": audience_id}
    )
    return {shard: Digest(members, bytes(digest)) for shard, members, digest in rows}


def known_profiles(connection: Connection, shard: int, *, except_audience: int | None) -> set[str]:
    """Return the profiles of one shard that are in any other audience."""
    others = [str(a.id) for a in audiences.every(connection) if a.id != except_audience]
    if not others:
        return set()
    rows = connection.exec_driver_sql(
        f"SELECT profile_key FROM memberships WHERE audience_id IN ({', '.join(others)}) AND shard = {int(shard)}"
    )
    return {key for (key,) in rows}


def stage(connection: Connection, run_id: int, compared: Sequence[ShardChanges]) -> None:
    """Keep the changes of some shards as part of a run's plan."""
    bulk.insert(connection, tables.staged, _rows(run_id, _flat(compared)))
    bulk.insert(connection, tables.staged_shards, ((run_id, s.shard, *(s.digest or (None, None))) for s in compared))


def staged(connection: Connection, run_id: int, *, at_most: int) -> list[ShardChanges]:
    """Return the next shards of a run's plan with about `at_most` changes; none when all is done."""
    plan: list[ShardChanges] = []
    count = 0
    shards = connection.execute(
        sa.text("SELECT shard, members, digest FROM staged_shards WHERE run_id = :r ORDER BY shard"), {"r": run_id}
    ).all()
    for shard, members, digest in shards:
        rows = connection.execute(
            sa.text(
                "SELECT kind, profile_key, identifiers, value FROM staged"
                " WHERE run_id = :r AND shard = :s ORDER BY profile_key"
            ),
            {"r": run_id, "s": shard},
        )
        found = [Change(ChangeKind(kind), *rest) for kind, *rest in rows]
        plan.append(ShardChanges(shard, found, None if digest is None else Digest(members, bytes(digest))))
        count += len(found)
        if count >= at_most:
            break
    return plan


def unstage(connection: Connection, run_id: int, shards: Iterable[int] | None = None) -> None:
    """Drop a run's plan, or some shards of it."""
    where = "run_id = :r" if shards is None else f"run_id = :r AND shard IN ({', '.join(map(str, shards))})"
    for table in ("staged", "staged_shards"):
        connection.execute(sa.text(f"DELETE FROM {table} WHERE {where}"), {"r": run_id})


def apply(connection: Connection, run: RunRow, compared: Sequence[ShardChanges]) -> None:
    """Make the changes of some shards true: memberships, history, outbox, digests and count, all in one.

    Without `send_updates` Schematic is told of no updates: neither of new identifiers, nor of new values of those who
    have one.
    """
    kinds = Counter(change.kind for _, change in _flat(compared))
    bulk.insert(
        connection,
        tables.memberships,
        (
            (run.audience_id, shard, change.profile_key, change.identifiers, change.value, run.id, run.generation)
            for shard, change in _flat(compared)
            if change.kind is not ChangeKind.EXITED
        ),
        on_conflict="ON CONFLICT (audience_id, shard, profile_key) DO UPDATE SET"
        " identifiers = excluded.identifiers, value = excluded.value, generation = excluded.generation",
    )
    bulk.delete(
        connection,
        tables.memberships,
        ("audience_id", "shard", "profile_key"),
        (
            (run.audience_id, shard, change.profile_key)
            for shard, change in _flat(compared)
            if change.kind is ChangeKind.EXITED
        ),
    )
    bulk.insert(connection, tables.changes, _rows(run.id, _flat(compared)))
    silent = None if run.send_updates else ChangeKind.UPDATED
    outbox.enqueue(connection, run, (pair for pair in _flat(compared) if pair[1].kind is not silent))
    bulk.upsert(connection, tables.shards, ((run.audience_id, s.shard, *s.digest) for s in compared if s.digest))
    forget_digests(connection, run.audience_id, [s.shard for s in compared if s.digest is None])
    audiences.add_members(connection, run.audience_id, kinds[ChangeKind.ENTERED] - kinds[ChangeKind.EXITED])


def _flat(compared: Iterable[ShardChanges]) -> Iterator[tuple[int, Change]]:
    """Go through the changes of shards, each with its shard."""
    return ((shard.shard, change) for shard in compared for change in shard.changes)


def _rows(run_id: int, changes: Iterable[tuple[int, Change]]) -> Iterator[tuple[object, ...]]:
    """Return changes as rows of `staged` or `changes`, which have the same columns."""
    return ((run_id, s, c.profile_key, c.kind.value, c.identifiers, c.value) for s, c in changes)


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
