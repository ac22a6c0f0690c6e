"""Mappings in Segment's form: any JSON, in which an object with one ``@`` key says where a value comes from.

`compile_mapping` makes a function of a mapping once; what is the same for every event is resolved then. The function
reads an event and changes nothing. What it returns is to be read only: parts of it are parts of the event.

An object leaves out what has no value, a list has null there. Inside @merge and @flatten a key without a value still
counts, so what they take is compiled to `keep` such keys, down so many levels.
"""

from __future__ import annotations

from collections.abc import Iterator

from audience_sync.core.destination.directive_builders import BUILDERS, Place, constant
from audience_sync.core.destination.directive_shape import Path, directive_of, spell
from audience_sync.core.destination.directive_text import split_template
from audience_sync.core.destination.directive_values import settled
from audience_sync.core.destination.mapping_problems import MOST_LEVELS, refusals
from audience_sync.core.destination.paths import MISSING, Keys, Missing, Resolve, Value, parse_path
from audience_sync.core.model import Json
from audience_sync.errors import MappingError

__all__ = ["MISSING", "Missing", "compile_mapping", "reads"]


def compile_mapping(mapping: Json) -> Resolve:
    """Return a function that resolves a mapping for an event: to JSON, or `MISSING` if the mapping is one directive.

    The function raises MappingError when the event is no object, when a directive gets what it cannot take, or when
    something would become too large to be an event (`directive_text.MOST`).

    Raises:
        MappingError: the mapping cannot be resolved for any event; the sentence names the first reason and its place.
    """
    for path, sentence in refusals(mapping):
        raise MappingError(f"{spell(path)}: {sentence}")
    resolve = _compile(mapping, (), 0)

    def resolve_event(event: Value) -> Value:
        if not isinstance(event, dict):
            raise MappingError("the event is no object")
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
            resolve = BUILDERS[name](value[name], Place((*path, name), keep, _compile))
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
    return resolve if isinstance(value, dict | list) else constant(value)


def _object(members: dict[str, Json], path: Path, keep: int) -> Resolve:
    if not any(isinstance(value, dict | list) for value in members.values()):
        return lambda _: members.copy()
    parts = [(key, _compile(value, (*path, key), max(keep - 1, 0))) for key, value in members.items()]
    if keep > 0:
        return lambda data: {key: part(data) for key, part in parts}  # type: ignore[misc]  # MISSING counts here
    if len(parts) == 1:
        return _lone(*parts[0])

    def resolve(data: Value) -> Value:
        made = {}
        for key, part in parts:
            value = part(data)
            if value is not MISSING:
                made[key] = value
        return made

    return resolve


def _lone(key: str, part: Resolve) -> Resolve:
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
    match directive_of(value):
        case "@path" as name:
            yield _read_by_path(value[name])
        case "@template" as name:
            template = value[name]
            if isinstance(template, str):
                yield from (part for part in split_template(template) if not isinstance(part, str))
            else:
                yield ()
        case "@arrayPath" as name:
            argument = value[name]
            yield _read_by_path(argument[0] if isinstance(argument, list) and argument else None)
        case "@transform" as name:
            argument = value[name]
            yield from _reads(argument.get("apply") if isinstance(argument, dict) else None, level + 2)
        case _:
            for part in value.values():
                yield from _reads(part, level + 1)


def _read_by_path(argument: Json) -> Keys:
    """Return what a path reads; one that comes from the event can be any."""
    return parse_path(argument) if isinstance(argument, str) else ()
