"""Requests: from the bytes of a body to the events that arrive, or why it is refused. Nothing else is done.

A request is refused whole only where nothing in it can be told apart. One bad event of a batch (not JSON, not an event,
too long, too deep) is refused alone and counted: client libraries drop a whole batch that is answered with 400. An
event that names nobody, or has no name, is taken: what becomes of it is for the mappings to say.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.segment.segment_events import (
    MOST_BYTES,
    TOO_DEEP,
    TOO_LONG,
    TYPES,
    Arrival,
    NotAnEvent,
    RefusedEvent,
    SegmentEvent,
    arrive,
    check_event,
    read_json,
    refuse,
)
from audience_sync.segment.timestamps import iso, to_utc

RETRY_AFTER: Final = 5  # seconds after which a sender that was refused for our reasons should come again


class SenderLimits(NamedTuple):
    """How much and how long senders may have of us at once: times in seconds, and numbers; tests set them smaller."""

    head: float = 10.0  # until the head of a request is whole
    body: float = 10.0  # from then until its body is
    idle: float = 65.0  # until a connection without a request is closed: longer than proxies keep theirs
    wait: float = 5.0  # for a lock of the database: a sender's own patience is about fifteen
    drain: float = 4.0  # for requests under way at the end
    connections: int = 500
    held: int = 32 * 1024 * 1024  # bytes of bodies that are not read yet


DEFAULT_LIMITS: Final = SenderLimits()

CODES: Final = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    415: "unsupported_encoding",
    500: "internal_error",
    503: "unavailable",
}
"""Our word for each status. Segment's own, `invalid_request`, covers whatever is wrong with a body, its size too."""


class Refusal(NamedTuple):
    """Why a request is not taken: an HTTP status, and a sentence that repeats of a body only a type or field names."""

    status: int
    message: str

    @property
    def code(self) -> str:
        """Return the word for the status."""
        return CODES.get(self.status, CODES[400])


def invalid(message: str) -> Refusal:
    """Return the refusal of a request that is wrong in itself: the same again will be refused again."""
    return Refusal(400, message)


FIELD: Final = "writeKey"
UNKNOWN: Final = Refusal(401, "the write key is missing or unknown")


def knows_sender(authorization: str | None, keys: Sequence[bytes]) -> bool | None:
    """Return whether a Basic header names one of the keys; None for any other header, or none: then the body counts."""
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, _ = b64decode(credentials.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):  # a character that is not even ASCII is a ValueError
        return False
    return _is_one_of(user, keys)


def knows_body(body: Json, events: Sequence[object] | None, keys: Sequence[bytes]) -> bool:
    """Return whether a parsed body names one of the keys, itself or in the first event of its batch that is one."""
    named = _named(body)
    if named is None:
        named = next((_named(event) for event in events or () if isinstance(event, dict)), None)
    return named is not None and _is_one_of(named.encode(), keys)


def _named(found: object) -> str | None:
    key = found.get(FIELD) if isinstance(found, dict) else None
    return key if isinstance(key, str) else None


def _is_one_of(given: bytes, keys: Sequence[bytes]) -> bool:
    """Compare with every key, each in constant time: how long it takes tells nothing about them."""
    return True in [hmac.compare_digest(given, key) for key in keys]


SHARED: Final = ("context", "integrations")
"""The fields that a batch may set for all its events; an event's own fields override them, key by key."""

_ABSENT: Final = (None, "")


class Receipt(NamedTuple):
    """The context of a request: when it was received (aware, and as text), when it was sent, and how ids are made.

    A sender's clock may be wrong. It says by that clock when it sent the event and when the event happened; so the
    event happened as long before it was received. The events of a historical one (`/v1/import`) happened when they say.
    """

    received_at: datetime
    received: str
    sent_at: Json
    historical: bool
    new_id: Callable[[], str]


def share(event: SegmentEvent, batch: SegmentEvent) -> dict[str, Json]:
    """Return an event with what its batch says for all, and without the write key."""
    merged = {name: value for name, value in event.items() if name != FIELD}
    for name in SHARED:
        common, own = batch.get(name), merged.get(name)
        if isinstance(common, dict) and (own is None or isinstance(own, dict)):
            merged[name] = {**common, **(own or {})}
    return merged


