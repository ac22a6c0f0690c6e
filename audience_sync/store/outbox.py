"""The outbox: at most one row per audience and profile, with the newest value that is not yet in a batch.

A newer value replaces an older one, even a dead one. Rows leave when a batch takes them (`remove`). A value that
Schematic refuses comes back as dead (`put_back_dead`), unless a newer one exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import EXIT_VALUES, MEMBER_VALUE, ChangeKind, Computation
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.rendered_events import RejectedChange, RenderedEvent
from audience_sync.store import audiences, bulk, schema
from audience_sync.store.runs import RunRow, identifiers_of

_KEY_COLUMNS: Final = 2  # of a page: profile and audience
_COLUMNS = (
    "o.profile_key, o.audience_id, a.key AS trait, o.value, o.generation, o.run_id, a.computation, o.kind,"
    " o.identifiers"
)
EXITS: Final = "('" + "', '".join(EXIT_VALUES) + "')"
"""The values that take a profile out, in SQL as indexes have it: only so are these used."""
_GOES_FIRST: Final = f"(value IN {EXITS} OR gives_up)"

_STAGED_EXITS: Final = " ".join(
    f"WHEN s.kind = '{ChangeKind.EXITED}' AND s.value IS {state} THEN '{computation.exit_value}'"
    for state, computation in (("NULL", Computation.AUDIENCE), ("NOT NULL", Computation.TRAIT))
)
STAGED_VALUE: Final = f"CASE {_STAGED_EXITS} ELSE COALESCE(s.value, '{MEMBER_VALUE}') END"
"""The value that destinations get for a staged change `s`, as JSON."""

INTO = "INSERT INTO outbox (profile_key, audience_id, value, identifiers, generation, run_id, kind)"
_CONFLICT: Final = "ON CONFLICT (profile_key, audience_id, destination, channel)"
REPLACE = (
    f"{_CONFLICT} DO UPDATE SET value = excluded.value,"
    " identifiers = excluded.identifiers, generation = excluded.generation, run_id = excluded.run_id,"
    " kind = CASE WHEN excluded.kind IN ('updated', 'resent') AND outbox.value = excluded.value"
    "             OR excluded.kind = 'updated' AND outbox.kind = 'entered'"
    "        THEN outbox.kind ELSE excluded.kind END,"  # an entry that was not told yet is still to be told as one
    " gives_up = outbox.gives_up OR excluded.gives_up, dead_reason = NULL"
)


def insert(connection: Connection, rows: Iterable[Sequence[object]], *, on_conflict: str) -> None:
    """Insert rows of the columns from `profile_key` to `kind`."""
    bulk.insert(
        connection, schema.outbox, rows, without={"gives_up", "destination", "channel"}, on_conflict=on_conflict
    )


def enqueue(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Put what a run's plan changes up to a profile into the outbox, in the place of older values.

    Without `send_updates` no updates are sent: neither of new identifiers, nor of new values of those who
    have one.
    """
    silent = "" if run.send_updates else f" AND s.kind <> '{ChangeKind.UPDATED}'"
    connection.execute(
        sa.text(
            f"{INTO} SELECT s.profile_key, :a, {STAGED_VALUE},"
            f" {identifiers_of('s.identifiers', 'w')}, :g, :r, s.kind FROM staged s CROSS JOIN runs w"
            f" WHERE w.id = :r AND s.run_id = :r AND s.profile_key <= :upto{silent} ORDER BY s.profile_key {REPLACE}"
        ),
        {"a": run.audience_id, "g": run.generation, "r": run.id, "upto": upto},
    )


def enqueue_members(connection: Connection, run: RunRow, *, first: str, last: str) -> None:
    """Put those from one profile to another who entered with a run into the outbox, in the place of older values."""
    connection.execute(
        sa.text(
            f"{INTO} SELECT m.profile_key, m.audience_id, COALESCE(m.value, '{MEMBER_VALUE}'),"
            f" {identifiers_of('m.identifiers', 'w')}, w.generation, w.id, '{ChangeKind.ENTERED}'"
            " FROM memberships m CROSS JOIN runs w WHERE w.id = :r AND m.audience_id = :a"
            f" AND m.profile_key BETWEEN :first AND :last AND m.run_id = :r ORDER BY m.profile_key {REPLACE}"
        ),
        {"a": run.audience_id, "r": run.id, "first": first, "last": last},
    )


