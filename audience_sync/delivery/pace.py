"""How fast requests may go: the rate that all processes on a database share, and the breath taken in an outage."""

from __future__ import annotations

import threading
from datetime import timedelta

from audience_sync.core.outcomes import LONGEST_ASKED, backoff
from audience_sync.leasing import Workspace
from audience_sync.store import binding

RESERVE_SECONDS = 0.1  # moments are reserved in the database for so long at once


class Pace:
    """Hands out moments for requests to the workers of one process."""

    def __init__(self, workspace: Workspace, *, per_second: float, workers: int, longest: timedelta) -> None:
        self._workspace = workspace
        self._per_second = per_second
        self._reserve = max(1, int(per_second * RESERVE_SECONDS))
        self._failures_of_an_outage = max(3, workers)
        self._longest = longest
        self._lock = threading.Lock()
        self._next_us = 0
        self._reserved = 0
        self._failures = 0
        self._outages = 0
        self._resume_at = 0.0  # monotonic

    def wait(self, stop: threading.Event) -> bool:
        """Wait for a moment of one's own; False when told to stop meanwhile."""
        seams = self._workspace.seams
        while (pause := self._resume_at - seams.monotonic()) > 0:
            if stop.wait(pause):
                return False
        moment = self._moment()
        delay = moment / 1_000_000 - seams.clock().timestamp()
        return not (stop.wait(delay) if delay > 0 else stop.is_set())

    def accepted(self) -> None:
        """Note that Schematic takes events: an outage is over."""
        self._failures = self._outages = 0

    def failed(self, *, asked: timedelta | None, throttled: bool) -> None:
        """Note a failure: all wait when Schematic asks for it (429), or when everybody fails."""
        seams = self._workspace.seams
        with self._lock:
            if seams.monotonic() < self._resume_at:  # the answers of requests that were under way: one outage
                if asked is not None:
                    wait = min(asked, LONGEST_ASKED)
                    self._resume_at = max(self._resume_at, seams.monotonic() + wait.total_seconds())
                return
            self._failures += 1
            if not throttled and self._failures < self._failures_of_an_outage:
                return
            self._failures = 0
            self._outages += 1
            wait = backoff(self._outages, jitter=seams.jitter(), longest=self._longest, asked=asked)
            self._resume_at = seams.monotonic() + wait.total_seconds()

    def _moment(self) -> int:
        """Return the next moment reserved for this process, in microseconds since 1970."""
        with self._lock:
            if self._reserved == 0:
                with self._workspace.database.write() as connection:
                    self._next_us = binding.reserve_requests(
                        connection,
                        now_us=int(self._workspace.seams.clock().timestamp() * 1_000_000),
                        requests=self._reserve,
                        per_second=self._per_second,
                    )
                self._reserved = self._reserve
            self._reserved -= 1
            moment = self._next_us
            self._next_us += round(1_000_000 / self._per_second)
            return moment
