"""The scheduling side of the daemon: one date job per audience, with its due time in the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from audience_sync.audiences.data_age import DataAge, DataAges
from audience_sync.config import Audience, Schedule, Settings
from audience_sync.core.model import RunState, from_ms, to_ms
from audience_sync.daemon.schedule import next_due
from audience_sync.daemon.troubles import Troubles
from audience_sync.database_error import first_line
from audience_sync.errors import AudienceSyncError, LeaseHeld, LeaseLost
from audience_sync.segment.timestamps import iso
from audience_sync.store import audiences, erasure, runs
from audience_sync.store.audiences import AudienceRow, rename_warnings
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import HeldLease, Workspace
from audience_sync.sync import Job, Round, RunReport, make_round, recover, sync_under, taking, uses_any

MOMENT = timedelta(seconds=1)

log = structlog.get_logger()


class BusyAudiences:
    """Keys that running rounds work on; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    @contextmanager
    def claim(self, keys: Set[str]) -> Iterator[bool]:
        """Claim keys for the duration of a block; if one of them is taken, claim nothing and yield False."""
        with self._lock:
            is_free = self._taken.isdisjoint(keys)
            if is_free:
                self._taken |= keys
        try:
            yield is_free
        finally:
            if is_free:
                with self._lock:
                    self._taken -= keys