def fill(event: SegmentEvent, receipt: Receipt) -> dict[str, Json]:
    """Return an event with what it lacks: messageId, receivedAt, sentAt, and the timestamp, corrected."""
    filled = dict(event)
    if filled.get("messageId") in _ABSENT:
        filled["messageId"] = receipt.new_id()
    filled["receivedAt"] = receipt.received
    if filled.get("sentAt") in _ABSENT and receipt.sent_at not in _ABSENT:
        filled["sentAt"] = receipt.sent_at
    given = next((filled[name] for name in ("timestamp", "originalTimestamp") if filled.get(name) not in _ABSENT), None)
    if given is None:
        filled["timestamp"] = receipt.received
        return filled
    corrected = None if receipt.historical else _corrected(given, filled.get("sentAt"), receipt.received_at)
    filled["timestamp"] = given if corrected is None else corrected
    if corrected is not None:
        filled["originalTimestamp"] = given
    return filled


def _corrected(given: Json, sent_at: Json, received_at: datetime) -> str | None:
    """Return when it happened by our clock; None when one of the sender's times is none, or the result is none."""
    happened, sent = to_utc(given), to_utc(sent_at)
    if happened is None or sent is None:
        return None
    try:
        return iso(received_at - (datetime.fromisoformat(sent) - datetime.fromisoformat(happened)))
    except OverflowError:  # before the year 1 or after 9999
        return None


BATCH: Final = "batch"
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},:]', re.DOTALL)
_OPENS: Final = {b"]": b"[", b"}": b"{"}


class Pieces(NamedTuple):
    """The body with an empty batch, and the text of each event."""

    envelope: bytes
    events: list[bytes]


def cut(body: bytes) -> Pieces | None:
    """Return the pieces of a body that is not valid JSON, so that its valid events can be taken; None if it has none.

    Only the structure is looked at: strings, brackets and commas. A body cannot be cut if its brackets or quotes do
    not match.
    """
    inside: list[bytes] = []  # the brackets that are open
    name = key = b""  # the last string of the outer object, and the name of its current member
    begin = end = start = -1
    events: list[bytes] = []
    for found in _TOKEN.finditer(body):
        token, depth = found[0], len(inside)
        if token == b'"':  # a string that does not end
            return None
        if token in _OPENS:
            if not inside or inside.pop() != _OPENS[token]:
                return None
            if depth == 2 and begin >= 0 > end:
                events.append(body[start : found.start()])
                end = found.start()
        elif token in (b"[", b"{"):
            inside.append(token)
            if depth == 1 and token == b"[" and _is_batch(key):
                if begin >= 0:  # two of them
                    return None
                begin = start = found.end()
        elif depth == 1:
            name, key = _next(token, name, key)
        elif depth == 2 and token == b"," and begin >= 0 > end:
            events.append(body[start : found.start()])
            start = found.end()
    if inside or end < 0:
        return None
    return Pieces(body[:begin] + body[end:], events if len(events) > 1 or events[0].strip() else [])


