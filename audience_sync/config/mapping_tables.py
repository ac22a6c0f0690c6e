"""`[[mappings]]`: what an event becomes. Triggers and fields are read here, and their faults told with the rest.

A required field that a mapping leaves out is that of the preset; what else it leaves out is not sent.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterator
from typing import Any

from audience_sync.config.cross_checks import Spell
from audience_sync.config.problems import Problem, near
from audience_sync.config.tables import MappingTable
from audience_sync.core.model import Json
from audience_sync.destinations.actions import Field, FieldKind
from audience_sync.destinations.mappings import MOST_MAPPINGS, Mapping, make_mapping, presets
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.errors import TriggerError
from audience_sync.segment.mapping.validation import directive_of, problems


def check_mappings(raw: abc.Mapping[str, Any], spell: Spell) -> Iterator[Problem]:
    """Yield what is wrong with the mappings of the file beyond the types of their settings."""
    entries = raw.get("mappings")
    if not isinstance(entries, list):
        return
    if len(entries) > MOST_MAPPINGS:
        yield Problem(
            ("mappings",), f"must have at most {MOST_MAPPINGS} entries, as in Segment, but has {len(entries)}"
        )
    owners: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        if isinstance(name := entry.get("name"), str) and owners.setdefault(name, index) != index:
            first = spell(("mappings", owners[name]))
            yield Problem(("mappings", index, "name"), f"is also the name of {first}; rename one of them")
        yield from _trigger(entry, index)
        yield from _fields(entry, index)


def make_mappings(entries: abc.Sequence[MappingTable]) -> tuple[Mapping, ...]:
    """Return the mappings of a file without problems, or the presets if it has none."""
    return tuple(map(_mapping, entries)) or presets(ACTIONS.values())


def _mapping(entry: MappingTable) -> Mapping:
    action = ACTIONS[entry.action]
    defaults = {name: value for name, value in action.preset_fields.items() if name in action.required}
    return make_mapping(
        entry.name,
        trigger=action.preset_trigger if entry.trigger is None else entry.trigger,
        action=action,
        fields={**defaults, **entry.fields},
        enabled=entry.enabled,
    )


def _trigger(entry: abc.Mapping[str, Any], index: int) -> Iterator[Problem]:
    trigger = entry.get("trigger")
    if isinstance(trigger, str):
        from audience_sync.segment.fql.trigger_parser import parse  # noqa: PLC0415 - Lark is slow to import

        try:
            parse(trigger)
        except TriggerError as error:
            yield Problem(("mappings", index, "trigger"), str(error))


def _fields(entry: abc.Mapping[str, Any], index: int) -> Iterator[Problem]:
    """Yield unknown fields, values that can never be of their field's type, and faults of the directives."""
    action, given = entry.get("action"), entry.get("fields", {})
    if not isinstance(action, str) or action not in ACTIONS or not isinstance(given, dict):
        return
    known = {field.name: field for field in ACTIONS[action].fields}
    location = ("mappings", index, "fields")
    for name, value in given.items():
        if name not in known:
            yield Problem((*location, name), f"unknown field of {action}{near(name, known)}")
        elif (sentence := _mistyped(known[name], value)) is not None:
            yield Problem((*location, name), sentence)
    for path, sentence, _ in problems(given):
        yield Problem((*location, *path), sentence)


def _mistyped(field: Field, value: Json) -> str | None:
    """Return why a value can never be right for a field; what a directive resolves to is seen event by event."""
    if directive_of(value) is not None:
        return None
    is_object = isinstance(value, dict)
    if field.kind is FieldKind.OBJECT and not is_object:
        return 'must be a table, or a directive such as { "@path" = "$.traits" }'
    if field.kind is not FieldKind.OBJECT and (is_object or isinstance(value, list)):
        return 'must be text, or a directive such as { "@path" = "$.traits.name" }'
    return None
