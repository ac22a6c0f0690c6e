"""State that the workers of one process share: their batches, the pace, and why they stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
from typing import Final

from audience_sync.delivery.claims import Claims
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.pool import Pool
from audience_sync.delivery.reachability import Reachability
from audience_sync.delivery.settling import Settler
from audience_sync.delivery.taker import Batching
from audience_sync.destinations.wire_events import Event
from audience_sync.errors import DestinationError, MarkUnusable
from audience_sync.store import batches, binding, events, outbox
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace

MOST_REJECTED: Final = 20  # refused one after the other with nothing accepted: then it is not the events


@dataclass(kw_only=True)
class WorkerGroup:
    """The workers' common ground; `stop` ends them, `failure` and `crash` say why."""

    workspace: Workspace
    pool: Pool
    claims: Claims
    settler: Settler
    pace: Pace
    reachability: Reachability
    batching: Batching
    max_backoff: timedelta
    timeout: timedelta  # of a request
    stop: threading.Event = field(default_factory=threading.Event)
    failure: DestinationError | MarkUnusable | None = None
    crash: BaseException | None = None
    accepted: int = 0  # batches
    moves: int = 0  # answers of any kind that settled something: progress
    nothing_to_take: bool = False  # the last look at the tables found nothing
    _rejected: dict[str, Event] = field(default_factory=dict)  # since the last one accepted
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, error: DestinationError | MarkUnusable) -> None:
        """Stop everything, keep everything."""
        with self._lock:
            self.failure = self.failure or error
        self.stop.set()

    def record_accepted(self) -> None:
        """Note that Schematic accepted a batch."""
        with self._lock:
            self.accepted += 1
            self.moves += 1
            self._rejected.clear()
        self.pace.accepted()

    def refuse(self, batch: Batch, reason: str) -> None:
        """Make the one event of a batch dead; at the twentieth in a row, revive them all and stop.

        Of forwarded events those of one profile count once: a single sender's mistakes do not stop everybody.

        Raises:
            LeaseLost: the claim is gone.
        """
        (event,) = batch.events
        with self._lock, self.workspace.database.write() as connection:
            now_ms = self.workspace.seams.now_ms()
            batches.refuse(connection, batch, reason, now_ms=now_ms)
            binding.advance(connection, now_ms)
            self.moves += 1
            self._rejected[event.idempotency_key if event.origin is None else event.profile_key] = event
            if len(self._rejected) < MOST_REJECTED:
                return
            for rejected in sorted(self._rejected.values(), key=attrgetter("profile_key")):  # as others lock rows
                if rejected.origin is None:
                    outbox.revive(connection, rejected)
                else:
                    row = rejected.origin.row
                    events.set_dead(connection, row.profile_key, row.position, reason=None)
        self.fail(
            DestinationError(
                f"Schematic rejected {MOST_REJECTED} events in a row and accepted none: {reason}",
                hint="nothing was lost: fix the cause, then run `audience-sync deliver`",
            )
        )
