"""Runs: one row for each sync of one audience, and its state machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import RejectedRow
from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.core.rows import GAP, Wrapping
from audience_sync.errors import STOPPED_ON_REQUEST, UnknownName
from audience_sync.store import audiences, bulk, schema


class RunRow(NamedTuple):
    """One row of `runs`."""

    id: int
    audience_id: int
    kind: RunKind
    state: RunState
    as_of: int
    started_at: int
    finished_at: int | None
    generation: int
    definition_hash: str
    definition_changed: bool
    members_before: int
    counts: Counts
    resent: int
    resent_to: str | None
    sent: int
    send_updates: bool
    partial: bool
    reason: str | None
    approved_at: int | None
    held_by: int | None
    identifiers: str | None

    @property
    def wrapping(self) -> Wrapping | None:
        """Return what bare identifiers of its rows stand in."""
        return Wrapping.of(self.identifiers)


_FIELDS = (
    "id, audience_id, kind, state, as_of, started_at, finished_at, generation, definition_hash, definition_changed,"
    " members_before, read, entered, exited, updated, unchanged, rejected, duplicates, resent, resent_to, sent,"
    " send_updates, partial, reason, approved_at, held_by, identifiers"
)
_FIRST_COUNT, _COUNTS = 11, 7
STOPPED: Final = {"stopped": STOPPED_ON_REQUEST}
NOT_STOPPED: Final = "(state <> 'failed' OR reason IS NULL OR reason <> :stopped)"
"""Of runs that say something of their audience: one that ended on request, with the daemon, says nothing."""


def identifiers_of(column: str, run: str) -> str:
    """Return the SQL of a column of identifiers as JSON; `run` is the row of the run that wrote it."""
    return f"CASE WHEN {column} LIKE '%\"%' THEN {column} ELSE replace({run}.identifiers, '{GAP}', {column}) END"


HAS_CHANGED_MEMBERS: Final = (
    "(state IN ('succeeded', 'applying') OR EXISTS (SELECT 1 FROM changes c WHERE c.run_id = runs.id)"
    " OR kind = 'initial' AND entered > 0 AND EXISTS"
    " (SELECT 1 FROM memberships m WHERE m.audience_id = runs.audience_id AND m.entered_run_id = runs.id))"
)
"""Of runs: a failed one may have, too, as an initial run commits part by part."""
MAX_ID = 2**63 - 1  # of a run; databases refuse larger numbers


def _row(row: Sequence[Any]) -> RunRow:
    counts = Counts(*row[_FIRST_COUNT : _FIRST_COUNT + _COUNTS])
    run = RunRow._make([*row[:_FIRST_COUNT], counts, *row[_FIRST_COUNT + _COUNTS :]])
    return run._replace(kind=RunKind(run.kind), state=RunState(run.state))


def last_started(connection: Connection) -> dict[int, int]:
    """Return when the newest run of each audience started, by the audience's id, in milliseconds since 1970."""
    rows = connection.execute(sa.text("SELECT audience_id, max(started_at) FROM runs GROUP BY audience_id"))
    return dict(rows.all())


class NewRun(NamedTuple):
    """The facts of a run when it starts."""

    audience_id: int
    kind: RunKind
    state: RunState
    as_of: int
    started_at: int
    generation: int
    definition_hash: str
    definition_changed: bool
    members_before: int
    send_updates: bool = True
    partial: bool = False
    reason: str | None = None
    held_by: int | None = None


def start(connection: Connection, run: NewRun) -> RunRow:
    """Insert a run and return it."""
    names = ", ".join(NewRun._fields)
    marks = ", ".join(f":{name}" for name in NewRun._fields)
    run_id = connection.execute(
        sa.text(f"INSERT INTO runs ({names}) VALUES ({marks}) RETURNING id"), run._asdict()
    ).scalar_one()
    return get(connection, run_id)


def get(connection: Connection, run_id: int) -> RunRow:
    """Return a run.

    Raises:
        UnknownName: there is none of that id.
    """
    row = None
    if run_id <= MAX_ID:
        row = connection.execute(sa.text(f"SELECT {_FIELDS} FROM runs WHERE id = :i"), {"i": run_id}).one_or_none()
    if row is None:
        raise UnknownName(f"there is no run {run_id}", hint="list them with `audience-sync runs`")
    return _row(row)


def in_state(connection: Connection, audience_id: int, state: RunState) -> list[RunRow]:
    """Return an audience's runs in one state, oldest first."""
    rows = connection.execute(
        sa.text(f"SELECT {_FIELDS} FROM runs WHERE audience_id = :a AND state = :s ORDER BY id"),
        {"a": audience_id, "s": state},
    )
    return [_row(row) for row in rows]


def hold(connection: Connection, run: NewRun) -> RunRow:
    """Record that an audience is held: one row as long as it is, started when it began, with the newest facts."""
    held = in_state(connection, run.audience_id, RunState.HELD)
    if not held:
        return start(connection, run)
    facts = run._asdict()
    for kept in ("audience_id", "started_at"):
        del facts[kept]
    assignments = ", ".join(f"{name} = :{name}" for name in facts)
    connection.execute(sa.text(f"UPDATE runs SET {assignments} WHERE id = :i"), {**facts, "i": held[-1].id})
    return get(connection, held[-1].id)


def newest_decided(connection: Connection, audience_id: int) -> RunRow | None:
    """Return the newest run of an audience that was decided: blocked, failed, stale or succeeded."""
    row = connection.execute(
        sa.text(
            f"SELECT {_FIELDS} FROM runs WHERE audience_id = :a"
            f" AND state IN ('blocked', 'failed', 'stale', 'succeeded') AND {NOT_STOPPED} ORDER BY id DESC LIMIT 1"
        ),
        {"a": audience_id, **STOPPED},
    ).one_or_none()
    return None if row is None else _row(row)


