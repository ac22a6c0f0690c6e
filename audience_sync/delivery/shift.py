"""What the workers of one process share while they hold units of shards: a shift."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta

from audience_sync.core.events import Event
from audience_sync.delivery.lanes import Batching
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.reachability import Reachability
from audience_sync.delivery.settling import Settler
from audience_sync.errors import DestinationError, MarkUnusable
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts, waiting
from audience_sync.store.attempts import Attempt

MOST_REJECTED = 20  # refused one after the other with nothing accepted: then it is not the events


@dataclass(kw_only=True)
class Shift:
    """The workers' common ground; `stop` ends it, `failure` and `crash` say why."""

    workspace: Workspace
    lease: HeldLease
    settler: Settler
    pace: Pace
    reachability: Reachability
    batching: Batching
    max_backoff: timedelta
    timeout: timedelta  # of a request
    stop: threading.Event = field(default_factory=threading.Event)  # told to
    over: threading.Event = field(default_factory=threading.Event)  # ended by itself: another shift may follow
    failure: DestinationError | MarkUnusable | None = None
    crash: BaseException | None = None
    accepted: int = 0  # batches
    moves: int = 0  # answers of any kind that settled something: progress
    _rejected: dict[str, Event] = field(default_factory=dict)  # since the last one accepted
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_over(self) -> bool:
        """Return whether something has ended the shift: an order, a failure, a lost lease or database."""
        return self.stop.is_set() or self.over.is_set() or self.settler.is_over() or self.lease.left() <= 0

    def fail(self, error: DestinationError | MarkUnusable) -> None:
        """Stop everything, keep everything."""
        with self._lock:
            self.failure = self.failure or error
        self.stop.set()

    def took(self) -> None:
        """Note that Schematic accepted a batch."""
        with self._lock:
            self.accepted += 1
            self.moves += 1
            self._rejected.clear()
        self.pace.accepted()

    def bury(self, attempt: Attempt, reason: str) -> None:
        """Mark the one event of an attempt dead; at the twentieth in a row, revive them all and stop.

        Of forwarded events those of one profile count once: a single sender's mistakes do not stop everybody.
        """
        (event,) = attempt.events
        with self._lock, self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            attempts.remove(connection, [attempt])
            waiting.mark_dead(connection, event, reason)
            self.moves += 1
            self._rejected[event.idempotency_key if event.origin is None else event.profile_key] = event
            if len(self._rejected) < MOST_REJECTED:
                return
            now = self.workspace.seams.now_ms()
            # Word for word again: events of the same rows may be waiting next to them. Sorted, as others lock rows.
            for rejected in sorted(self._rejected.values()):
                waiting.mark_dead(connection, rejected, None)
                attempts.add(connection, [rejected], now_ms=now)
        self.fail(
            DestinationError(
                f"Schematic rejected {MOST_REJECTED} events in a row and accepted none: {reason}",
                hint="nothing was lost: fix the cause, then run `audience-sync deliver`",
            )
        )
