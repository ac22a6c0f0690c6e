"""Values of an event: what a path such as `$.traits.address.city` names, and how Segment writes a value as text.

A path is keys between dots; ``$.`` in front is optional, and nothing at all is the whole event. ``[0]`` is a place in
a list, as ``.0`` is, and ``['a.b']`` one key as it stands, dots and all. The result is that of Segment:
below null, false, 0 and "" is the same again, below anything else that has no such part is nothing; lists and texts
have a `length`.

Texts are written in JavaScript's way: 1.0 is `1`, null is nothing, lists have commas. But numbers keep all their
digits, which JavaScript does not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Final, TypeAlias

from audience_sync.core.exact_json import LongFraction
from audience_sync.core.model import Json
from audience_sync.errors import MappingError


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""There is no value, which is not the same as null: an object leaves it out, and in a list it is null."""

Keys: TypeAlias = tuple[str, ...]
Value: TypeAlias = "Json | Missing"
Resolve: TypeAlias = Callable[[Value], Value]

_PARTS = re.compile(r"""\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]|(\.)|([^.\[]+|\[)""", re.DOTALL)
_INDEX = re.compile(r"(0|[1-9][0-9]{0,9})", re.ASCII)  # as JavaScript writes one: `01` is a name


def parse_path(text: str) -> Keys:
    """Return the keys of a path; none are the whole event."""
    return split_keys(text.removeprefix("$."))


def split_keys(text: str) -> Keys:
    """Return the keys of a path without ``$.``, as a template has them."""
    keys: list[str] = []
    word = ""
    for match in _PARTS.finditer(text):
        letters = match[5]
        if letters is not None:
            word += letters
            continue
        if word:
            keys.append(word)
            word = ""
        if match[4] is None:
            keys.append(match[match.lastindex or 0])
    return (*keys, word) if word else tuple(keys)


def path_fault(text: str) -> str | None:
    """Return what is surely not meant as it is written in a path, as a sentence, or None."""
    if text.startswith("$") and not text.startswith("$."):
        return 'begins with "$" but not with "$."; use "$." for the whole event'
    return keys_fault(text.removeprefix("$."))


def keys_fault(text: str) -> str | None:
    """Return what is surely not meant as it is written in a path without ``$.``, or None."""
    bare = re.sub(r"""\[\d+\]|\['[^']*'\]|\["[^"]*"\]""", "", text)
    if "[" in bare or "]" in bare:
        return "has brackets without a number or a quoted key; write [0] or ['a.b']"
    if any(part != part.strip() for part in bare.split(".")):
        return "has a space next to a key; write a key with a space as ['key ']"
    return None


def reader(keys: Keys) -> Resolve:
    """Return a function that reads the value at a path, or gives `MISSING`."""
    if not keys:
        return _itself
    if len(keys) == 1:
        return _first(keys[0])
    if len(keys) == 2:
        return _second(*keys)

    def read(data: Value) -> Value:
        for key in keys:
            data = data.get(key, MISSING) if isinstance(data, dict) else _part(data, key)
        return data

    return read


def _itself(data: Value) -> Value:
    return data


def _first(key: str) -> Resolve:
    def read(data: Value) -> Value:
        return data.get(key, MISSING) if isinstance(data, dict) else _part(data, key)

    return read


def _second(outer: str, inner: str) -> Resolve:
    def read(data: Value) -> Value:
        data = data.get(outer, MISSING) if isinstance(data, dict) else _part(data, outer)
        return data.get(inner, MISSING) if isinstance(data, dict) else _part(data, inner)

    return read


def _part(data: Value, key: str) -> Value:
    """Return what a value that is not an object has under a key."""
    if not data and not isinstance(data, list):
        return data
    if not isinstance(data, (list, str)):
        return MISSING
    if key == "length":
        return len(data) if isinstance(data, list) else len(data.encode("utf-16-le", "surrogatepass")) // 2
    if not _INDEX.fullmatch(key):
        return MISSING
    index = int(key)
    if isinstance(data, list):
        return data[index] if index < len(data) else MISSING
    return _letter(data, index)


