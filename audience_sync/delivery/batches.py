"""From open rows to batches: whole profiles, one event each, as many to a batch as fit, marked before they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from audience_sync.core import events
from audience_sync.core.events import Event
from audience_sync.core.shards import SHARDS
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts, outbox
from audience_sync.store.attempts import Attempt

BATCHES_A_MARK = 10  # so many are marked in one commit before the first of them is posted


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How events and batches are made."""

    identity: str
    environment: str
    batch_size: int


class Batches:
    """Goes round after round through the open rows of one worker's shards."""

    def __init__(
        self, workspace: Workspace, lease: HeldLease, ranges: Sequence[tuple[int, int]], batching: Batching
    ) -> None:
        self._workspace = workspace
        self._lease = lease
        self._ranges = list(ranges)
        self.batching = batching
        self._at = 0  # which range
        self._after = self._start()
        self.found_this_round = False

    def next(self, busy: Iterable[Attempt]) -> list[Attempt]:
        """Mark and return the next batches; an empty list at the end of a round.

        Profiles of the `busy` attempts are passed over: their older events come first.
        """
        held_back = {event.profile_key for attempt in busy for event in attempt.events}
        while self._at < len(self._ranges):
            made = self._next_of_range(held_back)
            if made:
                self.found_this_round = True
                return self._mark(made)
            self._at += 1
            self._after = self._start()
        return []

    def begin_round(self) -> None:
        """Go back to the first shard."""
        self._at, self.found_this_round = 0, False
        self._after = self._start()

    def _start(self) -> tuple[int, str]:
        return (self._ranges[self._at][0], "") if self._at < len(self._ranges) else (SHARDS, "")

    def _next_of_range(self, held_back: set[str]) -> list[Event]:
        """Return events for whole batches, the last of a range excepted, and go on behind them."""
        size = self.batching.batch_size
        limit = size * BATCHES_A_MARK
        sent_at = self._workspace.seams.clock()
        while True:
            with self._workspace.database.read() as connection:
                rows, more = outbox.page(
                    connection, low=self._after[0], high=self._ranges[self._at][1], after=self._after, limit=limit
                )
            made = [
                events.identify(
                    list(changes),
                    identity=self.batching.identity,
                    environment=self.batching.environment,
                    sent_at=sent_at,
                )
                for key, changes in groupby(rows, key=lambda change: change.profile_key)
                if key not in held_back
            ]
            if not more:
                if rows:
                    self._after = (rows[-1].shard, rows[-1].profile_key)
                return made
            if len(made) >= size:
                made = made[: len(made) // size * size]
                self._after = (made[-1].shard, made[-1].profile_key)
                return made
            limit *= 4  # many audiences share few profiles: a page of rows made less than a batch

    def _mark(self, made: list[Event]) -> list[Attempt]:
        size = self.batching.batch_size
        now = self._workspace.seams.now_ms()
        with self._workspace.database.write() as connection:
            self._lease.assert_held(connection)
            marked = [
                attempts.add(connection, made[start : start + size], now_ms=now) for start in range(0, len(made), size)
            ]
        self._workspace.seams.reach("deliver.marked")
        return marked
