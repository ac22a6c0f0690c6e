"""What the directives make of values that are resolved already: replaced, flattened, merged, without nulls.

Where an object keeps `MISSING` for a key (`keep` levels of it do), the key counts as set to nothing: in a merge it
takes away what another object has there, as it does at Segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.paths import MISSING, Value
from audience_sync.segment.mapping.text import MOST, measured

Members: TypeAlias = dict[str, Any]  # each is a Value


def flatten(value: Value, separator: str, *, omit_arrays: bool, place: str) -> Members:
    """Return an object of one level with the scalars of a value, each under its whole path.

    Raises:
        MappingError: the value or its paths are too large.
    """
    flat: Members = {}
    room = MOST

    def put(part: Value, path: str) -> None:
        nonlocal room
        room -= len(path)
        if room < 0:
            raise MappingError(f"{place}: what comes out is too large")
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
    """Return what a value that is no object is to a merge: parts of a list or text by their places, or nothing."""
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
    """Return a list with null where there is no value."""
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
        room = MOST

        def put(match: re.Match[str]) -> str:
            nonlocal room
            put_in = "".join(_expanded(piece, match) for piece in pieces)
            room -= len(put_in)
            if room < 0:
                raise MappingError(f"{place}: what comes out is too large")
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
