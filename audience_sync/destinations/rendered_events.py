"""Events ready to be sent, what each of them was made of, and their idempotency keys."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self, TypeAlias

import orjson

from audience_sync.core.keys import canonical
from audience_sync.destinations.open_changes import OpenChange


class Carried(NamedTuple):
    """A change that an event carries: what its row of the outbox said when the event was made of it."""

    audience_id: int
    generation: int
    run_id: int
    trait: str
    value: str
    kind: str
    shared: bool = False  # others carry it, too, or a mapping rejected it: accepting this event may not be all

    @classmethod
    def of(cls, change: OpenChange, *, shared: bool = False) -> Self:
        """Return a change as the event that is made of it carries it."""
        c = change
        return cls(c.audience_id, c.generation, c.run_id, c.trait, c.value, c.kind, shared)


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


Fact: TypeAlias = tuple[str, int, str, int]
"""The digest of a mapping, and the audience, value and generation of a change: see `facts_of`."""


def facts_of(mapping: str, changes: Iterable[OpenChange]) -> list[Fact]:
    """Return what an event that a mapping makes of changes says; the mapping is named by its digest."""
    return [(mapping, change.audience_id, change.value, change.generation) for change in changes]


def idempotency_key(environment: str, profile_key: str, facts: Iterable[Fact]) -> str:
    """Return the key under which the destination drops a repetition: 32 hexadecimal digits.

    A fact is the digest of a mapping (which stands for action and fields) and the audience, value and generation of a
    change that it made this event of. The same facts have the same key, also after a crash; a change of a new
    generation has another, and so have the events that two mappings make of one change.
    """
    return key_between(key_ends(environment, facts), orjson.dumps(profile_key))


def key_ends(environment: str, facts: Iterable[Fact]) -> tuple[bytes, bytes]:
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


DELETED: Final = "deleted"
"""The type of the message about a person who was erased from the membership database."""

NOT_MAPPED = "no enabled mapping makes an event from it"


class RejectedChange(NamedTuple):
    """A change that cannot be sent as the mappings are, and why."""

    change: OpenChange
    reason: str


class ProfileEvents(NamedTuple):
    """The events of the open changes of one profile, and the changes that cannot be sent."""

    events: list[RenderedEvent]
    rejected: list[RejectedChange]


class UnsentEvent(NamedTuple):
    """A forwarded event, and why nothing, or nothing more, is sent of it."""

    event: ForwardedEvent
    reason: str


class ForwardedProfileEvents(NamedTuple):
    """The events of waiting forwarded events of one profile, and those that make none."""

    events: list[RenderedEvent]
    unsent: list[UnsentEvent]  # counted and gone: the mappings, or the event itself, ask for nothing
    dead: list[UnsentEvent]  # wanted by a mapping that cannot make its body; others may have made theirs
    over: list[ForwardedEvent]  # the destination has every body already


_Group: TypeAlias = Sequence[Any]  # see `BatchContents`

_ALIKE: Final = itemgetter(slice(RenderedEvent._fields.index("carried"), RenderedEvent._fields.index("origin")))


class BatchContents:
    """The events of a batch, in groups that carry the same; `dump` is the JSON text that an open batch has.

    A group is ``[carried, mappings, people]``: what each of its events carries (as `Carried`), the names of the
    mappings that made it, and for each event ``[profile key, idempotency key, body, identifiers, forwarded event]``,
    behind which versions before 0.8 wrote one more. Views read it, too.
    """

    def __init__(self, groups: Iterable[_Group] = ()) -> None:
        self.groups = list(groups)

    @classmethod
    def of(cls, events: Iterable[RenderedEvent]) -> Self:
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
    def events(self) -> tuple[RenderedEvent, ...]:
        """Return the events one by one."""
        found = []
        for carried, mappings, people in self.groups:
            changes = tuple(Carried(*c) for c in carried)
            for profile_key, key, body, identifiers, origin, *_ in people:
                made_of = None if origin is None else _origin(profile_key, origin)
                found.append(RenderedEvent(profile_key, key, body, identifiers, changes, tuple(mappings), made_of))
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

    def without(self, profile_keys: Container[str]) -> Self:
        """Return the contents without the events of some profiles."""
        groups = (
            (carried, mappings, [person for person in people if person[0] not in profile_keys])
            for carried, mappings, people in self.groups
        )
        return type(self)(group for group in groups if group[2])

    @property
    def deleted(self) -> set[str]:
        """Return the profile keys of the events that say that a person was deleted."""
        return {
            person[0] for *_, people in self.groups for person in people if person[4] and person[4][_TYPE] == DELETED
        }

    def summary(self) -> str:
        """Return the JSON that is kept once all are accepted: profiles, traits, runs and keys."""
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


_TYPE: Final = 2  # the places of some of what is kept
_PAYLOAD: Final = 3
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
    row = ForwardedEvent(
        profile_key, position, message_id, kind, payload, frozenset(accepted), name=name, received_at=received_at
    )
    return Origin(row, shared)