def _next(token: bytes, name: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Return the last string of the outer object and the name of its member, after a token of it."""
    if token == b":":
        return name, name
    return (name, b"") if token == b"," else (token, key)


def _is_batch(key: bytes) -> bool:
    try:
        return bool(key) and orjson.loads(key) == BATCH
    except orjson.JSONDecodeError:
        return False


MOST_IN_BATCH: Final = 500 * 1024
"""The most bytes of the body of a batch (Segment's limit)."""

MOST_TOGETHER: Final = 4 * 1024 * 1024
"""The most bytes of its events together: what a batch says for all of them is written out in each."""

_Part: TypeAlias = "Json | NotAnEvent"
"""An event of a batch as it is parsed, or why it cannot be."""


class EventsRead(NamedTuple):
    """The events of a request that are taken, complete and in their order, and those that are not."""

    arrivals: list[Arrival]
    refused: list[RefusedEvent]

    @property
    def refusal(self) -> Refusal | None:
        """Return the answer where none of the events is taken: it names the first."""
        if self.arrivals or not self.refused:
            return None
        first = self.refused[0]
        return invalid(f"{BATCH}[{first.place}] {first.why.sentence}")


class Endpoint(NamedTuple):
    """One path: the type of its one event, or None for a batch; how long a body is; and if its events are history."""

    type: str | None
    limit: int  # bytes
    historical: bool = False


_BATCH: Final = Endpoint(None, MOST_IN_BATCH)

ENDPOINTS: Final = {
    **{f"/v1/{word}": Endpoint(kind, MOST_BYTES) for kind in TYPES for word in (kind, kind[0])},
    "/v1/batch": _BATCH,
    "/v1/b": _BATCH,
    "/v1/import": _BATCH._replace(historical=True),
}
"""The paths, and the short ones that libraries for browsers and telephones use."""


def read(
    body: bytes, endpoint: Endpoint, *, keys: Sequence[bytes] | None, now: datetime, new_id: Callable[[], str]
) -> EventsRead | Refusal:
    """Return the events that a request brings, or why all of it is refused.

    The body must name one of `keys`; None when the sender is known already. `now` is aware, `new_id`
    makes the messageId of an event that has none.
    """
    found = _document(body, endpoint)
    if isinstance(found, Refusal):
        return found
    document, parts = found
    if keys is not None and not knows_body(document, parts, keys):
        return UNKNOWN
    if not isinstance(document, dict):
        return invalid("the body is valid JSON, but not an object")
    receipt = Receipt(now, iso(now), document.get("sentAt"), endpoint.historical, new_id)
    if endpoint.type is not None:
        one = _arrival({**document, "type": endpoint.type}, {}, receipt)
        return invalid(f"the event {one.sentence}") if isinstance(one, NotAnEvent) else EventsRead([one], [])
    if parts is None:
        return invalid(f"`{BATCH}` must be a list of events")
    return _events(parts, document, receipt)


def _document(body: bytes, endpoint: Endpoint) -> tuple[Json, Sequence[_Part] | None] | Refusal:
    """Return what a body says, and the events of its batch; None where it has no list of them."""
    read = read_json(body)
    if not isinstance(read, NotAnEvent):
        document, _ = read
        batch = document.get(BATCH) if isinstance(document, dict) else None
        return document, batch if isinstance(batch, list) else None
    pieces = cut(body) if endpoint.type is None else None
    envelope = read if pieces is None else read_json(pieces.envelope)
    if pieces is None or isinstance(envelope, NotAnEvent):
        return invalid(f"the body {read.sentence}")
    return envelope[0], [_part(piece) for piece in pieces.events]


def _part(piece: bytes) -> _Part:
    read = read_json(piece.strip())
    return read if isinstance(read, NotAnEvent) else read[0]


def _events(parts: Iterable[_Part], batch: dict[str, Json], receipt: Receipt) -> EventsRead | Refusal:
    read = EventsRead([], [])
    length = 0
    for place, part in enumerate(parts):
        arrival = part if isinstance(part, NotAnEvent) else _arrival(part, batch, receipt)
        if isinstance(arrival, NotAnEvent):
            read.refused.append(refuse(place, part, arrival))
            continue
        length += len(arrival.payload)
        if length > MOST_TOGETHER:
            return invalid(f"the events and the fields of the batch together exceed {MOST_TOGETHER // 1024**2} MB")
        read.arrivals.append(arrival)
    return read


def _arrival(found: Json, batch: dict[str, Json], receipt: Receipt) -> Arrival | NotAnEvent:
    event = check_event(found)
    if isinstance(event, NotAnEvent):
        return event
    shared = share(event, batch)
    try:
        filled = fill(shared, receipt)
        text = exact_json.dumps(filled)
        # Fields that we add do not count.
        if len(text) > MOST_BYTES and len(exact_json.dumps(shared)) > MOST_BYTES:
            return TOO_LONG
    except orjson.JSONEncodeError:
        return TOO_DEEP
    return arrive(filled, text)
