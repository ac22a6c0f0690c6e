"""Compile the body of changes that differ only in the person once, and fill it in for each person.

All changes of a run have the same audience, value and generation. Everything in a template but the person is known
then, so an event costs one hash and one filled text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.keys import canonical
from audience_sync.core.model import ChangeKind, Json
from audience_sync.destinations.actions import BodyRejection
from audience_sync.destinations.mappings import Made, Mapping, apply, is_shared
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.rendered_events import (
    BatchContents,
    Carried,
    RenderedEvent,
    facts_of,
    key_between,
    key_ends,
)
from audience_sync.destinations.schematic.wire_format import with_idempotency_key
from audience_sync.segment.fql.trigger_tree import fields
from audience_sync.segment.mapping.template import reads
from audience_sync.segment.mapping.validation import directive_of
from audience_sync.segment.segment_events import SegmentEvent

# --- templates --------------------------------------------------------------------------------------------------------
# Bodies of audience changes without resolving a mapping for each: most mappings only move values to other places.
#
# Where that is so, one sample event with marks in the place of everything that differs between people is resolved,
# and its JSON text is cut at the marks. Putting the values of a profile between the pieces gives the same text as
# resolving its own event. A million people have as many templates as there are sets of keys: one or two.

AT: Final = "0001-01-01T00:00:00.001Z"
"""The mark of the time."""

TRAITS: Final[Json] = {"\0traits": 0}
"""The mark of the traits."""

_MOVES: Final = frozenset({"@path", "@literal", "@if", "@excludeWhenNull"})
_TEXTS: Final = (("userId",), ("anonymousId",), ("timestamp",), ("context", "groupId"))
_KEYS: Final = (("context", "user_keys"), ("context", "company_keys"))
_OF_A_PERSON: Final = (*_TEXTS, *_KEYS)


class Template(NamedTuple):
    """The text of a body in pieces, and which value belongs between one piece and the next."""

    mapping: Mapping
    named_traits: frozenset[str]  # it does not hold for changes of these
    pieces: tuple[str, ...]
    slots: tuple[int, ...]  # places in the list of values: traits, time, user keys, company keys


def mark(number: int) -> str:
    """Return the mark of a key's value."""
    return f"\0{number}\0"


def make_template(mappings: Iterable[Mapping], sample: SegmentEvent, *, keys: int) -> Template | None:
    """Return the template of the one body that mappings make of a change, or None where each must be resolved.

    The sample has the time `AT`, the traits `TRAITS` and `keys` marks.
    """
    made: list[tuple[Mapping, Made]] = []
    named: frozenset[str] = frozenset()
    for mapping in mappings:
        paths = fields(mapping.expression)
        if not all(map(_is_same_for_all, paths)):
            return None
        named |= {path[1] for path in paths if path[0] == "traits"}
        outcome = apply(mapping, sample)
        if isinstance(outcome, BodyRejection):
            return None
        if outcome is not None:
            made.append((mapping, outcome))
    if len(made) != 1 or made[0][0].named_traits is None or not _only_moves(made[0][0]):
        return None
    ((mapping, body),) = made
    marks = [TRAITS, AT, *map(mark, range(keys))]
    return Template(mapping, named | (mapping.named_traits or frozenset()), *_cut(body.text.decode(), marks))


