"""Bodies of audience changes without resolving a mapping for each: most mappings only move values to other places.

Where that is so, one sample event with marks in the place of everything that differs between people is resolved, and
its JSON text is cut at the marks. What is put between the pieces for a profile is then exactly what resolving its own
event would have put there. A million people have as many templates as there are sets of keys: one or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.destinations.schematic.actions import Rejection
from audience_sync.destinations.schematic.mappings import Made, Mapping, apply, is_shared
from audience_sync.segment.fql.trigger_tree import fields
from audience_sync.segment.mapping.template import reads
from audience_sync.segment.mapping.validation import directive_of
from audience_sync.segment.segment_events import SegmentEvent

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
        if isinstance(outcome, Rejection):
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
