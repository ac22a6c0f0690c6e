"""Problems of a mapping, all at once and before any event arrives.

Some of it Segment refuses for every event; some it finds out when the wrong event comes; some it never says, and
nothing useful comes out. The configuration tells all of it, and compiling stops at the first kind. No sentence repeats
a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time
from typing import Final, NamedTuple, TypeAlias

from audience_sync.core.model import Json
from audience_sync.core.text import did_you_mean
from audience_sync.segment.mapping.event_values import Resolve, keys_fault, path_fault, placeholders

Path: TypeAlias = tuple[str | int, ...]
LONGEST_PATTERN: Final = 10
"""UTF-16 units that a pattern or replacement of @replace has at most."""


class MappingProblem(NamedTuple):
    """One thing that is wrong with a mapping, where, and whether Segment refuses every event because of it."""

    path: Path
    sentence: str
    every_event: bool = True


class Inside(NamedTuple):
    """A value in a directive that is a mapping in its turn."""

    path: Path
    value: Json


Found: TypeAlias = Iterator[MappingProblem | Inside]


class DirectivePlace(NamedTuple):
    """The place of a directive, the levels of its result that keep `MISSING`, and the compiler of its values."""

    path: Path
    keep: int
    compile: Callable[[Json, Path, int], Resolve]

    def inner(self, value: Json, *names: str | int, keep: int | None = None) -> Resolve:
        """Compile a value inside the directive, with the levels of the directive itself unless told otherwise."""
        return self.compile(value, (*self.path, *names), self.keep if keep is None else keep)

    def __str__(self) -> str:
        return spell(self.path)


def directive_of(value: Json) -> str | None:
    """Return the directive that a value is, the first if there are several; None for a plain value."""
    if not isinstance(value, dict):
        return None
    return next((key for key in value if key.startswith("@")), None)


def units(text: str) -> int:
    """Return how long a text is for JavaScript."""
    return len(text) + sum(letter > "\uffff" for letter in text)


def is_falsy(value: Json) -> bool:
    """Return whether JavaScript takes a value for false: null, false, 0 and ""; never lists and objects."""
    return not isinstance(value, dict | list) and not value


def spell(path: Path) -> str:
    """Return a path in a mapping as text for a message: ``user_traits.@merge.objects[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text.encode("utf-8", "backslashreplace").decode() or "the mapping"


_A_DIRECTIVE = 'or a directive such as { "@path" = "$.traits.name" }'


def _at_times(path: Path, sentence: str) -> MappingProblem:
    return MappingProblem(path, sentence, every_event=False)


def _text(value: Json, path: Path) -> Iterator[MappingProblem]:
    if not isinstance(value, str):
        yield MappingProblem(path, "must be text")


def _text_or_directive(value: Json, path: Path) -> Found:
    if directive_of(value):
        yield Inside(path, value)
    elif not isinstance(value, str):
        yield MappingProblem(path, f"must be text {_A_DIRECTIVE}")


def _object_or_directive(value: Json, path: Path) -> Found:
    if isinstance(value, dict):
        yield Inside(path, value)
    else:
        yield MappingProblem(path, f"must be a table {_A_DIRECTIVE}")


def _options(value: Json, path: Path, *, known: Iterable[str], required: Iterable[str]) -> Iterator[MappingProblem]:
    """Yield what is wrong with a directive's argument as a table of options."""
    if not isinstance(value, dict) or directive_of(value):
        yield MappingProblem(path, f"must be a table with {', '.join(f'`{name}`' for name in known)}")
        return
    for name in required:
        if name not in value:
            yield MappingProblem(path, f"needs `{name}`")
    for name in value:
        if name not in known:
            yield _at_times((*path, name), f"unknown option; use one of {', '.join(f'`{one}`' for one in known)}")


def _path(value: Json, path: Path) -> Found:
    yield from _text_or_directive(value, path)
    if isinstance(value, str) and (fault := path_fault(value)) is not None:
        yield _at_times(path, fault)


def _template(value: Json, path: Path) -> Found:
    yield from _text_or_directive(value, path)
    if not isinstance(value, str):
        return
    for part in placeholders(value):
        if isinstance(part, str):
            if "{{" in part:
                yield _at_times(path, "has a {{ that is not closed")
        elif part[0].startswith("$"):
            yield _at_times(path, 'has "$" in braces; write paths in braces without "$."')
        elif part[0].startswith(("#", "/", "^", "!", ">", "&", "{")) or "|" in part[0]:
            yield _at_times(path, "has more than a path in braces; a template supports only paths")
        elif (fault := keys_fault(part[0])) is not None:
            yield _at_times(path, f"has braces with a path that {fault}")


def _literal(value: Json, path: Path) -> Found:
    if not isinstance(value, str):
        yield Inside(path, value)


def _any(value: Json, path: Path) -> Found:
    yield Inside(path, value)


def _if(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("exists", "blank", "then", "else"), required=())
    if not isinstance(value, dict) or directive_of(value):
        return
    if is_falsy(value.get("exists")) and is_falsy(value.get("blank")):
        yield MappingProblem(path, "needs `exists` or `blank`, with a directive to test")
    elif "exists" in value and "blank" in value:
        yield _at_times((*path, "blank"), "is ignored because `exists` is set")
    if "then" not in value and "else" not in value:
        yield _at_times(path, "has no `then` and no `else`, so it has no result")
    if "else" in value and is_falsy(value["else"]):
        yield _at_times(
            (*path, "else"), 'is dropped, as Segment drops null, false, 0 and ""; use { "@literal" = … } to keep it'
        )
    for name in ("exists", "blank", "then", "else"):
        if name in value:
            yield Inside((*path, name), value[name])


def _case(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("operator", "value"), required=("operator",))
    if not isinstance(value, dict) or directive_of(value):
        return
    operator = value.get("operator", "lower")
    yield from _text(operator, (*path, "operator"))
    if isinstance(operator, str) and operator not in ("lower", "upper"):
        yield _at_times((*path, "operator"), 'must be "lower" or "upper"')
    if "value" in value:
        yield from _text_or_directive(value["value"], (*path, "value"))
    else:
        yield _at_times(path, "needs `value`")


def _replace(value: Json, path: Path) -> Found:
    known = ("value", "pattern", "replacement", "pattern2", "replacement2", "ignorecase", "global")
    yield from _options(value, path, known=known, required=("value", "pattern"))
    if not isinstance(value, dict) or directive_of(value):
        return
    if "value" in value:
        yield from _text_or_directive(value["value"], (*path, "value"))
    for name in ("pattern", "replacement"):
        if name in value:
            yield from _text(value[name], (*path, name))
    for name in ("ignorecase", "global"):
        if not isinstance(value.get(name, True), bool):
            yield MappingProblem((*path, name), "must be true or false")
    if value.get("pattern") == "":
        yield MappingProblem((*path, "pattern"), "must not be empty")
    for name in ("pattern", "replacement", "pattern2", "replacement2"):
        text = value.get(name)
        if isinstance(text, str) and units(text) > LONGEST_PATTERN:
            sentence = f"must be at most {LONGEST_PATTERN} characters long"
            yield MappingProblem((*path, name), sentence, every_event=not name.endswith("2"))
    yield from _second_pair(value, path)


def _second_pair(value: dict[str, Json], path: Path) -> Found:
    second = value.get("pattern2", "")
    if not isinstance(second, str) or ("pattern2" in value and not second):
        yield _at_times((*path, "pattern2"), "must be non-empty text; it is ignored")
    if not isinstance(value.get("replacement2", ""), str | None):
        yield _at_times((*path, "replacement2"), "must be text; the second pair is ignored")
    if "replacement2" in value and "pattern2" not in value:
        yield _at_times((*path, "replacement2"), "has no effect without `pattern2`")
    if directive_of(second):
        yield Inside((*path, "pattern2"), second)


def _array_path(value: Json, path: Path) -> Found:
    if not isinstance(value, list) or not value:
        yield MappingProblem(path, "must be a list with a path and the template for each item")
        return
    yield from _path(value[0], (*path, 0))
    if len(value) > 1:
        if isinstance(value[1], dict) and value[1]:
            yield Inside((*path, 1), value[1])
        else:
            yield _at_times((*path, 1), "must be a non-empty table; it is ignored")
    if len(value) > 2:
        yield _at_times((*path, 2), "has no effect: the list has only a path and the template for each item")


def _flatten(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("value", "separator", "omitArrays"), required=("value", "separator"))
    if not isinstance(value, dict) or directive_of(value):
        return
    if "value" in value:
        yield Inside((*path, "value"), value["value"])
    yield from _text(value.get("separator", "."), (*path, "separator"))
    if value.get("separator") == "":
        yield MappingProblem((*path, "separator"), "must not be empty")
    if not isinstance(value.get("omitArrays", True), bool):
        yield _at_times((*path, "omitArrays"), "must be true or false")


def _json(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("mode", "value"), required=("mode", "value"))
    if not isinstance(value, dict) or directive_of(value):
        return
    if value.get("mode", "encode") not in ("encode", "decode"):
        yield MappingProblem((*path, "mode"), 'must be "encode" or "decode"')
    if "value" in value and is_falsy(value["value"]):
        yield MappingProblem((*path, "value"), "must be a directive or non-empty text")
    elif "value" in value:
        yield Inside((*path, "value"), value["value"])


def _merge(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("objects", "direction"), required=("objects", "direction"))
    if not isinstance(value, dict) or directive_of(value):
        return
    if value.get("direction", "right") not in ("left", "right"):
        yield MappingProblem(
            (*path, "direction"), 'must be "left" (earlier objects win) or "right" (later objects win)'
        )
    objects: Json = value.get("objects", [{}])
    if not isinstance(objects, list):
        yield MappingProblem((*path, "objects"), "must be a list of tables or directives")
        return
    if not objects:
        yield _at_times((*path, "objects"), "is empty, so it has no result")
    for index, one in enumerate(objects):
        yield from _object_or_directive(one, (*path, "objects", index))


def _transform(value: Json, path: Path) -> Found:
    yield from _options(value, path, known=("apply", "mapping"), required=("apply", "mapping"))
    if not isinstance(value, dict) or directive_of(value):
        return
    for name in ("apply", "mapping"):
        if name in value:
            yield from _object_or_directive(value[name], (*path, name))


RULES: Final[dict[str, Callable[[Json, Path], Found]]] = {
    "@path": _path,
    "@template": _template,
    "@literal": _literal,
    "@if": _if,
    "@case": _case,
    "@replace": _replace,
    "@arrayPath": _array_path,
    "@flatten": _flatten,
    "@json": _json,
    "@merge": _merge,
    "@transform": _transform,
    "@excludeWhenNull": _any,
}
"""The directives, and the rule of each."""


MOST_LEVELS: Final = 50
"""The most levels of tables and lists in a mapping."""

_METADATA: Final = "_metadata"  # Segment's editor keeps notes under it, next to a directive
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOOKS_LIKE_PATH = re.compile(r"\$\.[A-Za-z_]")


def problems(mapping: Json) -> list[MappingProblem]:
    """Return everything that is wrong with a mapping or can do nothing, in the order of the mapping."""
    return list(_problems(mapping))


def refusals(mapping: Json) -> Iterator[MappingProblem]:
    """Return what keeps every event from being resolved."""
    return (problem for problem in _problems(mapping) if problem.every_event)


def _problems(mapping: Json) -> Iterator[MappingProblem]:
    if not isinstance(mapping, dict):
        yield MappingProblem((), "must be a table")
        return
    sound = True
    for problem in _no_json(mapping, ()):
        sound = False
        yield problem
    if sound:
        yield from _wrong(mapping, ())


def _no_json(value: object, path: Path) -> Iterator[MappingProblem]:
    """Yield what cannot be sent as JSON, or lies too deep to be looked at."""
    if len(path) > MOST_LEVELS:
        yield MappingProblem(path, f"is nested more than {MOST_LEVELS} levels deep")
        return
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _no_json(part, (*path, index))
    elif isinstance(value, dict):
        for key, part in value.items():
            if isinstance(key, str) and not _SURROGATE.search(key):
                yield from _no_json(part, (*path, key))
            else:
                yield MappingProblem(path, "has a key that is not text")
    elif (sentence := _no_scalar(value)) is not None:
        yield MappingProblem(path, sentence)


def _no_scalar(value: object) -> str | None:
    """Return why a value that is neither a list nor a table cannot be sent as JSON, or None."""
    match value:
        case None | bool():
            return None
        case int():
            return None if -(2**63) <= value < 2**64 else "is a number longer than 64 bits"
        case float():
            return None if math.isfinite(value) else "is not a JSON number"
        case str():
            return "contains a lone surrogate, which is not valid text" if _SURROGATE.search(value) else None
        case date() | time():
            return "is a date or time, which JSON does not support; put it in quotes"
        case _:
            return "is not a JSON value"


def _wrong(value: Json, path: Path) -> Iterator[MappingProblem]:
    """Yield what is wrong with a mapping that is JSON."""
    match value:
        case str():
            if _LOOKS_LIKE_PATH.match(value):
                yield MappingProblem(path, 'is text, not a path; use { "@path" = … } to read a path', every_event=False)
            elif "{{" in value and "}}" in value:
                yield MappingProblem(
                    path, 'is text, not a template; use { "@template" = … } for a template', every_event=False
                )
        case list():
            for index, part in enumerate(value):
                yield from _wrong(part, (*path, index))
        case dict():
            name = directive_of(value)
            if name is None:
                for key, part in value.items():
                    yield from _wrong(part, (*path, key))
            else:
                yield from _wrong_directive(name, value, path)
        case _:
            return


def _wrong_directive(name: str, value: dict[str, Json], path: Path) -> Iterator[MappingProblem]:
    if len(value.keys() - {_METADATA}) > 1:
        yield MappingProblem(path, f"has {name} and other keys; a directive must be the only key in its table")
        return
    if name not in RULES:
        hint = did_you_mean(name, RULES) or f"use one of {', '.join(RULES)}"
        yield MappingProblem((*path, name), f"unknown directive; {hint}")
        return
    for found in RULES[name](value[name], (*path, name)):
        if isinstance(found, MappingProblem):
            yield found
        else:
            yield from _wrong(found.value, found.path)
