"""From waiting rows to batches: whole profiles, as many to a batch as fit, marked before they are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

from audience_sync.core.destination.forwarding import ForwardedParcel
from audience_sync.core.destination.parcels import Parcel
from audience_sync.core.events import Event, Forwarded, OpenChange
from audience_sync.delivery.lanes import CHANGES, EVENTS, Batching, Lane
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts
from audience_sync.store.attempts import Attempt

AnyLane: TypeAlias = Lane[OpenChange, Parcel] | Lane[Forwarded, ForwardedParcel]


class Batches:
    """Goes round after round through the rows of one worker's shards, taking turns between changes and events."""

    def __init__(
        self,
        workspace: Workspace,
        lease: HeldLease,
        ranges: Sequence[tuple[int, int]],
        batching: Batching,
        *,
        forwarded: bool,
    ) -> None:
        self._workspace = workspace
        self._lease = lease
        self.batching = batching
        self._lanes: list[AnyLane] = [Lane(CHANGES, workspace, ranges, batching)]
        if forwarded:
            self._lanes.append(Lane(EVENTS, workspace, ranges, batching))
        self._turns = deque(self._lanes)  # those that have not come to the end of their round
        self.found_this_round = False

    def next(self, busy: Iterable[Attempt]) -> list[Attempt] | None:
        """Mark and return the next batches, none if nothing is sent of the next rows; None at the end of a round.

        Profiles of the `busy` attempts are passed over: their older events come first.
        """
        held_back = {event.profile_key for attempt in busy for event in attempt.events}
        while self._turns:
            lane = self._turns[0]
            if parcels := lane.next(held_back):
                self._turns.rotate(-1)
                self.found_this_round = True
                return self._mark(lane, parcels)
            self._turns.popleft()
        return None

    def begin_round(self) -> None:
        """Go back to the first shard."""
        self.found_this_round = False
        self._turns = deque(self._lanes)
        for lane in self._lanes:
            lane.begin_round()

    def _mark(self, lane: AnyLane, parcels: Sequence[Parcel] | Sequence[ForwardedParcel]) -> list[Attempt]:
        now = self._workspace.seams.now_ms()
        with self._lease.claiming() as connection:
            lane.mark(connection, parcels)  # type: ignore[arg-type]  # they are the lane's own
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


def smaller(events: Sequence[Event], size: int) -> list[list[Event]]:
    """Return the events of a batch as batches of at most `size`, cut between profiles where they fit."""
    return pack((list(of_profile) for _, of_profile in groupby(events, key=_profile_key)), size)


def halves(events: Sequence[Event]) -> list[list[Event]]:
    """Cut a batch in two, between two profiles where it has several."""
    middle = (len(events) + 1) // 2
    cuts = [n for n in range(1, len(events)) if events[n - 1].profile_key != events[n].profile_key]
    cut = min(cuts, key=lambda n: abs(n - middle), default=middle)
    return [list(events[:cut]), list(events[cut:])]


def is_behind(attempt: Attempt, others: Iterable[Attempt]) -> bool:
    """Return whether older forwarded events of its profile are in another attempt, and so come first.

    Only a batch that was cut leaves a profile in several attempts, and each of those has no other profile.
    """
    first = attempt.events[0]
    return first.origin is not None and any(
        other.events[0].profile_key == first.profile_key
        and other.events[0].origin is not None
        and other.events[0].origin.position < first.origin.position
        for other in others
    )


def _profile_key(event: Event) -> str:
    return event.profile_key
