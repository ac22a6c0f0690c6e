"""One worker: some shards, one connection, one batch under way at a time, and what each answer leads to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import assert_never

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.destination.parcels import resolve_parcel
from audience_sync.core.destination.timestamps import iso
from audience_sync.core.events import Event, batch_body
from audience_sync.core.outcomes import (
    Accepted,
    Later,
    Outcome,
    RefusedKey,
    Rejected,
    TooLarge,
    WrongDestination,
    backoff,
    classify,
)
from audience_sync.delivery.batches import Batches, halves, is_behind, smaller
from audience_sync.delivery.shift import Shift
from audience_sync.errors import DestinationError, KeyRefused, LeaseLost, MarkUnusable
from audience_sync.schematic import Schematic
from audience_sync.store import attempts, outbox
from audience_sync.store.attempts import Attempt

IDLE = 0.1  # seconds between two looks where nothing is to be sent
LONGEST_IDLE = 2.0  # seconds, after many looks in vain: what waits is held back, and looking is work
BATCHES_WAITING = 20  # a worker whose waiting events would fill so many batches takes no new ones
TEXT_WAITING = 8 * 1024 * 1024  # or so many characters: forwarded events may be long
TRIES_BEFORE_HALVING = 3


class Worker(threading.Thread):
    """Delivers what waits in some shards until its shift is over."""

    def __init__(self, shift: Shift, schematic: Schematic, batches: Batches, left_over: Sequence[Attempt]) -> None:
        super().__init__(name="deliverer", daemon=True)
        self._shift = shift
        self._schematic = schematic
        self._batches = batches
        self._waiting = list(left_over)
        self._due = self._due_of(left_over)  # by attempt: when its next try is due, on the monotonic clock
        self._of_this_round: set[int] = set()  # attempts whose rows lie behind where the round is
        self._first_failure: dict[int, int] = {}  # by attempt: how many batches had been accepted by then
        self._looks_in_vain = 0
        self.idle = False  # a whole round found nothing, and no attempt waits

    def run(self) -> None:
        """Work; whatever ends it unexpectedly is handed to the thread that waits."""
        try:
            while not self._shift.stop.is_set():
                self._step()
        except LeaseLost:
            self._shift.settler.lease_lost = True
        except MarkUnusable as error:
            self._shift.fail(error)
        except sa.exc.OperationalError:
            # The database is away. A commit may have happened without our knowing: the next shift reads what is so.
            self._shift.over.set()
        except BaseException as error:  # noqa: BLE001 - handed over, and raised there
            self._shift.crash = error
            self._shift.stop.set()
        finally:
            self._schematic.close()

    def _due_of(self, left_over: Sequence[Attempt]) -> dict[int, float]:
        """Return when attempts of before are due: a clock that was ahead must not put them off for long."""
        seams, longest = self._shift.workspace.seams, self._shift.max_backoff.total_seconds()
        now_ms, now = seams.now_ms(), seams.monotonic()
        return {one.id: now + min((one.not_before - now_ms) / 1000, longest) for one in left_over}

    def _step(self) -> None:
        now = self._shift.workspace.seams.monotonic()
        ready = (one for one in self._waiting if self._due.get(one.id, now) <= now)
        due = next((one for one in ready if not is_behind(one, self._waiting)), None)
        if due is not None:
            self._post(due)
        elif self._is_full() or not self._take():
            self._rest()

    def _is_full(self) -> bool:
        waiting = sum(len(attempt.events) for attempt in self._waiting)
        if waiting >= BATCHES_WAITING * self._batches.batching.batch_size:
            return True
        return sum(len(event.body) for attempt in self._waiting for event in attempt.events) >= TEXT_WAITING

    def _take(self) -> bool:
        """Mark new batches, or write down of which rows nothing is sent; False at the end of a round."""
        fresh = self._batches.next(self._waiting)
        if fresh is None:
            return False
        self._looks_in_vain = 0
        self._shift.moves += not fresh  # progress, too
        self._waiting.extend(fresh)
        self._of_this_round.update(attempt.id for attempt in fresh)
        self.idle = False
        return True

    def _rest(self) -> None:
        """Between two rounds: let what was sent be settled, so that it is not found again."""
        if not self._shift.settler.flush():
            self._shift.stop.wait(IDLE)  # nothing is settled any more: the shift is about to end
            return
        if not self._batches.found_this_round or self._is_full():
            self.idle = not self._waiting
            self._shift.stop.wait(self._pause())
            self._looks_in_vain += 1
        self._batches.begin_round()
        self._of_this_round.clear()

    def _pause(self) -> float:
        """Return the seconds until the next look: longer after each one in vain, but not beyond the next try."""
        now = self._shift.workspace.seams.monotonic()
        due = min((self._due.get(attempt.id, now) - now for attempt in self._waiting), default=0.0)
        return max(IDLE, min(due, LONGEST_IDLE, IDLE * float(2 ** min(self._looks_in_vain, 10))))

    def _post(self, attempt: Attempt) -> None:
        shift = self._shift
        if not shift.pace.wait(shift.stop):
            return
        if shift.lease.left() <= shift.timeout.total_seconds():
            shift.stop.wait(IDLE)  # an answer might come when somebody else is at work on these profiles
            return
        key = self._schematic.key.get_secret_value()
        answer = self._schematic.post_batch(batch_body(attempt.events, api_key=key))
        shift.workspace.seams.reach("deliver.posted")
        self._waiting.remove(attempt)
        try:
            self._waiting.extend(self._settle(attempt, classify(answer, now=shift.workspace.seams.clock())))
        except LeaseLost:
            shift.settler.reopen([attempt])  # whatever the answer was: it may have overtaken somebody's newer events
            raise
        if attempt.id not in {waiting.id for waiting in self._waiting}:
            self._first_failure.pop(attempt.id, None)  # SQLite may give its number to another one
            self._of_this_round.discard(attempt.id)
            self._due.pop(attempt.id, None)

    def _settle(self, attempt: Attempt, outcome: Outcome) -> list[Attempt]:
        """Do what an outcome asks for and return the attempts that come of it."""
        shift = self._shift
        match outcome:
            case Accepted(status):
                shift.took()
                shift.settler.accept(attempt, status)
                shift.reachability.accepted()
                if attempt.id not in self._of_this_round:
                    shift.settler.flush()  # its rows may lie ahead: the round must not find them open
                return []
            case Later():
                return self._later(attempt, outcome)
            case TooLarge(max_size):
                if max_size is not None and max_size < len(attempt.events):
                    return self._cut(attempt, max_size)
                return self._rejected(attempt, "too large")
            case Rejected(reason):
                return self._rejected(attempt, reason)
            case RefusedKey(reason):
                shift.fail(
                    KeyRefused(
                        f"Schematic refused the API key: {reason}",
                        hint="nothing was lost: when schematic.api_key is right again, `audience-sync deliver` goes on",
                    )
                )
            case WrongDestination(reason):
                shift.fail(
                    DestinationError(
                        f"schematic.capture_url does not lead to Schematic: {reason}",
                        hint="nothing was lost: fix it, then run `audience-sync deliver`",
                    )
                )
            case _:
                assert_never(outcome)
        return [attempt]

    def _later(self, attempt: Attempt, outcome: Later) -> list[Attempt]:
        """Wait, or cut a batch in two that fails while others pass."""
        shift = self._shift
        accepted_then = self._first_failure.setdefault(attempt.id, shift.accepted)
        shift.pace.failed(asked=outcome.retry_after, throttled=outcome.status == 429)
        if attempt.tries >= TRIES_BEFORE_HALVING and shift.accepted > accepted_then and len(attempt.events) > 1:
            parts = self._put(attempt, lambda _: halves(attempt.events))
            self._first_failure.update(dict.fromkeys((part.id for part in parts), accepted_then))
            return parts
        seams = shift.workspace.seams
        wait = backoff(attempt.tries + 1, jitter=seams.jitter(), longest=shift.max_backoff, asked=outcome.retry_after)
        not_before = seams.now_ms() + int(wait.total_seconds() * 1000)  # for who comes next; for us:
        self._due[attempt.id] = seams.monotonic() + wait.total_seconds()
        with shift.workspace.database.write() as connection:
            shift.lease.assert_held(connection)
            postponed = attempts.postpone(connection, attempt, not_before=not_before, error=outcome.reason)
            first_due = attempts.next_due(connection) or 0
        again_in = max(shift.pace.resumes_in(), (first_due - seams.now_ms()) / 1000, 0.0)
        shift.reachability.failed(outcome.reason, again_in=again_in)
        return [postponed]

    def _rejected(self, attempt: Attempt, reason: str) -> list[Attempt]:
        """Find the event that is refused; of one that carries several audiences, the audience."""
        if len(attempt.events) > 1:
            return self._put(attempt, lambda _: halves(attempt.events))
        (event,) = attempt.events
        if len(event.carried) > 1:
            return self._put(attempt, lambda connection: [[part] for part in self._apart(connection, event)])
        self._shift.bury(attempt, reason)
        return []

    def _apart(self, connection: Connection, event: Event) -> list[Event]:
        """Return one event for each change of a merged event: one refused trait must not hold the others.

        Changes that were replaced meanwhile are left out, and come again with their newer values.
        """
        shared = {(c.audience_id, c.generation): c.shared for c in event.carried}
        destination = self._batches.batching.destination
        mappings = [mapping for mapping in destination.enabled if mapping.name in event.mappings]
        at = iso(self._shift.workspace.seams.clock())
        return [
            part._replace(carried=tuple(c._replace(shared=shared[c.audience_id, c.generation]) for c in part.carried))
            for change in outbox.of_profile(connection, shard=event.shard, profile_key=event.profile_key)
            if (change.audience_id, change.generation) in shared
            for part in resolve_parcel([change], mappings, destination, identifiers=event.identifiers, at=at).events
        ]

    def _cut(self, attempt: Attempt, size: int) -> list[Attempt]:
        return self._put(attempt, lambda _: smaller(attempt.events, size))

    def _put(self, attempt: Attempt, parts: Callable[[Connection], Sequence[Sequence[Event]]]) -> list[Attempt]:
        """Put several attempts in the place of one, in one commit."""
        workspace = self._shift.workspace
        with self._shift.lease.claiming() as connection:
            return attempts.split(connection, attempt, parts(connection), now_ms=workspace.seams.now_ms())
