"""The two actions of the Schematic destination and their fields, as Segment's documentation lists them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What a mapping makes of an event."""

    IDENTIFY_USER = "identifyUser"
    TRACK_EVENT = "trackEvent"


class FieldKind(StrEnum):
    """The type of a field."""

    OBJECT = "object"
    STRING = "string"
    DATETIME = "datetime"


@dataclass(frozen=True)
class Field:
    """One thing that a mapping tells an action."""

    name: str
    kind: FieldKind
    required: bool
    label: str
    description: str


_COMPANY_KEYS = "the keys Schematic finds the company by, such as groupId"
_USER_KEYS = "the keys Schematic finds the user by, such as userId"
_TIMESTAMP = Field("timestamp", FieldKind.DATETIME, True, "Timestamp", "when it happened: ISO 8601 or a unix time")

FIELDS: Final[dict[Action, tuple[Field, ...]]] = {
    Action.TRACK_EVENT: (
        Field("event_name", FieldKind.STRING, True, "Event name", "what happened; snake_cased if Schematic refuses it"),
        Field("company_keys", FieldKind.OBJECT, False, "Company keys", _COMPANY_KEYS),
        _TIMESTAMP,
        Field("user_keys", FieldKind.OBJECT, False, "User keys", _USER_KEYS),
        Field("traits", FieldKind.OBJECT, False, "Traits", "what else is known of what happened"),
    ),
    Action.IDENTIFY_USER: (
        Field("company_keys", FieldKind.OBJECT, True, "Company keys", _COMPANY_KEYS),
        Field("company_name", FieldKind.STRING, False, "Company name", "how the company is called"),
        Field("company_traits", FieldKind.OBJECT, False, "Company traits", "what is known of the company"),
        _TIMESTAMP,
        Field("user_keys", FieldKind.OBJECT, True, "User keys", _USER_KEYS),
        Field("user_name", FieldKind.STRING, False, "User name", "the user's full name"),
        Field("user_traits", FieldKind.OBJECT, False, "User traits", "what is known of the user"),
    ),
}
REQUIRED: Final = {action: {field.name for field in fields if field.required} for action, fields in FIELDS.items()}
"""The names of the fields that an action needs."""
