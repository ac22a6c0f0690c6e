"""Track whether the destination accepts events: stored for `status`, and reported once per change of state.

A failure is an outage once it lasts: when by the next try nothing will have been accepted for
`Tuning.outage_report_seconds`. A refused key or a wrong address is one at once. The outage ends with the next event
that is accepted, of this process or another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from audience_sync.errors import AudienceSyncError, DestinationAway, KeyRefused
from audience_sync.store import outages
from audience_sync.store.outages import Outage, OutageKind
from audience_sync.store.schema import PRIMARY_DESTINATION
from audience_sync.store.workspace import Workspace


@dataclass(frozen=True)
class OutageChange:
    """A change of state: an outage has begun, its reason has changed, or events are accepted again."""

    outage: Outage | None  # None: events are accepted
    before: Outage | None = None  # None: events were accepted
    after: timedelta | None = None  # how long the state was as before, if that was an outage


State: TypeAlias = tuple[OutageKind, str | None]


def _ignore(_: OutageChange) -> None:
    """Report nothing."""


class Reachability:
    """Track the delivery attempts of one process for one destination; thread-safe.

    `goes_on` says that the process tries again by itself for as long as it runs, as the daemon does. `report` is called
    with every change of state, in the thread that finds it.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        goes_on: bool = False,
        report: Callable[[OutageChange], None] = _ignore,
        destination: str = PRIMARY_DESTINATION,
    ) -> None:
        self._workspace = workspace
        self._destination = destination
        self._goes_on = goes_on
        self._report = report
        self._lock = threading.Lock()
        self._outage: Outage | None = None  # as the database has it
        self._reported: State | None = None  # of the last report
        self._first_failure: tuple[int, float] | None = None  # since the last acceptance: wall clock (ms), monotonic

    def begin(self) -> None:
        """Take over the state in the database, from an earlier or another process."""
        with self._lock:
            with self._workspace.database.read() as connection:
                found = outages.find(connection, destination=self._destination)
            known, self._outage = self._outage, found
            if known is not None and found is None:  # another process was accepted
                self._end(known)

    def failed(self, answer: str, *, again_in: float) -> None:
        """Record a failure that will be retried in some seconds."""
        clock = self._workspace.clock
        now_ms = clock.now_ms()  # before waiting for the lock: `again_in` counts from here
        with self._lock:
            if self._first_failure is None:
                self._first_failure = now_ms, clock.monotonic()
            since, began = self._first_failure
            lasts = clock.monotonic() + again_in - began
            if self._outage is not None or lasts >= self._workspace.tuning.outage_report_seconds:
                self._keep(OutageKind.UNREACHABLE, answer, since=since, now_ms=now_ms, again_in=again_in)

    def stopped(self, error: AudienceSyncError, *, again_in: float) -> None:
        """Record an error that ended a delivery and will be retried in some seconds, if at all."""
        now_ms = self._workspace.clock.now_ms()
        with self._lock:
            match error:
                case KeyRefused():
                    kind = OutageKind.KEY_REFUSED
                case DestinationAway():
                    kind = OutageKind.UNREACHABLE
                case _:
                    kind = OutageKind.STOPPED
            self._first_failure = None
            self._keep(kind, str(error), since=now_ms, now_ms=now_ms, again_in=again_in)

    def accepted(self) -> None:
        """Record that the destination accepted events, or that nothing is left that it could refuse."""
        if self._outage is None and self._first_failure is None:
            return  # as nearly always: no lock for each batch
        with self._lock:
            outage, self._first_failure = self._outage, None
            if outage is None:
                return
            with self._workspace.database.write() as connection:
                outages.end(connection, destination=self._destination)
            self._end(outage)

    def _end(self, outage: Outage) -> None:
        """Report the end of an outage and forget it, so that the next one is reported."""
        self._outage = self._reported = self._first_failure = None
        self._report(OutageChange(None, outage, self._lasted(outage)))

    def _lasted(self, outage: Outage) -> timedelta:
        return timedelta(milliseconds=max(0, self._workspace.clock.now_ms() - outage.since))

    def _keep(self, kind: OutageKind, answer: str, *, since: int, now_ms: int, again_in: float) -> None:
        known = self._outage
        is_same = known is not None and _state(known.kind, known.answer) == _state(kind, answer)
        if known is not None and is_same:
            since = known.since
        next_try_at = now_ms + round(again_in * 1000) if self._goes_on else None
        began_at = since if known is None else known.began_at
        outage = Outage(kind=kind, began_at=began_at, since=since, answer=answer, next_try_at=next_try_at)
        with self._workspace.database.write() as connection:
            outages.keep(connection, outage, destination=self._destination)
        self._outage = outage
        state = _state(kind, answer)
        if state != self._reported:
            self._reported = state
            before = None if is_same else known
            self._report(OutageChange(outage, before, None if before is None else self._lasted(before)))


def _state(kind: OutageKind, answer: str) -> State:
    """Return what distinguishes two states: the kind, and the reason why somebody must act."""
    return kind, answer if kind is OutageKind.STOPPED else None
