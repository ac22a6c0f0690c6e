"""Problems of a configuration file without their place, for tests that are about something else."""

from __future__ import annotations

import re

_PLACE = re.compile(r'(?:line \d+(?:, "[^"]*")?|"[^"]*"): ')


def without_place(problem: str) -> str:
    """Return a problem without the line and the name before its path."""
    return _PLACE.sub("", problem, count=1) if _PLACE.match(problem) else problem
