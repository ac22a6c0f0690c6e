"""The scheduler's side of the daemon: one date job for each audience, whose time is kept in the database."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from audience_sync.config import Audience, Settings
from audience_sync.daemon.schedule import next_due
from audience_sync.db import first_line
from audience_sync.errors import AudienceSyncError, LeaseHeld, LeaseLost
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import audiences, erasure
from audience_sync.store.audiences import AudienceRow
from audience_sync.sync import Job, RunReport, recover, sync_under, taking

SYNCS_AT_ONCE = 2
MOMENT = timedelta(seconds=1)
JUMP = timedelta(seconds=30)  # clocks that are set by so much less are corrected, not moved
AGAIN = timedelta(seconds=5)  # when another process is at work on the audience
PURGE_EVERY = timedelta(hours=24)
FIRST_PURGE = timedelta(minutes=10)

log = structlog.get_logger()


class Syncing:
    """Syncs each audience when it is due; the truth about when is `audiences.next_due_at`."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace = workspace
        self._settings = settings
        self._stop = threading.Event()
        self._due: dict[str, datetime] = {}  # when each audience's job fires, or fired if it is under way
        self._held_elsewhere: set[str] = set()  # audiences that another process is at work on
        self._drift = self._clock_drift()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(SYNCS_AT_ONCE)},
            # A late wake-up must run, not be skipped (APScheduler's own grace is one second).
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Finish what a dead process left, and schedule every audience: a new one at once."""
        now = self._now()
        with self._workspace.database.read() as connection:
            known = {row.key: row for row in audiences.every(connection)}
        for left in known.values():
            recover(self._workspace, left)
        self._workspace.bury()
        for audience in self._settings.audiences:
            row = known.get(audience.key)
            if not audience.enabled or (row and row.state == "retired"):
                log.warning(
                    "audience_skipped", audience=audience.key, why="retired" if audience.enabled else "disabled"
                )
                continue
            self._schedule(audience, self._first_due(audience, row, now))
        self._scheduler.add_job(
            self._purge, "interval", seconds=PURGE_EVERY.total_seconds(), next_run_time=now + FIRST_PURGE, id="purge"
        )
        self._scheduler.start()

    def _first_due(self, audience: Audience, row: AudienceRow | None, now: datetime) -> datetime:
        """Return when an audience is due at a start: as the database says, or sooner if its schedule is shorter now."""
        if row is None or row.next_due_at is None:
            return now
        kept = _from_ms(row.next_due_at)
        if kept <= next_due(audience.schedule, started_at=now, jitter=1.0):
            return kept
        sooner = next_due(audience.schedule, started_at=now, jitter=self._workspace.seams.jitter())
        self._keep(audience, sooner)
        return sooner

    def follow_clock(self) -> None:
        """After a jump of the wall clock, have every audience due when it should be by the new time.

        Who was put off by a clock that was ahead is due sooner, what a jump forward made due is due now.
        """
        drift = self._clock_drift()
        if abs(drift - self._drift) < JUMP.total_seconds():
            return
        log.warning("clock_jumped", seconds=round(drift - self._drift))
        try:
            with self._workspace.database.read() as connection:
                known = {row.key: row for row in audiences.every(connection)}
        except sa.exc.SQLAlchemyError as error:
            log.error("database_away", error=first_line(error))
            return  # and again at the next look
        self._drift = drift
        for audience in self._settings.audiences:
            if audience.key in self._due:
                self._schedule(audience, self._first_due(audience, known.get(audience.key), self._now()))
        self._scheduler.wakeup()

    def _clock_drift(self) -> float:
        """Return the seconds that the wall clock is ahead of the monotonic one."""
        return self._now().timestamp() - self._workspace.seams.monotonic()

    def next_at(self) -> datetime | None:
        """Return when the next audience is due, or None if there is none."""
        return min(self._due.values(), default=None)

    def behind(self) -> bool:
        """Return whether an audience is being synced, or is due."""
        return any(due <= self._now() for due in list(self._due.values()))

    def stop(self) -> None:
        """Start no more syncs, and have those under way end at their next commit."""
        self._stop.set()
        self._scheduler.pause()

    def close(self, timeout: float) -> bool:
        """Wait for the syncs under way, at most `timeout` seconds; False if one has not ended by then."""
        ender = threading.Thread(target=self._scheduler.shutdown, name="ender", daemon=True)
        ender.start()
        ender.join(timeout)
        return not ender.is_alive()

    def _now(self) -> datetime:
        return self._workspace.seams.clock()

    def _schedule(self, audience: Audience, at: datetime) -> None:
        self._due[audience.key] = at
        if not self._stop.is_set():
            self._scheduler.add_job(
                # A moment ahead: APScheduler drops a job that comes due while this one is still returning.
                self._run,
                "date",
                run_date=max(at, self._now() + MOMENT),
                args=[audience],
                id=audience.key,
                replace_existing=True,
            )

    def _run(self, audience: Audience) -> None:
        """Sync one audience and schedule it again, whatever happens."""
        started = self._now()
        due = next_due(audience.schedule, started_at=started, jitter=self._workspace.seams.jitter())
        try:
            due = self._sync(audience, started, due)
            self._held_elsewhere.discard(audience.key)
        except LeaseHeld:
            if audience.key not in self._held_elsewhere:
                log.info("sync_waits", audience=audience.key, why="another process is at work on it")
                self._held_elsewhere.add(audience.key)
            due = started + AGAIN
        except LeaseLost as error:  # whoever took over knows when it is due
            log.warning("sync_lost", audience=audience.key, why=str(error))
            due = started + AGAIN
        except Exception as error:  # the wrapper of every job: one audience must not end the daemon
            is_expected = isinstance(error, AudienceSyncError | sa.exc.OperationalError)
            log.error(
                "sync_failed",
                audience=audience.key,
                error=first_line(error),
                due_at=due.isoformat(),
                exc_info=not is_expected,
            )
            self._keep(audience, due)
        self._schedule(audience, due)

    def _sync(self, audience: Audience, started: datetime, due: datetime) -> datetime:
        """Sync an audience if it still wants it, and return when it is due next.

        That is kept before the lease is given back: another process that waits for the lease finds it.
        """
        with self._workspace.database.read() as connection:
            row = audiences.find(connection, audience.key)
        if (known := _later(row, started)) is not None:
            return known
        if row is not None and row.state != "active":
            self._keep(audience, due)
            return due
        job = Job(settings=self._settings, audience=audience, stop=self._stop)
        with taking(self._workspace, job) as (lease, row):
            if (known := _later(row, started)) is not None:
                return known
            try:
                _log(sync_under(self._workspace, lease, job, row))
            except LeaseLost:
                raise
            except Exception:
                self._keep(audience, due, lease)
                raise
            self._keep(audience, due, lease)
        return due

    def _keep(self, audience: Audience, due: datetime, lease: HeldLease | None = None) -> None:
        """Keep when an audience is due; a run that was stopped stays due, and so does one that could not say so.

        Raises:
            LeaseLost: another process has taken the lease over.
        """
        if self._stop.is_set():
            return
        try:
            with self._workspace.database.write() as connection:
                if lease is not None:
                    lease.assert_held(connection)
                row = audiences.find(connection, audience.key)
                if row is not None:
                    audiences.set_next_due(connection, row.id, int(due.timestamp() * 1000))
        except sa.exc.SQLAlchemyError as error:
            log.error("database_away", error=first_line(error))

    def _purge(self) -> None:
        erasure.purge(self._workspace.database, self._settings.retention, now_ms=self._workspace.seams.now_ms())


def _later(row: AudienceRow | None, started: datetime) -> datetime | None:
    """Return when an audience is due, if another process was first; None if it is due now."""
    if row is None or row.next_due_at is None or _from_ms(row.next_due_at) <= started:
        return None
    return _from_ms(row.next_due_at)


def _log(report: RunReport) -> None:
    run = report.run
    log.info(
        "sync_finished",
        audience=report.audience_key,
        run_id=run.id,
        kind=run.kind,
        state=run.state,
        entered=run.counts.entered,
        exited=run.counts.exited,
        updated=run.counts.updated,
        members=report.members,
        reason=run.reason,
    )


def _from_ms(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
