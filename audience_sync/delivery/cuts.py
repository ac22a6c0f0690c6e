"""How events are put into batches of a size, and how batches are cut: between profiles wherever that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from audience_sync.destinations.wire_events import Event


def pack(profiles: Iterable[Sequence[Event]], size: int) -> list[list[Event]]:
    """Return the events of profiles as batches of at most `size`.

    The events of one profile share a batch. Where they are more than fit into one, they have batches of their own.
    """
    batches: list[list[Event]] = []
    free = 0
    for events in profiles:
        if len(events) > size:
            batches += [list(events[start : start + size]) for start in range(0, len(events), size)]
            free = 0
        elif len(events) > free:
            batches.append(list(events))
            free = size - len(events)
        elif events:
            batches[-1].extend(events)
            free -= len(events)
    return batches


def filling(counts: Sequence[int], size: int) -> int:
    """Return how many of the first profiles fill batches, given their events, so that `pack` leaves none half empty.

    All of them where nothing else is in them but rejections: those need no batch.
    """
    filled = used = idle = 0
    for count, events in enumerate(counts, start=1):
        idle += not events
        if used and used + events > size:
            filled, used = count - 1, 0
        used += events
        if used >= size:
            filled, used = count, 0
    return filled or (len(counts) if idle >= size else 0)


def smaller(events: Sequence[Event], size: int) -> list[list[Event]]:
    """Return the events of a batch as batches of at most `size`, cut between profiles where they fit."""
    return pack((list(of_profile) for _, of_profile in groupby(events, key=_profile_key)), size)


def halves(events: Sequence[Event]) -> list[list[Event]]:
    """Cut a batch in two: between two profiles where it has several, else between two forwarded events."""
    middle = (len(events) + 1) // 2
    for whole in (_profile_key, _message):
        cuts = [n for n in range(1, len(events)) if whole(events[n - 1]) != whole(events[n])]
        if cuts:
            middle = min(cuts, key=lambda n: abs(n - middle))
            break
    return [list(events[:middle]), list(events[middle:])]


def _profile_key(event: Event) -> object:
    return event.profile_key


def _message(event: Event) -> object:
    return event.origin and event.origin.row.position
