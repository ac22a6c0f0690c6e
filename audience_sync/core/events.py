"""Events in Schematic's wire form, as they are kept until Schematic has accepted them.

The wire form is that of Schematic's own clients: ``{api_key, type, body, idempotency_key, sent_at}``, at most 100 in
``{"events": […]}`` (schematic-python ``event_capture.py``). Events are kept and stored without the API key;
`batch_body` adds it on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

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
    identifiers: str | None  # canonical JSON, as in Member
    kind: str  # of the change that was not told yet; resent: nothing happened


class Carried(NamedTuple):
    """A change that an event carries: that audience's row of the outbox, if it still has that generation."""

    audience_id: int
    generation: int
    run_id: int
    trait: str
    value: str
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


class Origin(NamedTuple):
    """The forwarded event that an event was made of, unless it was changes."""

    position: int
    message_id: str
    shared: bool  # others were made of it, too, or a mapping could not: accepting this one may not be all


Value: TypeAlias = tuple[str, int, int]
"""What an event has of one row: profile key, the audience's id and generation, or 0 and the position in `events`."""


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

    def values(self) -> list[tuple[Value, bool]]:
        """Return what it has of which rows, and whether it shares that with others."""
        if self.origin is not None:
            return [((self.profile_key, 0, self.origin.position), self.origin.shared)]
        return [((self.profile_key, c.audience_id, c.generation), c.shared) for c in self.carried]


_CARRIED: Final = 4  # where it stands in the row that an attempt keeps
_WHAT: Final = itemgetter(slice(Event._fields.index("carried"), None))  # what an event may share with others


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


def alike(events: Iterable[Event]) -> Iterator[tuple[Event, list[Event]]]:
    """Yield neighbours that differ in nothing but whom they are about, each group behind its first event."""
    for _, group in groupby(events, key=_WHAT):
        neighbours = list(group)
        yield neighbours[0], neighbours


def dump(events: Iterable[Event]) -> str:
    """Return events as the JSON text in which an attempt keeps them; views read it too."""
    rows: list[tuple[object, ...]] = []
    for first, group in alike(events):
        carried = [[*c] for c in first.carried]
        mappings, origin = first.mappings, first.origin and [*first.origin]
        rows += [(*event[:_CARRIED], carried, mappings, event.identifiers, origin) for event in group]
    return orjson.dumps(rows).decode()


def parse(text: str) -> list[Event]:
    """Return the events of `dump`."""
    return [_kept(row) for row in orjson.loads(text)]


def traits(carried: Iterable[Carried]) -> str:
    """Return what was said of a profile, as canonical JSON: ``{"audience_key": value}``."""
    return canonical({c.trait: orjson.Fragment(c.value) for c in carried})


def _start(api_key: str) -> bytes:
    return b'{"api_key":' + orjson.dumps(api_key) + b","


def _kept(row: list[Any]) -> Event:
    shard, profile_key, key, body, carried, *more = row
    mappings, identifiers, *origin = more or ((), _identifiers_in(body))  # the first schema kept neither
    made_of = Origin(*origin[0]) if origin and origin[0] else None  # the second schema kept none
    changes = tuple(Carried(*c) for c in carried)
    return Event(shard, profile_key, key, body, identifiers, changes, tuple(mappings), made_of)


def _identifiers_in(body: str) -> str:
    """Return the identifiers of an event of the first schema, whose body had all of them, the identity too."""
    sent = orjson.loads(body)["body"]
    found = {"user": sent["keys"], "company": sent.get("company", {}).get("keys")}
    return canonical({kind: keys for kind, keys in found.items() if keys})
