"""Bodies of Schematic events, made of the resolved fields of a mapping.

A body is whole or not made: a required field that is missing, a value of another type, or a user without keys is a
rejection. Null and "" are as missing, and so is a key of blanks, which would make one user of many; numbers and
booleans become text where text belongs. Traits stay as they are, with null and false. A rejection names fields and
keys, never their values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from audience_sync.core.keys import audience_key
from audience_sync.core.model import Json
from audience_sync.destinations.actions import Body, BodyRejection, RejectionReason
from audience_sync.segment.mapping.event_values import number_text
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


# --- bodies -----------------------------------------------------------------------------------------------------------

RAW_EVENT_NAME: Final = "raw_event_name"
IDENTIFY: Final = "identifyUser"
TRACK: Final = "trackEvent"


class _Refusal(Exception):
    """Carries a rejection from where it is found to `make_body`."""

    def __init__(self, reason: RejectionReason, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.rejection = BodyRejection(reason, field, sentence)


def identify_body(values: Mapping[str, Json]) -> Body | BodyRejection:
    """Return the body that identifies a user, without the API key, or why there is none.

    `values` are the fields of a mapping, resolved for an event. The body shares its objects with them.
    """
    return _made(_identify, values)


def track_body(values: Mapping[str, Json]) -> Body | BodyRejection:
    """Return the body of a track event, or why there is none; as `identify_body`."""
    return _made(_track, values)


def _made(make: Callable[[Mapping[str, Json]], Body], values: Mapping[str, Json]) -> Body | BodyRejection:
    try:
        return make(values)
    except _Refusal as refusal:
        return refusal.rejection


def _identify(values: Mapping[str, Json]) -> dict[str, Json]:
    get = values.get
    user_keys = _required_keys("user_keys", get("user_keys"))
    company_keys = _required_keys("company_keys", get("company_keys"))
    if not user_keys:
        sentence = f"{IDENTIFY} needs at least one key with a value in user_keys"
        raise _Refusal(RejectionReason.EMPTY_USER_KEYS, "user_keys", sentence)
    sent_at = _sent_at(IDENTIFY, get("timestamp"))
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
    get = values.get
    raw = _text("event_name", get("event_name"))
    if raw is None:
        raise _missing(TRACK, "event_name")
    event = event_name(raw)
    if not event:
        sentence = "the field event_name has no letters or digits"
        raise _Refusal(RejectionReason.UNUSABLE_EVENT_NAME, "event_name", sentence)
    sent_at = _sent_at(TRACK, get("timestamp"))
    traits = _object("traits", get("traits"))
    if event != raw and (traits is None or RAW_EVENT_NAME not in traits):
        traits = {**(traits or {}), RAW_EVENT_NAME: raw}
    body: dict[str, Json] = {}
    _put(body, "traits", traits)
    if company := _keys("company_keys", get("company_keys")):
        body["company"] = company
    if user := _keys("user_keys", get("user_keys")):
        body["user"] = user
    body["event"] = event
    return {"type": "track", "sent_at": sent_at, "body": body}


def _put(body: dict[str, Json], name: str, value: Json) -> None:
    if value is not None:
        body[name] = value


def _sent_at(action: str, value: Json) -> str:
    if type(value) is list and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        raise _missing(action, "timestamp")
    sent_at = to_utc(value)
    if sent_at is None:
        sentence = f"the field timestamp is {_kind(value)}, but must be ISO 8601 or a Unix time"
        raise _Refusal(RejectionReason.BAD_TIMESTAMP, "timestamp", sentence)
    return sent_at


def _object(field: str, value: Json) -> dict[str, Json] | None:
    if type(value) is dict:
        return value
    if value is None or value == "":
        return None
    raise _Refusal(RejectionReason.WRONG_TYPE, field, f"the field {field} is {_kind(value)}, but must be an object")


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
        raise _Refusal(RejectionReason.WRONG_TYPE, field, f"the field {field} is {_kind(value)}, but must be text")
    return text


def _required_keys(field: str, value: Json) -> dict[str, Json]:
    """Return the keys that have a value; the object may be empty, but it must be there."""
    if value is None or value == "":
        raise _missing(IDENTIFY, field)
    return _keys(field, value)


def _keys(field: str, value: Json) -> dict[str, Json]:
    """Return the keys that have a value, as text: the object itself if nothing about it is to be changed."""
    keys = value if type(value) is dict else _object(field, value)
    if keys is None:
        return {}
    for given in keys.values():
        if type(given) is not str or not given or given.isspace():
            named = ((name, _key(field, name, one)) for name, one in keys.items() if one is not None)
            return {name: text for name, text in named if text and not text.isspace()}
    return keys


def _key(field: str, name: str, value: Json) -> str:
    text = _as_text(value)
    if text is None:
        sentence = f"the key {name!r} of the field {field} is {_kind(value)}, but must be text or a number"
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


def _missing(action: str, field: str) -> _Refusal:
    return _Refusal(RejectionReason.MISSING_FIELD, field, f"the field {field} is missing, but {action} requires it")
