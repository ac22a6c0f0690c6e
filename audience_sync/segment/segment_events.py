"""Segment events as they arrive, from a file or over HTTP: what one must be to be taken, and the keys it is kept under.

An event only has to be a JSON object of at most 32 KB with a known type; mappings may need more of it. Half a
character, which a program leaves that cuts a text within an emoji, becomes U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.exact_json import LongFraction, NumberTooLarge
from audience_sync.core.keys import KeyRules, stringify
from audience_sync.core.model import Json

SegmentEvent: TypeAlias = Mapping[str, Json]

TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")
MOST_BYTES: Final = 32 * 1024
"""The most bytes of one event, as JSON (Segment's limit)."""

MOST_NAME: Final = 200  # characters of an event's name that are kept next to it, for people to look at
_ANY_TEXT = KeyRules(placeholders=())  # applications may call a user as they like

_ESCAPES: Final = re.compile(  # of a JSON text: pairs of surrogates, halves, and others, so that none is cut in two
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


class EventFault(StrEnum):
    """Why something is not an event."""

    TOO_LONG = "too_long"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    NUMBER_TOO_LARGE = "number_too_large"  # beyond the range of a float, as 1e400
    NOT_AN_OBJECT = "not_an_object"
    NO_TYPE = "no_type"
    UNKNOWN_TYPE = "unknown_type"


class NotAnEvent(NamedTuple):
    """Something that is not an event; the sentence goes on where its place is named."""

    fault: EventFault
    sentence: str


class Arrival(NamedTuple):
    """An event that is to be kept until Schematic has it.

    Its profile key orders it: the userId, else the anonymousId, else the groupId. An event that has none is alone.
    """

    profile_key: str
    message_id: str
    type: str
    name: str | None  # of a track, page or screen event
    payload: str  # JSON, as it came


class RefusedEvent(NamedTuple):
    """An event of a request that is not taken though its neighbours are."""

    place: int  # in the batch, from 0
    type: str  # "unknown" unless it is one of `TYPES`
    message_id: str  # "" if it has none
    why: NotAnEvent


class ParsedEvent(NamedTuple):
    """An event, and its JSON text without halves of characters."""

    event: SegmentEvent
    text: bytes


TOO_LONG: Final = NotAnEvent(EventFault.TOO_LONG, f"is longer than {MOST_BYTES // 1024} KB, the maximum in Segment")
TOO_DEEP: Final = NotAnEvent(EventFault.TOO_DEEP, "is nested too deeply")


def read_event(text: bytes) -> ParsedEvent | NotAnEvent:
    """Return the event that a JSON text is, or why it is not an event."""
    if len(text) > MOST_BYTES:
        return TOO_LONG
    read = read_json(text)
    if isinstance(read, NotAnEvent):
        return read
    found, whole = read
    event = check_event(found)
    return event if isinstance(event, NotAnEvent) else ParsedEvent(event, whole)


def read_json(text: bytes) -> tuple[Json, bytes] | NotAnEvent:
    """Return what a JSON text says, and the text without halves of characters; or why it says nothing."""
    try:
        return exact_json.loads(text), text
    except orjson.JSONDecodeError as error:
        whole = _without_halves(text)
        return read_json(whole) if whole != text else _not_json(text, error)
    except NumberTooLarge as error:
        sentence = f"has a number beyond the range of a float at {error}; send it as text"
        return NotAnEvent(EventFault.NUMBER_TOO_LARGE, sentence)
    except RecursionError:
        return TOO_DEEP


def _without_halves(text: bytes) -> bytes:
    """Return JSON text in which each escaped half of a surrogate pair is U+FFFD; its length stays."""
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], text)


def _not_json(text: bytes, error: orjson.JSONDecodeError) -> NotAnEvent:
    if not _is_utf8(text):
        return NotAnEvent(EventFault.NOT_UTF8, "is not valid UTF-8")
    if "depth" in error.msg:
        return TOO_DEEP
    line = f"line {error.lineno}, " if b"\n" in text else ""
    return NotAnEvent(EventFault.NOT_JSON, f"is not valid JSON: {error.msg}, {line}column {error.colno}")


