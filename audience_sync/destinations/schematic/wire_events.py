"""Events in Schematic's wire form, as they are kept until Schematic has accepted them.

The wire form is that of Schematic's own clients: ``{api_key, type, body, idempotency_key, sent_at}``, at most 100 in
``{"events": […]}`` (schematic-python ``event_capture.py``). Events are kept and stored without the API key;
`batch_body` adds it on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self, TypeAlias

import orjson

from audience_sync.core.keys import canonical


class OpenChange(NamedTuple):
    """One undelivered value: a row of the outbox, with the key of its audience as the trait's name."""

    profile_key: str
    audience_id: int
    trait: str
    value: str  # JSON text
    generation: int
    run_id: int
    computation: str  # as in Computation
    kind: str  # of the change that was not sent yet; resent: nothing happened
    identifiers: str | None  # canonical JSON, as in Member


@dataclass(frozen=True)
class OpenChanges:
    """Many open changes in the order of their profiles, column by column: those of `OpenChange`."""

    columns: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, changes: Iterable[OpenChange]) -> Self:
        """Return changes as columns."""
        return cls(list(zip(*changes, strict=True)) or [()] * len(OpenChange._fields))

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[OpenChange]:
        return map(OpenChange._make, zip(*self.columns, strict=True))

    def part(self, start: int, end: int) -> OpenChanges:
        """Return some of them."""
        return OpenChanges([column[start:end] for column in self.columns])

    @property
    def profile_keys(self) -> Sequence[str]:
        """Return the profile key of each."""
        return self.columns[0]

    @property
    def said(self) -> Iterable[tuple[Any, ...]]:
        """Return the fields from `audience_id` to `kind` of each: what it says, whomever it is about."""
        return zip(*self.columns[1:-1], strict=True)

    @property
    def identifiers(self) -> Sequence[str | None]:
        """Return the identifiers of each."""
        return self.columns[-1]

    def with_identifiers(self, identifiers: Sequence[str | None]) -> OpenChanges:
        """Return the same changes with other identifiers."""
        return OpenChanges([*self.columns[:-1], identifiers])


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

    profile_key: str
    position: int
    message_id: str
    type: str
    payload: str  # JSON
    accepted: frozenset[str] = frozenset()  # idempotency keys of its bodies that Schematic has
    name: str | None = None
    received_at: int = 0


class Origin(NamedTuple):
    """The forwarded event from which an event was made, unless it was made from changes."""

    row: Forwarded
    shared: bool  # others were made of it, too, or a mapping could not: accepting this one may not be all


class Event(NamedTuple):
    """One event, ready to be posted, and the changes it carries, or where it comes from."""

    profile_key: str
    idempotency_key: str
    body: str  # JSON text of the whole event but the API key
    identifiers: str | None  # the profile's when it was made, as in Member
    carried: tuple[Carried, ...]
    mappings: tuple[str, ...] = ()  # the names of those that made it
    origin: Origin | None = None


_Group: TypeAlias = Sequence[Any]  # see `Contents`

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


def batch_body(bodies: Iterable[str], *, api_key: str) -> bytes:
    """Return the body of ``POST /batch``: events, each with the API key."""
    start = _start(api_key).decode()
    return f'{{"events":[{",".join([start + body[1:] for body in bodies])}]}}'.encode()


def with_key(body: str, *, api_key: str) -> str:
    """Return the JSON text of one event as it is posted, with the API key in front."""
    return _start(api_key).decode() + body[1:]