def _cut(text: str, marks: Sequence[Json]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the text of a body cut at every mark, and which mark stood at each cut."""
    found: list[tuple[int, int, str]] = []
    for slot, one in enumerate(marks):
        spelled = exact_json.dumps(one).decode()
        at = text.find(spelled)
        while at >= 0:
            found.append((at, slot, spelled))
            at = text.find(spelled, at + 1)
    pieces, end = [], 0
    for at, _, spelled in sorted(found):
        pieces.append(text[end:at])
        end = at + len(spelled)
    return (*pieces, text[end:]), tuple(slot for _, slot, _ in sorted(found))


def _is_same_for_all(path: tuple[str, ...]) -> bool:
    """Return whether a trigger that looks at a path sees the same for every person and every change."""
    return is_shared(path) and not any(path[: len(leaf)] == leaf for leaf in _OF_A_PERSON)


def _only_moves(mapping: Mapping) -> bool:
    """Return whether every value of the body is one of the event as it is, or the same for all."""
    paths = reads(dict(mapping.fields))
    into_text = any(path[: len(leaf)] == leaf != path for path in paths for leaf in _TEXTS)
    into_keys = any(path[:2] in _KEYS and len(path) > 3 for path in paths)
    is_odd = "\\u0000" in _text(mapping) or AT in _text(mapping)  # a constant might pass for a mark
    return not (into_text or into_keys or is_odd) and _moves(dict(mapping.fields))


def _text(mapping: Mapping) -> str:
    return exact_json.dumps(mapping.fields).decode()


def _moves(value: Json) -> bool:
    match value:
        case dict():
            name = directive_of(value)
            if name == "@path":
                return isinstance(value[name], str)
            if name == "@if":
                argument = value[name]
                return isinstance(argument, dict) and "blank" not in argument and _moves(list(argument.values()))
            return (name is None or name in _MOVES) and all(_moves(inner) for inner in value.values())
        case list():
            return all(map(_moves, value))
        case _:
            return True


# --- compiled bodies --------------------------------------------------------------------------------------------------

Names: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The names of the user keys and of the company keys that a profile has in addition to the identity."""

_KINDS: Final = ("user", "company")  # of identifiers, in the order of `Names`
_Said: TypeAlias = tuple[Any, ...]
_said: Callable[[OpenChange], _Said] = itemgetter(  # what a change says, whomever it is about
    slice(OpenChange._fields.index("audience_id"), OpenChange._fields.index("identifiers"))
)
_TRAITS, _TIME = 0, 1  # slots of a template; the others are the profile's key and its further keys
_REMEMBERED: Final = 50_000  # compiled bodies: a full cache begins anew
_UNKNOWN: Final[Any] = object()
_NONE: Final[dict[str, str]] = {}


class CompiledBody(NamedTuple):
    """The common part of the events of some changes."""

    text: str  # of the event but the API key, with `%s` for what differs
    order: Callable[[Sequence[str]], Any]  # which of the texts stand there: time, profile, its keys, idempotency key
    key_ends: tuple[bytes, bytes]  # of what the idempotency key is a hash of, around the profile's
    carried: tuple[Carried, ...]
    mappings: tuple[str, ...]

    def fill(self, profile: bytes, keys: Sequence[str], *, at: str) -> tuple[str, str]:
        """Return the idempotency key and the body of one event; the profile and its further keys are JSON texts."""
        key = key_between(self.key_ends, profile)
        return key, self.text % self.order((at, profile.decode(), *keys, key))


def compile_body(template: Template, changes: Sequence[OpenChange], *, environment: str) -> CompiledBody:
    """Return the compiled body for the open changes of a profile, to be used wherever another has the same ones."""
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
    return CompiledBody(
        with_idempotency_key(text, "%s"),
        itemgetter(*order, -1),
        key_ends(environment, facts_of(template.mapping.digest, changes)),
        tuple(map(Carried.of, changes)),
        (template.mapping.name,),
    )


class CompiledBodies:
    """The compiled bodies of one destination, each made when it is first needed."""

    def __init__(self, mappings: Sequence[Mapping], event: Callable[..., SegmentEvent], *, environment: str) -> None:
        self._mappings = mappings
        self._sample = event  # changes of one profile, its identifiers and `at` as a Segment event
        self._environment = environment
        self._templates: dict[tuple[Names, str], Template | None] = {}
        self._compiled: dict[tuple[tuple[_Said, ...], Names], CompiledBody | None] = {}

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> RenderedEvent | None:
        """Return the one event of the open changes of a profile, or None where the mappings must be asked."""
        names, keys = _further_keys([identifiers])[identifiers]
        first = changes[0]
        compiled = self._body(tuple([_said(change) for change in changes]), names)
        if compiled is None:
            return None
        key, body = compiled.fill(orjson.dumps(first.profile_key), keys, at=at)
        return RenderedEvent(first.profile_key, key, body, identifiers, compiled.carried, compiled.mappings)

    def contents(self, changes: OpenChanges, *, at: str) -> BatchContents | None:
        """Return the events of changes, all of different profiles, as one batch; None where mappings must be asked.

        This is the way of every change of a large sync: `event`, without a tuple for every change and event.
        """
        known = _further_keys(changes.identifiers)
        found = BatchContents()
        before: object = None
        compiled: CompiledBody
        people: list[tuple[object, ...]]
        columns = (changes.profile_keys, _json_texts(changes.profile_keys), changes.identifiers)
        for said, profile_key, profile, identifiers in zip(changes.said, *columns, strict=True):
            names, keys = known[identifiers]
            if (said, names) != before:
                made = self._body((said,), names)
                if made is None:
                    return None
                compiled, before = made, (said, names)
                people = found.group(compiled.carried, compiled.mappings)
            key, body = compiled.fill(profile, keys, at=at)
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

    def _body(self, said: tuple[_Said, ...], names: Names) -> CompiledBody | None:
        """Return the compiled body for changes that say this, or None where the mappings must be applied."""
        compiled: CompiledBody | None = self._compiled.get((said, names), _UNKNOWN)
        if compiled is not _UNKNOWN:
            return compiled
        changes = [OpenChange._make(("", *one, None)) for one in said]
        template = self.template(names, changes[0].computation)
        made = None
        if template is not None and template.named_traits.isdisjoint([change.trait for change in changes]):
            made = compile_body(template, changes, environment=self._environment)
        if len(self._compiled) >= _REMEMBERED:
            self._compiled.clear()
        self._compiled[said, names] = made
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
