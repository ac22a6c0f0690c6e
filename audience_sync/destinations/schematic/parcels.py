"""What the open changes of one profile come to: the events for Schematic that the mappings make of them.

They go together, in a parcel: one identify as a rule, more where mappings say different things. Bodies of identifies
that differ only in their traits are one event; track events are facts, and never joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Computation, Json
from audience_sync.destinations.schematic.actions import Rejection, RejectionReason
from audience_sync.destinations.schematic.mapping_rules import Body, Made, apply
from audience_sync.destinations.schematic.mapping_rules import Mapping as DestinationMapping
from audience_sync.destinations.schematic.stamps import Stamps
from audience_sync.destinations.schematic.wire_events import Carried, Event, OpenChange, idempotency_key
from audience_sync.segment.fql.trigger_tree import fields
from audience_sync.segment.mapping.template import reads
from audience_sync.segment.segment_events import SegmentEvent

# --- changes as Segment events ----------------------------------------------------------------------------------------
# Changes as Segment events, as an audience or computed trait of Segment Engage would send them.
#
# A change is an `identify`: the trait, ``context.personas`` that says which audience or computed trait, a `messageId`
# that a repetition shares, and an integrations object that names Schematic alone. Beside that ``context.user_keys``
# and ``context.company_keys`` have every key that the definition names, and ``context.change`` says what happened:
# entered, exited (of a computed trait: it is null now), updated (identifiers or value differ), or resent (nothing,
# but Schematic is to be told again).

ONLY_SCHEMATIC: Json = {"All": False, "Schematic": True}
_ID_STARTS: Final = {Computation.AUDIENCE: "aud", Computation.TRAIT: "trait"}


def newest(changes: Sequence[OpenChange]) -> OpenChange:
    """Return the change of a profile whose identifiers count: values of one key are never joined from several."""
    return changes[0] if len(changes) == 1 else max(changes, key=lambda one: (one.generation, one.audience_id))


def change_event(
    changes: Sequence[OpenChange], identifiers: str | None, *, identity: str, environment: str, at: str
) -> SegmentEvent:
    """Return changes of one profile as one Segment event; what tells changes apart is that of the first."""
    first = changes[0]
    computation = Computation(first.computation)
    known: Mapping[str, dict[str, Json]] = orjson.loads(identifiers) if identifiers else {}
    user: dict[str, Json] = {identity: first.profile_key, **known.get("user", {})}
    context: dict[str, Json] = {
        "personas": {
            "computation_class": computation.value,
            "computation_id": f"{_ID_STARTS[computation]}_{first.trait}",
            "computation_key": first.trait,
            "namespace": environment,
            "space_id": environment,
        },
        "change": first.kind,
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


# --- parcels ----------------------------------------------------------------------------------------------------------

_PROFILE = itemgetter(OpenChange._fields.index("profile_key"))
NOT_MAPPED = "no enabled mapping makes an event of it"
NOBODY = "the track event names neither a user nor a company: user_keys and company_keys have no key with a value"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where changes go: how its people are named, which environment it is, and what the mappings make of an event."""

    identity: str
    environment: str
    mappings: tuple[DestinationMapping, ...]

    @cached_property
    def enabled(self) -> tuple[DestinationMapping, ...]:
        """Return the mappings that are not switched off."""
        return tuple(mapping for mapping in self.mappings if mapping.enabled)

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> SegmentEvent:
        """Return changes of one profile as one Segment event; see `change_event`."""
        return change_event(changes, identifiers, identity=self.identity, environment=self.environment, at=at)

    @cached_property
    def of_one_computation(self) -> frozenset[DestinationMapping]:
        """Return the mappings for which changes of audiences and of computed traits are not alike."""
        return frozenset(filter(looks_at_the_computation, self.enabled))

    @cached_property
    def stamps(self) -> Stamps:
        """Return the quick way to the events of most changes."""
        return Stamps(self.enabled, self.event, environment=self.environment)


class Rejected(NamedTuple):
    """A change that cannot be sent as the mappings are, and why."""

    change: OpenChange
    reason: str


class Parcel(NamedTuple):
    """What the open changes of one profile come to; and the changes that cannot be sent."""

    events: list[Event]
    rejected: list[Rejected]


@dataclass(slots=True)
class _Draft:
    """A body, and what it is made of."""

    body: Body
    mappings: list[str]
    changes: Sequence[OpenChange]
    facts: list[tuple[str, int, str, int]]  # see `idempotency_key`


def make_parcel(changes: Sequence[OpenChange], destination: Destination, *, at: str) -> Parcel:
    """Return the events that tell Schematic of all open changes of a profile, at the time `at`."""
    identifiers = newest(changes).identifiers
    is_mixed = len(changes) > 1 and destination.of_one_computation and _are_mixed(changes)
    event = None if is_mixed else destination.stamps.event(changes, identifiers, at=at)
    if event is None:
        return resolve_parcel(changes, destination.enabled, destination, identifiers=identifiers, at=at)
    return Parcel([event], [])


def make_parcels(changes: Sequence[OpenChange], destination: Destination, *, at: str) -> list[Parcel]:
    """Return `make_parcel` of each profile in turn; the changes of a profile are neighbours."""
    by_profile = groupby(changes, key=_PROFILE)
    return [make_parcel(list(of_profile), destination, at=at) for _, of_profile in by_profile]