class Contents:
    """The events of a batch, in groups that carry the same; `dump` is the JSON text that an open batch has.

    A group is ``[carried, mappings, people]``: what each of its events carries (as `Carried`), the names of the
    mappings that made it, and for each event ``[profile key, idempotency key, body, identifiers, forwarded event]``,
    behind which versions before 0.8 wrote one more. Views read it, too.
    """

    def __init__(self, groups: Iterable[_Group] = ()) -> None:
        self.groups = list(groups)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Return events as the contents of a batch."""
        found = cls()
        for (carried, mappings), group in groupby(events, key=_ALIKE):
            people = found.group(carried, mappings)
            people += [(e[0], e[1], e[2], e[3], e.origin and _kept(e.origin)) for e in group]
        return found

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the contents of a text of `dump`."""
        return cls(orjson.loads(text))

    def group(self, carried: Iterable[Carried], mappings: Sequence[str]) -> list[Any]:
        """Return the people of the last group, to be extended; another group begins for other changes or mappings."""
        group = [[*change] for change in carried], [*mappings]
        if not self.groups or tuple(self.groups[-1][:2]) != group:
            self.groups.append((*group, []))
        people: list[Any] = self.groups[-1][2]
        return people

    @property
    def size(self) -> int:
        """Return how many events there are."""
        return sum(len(people) for *_, people in self.groups)

    def dump(self) -> str:
        """Return the text from which `parse` makes the same again."""
        return orjson.dumps(self.groups).decode()

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Return the events one by one."""
        found = []
        for carried, mappings, people in self.groups:
            changes = tuple(Carried(*c) for c in carried)
            for profile_key, key, body, identifiers, origin, *_ in people:
                made_of = None if origin is None else _origin(profile_key, origin)
                found.append(Event(profile_key, key, body, identifiers, changes, tuple(mappings), made_of))
        return tuple(found)

    @property
    def bodies(self) -> list[str]:
        """Return the JSON text of each event but the API key."""
        return [person[2] for *_, people in self.groups for person in people]

    @property
    def text_size(self) -> int:
        """Return how many characters the events have, those of the Segment events they were made of included."""
        people = [person for *_, people in self.groups for person in people]
        return sum(len(body) + (len(origin[_PAYLOAD]) if origin else 0) for _, _, body, _, origin, *_ in people)

    @property
    def profile_keys(self) -> list[str]:
        """Return the profile key of each event."""
        return [person[0] for *_, people in self.groups for person in people]

    @property
    def values(self) -> set[str]:
        """Return the values that the events carry."""
        return {change[4] for carried, *_ in self.groups for change in carried}

    @property
    def is_forwarded(self) -> bool:
        """Return whether the events are Segment events, and not changes."""
        return self.groups[0][2][0][4] is not None

    @property
    def is_shared(self) -> bool:
        """Return whether one of them is not all that is made of its Segment event."""
        if not self.is_forwarded:
            return False
        return any(person[4][_SHARED] for *_, people in self.groups for person in people)

    def summary(self) -> str:
        """Return what is kept once all are accepted, as JSON: who was told what, for which runs, under which key."""
        groups = []
        for carried, mappings, people in self.groups:
            changes = [Carried(*c) for c in carried]
            run_ids = sorted({change.run_id for change in changes})
            told = [(person[0], person[1], person[4] and person[4][1]) for person in people]
            groups.append((traits(changes), f"[{', '.join(map(str, run_ids))}]", ", ".join(mappings), told))
        return orjson.dumps(groups).decode()


def quoted(profile_key: str) -> str:
    """Return a profile key as it stands in the JSON texts of batches."""
    return orjson.dumps(profile_key).decode()


def traits(carried: Iterable[Carried]) -> str:
    """Return what was said of a profile, as canonical JSON: ``{"audience_key": value}``."""
    return canonical({c.trait: orjson.Fragment(c.value) for c in carried})


def _start(api_key: str) -> bytes:
    return b'{"api_key":' + orjson.dumps(api_key) + b","


_PAYLOAD: Final = 3  # the places of some of what is kept
_SHARED: Final = 7


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


def _origin(profile_key: str, kept: list[Any]) -> Origin:
    position, message_id, kind, payload, accepted, name, received_at, shared = kept
    row = Forwarded(
        profile_key, position, message_id, kind, payload, frozenset(accepted), name=name, received_at=received_at
    )
    return Origin(row, shared)
