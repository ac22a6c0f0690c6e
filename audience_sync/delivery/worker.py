"""A worker: one connection, one batch in progress at a time, and the handling of each response."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter
from typing import Final, assert_never

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.delivery.claims import BatchClaims, Held, Pool
from audience_sync.delivery.rate_limit import RateLimiter
from audience_sync.delivery.reachability import Reachability
from audience_sync.delivery.settler import Settler
from audience_sync.delivery.take import Batching, halves, smaller
from audience_sync.destinations.destination_protocol import Destination, DestinationClient
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.outcomes import (
    BatchAccepted,
    BatchApplied,
    BatchRejected,
    BatchTooLarge,
    Outcome,
    RefusedKey,
    RetryLater,
    WrongDestination,
    backoff,
)
from audience_sync.destinations.rendered_events import RenderedEvent
from audience_sync.errors import DestinationError, KeyRefused, LeaseLost, MarkUnusable
from audience_sync.segment.timestamps import iso
from audience_sync.store import audiences, backup_mark, batches, events, generations, outbox
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace

# --- state of all workers ---------------------------------------------------------------------------------------------
# State that the workers of one process share: their batches, the rate limiter, and why they stop.


@dataclass(kw_only=True)
class WorkerGroup:
    """The shared state of workers; `stop` ends them, `failure` and `crash` are the reason."""

    workspace: Workspace
    destination: Destination
    pool: Pool
    claims: BatchClaims
    settler: Settler
    limiter: RateLimiter
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
    _rejected: dict[str, RenderedEvent] = field(default_factory=dict)  # since the last one accepted
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, error: DestinationError | MarkUnusable) -> None:
        """Stop all work and keep everything pending."""
        with self._lock:
            self.failure = self.failure or error
        self.stop.set()

    def record_accepted(self) -> None:
        """Record that the destination accepted a batch."""
        with self._lock:
            self.accepted += 1
            self.moves += 1
            self._rejected.clear()
        self.limiter.accepted()

    def refuse(self, batch: Batch, reason: str) -> None:
        """Mark the only event of a batch as dead; at the twentieth in a row, reopen all of them and stop.

        Forwarded events of one profile count once, so that the mistakes of one sender do not stop all deliveries.

        Raises:
            LeaseLost: the claim was lost.
        """
        (event,) = batch.events
        with self._lock, self.workspace.database.write() as connection:
            now_ms = self.workspace.clock.now_ms()
            batches.refuse(connection, batch, reason, now_ms=now_ms)
            generations.advance(connection, now_ms)
            self.moves += 1
            self._rejected[event.idempotency_key if event.origin is None else event.profile_key] = event
            most = self.workspace.tuning.rejections_before_stop
            if len(self._rejected) < most:
                return
            for rejected in sorted(self._rejected.values(), key=attrgetter("profile_key")):  # as others lock rows
                if rejected.origin is None:
                    outbox.revive(connection, rejected)
                else:
                    row = rejected.origin.row
                    events.set_dead(
                        connection, row.profile_key, row.position, reason=None, destination=batch.destination
                    )
        self.fail(
            DestinationError(
                f"{self.destination.display_name} rejected {most} events in a row and accepted none: {reason}",
                hint="nothing was lost; fix the cause, then run `audience-sync deliver`",
            )
        )


# --- one worker -------------------------------------------------------------------------------------------------------

NO_ANSWER: Final = frozenset({0, 429, 503})  # statuses that say nothing of the events


class Worker(threading.Thread):
    """Post the batches of a group until it is stopped."""

    def __init__(self, group: WorkerGroup, client: DestinationClient) -> None:
        super().__init__(name="deliverer", daemon=True)
        self._group = group
        self._tuning = group.workspace.tuning
        self._client = client

    def run(self) -> None:
        """Run the thread; pass an unexpected exception to the thread that waits."""
        try:
            while not self._group.stop.is_set():
                held = self._group.pool.next(self._tuning.batch_poll_seconds)
                if held is not None:
                    self._serve(held)
        except MarkUnusable as error:
            self._group.fail(error)
        except BaseException as error:  # noqa: BLE001 - handed over, and raised there
            self._group.crash = error
            self._group.stop.set()
        finally:
            self._client.close()

    def _serve(self, held: Held) -> None:
        """Post a batch when its time has come, and settle the response; retry if the database is unavailable."""
        try:
            if not self._may_post(held):
                return
            self._post(held)
        except sa.exc.OperationalError:
            self._again(held, after=self._tuning.write_retry_seconds)

    def _may_post(self, held: Held) -> bool:
        group, clock = self._group, self._group.workspace.clock
        if held.batch.origin is not None:
            with group.workspace.database.read() as connection:
                if batches.is_behind(connection, held.batch):
                    self._again(held, after=self._tuning.batch_poll_seconds)
                    return False
        if not group.limiter.wait(group.stop):
            self._again(held, after=0.0)
            return False
        if held.until - clock.monotonic() <= group.timeout.total_seconds():
            group.limiter.let_go()
            # an answer might come when another process has the batch
            self._again(held, after=self._tuning.batch_poll_seconds)
            return False
        return True

    def _again(self, held: Held, *, after: float) -> None:
        self._group.pool.put_back(held, held.batch, due=self._group.workspace.clock.monotonic() + after)

    def _post(self, held: Held) -> None:
        group, batch = self._group, held.batch
        outcome = self._client.send(batch.contents.bodies)
        group.workspace.reach("deliver.posted")
        try:
            self._settle(held, outcome)
        except LeaseLost:
            group.pool.remove(held)
            group.settler.reopen(batch)  # whatever the answer was: it may have overtaken somebody's newer events

    def _settle(self, held: Held, outcome: Outcome) -> None:
        """Apply an outcome."""
        group, batch, destination = self._group, held.batch, self._group.destination
        match outcome:
            case BatchAccepted(status) | BatchApplied(status):
                group.record_accepted()
                group.settler.accept(batch, status)
                group.pool.remove(held)
                group.reachability.accepted()
            case RetryLater():
                self._later(held, outcome)
            case BatchTooLarge(max_size):
                if max_size is not None and max_size < batch.size:
                    self._cut(held, smaller(batch.events, max_size))
                else:
                    self._rejected(held, "too large")
            case BatchRejected(reason):
                self._rejected(held, reason)
            case RefusedKey(reason):
                group.fail(
                    KeyRefused(
                        f"{destination.display_name} refused the {destination.credential}: {reason}",
                        hint=f"nothing was lost; correct {destination.credential_setting},"
                        " then run `audience-sync deliver`",
                    )
                )
                self._again(held, after=0.0)
            case WrongDestination(reason):
                group.fail(
                    DestinationError(
                        f"{destination.address_setting} is not {destination.display_name}: {reason}",
                        hint="nothing was lost; fix the cause, then run `audience-sync deliver`",
                    )
                )
                self._again(held, after=0.0)
            case _:
                assert_never(outcome)

    def _later(self, held: Held, outcome: RetryLater) -> None:
        """Wait, or split a batch that fails while others succeed."""
        group, batch, clock = self._group, held.batch, self._group.workspace.clock
        if held.accepted_before is None:
            held.accepted_before = group.accepted
        group.limiter.failed(batch.id, asked=outcome.retry_after, throttled=outcome.status == 429)
        is_tried = batch.tries >= self._tuning.tries_before_halving
        if is_tried and batch.size > 1 and self._is_to_blame(held, outcome):
            self._cut(held, halves(batch.events))
            return
        wait = backoff(batch.tries + 1, jitter=clock.jitter(), longest=group.max_backoff, asked=outcome.retry_after)
        due = clock.monotonic() + wait.total_seconds()
        not_before = clock.now_ms() + int(wait.total_seconds() * 1000)  # for the next holder
        with group.workspace.database.write() as connection:
            postponed = batches.postpone(connection, batch, not_before=not_before, error=outcome.reason)
            generations.advance(connection, clock.now_ms())
        group.pool.put_back(held, postponed, due=due)
        if group.accepted > held.accepted_before:
            group.reachability.accepted()  # the batch is the cause, not the destination
        else:
            group.reachability.failed(outcome.reason, again_in=max(group.limiter.resumes_in(), group.pool.next_due()))

    def _is_to_blame(self, held: Held, outcome: RetryLater) -> bool:
        """Return whether others pass since the batch fails, or nothing else may be sent that could tell.

        What a batch was cut from may have failed in several of its parts; but in an outage nothing is cut twice.
        """
        if self._group.accepted > (held.accepted_before or 0):
            return True
        is_answered = outcome.status not in NO_ANSWER
        return self._group.nothing_to_take and self._group.pool.is_alone(held, with_parts=is_answered)

    def _rejected(self, held: Held, reason: str) -> None:
        """Find the rejected event or, for an event with several audiences, the rejected audience."""
        batch = held.batch
        if batch.size > 1:
            self._cut(held, halves(batch.events))
            return
        (event,) = batch.events
        if len(event.carried) > 1:
            self._split(held, event, reason)
            return
        self._group.refuse(batch, reason)
        self._group.pool.remove(held)

    def _split(self, held: Held, event: RenderedEvent, reason: str) -> None:
        """Put one event for each change in the place of a merged one: one refused trait must not hold the others."""
        made: list[batches.Batch] = []
        with self._group.workspace.database.write() as connection:
            parts = self._apart(connection, event)
            if not parts:  # each has a newer value, or no mapping makes an event of it any more
                batches.refuse(connection, held.batch, reason, now_ms=self._group.workspace.clock.now_ms())
            else:
                left = {(c.audience_id, c.generation) for part in parts for c in part.carried}
                gone = [c for c in event.carried if (c.audience_id, c.generation) not in left]
                made = self._put(connection, held, [[part] for part in parts])
                outbox.put_back_dead(connection, event._replace(carried=tuple(gone)), reason)
            generations.advance(connection, self._group.workspace.clock.now_ms())
        self._replace(held, made)

    def _apart(self, connection: Connection, event: RenderedEvent) -> list[RenderedEvent]:
        """Return the events of each change that has no newer value."""
        group = self._group
        renderer = group.batching.renderer
        at = iso(group.workspace.clock.now())
        newer = outbox.newer(connection, event)
        computations = audiences.computations(connection)
        found = []
        for c in event.carried:
            if c.audience_id in newer:
                continue
            change = OpenChange(
                event.profile_key,
                c.audience_id,
                c.trait,
                c.value,
                c.generation,
                c.run_id,
                computations[c.audience_id],
                c.kind,
                event.identifiers,
            )
            for part in renderer.apart(change, mappings=event.mappings, at=at).events:
                shared = c.shared or any(one.shared for one in part.carried)
                found.append(part._replace(carried=tuple(one._replace(shared=shared) for one in part.carried)))
        return found

    def _cut(self, held: Held, parts: Sequence[Sequence[RenderedEvent]]) -> None:
        """Replace one batch by several, in one commit."""
        with self._group.workspace.database.write() as connection:
            made = self._put(connection, held, parts)
            generations.advance(connection, self._group.workspace.clock.now_ms())
        self._replace(held, made)

    def _put(self, connection: Connection, held: Held, parts: Sequence[Sequence[RenderedEvent]]) -> list[batches.Batch]:
        workspace = self._group.workspace
        return batches.cut(
            connection,
            held.batch,
            parts,
            holder=workspace.holder.name,
            claim_until=self._group.claims.end(connection),
            now_ms=workspace.clock.now_ms(),
        )

    def _replace(self, held: Held, made: Sequence[batches.Batch]) -> None:
        """Post parts instead of a batch."""
        group = self._group
        group.pool.remove(held)
        backup_mark.require_kept(group.workspace.database)
        group.workspace.reach("deliver.cut")
        group.pool.add(made, until=held.until, accepted_before=held.accepted_before)
