"""Mappings: a trigger that selects events, an action, and the fields that its body is made of.

A mapping is made once, from the configuration or from a preset, and applied to every event.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.destinations.actions import Action, Body, BodyRejection, RejectionReason
from audience_sync.errors import MappingError
from audience_sync.segment.fql.matcher import matcher
from audience_sync.segment.fql.trigger_tree import Expression, fields, to_text
from audience_sync.segment.mapping.template import compile_mapping, reads
from audience_sync.segment.segment_events import SegmentEvent, kept_away

MOST_MAPPINGS = 50
"""The most mappings of one destination (Segment's limit, in its documentation of Schematic)."""

ALL_TRAITS = {"@path": "$.traits"}

_OF_THE_ENVIRONMENT = (("context", "personas", "namespace"), ("context", "personas", "space_id"))


@dataclass(frozen=True, eq=False)
class Mapping:
    """One mapping, ready to be applied."""

    name: str
    enabled: bool
    action: Action
    trigger: str  # as it was written
    expression: Expression
    fields: abc.Mapping[str, Json]
    matches: Callable[[SegmentEvent], bool]
    resolve: Callable[[SegmentEvent], abc.Mapping[str, Json]]
    digest: str  # of action and fields: part of the key of every event
    named_traits: frozenset[str] | None  # see `joins`

    def joins(self, traits: abc.Iterable[str]) -> bool:
        """Return whether changes of one profile in these traits can be applied as one event, with all the traits.

        They can when the mapping sends the traits as a whole and looks at nothing in which the changes differ.
        """
        return self.named_traits is not None and self.named_traits.isdisjoint(traits)


class Made(NamedTuple):
    """A body that a mapping makes of an event, and its JSON text."""

    body: Body
    text: bytes


class Verdict(NamedTuple):
    """The bodies that the mappings make of one event, and why the other mappings make none."""

    bodies: list[tuple[Mapping, Made]]
    rejections: list[tuple[Mapping, BodyRejection]]
    kept_away: str | None  # by the event's integrations object, or because no trigger matches


NO_MATCHING_MAPPING = "no_matching_mapping"


def make_mapping(
    name: str, *, trigger: str | Expression, action: Action, fields: abc.Mapping[str, Json], enabled: bool = True
) -> Mapping:
    """Return a mapping; its trigger may be parsed already.

    Raises:
        TriggerError: the trigger cannot be read.
        MappingError: the fields are not a valid mapping.
    """
    expression = _parse(trigger) if isinstance(trigger, str) else trigger
    return Mapping(
        name=name,
        enabled=enabled,
        action=action,
        trigger=trigger if isinstance(trigger, str) else to_text(trigger),
        expression=expression,
        fields=fields,
        matches=matcher(expression),
        resolve=compile_mapping(dict(fields)),  # type: ignore[arg-type]  # an object resolves to an object
        digest=blake2b(exact_json.dumps([action.name, fields], option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest(),
        named_traits=_named_traits(expression, action, fields),
    )


def apply(mapping: Mapping, event: SegmentEvent) -> Made | BodyRejection | None:
    """Return the body a mapping makes of an event, why it cannot, or None if its trigger does not match.

    A body that nests too deep for JSON, or has text that is not valid Unicode, is a rejection.
    """
    if not mapping.matches(event):
        return None
    try:
        body = mapping.action.make_body(mapping.resolve(event))
        return Made(body, exact_json.dumps(body)) if isinstance(body, dict) else body
    except MappingError as error:
        return BodyRejection(RejectionReason.UNRESOLVABLE, "", str(error))
    except orjson.JSONEncodeError as error:
        return BodyRejection(RejectionReason.UNENCODABLE, "", f"the body cannot be written as JSON: {error}")


def judge(event: SegmentEvent, mappings: abc.Iterable[Mapping], *, destination: str) -> Verdict:
    """Pass an event through its integrations object, which names destinations, and every enabled mapping."""
    reason = kept_away(event.get("integrations"), event.get("options"), destination=destination)
    if reason is not None:
        return Verdict([], [], reason)
    bodies: list[tuple[Mapping, Made]] = []
    rejections: list[tuple[Mapping, BodyRejection]] = []
    for mapping in mappings:
        outcome = apply(mapping, event) if mapping.enabled else None
        if isinstance(outcome, Made):
            bodies.append((mapping, outcome))
        elif outcome is not None:
            rejections.append((mapping, outcome))
    return Verdict(bodies, rejections, None if bodies or rejections else NO_MATCHING_MAPPING)


def _parse(trigger: str) -> Expression:
    from audience_sync.segment.fql.trigger_parser import parse  # noqa: PLC0415 - Lark is slow to import

    return parse(trigger)


def _named_traits(expression: Expression, action: Action, mapped: abc.Mapping[str, Json]) -> frozenset[str] | None:
    """Return the traits a mapping names, or None when changes of one profile must be applied one by one."""
    if not action.trait_fields:
        return None
    whole = {name for name in action.trait_fields if mapped.get(name) == ALL_TRAITS}
    others = {name: value for name, value in mapped.items() if name not in whole}
    paths = reads(others) | fields(expression)
    if not all(is_shared(path) for path in paths):
        return None
    return frozenset(path[1] for path in paths if path[0] == "traits")


def is_shared(path: tuple[str, ...]) -> bool:
    """Return whether all changes of one profile have the same at a path, traits of that name excepted."""
    match path:
        case ("traits", _, *_):
            return True
        case ("context", "personas", part, *_):
            return part in ("computation_class", "namespace", "space_id")
        case ("context", part, *_):
            return part not in ("personas", "change")
        case () | ("context" | "traits" | "messageId",):
            return False
        case _:
            return path[0] != "messageId"


def looks_at_the_computation(mapping: Mapping) -> bool:
    """Return whether what a mapping does depends on whether a change is of an audience or of a computed trait."""
    paths = fields(mapping.expression) | reads(dict(mapping.fields))
    return any(path[:3] == ("context", "personas", "computation_class") for path in paths)


def looks_at_the_environment(mapping: Mapping) -> bool:
    """Return whether what a mapping does depends on the environment, which the first delivery finds out."""
    paths = fields(mapping.expression) | reads(dict(mapping.fields))
    return any(path == whole[: len(path)] for path in paths for whole in _OF_THE_ENVIRONMENT)


def presets(actions: Iterable[Action]) -> tuple[Mapping, ...]:
    """Return the mappings of a configuration that has none."""
    return tuple(
        make_mapping(one.preset_name, trigger=one.preset_trigger, action=one, fields=one.preset_fields)
        for one in actions
    )
