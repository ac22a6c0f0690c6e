"""Render open changes and forwarded events as events of Schematic, with the mappings of one configuration.

The open changes of a profile become one identify as a rule, and more where mappings differ. Bodies of identifies that
differ only in their traits are one event; track events are facts, and never joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Final

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Computation, Json, TraitType
from audience_sync.destinations.actions import Body, BodyRejection, RejectionReason
from audience_sync.destinations.change_events import change_event, newest
from audience_sync.destinations.destination_protocol import Coverage
from audience_sync.destinations.mappings import (
    Made,
    apply,
    judge,
    looks_at_the_computation,
    looks_at_the_environment,
)
from audience_sync.destinations.mappings import Mapping as EventMapping
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.rendered_events import (
    NOT_MAPPED,
    BatchContents,
    Carried,
    Fact,
    ForwardedEvent,
    ForwardedProfileEvents,
    ProfileEvents,
    RejectedChange,
    RenderedEvent,
    facts_of,
    idempotency_key,
)
from audience_sync.destinations.sample_changes import AT, PEOPLE, sample, sample_values
from audience_sync.destinations.schematic.compiled_bodies import CompiledBodies
from audience_sync.destinations.schematic.forwarded_bodies import render_forwarded
from audience_sync.destinations.schematic.mapping_coverage import coverage
from audience_sync.destinations.schematic.wire_format import DISPLAY_NAME, with_idempotency_key
from audience_sync.segment.segment_events import SegmentEvent

ONLY_SCHEMATIC: Final[Json] = {"All": False, DISPLAY_NAME: True}
NOBODY = "the track event has no user and no company: no key in user_keys or company_keys has a value"
_PROFILE = itemgetter(OpenChange._fields.index("profile_key"))


@dataclass(frozen=True, kw_only=True)
class SchematicRenderer:
    """The renderer of one Schematic environment: see `Renderer`."""

    identity: str
    environment: str
    mappings: tuple[EventMapping, ...]

    @cached_property
    def enabled(self) -> tuple[EventMapping, ...]:
        """Return the mappings that are not switched off."""
        return tuple(mapping for mapping in self.mappings if mapping.enabled)

    @property
    def undecided(self) -> tuple[EventMapping, ...]:
        """Return the enabled mappings that depend on the environment, as long as it is not known."""
        return () if self.environment else tuple(filter(looks_at_the_environment, self.enabled))

    @cached_property
    def of_one_computation(self) -> frozenset[EventMapping]:
        """Return the mappings for which changes of audiences and of computed traits are not alike."""
        return frozenset(filter(looks_at_the_computation, self.enabled))

    @cached_property
    def compiled(self) -> CompiledBodies:
        """Return the compiled bodies, which make the events of most changes."""
        return CompiledBodies(self.enabled, self.event, environment=self.environment)

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> SegmentEvent:
        """Return changes of one profile as one Segment event; see `change_event`."""
        return change_event(
            changes,
            identifiers,
            identity=self.identity,
            environment=self.environment,
            at=at,
            integrations=ONLY_SCHEMATIC,
        )

    def profile_events(self, changes: Sequence[OpenChange], *, at: str) -> list[ProfileEvents]:
        """Return the events of the open changes of each profile; the changes of a profile are neighbours."""
        return [self._of_profile(list(of_profile), at=at) for _, of_profile in groupby(changes, key=_PROFILE)]

    def batch(self, changes: OpenChanges, *, at: str) -> BatchContents | None:
        """Return the events of changes of different profiles in one step, or None if mappings must be applied."""
        return self.compiled.contents(changes, at=at)

    def apart(self, change: OpenChange, *, mappings: Collection[str], at: str) -> ProfileEvents:
        """Return the events that the enabled mappings of these names make of one change alone."""
        chosen = [mapping for mapping in self.enabled if mapping.name in mappings]
        return resolve_changes([change], chosen, self, identifiers=change.identifiers, at=at)

    def forwarded(self, waiting: Sequence[ForwardedEvent], *, most: int) -> ForwardedProfileEvents:
        """Return the events of the first of some waiting events of one profile; at most `most`, if they fit."""
        return render_forwarded(waiting, self.enabled, environment=self.environment, most=most)

    def coverage(
        self,
        trait: str,
        *,
        user_keys: Collection[str],
        company_keys: Collection[str],
        computation: Computation,
        trait_type: TraitType | None,
    ) -> Coverage:
        """Return how the changes of an audience or computed trait with these keys reach Schematic."""
        undecided = self.undecided
        sure = replace(self, mappings=tuple(one for one in self.enabled if one not in undecided))
        value, none = sample_values(computation, trait_type)
        keys = user_keys, company_keys
        entries = [sample(trait, value, who, *keys, computation, identity=self.identity) for who in PEOPLE]
        return coverage(entries, none, lambda change: sure.profile_events([change], at=AT)[0], undecided=len(undecided))

    def user_traits(self, event: SegmentEvent) -> set[str]:
        """Return the names of the user traits that a forwarded event would set."""
        made = [made.body for _, made in judge(event, self.mappings, destination=DISPLAY_NAME).bodies]
        bodies = [body["body"] for body in made if body["type"] == "identify"]
        traits = [body.get("traits") for body in bodies if isinstance(body, dict)]
        return {name for one in traits if isinstance(one, dict) for name in one}

    def _of_profile(self, changes: Sequence[OpenChange], *, at: str) -> ProfileEvents:
        identifiers = newest(changes).identifiers
        is_mixed = len(changes) > 1 and self.of_one_computation and _are_mixed(changes)
        event = None if is_mixed else self.compiled.event(changes, identifiers, at=at)
        if event is None:
            return resolve_changes(changes, self.enabled, self, identifiers=identifiers, at=at)
        return ProfileEvents([event], [])


@dataclass(slots=True)
class _Draft:
    """A body, and what it is made of."""

    body: Body
    mappings: list[str]
    changes: Sequence[OpenChange]
    facts: list[Fact]


def resolve_changes(
    changes: Sequence[OpenChange],
    mappings: Collection[EventMapping],
    renderer: SchematicRenderer,
    *,
    identifiers: str | None,
    at: str,
) -> ProfileEvents:
    """Return the events that some mappings make of changes, each resolved for this profile with these identifiers."""
    traits = [change.trait for change in changes]
    whole = [(changes, renderer.event(changes, identifiers, at=at))]
    apart: list[tuple[Sequence[OpenChange], SegmentEvent]] = []
    drafts: list[_Draft] = []
    reasons: dict[OpenChange, str] = {}
    all_sent = False
    for mapping in mappings:
        groups = whole
        unlike = mapping in renderer.of_one_computation and _are_mixed(changes)
        if len(changes) > 1 and (unlike or not mapping.joins(traits)):
            groups = apart = apart or [([c], renderer.event([c], identifiers, at=at)) for c in changes]
        for group, event in groups:
            outcome = apply(mapping, event)
            if isinstance(outcome, Made) and _is_about_nobody(outcome.body):
                outcome = BodyRejection(RejectionReason.EMPTY_USER_KEYS, "user_keys", NOBODY)
            if isinstance(outcome, BodyRejection):
                reasons.update(dict.fromkeys(group, f"mapping {mapping.name!r}: {outcome.sentence}"))
            elif outcome is not None:
                _join(drafts, mapping, outcome.body, group)
                all_sent = all_sent or groups is whole
    if not all_sent:
        sent = {change for draft in drafts for change in draft.changes}
        reasons |= {change: NOT_MAPPED for change in changes if change not in sent and change not in reasons}
    rejected = [RejectedChange(change, reasons[change]) for change in changes if change in reasons] if reasons else []
    return ProfileEvents(_events(drafts, reasons, renderer.environment, identifiers), rejected)


def _are_mixed(changes: Sequence[OpenChange]) -> bool:
    """Return whether changes are of audiences and of computed traits."""
    return any(change.computation != changes[0].computation for change in changes)


def _is_about_nobody(body: Body) -> bool:
    """Return whether a track event says of no one what happened; of a person's change that is a mistake."""
    return body["type"] == "track" and isinstance(body["body"], dict) and not body["body"].keys() & {"user", "company"}


