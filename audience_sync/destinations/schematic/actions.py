"""The two actions of the Schematic destination, their fields, and the bodies that they make of resolved fields.

A body is whole or not made: a required field that is missing, a value of another type, or a user without keys is a
rejection that says so. Null and "" are as missing, and so is a key of blanks, which would make one user of many;
numbers and booleans become text where text belongs. Traits go as they are, with null and false. A rejection names
fields and keys, never what an event says in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from audience_sync.core.keys import audience_key
from audience_sync.core.model import Json
from audience_sync.segment.mapping.segment_text import number_text
from audience_sync.segment.timestamps import to_utc

# --- event names ------------------------------------------------------------------------------------------------------
# The name of a track event in Schematic, which takes ASCII letters, digits, ``-`` and ``_`` only.

_ACCEPTED: Final = re.compile("[A-Za-z0-9_-]+")


@lru_cache(maxsize=1024)  # a source has few names and many events
def event_name(raw: str) -> str:
    """Return the name of an event in lower case, snake_cased if Schematic would refuse it.

    It is empty when a name that must be snake_cased has no letter and no digit.

    >>> event_name("Order Completed"), event_name("Sign-Up"), event_name("!!!")
    ('order_completed', 'sign-up', '')
    """
    return raw.lower() if _ACCEPTED.fullmatch(raw) else audience_key(raw)


# --- fields -----------------------------------------------------------------------------------------------------------
# The two actions of the Schematic destination and their fields, as Segment's documentation lists them.


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


# --- actions ----------------------------------------------------------------------------------------------------------

RAW_EVENT_NAME: Final = "raw_event_name"
_IDENTIFY: Final = Action.IDENTIFY_USER  # to look a member up in its enum costs as much as a function call or two
_TRACK: Final = Action.TRACK_EVENT


class RejectionReason(StrEnum):
    """Why no body is made of an event."""

    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_USER_KEYS = "empty_user_keys"
    UNUSABLE_KEY = "unusable_key"  # the value of a key is an object, a list, or not a finite number
    BAD_TIMESTAMP = "bad_timestamp"
    UNUSABLE_EVENT_NAME = "unusable_event_name"
    UNRESOLVABLE = "unresolvable"  # a directive of the mapping cannot be followed for this event
    UNENCODABLE = "unencodable"  # it nests too deep for JSON, or has text that is not valid Unicode


class Rejection(NamedTuple):
    """An event that an action cannot make a body of; the field is "" when it is not known."""

    reason: RejectionReason
    field: str
    sentence: str


class _Refusal(Exception):
    """Carries a rejection from where it is found to `make_body`."""

    def __init__(self, reason: RejectionReason, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.rejection = Rejection(reason, field, sentence)


def make_body(action: Action, values: Mapping[str, Json]) -> dict[str, Json] | Rejection:
    """Return what is posted to Schematic, without the API key, or why there is nothing to post.

    `values` are the fields of a mapping as they are resolved for an event. The body shares its objects with them.
    """
    try:
        return _identify(values) if action is _IDENTIFY else _track(values)
    except _Refusal as refusal:
        return refusal.rejection


def _identify(values: Mapping[str, Json]) -> dict[str, Json]:
    action, get = _IDENTIFY, values.get
    user_keys = _keys(action, "user_keys", get("user_keys"))
    company_keys = _keys(action, "company_keys", get("company_keys"))
    if not user_keys:
        sentence = f"the field user_keys has no key with a value, and {action} needs one"
        raise _Refusal(RejectionReason.EMPTY_USER_KEYS, "user_keys", sentence)
    sent_at = _sent_at(action, get("timestamp"))
    body: dict[str, Json] = {"keys": user_keys}
    if (value := get("user_name")) is not None:
        _put(body, "name", _text("user_name", value))
    if (value := get("user_traits")) is not None:
        _put(body, "traits", _object("user_traits", value))
    company: dict[str, Json] = {"keys": company_keys}
    if (value := get("company_name")) is not None:
        _put(company, "name", _text("company_name", value))
    if (value := get("company_traits")) is not None:
        _put(company, "traits", _object("company_traits", value))
    if company_keys:
        body["company"] = company
    return {"type": "identify", "sent_at": sent_at, "body": body}


def _track(values: Mapping[str, Json]) -> dict[str, Json]:
    action, get = _TRACK, values.get
    raw = _text("event_name", get("event_name"))
    if raw is None:
        raise _missing(action, "event_name")
    event = event_name(raw)
    if not event:
        sentence = "the field event_name has no letter and no digit that could name an event"
        raise _Refusal(RejectionReason.UNUSABLE_EVENT_NAME, "event_name", sentence)
    sent_at = _sent_at(action, get("timestamp"))
    traits = _object("traits", get("traits"))
    if event != raw and (traits is None or RAW_EVENT_NAME not in traits):
        traits = {**(traits or {}), RAW_EVENT_NAME: raw}
    body: dict[str, Json] = {}
    _put(body, "traits", traits)
    if company := _keys(action, "company_keys", get("company_keys")):
        body["company"] = company
    if user := _keys(action, "user_keys", get("user_keys")):
        body["user"] = user
    body["event"] = event
    return {"type": "track", "sent_at": sent_at, "body": body}


def _put(body: dict[str, Json], name: str, value: Json) -> None:
    if value is not None:
        body[name] = value


def _sent_at(action: Action, value: Json) -> str:
    if type(value) is list and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        raise _missing(action, "timestamp")
    sent_at = to_utc(value)
    if sent_at is None:
        sentence = f"the field timestamp, {_kind(value)}, is not a time: it must be ISO 8601 or a unix time"
        raise _Refusal(RejectionReason.BAD_TIMESTAMP, "timestamp", sentence)
    return sent_at


def _object(field: str, value: Json) -> dict[str, Json] | None:
    if type(value) is dict:
        return value
    if value is None or value == "":
        return None
    raise _Refusal(RejectionReason.WRONG_TYPE, field, f"the field {field} is {_kind(value)}, and must be an object")


def _text(field: str, value: Json) -> str | None:
    """Return a field as text; a list of one is what is in it."""
    if type(value) is str and value:
        return value
    if type(value) is list and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return None
    text = _as_text(value)
    if text is None:
        raise _Refusal(RejectionReason.WRONG_TYPE, field, f"the field {field} is {_kind(value)}, and must be text")
    return text


def _keys(action: Action, field: str, value: Json) -> dict[str, Json]:
    """Return the keys that have a value, as text: the object itself if nothing about it is to be changed."""
    keys = value if type(value) is dict else _object(field, value)
    if keys is None:
        if field in REQUIRED[action]:
            raise _missing(action, field)
        return {}
    for given in keys.values():
        if type(given) is not str or not given or given.isspace():
            named = ((name, _key(field, name, one)) for name, one in keys.items() if one is not None)
            return {name: text for name, text in named if text and not text.isspace()}
    return keys


def _key(field: str, name: str, value: Json) -> str:
    text = _as_text(value)
    if text is None:
        sentence = f"the key {name!r} of the field {field} is {_kind(value)}, and must be text or a number"
        raise _Refusal(RejectionReason.UNUSABLE_KEY, field, sentence)
    return text


def _as_text(value: Json) -> str | None:
    """Return the one text of a text, a number or a boolean, as JSON writes it; None for anything else."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return number_text(value)
        case _:
            return None


def _kind(value: Json) -> str:
    """Name the type of a value, for a sentence."""
    match value:
        case str():
            return "text"
        case bool():
            return "a boolean"
        case dict():
            return "an object"
        case list():
            return "a list"
        case float() if not math.isfinite(value):
            return "not a finite number"
        case _:
            return "a number"


def _missing(action: Action, field: str) -> _Refusal:
    return _Refusal(RejectionReason.MISSING_FIELD, field, f"the field {field} is missing, and {action} needs it")
