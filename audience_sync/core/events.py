"""Events in Schematic's wire form, as they are kept until Schematic has accepted them.

The wire form is that of Schematic's own clients: ``{api_key, type, body, idempotency_key, sent_at}``, at most 100 in
``{"events": […]}`` (schematic-python ``event_capture.py``). Events are kept and stored without the API key;
`batch_body` adds it on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from audience_sync.core.keys import canonical


class OpenChange(NamedTuple):
    """One undelivered value: a row of the outbox, with the key of its audience as the trait's name."""

    shard: int
    profile_key: str
    audience_id: int
    trait: str
    value: str  # JSON text
    generation: int
    run_id: int
    computation: str  # as in Computation
    kind: str  # of the change that was not sent yet; resent: nothing happened
    identifiers: str | None  # canonical JSON, as in Member


class Carried(NamedTuple):
    """A change that an event carries: what its row of the outbox said when the event was made of it."""

    audience_id: int
    generation: int
    run_id: int
    trait: str
    value: str
    kind: str
    shared: bool = False  # others carry it, too, or a mapping rejected it: accepting this event may not be all


class Forwarded(NamedTuple):
    """A Segment event that waits to be sent: a row of `events`."""

    shard: int
    profile_key: str
    position: int
    message_id: str
    type: str
    payload: str  # JSON
    accepted: frozenset[str] = frozenset()  # idempotency keys of its bodies that Schematic has
    name: str | None = None
    received_at: int = 0


class Origin(NamedTuple):
    """The forwarded event that an event was made of, unless it was changes."""

    row: Forwarded
    shared: bool  # others were made of it, too, or a mapping could not: accepting this one may not be all


class Event(NamedTuple):
    """One event, ready to be posted, and the changes it carries, or where it comes from."""

    shard: int
    profile_key: str
    idempotency_key: str
    body: str  # JSON text of the whole event but the API key
    identifiers: str | None  # the profile's when it was made, as in Member
    carried: tuple[Carried, ...]
    mappings: tuple[str, ...] = ()  # the names of those that made it
    origin: Origin | None = None


_ALIKE: Final = itemgetter(slice(Event._fields.index("carried"), Event._fields.index("origin")))


def idempotency_key(environment: str, profile_key: str, facts: Iterable[tuple[str, int, str, int]]) -> str:
    """Return the key under which Schematic drops a repetition within 24 hours: 32 hexadecimal digits.

    A fact is the digest of a mapping (which stands for action and fields) and the audience, value and generation of a
    change that it made this event of. The same facts have the same key, also after a crash; a change of a new
    generation has another, and so have the events that two mappings make of one change.
    """
    before, behind = key_ends(environment, facts)
    return blake2b(before + orjson.dumps(profile_key) + behind, digest_size=16).hexdigest()


def key_ends(environment: str, facts: Iterable[tuple[str, int, str, int]]) -> tuple[bytes, bytes]:
    """Return what is hashed for an `idempotency_key`, before and behind the profile's key."""
    return b"[" + orjson.dumps(environment) + b",", b"," + orjson.dumps(sorted(facts)) + b"]"


def forwarded_key(environment: str, message_id: str, mapping: str, nth: int) -> str:
    """Return the idempotency key of what a mapping makes of a forwarded event: 32 hexadecimal digits.

    The mapping is named by its digest; `nth` tells mappings apart that are equal but for their triggers.
    """
    return blake2b(orjson.dumps([environment, message_id, mapping, nth]), digest_size=16).hexdigest()


def with_idempotency_key(body: str, key: str) -> str:
    """Return the JSON text of one event with its idempotency key at the end."""
    return f'{body[:-1]},"idempotency_key":"{key}"}}'


def batch_body(events: Iterable[Event], *, api_key: str) -> bytes:
    """Return the body of ``POST /batch``: the events, each with the API key."""
    start = _start(api_key)
    return b'{"events":[' + b",".join([start + event.body.encode()[1:] for event in events]) + b"]}"


def with_key(body: str, *, api_key: str) -> str:
    """Return the JSON text of one event as it is posted, with the API key in front."""
    return _start(api_key).decode() + body[1:]


def dump(events: Iterable[Event]) -> str:
    """Return events as the JSON text that an open batch has: groups that carry the same; views read it too."""
    groups = []
    for (carried, mappings), group in groupby(events, key=_ALIKE):
        people = [(e[1], e[2], e[3], e[4], e.origin and _kept(e.origin), e[0]) for e in group]
        groups.append(([[*c] for c in carried], mappings, people))
    return orjson.dumps(groups).decode()


def parse(text: str) -> list[Event]:
    """Return the events of `dump`."""
    found = []
    for carried, mappings, people in orjson.loads(text):
        changes = tuple(Carried(*c) for c in carried)
        for profile_key, key, body, identifiers, origin, shard in people:
            made_of = None if origin is None else _origin(shard, profile_key, origin)
            found.append(Event(shard, profile_key, key, body, identifiers, changes, tuple(mappings), made_of))
    return found


def summary(events: Iterable[Event]) -> str:
    """Return what is kept of accepted events, as JSON: who was told what, for which runs, and under which key."""
    groups = []
    for (carried, mappings), group in groupby(events, key=_ALIKE):
        run_ids = sorted({change.run_id for change in carried})
        people = [(e.profile_key, e.idempotency_key, e.origin and e.origin.row.message_id) for e in group]
        groups.append((traits(carried), f"[{', '.join(map(str, run_ids))}]", ", ".join(mappings), people))
    return orjson.dumps(groups).decode()


def quoted(profile_key: str) -> str:
    """Return a profile key as it stands in the JSON texts of batches."""
    return orjson.dumps(profile_key).decode()


def traits(carried: Iterable[Carried]) -> str:
    """Return what was said of a profile, as canonical JSON: ``{"audience_key": value}``."""
    return canonical({c.trait: orjson.Fragment(c.value) for c in carried})


def _start(api_key: str) -> bytes:
    return b'{"api_key":' + orjson.dumps(api_key) + b","


def _kept(origin: Origin) -> list[object]:
    row = origin.row
    accepted = sorted(row.accepted)
    return [
        row.position,
        row.message_id,
        row.type,
        row.payload,
        accepted,
        row.name,
        row.received_at,
        origin.shared,
    ]


def _origin(shard: int, profile_key: str, kept: list[Any]) -> Origin:
    position, message_id, kind, payload, accepted, name, received_at, shared = kept
    row = Forwarded(
        shard, profile_key, position, message_id, kind, payload, frozenset(accepted), name=name, received_at=received_at
    )
    return Origin(row, shared)
