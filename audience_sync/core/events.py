"""Open changes of one profile become one identify event in Schematic's wire form.

The wire form is that of Schematic's own clients: ``{api_key, type, body: {keys, traits, company?}, idempotency_key,
sent_at}``, at most 100 in ``{"events": […]}`` (schematic-python ``event_capture.py``). Events are kept and stored
without the API key; `batch_body` adds it on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

import orjson

from audience_sync.core.rows import canonical

ACTION = "identifyUser"
MAPPING_HASH = ""
"""There is one fixed mapping; the key of an event has a place for its hash, so that others can follow."""


class OpenChange(NamedTuple):
    """One undelivered value: a row of the outbox, with the key of its audience as the trait's name."""

    shard: int
    profile_key: str
    audience_id: int
    trait: str
    value: str  # JSON text
    identifiers: str | None  # canonical JSON, as in Member
    generation: int
    run_id: int


class Carried(NamedTuple):
    """What an event settles: that audience's row, if it still has that generation."""

    audience_id: int
    generation: int
    run_id: int
    trait: str
    value: str


class Event(NamedTuple):
    """One identify, ready to be posted, and the changes it carries."""

    shard: int
    profile_key: str
    idempotency_key: str
    body: str  # JSON text of the whole event but the API key
    carried: tuple[Carried, ...]


def idempotency_key(environment: str, profile_key: str, carried: Iterable[Carried]) -> str:
    """Return the key under which Schematic drops a repetition within 24 hours: 32 hexadecimal digits.

    The same changes have the same key, also after a crash; a change of a new generation has another.
    """
    facts = [
        environment,
        profile_key,
        ACTION,
        MAPPING_HASH,
        sorted((c.audience_id, c.value, c.generation) for c in carried),
    ]
    return blake2b(orjson.dumps(facts), digest_size=16).hexdigest()


def identify(changes: Sequence[OpenChange], *, identity: str, environment: str, sent_at: datetime) -> Event:
    """Return the one event of all open changes of a profile.

    The identifiers are those of the newest change; values of one key are never joined from several.
    """
    newest = max(changes, key=lambda change: (change.generation, change.audience_id))
    identifiers: dict[str, dict[str, str]] = orjson.loads(newest.identifiers) if newest.identifiers else {}
    carried = tuple(Carried(c.audience_id, c.generation, c.run_id, c.trait, c.value) for c in changes)
    key = idempotency_key(environment, newest.profile_key, carried)
    body: dict[str, object] = {
        "keys": {identity: newest.profile_key, **identifiers.get("user", {})},
        "traits": {change.trait: orjson.Fragment(change.value) for change in changes},
    }
    if company := identifiers.get("company"):
        body["company"] = {"keys": company}
    event = {
        "type": "identify",
        "body": body,
        "idempotency_key": key,
        "sent_at": sent_at.isoformat().replace("+00:00", "Z"),
    }
    return Event(newest.shard, newest.profile_key, key, orjson.dumps(event).decode(), carried)


def identifiers_of(event: Event, *, identity: str) -> str | None:
    """Return the identifiers that an event was sent with, as in `Member`."""
    body = orjson.loads(event.body)["body"]
    user = {name: value for name, value in body["keys"].items() if name != identity}
    company = body.get("company", {}).get("keys", {})
    found = {kind: keys for kind, keys in (("user", user), ("company", company)) if keys}
    return canonical(found) if found else None


def batch_body(events: Iterable[Event], *, api_key: str) -> bytes:
    """Return the body of ``POST /batch``: the events, each with the API key."""
    start = b'{"api_key":' + orjson.dumps(api_key) + b","
    return b'{"events":[' + b",".join(start + event.body.encode()[1:] for event in events) + b"]}"


def dump(events: Iterable[Event]) -> str:
    """Return events as the JSON text in which an attempt keeps them."""
    return orjson.dumps(
        [[e.shard, e.profile_key, e.idempotency_key, e.body, [[*c] for c in e.carried]] for e in events]
    ).decode()


def parse(text: str) -> list[Event]:
    """Return the events of `dump`."""
    return [Event(s, p, k, body, tuple(Carried(*c) for c in carried)) for s, p, k, body, carried in orjson.loads(text)]


def split(
    event: Event, changes: Sequence[OpenChange], *, identity: str, environment: str, sent_at: datetime
) -> list[Event]:
    """Return one event for each change that a merged event carries: one refused trait must not hold the others."""
    wanted = {(c.audience_id, c.generation) for c in event.carried}
    return [
        identify([change], identity=identity, environment=environment, sent_at=sent_at)
        for change in changes
        if (change.audience_id, change.generation) in wanted
    ]


def traits(carried: Iterable[Carried]) -> str:
    """Return what was said of a profile, as canonical JSON: ``{"audience_key": value}``."""
    return canonical({c.trait: orjson.Fragment(c.value) for c in carried})