def check_event(found: Json) -> SegmentEvent | NotAnEvent:
    """Return parsed JSON as the event that it is, or why it is not an event."""
    if not isinstance(found, dict):
        return NotAnEvent(EventFault.NOT_AN_OBJECT, "is valid JSON, but not an object")
    kind = found.get("type")
    if isinstance(kind, str) and kind in TYPES:
        return found
    must = f"it must be one of {', '.join(TYPES)}"
    if kind is None or kind == "":
        return NotAnEvent(EventFault.NO_TYPE, f"has no type: {must}")
    shown = f"the type {kind[:20]!r}{'…' * (len(kind) > 20)}" if isinstance(kind, str) else "a type that is not text"
    return NotAnEvent(EventFault.UNKNOWN_TYPE, f"has {shown}: {must}")


def refuse(place: int, found: Json | NotAnEvent, why: NotAnEvent) -> RefusedEvent:
    """Return an event of a batch as refused; what is left of it is said for a person to find it."""
    event = found if isinstance(found, dict) else {}
    kind = event.get("type")
    known = kind if isinstance(kind, str) and kind in TYPES else "unknown"
    return RefusedEvent(place, known, stored_id(event.get("messageId")) or "", why)


def arrive(event: SegmentEvent, text: bytes) -> Arrival:
    """Return an event with its keys; `text` is its JSON, from which an event without a messageId gets one."""
    message_id = stored_id(event.get("messageId")) or f"made-{blake2b(text, digest_size=16).hexdigest()}"
    profile_key = (
        stored_id(event.get("userId"))
        or stored_id(event.get("anonymousId"))
        or stored_id(event.get("groupId"))
        or message_id
    )
    name = event.get("event") or event.get("name")
    return Arrival(
        profile_key,
        message_id,
        str(event["type"]),
        name[:MOST_NAME].replace("\0", " ") if isinstance(name, str) else None,
        text.decode(),
    )


def stored_id(value: Json) -> str | None:
    """Return the text that stands for an id in the database, or None for a value that is not an id.

    An id that is longer than `keys.MAX_KEY_LENGTH`, or unprintable, is stored as its hash.
    """
    if value is None or value == "" or isinstance(value, dict | list | bool):
        return None
    text = None if isinstance(value, LongFraction) else stringify(value, _ANY_TEXT)
    if type(text) is str:  # else a RowFault, which is a str as well
        return text
    return f"hash-{blake2b(exact_json.dumps(value), digest_size=16).hexdigest()}"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class KeptAway(StrEnum):
    """Why an event is kept away from a destination."""

    FILTERED = "filtered_by_integrations_object"
    UNKNOWN_NAME = "unknown_integration"  # a name that is nearly that of the destination counts for nothing


def kept_away(integrations: Json, options: Json = None, *, destination: str) -> KeptAway | None:
    """Return why an event with these `integrations`, or `options`, is kept away from a destination; None if it is not.

    The key `All`, in any case, is for every destination that is not named; the name of a destination, in exactly its
    case, for that one. Under a name only `false` keeps an event away: an object, a text or null are options of a
    destination that is on. Older libraries wrote the same into `options` or `options.providers`.
    """
    if not integrations and not options:  # most events have none, or an empty object
        return None
    providers = options.get("providers") if isinstance(options, dict) else None
    named = next((place for place in (integrations, providers, options) if isinstance(place, dict)), {})
    if destination in named:
        return KeptAway.FILTERED if named[destination] is False else None
    said = (_all(place) for place in (providers, options, integrations))
    if next((value for value in said if isinstance(value, bool)), True):
        return None
    return (
        KeptAway.UNKNOWN_NAME if any(_is_misnamed(*item, destination) for item in named.items()) else KeptAway.FILTERED
    )


def _all(place: Json) -> Json:
    """Return the value of the first key that is `All` in any case."""
    if not isinstance(place, dict):
        return None
    return next((value for name, value in place.items() if name.lower() == "all"), None)


def _is_misnamed(name: str, value: Json, destination: str) -> bool:
    """Return whether a key switches a destination on under a name like "schematic" or "Actions Schematic"."""
    return value is not False and destination.lower() in name.lower()
