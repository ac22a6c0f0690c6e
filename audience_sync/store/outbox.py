"""The outbox: for each audience and profile at most one open row, the newest value that Schematic has not accepted yet.

Rows leave only when the generation that was sent is accepted (`settle`); a newer value replaces an older one, also a
dead one. What is being sent right now is kept apart, in `attempts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.destination.parcels import Rejected
from audience_sync.core.events import Event, OpenChange
from audience_sync.core.model import EXIT_VALUES, MEMBER_VALUE, ChangeKind, Computation
from audience_sync.store import audiences, bulk, jsonrows
from audience_sync.store.runs import RunRow

_COLUMNS = (
    "o.shard, o.profile_key, o.audience_id, a.key AS trait, o.value, o.generation, o.run_id, a.computation,"
    " o.identifiers, o.kind"
)
_INTO = "INSERT INTO outbox (shard, profile_key, audience_id, value, identifiers, generation, run_id, kind)"
_REPLACE = (
    "ON CONFLICT (shard, profile_key, audience_id) DO UPDATE SET value = excluded.value,"
    " identifiers = excluded.identifiers, generation = excluded.generation, run_id = excluded.run_id,"
    " kind = CASE WHEN excluded.kind IN ('updated', 'resent') AND outbox.value = excluded.value"
    "             OR excluded.kind = 'updated' AND outbox.kind = 'entered'"
    "        THEN outbox.kind ELSE excluded.kind END,"  # an entry that was not told yet is still to be told as one
    " dead_reason = NULL"
)


def enqueue(connection: Connection, run: RunRow, *, low: int, high: int) -> None:
    """Put what a run's plan changes in some shards into the outbox, in the place of older values.

    Without `send_updates` Schematic is told of no updates: neither of new identifiers, nor of new values of those who
    have one.
    """
    silent = "" if run.send_updates else f" AND kind <> '{ChangeKind.UPDATED}'"
    exits = " ".join(
        f"WHEN kind = '{ChangeKind.EXITED}' AND value IS {state} THEN '{EXIT_VALUES[computation]}'"
        for state, computation in (("NULL", Computation.AUDIENCE), ("NOT NULL", Computation.TRAIT))
    )
    connection.execute(
        sa.text(
            f"{_INTO} SELECT shard, profile_key, :a, CASE {exits} ELSE COALESCE(value, '{MEMBER_VALUE}') END,"
            f" identifiers, :g, :r, kind FROM staged WHERE run_id = :r AND shard BETWEEN :low AND :high{silent}"
            f" ORDER BY shard, profile_key {_REPLACE}"
        ),
        {"a": run.audience_id, "g": run.generation, "r": run.id, "low": low, "high": high},
    )


def enqueue_members(connection: Connection, run: RunRow, *, low: int, high: int) -> None:
    """Put those who entered some shards with a run into the outbox, in the place of older values."""
    connection.execute(
        sa.text(
            f"{_INTO} SELECT shard, profile_key, audience_id, COALESCE(value, '{MEMBER_VALUE}'), identifiers,"
            f" generation, entered_run_id, '{ChangeKind.ENTERED}' FROM memberships WHERE audience_id = :a"
            " AND shard BETWEEN :low AND :high AND entered_run_id = :r AND generation = :g"
            f" ORDER BY shard, profile_key {_REPLACE}"
        ),
        {"a": run.audience_id, "g": run.generation, "r": run.id, "low": low, "high": high},
    )


def resend(connection: Connection, run: RunRow, *, low: int, high: int) -> int:
    """Put every current value of some shards into the outbox, and the exits still remembered; return how many."""
    parameters = {"a": run.audience_id, "g": run.generation, "r": run.id, "low": low, "high": high}
    members = connection.execute(
        sa.text(
            f"{_INTO} SELECT shard, profile_key, audience_id, COALESCE(value, '{MEMBER_VALUE}'), identifiers, :g, :r,"
            " 'resent'"
            f" FROM memberships WHERE audience_id = :a AND shard BETWEEN :low AND :high"
            f" ORDER BY shard, profile_key {_REPLACE}"
        ),
        parameters,
    )
    exits = connection.execute(
        sa.text(
            f"{_INTO} SELECT c.shard, c.profile_key, r.audience_id, {audiences.exit_value(':a')}, c.identifiers,"
            " :g, :r, 'resent'"
            " FROM runs r JOIN changes c ON c.run_id = r.id"
            " WHERE r.audience_id = :a AND r.exited > 0 AND c.shard BETWEEN :low AND :high AND c.kind = 'exited'"
            " AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.audience_id = r.audience_id"
            "   AND m.shard = c.shard AND m.profile_key = c.profile_key)"
            " AND NOT EXISTS (SELECT 1 FROM runs r2 JOIN changes c2 ON c2.run_id = r2.id WHERE r2.audience_id = :a"
            "   AND r2.id > r.id AND c2.shard = c.shard AND c2.profile_key = c.profile_key AND c2.kind = 'exited')"
            f" ORDER BY c.shard, c.profile_key {_REPLACE}"
        ),
        parameters,
    )
    return members.rowcount + exits.rowcount


def page(
    connection: Connection, *, after: tuple[int, str], high: int, limit: int, held_back: Set[str] = frozenset()
) -> tuple[list[OpenChange], bool]:
    """Return the open changes behind a shard and profile, up to shard `high`, and whether there are more.

    Profiles come whole, about `limit` rows in all. Dead rows, those of paused audiences and of profiles that are
    `held_back` are left out.
    """
    held = f" AND o.profile_key NOT IN ({bulk.each(connection, 'held')})" if held_back else ""
    rows = jsonrows.fetch(
        connection,
        f"SELECT {_COLUMNS} FROM outbox o JOIN audiences a ON a.id = o.audience_id"
        " WHERE (o.shard, o.profile_key) > (:shard, :key) AND o.shard <= :high"
        f" AND o.dead_reason IS NULL AND a.state <> 'paused'{held}"
        " ORDER BY o.shard, o.profile_key, o.audience_id LIMIT :limit",
        columns=", ".join(OpenChange._fields),
        parameters={
            "shard": after[0],
            "key": after[1],
            "high": high,
            "limit": limit,
            **({"held": bulk.texts(connection, held_back)} if held_back else {}),
        },
    )
    found = [OpenChange._make(row) for row in rows]
    if len(found) < limit:
        return found, False
    last = found[-1].profile_key  # its rows may go on beyond the page
    whole = [change for change in found if change.profile_key != last]
    return (whole, True) if whole else page(connection, after=after, high=high, limit=limit * 2, held_back=held_back)


def of_profile(connection: Connection, *, shard: int, profile_key: str) -> list[OpenChange]:
    """Return the open changes of one profile, those of paused audiences too."""
    rows = connection.execute(
        sa.text(
            f"SELECT {_COLUMNS} FROM outbox o JOIN audiences a ON a.id = o.audience_id"
            " WHERE o.shard = :s AND o.profile_key = :k AND o.dead_reason IS NULL ORDER BY o.audience_id"
        ),
        {"s": shard, "k": profile_key},
    )
    return [OpenChange(*row) for row in rows]


def mark_rejected(connection: Connection, rejected: Iterable[Rejected]) -> None:
    """Mark changes that no event can be made of as dead, unless a newer value came."""
    _set_dead(connection, [(reason, c.shard, c.profile_key, c.audience_id, c.generation) for c, reason in rejected])


def mark_dead(connection: Connection, event: Event, reason: str | None) -> None:
    """Mark what an event carries as dead, unless a newer value came; without a reason, take that back."""
    rows = [(reason, event.shard, event.profile_key, c.audience_id, c.generation) for c in event.carried]
    _set_dead(connection, rows)


def _set_dead(connection: Connection, rows: Iterable[tuple[str | None, int, str, int, int]]) -> None:
    """Give rows their reasons, or take them away; shard, profile, audience and generation follow the reason."""
    parameters = [dict(zip(("why", "s", "k", "a", "g"), row, strict=True)) for row in rows]
    if parameters:
        connection.execute(
            sa.text(
                "UPDATE outbox SET dead_reason = :why"
                " WHERE shard = :s AND profile_key = :k AND audience_id = :a AND generation = :g"
            ),
            parameters,
        )


def reopen(connection: Connection, event: Event, *, generation: int) -> None:
    """Put the current values of what an event carried into the outbox again, under a new generation.

    A profile that is no longer a member keeps the identifiers of the event.
    """
    computations = audiences.computations(connection)
    exits = [
        (
            event.shard,
            event.profile_key,
            audience_id,
            EXIT_VALUES[computations[audience_id]],
            event.identifiers,
            generation,
            run_id,
            None,
            "resent",
        )
        for audience_id, _, run_id, *_ in sorted(event.carried)
    ]
    # The rows come before the look at the memberships: whoever changes those now has to wait at the rows, and then has
    # the last word.
    bulk.insert(connection, tables.outbox, exits, on_conflict=_REPLACE)
    connection.execute(
        sa.text(
            f"UPDATE outbox SET value = COALESCE(m.value, '{MEMBER_VALUE}'), identifiers = m.identifiers"
            " FROM memberships m WHERE outbox.shard = :s AND outbox.profile_key = :k AND outbox.generation = :g"
            " AND m.audience_id = outbox.audience_id AND m.shard = outbox.shard AND m.profile_key = outbox.profile_key"
        ),
        {"s": event.shard, "k": event.profile_key, "g": generation},
    )


def count(connection: Connection) -> tuple[int, int, int]:
    """Return how many rows are open, of these held back by paused audiences, and how many are dead."""
    rows = connection.execute(
        sa.text(
            "SELECT o.dead_reason IS NOT NULL AS dead, a.state = 'paused' AS paused, count(*)"
            " FROM outbox o JOIN audiences a ON a.id = o.audience_id GROUP BY 1, 2"
        )
    ).all()
    open_rows = sum(n for dead, _, n in rows if not dead)
    return open_rows, sum(n for dead, paused, n in rows if paused and not dead), sum(n for dead, _, n in rows if dead)


def count_of_run(connection: Connection, run_id: int) -> tuple[int, int]:
    """Return how many rows of a run are open, and how many are dead."""
    rows = connection.execute(
        sa.text("SELECT dead_reason IS NOT NULL, count(*) FROM outbox WHERE run_id = :r GROUP BY 1"), {"r": run_id}
    ).all()
    by_death = {bool(dead): n for dead, n in rows}
    return by_death.get(False, 0), by_death.get(True, 0)


def any_deliverable(connection: Connection) -> bool:
    """Return whether a change waits that may be sent."""
    found = connection.execute(
        sa.text(
            "SELECT 1 FROM outbox o JOIN audiences a ON a.id = o.audience_id"
            " WHERE o.dead_reason IS NULL AND a.state <> 'paused' LIMIT 1"
        )
    ).first()
    return found is not None
