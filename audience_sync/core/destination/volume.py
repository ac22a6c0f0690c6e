"""How many events changes become, told from imaginary people: nothing is made for a real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from audience_sync.core.destination.coverage import AT, looks_at_the_environment
from audience_sync.core.destination.parcels import Destination, make_parcel
from audience_sync.core.events import OpenChange
from audience_sync.core.model import EXIT_VALUES, Computation


class Volume(NamedTuple):
    """How many events one change becomes, by its kind."""

    entered: int
    exited: int
    updated: int


def volume(entry: OpenChange, destination: Destination) -> Volume:
    """Return how many events the changes of an imaginary person become who enters with this change."""
    left = entry._replace(value=EXIT_VALUES[Computation(entry.computation)], kind="exited")
    kinds = (entry, left, entry._replace(kind="updated"))
    return Volume(*(_events([change], destination) for change in kinds))


def joined(entries: Sequence[OpenChange], destination: Destination) -> float:
    """Return how many events a person saves with each further audience that changes: one where identifies are joined.

    `entries` are changes of one imaginary person, one for each audience.
    """
    if len(entries) < 2:
        return 0.0
    apart = sum(_events([entry], destination) for entry in entries)
    return max(0.0, (apart - _events(entries, destination)) / (len(entries) - 1))


def _events(changes: Sequence[OpenChange], destination: Destination) -> int:
    """Return how many events changes of one person become; where the environment is not known, at most."""
    unsure = () if destination.environment else tuple(filter(looks_at_the_environment, destination.enabled))
    return len(make_parcel(changes, destination, at=AT).events) + len(unsure)
