"""The two lanes on which rows come to be batches: changes from the outbox, and forwarded events.

A lane goes round after round through the rows of one worker's shards, profile by profile, and makes events of them with
the mappings. What nothing is sent of is written down on the way: a change that no mapping makes an event of is dead, a
forwarded event that nobody asks for is counted and gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, Generic, TypeVar

from sqlalchemy.engine import Connection

from audience_sync.core.destination.forwarding import ForwardedParcel, make_forwarded
from audience_sync.core.destination.parcels import Destination, Parcel, make_parcels
from audience_sync.core.destination.timestamps import iso
from audience_sync.core.events import Forwarded, OpenChange
from audience_sync.core.shards import SHARDS
from audience_sync.leasing import Workspace
from audience_sync.store import events, outbox

BATCHES_A_READ = 20

_PLACE: Final = itemgetter(0, 1)  # of a row: its shard and profile

RowT = TypeVar("RowT", OpenChange, Forwarded)
ParcelT = TypeVar("ParcelT", Parcel, ForwardedParcel)


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How events and batches are made."""

    destination: Destination
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Table(Generic[RowT, ParcelT]):
    """A table of rows that wait, by what is done with them.

    `page` returns rows behind a shard and profile, up to shard `high`, profile by profile, and whether there are more;
    `parcels` what the rows of each profile come to at a time; `mark` writes down of which rows nothing is sent.
    """

    page: Callable[..., tuple[list[RowT], bool]]  # of `store.outbox` or `store.events`
    parcels: Callable[[Sequence[RowT], Batching, str], list[ParcelT]]
    mark: Callable[[Connection, Sequence[ParcelT], int], None]  # the last is now, in milliseconds since 1970
    whole: bool  # all rows of a profile go together: a read that is too short for a batch is made longer


def _mark_changes(connection: Connection, parcels: Sequence[Parcel], _: int) -> None:
    """Mark the changes that no mapping makes an event of as dead."""
    outbox.mark_rejected(connection, [rejected for parcel in parcels for rejected in parcel.rejected])


def _mark_events(connection: Connection, parcels: Sequence[ForwardedParcel], now_ms: int) -> None:
    """Close what nobody asks for, counted, and mark what a mapping cannot make as dead."""
    events.close_unsent(connection, [unsent for parcel in parcels for unsent in parcel.unsent], now_ms=now_ms)
    events.close(connection, [over for parcel in parcels for over in parcel.over])
    for (shard, key, position, *_), reason in (dead for parcel in parcels for dead in parcel.dead):
        events.set_dead(connection, shard, key, position, reason=reason)


CHANGES: Final = Table(
    page=outbox.page,
    parcels=lambda rows, batching, at: make_parcels(rows, batching.destination, at=at),
    mark=_mark_changes,
    whole=True,
)
"""The outbox: one parcel says all that is open of a profile."""

EVENTS: Final = Table(
    page=events.page,
    parcels=lambda rows, batching, _: [
        make_forwarded(list(of_profile), batching.destination, most=batching.batch_size)
        for _, of_profile in groupby(rows, key=_PLACE)
    ],
    mark=_mark_events,
    whole=False,
)
"""Forwarded events: as many of a profile at once as fit into one batch, so that none can overtake another."""


class Lane(Generic[RowT, ParcelT]):
    """Goes round after round through the rows of a table in one worker's shards."""

    def __init__(
        self, table: Table[RowT, ParcelT], workspace: Workspace, ranges: Sequence[tuple[int, int]], batching: Batching
    ) -> None:
        self._table: Table[RowT, ParcelT] = table
        self._workspace = workspace
        self._ranges = list(ranges)
        self._batching = batching
        self._at = 0  # which range
        self._after = self._start()

    def next(self, held_back: Set[str]) -> list[ParcelT]:
        """Return the next parcels, enough to fill batches where there are so many; none at the end of a round.

        Profiles that are `held_back` are passed over: their older events come first.
        """
        while self._at < len(self._ranges):
            if parcels := self._next_of_range(held_back):
                return parcels
            self._at += 1
            self._after = self._start()
        return []

    def begin_round(self) -> None:
        """Go back to the first shard."""
        self._at = 0
        self._after = self._start()

    def mark(self, connection: Connection, parcels: Sequence[ParcelT]) -> None:
        """Write down of which rows nothing is sent; in the commit that keeps the batches of the others."""
        self._table.mark(connection, parcels, self._workspace.seams.now_ms())

    def _start(self) -> tuple[int, str]:
        return (self._ranges[self._at][0], "") if self._at < len(self._ranges) else (SHARDS, "")

    def _next_of_range(self, held_back: Set[str]) -> list[ParcelT]:
        """Return parcels that fill whole batches, the last of a range excepted, and go on behind them."""
        limit = self._batching.batch_size * BATCHES_A_READ
        at = iso(self._workspace.seams.clock())
        high = self._ranges[self._at][1]
        while True:
            with self._workspace.database.read() as connection:
                rows, more = self._table.page(
                    connection, after=self._after, high=high, limit=limit, held_back=held_back
                )
            made = self._table.parcels(rows, self._batching, at)
            full = _filling(made, self._batching.batch_size) if more else len(made)
            if full and more:
                self._after = [place for place, _ in groupby(map(_PLACE, rows))][full - 1]
                return made[:full]
            if made and more and self._table.whole:
                limit *= 4  # many audiences share few profiles: a page of rows made less than a batch
                continue
            if rows:
                self._after = _PLACE(rows[-1])
            if made or not more:
                return made


def _filling(parcels: Sequence[Parcel | ForwardedParcel], size: int) -> int:
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
