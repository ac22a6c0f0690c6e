"""How many events changes become, found with the changes of a sample person instead of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from audience_sync.core.model import Computation
from audience_sync.destinations.destination_protocol import Renderer
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.sample_changes import AT


class Volume(NamedTuple):
    """The number of events that one change becomes, by its kind."""

    entered: int
    exited: int
    updated: int


def volume(entry: OpenChange, renderer: Renderer) -> Volume:
    """Return the volume of the changes of an audience; `entry` is a sample person who enters it."""
    left = entry._replace(value=Computation(entry.computation).exit_value, kind="exited")
    kinds = (entry, left, entry._replace(kind="updated"))
    return Volume(*(_events([change], renderer) for change in kinds))


def joined(entries: Sequence[OpenChange], renderer: Renderer) -> float:
    """Return the number of events saved by each further audience of a profile: 1 where identifies are joined.

    `entries` has one sample person who enters each audience.
    """
    if len(entries) < 2:
        return 0.0
    apart = sum(_events([entry], renderer) for entry in entries)
    return max(0.0, (apart - _events(entries, renderer)) / (len(entries) - 1))


def _events(changes: Sequence[OpenChange], renderer: Renderer) -> int:
    """Return the number of events that changes of one profile become; the maximum while the environment is unknown."""
    (found,) = renderer.profile_events(changes, at=AT)
    return len(found.events) + len(renderer.undecided)
