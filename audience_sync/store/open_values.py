"""What waits for Schematic: changes in `outbox`, forwarded events in `events`, and both in open `batches`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.store import events, outbox


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
