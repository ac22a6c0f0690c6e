"""Events of changes that differ in nothing but whom they are about: made once, and filled in for each person.

A run says the same of everybody: one audience, one value, one generation. What a template leaves open but for the
person is known then, so that an event costs one hash and one filled text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core.keys import canonical
from audience_sync.core.model import ChangeKind
from audience_sync.destinations.schematic.mappings import Mapping
from audience_sync.destinations.schematic.templates import AT, TRAITS, Template, make_template, mark
from audience_sync.destinations.wire_events import (
    Carried,
    Contents,
    Event,
    OpenChange,
    OpenChanges,
    key_ends,
    with_idempotency_key,
)
from audience_sync.segment.segment_events import SegmentEvent

Names: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The names of the user keys and of the company keys that a profile has beside the identity."""

_KINDS: Final = ("user", "company")  # of identifiers, in the order of `Names`
_Said: TypeAlias = tuple[Any, ...]
_said: Callable[[OpenChange], _Said] = itemgetter(  # what a change says, whomever it is about
    slice(OpenChange._fields.index("audience_id"), OpenChange._fields.index("identifiers"))
)
_TRAITS, _TIME = 0, 1  # slots of a template; the others are the profile's key and its further keys
_REMEMBERED: Final = 50_000  # stamps: a full cache begins anew
_UNKNOWN: Final[Any] = object()
_NONE: Final[dict[str, str]] = {}


class Stamp(NamedTuple):
    """What the events of some changes have in common."""

    text: str  # of the event but the API key, with `%s` for what differs
    order: Callable[[Sequence[str]], Any]  # which of the texts stand there: time, profile, its keys, idempotency key
    key_ends: tuple[bytes, bytes]  # of what the idempotency key is a hash of, around the profile's
    carried: tuple[Carried, ...]
    mappings: tuple[str, ...]

    def fill(self, profile: bytes, keys: Sequence[str], *, at: str) -> tuple[str, str]:
        """Return the idempotency key and the body of one event; the profile and its further keys are JSON texts."""
        before, behind = self.key_ends
        key = blake2b(before + profile + behind, digest_size=16).hexdigest()
        return key, self.text % self.order((at, profile.decode(), *keys, key))


def make_stamp(template: Template, changes: Sequence[OpenChange], *, environment: str) -> Stamp:
    """Return the stamp for the open changes of a profile, to be used wherever another has the same ones."""
    traits = ",".join([f"{orjson.dumps(change.trait).decode()}:{change.value}" for change in changes])
    text = _escaped(template.pieces[0])
    order = []
    for slot, piece in zip(template.slots, template.pieces[1:], strict=True):
        if slot == _TRAITS:
            text += _escaped(f"{{{traits}}}")
        else:
            order.append(slot - 1)
            text += '"%s"' if slot == _TIME else "%s"
        text += _escaped(piece)
    facts = [(template.mapping.digest, change.audience_id, change.value, change.generation) for change in changes]
    return Stamp(
        with_idempotency_key(text, "%s"),
        itemgetter(*order, -1),
        key_ends(environment, facts),
        tuple(Carried(c.audience_id, c.generation, c.run_id, c.trait, c.value, c.kind) for c in changes),
        (template.mapping.name,),
    )


class Stamps:
    """The stamps of one destination, each made when it is needed first."""

    def __init__(self, mappings: Sequence[Mapping], event: Callable[..., SegmentEvent], *, environment: str) -> None:
        self._mappings = mappings
        self._sample = event  # changes of one profile, its identifiers and `at` as a Segment event
        self._environment = environment
        self._templates: dict[tuple[Names, str], Template | None] = {}
        self._stamps: dict[tuple[tuple[_Said, ...], Names], Stamp | None] = {}

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> Event | None:
        """Return the one event of the open changes of a profile, or None where the mappings must be asked."""
        names, keys = _further_keys([identifiers])[identifiers]
        first = changes[0]
        stamp = self._stamp(tuple([_said(change) for change in changes]), names)
        if stamp is None:
            return None
        key, body = stamp.fill(orjson.dumps(first.profile_key), keys, at=at)
        return Event(first.profile_key, key, body, identifiers, stamp.carried, stamp.mappings)

    def contents(self, changes: OpenChanges, *, at: str) -> Contents | None:
        """Return the events of changes, all of different profiles, as one batch; None where mappings must be asked.

        This is the way of every change of a large sync: `event`, without a tuple for every change and event.
        """
        known = _further_keys(changes.identifiers)
        found = Contents()
        before: object = None
        stamp: Stamp
        people: list[tuple[object, ...]]
        columns = (changes.profile_keys, _json_texts(changes.profile_keys), changes.identifiers)
        for said, profile_key, profile, identifiers in zip(changes.said, *columns, strict=True):
            names, keys = known[identifiers]
            if (said, names) != before:
                made = self._stamp((said,), names)
                if made is None:
                    return None
                stamp, before = made, (said, names)
                people = found.group(stamp.carried, stamp.mappings)
            key, body = stamp.fill(profile, keys, at=at)
            people.append((profile_key, key, body, identifiers, None))
        return found

    def template(self, names: Names, computation: str) -> Template | None:
        """Return the template for changes of one computation, of people who have these keys, if there is one."""
        if (names, computation) not in self._templates:
            numbers = count(1)
            sample = {
                kind: {name: mark(next(numbers)) for name in of_kind}
                for kind, of_kind in zip(_KINDS, names, strict=True)
                if of_kind
            }
            change = OpenChange(mark(0), 0, "", "true", 0, 0, computation, identifiers=None, kind=ChangeKind.ENTERED)
            event = {**self._sample([change], canonical(sample), at=AT), "traits": TRAITS}
            odd = any("\0" in name for of_kind in names for name in of_kind)  # it might pass for a mark
            made = None if odd else make_template(self._mappings, event, keys=next(numbers))
            self._templates[names, computation] = made
        return self._templates[names, computation]

    def _stamp(self, said: tuple[_Said, ...], names: Names) -> Stamp | None:
        """Return the stamp for the changes of a profile that say this, or None where the mappings must be asked."""
        stamp: Stamp | None = self._stamps.get((said, names), _UNKNOWN)
        if stamp is not _UNKNOWN:
            return stamp
        changes = [OpenChange._make(("", *one, None)) for one in said]
        template = self.template(names, changes[0].computation)
        made = None
        if template is not None and template.named_traits.isdisjoint([change.trait for change in changes]):
            made = make_stamp(template, changes, environment=self._environment)
        if len(self._stamps) >= _REMEMBERED:
            self._stamps.clear()
        self._stamps[said, names] = made
        return made


def _further_keys(identifiers: Iterable[str | None]) -> dict[str | None, tuple[Names, list[str]]]:
    """Return the names of the further keys in each of some identifiers, and their values as JSON texts."""
    texts = list(set(identifiers))
    found: dict[str | None, tuple[Names, list[str]]] = {}
    for text, known in zip(texts, orjson.loads(f"[{','.join([text or '{}' for text in texts])}]"), strict=True):
        user, company = known.get("user", _NONE), known.get("company", _NONE)
        values = [orjson.dumps(value).decode() for value in (*user.values(), *company.values())]
        found[text] = (tuple(user), tuple(company)), values
    return found


def _json_texts(texts: Sequence[str]) -> list[bytes]:
    """Return many texts as JSON, cut out of one list unless a quote within one of them might pass for its end."""
    if not texts:
        return []
    whole = orjson.dumps(texts)
    if b'\\"' in whole:
        return [orjson.dumps(text) for text in texts]
    return [b'"' + text + b'"' for text in whole[2:-2].split(b'","')]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
