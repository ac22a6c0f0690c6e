"""What a directive looks like in a mapping, and how a place in a mapping is named."""

from __future__ import annotations

from typing import Final, TypeAlias

from audience_sync.core.model import Json

Path: TypeAlias = tuple[str | int, ...]
LONGEST_PATTERN: Final = 10
"""UTF-16 units that a pattern or replacement of @replace has at most."""


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
