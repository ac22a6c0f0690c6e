"""Segment events as they arrive, from a file or over HTTP: what one must be to be taken, and the keys it is kept under.

Nothing is asked of an event but what makes it one: a JSON object of at most 32 KB with a known type. What the mappings
need of it is theirs to say.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson

from audience_sync.core.destination.mappings import SegmentEvent
from audience_sync.core.model import Json
from audience_sync.core.rows import stringify
from audience_sync.core.shards import shard_of

TYPES: Final = ("identify", "track", "page", "screen", "group", "alias")
MOST_BYTES: Final = 32 * 1024
"""So long one event is at most, as JSON (Segment's limit)."""

MOST_NAME: Final = 200  # characters of an event's name that are kept beside it, for people to look at


class Fault(StrEnum):
    """Why something is no event."""

    TOO_LONG = "too_long"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NO_TYPE = "no_type"
    UNKNOWN_TYPE = "unknown_type"


class NotAnEvent(NamedTuple):
    """Something that is no event; the sentence goes on where its place is named."""

    fault: Fault
    sentence: str


class Arrival(NamedTuple):
    """An event that is to be kept until Schematic has it.

    Its profile key orders it: the userId, else the anonymousId, else the groupId. An event that has none is alone.
    """

    shard: int
    profile_key: str
    message_id: str
    type: str
    name: str | None  # of a track, page or screen event
    payload: str  # JSON, as it came


TOO_LONG: Final = NotAnEvent(Fault.TOO_LONG, f"is longer than {MOST_BYTES // 1024} KB, the most that Segment takes")


def read_event(text: bytes) -> SegmentEvent | NotAnEvent:
    """Return the event that a JSON text is, or why it is none."""
    if len(text) > MOST_BYTES:
        return TOO_LONG
    try:
        found: Json = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not _is_utf8(text):
            return NotAnEvent(Fault.NOT_UTF8, "is not UTF-8")
        return NotAnEvent(Fault.NOT_JSON, f"is no JSON: {error.msg}, column {error.colno}")
    return check_event(found)


def check_event(found: Json) -> SegmentEvent | NotAnEvent:
    """Return parsed JSON as the event that it is, or why it is none."""
    if not isinstance(found, dict):
        return NotAnEvent(Fault.NOT_AN_OBJECT, "is JSON, but no object")
    kind = found.get("type")
    if isinstance(kind, str) and kind in TYPES:
        return found
    must = f"it must be one of {', '.join(TYPES)}"
    if kind is None or kind == "":
        return NotAnEvent(Fault.NO_TYPE, f"has no type: {must}")
    shown = f"the type {kind[:20]!r}{'…' * (len(kind) > 20)}" if isinstance(kind, str) else "a type that is no text"
    return NotAnEvent(Fault.UNKNOWN_TYPE, f"has {shown}: {must}")


def arrive(event: SegmentEvent, text: bytes) -> Arrival:
    """Return an event with its keys; `text` is its JSON, from which an event without a messageId gets one."""
    message_id = _key(event.get("messageId")) or f"made-{blake2b(text, digest_size=16).hexdigest()}"
    ids = map(_key, map(event.get, ("userId", "anonymousId", "groupId")))
    profile_key = next(filter(None, ids), message_id)
    name = event.get("event") or event.get("name")
    return Arrival(
        shard_of(profile_key),
        profile_key,
        message_id,
        str(event["type"]),
        name[:MOST_NAME].replace("\0", " ") if isinstance(name, str) else None,
        text.decode(),
    )


def _key(value: Json) -> str | None:
    """Return an id as text; one that is too long or unprintable for a key is known by its hash; None if it is none."""
    if value is None or value == "" or isinstance(value, dict | list | bool):
        return None
    text = stringify(value)
    if type(text) is str:  # else a Reason, which is a str as well
        return text
    return f"hash-{blake2b(orjson.dumps(value), digest_size=16).hexdigest()}"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
