"""What a directive looks like in a mapping, where it stands, and what can be found wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from audience_sync.core.model import Json
from audience_sync.segment.mapping.paths import Resolve

Path: TypeAlias = tuple[str | int, ...]
LONGEST_PATTERN: Final = 10
"""UTF-16 units that a pattern or replacement of @replace has at most."""


class Finding(NamedTuple):
    """One thing that is wrong, where, and whether no event at all can be resolved because of it."""

    path: Path
    sentence: str
    every_event: bool = True


class Inside(NamedTuple):
    """A value in a directive that is a mapping in its turn."""

    path: Path
    value: Json


Found: TypeAlias = Iterator[Finding | Inside]


class Place(NamedTuple):
    """Where a directive stands, how many levels of what it makes keep `MISSING`, and what compiles values in it."""

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
