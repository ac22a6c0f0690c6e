"""Committing what arrives, many requests in one transaction: a thread of its own, so that no sender waits for another.

Each request is answered once its events are on the disk. If the database does not take them, each gets an error, none
of its events is kept, and its sender tries again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeAlias

import sqlalchemy as sa
import structlog

from audience_sync.database_error import first_line
from audience_sync.errors import DatabaseOlder, MarkUnusable
from audience_sync.segment.segment_events import Arrival, RefusedEvent
from audience_sync.store import events
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.requests import DEFAULT_LIMITS

MOST_WAITING: Final = 32 * 1024 * 1024
"""So much waits to be committed at most, in bytes of memory, roughly; one request alone may be more."""

_EACH: Final = 512  # bytes of memory that an event takes besides its JSON
_DATABASE: Final = (sa.exc.SQLAlchemyError, sqlite3.Error, DatabaseOlder, MarkUnusable)
_AWAY: Final = (
    sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sqlite3.OperationalError, DatabaseOlder,
    MarkUnusable,
)  # fmt: skip
"""Errors of the database itself: full, locked, gone. Any other may be about one request."""

log = structlog.get_logger()

Taken: TypeAlias = "Future[bool]"
"""Whether the events of a request are committed; until the commit begins it can be cancelled."""


class _Waiting(NamedTuple):
    arrivals: Sequence[Arrival]
    refused: Sequence[RefusedEvent]
    size: int
    taken: Taken


class Intake:
    """Takes the events of requests and commits them."""

    def __init__(self, workspace: Workspace, *, wait: float = DEFAULT_LIMITS.wait) -> None:
        self._workspace = workspace
        self._wait = wait
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._size = 0
        self._closed = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def submit(self, arrivals: Sequence[Arrival], refused: Sequence[RefusedEvent] = ()) -> Taken:
        """Hand over the events of one request, and those of it to be counted as refused.

        False comes back at once when too much waits, or nothing is taken.
        """
        taken: Taken = Future()
        size = sum(len(arrival.payload) + _EACH for arrival in arrivals)
        with self._changed:
            if self._closed or (self._size and self._size + size > MOST_WAITING):
                taken.set_result(False)
            else:
                self._waiting.append(_Waiting(arrivals, refused, size, taken))
                self._size += size
                self._changed.notify_all()
        return taken

    def is_alive(self) -> bool:
        """Return whether events are still committed."""
        return self._thread.is_alive()

    def close(self, timeout: float) -> None:
        """Commit what was handed over, for at most `timeout` seconds, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while group := self._next():
                self._commit(group)
                with self._changed:
                    self._size -= sum(waiting.size for waiting in group)
        finally:  # whoever still waits learns that nothing comes, whatever ended this
            with self._changed:
                self._closed = True
                left, self._waiting = self._waiting, []
            _tell(left, taken=False)

    def _next(self) -> list[_Waiting]:
        """Wait for requests and return them all; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            group, self._waiting = self._waiting, []
        return group

    def _commit(self, group: list[_Waiting]) -> None:
        """Commit requests together, each alone where one of them may spoil it for the others, and tell them."""
        wanted = [waiting for waiting in group if waiting.taken.set_running_or_notify_cancel()]
        try:
            self._take(wanted)
        except _AWAY as error:
            self._refuse(wanted, error)
        except _DATABASE as error:
            if len(wanted) > 1:
                for waiting in wanted:
                    self._commit_alone(waiting)
            else:
                self._refuse(wanted, error)
        except BaseException:
            _tell(wanted, taken=False)
            raise
        else:
            self._accept(wanted)

    def _commit_alone(self, waiting: _Waiting) -> None:
        try:
            self._take([waiting])
        except _DATABASE as error:
            self._refuse([waiting], error)
        else:
            self._accept([waiting])

    def _take(self, group: Sequence[_Waiting]) -> None:
        arrivals = [arrival for waiting in group for arrival in waiting.arrivals]
        refused = [event for waiting in group for event in waiting.refused]
        if not arrivals and not refused:
            return
        now_ms = self._workspace.clock.now_ms()
        with self._workspace.database.write(wait=self._wait) as connection:
            if arrivals:
                events.take(connection, arrivals, now_ms=now_ms)
            events.count_refused(connection, refused, now_ms=now_ms)
            self._workspace.reach("ingest.taken")
        self._workspace.reach("ingest.committed")

    def _accept(self, group: Sequence[_Waiting]) -> None:
        if self._failing and any(waiting.arrivals for waiting in group):
            self._failing = False
            log.info("ingest_resumed")
        _tell(group, taken=True)

    def _refuse(self, group: Sequence[_Waiting], error: Exception) -> None:
        if not self._failing:
            self._failing = True
            log.warning(
                "ingest_suspended", why="the membership database does not accept events", error=first_line(error)
            )
        _tell(group, taken=False)


def _tell(group: Sequence[_Waiting], *, taken: bool) -> None:
    for waiting in group:
        if not waiting.taken.done():
            waiting.taken.set_result(taken)