def resolve_parcel(
    changes: Sequence[OpenChange],
    mappings: Iterable[DestinationMapping],
    destination: Destination,
    *,
    identifiers: str | None,
    at: str,
) -> Parcel:
    """Return what some mappings make of changes, each resolved for this profile with these identifiers."""
    traits = [change.trait for change in changes]
    whole = [(changes, destination.event(changes, identifiers, at=at))]
    apart: list[tuple[Sequence[OpenChange], SegmentEvent]] = []
    drafts: list[_Draft] = []
    reasons: dict[OpenChange, str] = {}
    all_sent = False
    for mapping in mappings:
        groups = whole
        unlike = mapping in destination.of_one_computation and _are_mixed(changes)
        if len(changes) > 1 and (unlike or not mapping.joins(traits)):
            groups = apart = apart or [([c], destination.event([c], identifiers, at=at)) for c in changes]
        for group, event in groups:
            outcome = apply(mapping, event)
            if isinstance(outcome, Made) and _is_about_nobody(outcome.body):
                outcome = Rejection(RejectionReason.EMPTY_USER_KEYS, "user_keys", NOBODY)
            if isinstance(outcome, Rejection):
                reasons.update(dict.fromkeys(group, f"mapping {mapping.name!r}: {outcome.sentence}"))
            elif outcome is not None:
                _join(drafts, mapping, outcome.body, group)
                all_sent = all_sent or groups is whole
    if not all_sent:
        sent = {change for draft in drafts for change in draft.changes}
        reasons |= {change: NOT_MAPPED for change in changes if change not in sent and change not in reasons}
    rejected = [Rejected(change, reasons[change]) for change in changes if change in reasons] if reasons else []
    return Parcel(_events(drafts, reasons, destination, identifiers), rejected)


def looks_at_the_computation(mapping: DestinationMapping) -> bool:
    """Return whether what a mapping does depends on whether a change is of an audience or of a computed trait."""
    paths = fields(mapping.expression) | reads(dict(mapping.fields))
    return any(path[:3] == ("context", "personas", "computation_class") for path in paths)


def _are_mixed(changes: Sequence[OpenChange]) -> bool:
    """Return whether changes are of audiences and of computed traits."""
    return any(change.computation != changes[0].computation for change in changes)


def _is_about_nobody(body: Body) -> bool:
    """Return whether a track event says of no one what happened; of a person's change that is a mistake."""
    return body["type"] == "track" and isinstance(body["body"], dict) and not body["body"].keys() & {"user", "company"}


def _join(drafts: list[_Draft], mapping: DestinationMapping, body: Body, changes: Sequence[OpenChange]) -> None:
    """Add a body to the draft from which it differs in its traits alone, else as a draft of its own."""
    facts = _facts(mapping, changes)
    for draft in drafts:
        joined = _joined(draft.body, body)
        if joined is not None:
            draft.body = joined
            draft.facts += facts
            draft.mappings += [] if mapping.name in draft.mappings else [mapping.name]
            if draft.changes is not changes:
                draft.changes = list(dict.fromkeys([*draft.changes, *changes]))
            return
    drafts.append(_Draft(body, [mapping.name], changes, facts))


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
    return exact_json.dumps(value, option=orjson.OPT_SORT_KEYS)


def _events(
    drafts: Sequence[_Draft], rejected: Mapping[OpenChange, str], destination: Destination, identifiers: str | None
) -> list[Event]:
    """Return drafts as events, each under a key of its own."""
    events: list[Event] = []
    carriers = Counter(change for draft in drafts for change in draft.changes) if len(drafts) > 1 else {}
    keys: set[str] = set()
    for draft in drafts:
        profile_key = draft.changes[0].profile_key
        key = idempotency_key(destination.environment, profile_key, draft.facts)
        while key in keys:  # two mappings that are equal but for their triggers
            draft.facts.append(("again", 0, "", 0))
            key = idempotency_key(destination.environment, profile_key, draft.facts)
        keys.add(key)
        text = exact_json.dumps({**draft.body, "idempotency_key": key}).decode()
        shared = {c for c in draft.changes if carriers.get(c, 1) > 1 or c in rejected}
        events.append(_event(draft.changes, key, text, tuple(draft.mappings), identifiers, shared=shared))
    return events


def _facts(mapping: DestinationMapping, changes: Sequence[OpenChange]) -> list[tuple[str, int, str, int]]:
    """Return what an event says of changes; see `idempotency_key`."""
    return [(mapping.digest, change.audience_id, change.value, change.generation) for change in changes]


def _event(
    changes: Sequence[OpenChange],
    key: str,
    body: str,
    names: tuple[str, ...],
    identifiers: str | None,
    *,
    shared: Set[OpenChange] = frozenset(),
) -> Event:
    """Return an event that carries changes of one profile, and is not alone in carrying the `shared` ones."""
    first = changes[0]
    carried = [Carried(c.audience_id, c.generation, c.run_id, c.trait, c.value, c.kind, c in shared) for c in changes]
    return Event(first.profile_key, key, body, identifiers, tuple(carried), names)