def resend(connection: Connection, run: RunRow, *, after: str, upto: str | None) -> int:
    """Put the current values of the profiles behind one and up to another, or to the end, into the outbox.

    With them go the exits still remembered. Return how many rows these are.
    """
    until = "" if upto is None else " AND {}.profile_key <= :upto"
    resent = connection.execute(
        sa.text(
            f"{INTO} SELECT * FROM (SELECT m.profile_key, m.audience_id, COALESCE(m.value, '{MEMBER_VALUE}'),"
            f" {identifiers_of('m.identifiers', 'w')}, :g, :r, 'resent'"
            " FROM memberships m LEFT JOIN runs w ON w.id = m.run_id"
            f" WHERE m.audience_id = :a AND m.profile_key > :after{until.format('m')}"
            f" UNION ALL SELECT c.profile_key, r.audience_id, {audiences.exit_value(':a')},"
            f" {identifiers_of('c.identifiers', 'r')},"
            " :g, :r, 'resent' FROM runs r JOIN changes c ON c.run_id = r.id"
            f" WHERE r.audience_id = :a AND r.exited > 0 AND c.profile_key > :after{until.format('c')}"
            " AND c.kind = 'exited' AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.audience_id = r.audience_id"
            "   AND m.profile_key = c.profile_key)"
            " AND NOT EXISTS (SELECT 1 FROM runs r2 JOIN changes c2 ON c2.run_id = r2.id WHERE r2.audience_id = :a"
            "   AND r2.id > r.id AND c2.profile_key = c.profile_key AND c2.kind = 'exited')"
            f") AS current WHERE true ORDER BY 1 {REPLACE}"
        ),
        {"a": run.audience_id, "g": run.generation, "r": run.id, "after": after, "upto": upto},
    )
    return resent.rowcount


def page(
    connection: Connection,
    *,
    after: str,
    limit: int,
    held: Set[str] = frozenset(),
    exits_only: bool = False,
) -> tuple[OpenChanges, bool]:
    """Lock and return the open changes behind a profile, and whether there are more.

    Profiles come whole, about `limit` rows in all, or only their exits and the updates that give up an identifier.
    Dead rows, those of paused audiences and of `held` profiles are left out.
    """
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE OF o"
    columns = bulk.fetch(
        connection,
        f"SELECT {_COLUMNS} FROM outbox o JOIN audiences a ON a.id = o.audience_id"
        " WHERE o.profile_key > :key AND o.dead_reason IS NULL AND a.state <> 'paused'"
        f" AND o.profile_key NOT IN ({bulk.each(connection, 'held')}){_exits(exits_only)}"
        f" ORDER BY o.profile_key, o.audience_id LIMIT :limit{lock}",
        columns=OpenChange._fields,
        key=_KEY_COLUMNS,
        parameters={"key": after, "limit": limit, "held": bulk.texts(connection, held)},
    )
    found = OpenChanges(columns)
    if len(found) < limit:
        return found, False
    keys = found.profile_keys
    whole = keys.index(keys[-1])  # the rows of the last profile may go on beyond the page
    if whole:
        return found.part(0, whole), True
    return page(connection, after=after, limit=limit * 2, held=held, exits_only=exits_only)


def _exits(exits_only: bool) -> str:
    return f" AND {_GOES_FIRST}" if exits_only else ""


def any_exit(connection: Connection, *, stuck: Iterable[str]) -> bool:
    """Return whether there is a row for `page` with `exits_only`, other than those of `stuck` profiles."""
    found = connection.execute(
        sa.text(
            "SELECT 1 FROM outbox o JOIN audiences a ON a.id = o.audience_id"
            f" WHERE o.dead_reason IS NULL AND {_GOES_FIRST} AND a.state <> 'paused'"
            f" AND o.profile_key NOT IN ({bulk.each(connection, 'stuck')}) LIMIT 1"
        ),
        {"stuck": bulk.texts(connection, stuck)},
    )
    return found.first() is not None


_IN_BATCH: Final = ("profile_key", "audience_id", "generation")


def remove(connection: Connection, changes: OpenChanges, *, held: Set[str], exits_only: bool = False) -> None:
    """Delete rows that `page` returned, all without gaps but those that are dead by now: a batch has them."""
    if not changes:
        return
    if connection.dialect.name != "sqlite":
        rows = zip(*(changes.columns[OpenChange._fields.index(name)] for name in _IN_BATCH), strict=True)
        bulk.delete(connection, schema.outbox, _IN_BATCH, rows)
        return
    connection.execute(  # SQLite looks up each of many keys at a time; a range is quicker, and its writer is alone
        sa.text(
            "DELETE FROM outbox WHERE profile_key BETWEEN :first AND :last"
            " AND dead_reason IS NULL AND audience_id NOT IN (SELECT id FROM audiences WHERE state = 'paused')"
            f" AND profile_key NOT IN ({bulk.each(connection, 'held')}){_exits(exits_only)}"
        ),
        {
            "first": changes.profile_keys[0],
            "last": changes.profile_keys[-1],
            "held": bulk.texts(connection, held),
        },
    )


def newer(connection: Connection, event: RenderedEvent) -> set[int]:
    """Return the ids of the audiences for which an event's profile has a row: newer than what the event carries."""
    rows = connection.execute(
        sa.text("SELECT audience_id FROM outbox WHERE profile_key = :k AND dead_reason IS NULL"),
        {"k": event.profile_key},
    )
    return set(rows.scalars())


