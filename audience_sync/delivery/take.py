"""Take rows from `outbox` and `events` into batches: read, build, insert and delete in one transaction.

A profile in an open batch of the same table is skipped until that batch has a response. Rows without events are settled
here: a change that no mapping sends becomes a dead letter, and a forwarded event that no mapping matches is counted and
deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from audience_sync.delivery.claims import BatchClaims
from audience_sync.destinations.destination_protocol import Renderer
from audience_sync.destinations.open_changes import OpenChanges
from audience_sync.destinations.rendered_events import (
    BatchContents,
    ForwardedEvent,
    ForwardedProfileEvents,
    ProfileEvents,
    RejectedChange,
    RenderedEvent,
)
from audience_sync.segment.timestamps import iso
from audience_sync.store import backup_mark, batches, events, generations, identifiers, outbox
from audience_sync.store.batches import Batch, Taking
from audience_sync.store.schema import PRIMARY_DESTINATION
from audience_sync.store.workspace import Workspace

# --- batches of a size ------------------------------------------------------------------------------------------------
# How events are put into batches of a size, and how batches are cut: between profiles wherever that is possible.


def pack(profiles: Iterable[Sequence[RenderedEvent]], size: int) -> list[list[RenderedEvent]]:
    """Return the events of profiles as batches of at most `size`.

    The events of one profile share a batch. Where they are more than fit into one, they have batches of their own.
    """
    batches: list[list[RenderedEvent]] = []
    free = 0
    for of_one in profiles:
        if len(of_one) > size:
            batches += [list(of_one[start : start + size]) for start in range(0, len(of_one), size)]
            free = 0
        elif len(of_one) > free:
            batches.append(list(of_one))
            free = size - len(of_one)
        elif of_one:
            batches[-1].extend(of_one)
            free -= len(of_one)
    return batches


def filling(counts: Sequence[int], size: int) -> int:
    """Return how many of the first profiles fill batches, given their events, so that `pack` leaves none half empty.

    All of them where nothing else is in them but rejections: those need no batch.
    """
    filled = used = idle = 0
    for count, amount in enumerate(counts, start=1):
        idle += not amount
        if used and used + amount > size:
            filled, used = count - 1, 0
        used += amount
        if used >= size:
            filled, used = count, 0
    return filled or (len(counts) if idle >= size else 0)


def smaller(events: Sequence[RenderedEvent], size: int) -> list[list[RenderedEvent]]:
    """Return the events of a batch as batches of at most `size`, cut between profiles where they fit."""
    return pack((list(of_profile) for _, of_profile in groupby(events, key=_profile_key)), size)


def halves(events: Sequence[RenderedEvent]) -> list[list[RenderedEvent]]:
    """Cut a batch in two: between two profiles where it has several, else between two forwarded events."""
    middle = (len(events) + 1) // 2
    for whole in (_profile_key, _message):
        cuts = [n for n in range(1, len(events)) if whole(events[n - 1]) != whole(events[n])]
        if cuts:
            middle = min(cuts, key=lambda n: abs(n - middle))
            break
    return [list(events[:middle]), list(events[middle:])]


def _profile_key(event: RenderedEvent) -> object:
    return event.profile_key


def _message(event: RenderedEvent) -> object:
    return event.origin and event.origin.row.position


# --- taking rows ------------------------------------------------------------------------------------------------------

_PROFILE: Final = itemgetter(0)  # of a row

T = TypeVar("T", bound=tuple[Any, ...])  # a row
P = TypeVar("P")
START: Final = ""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The rules for building events and batches."""

    renderer: Renderer
    batch_size: int
    stuck_tries: int  # number of failed attempts after which a single event counts as stuck


class _Page(NamedTuple):
    """Result of a page: what batches are made of it, its end (None: nothing is behind), and the rows dealt with."""

    batches: list[BatchContents]
    last: str | None
    done: int  # they left the table, or are dead now
    exits: bool = False  # it has only what goes before everything else

    @property
    def is_progress(self) -> bool:
        """Return whether anything was done."""
        return bool(self.batches or self.done)


class _Made(NamedTuple):
    """Result of the first `end` changes of a page: batches, and changes that cannot be sent."""

    batches: list[BatchContents]
    rejected: list[RejectedChange]
    end: int


_NOTHING: Final = _Page([], None, 0)


Turn: TypeAlias = Callable[[Connection, str, Set[str], int], _Page]


