"""Telling the log of requests that are refused: their senders hear of it, and so must whoever operates this.

Anybody can send garbage, so each status is told once a minute at most, with how many there were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from audience_sync.ingest.refusals import Refusal

EVERY: Final = 60.0  # seconds

log = structlog.get_logger()


class Complaints:
    """Counts refusals and logs them; for one thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: Counter[int] = Counter()  # since the status was told last
        self._told_at: dict[int, float] = {}

    def note(self, refusal: Refusal) -> None:
        """Count a refusal, and log it unless its status was told within the last minute."""
        self._counts[refusal.status] += 1
        now = self._monotonic()
        if now - self._told_at.get(refusal.status, float("-inf")) < EVERY:
            return
        self._told_at[refusal.status] = now
        requests = self._counts.pop(refusal.status)
        log.warning("requests_refused", status=refusal.status, why=refusal.message, requests=requests)
