"""The two actions of Schematic, with the fields that Segment's documentation lists, and their presets.

The presets are Segment's "Identify User" and "Track Event" (seed table "Available Presets") with two differences: the
traits of an identify are sent (Segment's preset forgets them, and with them every audience), and so are the keys that
an audience's query names in addition to userId and groupId.
"""

from __future__ import annotations

from typing import Final

from audience_sync.core.model import Json
from audience_sync.destinations.actions import Action, Field, FieldKind
from audience_sync.destinations.mappings import ALL_TRAITS
from audience_sync.destinations.schematic.schematic_bodies import IDENTIFY, TRACK, identify_body, track_body
from audience_sync.segment.fql.trigger_tree import FieldComparison

_COMPANY_KEYS = "the keys that identify the company in Schematic, such as groupId"
_USER_KEYS = "the keys that identify the user in Schematic, such as userId"
_TIMESTAMP_FIELD = Field(
    "timestamp", FieldKind.DATETIME, True, "Timestamp", "the time of the event: ISO 8601 or a Unix time"
)
_TIMESTAMP: Final[Json] = {"@path": "$.timestamp"}


def _keys(all_of_them: str, name: str, path: str) -> Json:
    """Return the keys that an audience change has, or the one that any other event has."""
    them: Json = {"@path": all_of_them}
    return {"@if": {"exists": them, "then": them, "else": {name: {"@path": path}}}}


# Triggers are expressions, not texts: building the parser takes longer than most commands.
IDENTIFY_USER: Final = Action(
    name=IDENTIFY,
    fields=(
        Field("company_keys", FieldKind.OBJECT, True, "Company keys", _COMPANY_KEYS),
        Field("company_name", FieldKind.STRING, False, "Company name", "the company's name"),
        Field("company_traits", FieldKind.OBJECT, False, "Company traits", "the company's traits"),
        _TIMESTAMP_FIELD,
        Field("user_keys", FieldKind.OBJECT, True, "User keys", _USER_KEYS),
        Field("user_name", FieldKind.STRING, False, "User name", "the user's full name"),
        Field("user_traits", FieldKind.OBJECT, False, "User traits", "the user's traits"),
    ),
    make_body=identify_body,
    preset_name="Identify User",
    preset_trigger=FieldComparison(("type",), "=", "identify"),
    preset_fields={
        "user_keys": _keys("$.context.user_keys", "userId", "$.userId"),
        "user_name": {"@path": "$.traits.name"},
        "user_traits": dict(ALL_TRAITS),
        "company_keys": _keys("$.context.company_keys", "groupId", "$.context.groupId"),
        "company_name": {"@path": "$.traits.company_name"},
        "timestamp": _TIMESTAMP,
    },
    trait_fields=frozenset({"user_traits", "company_traits"}),
)
TRACK_EVENT: Final = Action(
    name=TRACK,
    fields=(
        Field(
            "event_name",
            FieldKind.STRING,
            True,
            "Event name",
            "the name of the event, in snake_case if Schematic does not accept it as is",
        ),
        Field("company_keys", FieldKind.OBJECT, False, "Company keys", _COMPANY_KEYS),
        _TIMESTAMP_FIELD,
        Field("user_keys", FieldKind.OBJECT, False, "User keys", _USER_KEYS),
        Field("traits", FieldKind.OBJECT, False, "Traits", "additional data about the event"),
    ),
    make_body=track_body,
    preset_name="Track Event",
    preset_trigger=FieldComparison(("type",), "=", "track"),
    preset_fields={
        "event_name": {"@path": "$.event"},
        "user_keys": _keys("$.context.user_keys", "userId", "$.userId"),
        "traits": {"raw_event_name": {"@path": "$.event"}},
        "timestamp": _TIMESTAMP,
    },
)
ACTIONS: Final = {action.name: action for action in (IDENTIFY_USER, TRACK_EVENT)}
