"""The facts that `status` shows: audiences, their runs, and the destination."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import RunState
from audience_sync.store import backlog, outages, runs
from audience_sync.store.reports import Record, iso
from audience_sync.store.schema import PRIMARY_DESTINATION


class AudienceFacts(NamedTuple):
    """The last runs of one audience, and its counts in the outbox."""

    last_run: Record | None = None
    last_success: str | None = None  # when
    open: int = 0
    dead: int = 0


def facts(connection: Connection) -> dict[int, AudienceFacts]:
    """Return what is known of each audience, by its id."""
    succeeded: dict[int, int] = dict(
        connection.execute(
            sa.text("SELECT audience_id, max(finished_at) FROM runs WHERE state = 'succeeded' GROUP BY audience_id")
        ).all()
    )
    newest = connection.execute(
        sa.text(
            "SELECT audience_id, id, kind, state, started_at FROM runs"
            f" WHERE id IN (SELECT max(id) FROM runs WHERE {runs.NOT_STOPPED} GROUP BY audience_id)"
        ),
        runs.STOPPED,
    )
    last = {
        audience: {"id": run, "kind": kind, "state": state, "started_at": iso(started)}
        for audience, run, kind, state, started in newest
    }
    waiting = connection.execute(
        sa.text(
            "SELECT audience_id, dead_reason IS NOT NULL, count(*) FROM outbox GROUP BY 1, 2"
            " UNION ALL SELECT audience_id, 0 = 1, count(*) FROM open_values GROUP BY 1"
        )
    )
    counts: Counter[tuple[int, bool]] = Counter()
    for audience, is_dead, n in waiting:
        counts[audience, bool(is_dead)] += n
    return {
        audience: AudienceFacts(
            last.get(audience),
            iso(succeeded.get(audience)),
            counts[audience, False],
            counts[audience, True],
        )
        for (audience,) in connection.execute(sa.text("SELECT id FROM audiences"))
    }


def destination(connection: Connection, *, now_ms: int, name: str = PRIMARY_DESTINATION) -> Record:
    """Return whether a destination accepts events, and if not, since when, what it last answered and the next try.

    A time that has passed is none: whoever was to try then has been killed.
    """
    outage = outages.find(connection, destination=name)
    if outage is None:
        return {"state": "reachable", "since": None, "last_answer": None, "next_try_at": None}
    return {
        "state": outage.kind.value,
        "since": iso(outage.since),
        "last_answer": outage.answer,
        "next_try_at": iso(outage.next_try_at if (outage.next_try_at or 0) > now_ms else None),
    }


def subscriber(connection: Connection, name: str, *, now_ms: int) -> Record:
    """Return how many messages wait for a destination with subscriptions, since when, and whether it accepts them."""
    waiting, _, dead = backlog.count(connection, destination=name)
    oldest = connection.execute(
        sa.text(
            "SELECT min(received_at) FROM (SELECT min(received_at) AS received_at FROM events"
            " WHERE destination = :d AND dead_reason IS NULL UNION ALL"
            " SELECT min(received_at) FROM batched_events WHERE destination = :d) AS o"
        ),
        {"d": name},
    ).scalar()
    found = destination(connection, now_ms=now_ms, name=name)
    return {"open": waiting, "dead": dead, "oldest": iso(oldest), **found}


def blocked_runs(connection: Connection) -> list[Record]:
    """Return the runs that wait for an approval."""
    rows = connection.execute(
        sa.text(
            "SELECT r.id, a.key AS audience, r.reason, r.started_at FROM runs r"
            " JOIN audiences a ON a.id = r.audience_id WHERE r.state = 'blocked' ORDER BY r.id"
        )
    ).mappings()
    return [{**row, "started_at": iso(row["started_at"])} for row in rows]


def newest_runs(connection: Connection, state: RunState) -> list[Record]:
    """Return the newest run of each audience whose newest run is in a state; a run that is under way does not count."""
    rows = connection.execute(
        sa.text(
            "SELECT r.id, a.key AS audience, r.reason, r.started_at FROM runs r"
            " JOIN audiences a ON a.id = r.audience_id WHERE r.state = :state AND r.id IN"
            f" (SELECT max(id) FROM runs WHERE state NOT IN ('running', 'applying') AND {runs.NOT_STOPPED}"
            " GROUP BY audience_id) ORDER BY r.id"
        ),
        {"state": state, **runs.STOPPED},
    ).mappings()
    return [{**row, "started_at": iso(row["started_at"])} for row in rows]
