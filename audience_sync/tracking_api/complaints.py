"""Refused requests and events in the log: their senders hear of it, and the operator has to.

Anybody can send garbage, so each status and each fault of an event is logged once a minute at most, with how many
there were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from audience_sync.segment.segment_events import RefusedEvent
from audience_sync.tracking_api.refusals import Refusal

EVERY: Final = 60.0  # seconds

log = structlog.get_logger()


class Complaints:
    """Counts refusals and logs them; for one thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: Counter[int | str] = Counter()  # since the status or fault was logged last
        self._logged_at: dict[int | str, float] = {}

    def note(self, refusal: Refusal) -> None:
        """Count a refused request, and log it unless its status was logged within the last minute."""
        if requests := self._due(refusal.status):
            log.warning("requests_refused", status=refusal.status, why=refusal.message, requests=requests)

    def note_event(self, event: RefusedEvent) -> None:
        """Count a refused event, and log it unless its fault was logged within the last minute."""
        if events := self._due(event.why.fault):
            why = f"an event {event.why.sentence}"
            log.warning("events_refused", fault=event.why.fault.value, why=why, events=events)

    def _due(self, kind: int | str) -> int:
        """Count one more, and return how many there were since the last line of the log; 0: it is too soon for one."""
        self._counts[kind] += 1
        now = self._monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < EVERY:
            return 0
        self._logged_at[kind] = now
        return self._counts.pop(kind)
