"""Values: what a path finds, and the text and the number a value is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tests.reference.language import Path
from tests.reference.worlds import Value

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_LONGEST = 40  # characters of a text that is a number


@dataclass(frozen=True)
class Elements:
    """The values a path with `$` finds, in order."""

    values: tuple[Value, ...]


def each(value: Value | Elements) -> tuple[Value, ...]:
    """Return the values there are: the elements, or the one value."""
    return value.values if isinstance(value, Elements) else (value,)


def find(tree: Mapping[str, Value] | None, path: Path) -> Value | Elements:
    """Follow a path from an object."""
    found: list[Value] = [tree]
    for step in path:
        if step == "$":
            found = [element for value in found if isinstance(value, list) for element in value]
        else:
            found = [value.get(step) if isinstance(value, Mapping) else None for value in found]
    return Elements(tuple(found)) if "$" in path else found[0]


def text(value: Value) -> str:
    """Return the text every value but null has."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, datetime):
        raise TypeError("the text of a time column is not the same everywhere")
    return str(value)


def number(value: Value) -> float | None:
    """Return the number a value is, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (len(value) > _LONGEST or not _NUMBER.fullmatch(value)):
        return None
    return float(value)