def newest_approved(connection: Connection, audience_id: int) -> RunRow | None:
    """Return the run of an audience that was approved last."""
    row = connection.execute(
        sa.text(
            f"SELECT {_FIELDS} FROM runs WHERE audience_id = :a AND approved_at IS NOT NULL"
            " ORDER BY approved_at DESC, id DESC LIMIT 1"
        ),
        {"a": audience_id},
    ).one_or_none()
    return None if row is None else _row(row)


def waiting_for(connection: Connection, audience_id: int) -> list[int]:
    """Return the ids of the audiences that are held by one."""
    rows = connection.execute(
        sa.text("SELECT audience_id FROM runs WHERE state = 'held' AND held_by = :a ORDER BY audience_id"),
        {"a": audience_id},
    )
    return list(rows.scalars())


def wait_for(connection: Connection, audience_id: int, *, keys: Sequence[str]) -> None:
    """Have held audiences of some keys wait for this one, if they wait for one that the database did not know."""
    connection.execute(
        sa.text(
            "UPDATE runs SET held_by = :a WHERE state = 'held' AND held_by IS NULL AND audience_id IN"
            f" (SELECT id FROM audiences WHERE key IN ({bulk.each(connection, 'keys')}))"
        ),
        {"a": audience_id, "keys": bulk.texts(connection, keys)},
    )


def release(connection: Connection, audience_id: int, *, now_ms: int) -> None:
    """Make the audiences that are held by one due at once; their next run decides whether they are held again."""
    for waiting in waiting_for(connection, audience_id):
        audiences.set_next_due(connection, waiting, now_ms)


def applied_after(connection: Connection, run: RunRow) -> int | None:
    """Return the newest later run of the same audience that changed memberships, or None."""
    later: int | None = connection.execute(
        sa.text(f"SELECT max(id) FROM runs WHERE audience_id = :a AND id > :i AND {HAS_CHANGED_MEMBERS}"),
        {"a": run.audience_id, "i": run.id},
    ).scalar()
    return later


def set_counts(connection: Connection, run_id: int, counts: Counts) -> None:
    """Keep what a run has found so far."""
    assignments = ", ".join(f"{name} = :{name}" for name in asdict(counts))
    connection.execute(sa.text(f"UPDATE runs SET {assignments} WHERE id = :i"), {**asdict(counts), "i": run_id})


def set_state(connection: Connection, run_id: int, state: RunState, *, reason: str | None = None) -> None:
    """Move a run to a state that is not final."""
    connection.execute(
        sa.text("UPDATE runs SET state = :s, reason = :r WHERE id = :i"), {"s": state, "r": reason, "i": run_id}
    )


def set_identifiers(connection: Connection, run_id: int, template: str | None) -> RunRow:
    """Keep in what JSON the bare identifiers of a run's rows stand (`core.rows`); return the run."""
    connection.execute(sa.text("UPDATE runs SET identifiers = :t WHERE id = :i"), {"t": template, "i": run_id})
    return get(connection, run_id)


def set_whole(connection: Connection, run_id: int) -> RunRow:
    """Make a limited run a whole one: its limit has left out nothing. Return it."""
    connection.execute(
        sa.text("UPDATE runs SET partial = :no, reason = NULL WHERE id = :i"), {"no": False, "i": run_id}
    )
    return get(connection, run_id)


def approve(connection: Connection, run_id: int, *, generation: int, now_ms: int) -> None:
    """Let a blocked run apply its plan, under a generation of its own: what is sent now is newer than all before."""
    connection.execute(
        sa.text("UPDATE runs SET state = 'applying', generation = :g, approved_at = :now WHERE id = :i"),
        {"g": generation, "now": now_ms, "i": run_id},
    )


def finish(connection: Connection, run_id: int, state: RunState, *, now_ms: int, reason: str | None = None) -> None:
    """Move a run to a final state."""
    connection.execute(
        sa.text("UPDATE runs SET state = :s, finished_at = :now, reason = COALESCE(:r, reason) WHERE id = :i"),
        {"s": state, "now": now_ms, "r": reason, "i": run_id},
    )


def complete(connection: Connection, run: RunRow, *, now_ms: int) -> None:
    """Finish a run that applied everything, remember what it stood for, and release the audiences held by this one."""
    finish(connection, run.id, RunState.SUCCEEDED, now_ms=now_ms)
    connection.execute(
        sa.text("UPDATE audiences SET completed = :t, applied_as_of = :a, definition_hash = :h WHERE id = :i"),
        {"t": True, "a": run.as_of, "h": run.definition_hash, "i": run.audience_id},
    )
    release(connection, run.audience_id, now_ms=now_ms)


def set_resent(connection: Connection, run_id: int, *, upto: str | None, resent: int) -> None:
    """Keep how far a resync has sent current values again."""
    connection.execute(
        sa.text("UPDATE runs SET resent_to = :upto, resent = resent + :n WHERE id = :i"),
        {"upto": upto, "n": resent, "i": run_id},
    )


def add_sent(connection: Connection, sent: dict[int, int]) -> None:
    """Count the values of runs that Schematic accepted."""
    for run_id, count in sorted(sent.items()):
        connection.execute(sa.text("UPDATE runs SET sent = sent + :n WHERE id = :i"), {"n": count, "i": run_id})


def add_rejections(connection: Connection, run_id: int, rejections: Sequence[RejectedRow], *, first: int) -> None:
    """Keep samples of rejected rows, numbered on from `first`."""
    rows = [(run_id, first + n, r.reason, r.profile_key, r.row, r.detail) for n, r in enumerate(rejections)]
    bulk.insert(connection, schema.rejections, rows)
