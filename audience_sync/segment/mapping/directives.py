"""Directives: builders that make a function of a directive's argument, which was validated before.

A value without JSON in it is passed on as it is; a function raises MappingError where Segment, too, gives an event up.
Where an object keeps `MISSING` for a key (`keep` levels of it do), the key counts as set to nothing: in a merge it
takes away what another object has there, as it does at Segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.event_values import (
    MISSING,
    MOST,
    Resolve,
    Value,
    as_json,
    as_text,
    is_blank,
    measured,
    parse_path,
    reader,
    split_template,
)
from audience_sync.segment.mapping.validation import LONGEST_PATTERN, DirectivePlace, is_falsy, spell, units

Members: TypeAlias = dict[str, Any]  # each is a Value


def flatten(value: Value, separator: str, *, omit_arrays: bool, place: str) -> Members:
    """Return an object of one level with the scalars of a value, each under its whole path.

    Raises:
        MappingError: the value or its paths are too large.
    """
    flat: Members = {}
    left = MOST

    def put(part: Value, path: str) -> None:
        nonlocal left
        left -= len(path)
        if left < 0:
            raise MappingError(f"{place}: the result is too large")
        prefix = path + separator if path else ""
        if isinstance(part, dict):
            for key, inner in part.items():
                put(inner, prefix + key)
        elif isinstance(part, list) and not omit_arrays:
            for index, inner in enumerate(part):
                put(inner, f"{prefix}{index}")
        else:
            flat[path] = settled(part) if isinstance(part, list) else part

    put(measured(value, place), "")
    return flat


def parts_of(value: Value) -> Members:
    """Return what a merge takes of a value that is not an object: parts of a list or text by position, or nothing."""
    return {str(index): part for index, part in enumerate(value)} if isinstance(value, (list, str)) else {}


def without_nulls(value: Value, keep: int) -> Value:
    """Return a value without the nulls of its objects, but for those in lists, which have their place."""
    if value is None:
        return MISSING
    if not isinstance(value, dict):
        return value
    members: Members = {key: without_nulls(part, keep - 1) for key, part in value.items()}
    return members if keep > 0 else present(members)


def present(members: Members) -> Json:
    """Return an object without the keys that have no value."""
    return {key: part for key, part in members.items() if part is not MISSING}


def settled(items: list[Any]) -> list[Json]:
    """Return a list with null in place of missing values."""
    return [None if item is MISSING else item for item in items]


def decode(text: str) -> Json:
    """Return what JSON text says, or the text as it is."""
    try:
        return exact_json.loads(text)
    except (ValueError, RecursionError):
        return text


def replacer(
    pattern: str, replacement: str, *, ignore_case: bool, everywhere: bool, place: str
) -> Callable[[str], str]:
    """Return a function that replaces a literal pattern in a text.

    In the replacement ``$&`` is what was found, ``$`` with a backquote or quote what stands before or behind it, and
    ``$$`` a dollar sign, as in JavaScript. The function raises MappingError when the outcome is too large.
    """
    if not ignore_case and "$" not in replacement:
        count = -1 if everywhere else 1
        return lambda text: text.replace(pattern, replacement, count)
    found = re.compile("".join(map(_any_case, pattern)) if ignore_case else re.escape(pattern))
    pieces = [piece for piece in re.split(r"(\$[$&`'])", replacement) if piece]

    def replace(text: str) -> str:
        left = MOST

        def put(match: re.Match[str]) -> str:
            nonlocal left
            put_in = "".join(_expanded(piece, match) for piece in pieces)
            left -= len(put_in)
            if left < 0:
                raise MappingError(f"{place}: the result is too large")
            return put_in

        return found.sub(put, text, 0 if everywhere else 1)

    return replace


def _expanded(piece: str, match: re.Match[str]) -> str:
    match piece:
        case "$$":
            return "$"
        case "$&":
            return match[0]
        case "$`":
            return match.string[: match.start()]
        case "$'":
            return match.string[match.end() :]
        case _:
            return piece


def _any_case(letter: str) -> str:
    """Return a pattern for a letter in either case."""
    return "[" + "".join(map(re.escape, sorted(_cases().get(_folded(letter), letter)))) + "]"


def _folded(letter: str) -> str:
    """Return what JavaScript compares in the place of a letter when case does not matter."""
    upper = letter.upper()
    if len(upper) > 1 or letter > "\uffff" or letter > "\x7f" >= upper:
        return letter
    return upper


@lru_cache(maxsize=1)
def _cases() -> dict[str, str]:
    """Return the letters of each fold that has more than one."""
    folds: dict[str, str] = {}
    for code in range(0x10000):
        letter = chr(code)
        if (upper := _folded(letter)) != letter:
            folds[upper] = folds.get(upper, upper) + letter
    return folds


EVERY_LEVEL: Final = 1_000
Argument: TypeAlias = Any  # JSON; `validation.problems` has looked at its types


def constant(value: Value) -> Resolve:
    """Return a function that gives the same scalar for every event."""
    return lambda _: value


def _path(argument: Argument, here: DirectivePlace) -> Resolve:
    if isinstance(argument, str):
        return reader(parse_path(argument))
    named = here.inner(argument, keep=0)
    place = str(here)

    def resolve(data: Value) -> Value:
        return reader(parse_path(_named(named(data), place)))(data)

    return resolve


def _named(value: Value, place: str) -> str:
    if not isinstance(value, str):
        raise MappingError(f"{place}: the result must be text, but for this event it is not")
    return value


def _template(argument: Argument, here: DirectivePlace) -> Resolve:
    place = str(here)
    if isinstance(argument, str):
        return _filled(argument, place)
    named = here.inner(argument, keep=0)
    return lambda data: _filled(_named(named(data), place), place)(data)


def _filled(template: str, place: str) -> Resolve:
    """Return a function that fills the placeholders of a template."""
    parts: list[str | Resolve] = [part if isinstance(part, str) else reader(part) for part in split_template(template)]

    def resolve(data: Value) -> Value:
        texts = [part if isinstance(part, str) else as_text(part(data), place) for part in parts]
        if sum(map(len, texts)) > MOST:
            raise MappingError(f"{place}: the result is too large")
        return "".join(texts)

    return resolve


def _whole(argument: Argument, here: DirectivePlace) -> Resolve:
    return here.inner(argument)


def _if(argument: Argument, here: DirectivePlace) -> Resolve:
    name = "exists" if "exists" in argument else "blank"
    condition = here.inner(argument[name], name, keep=0)
    nothing = constant(MISSING)
    then = here.inner(argument["then"], "then") if "then" in argument else nothing
    otherwise = nothing if is_falsy(argument.get("else")) else here.inner(argument["else"], "else")
    if name == "exists":

        def resolve(data: Value) -> Value:
            value = condition(data)
            return otherwise(data) if value is None or value is MISSING else then(data)

        return resolve
    place = str(here)
    return lambda data: (otherwise if is_blank(condition(data), place) else then)(data)


def _case(argument: Argument, here: DirectivePlace) -> Resolve:
    if "value" not in argument:
        return constant(MISSING)
    value = here.inner(argument["value"], "value")
    change = {"lower": str.lower, "upper": str.upper}.get(argument["operator"])
    place = spell((*here.path, "operator"))

    def resolve(data: Value) -> Value:
        text = value(data)
        if not isinstance(text, str):
            return text
        if change is None:
            raise MappingError(f'{place}: must be "lower" or "upper"')
        return change(text)

    return resolve


def _replace(argument: Argument, here: DirectivePlace) -> Resolve:
    value = here.inner(argument["value"], "value", keep=0)
    place = str(here)
    options = {
        "ignore_case": argument.get("ignorecase", False),
        "everywhere": argument.get("global", True),
        "place": place,
    }
    steps = [replacer(argument["pattern"], argument.get("replacement", ""), **options)]
    second, put = argument.get("pattern2"), argument.get("replacement2") or ""
    too_long = False
    if second and isinstance(second, str) and isinstance(put, str):
        too_long = max(units(second), units(put)) > LONGEST_PATTERN
        steps.append(replacer(second, put, **options))

    def resolve(data: Value) -> Value:
        text = value(data)
        if text is None or text is MISSING or isinstance(text, (dict, list)):
            return ""
        if too_long:
            raise MappingError(f"{place}: the second pair must be at most {LONGEST_PATTERN} characters long")
        text = as_text(text, place)
        for step in steps:
            text = step(text)
        return text

    return resolve


def _array_path(argument: Argument, here: DirectivePlace) -> Resolve:
    source, *more = argument
    shaped = bool(more) and isinstance(more[0], dict) and bool(more[0])
    keep = 1 if shaped else here.keep  # so that an item without a value is not taken for null
    items = reader(parse_path(source)) if isinstance(source, str) else here.inner(source, 0, keep=keep)
    if not shaped:
        return items
    shape = here.inner(more[0], 1, keep=max(here.keep - 1, 0))
    place, keeps = str(here), here.keep > 0

    def resolve(data: Value) -> Value:
        found = items(data)
        if not isinstance(found, (dict, list)):
            return found
        made: list[Any] = [shape(item) for item in (found if isinstance(found, list) else [present(found)])]
        return measured(made if keeps else settled(made), place)

    return resolve


def _flatten(argument: Argument, here: DirectivePlace) -> Resolve:
    separator = argument["separator"]
    omit_arrays = not is_falsy(argument.get("omitArrays"))
    value = here.inner(argument["value"], "value", keep=1 if omit_arrays else EVERY_LEVEL)
    place, keeps = str(here), here.keep > 0

    def resolve(data: Value) -> Value:
        flat = flatten(value(data), separator, omit_arrays=omit_arrays, place=place)
        return flat if keeps else present(flat)

    return resolve


def _json(argument: Argument, here: DirectivePlace) -> Resolve:
    place = str(here)
    if argument["mode"] == "encode":
        value = here.inner(argument["value"], "value", keep=0)

        def encode(data: Value) -> Value:
            found = value(data)
            return found if found is MISSING else as_json(found, place)

        return encode
    text = here.inner(argument["value"], "value")

    def resolve(data: Value) -> Value:
        found = text(data)
        return decode(found) if isinstance(found, str) else found

    return resolve


def _merge(argument: Argument, here: DirectivePlace) -> Resolve:
    objects = [
        here.inner(one, "objects", index, keep=max(here.keep, 1)) for index, one in enumerate(argument["objects"])
    ]
    if argument["direction"] == "left":
        objects.reverse()
    keeps = here.keep > 0

    def resolve(data: Value) -> Value:
        merged: Members = {}
        for one in objects:
            value = one(data)
            merged.update(value if isinstance(value, dict) else parts_of(value))
        return merged if keeps or MISSING not in merged.values() else present(merged)

    return resolve


def _transform(argument: Argument, here: DirectivePlace) -> Resolve:
    apply = here.inner(argument["apply"], "apply", keep=0)
    mapping = here.inner(argument["mapping"], "mapping")
    place = str(here)

    def resolve(data: Value) -> Value:
        if data is not MISSING and not isinstance(data, dict):
            raise MappingError(f"{place}: the value must be an object, but for this event it is not")
        return mapping(measured(apply(data), place))

    return resolve


def _exclude_when_null(argument: Argument, here: DirectivePlace) -> Resolve:
    value, keep, place = here.inner(argument), here.keep, str(here)

    def resolve(data: Value) -> Value:
        found = value(data)
        return without_nulls(measured(found, place), keep) if isinstance(found, dict) else without_nulls(found, keep)

    return resolve


BUILDERS: Final[dict[str, Callable[[Argument, DirectivePlace], Resolve]]] = {
    "@path": _path,
    "@template": _template,
    "@literal": _whole,
    "@if": _if,
    "@case": _case,
    "@replace": _replace,
    "@arrayPath": _array_path,
    "@flatten": _flatten,
    "@json": _json,
    "@merge": _merge,
    "@transform": _transform,
    "@excludeWhenNull": _exclude_when_null,
}
"""The directives, and what makes a function of each."""
