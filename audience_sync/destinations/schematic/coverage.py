"""Does an audience or computed trait reach Schematic through the mappings? Two imaginary people enter, and leave."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core.keys import canonical
from audience_sync.core.model import EXIT_VALUES, MEMBER_VALUE, ChangeKind, Computation, TraitType
from audience_sync.destinations.schematic.mapping_rules import Mapping
from audience_sync.destinations.schematic.parcels import NOT_MAPPED, Destination, Parcel, make_parcel
from audience_sync.destinations.schematic.wire_events import OpenChange
from audience_sync.segment.fql.trigger_tree import fields
from audience_sync.segment.mapping.template import reads

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

_OF_THE_ENVIRONMENT = (("context", "personas", "namespace"), ("context", "personas", "space_id"))

Bodies: TypeAlias = list[dict[str, Any]]


class Coverage(NamedTuple):
    """What is wrong with the way of an audience to Schematic, and what somebody may not expect of it."""

    rejections: list[str]  # by mappings that match its changes, and cannot make an event of them
    gaps: list[str]  # what Schematic would not be told
    surprises: list[str]
    events: int  # that one change becomes at most
    sets_trait: bool  # of the user, under the audience's own key

    @property
    def errors(self) -> list[str]:
        """Return why the audience cannot be synced."""
        return self.rejections + self.gaps


def coverage(
    trait: str,
    destination: Destination,
    *,
    user_keys: Collection[str],
    company_keys: Collection[str],
    computation: Computation,
    trait_type: TraitType | None,
) -> Coverage:
    """Return what the mappings do to an audience or computed trait whose definition names these keys.

    Mappings that look at the environment are left out while it is not known (""), and then nothing is called a gap.
    """
    value, none = sample_values(computation, trait_type)
    unsure = () if destination.environment else tuple(filter(looks_at_the_environment, destination.enabled))
    sure = replace(destination, mappings=tuple(one for one in destination.enabled if one not in unsure))
    entries = [sample(trait, value, who, destination, user_keys, company_keys, computation) for who in PEOPLE]
    exits = [change._replace(value=none, kind="exited") for change in entries]
    parcels = [make_parcel([change], sure, at=AT) for change in (*entries, exits[0])]
    entered, others, exited = map(_bodies, parcels)
    rejections = list(dict.fromkeys([*_rejections(parcels[0]), *_rejections(parcels[2])]))
    gaps = [] if rejections or unsure else list(_gaps(trait, entered, exited, others))
    if computation is Computation.AUDIENCE and not rejections and not unsure and _names(entered) != _names(exited):
        gaps.append("users would be named true and false: a mapping takes their name from this trait")
    if not rejections and not unsure and not gaps:
        again = {kind: make_parcel([entries[0]._replace(kind=kind)], sure, at=AT) for kind in ("updated", "resent")}
        silent = [kind for kind, parcel in again.items() if not parcel.events]
        gaps += [f"a change that is {' or '.join(silent)} has no event"] if silent else []
    traits = [body["body"].get("traits", {}) for body in entered if body["type"] == "identify"]
    return Coverage(
        rejections,
        gaps,
        [] if rejections or gaps or unsure else list(_surprises(trait, traits)),
        max(len(entered), len(exited)) + len(unsure),
        sets_trait=bool(unsure) or any(trait in one for one in traits),
    )


def sample_values(computation: Computation, trait_type: TraitType | None) -> tuple[str, str]:
    """Return what Schematic is told of somebody who is in, or has a value of this type, and of who is not or has none.

    A computed trait whose type nobody knows is taken for a number.
    """
    is_audience = computation is Computation.AUDIENCE
    return MEMBER_VALUE if is_audience else _VALUES[trait_type or TraitType.NUMBER], EXIT_VALUES[computation]


def sample(
    trait: str,
    value: str,
    who: str,
    destination: Destination,
    user_keys: Collection[str],
    company_keys: Collection[str],
    computation: Computation,
) -> OpenChange:
    """Return the entry of an imaginary person who has every key that the definition of an audience names."""
    user = {name: f"{who} {name}" for name in user_keys if name != destination.identity}
    company = {name: f"{who} {name}" for name in company_keys}
    known = {kind: keys for kind, keys in (("user", user), ("company", company)) if keys}
    identifiers = canonical(known) if known else None
    return OpenChange(who, 0, trait, value, 0, 0, computation, ChangeKind.ENTERED, identifiers)


def looks_at_the_environment(mapping: Mapping) -> bool:
    """Return whether what a mapping does depends on the Schematic environment, which the first delivery tells."""
    paths = fields(mapping.expression) | reads(dict(mapping.fields))
    return any(path == whole[: len(path)] for path in paths for whole in _OF_THE_ENVIRONMENT)


def _bodies(parcel: Parcel) -> Bodies:
    return [{**orjson.loads(event.body), "idempotency_key": ""} for event in parcel.events]


def _rejections(parcel: Parcel) -> Iterator[str]:
    """Return why mappings whose trigger matches make no event of a change."""
    return (reason for _, reason in parcel.rejected if reason != NOT_MAPPED)


def _gaps(trait: str, entered: Bodies, exited: Bodies, others: Bodies) -> Iterator[str]:
    """Yield what Schematic would not be told of an entry, an exit, and of who it was."""
    if not entered and not exited:
        yield "no enabled mapping makes an event of it: no trigger matches"
    elif not exited:
        yield "exiting users keep the trait: the trigger of no enabled mapping matches an exit"
    elif not entered:
        yield "nobody ever gets the trait: no trigger of an enabled mapping matches an entry"
    elif all(body in entered for body in exited) or all(body in exited for body in entered):
        yield "no enabled mapping carries its value: entries and exits look the same to Schematic"
    elif _values(trait, entered) and not _values(trait, exited) - _values(trait, entered):
        yield "exiting users keep the trait: no identify of an exit sets it to another value"
    for one, other in zip(entered, others, strict=False):
        if one["type"] == "identify" and one["body"]["keys"] == other["body"]["keys"]:
            yield f"everybody would be one user: the user keys are the same for all, {', '.join(one['body']['keys'])}"


def _names(bodies: Bodies) -> set[str]:
    return {body["body"]["name"] for body in bodies if "name" in body["body"]}


def _values(trait: str, bodies: Bodies) -> set[bytes]:
    traits = (body["body"].get("traits", {}) for body in bodies if body["type"] == "identify")
    return {orjson.dumps(one[trait]) for one in traits if trait in one}


def _surprises(trait: str, traits: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what may not be expected of the traits of the identifies."""
    if not traits:
        yield "is sent as track events alone: the trait of the user is not set in Schematic"
    elif not any(trait in one for one in traits):
        names = ", ".join(sorted({name for one in traits for name in one}))
        if names:
            yield f"is not sent under its own name, but among the traits {names}"
        else:
            yield "is sent, but not as a trait of the user"