def mark_rejected(connection: Connection, rejected: Iterable[RejectedChange]) -> None:
    """Mark changes that no event can be made of as dead, unless a newer value came."""
    parameters = [{"why": reason, "k": c.profile_key, "a": c.audience_id, "g": c.generation} for c, reason in rejected]
    if parameters:
        connection.execute(
            sa.text(
                "UPDATE outbox SET dead_reason = :why WHERE profile_key = :k AND audience_id = :a AND generation = :g"
            ),
            parameters,
        )


def put_back_dead(connection: Connection, event: RenderedEvent, reason: str) -> None:
    """Put what an event carries back as dead, unless a newer value is there: that one keeps the kind of an entry."""
    rows = [
        (
            event.profile_key,
            c.audience_id,
            c.value,
            event.identifiers,
            c.generation,
            c.run_id,
            reason,
            c.kind,
        )
        for c in sorted(event.carried)
    ]
    untold = (
        f"{_CONFLICT} DO UPDATE SET kind = excluded.kind WHERE excluded.kind = 'entered' AND outbox.kind = 'updated'"
    )
    insert(connection, rows, on_conflict=untold)


def revive(connection: Connection, event: RenderedEvent) -> None:
    """Open what an event carries again, where it is still dead."""
    for c in event.carried:
        connection.execute(
            sa.text(
                "UPDATE outbox SET dead_reason = NULL WHERE profile_key = :k AND audience_id = :a AND generation = :g"
            ),
            {"k": event.profile_key, "a": c.audience_id, "g": c.generation},
        )


def reopen(connection: Connection, events: Iterable[RenderedEvent], *, generation: int) -> None:
    """Put the current values of what events carried into the outbox again, under a new generation.

    A former member keeps the identifiers of the event. A waiting row keeps its kind.
    """
    computations = audiences.computations(connection)
    exits = {
        (event.profile_key, change.audience_id): (
            computations[change.audience_id].exit_value, event.identifiers, generation, change.run_id, None, "resent"
        )
        for event in events
        for change in event.carried
    }  # fmt: skip
    # The rows come before the look at the memberships: whoever changes those now has to wait at the rows, and then has
    # the last word.
    untold = (
        f"{_CONFLICT} DO UPDATE SET value = excluded.value, identifiers = excluded.identifiers,"
        " generation = excluded.generation, dead_reason = NULL"
    )
    insert(connection, [(*place, *value) for place, value in sorted(exits.items())], on_conflict=untold)
    connection.execute(
        sa.text(
            f"UPDATE outbox SET value = COALESCE(m.value, '{MEMBER_VALUE}'),"
            f" identifiers = {identifiers_of('m.identifiers', 'w')}"
            " FROM memberships m LEFT JOIN runs w ON w.id = m.run_id"
            " WHERE outbox.generation = :g AND m.audience_id = outbox.audience_id"
            " AND m.profile_key = outbox.profile_key"
            f" AND outbox.profile_key IN ({bulk.each(connection, 'keys')})"
        ),
        {"g": generation, "keys": bulk.texts(connection, sorted({key for key, _ in exits}))},
    )


def count(connection: Connection) -> tuple[int, int, int]:
    """Return how many values are open, in batches too, how many of these are paused, and how many are dead."""
    rows = connection.execute(
        sa.text(
            "SELECT o.dead_reason IS NOT NULL AS dead, a.state = 'paused' AS paused, count(*)"
            " FROM outbox o JOIN audiences a ON a.id = o.audience_id GROUP BY 1, 2"
        )
    ).all()
    in_batches = connection.execute(sa.text("SELECT count(*) FROM open_values")).scalar_one()
    waiting = sum(n for dead, _, n in rows if not dead)
    paused = sum(n for dead, is_paused, n in rows if is_paused and not dead)
    return waiting + in_batches, paused, sum(n for dead, _, n in rows if dead)


def count_of_run(connection: Connection, run_id: int) -> tuple[int, int]:
    """Return how many values of a run are open, and how many are dead."""
    rows = connection.execute(
        sa.text(
            "SELECT dead_reason IS NOT NULL, count(*) FROM outbox WHERE run_id = :r GROUP BY 1"
            " UNION ALL SELECT 0 = 1, count(*) FROM open_values WHERE run_id = :r"
        ),
        {"r": run_id},
    ).all()
    return sum(n for is_dead, n in rows if not is_dead), sum(n for is_dead, n in rows if is_dead)


def any_deliverable(connection: Connection) -> bool:
    """Return whether a change waits that may be sent."""
    found = connection.execute(
        sa.text(
            "SELECT 1 FROM outbox o JOIN audiences a ON a.id = o.audience_id"
            " WHERE o.dead_reason IS NULL AND a.state <> 'paused' LIMIT 1"
        )
    ).first()
    return found is not None
