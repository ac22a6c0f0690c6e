"""The presets: the two mappings that serve when the configuration has none.

They are Segment's "Identify User" and "Track Event" (seed table "Available Presets") with two differences: the traits
of an identify travel (Segment's preset forgets them, and with them every audience), and the keys that an audience's
query names beside userId and groupId are sent, too.
"""

from __future__ import annotations

from typing import Final

from audience_sync.core.model import Json
from audience_sync.destinations.schematic.actions import Action
from audience_sync.destinations.schematic.mapping_rules import ALL_TRAITS, Mapping, make_mapping
from audience_sync.segment.fql.trigger_tree import Comparison

_TIMESTAMP: Final[Json] = {"@path": "$.timestamp"}


def _keys(all_of_them: str, name: str, path: str) -> Json:
    """Return the keys that an audience change has, or the one that any other event has."""
    them: Json = {"@path": all_of_them}
    return {"@if": {"exists": them, "then": them, "else": {name: {"@path": path}}}}


DEFAULTS: Final[dict[Action, dict[str, Json]]] = {
    Action.IDENTIFY_USER: {
        "user_keys": _keys("$.context.user_keys", "userId", "$.userId"),
        "user_name": {"@path": "$.traits.name"},
        "user_traits": dict(ALL_TRAITS),
        "company_keys": _keys("$.context.company_keys", "groupId", "$.context.groupId"),
        "company_name": {"@path": "$.traits.company_name"},
        "timestamp": _TIMESTAMP,
    },
    Action.TRACK_EVENT: {
        "event_name": {"@path": "$.event"},
        "user_keys": _keys("$.context.user_keys", "userId", "$.userId"),
        "traits": {"raw_event_name": {"@path": "$.event"}},
        "timestamp": _TIMESTAMP,
    },
}
"""The fields of each preset. A mapping of the configuration takes those that are required and that it leaves out."""

# Expressions, not texts: to build the parser takes longer than most commands.
TRIGGERS: Final = {
    Action.IDENTIFY_USER: Comparison(("type",), "=", "identify"),
    Action.TRACK_EVENT: Comparison(("type",), "=", "track"),
}
"""The trigger of each preset, and of a mapping that leaves it out."""


def presets() -> tuple[Mapping, ...]:
    """Return the mappings of a configuration that has none."""
    names = {Action.IDENTIFY_USER: "Identify User", Action.TRACK_EVENT: "Track Event"}
    return tuple(
        make_mapping(name, trigger=TRIGGERS[action], action=action, fields=DEFAULTS[action])
        for action, name in names.items()
    )
