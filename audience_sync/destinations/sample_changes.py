"""Sample changes: imaginary people who enter an audience, to see what its changes become."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from audience_sync.core.keys import canonical
from audience_sync.core.model import MEMBER_VALUE, ChangeKind, Computation, TraitType
from audience_sync.destinations.destination_protocol import Renderer
from audience_sync.destinations.open_changes import OpenChange

PEOPLE = ("sample", "example")
AT = "2026-01-01T00:00:00.000Z"
"""When the imaginary people change."""

_VALUES: Final = {
    TraitType.BOOLEAN: "true",
    TraitType.NUMBER: "42",
    TraitType.CURRENCY: "9.5",
    TraitType.STRING: '"sample"',
    TraitType.DATE: '"2026-01-01"',
    TraitType.URL: '"https://example.com/"',
}


def sample_values(computation: Computation, trait_type: TraitType | None) -> tuple[str, str]:
    """Return the value sent for a person who is in, or has a value of this type, and for one who is not, or has none.

    A computed trait without a known type counts as a number.
    """
    entered = _VALUES[trait_type or TraitType.NUMBER] if computation.has_values else MEMBER_VALUE
    return entered, computation.exit_value


def sample(
    trait: str,
    value: str,
    who: str,
    user_keys: Collection[str],
    company_keys: Collection[str],
    computation: Computation,
    *,
    identity: str,
) -> OpenChange:
    """Return the entry of an imaginary person who has every key that the definition of an audience names."""
    user = {name: f"{who} {name}" for name in user_keys if name != identity}
    company = {name: f"{who} {name}" for name in company_keys}
    known = {kind: keys for kind, keys in (("user", user), ("company", company)) if keys}
    identifiers = canonical(known) if known else None
    return OpenChange(who, 0, trait, value, 0, 0, computation, ChangeKind.ENTERED, identifiers)


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