@dataclass
class PendingQueue:
    """One of the two tables, and how far a round through it has come."""

    turn: Turn
    after: str = START

    def next(self, connection: Connection, held: Set[str], limit: int) -> _Page:
        """Return the next page with progress; go around at most once."""
        began = self.after
        while True:
            ahead = {key for key in held if key > self.after}  # few
            page = self.turn(connection, self.after, ahead, limit)
            self.after = page.last or START
            if page.is_progress or (page.last is None and began == START):
                return page
            if page.last is None:
                began = START


class Taken(NamedTuple):
    """New batches, and whether anything was done, even without batches."""

    batches: list[Batch]
    progress: bool


class Taker:
    """Read both tables in turns, round after round: changes and forwarded events.

    Only the primary destination has changes; others have messages about them where it has forwarded events.
    """

    def __init__(
        self, workspace: Workspace, claims: BatchClaims, batching: Batching, *, forwarded: bool, destination: str
    ) -> None:
        self._workspace = workspace
        self._destination = destination
        self._has_changes = destination == PRIMARY_DESTINATION
        self._claims = claims
        self._batching = batching
        self._exits = PendingQueue(partial(self._changes, exits_only=True))
        self._all = PendingQueue(partial(self._changes, exits_only=False))
        self._forwarded = PendingQueue(self._events) if forwarded else None
        self._events_first = True

    def take(self, most: int) -> Taken:
        """Take rows for about `most` batches and claim them for this process.

        Raises:
            MarkUnusable: they are taken, but the mark cannot be raised to that, so they must not be sent now.
        """
        workspace, size = self._workspace, self._batching.batch_size
        self._events_first = not self._events_first
        limit = size * min(most, self._workspace.tuning.batches_per_take) + 1  # of the last profile there may be more
        with workspace.database.write() as connection:
            taking = batches.lock_taking(
                connection, stuck_tries=self._batching.stuck_tries, destination=self._destination
            )
            page = _NOTHING
            if self._events_first and self._forwarded is not None:
                page = self._forwarded.next(connection, taking.held[True], limit)
            if not page.is_progress and self._has_changes:
                page = self._next_changes(connection, taking, limit)
            if not page.is_progress and not self._events_first and self._forwarded is not None:
                page = self._forwarded.next(connection, taking.held[True], limit)
            if page.is_progress:
                generations.advance(connection, workspace.clock.now_ms())
            added = batches.add(
                connection,
                page.batches,
                holder=workspace.holder.name,
                claim_until=self._claims.end(connection),
                now_ms=workspace.clock.now_ms(),
                exits=page.exits,
                destination=self._destination,
            )
        if added:
            backup_mark.require_kept(workspace.database)
            workspace.reach("deliver.taken")
        return Taken(added, page.is_progress)

    def _next_changes(self, connection: Connection, taking: Taking, limit: int) -> _Page:
        """Take changes. Where two profiles may be one user, exits are taken first and everything else waits."""
        held = taking.held[False]
        if not identifiers.any_expected(connection):
            return self._all.next(connection, held, limit)
        page = self._exits.next(connection, held, limit)
        if page.is_progress or taking.has_exits or outbox.any_exit(connection, stuck=taking.stuck):
            return page
        return self._all.next(connection, held, limit)

    def _changes(self, connection: Connection, after: str, held: Set[str], limit: int, *, exits_only: bool) -> _Page:
        """Take a page of the outbox: a profile's events are made of all its open changes, or of its exits."""
        while True:
            found, more = outbox.page(connection, after=after, limit=limit, held=held, exits_only=exits_only)
            sent = identifiers.without_shared(connection, found)
            made = self._made(sent, more=more)
            if made is not None:
                break
            limit *= 4  # many audiences share few profiles: a page of rows made less than a batch
        is_all = made.end == len(found) and not more
        found, sent = found.part(0, made.end), sent.part(0, made.end)
        identifiers.remember(connection, found, sent)
        outbox.mark_rejected(connection, made.rejected)
        last = None if is_all else sent.profile_keys[-1]
        if made.rejected:
            dead = {change for change, _ in made.rejected}
            sent = OpenChanges.of(row for row in sent if row not in dead)
        outbox.remove(connection, sent, held=held, exits_only=exits_only)
        return _Page(made.batches, last, made.end, exits_only)

    def _made(self, changes: OpenChanges, *, more: bool) -> _Made | None:
        """Return what is made of the first of some changes; None if `more` of them are needed to fill a batch."""
        renderer, size = self._batching.renderer, self._batching.batch_size
        at = iso(self._workspace.clock.now())
        alike = self._alike(changes.part(0, len(changes) - (len(changes) % size if more else 0)), at=at)
        if alike:
            return _Made(alike, [], sum(contents.size for contents in alike))
        rows = list(changes)
        profiles, end = self._build(rows, lambda some: renderer.profile_events(some, at=at))
        is_late = end < len(rows)
        full = filling([len(profile.events) for profile in profiles], size) if more or is_late else 0
        if not full and more and not is_late:
            return None
        if 0 < full < len(profiles):
            end = sum(len(list(of_profile)) for _, of_profile in islice(groupby(rows, key=_PROFILE), full))
            profiles = profiles[:full]
        return _Made(self._pack(profiles), [one for profile in profiles for one in profile.rejected], end)

    def _alike(self, changes: OpenChanges, *, at: str) -> list[BatchContents]:
        """Return batches of the first changes, if each is the only one of its profile and has a quick way."""
        size, renderer = self._batching.batch_size, self._batching.renderer
        if len(set(changes.profile_keys)) < len(changes):
            return []
        made = (renderer.batch(changes.part(start, start + size), at=at) for start in range(0, len(changes), size))
        found: list[BatchContents] = []
        for contents in self._in_time(made):
            if contents is None:
                break
            found.append(contents)
        return found

    def _build(self, rows: Sequence[T], build: Callable[[Sequence[T]], list[P]]) -> tuple[list[P], int]:
        """Return what is built of the first rows, whole profiles, and how many rows these are.

        They are enough for a batch, and no more than can be built in `Tuning.build_seconds`.
        """
        built: list[P] = []
        end = 0
        for part in self._in_time(_whole_profiles(rows, self._batching.batch_size)):
            built += build(part)
            end += len(part)
        return built, end

    def _in_time(self, items: Iterable[P]) -> Iterator[P]:
        """Yield items until making and using them has taken `Tuning.build_seconds`, at least one."""
        monotonic = self._workspace.clock.monotonic
        began = monotonic()
        for item in items:
            yield item
            if monotonic() - began > self._workspace.tuning.build_seconds:
                return

    def _pack(self, profiles: Iterable[ProfileEvents | ForwardedProfileEvents]) -> list[BatchContents]:
        """Return the events of profiles in batches."""
        return [BatchContents.of(some) for some in pack((p.events for p in profiles), self._batching.batch_size)]

    def _events(self, connection: Connection, after: str, held: Set[str], limit: int) -> _Page:
        """Take a page of forwarded events: per profile as many as fit into one batch, so none overtakes another."""
        batching, now_ms, destination = self._batching, self._workspace.clock.now_ms(), self._destination
        rows, last = events.page(connection, after=after, limit=limit, held=held, destination=destination)
        renderer, size = batching.renderer, batching.batch_size

        def build(some: Sequence[ForwardedEvent]) -> list[ForwardedProfileEvents]:
            return [renderer.forwarded(list(of), most=size) for _, of in groupby(some, key=_PROFILE)]

        profiles, end = self._build(rows, build)
        if end < len(rows):
            last = rows[end - 1].profile_key
        if last is not None and (full := filling([len(profile.events) for profile in profiles], size)):
            if full < len(profiles):
                last, _ = next(islice(groupby(rows, key=_PROFILE), full - 1, None))
            profiles = profiles[:full]
        made = [event for profile in profiles for event in profile.events]
        unsent = [one for profile in profiles for one in profile.unsent]
        dead = [one for profile in profiles for one in profile.dead]
        events.close_unsent(connection, unsent, now_ms=now_ms, destination=destination)
        for (key, position, *_), reason in dead:
            events.set_dead(connection, key, position, reason=reason, destination=destination)
        stay = {(row.profile_key, row.position) for row, _ in dead}
        taken = {(e.profile_key, e.origin.row.position): e.origin.row for e in made if e.origin is not None}
        over = [row for profile in profiles for row in profile.over]
        gone = [*over, *(row for place, row in taken.items() if place not in stay)]
        events.remove(connection, gone, destination=destination)
        return _Page(self._pack(profiles), last, len(unsent) + len(dead) + len(gone))


def _whole_profiles(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield rows in parts of about `size`, whole profiles each."""
    end = 0
    while end < len(rows):
        start, end = end, min(end + size, len(rows))
        while end < len(rows) and _PROFILE(rows[end]) == _PROFILE(rows[end - 1]):
            end += 1
        yield rows[start:end]
