"""A mapping: a trigger that says which events, an action, and fields that say what of an event goes into its body.

A mapping is made once, from what the configuration says or from a preset, and applied to every event.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.destinations.schematic.actions import Action, Rejection, RejectionReason, make_body
from audience_sync.errors import MappingError
from audience_sync.segment.fql.matcher import matcher
from audience_sync.segment.fql.trigger_tree import Expression, fields, to_text
from audience_sync.segment.mapping.template import compile_mapping, reads
from audience_sync.segment.segment_events import SegmentEvent
from audience_sync.segment.timestamps import kept_away

Body: TypeAlias = dict[str, Json]

MOST_MAPPINGS = 50
"""So many mappings one destination has at most (Segment's limit, in its documentation of Schematic)."""

ALL_TRAITS = {"@path": "$.traits"}


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
    """What becomes of one event: the bodies to be sent, and why there are no others."""

    bodies: list[tuple[Mapping, Made]]
    rejections: list[tuple[Mapping, Rejection]]
    kept_away: str | None  # by the event's integrations object, or because no trigger matches


NO_MATCHING_MAPPING = "no_matching_mapping"


def make_mapping(
    name: str, *, trigger: str | Expression, action: Action, fields: abc.Mapping[str, Json], enabled: bool = True
) -> Mapping:
    """Return a mapping; its trigger may be parsed already.

    Raises:
        TriggerError: the trigger cannot be read.
        MappingError: the fields are no mapping.
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
        digest=blake2b(exact_json.dumps([action, fields], option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest(),
        named_traits=_named_traits(expression, action, fields),
    )


def apply(mapping: Mapping, event: SegmentEvent) -> Made | Rejection | None:
    """Return the body a mapping makes of an event, why it cannot, or None if its trigger does not match.

    A body that nests too deep for JSON, or has text that is not valid Unicode, is a rejection.
    """
    if not mapping.matches(event):
        return None
    try:
        body = make_body(mapping.action, mapping.resolve(event))
        return Made(body, exact_json.dumps(body)) if isinstance(body, dict) else body
    except MappingError as error:
        return Rejection(RejectionReason.UNRESOLVABLE, "", str(error))
    except orjson.JSONEncodeError as error:
        return Rejection(RejectionReason.UNENCODABLE, "", f"the body cannot be written as JSON: {error}")


def judge(event: SegmentEvent, mappings: abc.Iterable[Mapping]) -> Verdict:
    """Pass an event through its integrations object and every enabled mapping."""
    reason = kept_away(event.get("integrations"), event.get("options"))
    if reason is not None:
        return Verdict([], [], reason)
    bodies: list[tuple[Mapping, Made]] = []
    rejections: list[tuple[Mapping, Rejection]] = []
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
    if action is not Action.IDENTIFY_USER:
        return None
    whole = {name for name in ("user_traits", "company_traits") if mapped.get(name) == ALL_TRAITS}
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
