"""The backlog of a destination: changes in `outbox`, what waits in `events`, and both in open `batches`.

Only the primary destination has changes in `outbox`.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.destinations.outcomes import tries_until_stuck
from audience_sync.store import events, outages, outbox
from audience_sync.store.reports import Record, iso
from audience_sync.store.schema import PRIMARY_DESTINATION


def count(
    connection: Connection, *, forwarded: bool = True, destination: str = PRIMARY_DESTINATION
) -> tuple[int, int, int]:
    """Return how much is open, of this held back by paused audiences, and how much is dead."""
    waiting, paused, dead = outbox.count(connection) if destination == PRIMARY_DESTINATION else (0, 0, 0)
    if not forwarded:
        return waiting, paused, dead
    more_waiting, more_dead = events.count(connection, destination=destination)
    return waiting + more_waiting, paused, dead + more_dead


def any_deliverable(connection: Connection, *, forwarded: bool = True, destination: str = PRIMARY_DESTINATION) -> bool:
    """Return whether anything waits that may be sent; with forwarded events or without."""
    kind = "" if forwarded else " AND NOT forwarded"
    in_batches = sa.text(f"SELECT 1 FROM batches WHERE status = 'open' AND destination = :d{kind} LIMIT 1")
    if connection.execute(in_batches, {"d": destination}).first() is not None:
        return True
    if destination == PRIMARY_DESTINATION and outbox.any_deliverable(connection):
        return True
    return forwarded and events.any_waiting(connection, destination=destination)


def oldest_open(connection: Connection) -> str | None:
    """Return when the run started whose value has waited longest to be accepted; dead and paused rows do not count."""
    oldest: int | None = connection.execute(
        sa.text(
            "SELECT min(r.started_at) FROM runs r WHERE r.id IN (SELECT o.run_id FROM outbox o"
            " JOIN audiences a ON a.id = o.audience_id WHERE o.dead_reason IS NULL AND a.state <> 'paused'"
            " UNION ALL SELECT run_id FROM open_values)"
        )
    ).scalar()
    return iso(oldest)


def waiting_batches(
    connection: Connection, *, max_backoff: timedelta, destination: str = PRIMARY_DESTINATION
) -> list[Record]:
    """Return the batches for a destination that wait for another try.

    A lone event that waits as long as any may is stuck.
    """
    rows = connection.execute(
        sa.text(
            "SELECT id, forwarded, size, tries, created_at, not_before, error FROM batches"
            " WHERE status = 'open' AND destination = :d AND tries > 0 ORDER BY id"
        ),
        {"d": destination},
    )
    earliest, stuck_tries = outages.next_try(connection, destination=destination), tries_until_stuck(max_backoff)
    return [
        {
            "id": batch,
            "of": "events" if forwarded else "changes",
            "events": size,
            "tries": tries,
            "since": iso(created),
            "next_try_at": iso(max(not_before, earliest) or None),
            "error": error,
            "stuck": size == 1 and tries >= stuck_tries,
        }
        for batch, forwarded, size, tries, created, not_before, error in rows
    ]
