"""Paths into an event: what `$.traits.address.city` names, and how it is read.

A path is keys between dots; ``$.`` in front is optional, and nothing at all is the whole event. ``[0]`` is a place in
a list, as ``.0`` is, and ``['a.b']`` one key as it stands, dots and all. What comes out is what Segment says:
below null, false, 0 and "" is the same again, below anything else that has no such part is nothing; lists and texts
have a `length`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeAlias

from audience_sync.core.model import Json


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
        return 'begins with "$" but not with "$."; "$." alone is the whole event'
    return keys_fault(text.removeprefix("$."))


def keys_fault(text: str) -> str | None:
    """Return what is surely not meant as it is written in a path without ``$.``, or None."""
    bare = re.sub(r"""\[\d+\]|\['[^']*'\]|\["[^"]*"\]""", "", text)
    if "[" in bare or "]" in bare:
        return "has brackets that hold neither a number nor a key in quotes, as in [0] or ['a.b']"
    if any(part != part.strip() for part in bare.split(".")):
        return "has a space next to a key; a key with such a space is written ['key ']"
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
    """Return what a value that is no object has under a key."""
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
