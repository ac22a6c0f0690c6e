"""Audience changes as Segment events, and the events for Schematic that the mappings make of them.

A change is the `identify` that Segment Engage would send: the audience's trait, ``context.personas`` that says which
audience, a `messageId` that a repetition shares, and an integrations object that names Schematic alone. Beside that
``context.user_keys`` and ``context.company_keys`` have every key that the audience's query names.

All open changes of one profile go together, in a parcel: one identify as a rule, more where mappings say different
things. Bodies of identifies that differ only in their traits are one event; track events are facts, and never joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from audience_sync.core.destination.actions import Rejection
from audience_sync.core.destination.mappings import Body, SegmentEvent, apply
from audience_sync.core.destination.mappings import Mapping as DestinationMapping
from audience_sync.core.events import Carried, Event, OpenChange, idempotency_key
from audience_sync.core.model import Json

ONLY_SCHEMATIC: Json = {"All": False, "Schematic": True}
NOT_MAPPED = "no enabled mapping makes an event of it"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where changes go: how its people are named, which environment it is, and what the mappings make of an event."""

    identity: str
    environment: str
    mappings: tuple[DestinationMapping, ...]

    @property
    def enabled(self) -> tuple[DestinationMapping, ...]:
        """Return the mappings that are not switched off."""
        return tuple(mapping for mapping in self.mappings if mapping.enabled)


class Refused(NamedTuple):
    """A change that cannot be sent as the mappings are, and why."""

    change: OpenChange
    reason: str


class Parcel(NamedTuple):
    """What the open changes of one profile come to; the events must be posted in this order."""

    events: list[Event]
    refused: list[Refused]


@dataclass
class _Draft:
    """A body, and the mappings and changes it is made of."""

    body: Body
    made_of: list[tuple[DestinationMapping, OpenChange]] = field(default_factory=list)


