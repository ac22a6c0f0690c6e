"""What waits for Schematic, as the sender sees it: changes in `outbox`, forwarded events in `events`, one treatment."""

from __future__ import annotations

from collections.abc import Sequence, Set

from sqlalchemy.engine import Connection

from audience_sync.core.events import Event, Value
from audience_sync.store import attempts, closing, deliveries, events, outbox


def settle(
    connection: Connection,
    batches: Sequence[Sequence[Event]],
    *,
    now_ms: int,
    status: int,
    unsettled: Set[Value] = frozenset(),
) -> None:
    """Record batches that Schematic accepted, and close the rows they were made of; see both tables' `settle`."""
    closing.settle(connection, batches, unsettled=unsettled)
    events.settle(connection, [event for batch in batches for event in batch if event.origin], unsettled=unsettled)
    deliveries.record(connection, batches, now_ms=now_ms, status=status)


def mark_dead(connection: Connection, event: Event, reason: str | None) -> None:
    """Mark what an event was made of as dead, unless a newer value came; without a reason, take that back."""
    if event.origin is None:
        outbox.mark_dead(connection, event, reason)
    else:
        events.set_dead(connection, event.shard, event.profile_key, event.origin.position, reason=reason)


def count(connection: Connection, *, forwarded: bool = True) -> tuple[int, int, int]:
    """Return how many rows are open, of these held back by paused audiences, and how many are dead."""
    waiting, paused, dead = outbox.count(connection)
    if not forwarded:
        return waiting, paused, dead
    more_waiting, more_dead = events.count(connection)
    return waiting + more_waiting, paused, dead + more_dead


def any_deliverable(connection: Connection, *, forwarded: bool = True) -> bool:
    """Return whether anything waits that may be sent; with forwarded events or without."""
    if attempts.any_of(connection, forwarded=False) or outbox.any_deliverable(connection):
        return True
    return forwarded and (attempts.any_of(connection, forwarded=True) or events.any_waiting(connection))