class Syncing:
    """Sync each audience when it is due; `audiences.next_due_at` is the source of truth."""

    def __init__(self, workspace: Workspace, settings: Settings, *, stop: threading.Event, troubles: Troubles) -> None:
        self._workspace = workspace
        self._tuning = workspace.tuning
        self._retry = timedelta(seconds=self._tuning.lease_retry_seconds)
        self._stop = stop
        self._troubles = troubles
        self._lock = threading.RLock()  # protects the configuration, the jobs and their due times
        self._settings = settings
        self._audiences: dict[str, Audience] = {}  # to be synced, by key
        self._due: dict[str, datetime] = {}  # when each audience's job fires, or fired if it is under way
        self._held_elsewhere: set[str] = set()  # audiences that another process is working on
        self._busy = BusyAudiences()
        self._released: dict[str, int] = {}  # since when an audience was due in the database that came due there
        self._watcher = threading.Thread(target=self._watch, name="releases", daemon=True)
        self._drift = self._clock_drift()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(self._tuning.syncs_at_once)},
            # A late wake-up must run, not be skipped (APScheduler's own grace is one second).
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Finish the work of dead processes, and schedule every audience, new ones at once."""
        now = self._now()
        with self._workspace.database.read() as connection:
            known = {row.key: row for row in audiences.every(connection)}
        for left in known.values():
            recover(self._workspace, left)
        self._workspace.release_dead_holders()
        chosen = _to_sync(self._settings, known)
        dues = {key: self._first_due(audience, known.get(key), now) for key, audience in chosen.items()}
        try:
            self._keep_all(dues, known)
        except sa.exc.SQLAlchemyError as error:
            self._troubles.note_database_away(error)
        with self._lock:
            self._audiences = chosen
            for key, due in dues.items():
                self._schedule(key, due)
        _log_skipped(self._settings, chosen)
        _log_renamed(self._settings, chosen, known)
        self._scheduler.add_job(
            self._purge,
            "interval",
            seconds=self._tuning.purge_seconds,
            next_run_time=now + timedelta(seconds=self._tuning.first_purge_seconds),
            id="purge",
        )
        self._scheduler.start()
        self._watcher.start()

    def reload(self, settings: Settings) -> None:
        """Continue with another configuration: schedules change at once, definitions with the next run.

        Running syncs finish with their old configuration.

        Raises:
            SQLAlchemyError: the database does not respond or is busy. Nothing has changed.
        """
        now = self._now()
        with self._workspace.database.read() as connection:
            known = {row.key: row for row in audiences.every(connection)}
            last_started = runs.last_started(connection)
        chosen = _to_sync(settings, known)
        with self._lock:
            dues: dict[str, datetime] = {}
            for key, audience in chosen.items():
                row = known.get(key)
                if key not in self._due:
                    dues[key] = self._first_due(audience, row, now)
                elif self._due[key] > now and self._audiences[key].schedule != audience.schedule:
                    last = last_started.get(row.id) if row is not None else None
                    dues[key] = self._due_anew(audience.schedule, last, now)
            self._keep_all(dues, known, wait=self._tuning.due_write_seconds)
            for key in self._due.keys() - chosen.keys():
                del self._due[key]
                self._troubles.end(key)
                with suppress(JobLookupError):  # it is running
                    self._scheduler.remove_job(key)
            self._settings, self._audiences = settings, chosen
            for key, due in dues.items():
                self._schedule(key, due)
        _log_skipped(settings, chosen)
        _log_renamed(settings, chosen, known)

    def _due_anew(self, schedule: Schedule, last_started: int | None, now: datetime) -> datetime:
        """Return when an audience that is not due yet is due by another schedule.

        `every` counts from the last sync, and `cron` from now: a time before the reload was not scheduled then.
        """
        started_at = now if schedule.cron is not None or last_started is None else from_ms(last_started)
        return max(now, next_due(schedule, started_at=started_at, jitter=self._workspace.clock.jitter()))

    def _first_due(self, audience: Audience, row: AudienceRow | None, now: datetime) -> datetime:
        """Return when an audience is due at startup: as stored, or earlier if its schedule is shorter now."""
        if row is None or row.next_due_at is None:
            return now
        kept = from_ms(row.next_due_at)
        if kept <= next_due(audience.schedule, started_at=now, jitter=1.0):
            return kept
        return next_due(audience.schedule, started_at=now, jitter=self._workspace.clock.jitter())

    def _keep_all(
        self, dues: Mapping[str, datetime], known: Mapping[str, AudienceRow], *, wait: float | None = None
    ) -> None:
        """Keep when audiences are due, in one transaction, where it has changed since the database was read.

        Raises:
            SQLAlchemyError: the database does not respond, or is busy for longer than `wait` seconds.
        """
        seen = {key: row.next_due_at for key, row in known.items() if row.next_due_at is not None}
        changed = {key: to_ms(due) for key, due in dues.items() if seen.get(key, to_ms(due)) != to_ms(due)}
        if changed:
            with self._workspace.database.write(wait=wait) as connection:
                for key, due_ms in changed.items():
                    audiences.put_off(connection, key, due_ms, seen=seen[key])

    def follow_clock(self) -> None:
        """After a jump of the wall clock, have every audience due when it should be by the new time.

        Who was put off by a clock that was ahead is due sooner, what a jump forward made due is due now.
        """
        drift = self._clock_drift()
        if abs(drift - self._drift) < self._tuning.clock_jump_seconds:
            return
        now = self._now()
        try:
            with self._workspace.database.read() as connection:
                known = {row.key: row for row in audiences.every(connection)}
            with self._lock:
                waiting = {key: audience for key, audience in self._audiences.items() if key in self._due}
                dues = {key: self._first_due(audience, known.get(key), now) for key, audience in waiting.items()}
                self._keep_all(dues, known, wait=self._tuning.due_write_seconds)
                for key, due in dues.items():
                    self._schedule(key, due)
        except sa.exc.SQLAlchemyError as error:
            self._troubles.note_database_away(error)
            return  # and again at the next look
        log.warning("clock_jumped", seconds=round(drift - self._drift))
        self._drift = drift
        self._scheduler.wakeup()

    def follow_releases(self) -> None:
        """Sync audiences that became due in the database because another process released them."""
        now = self._now()
        try:
            with self._workspace.database.read() as connection:
                due = audiences.due(connection, to_ms(now))
        except sa.exc.SQLAlchemyError:  # what is at work there says so
            return
        with self._lock:
            for key in self._audiences:
                since = due.get(key)
                # An instant counts once: it stays where the next one could not be kept.
                if since is not None and self._due.get(key, now) > now and self._released.get(key) != since:
                    self._released[key] = since
                    self._schedule(key, now)

    def _clock_drift(self) -> float:
        """Return how many seconds the wall clock is ahead of the monotonic clock."""
        return self._now().timestamp() - self._workspace.clock.monotonic()

    def next_at(self) -> datetime | None:
        """Return when the next audience is due: now if one is overdue or running, and None if there is none."""
        first = min(list(self._due.values()), default=None)
        return None if first is None else max(first, self._now())

    def behind(self) -> bool:
        """Return whether an audience is being synced, or is due."""
        return any(due <= self._now() for due in list(self._due.values()))

    def stop(self) -> None:
        """Start no more syncs; running ones end at their next commit because `stop` is set."""
        self._scheduler.pause()

    def close(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for running syncs; return False if one has not ended by then."""
        ender = threading.Thread(target=self._end, name="ender", daemon=True)
        ender.start()
        ender.join(timeout)
        return not ender.is_alive()

    def _end(self) -> None:
        self._scheduler.shutdown()
        self._watcher.join()

    def _watch(self) -> None:
        """Check once a second, in a separate thread, because the database may respond slowly."""
        while not self._stop.wait(MOMENT.total_seconds()):
            self.follow_releases()

    def _now(self) -> datetime:
        return self._workspace.clock.now()

    def _schedule(self, key: str, at: datetime) -> None:
        self._due[key] = at
        if not self._stop.is_set():
            self._scheduler.add_job(
                # A moment ahead: APScheduler drops a job that comes due while this one is still returning.
                self._run,
                "date",
                run_date=max(at, self._now() + MOMENT),
                args=[key],
                id=key,
                replace_existing=True,
            )

    def _run(self, key: str) -> None:
        """Sync one audience and schedule it again, whatever happens.

        Audiences that use one another are synced in one round, by the job that comes first. The jobs of the others come
        again, and find when these are due next.
        """
        with self._lock:
            settings, audience = self._settings, self._audiences.get(key)
        if audience is None:  # removed by a reload
            return
        started = self._now()
        family = settings.family(audience)
        due = started + self._retry
        try:
            with self._busy.claim({one.key for one in family}) as is_free:
                if is_free:
                    due = self._sync_round(settings, audience, family, started)
        finally:
            with self._lock:
                if key in self._audiences:
                    self._schedule(key, due)

    def _sync_round(
        self, settings: Settings, audience: Audience, family: Sequence[Audience], started: datetime
    ) -> datetime:
        """Sync what is due of a family, each after what it uses, and return when the audience is due next.

        One share of jitter is for all: audiences with the same schedule stay together.
        """
        jitter = self._workspace.clock.jitter()
        try:
            with self._workspace.database.read() as connection:
                rows = {row.key: row for row in audiences.every(connection)}
            later = {key: due for key, row in rows.items() if (due := _later(row, started)) is not None}
            if audience.key in later:  # another process was first, or another job
                return later[audience.key]
            chosen = [one for one in family if one.key in self._due and one.key not in later]
            made = make_round(self._workspace, settings, chosen)
        except sa.exc.SQLAlchemyError:  # the sync of the audience meets it, too, and says so
            made = Round((audience,), frozenset([audience.key]), started)
        dues: dict[str, datetime] = {}
        busy: set[str] = set()
        data_ages = DataAges()
        for one in made.audiences:
            due = next_due(one.schedule, started_at=started, jitter=jitter)
            was_reloaded = self._settings is not settings  # what is left of the round is evaluated as the file is now
            if self._stop.is_set() or was_reloaded or uses_any(settings, one, busy) is not None:
                dues[one.key], comes_again = started + self._retry, True
            else:
                job = Job(settings=settings, audience=one, at_least=made.as_of, data_ages=data_ages, stop=self._stop)
                dues[one.key], comes_again = self._attempt(job, started, due, is_needed=one.key not in made.chosen)
            busy.update([one.key] if comes_again else [])
        return dues.get(audience.key, started + self._retry)

    def _attempt(self, job: Job, started: datetime, due: datetime, *, is_needed: bool) -> tuple[datetime, bool]:
        """Sync one audience of a round; return when it is due next, and whether that is because others work on it."""
        key = job.audience.key
        comes_again = False
        row: AudienceRow | None = None
        try:
            with self._workspace.database.read() as connection:
                row = audiences.find(connection, key)
            due = self._sync(job, row, due, is_needed=is_needed)
            self._held_elsewhere.discard(key)
        except LeaseHeld:
            if key not in self._held_elsewhere:
                log.info("sync_deferred", audience=key, why="another process is working on it")
                self._held_elsewhere.add(key)
            due, comes_again = started + self._retry, True
        except LeaseLost as error:  # whoever took over knows when it is due
            log.warning("sync_taken_over", audience=key, why=str(error))
            due, comes_again = started + self._retry, True
        except Exception as error:  # noqa: BLE001 - the wrapper of every job: one audience must not end the daemon
            self._log_failure(job.audience, error, due)
            self._keep(key, due, seen=None if row is None else row.next_due_at)
        return (due, True) if comes_again else (self._by_schedule(job.audience, started, due), False)

    def _by_schedule(self, audience: Audience, started: datetime, due: datetime) -> datetime:
        """Return when an audience is due next by the current schedule: a reload may have changed it during the sync."""
        with self._lock:
            current = self._audiences.get(audience.key)
        if current is None or current.schedule == audience.schedule:
            return due
        kept, due = due, next_due(current.schedule, started_at=started, jitter=self._workspace.clock.jitter())
        self._keep(audience.key, due, seen=to_ms(kept))
        return due

    def _sync(self, job: Job, found: AudienceRow | None, due: datetime, *, is_needed: bool) -> datetime:
        """Sync an audience if it still wants it, or others need it, and return when it is due next.

        That is kept before the lease is given back: another process that waits for the lease finds it.
        """
        key = job.audience.key
        if (known := _later(found, self._now())) is not None and not is_needed:
            return known
        if found is not None and found.state != "active":
            self._keep(key, due, seen=found.next_due_at)
            return due
        with taking(self._workspace, job) as (lease, row):
            if (known := _later(row, self._now())) is not None and not is_needed:
                return known
            try:
                report = sync_under(self._workspace, lease, job, row)
            except LeaseLost:
                raise
            except Exception:
                self._keep(key, due, seen=row.next_due_at, lease=lease)
                raise
            self._log_run(report, row)
            self._keep(key, due, seen=row.next_due_at, lease=lease)
        return due

    def _keep(self, key: str, due: datetime, *, seen: int | None, lease: HeldLease | None = None) -> None:
        """Keep when an audience is due; a run that was stopped stays due, and so does one that could not say so.

        `seen` is what the database had when the work began. If it has something else now, that stays: another process
        has released the audience, or one that works on it knows better.

        Raises:
            LeaseLost: another process has taken the lease over.
        """
        if self._stop.is_set():
            return
        try:
            with self._workspace.database.write() as connection:
                if lease is not None:
                    lease.assert_held(connection)
                audiences.put_off(connection, key, to_ms(due), seen=seen)
        except sa.exc.SQLAlchemyError as error:
            self._troubles.note_database_away(error)

    def _log_run(self, report: RunReport, before: AudienceRow) -> None:
        """Log a run: blocked, held or stale (as a warning if that is new), or that the audience has recovered.

        It is new, too, when something was applied since the run that was blocked before: a person approved it.
        """
        run, key = report.run, report.audience_key
        if run.state is RunState.HELD:
            if self._troubles.is_news(key, "held", f"{run.held_by} {report.obstacle}"):
                log.warning("sync_held", audience=key, run_id=run.id, reason=run.reason)
            return
        log.info(
            "sync_finished",
            audience=key,
            run_id=run.id,
            kind=run.kind,
            state=run.state,
            entered=run.counts.entered,
            exited=run.counts.exited,
            updated=run.counts.updated,
            members=report.members,
            reason=run.reason,
        )
        if report.data_age is not None:
            self._log_data_age(report.data_age, run)
        if run.state is RunState.BLOCKED:
            tell = log.warning if self._troubles.is_news(key, "blocked", str(before.applied_as_of)) else log.info
            tell(
                "run_blocked",
                audience=key,
                run_id=run.id,
                reason=run.reason,
                look=f"audience-sync plan {key}",
                approve=f"audience-sync approve {key}",
            )
        elif run.state is not RunState.STALE and (ended := self._troubles.end(key)) is not None:
            trouble, seconds = ended
            log.info("sync_recovered", audience=key, was=trouble.state, after_seconds=round(seconds))

    def _log_data_age(self, age: DataAge, run: RunRow) -> None:
        """Log that the data of a source is stale, once for all audiences with its rule, or that new data was loaded."""
        subject = f"{age.source}: {age.rule}"  # not the key of an audience
        if age.is_stale:
            if self._troubles.is_news(subject, run.state):
                log.warning("source_stale", source=age.source, run_id=run.id, reason=age.sentence)
        elif (ended := self._troubles.end(subject)) is not None:
            log.info("source_fresh", source=age.source, after_seconds=round(ended[1]), reason=age.sentence)

    def _log_failure(self, audience: Audience, error: Exception, due: datetime) -> None:
        """Log a failed run, as an error if that is new; a run that ends because the daemon stops has not failed."""
        is_expected = isinstance(error, AudienceSyncError | sa.exc.OperationalError)
        if self._stop.is_set() and is_expected:
            log.info("sync_interrupted", audience=audience.key, why=first_line(error))
            return
        sentence = first_line(error)
        is_news = self._troubles.is_news(audience.key, "failed", sentence)
        tell = log.error if is_news else log.info
        trace = error if is_news and not is_expected else None
        tell("sync_failed", audience=audience.key, error=sentence, due_at=iso(due), exc_info=trace)

    def _purge(self) -> None:
        erasure.purge(self._workspace.database, self._settings.retention, now_ms=self._workspace.clock.now_ms())


def _to_sync(settings: Settings, known: Mapping[str, AudienceRow]) -> dict[str, Audience]:
    """Return the audiences of a configuration that are neither disabled nor retired, by key."""
    retired = {row.key for row in known.values() if row.state == "retired"}
    return {one.key: one for one in settings.audiences if one.enabled and one.key not in retired}


def _log_skipped(settings: Settings, chosen: Mapping[str, Audience]) -> None:
    for audience in settings.audiences:
        if audience.key not in chosen:
            log.warning("audience_skipped", audience=audience.key, why="retired" if audience.enabled else "disabled")


def _log_renamed(settings: Settings, chosen: Mapping[str, Audience], known: Mapping[str, AudienceRow]) -> None:
    """Warn about audiences that start over because they were renamed."""
    for audience, sentence, hint in rename_warnings(settings, chosen.values(), list(known.values())):
        log.warning("audience_renamed", audience=audience.key, why=sentence, hint=hint)


def _later(row: AudienceRow | None, now: datetime) -> datetime | None:
    """Return when an audience is due next if another process already synced it; None if it is due now."""
    if row is None or row.next_due_at is None or from_ms(row.next_due_at) <= now:
        return None
    return from_ms(row.next_due_at)
