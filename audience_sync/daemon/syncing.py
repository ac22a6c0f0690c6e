"""The scheduler's side of the daemon: one date job for each audience, whose time is kept in the database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from audience_sync.config import Audience, Settings
from audience_sync.core.instants import to_ms
from audience_sync.core.model import RunState
from audience_sync.daemon.claims import Claims
from audience_sync.daemon.schedule import next_due
from audience_sync.database_error import first_line
from audience_sync.errors import AudienceSyncError, LeaseHeld, LeaseLost
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import audiences, erasure
from audience_sync.store.audiences import AudienceRow
from audience_sync.sync import Job, Round, RunReport, make_round, recover, sync_under, taking, uses_any

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
        self._claims = Claims()
        self._held: dict[str, str | None] = {}  # audiences that are held, and the reason that was logged
        self._released: dict[str, int] = {}  # since when an audience was due in the database that came due there
        self._watcher = threading.Thread(target=self._watch, name="releases", daemon=True)
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
        self._watcher.start()

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

    def follow_releases(self) -> None:
        """Sync what has become due in the database: another process has released what was held."""
        now = self._now()
        try:
            with self._workspace.database.read() as connection:
                due = audiences.due(connection, to_ms(now))
        except sa.exc.SQLAlchemyError:  # what is at work there says so
            return
        for audience in self._settings.audiences:
            since = due.get(audience.key)
            # An instant counts once: it stays where the next one could not be kept.
            if (
                since is not None
                and self._due.get(audience.key, now) > now
                and self._released.get(audience.key) != since
            ):
                self._released[audience.key] = since
                self._schedule(audience, now)

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
        ender = threading.Thread(target=self._end, name="ender", daemon=True)
        ender.start()
        ender.join(timeout)
        return not ender.is_alive()

    def _end(self) -> None:
        self._scheduler.shutdown()
        self._watcher.join()

    def _watch(self) -> None:
        """Look once a second, in a thread of its own: the database may take long to answer."""
        while not self._stop.wait(MOMENT.total_seconds()):
            self.follow_releases()

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
        """Sync one audience and schedule it again, whatever happens.

        Audiences that use one another are synced in one round, by the job that comes first. The jobs of the others come
        again, and find when these are due next.
        """
        started = self._now()
        family = self._settings.family(audience)
        with self._claims.claim({one.key for one in family}) as is_free:
            due = self._sync_round(audience, family, started) if is_free else started + AGAIN
        self._schedule(audience, due)

    def _sync_round(self, audience: Audience, family: Sequence[Audience], started: datetime) -> datetime:
        """Sync what is due of a family, each behind what it uses, and return when one of them is due next.

        One share of jitter is for all: what has the same schedule stays together.
        """
        jitter = self._workspace.seams.jitter()
        try:
            with self._workspace.database.read() as connection:
                rows = {row.key: row for row in audiences.every(connection)}
            later = {key: due for key, row in rows.items() if (due := _later(row, started)) is not None}
            if audience.key in later:  # another process was first, or another job
                return later[audience.key]
            chosen = [one for one in family if one.key in self._due and one.key not in later]
            made = make_round(self._workspace, self._settings, chosen)
        except sa.exc.SQLAlchemyError:  # the sync of the audience meets it, too, and says so
            made = Round((audience,), frozenset([audience.key]), started)
        dues: dict[str, datetime] = {}
        busy: set[str] = set()
        for one in made.audiences:
            due = next_due(one.schedule, started_at=started, jitter=jitter)
            if self._stop.is_set() or uses_any(self._settings, one, busy) is not None:
                dues[one.key], comes_again = started + AGAIN, True
            else:
                dues[one.key], comes_again = self._attempt(one, started, due, made)
            busy.update([one.key] if comes_again else [])
        return dues[audience.key]

    def _attempt(self, audience: Audience, started: datetime, due: datetime, made: Round) -> tuple[datetime, bool]:
        """Sync one audience of a round; return when it is due next, and whether that is because others work on it."""
        comes_again = False
        try:
            due = self._sync(audience, due, made)
            self._held_elsewhere.discard(audience.key)
        except LeaseHeld:
            if audience.key not in self._held_elsewhere:
                log.info("sync_waits", audience=audience.key, why="another process is at work on it")
                self._held_elsewhere.add(audience.key)
            due, comes_again = started + AGAIN, True
        except LeaseLost as error:  # whoever took over knows when it is due
            log.warning("sync_lost", audience=audience.key, why=str(error))
            due, comes_again = started + AGAIN, True
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
        return due, comes_again

    def _sync(self, audience: Audience, due: datetime, made: Round) -> datetime:
        """Sync an audience if it still wants it, or others need it, and return when it is due next.

        That is kept before the lease is given back: another process that waits for the lease finds it.
        """
        with self._workspace.database.read() as connection:
            row = audiences.find(connection, audience.key)
        is_needed = audience.key not in made.chosen
        if (known := _later(row, self._now())) is not None and not is_needed:
            return known
        if row is not None and row.state != "active":
            self._keep(audience, due)
            return due
        job = Job(settings=self._settings, audience=audience, at_least=made.as_of, stop=self._stop)
        with taking(self._workspace, job) as (lease, row):
            if (known := _later(row, self._now())) is not None and not is_needed:
                return known
            try:
                report = sync_under(self._workspace, lease, job, row)
            except LeaseLost:
                raise
            except Exception:
                self._keep(audience, due, lease)
                raise
            self._log(report)
            self._keep(audience, due, lease, held=row if report.run.state is RunState.HELD else None)
        return due

    def _keep(
        self, audience: Audience, due: datetime, lease: HeldLease | None = None, *, held: AudienceRow | None = None
    ) -> None:
        """Keep when an audience is due; a run that was stopped stays due, and so does one that could not say so.

        One that is `held`, and was released since, is due as its release says.

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
                if held is not None:
                    audiences.put_off(connection, held.id, to_ms(due), seen=held.next_due_at)
                elif row is not None:
                    audiences.set_next_due(connection, row.id, to_ms(due))
        except sa.exc.SQLAlchemyError as error:
            log.error("database_away", error=first_line(error))

    def _log(self, report: RunReport) -> None:
        """Log a run; that an audience is held only when it is news."""
        run, key = report.run, report.audience_key
        if run.state is not RunState.HELD:
            self._held.pop(key, None)
            _log(report)
        elif self._held.get(key) != run.reason:
            self._held[key] = run.reason
            log.warning("sync_held", audience=key, run_id=run.id, reason=run.reason)

    def _purge(self) -> None:
        erasure.purge(self._workspace.database, self._settings.retention, now_ms=self._workspace.seams.now_ms())


def _later(row: AudienceRow | None, now: datetime) -> datetime | None:
    """Return when an audience is due, if another process was first; None if it is due now."""
    if row is None or row.next_due_at is None or _from_ms(row.next_due_at) <= now:
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
