"""The daemon's life: start, tell systemd, keep delivering, and leave nothing behind at the end.

With `[ingest] listen` it takes events of Segment's libraries as well, from before its first sync to its end.

The end takes and starts no more work, lets requests under way be answered for a few seconds, both ways, and gives the
leases back. What is then unsettled goes again, under the same keys.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from pydantic import SecretStr
from systemd_watchdog.systemd_watchdog import WatchDog

from audience_sync.config import Settings
from audience_sync.daemon.syncing import Syncing
from audience_sync.database_error import first_line
from audience_sync.delivery import Delivery, deliver
from audience_sync.errors import AudienceSyncError, KeyRefused
from audience_sync.ingest.opening import open_server
from audience_sync.leasing import Workspace
from audience_sync.store import erasure, waiting

if TYPE_CHECKING:
    from audience_sync.ingest.server import Server

TICK = 1.0  # seconds
GATHER = 30.0  # seconds that a delivery waits for syncs under way: their changes may share events
STATUS_EVERY = 60.0  # seconds: counting a large outbox is work
SYNC_DRAIN = 5.0  # seconds that syncs get for their last commit
DRAIN = 8.0  # seconds until all must be over: a delivery waits 6.5 for its last answers and their commit

log = structlog.get_logger()


def run(workspace: Workspace, settings: Settings, key: SecretStr, *, stop: threading.Event) -> None:
    """Sync and deliver, and take events if the settings say so, until `stop` is set.

    Raises:
        KeyRefused: Schematic refuses the key.
        BindingRefused: the key belongs to another environment.
        ConfigError: a write key, or a library, is missing.
        AudienceSyncError: the address for events cannot be had, or a part of the daemon has crashed.
    """
    syncing = Syncing(workspace, settings)
    delivering = _Delivering(workspace, settings, key, syncing=syncing, stop=stop)
    watchdog = WatchDog()
    crashed = None
    with ExitStack() as ending:
        ingest = _open_ingest(workspace, settings, ending)
        syncing.start()
        delivering.start()
        watchdog.ready()
        log.info("daemon_started", audiences=len(settings.audiences), next_sync_at=_iso(syncing.next_at()))
        try:
            told_at = float("-inf")
            while not stop.wait(TICK) and delivering.is_alive() and (crashed := _crash(ingest)) is None:
                watchdog.ping()
                syncing.follow_clock()
                if workspace.seams.monotonic() - told_at > STATUS_EVERY:
                    watchdog.status(_status(workspace, settings, syncing))
                    told_at = workspace.seams.monotonic()
        finally:
            stop.set()
            watchdog._send("STOPPING=1\n")  # noqa: SLF001 - the library has no word for it
            if not _end(workspace, syncing, delivering, ingest):
                _leave(delivering.failure or crashed)
    if delivering.failure is not None:
        raise delivering.failure
    if not delivering.stopped_on_request:
        raise AudienceSyncError("the delivering thread died; its traceback is above")
    if crashed is not None:
        raise crashed


def _open_ingest(workspace: Workspace, settings: Settings, ending: ExitStack) -> Server | None:
    ingest = open_server(workspace, settings, os.environ)
    if ingest is not None:
        ending.callback(ingest.close, TICK)  # when the start fails; at the end it is closed already
        log.info("ingest_listening", address=str(ingest.address))
    return ingest


def _crash(ingest: Server | None) -> AudienceSyncError | None:
    """Return why the daemon must end, if events are no longer taken although they should be."""
    if ingest is None or ingest.is_alive():
        return None
    return AudienceSyncError("a thread that takes events died; its traceback is above")


def _end(workspace: Workspace, syncing: Syncing, delivering: _Delivering, ingest: Server | None) -> bool:
    """End all work in order, side by side; return whether nothing of it is left, which must not be waited for."""
    ends_at = workspace.seams.monotonic() + DRAIN
    if ingest is not None:
        ingest.stop()
    syncing.stop()
    closed = syncing.close(SYNC_DRAIN)
    delivering.join(max(0.0, ends_at - workspace.seams.monotonic()))
    if ingest is not None:
        ingest.close(max(0.0, ends_at - workspace.seams.monotonic()))
    log.info("daemon_stopped")
    return closed and not delivering.is_alive()


class _Delivering(threading.Thread):
    """Delivers whenever something waits."""

    def __init__(
        self, workspace: Workspace, settings: Settings, key: SecretStr, *, syncing: Syncing, stop: threading.Event
    ) -> None:
        super().__init__(name="delivering", daemon=True)
        self._workspace = workspace
        self._syncing = syncing
        self._stop_event = stop
        self._takes_events = settings.ingest.listen is not None
        self._longest = settings.delivery.max_backoff.total_seconds()
        self._delivery = Delivery(settings=settings, key=key, wait=None, stop=stop, warn=_warn)
        self.failure: AudienceSyncError | None = None
        self.stopped_on_request = False

    def run(self) -> None:
        """Work until stopped, or until Schematic refuses the key; where events are taken, that does not end."""
        while not self._stop_event.wait(TICK):
            try:
                self._round()
            except sa.exc.SQLAlchemyError as error:
                log.error("database_away", error=first_line(error))
            except AudienceSyncError as error:  # another environment, a refused key: a person must act
                self.failure = error
                return
        self.stopped_on_request = True

    def _round(self) -> None:
        with self._workspace.database.read() as connection:
            if not waiting.any_deliverable(connection):
                return
        self._gather()
        report = deliver(self._workspace, self._delivery)
        log.info("delivered", events=report.events, open=report.open, dead=report.dead)
        if report.open <= report.paused and not self._stop_event.is_set():
            erasure.tidy(self._workspace.database)
        if isinstance(report.failure, KeyRefused) and not self._takes_events:
            raise report.failure
        if report.failure is not None and not self._stop_event.is_set():
            log.error("delivery_stopped", error=str(report.failure), again_in_seconds=self._longest)
            self._stop_event.wait(self._longest)

    def _gather(self) -> None:
        until = self._workspace.seams.monotonic() + GATHER
        while self._syncing.behind() and self._workspace.seams.monotonic() < until:
            if self._stop_event.wait(TICK / 10):
                return


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _warn(sentence: object) -> None:
    log.warning("delivery_warning", warning=str(sentence))


def _leave(failure: AudienceSyncError | None) -> None:
    """End the process although a source or Schematic has not answered yet; the next start knows that its work died."""
    log.warning("work_left_behind", why="a source or Schematic does not answer; nothing is lost")
    if failure is not None:
        log.error("daemon_failed", error=str(failure))
    os._exit(0 if failure is None else failure.exit_code)


def _status(workspace: Workspace, settings: Settings, syncing: Syncing) -> str:
    try:
        with workspace.database.read() as connection:
            rows, _, dead = waiting.count(connection)
    except sa.exc.SQLAlchemyError as error:
        return f"the membership database is away: {first_line(error)}"
    at = syncing.next_at()
    due = f"next sync {at:%H:%M} UTC" if at else "no audience to sync"
    return f"{len(settings.audiences)} audiences, {due}, {rows} open, {dead} dead"