def _join(drafts: list[_Draft], mapping: EventMapping, body: Body, changes: Sequence[OpenChange]) -> None:
    """Add a body to the draft from which it differs in its traits alone, else as a draft of its own."""
    facts = facts_of(mapping.digest, changes)
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
    drafts: Sequence[_Draft], rejected: Mapping[OpenChange, str], environment: str, identifiers: str | None
) -> list[RenderedEvent]:
    """Return drafts as events, each under a key of its own."""
    events: list[RenderedEvent] = []
    carriers = Counter(change for draft in drafts for change in draft.changes) if len(drafts) > 1 else {}
    keys: set[str] = set()
    for draft in drafts:
        profile_key = draft.changes[0].profile_key
        key = idempotency_key(environment, profile_key, draft.facts)
        while key in keys:  # two mappings that are equal but for their triggers
            draft.facts.append(("again", 0, "", 0))
            key = idempotency_key(environment, profile_key, draft.facts)
        keys.add(key)
        text = with_idempotency_key(exact_json.dumps(draft.body).decode(), key)
        shared = {c for c in draft.changes if carriers.get(c, 1) > 1 or c in rejected}
        events.append(_event(draft.changes, key, text, tuple(draft.mappings), identifiers, shared=shared))
    return events


def _event(
    changes: Sequence[OpenChange],
    key: str,
    body: str,
    names: tuple[str, ...],
    identifiers: str | None,
    *,
    shared: Set[OpenChange] = frozenset(),
) -> RenderedEvent:
    """Return an event that carries changes of one profile, and is not alone in carrying the `shared` ones."""
    first = changes[0]
    carried = tuple(Carried.of(change, shared=change in shared) for change in changes)
    return RenderedEvent(first.profile_key, key, body, identifiers, carried, names)
