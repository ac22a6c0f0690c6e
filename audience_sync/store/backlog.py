"""The backlog for Schematic: changes in `outbox`, forwarded events in `events`, and both in open `batches`."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.destinations.outcomes import tries_until_stuck
from audience_sync.store import events, outages, outbox
from audience_sync.store.reports import Record, iso


def count(connection: Connection, *, forwarded: bool = True) -> tuple[int, int, int]:
    """Return how much is open, of this held back by paused audiences, and how much is dead."""
    waiting, paused, dead = outbox.count(connection)
    if not forwarded:
        return waiting, paused, dead
    more_waiting, more_dead = events.count(connection)
    return waiting + more_waiting, paused, dead + more_dead


def any_deliverable(connection: Connection, *, forwarded: bool = True) -> bool:
    """Return whether anything waits that may be sent; with forwarded events or without."""
    kind = "" if forwarded else " AND NOT forwarded"
    if connection.execute(sa.text(f"SELECT 1 FROM batches WHERE status = 'open'{kind} LIMIT 1")).first() is not None:
        return True
    return outbox.any_deliverable(connection) or (forwarded and events.any_waiting(connection))


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


def waiting_batches(connection: Connection, *, max_backoff: timedelta) -> list[Record]:
    """Return the batches that wait for another try; a lone event that waits as long as any may is stuck."""
    rows = connection.execute(
        sa.text(
            "SELECT id, forwarded, size, tries, created_at, not_before, error FROM batches"
            " WHERE status = 'open' AND tries > 0 ORDER BY id"
        )
    )
    earliest, stuck_tries = outages.next_try(connection), tries_until_stuck(max_backoff)
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
