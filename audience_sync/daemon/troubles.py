"""Current troubles by subject, so that each is logged when it begins and when it ends, not at every check."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from audience_sync.database_error import first_line

log = structlog.get_logger()

DATABASE: Final = ""
"""The subject of the membership database; the others are audiences, by key."""


@dataclass(frozen=True)
class Trouble:
    """The state of a subject, such as `failed`, its reason, and its start (monotonic)."""

    state: str
    reason: str | None
    since: float


class Troubles:
    """Remember the trouble of each subject; thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, Trouble] = {}

    def is_news(self, subject: str, state: str, reason: str | None = None) -> bool:
        """Record a trouble, and return whether it is new."""
        with self._lock:
            known = self._known.get(subject)
            if known is not None and (known.state, known.reason) == (state, reason):
                return False
            since = known.since if known is not None and known.state == state else self._monotonic()
            self._known[subject] = Trouble(state, reason, since)
            return True

    def note_database_away(self, error: Exception) -> None:
        """Log that the membership database is unavailable, unless that is known."""
        if self.is_news(DATABASE, "away"):
            log.error("database_unavailable", error=first_line(error))

    def note_database_back(self) -> None:
        """Log that the membership database has recovered, if it was unavailable."""
        if (ended := self.end(DATABASE)) is not None:
            log.info("database_recovered", after_seconds=round(ended[1]))

    def end(self, subject: str) -> tuple[Trouble, float] | None:
        """Record that all is well; return the previous trouble and its duration in seconds, if any."""
        with self._lock:
            known = self._known.pop(subject, None)
        return None if known is None else (known, self._monotonic() - known.since)