def _letter(text: str, index: int) -> Value:
    """Return one UTF-16 unit of a text, as JavaScript counts them; half of a pair is of no use to anybody."""
    unit = text.encode("utf-16-le", "surrogatepass")[2 * index : 2 * index + 2]
    letter = unit.decode("utf-16-le", "replace")
    return letter if letter and letter != "\ufffd" else MISSING


MOST = 1_000_000
"""The most values and characters together that a directive reads or makes: far beyond any event."""
DEEPEST = 200
"""The most levels of lists and objects that a directive reads."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def measured(value: Value, place: str) -> Value:
    """Return a value that is small enough to be walked through, however often it holds the same part.

    Raises:
        MappingError: it has too many parts, or too many levels.
    """
    if not isinstance(value, (dict, list)):
        return value
    size = 0
    level: list[Value] = [value]
    for _ in range(DEEPEST):
        below: list[Value] = []
        for part in level:
            if isinstance(part, dict):
                size += sum(map(len, part))
                below += part.values()
            elif isinstance(part, list):
                below += part
            elif isinstance(part, str):
                size += len(part)
            if len(below) + size > MOST:
                raise MappingError(f"{place}: the value is too large")
        size += len(level)
        level = below
        if not level:
            return value
    raise MappingError(f"{place}: the value is nested more than {DEEPEST} levels deep")


def as_text(value: Value, place: str) -> str:
    """Return any value as text.

    Raises:
        MappingError: it is too large.
    """
    if isinstance(value, str):
        return value
    return _text(measured(value, place))


def _text(value: Value) -> str:
    match value:
        case str():
            return value
        case None | Missing.MISSING:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(value)
        case list():
            return ",".join(map(_text, value))
        case dict():
            return "[object Object]"


def number_text(number: float) -> str:
    """Return a number as JavaScript prints it: 1, 120.5, 1e+21, 1e-7; one with more digits as it is written."""
    if isinstance(number, int):
        return str(number)
    if isinstance(number, LongFraction):
        return number.text
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    size = abs(number)
    if 1e-6 <= size < 1e21:
        text = format(Decimal(repr(number)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    digits, _, exponent = format(Decimal(repr(number)).normalize(), "e").partition("e")
    return f"{digits}e{int(exponent):+d}"


def as_json(value: Value, place: str) -> str:
    """Return a value as JSON text without spaces.

    Raises:
        MappingError: it is too large.
    """
    return _json(measured(value, place))


def _json(value: Value) -> str:
    match value:
        case str():
            text = json.dumps(value, ensure_ascii=False)
            return text if text.isascii() else _SURROGATES.sub(_escaped, text)
        case None | Missing.MISSING:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            text = number_text(value)
            return "null" if text[-1] in "Ny" else text  # NaN, Infinity
        case list():
            return f"[{','.join(map(_json, value))}]"
        case dict():
            return "{" + ",".join(f"{_json(key)}:{_json(part)}" for key, part in value.items()) + "}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def is_blank(value: Value, place: str) -> bool:
    """Return whether `@if` takes a value for blank: null, "", 0, false, and lists that print as nothing.

    Raises:
        MappingError: it is too large.
    """
    if isinstance(value, list):
        return as_text(value, place) == ""
    return value is MISSING or value is None or (not isinstance(value, dict) and not value)


def split_template(template: str) -> list[str | Keys]:
    """Return a template as the texts between its placeholders and the keys of each placeholder, in their order."""
    return [split_keys(part[0]) if isinstance(part, tuple) else part for part in placeholders(template)]


def placeholders(template: str) -> list[str | tuple[str]]:
    """Return the texts of a template as they are, and what stands between braces in a tuple of one."""
    parts: list[str | tuple[str]] = []
    done = at = 0
    while (start := template.find("{{", at)) >= 0 and (end := template.find("}", start)) >= 0:
        if not template.startswith("}}", end) or end == start + 2:
            at = end + 1  # nothing that opens before this brace can be closed
            continue
        braces = 3 if template.startswith("{{{", start) and template.startswith("}}}", end) and end > start + 3 else 2
        if start > done:
            parts.append(template[done:start])
        parts.append((template[start + braces : end].strip(),))
        done = at = end + braces
    if done < len(template):
        parts.append(template[done:])
    return parts
