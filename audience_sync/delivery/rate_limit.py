"""Limit the rate of requests to a destination: one rate shared by all processes on a database, and its outages.

While the destination takes what it gets, requests go at the shared rate. When everybody fails, or when it asks for a
break (429), all wait, longer from time to time. Then one request goes alone to see whether it is over; the others hold
still until it is answered. The longer it lasted, the slower requests begin again, and each that is accepted makes it
one more a second: a destination that has just come back is not knocked over by everything that waited for it.
"""

from __future__ import annotations

import threading
from datetime import timedelta

from audience_sync.destinations.outcomes import LONGEST_ASKED, backoff
from audience_sync.store import request_times
from audience_sync.store.schema import PRIMARY_DESTINATION
from audience_sync.store.workspace import Workspace


class RateLimiter:
    """Assign times for requests to the workers of one process."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        per_second: float,
        workers: int,
        longest: timedelta,
        destination: str = PRIMARY_DESTINATION,
    ) -> None:
        self._workspace = workspace
        self._destination = destination
        self._tuning = workspace.tuning
        self._per_second = per_second
        self._reserve = max(1, int(per_second * self._tuning.rate_reservation_seconds))
        self._failures_of_an_outage = max(3, workers)  # different batches
        self._longest = longest
        self._lock = threading.Lock()
        self._next_us = 0
        self._reserved = 0
        self._failed: set[int] = set()  # batches since the last acceptance, each once
        self._outages = 0  # the same: each longer than the one before
        self._outage_began_at = 0.0  # monotonic, as all below
        self._resume_at = 0.0  # nobody goes before
        self._rate = per_second  # of this process alone, below the limit on the way out of an outage
        self._turn_at = 0.0  # when the next request may go at that rate
        self._probe: threading.Thread | None = None  # the thread that sends the probe
        self._probe_ends_at = 0.0

    def wait(self, stop: threading.Event) -> bool:
        """Wait for an assigned time; return False if stopped in the meantime."""
        while True:
            while (pause := self._pause()) > 0:
                if stop.wait(pause):
                    return False
            goes = False
            try:
                delay = self._delay()
                goes = not (stop.wait(delay) if delay > 0 else stop.is_set())
            finally:
                if not goes:
                    self.let_go()
            if not goes or self._is_free():  # an outage may have begun before the moment came
                return goes

    def let_go(self) -> None:
        """Leave the request that goes alone to others, if it was this thread's and is not sent after all."""
        with self._lock:
            if self._probe is threading.current_thread():
                self._probe = None

    def accepted(self) -> None:
        """Record that the destination accepts events, which ends an outage unless the request started before it."""
        with self._lock:
            now = self._workspace.clock.monotonic()
            self._failed.clear()
            if now < self._resume_at:
                return
            if self._outages:
                self._end_outage(now)
            else:
                self._rate = min(self._per_second, self._rate + 1)

    def failed(self, batch_id: int, *, asked: timedelta | None, throttled: bool) -> None:
        """Note that a batch failed: all wait if the answer asks for it (429), or if many fail and none passes."""
        clock = self._workspace.clock
        with self._lock:
            now = clock.monotonic()
            if now < self._resume_at or (self._outages and self._probe is not threading.current_thread()):
                # the answers of requests that were under way: one outage
                if asked is not None:
                    self._resume_at = max(self._resume_at, now + min(asked, LONGEST_ASKED).total_seconds())
                return
            self._failed.add(batch_id)
            if not throttled and not self._outages and len(self._failed) < self._failures_of_an_outage:
                return
            if not self._outages:
                self._outage_began_at = now
            self._failed.clear()
            self._outages += 1
            self._probe = None
            wait = backoff(self._outages, jitter=clock.jitter(), longest=self._longest, asked=asked)
            self._resume_at = now + wait.total_seconds()

    def resumes_in(self) -> float:
        """Return the seconds until the next request is allowed; 0 unless there is an outage."""
        with self._lock:
            return max(0.0, self._resume_at - self._workspace.clock.monotonic())

    def is_out(self) -> bool:
        """Return whether there is an outage, including its probe."""
        with self._lock:
            return self._outages > 0

    def _end_outage(self, now: float) -> None:
        """Restart at half the limit after one second, at a tenth after nine, at the minimum after a minute."""
        slowed = self._per_second / (1 + now - self._outage_began_at)
        self._rate = max(min(self._tuning.lowest_requests_per_second, self._per_second), min(self._rate, slowed))
        self._outages = 0
        self._probe = None
        self._turn_at = now + 1 / self._rate

    def _pause(self) -> float:
        """Return the seconds until this thread should ask again; 0 lets it go, and keeps the others back if need be."""
        with self._lock:
            now = self._workspace.clock.monotonic()
            if now < self._resume_at:
                return self._resume_at - now
            if self._outages:
                if not self._may_probe(now):
                    return self._tuning.probe_poll_seconds
            elif self._rate < self._per_second and now < self._turn_at:
                return self._turn_at - now
            else:
                self._turn_at = now + 1 / self._rate
            return 0

    def _may_probe(self, now: float) -> bool:
        """Return whether a request may go alone; whoever comes again after one was answered, though with a refusal."""
        me, probe = threading.current_thread(), self._probe
        if probe is me:
            self._end_outage(now)
        elif probe is None or not probe.is_alive() or now >= self._probe_ends_at:
            self._probe, self._probe_ends_at = me, now + self._tuning.longest_probe_seconds
        else:
            return False
        return True

    def _is_free(self) -> bool:
        """Return whether this thread may send now: no outage is under way, or it is the one that asks."""
        with self._lock:
            return not self._outages or self._probe is threading.current_thread()

    def _delay(self) -> float:
        """Return the seconds until the next moment reserved for this process.

        Moments that went by unused are gone, or they would all come at once; so are those of a clock that was ahead.
        """
        with self._lock:
            began = self._workspace.clock.monotonic()  # the wall clock is read once: it may jump
            now_us = int(self._workspace.clock.now().timestamp() * 1_000_000)
            late = now_us - self._next_us
            if (
                self._reserved == 0
                or late > self._tuning.rate_reservation_seconds * 1_000_000
                or late < -self._furthest_us
            ):
                with self._workspace.database.write() as connection:
                    self._next_us = request_times.reserve_requests(
                        connection,
                        now_us=now_us,
                        requests=self._reserve,
                        per_second=self._per_second,
                        destination=self._destination,
                    )
                self._reserved = self._reserve
            self._reserved -= 1
            delay = (self._next_us - now_us) / 1_000_000
            self._next_us += round(1_000_000 / self._per_second)
            return delay - (self._workspace.clock.monotonic() - began)

    @property
    def _furthest_us(self) -> int:
        """How far off a moment may be that others have not reserved in error, in microseconds."""
        return round((request_times.MOST_RESERVED + self._reserve) / self._per_second * 1_000_000)
