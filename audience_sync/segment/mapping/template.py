"""Mappings in Segment's form: any JSON, in which an object with one ``@`` key says where a value comes from.

`compile_mapping` makes a function of a mapping once; what is the same for every event is resolved then. The function
reads an event and changes nothing. Its result must not be changed: parts of it are parts of the event.

An object leaves out what has no value, a list has null there. Inside @merge and @flatten a key without a value still
counts, so what they take is compiled to `keep` such keys, down to a number of levels.

Segment's answers are followed but for these: a mapping is never written to, ``['a.b']`` is one key, integers keep all
their digits, keys that are numbers keep their place, a text is never cut within a character, names that JavaScript's
own objects have (`constructor`) are nothing, and a directive that can never be resolved is refused in any branch.
"""

from __future__ import annotations

from collections.abc import Iterator

from audience_sync.core.model import Json
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.directives import BUILDERS, constant, settled
from audience_sync.segment.mapping.event_values import (
    MISSING,
    Keys,
    Missing,
    Resolve,
    Value,
    parse_path,
    split_template,
)
from audience_sync.segment.mapping.validation import MOST_LEVELS, DirectivePlace, Path, directive_of, refusals, spell

__all__ = ["MISSING", "Missing", "compile_mapping", "reads"]


def compile_mapping(mapping: Json) -> Resolve:
    """Return a function that resolves a mapping for an event: to JSON, or `MISSING` if the mapping is one directive.

    The function raises MappingError when the event is not an object, when a directive gets what it cannot take, or when
    something would become too large to be an event (`event_values.MOST`).

    Raises:
        MappingError: the mapping cannot be resolved for any event; the sentence names the first reason and its place.
    """
    for path, sentence, _ in refusals(mapping):
        raise MappingError(f"{spell(path)}: {sentence}")
    resolve = _compile(mapping, (), 0)

    def resolve_event(event: Value) -> Value:
        if not isinstance(event, dict):
            raise MappingError("the event is not an object")
        return resolve(event)

    return resolve_event


def reads(mapping: Json) -> frozenset[Keys]:
    """Return the paths of all that a mapping can look at in an event; `()` is the whole event.

    What @arrayPath and @transform look at further down is part of what they begin with.
    """
    return frozenset(_reads(mapping, 0))


def _compile(value: Json, path: Path, keep: int) -> Resolve:
    match value:
        case dict():
            name = directive_of(value)
            if name is None:
                return _object(value, path, keep)
            resolve = BUILDERS[name](value[name], DirectivePlace((*path, name), keep, _compile))
            return resolve if reads(value) else _same(resolve)
        case list():
            return _list(value, path, keep)
        case _:
            return constant(value)


def _same(resolve: Resolve) -> Resolve:
    """Return a function for a directive that looks at no event; objects and lists are made anew for each."""
    try:
        value = resolve(None)
    except MappingError:
        return resolve
    return resolve if isinstance(value, (dict, list)) else constant(value)


def _object(members: dict[str, Json], path: Path, keep: int) -> Resolve:
    if not any(isinstance(value, (dict, list)) for value in members.values()):
        known = members.copy()
        return lambda _: known.copy()
    parts = [(key, _compile(value, (*path, key), max(keep - 1, 0))) for key, value in members.items()]
    if len(parts) == 1:
        return _lone(*parts[0], keep)
    if keep > 0:
        return lambda data: {key: part(data) for key, part in parts}  # type: ignore[misc]  # MISSING counts here

    def resolve(data: Value) -> Value:
        made = {}
        for key, part in parts:
            value = part(data)
            if value is not MISSING:
                made[key] = value
        return made

    return resolve


def _lone(key: str, part: Resolve, keep: int) -> Resolve:
    """Return a function for an object of one member, as most keys are."""
    if keep > 0:
        return lambda data: {key: part(data)}  # type: ignore[dict-item]  # MISSING counts here

    def resolve(data: Value) -> Value:
        value = part(data)
        return {} if value is MISSING else {key: value}

    return resolve


def _list(items: list[Json], path: Path, keep: int) -> Resolve:
    parts = [_compile(item, (*path, index), max(keep - 1, 0)) for index, item in enumerate(items)]
    if keep > 0:
        return lambda data: [part(data) for part in parts]  # type: ignore[misc]  # MISSING counts here
    return lambda data: settled([part(data) for part in parts])


def _reads(value: Json, level: int) -> Iterator[Keys]:
    if level > MOST_LEVELS:
        yield ()
        return
    if isinstance(value, list):
        for part in value:
            yield from _reads(part, level + 1)
    if not isinstance(value, dict):
        return
    name = directive_of(value)
    argument = value[name] if name is not None else None
    match name, argument:
        case "@path", str():
            yield parse_path(argument)
        case "@template", str():
            yield from (part for part in split_template(argument) if not isinstance(part, str))
        case "@path" | "@template", _:
            yield ()  # a path that comes from the event can be any
        case "@arrayPath", [str() as source, *_]:
            yield parse_path(source)
        case "@arrayPath", [source, *_]:
            yield from _reads(source, level + 2)
        case "@transform", {"apply": apply}:
            yield from _reads(apply, level + 2)
        case _:
            for part in value.values():
                yield from _reads(part, level + 1)
