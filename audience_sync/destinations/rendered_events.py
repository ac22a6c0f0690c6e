"""Events ready to be sent, what each of them was made of, and their idempotency keys."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import orjson


class Carried(NamedTuple):
    """A change that an event carries: what its row of the outbox said when the event was made of it."""

    audience_id: int
    generation: int
    run_id: int
    trait: str
    value: str
    kind: str
    shared: bool = False  # others carry it, too, or a mapping rejected it: accepting this event may not be all


class ForwardedEvent(NamedTuple):
    """A Segment event that waits to be sent: a row of `events`."""

    profile_key: str
    position: int
    message_id: str
    type: str
    payload: str  # JSON
    accepted: frozenset[str] = frozenset()  # idempotency keys of its bodies that the destination has
    name: str | None = None
    received_at: int = 0


class Origin(NamedTuple):
    """The forwarded event from which an event was made, unless it was made from changes."""

    row: ForwardedEvent
    shared: bool  # others were made of it, too, or a mapping could not: accepting this one may not be all


class RenderedEvent(NamedTuple):
    """One event, ready to be posted, and the changes it carries, or where it comes from."""

    profile_key: str
    idempotency_key: str
    body: str  # JSON text of the whole event but the API key
    identifiers: str | None  # the profile's when it was made, as in Member
    carried: tuple[Carried, ...]
    mappings: tuple[str, ...] = ()  # the names of those that made it
    origin: Origin | None = None


def idempotency_key(environment: str, profile_key: str, facts: Iterable[tuple[str, int, str, int]]) -> str:
    """Return the key under which the destination drops a repetition: 32 hexadecimal digits.

    A fact is the digest of a mapping (which stands for action and fields) and the audience, value and generation of a
    change that it made this event of. The same facts have the same key, also after a crash; a change of a new
    generation has another, and so have the events that two mappings make of one change.
    """
    return key_between(key_ends(environment, facts), orjson.dumps(profile_key))


def key_ends(environment: str, facts: Iterable[tuple[str, int, str, int]]) -> tuple[bytes, bytes]:
    """Return what is hashed for an `idempotency_key`, before and behind the profile's key."""
    return b"[" + orjson.dumps(environment) + b",", b"," + orjson.dumps(sorted(facts)) + b"]"


def key_between(ends: tuple[bytes, bytes], profile: bytes) -> str:
    """Return the `idempotency_key` of a profile, whose key is a JSON text, between its ends."""
    before, behind = ends
    return blake2b(before + profile + behind, digest_size=16).hexdigest()


def forwarded_key(environment: str, message_id: str, mapping: str, nth: int) -> str:
    """Return the idempotency key of what a mapping makes of a forwarded event: 32 hexadecimal digits.

    The mapping is named by its digest; `nth` tells mappings apart that are equal but for their triggers.
    """
    return blake2b(orjson.dumps([environment, message_id, mapping, nth]), digest_size=16).hexdigest()