# --- volume -----------------------------------------------------------------------------------------------------------
# The number of events that changes become, found with the changes of a sample person instead of real ones.


class Volume(NamedTuple):
    """The number of events that one change becomes, by its kind."""

    entered: int
    exited: int
    updated: int


def volume(entry: OpenChange, destination: Destination) -> Volume:
    """Return the volume of the changes of an audience; `entry` is a sample person who enters it."""
    left = entry._replace(value=EXIT_VALUES[Computation(entry.computation)], kind="exited")
    kinds = (entry, left, entry._replace(kind="updated"))
    return Volume(*(_events([change], destination) for change in kinds))


def joined(entries: Sequence[OpenChange], destination: Destination) -> float:
    """Return the number of events saved by each further audience of a profile: 1 where identifies are joined.

    `entries` has one sample person who enters each audience.
    """
    if len(entries) < 2:
        return 0.0
    apart = sum(_events([entry], destination) for entry in entries)
    return max(0.0, (apart - _events(entries, destination)) / (len(entries) - 1))


def _events(changes: Sequence[OpenChange], destination: Destination) -> int:
    """Return the number of events that changes of one profile become; the maximum while the environment is unknown."""
    unsure = () if destination.environment else tuple(filter(looks_at_the_environment, destination.enabled))
    return len(make_parcel(changes, destination, at=AT).events) + len(unsure)
