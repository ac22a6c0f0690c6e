"""Does an audience reach Schematic through the mappings? Two samples tell: somebody who enters, and who leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from audience_sync.core.destination.mappings import judge
from audience_sync.core.destination.parcels import Destination, make_parcel
from audience_sync.core.destination.triggers.expressions import fields
from audience_sync.core.events import OpenChange
from audience_sync.core.rows import canonical

_AT = "2026-01-01T00:00:00.000Z"
_ENVIRONMENT = {("context", "personas", "namespace"), ("context", "personas", "space_id")}


class Coverage(NamedTuple):
    """What is wrong with the way of an audience to Schematic, and what somebody may not expect of it."""

    refusals: list[str]  # mappings that match its changes, and cannot make an event of them
    gaps: list[str]  # what Schematic would not be told
    surprises: list[str]
    events: int  # that one change becomes at most
    sets_trait: bool  # of the user, under the audience's own key

    @property
    def errors(self) -> list[str]:
        """Return why the audience cannot be synced."""
        return self.refusals + self.gaps


def coverage(
    trait: str, destination: Destination, *, user_keys: Iterable[str], company_keys: Iterable[str]
) -> Coverage:
    """Return what the mappings do to an audience whose query names these keys.

    An environment that is not known yet ("") is no reason for an error.
    """
    if not destination.environment and any(_ENVIRONMENT & fields(one.expression) for one in destination.enabled):
        return Coverage([], [], [], len(destination.enabled), sets_trait=True)
    user = {name: "sample" for name in user_keys if name != destination.identity}
    company = dict.fromkeys(company_keys, "sample")
    known = {kind: keys for kind, keys in (("user", user), ("company", company)) if keys}
    entry = OpenChange(0, "sample", 0, trait, "true", canonical(known) if known else None, 0, 0)
    exit_ = entry._replace(value="false")
    entered, exited = _bodies(entry, destination), _bodies(exit_, destination)
    refusals = list(dict.fromkeys([*_refusals(entry, destination), *_refusals(exit_, destination)]))
    gaps = [] if refusals else list(_missing(entered, exited))
    traits = [body["body"].get("traits", {}) for body in entered if body["type"] == "identify"]
    return Coverage(
        refusals,
        gaps,
        [] if refusals or gaps else [*_surprises(trait, traits), *_of_nobody(entered)],
        max(len(entered), len(exited)),
        sets_trait=any(trait in one for one in traits),
    )


def _bodies(change: OpenChange, destination: Destination) -> list[dict[str, Any]]:
    parcel = make_parcel([change], destination, at=_AT)
    return [{**orjson.loads(event.body), "idempotency_key": ""} for event in parcel.events]


def _refusals(change: OpenChange, destination: Destination) -> Iterator[str]:
    """Yield why mappings whose trigger matches make no event of a change."""
    verdict = judge(destination.event([change], change.identifiers, at=_AT), destination.enabled)
    for mapping, rejection in verdict.rejections:
        yield f"mapping {mapping.name!r} makes no event of it: {rejection.sentence}"


def _missing(entered: list[dict[str, Any]], exited: list[dict[str, Any]]) -> Iterator[str]:
    if not entered and not exited:
        yield "no enabled mapping makes an event of it: no trigger matches"
    elif not exited:
        yield "who leaves keeps the trait for ever: no trigger of an enabled mapping matches an exit"
    elif not entered:
        yield "nobody ever gets the trait: no trigger of an enabled mapping matches an entry"
    elif entered == exited:
        yield "no enabled mapping carries its value: entries and exits look the same to Schematic"


def _surprises(trait: str, traits: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what may not be expected of the traits of the identifies."""
    if not traits:
        yield "is sent as track events alone: the trait of the user is not set in Schematic"
    elif not any(trait in one for one in traits):
        names = ", ".join(sorted({name for one in traits for name in one}))
        yield (
            f"is not sent under its own name, but among the traits {names}"
            if names
            else ("is sent, but not as a trait of the user")
        )


def _of_nobody(entered: list[dict[str, Any]]) -> Iterator[str]:
    if any(body["type"] == "track" and not body["body"].keys() & {"user", "company"} for body in entered):
        yield "is sent as a track event that names neither a user nor a company"
