"""From open rows to batches: whole profiles, as many to a batch as fit, marked before they are sent.

What no mapping makes an event of is dead from the start: a person mends the mappings and sends it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from audience_sync.core.destination.parcels import Destination, Parcel, make_parcel
from audience_sync.core.destination.timestamps import iso
from audience_sync.core.events import Event, OpenChange
from audience_sync.core.shards import SHARDS
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts, outbox
from audience_sync.store.attempts import Attempt

BATCHES_A_MARK = 10  # so many are marked in one commit before the first of them is posted


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How events and batches are made."""

    destination: Destination
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
            parcels = self._next_of_range(held_back)
            if parcels:
                self.found_this_round = True
                if marked := self._mark(parcels):
                    return marked
            else:
                self._at += 1
                self._after = self._start()
        return []

    def begin_round(self) -> None:
        """Go back to the first shard."""
        self._at, self.found_this_round = 0, False
        self._after = self._start()

    def _start(self) -> tuple[int, str]:
        return (self._ranges[self._at][0], "") if self._at < len(self._ranges) else (SHARDS, "")

    def _next_of_range(self, held_back: set[str]) -> list[Parcel]:
        """Return parcels that fill whole batches, the last of a range excepted, and go on behind them."""
        size = self.batching.batch_size
        limit = size * BATCHES_A_MARK
        at = iso(self._workspace.seams.clock())
        while True:
            with self._workspace.database.read() as connection:
                rows, more = outbox.page(
                    connection, low=self._after[0], high=self._ranges[self._at][1], after=self._after, limit=limit
                )
            made = [
                (changes[0].shard, key, make_parcel(changes, self.batching.destination, at=at))
                for key, changes in ((key, list(them)) for key, them in groupby(rows, key=_profile_key))
                if key not in held_back
            ]
            if not more:
                if rows:
                    self._after = (rows[-1].shard, rows[-1].profile_key)
                return [parcel for *_, parcel in made]
            full = _filling([parcel for *_, parcel in made], size)
            if full:
                self._after = made[full - 1][:2]
                return [parcel for *_, parcel in made[:full]]
            limit *= 4  # many audiences share few profiles: a page of rows made less than a batch

    def _mark(self, parcels: Sequence[Parcel]) -> list[Attempt]:
        now = self._workspace.seams.now_ms()
        with self._workspace.database.write() as connection:
            self._lease.assert_held(connection)
            outbox.mark_rejected(connection, [rejected for parcel in parcels for rejected in parcel.rejected])
            marked = [
                attempts.add(connection, batch, now_ms=now)
                for batch in pack((parcel.events for parcel in parcels), self.batching.batch_size)
            ]
        self._workspace.seams.reach("deliver.marked")
        return marked


def pack(profiles: Iterable[Sequence[Event]], size: int) -> list[list[Event]]:
    """Return the events of profiles as batches of at most `size`.

    The events of one profile share a batch. Where they are more than fit into one, they have batches of their own.
    """
    batches: list[list[Event]] = []
    room = 0
    for events in profiles:
        if len(events) > size:
            batches += [list(events[start : start + size]) for start in range(0, len(events), size)]
            room = 0
        elif len(events) > room:
            batches.append(list(events))
            room = size - len(events)
        elif events:
            batches[-1].extend(events)
            room -= len(events)
    return batches


def _filling(parcels: Sequence[Parcel], size: int) -> int:
    """Return how many of the first parcels fill batches, so that `pack` leaves none of them half empty at the end.

    All of them where nothing else is in them but rejections: those need no batch.
    """
    filled = used = idle = 0
    for count, parcel in enumerate(parcels, start=1):
        events = len(parcel.events)
        idle += not events
        if used and used + events > size:
            filled, used = count - 1, 0
        used += events
        if used >= size:
            filled, used = count, 0
    return filled or (len(parcels) if idle >= size else 0)


def _profile_key(change: OpenChange) -> str:
    return change.profile_key
