"""A value of a source that its driver cannot represent in Python: it stands in the row in place of the value.

The row is rejected only where that column is used. So one timestamp beyond the year 9999 costs one row, not the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_LONGEST: Final = 80  # characters of a value that are shown


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The value as the database writes it, and why the driver cannot represent it, without the value."""

    text: str
    problem: str

    def __str__(self) -> str:
        return self.text


def unreadable(raw: str, problem: str) -> Unreadable:
    """Return an unreadable value; a long one is cut."""
    return Unreadable(raw if len(raw) <= _LONGEST else f"{raw[:_LONGEST]}…", problem)