def iso(moment: datetime) -> str:
    """Return an instant as the time of an event: ISO 8601 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change_event(changes: Sequence[OpenChange], destination: Destination, *, at: str) -> SegmentEvent:
    """Return changes of one profile as one Segment event; what tells audiences apart is that of the first.

    The identifiers are those of the newest change; values of one key are never joined from several.
    """
    newest = max(changes, key=_newness) if len(changes) > 1 else changes[0]
    return _event(changes, newest.identifiers, destination, at=at)


def make_parcel(
    changes: Sequence[OpenChange],
    destination: Destination,
    *,
    at: str,
    names: Iterable[str] | None = None,
    identifiers: str | None = None,
) -> Parcel:
    """Return the events that tell Schematic of all open changes of a profile, at the time `at`.

    `names` limits the mappings to these, and `identifiers` are then the ones to use: so the parts of an event are made.
    """
    mappings = destination.enabled
    if names is None:
        identifiers = max(changes, key=_newness).identifiers if len(changes) > 1 else changes[0].identifiers
    else:
        mappings = tuple(mapping for mapping in mappings if mapping.name in names)
    traits = [change.trait for change in changes]
    whole = [(changes, _event(changes, identifiers, destination, at=at))]
    apart: list[tuple[Sequence[OpenChange], SegmentEvent]] = []
    drafts: list[_Draft] = []
    reasons: dict[OpenChange, str] = {}
    for mapping in mappings:
        if len(changes) == 1 or mapping.joins(traits):
            groups = whole
        else:
            apart = apart or [([c], _event([c], identifiers, destination, at=at)) for c in changes]
            groups = apart
        for group, event in groups:
            outcome = apply(mapping, event)
            if isinstance(outcome, Rejection):
                reasons.update(dict.fromkeys(group, f"mapping {mapping.name!r}: {outcome.sentence}"))
            elif outcome is not None:
                _join(drafts, mapping, outcome, group)
    sent = {change for draft in drafts for _, change in draft.made_of}
    reasons |= {change: NOT_MAPPED for change in changes if change not in sent and change not in reasons}
    refused = [Refused(change, reasons[change]) for change in changes if change in reasons]
    return Parcel(_events(drafts, reasons, destination, identifiers), refused)


def _newness(change: OpenChange) -> tuple[int, int]:
    return change.generation, change.audience_id


def _event(
    changes: Sequence[OpenChange], identifiers: str | None, destination: Destination, *, at: str
) -> SegmentEvent:
    first = changes[0]
    known: Mapping[str, dict[str, Json]] = orjson.loads(identifiers) if identifiers else {}
    user: dict[str, Json] = {destination.identity: first.profile_key, **known.get("user", {})}
    context: dict[str, Json] = {
        "personas": {
            "computation_class": "audience",
            "computation_id": f"aud_{first.trait}",
            "computation_key": first.trait,
            "namespace": destination.environment,
            "space_id": destination.environment,
        },
        "user_keys": user,
    }
    event: dict[str, Json] = {
        "type": "identify",
        "messageId": f"personas_{first.audience_id}.{first.generation}.{first.profile_key}",
        "timestamp": at,
        "traits": {change.trait: orjson.loads(change.value) for change in changes},
        "context": context,
        "integrations": ONLY_SCHEMATIC,
    }
    for name in ("userId", "anonymousId"):
        if name in user:
            event[name] = user[name]
    if company := known.get("company"):
        context["company_keys"] = company
        if "groupId" in company:
            context["groupId"] = company["groupId"]
    return event


def _join(drafts: list[_Draft], mapping: DestinationMapping, body: Body, changes: Sequence[OpenChange]) -> None:
    """Add a body to the draft from which it differs in its traits alone, else as a draft of its own."""
    made_of = [(mapping, change) for change in changes]
    for draft in drafts:
        joined = _joined(draft.body, body)
        if joined is not None:
            draft.body = joined
            draft.made_of += made_of
            return
    drafts.append(_Draft(body, made_of))


def _joined(one: Body, other: Body) -> Body | None:
    """Return two identifies as one, or None if they say different things."""
    mine, theirs = one["body"], other["body"]
    if one["type"] != "identify" or not isinstance(mine, dict) or not isinstance(theirs, dict):
        return None
    traits, more = mine.get("traits", {}), theirs.get("traits", {})
    if _text({**one, "body": {**mine, "traits": None}}) != _text({**other, "body": {**theirs, "traits": None}}):
        return None
    if not isinstance(traits, dict) or not isinstance(more, dict):
        return None
    if any(_text(traits[name]) != _text(more[name]) for name in traits.keys() & more.keys()):
        return None
    return {**one, "body": {**mine, "traits": {**traits, **more}}}


def _text(value: object) -> bytes:
    """Return JSON that is equal for equal values; Python takes true for 1."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _events(
    drafts: Sequence[_Draft], refused: Mapping[OpenChange, str], destination: Destination, identifiers: str | None
) -> list[Event]:
    """Return drafts as events; the last that carries a change closes it, unless a mapping refused that change."""
    events: list[Event] = []
    open_ones = set(refused)  # the changes that an event further on, or nobody, closes
    for draft in reversed(drafts):
        carried = tuple(
            Carried(c.audience_id, c.generation, c.run_id, c.trait, c.value, c not in open_ones)
            for c in dict.fromkeys(change for _, change in draft.made_of)
        )
        open_ones.update(change for _, change in draft.made_of)
        first = draft.made_of[0][1]
        key = idempotency_key(
            destination.environment,
            first.profile_key,
            ((mapping.digest, c.audience_id, c.value, c.generation) for mapping, c in draft.made_of),
        )
        text = orjson.dumps({**draft.body, "idempotency_key": key}).decode()
        names = tuple(dict.fromkeys(mapping.name for mapping, _ in draft.made_of))
        events.append(Event(first.shard, first.profile_key, key, text, carried, names, identifiers))
    return events[::-1]
