"""One run of one audience, from its row in `runs` to its last commit.

Reading comes first and changes nothing. An initial run commits while it compares, and is initial again if it dies.
Every later run stages its whole plan, and the guard checks it before the first commit.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.audiences.data_age import DataAge
from audience_sync.core.guard import Hold, guard, is_guarded
from audience_sync.core.model import Change, ChangeKind, Counts, RunKind, RunState, from_ms, to_ms
from audience_sync.core.text import instant_text
from audience_sync.database_error import first_line
from audience_sync.errors import ConfigError, LeaseLost
from audience_sync.segment.timestamps import iso
from audience_sync.store import (
    audiences,
    binding,
    definition_texts,
    generations,
    identifiers,
    memberships,
    runs,
    subscriptions,
)
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.runs import NewRun, RunRow
from audience_sync.store.workspace import HeldLease, Workspace
from audience_sync.sync.comparison import Difference, compare, compare_one
from audience_sync.sync.completion import apply_plan, fail, queue_members, supersede
from audience_sync.sync.definition_rows import DefinitionRows, Rejections, reading
from audience_sync.sync.job import Job, RunReport
from audience_sync.sync.prerequisites import hold_of, used_by, uses_any
from audience_sync.sync.takeover import finish_dead_runs, holding

# --- comparing and committing -----------------------------------------------------------------------------------------
# The second half of a run: compare the result with the members, and commit or stage the differences.

T = TypeVar("T")
Put: TypeAlias = Callable[[Connection, RunRow, Sequence[T]], None]


@dataclass
class ChangeWriter:
    """The second half of a run: its counts so far, and the commits of its changes."""

    workspace: Workspace
    lease: HeldLease
    job: Job
    run: RunRow
    rejections: Rejections
    counts: Counts
    _rejections_stored: int = 0

    def commit(self, found: DefinitionRows) -> RunRow:
        """Commit an initial run in parts, so that the work of a run that dies is not lost."""
        difference = self._compare(found)
        newcomers, changes, reached = difference.newcomers, difference.changes, "sync.committed"
        if newcomers is not None:
            self._put_all(newcomers, difference, memberships.enter, kinds=_all_enter, reached=reached)
        else:
            self._put_all(changes, difference, memberships.apply, kinds=_kinds, reached=reached)
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            self._close(connection, found, difference)
        return apply_plan(self.workspace, self.lease, self.run, check_stop=self.job.check_stop)

    def stage(self, found: DefinitionRows) -> RunRow:
        """Stage the whole plan, apply the guard, and apply the plan."""
        difference = self._compare(found)
        self._put_all(difference.changes, difference, memberships.stage, kinds=_kinds, reached="sync.staged")
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            self._close(connection, found, difference)
            limits = self.job.audience.guard
            if self.run.partial:  # a part does not show the size of the whole
                limits = replace(limits, min_initial_members=0)
            refusals = guard(self.counts, kind=self.run.kind, members_before=self.run.members_before, limits=limits)
            state = RunState.BLOCKED if refusals else RunState.APPLYING
            runs.set_state(connection, self.run.id, state, reason="; ".join(refusals) or self.run.reason)
            run = runs.get(connection, self.run.id)
        self.workspace.reach("sync.decided")
        if refusals:
            return run
        return apply_plan(self.workspace, self.lease, run, check_stop=self.job.check_stop)

    def _compare(self, found: DefinitionRows) -> Difference:
        database, audience_id = self.workspace.database, self.run.audience_id
        if self.job.only is not None:
            return compare_one(database, audience_id, found, self.job.only, on_missing=self.job.audience.on_missing)
        return compare(
            database,
            audience_id if self.run.members_before else None,  # there are no members to read
            found,
            trust=self.run.kind is not RunKind.RESYNC,
            on_missing=self.job.audience.on_missing,
            on_members=self.job.on_members,
        )

    def _put_all(
        self,
        pages: Iterable[Sequence[T]],
        difference: Difference,
        put: Put[T],
        *,
        kinds: Callable[[Sequence[T]], Counter[ChangeKind]],
        reached: str,
    ) -> None:
        """Write changes to the database in several commits, up to the limit if there is one."""
        done: Counter[ChangeKind] = Counter()
        for some in _chunks(pages, rows=self.workspace.tuning.changes_per_commit, limit=self.job.limit):
            done.update(kinds(some))
            self.job.on_changes(done.total())
            with self.workspace.database.write() as connection:
                self.lease.assert_held(connection)
                self._keep_wrapping(connection, difference)
                put(connection, self.run, some)
                self._note(connection, replace(self.counts, **{kind.value: done[kind] for kind in ChangeKind}))
            self.workspace.reach(reached)
        self.counts = replace(self.counts + difference.counts, **{kind.value: done[kind] for kind in ChangeKind})

    def _keep_wrapping(self, connection: Connection, difference: Difference) -> None:
        """Store with the run, before its first change, how its bare identifiers are to be read."""
        template = None if difference.wrapping is None else difference.wrapping.template
        if self.run.identifiers != template:
            self.run = runs.set_identifiers(connection, self.run.id, template)

    def _note(self, connection: Connection, counts: Counts) -> None:
        """Store the counts and samples of rejected rows."""
        samples = self.rejections.samples
        runs.set_counts(connection, self.run.id, counts)
        runs.add_rejections(connection, self.run.id, samples, first=self._rejections_stored)
        self._rejections_stored += len(samples)
        samples.clear()

    def _keep_digest(self, connection: Connection, found: DefinitionRows, difference: Difference) -> None:
        """Store the digest of the members, and the sums of the source if every row became a member unchanged.

        If no sums were requested, earlier sums of the same members stay valid.
        """
        said = None if self.rejections.counts else found.sums
        if difference.digest is not None:
            memberships.keep_digest(connection, self.run, difference.digest, source_sums=said)
        elif found.is_asked and not found.is_known:
            memberships.keep_source_sums(connection, self.run.audience_id, said)

    def _close(self, connection: Connection, found: DefinitionRows, difference: Difference) -> None:
        """Store the results; they supersede plans that wait for approval."""
        self._note(connection, self.counts)
        is_cut = self.counts.changed < difference.counts.changed
        if self.run.partial and self.job.only is None and not is_cut:  # the limit did not leave out any change
            self.run = runs.set_whole(connection, self.run.id)
        if not self.run.partial:
            self._keep_digest(connection, found, difference)
        supersede(connection, self.run, RunState.BLOCKED, now_ms=self.workspace.clock.now_ms())


def _chunks(pages: Iterable[Sequence[T]], *, rows: int, limit: int | None) -> Iterator[list[T]]:
    """Yield what is in pages in chunks of `rows`, at most `limit` in all."""
    left = sys.maxsize if limit is None else limit
    waiting: list[T] = []
    for page in pages:
        waiting += page[:left]
        left -= min(left, len(page))
        while len(waiting) >= rows:
            yield waiting[:rows]
            del waiting[:rows]
        if not left:
            break
    if waiting:
        yield waiting


def _kinds(changes: Sequence[Change]) -> Counter[ChangeKind]:
    return Counter(change.kind for change in changes)


def _all_enter(lines: Sequence[str]) -> Counter[ChangeKind]:
    return Counter({ChangeKind.ENTERED: len(lines)})


# --- from start to end ------------------------------------------------------------------------------------------------


def sync(workspace: Workspace, job: Job) -> RunReport:
    """Sync one audience and return a report; its changes are then in the outbox.

    Used audiences are not synced along with it: if they were not accepted as of the same instant, the run is held.

    Raises:
        ConfigError: no mapping carries the audience, its key is retired or was a computed trait's (or an audience's),
            the identity is another one, or `as_of` lies before what was applied last.
        LeaseHeld: another process is syncing it.
        SourceError: the source could not be read; nothing changed.
        LeaseLost: another process took over; commits are kept.
    """
    with taking(workspace, job) as (lease, audience):
        return sync_under(workspace, lease, job, audience)


@contextmanager
def taking(workspace: Workspace, job: Job) -> Iterator[tuple[HeldLease, AudienceRow]]:
    """Hold the lease of a job's audience, registering a new one; the row is as of the start of the lease.

    Raises:
        ConfigError: the audience cannot be synced.
        LeaseHeld: another process is syncing it.
    """
    if job.resync and job.partial:
        raise ConfigError("a resync sends everything again, so it cannot be limited", hint="remove --limit and --only")
    with workspace.database.read() as connection:
        job.require_carried(binding.environment(connection))
    audience = _register(workspace, job)
    with holding(workspace, audience) as lease:
        with workspace.database.read() as connection:
            audience = audiences.by_id(connection, audience.id)
        yield lease, audience


def sync_under(workspace: Workspace, lease: HeldLease, job: Job, audience: AudienceRow) -> RunReport:
    """Sync an audience under a lease; see `sync`."""
    finish_dead_runs(workspace, lease, audience)
    run, hold = _start(workspace, lease, job, audience)
    if hold is not None:
        return RunReport(run, job.audience.key, audience.members, Counter(), hold.obstacle)
    workspace.reach("sync.started")
    try:
        queue_members(workspace, lease, audience.id)
        return _execute(workspace, lease, job, run)
    except LeaseLost:
        raise
    except BaseException as error:
        fail(workspace, run.id, reason=_reason(error))
        raise


def _reason(error: BaseException) -> str:
    """Return the reason of a failed run for people."""
    match error:
        case KeyboardInterrupt():
            return "interrupted"
        case sa.exc.SQLAlchemyError():
            return first_line(error)
        case _:
            return str(error) or type(error).__name__


def _register(workspace: Workspace, job: Job) -> AudienceRow:
    with workspace.database.write() as connection:
        binding.bind_identity(connection, job.settings.identity)
        if job.audience.user_keys.keys() > {job.settings.identity}:
            identifiers.note_in_use(connection)
        audience = audiences.register(
            connection,
            key=job.audience.key,
            name=job.audience.name,
            now_ms=workspace.clock.now_ms(),
            computation=job.audience.computation,
        )
        users = [one.key for one in job.settings.audiences if uses_any(job.settings, one, {job.audience.key})]
        if users:
            runs.wait_for(connection, audience.id, keys=users)
    _require_active(audience)
    return audience


def _require_active(audience: AudienceRow) -> None:
    audiences.require_not_retired(audience)
    if audience.state == "paused":
        raise ConfigError(f"audience {audience.key!r} is paused", hint=f"audience-sync resume {audience.key}")


def _start(workspace: Workspace, lease: HeldLease, job: Job, audience: AudienceRow) -> tuple[RunRow, Hold | None]:
    """Start a run, or hold it and return the reason."""
    clock = workspace.clock
    now = clock.now_ms()
    with workspace.database.write() as connection:
        lease.assert_held(connection)
        audience = audiences.by_id(connection, audience.id)  # as dead or earlier runs left it
        _require_active(audience)
        as_of = _instant(job, audience, now_ms=now)
        if not job.force:
            _require_no_later(connection, job, audience, as_of=as_of)
        kind = RunKind.RESYNC if job.resync else RunKind.INCREMENTAL
        new = NewRun(
            audience_id=audience.id,
            kind=kind if audience.completed else RunKind.INITIAL,
            state=RunState.RUNNING,
            as_of=as_of,
            started_at=now,
            generation=0,
            definition_hash=job.audience.definition_hash,
            definition_changed=audience.is_edited(job.audience.definition_hash),
            members_before=audience.members,
            send_updates=job.audience.send_updates,
            partial=job.partial is not None,
            reason=job.partial,
        )
        definition_texts.keep(connection, job.audience.definition_hash, job.audience.definition_text)
        hold = hold_of(connection, job.settings, job.audience, as_of=as_of)
        if hold is not None:  # nothing is evaluated, so no generation is needed
            held = new._replace(state=RunState.HELD, partial=False, reason=hold.reason, held_by=hold.audience_id)
            return runs.hold(connection, held), hold
        subscriptions.follow(connection, audience.id, job.settings.subscribers(job.audience), now_ms=now)
        run = runs.start(connection, new._replace(generation=generations.next_generation(connection, now)))
        supersede(connection, run, RunState.HELD, now_ms=now)
        return run, None


def _require_no_later(connection: Connection, job: Job, audience: AudienceRow, *, as_of: int) -> None:
    """Refuse an instant that is earlier than the last sync of an audience or of those it uses.

    Raises:
        ConfigError: one of them was synced as of a later instant.
    """
    found = [(f"audience {audience.key!r}", audience.applied_as_of)]
    if job.as_of is not None:
        used = used_by(connection, job.settings, job.audience)
        found += [(f"`{one.key}`, which `{audience.key}` uses,", one.accepted_as_of) for one in used if one.in_file]
    for subject, applied in found:
        if applied is not None and as_of < applied:
            raise ConfigError(
                f"{subject} was already synced as of a later time, {instant_text(iso(from_ms(applied)))}",
                hint="use --force to sync as of an earlier time",
            )


def _instant(job: Job, audience: AudienceRow, *, now_ms: int) -> int:
    """Return the instant of a run, in milliseconds.

    Without an explicit instant, a later sync always has a later instant, even if the clock was set back in between.
    """
    if job.as_of is not None:
        return to_ms(job.as_of)
    return max(now_ms if job.at_least is None else to_ms(job.at_least), audience.applied_as_of or 0)


def _execute(workspace: Workspace, lease: HeldLease, job: Job, run: RunRow) -> RunReport:
    age = job.data_age(now=workspace.clock.now())
    if age is not None and age.is_stale:
        return _end_stale(workspace, lease, job, run, age)
    known = None
    asks_sums = job.settings.sources[job.audience.source].sums_first and not run.partial
    if asks_sums and run.kind is RunKind.INCREMENTAL:
        with workspace.database.read() as connection:
            known = memberships.source_sums(connection, run.audience_id)
    with reading(
        job.settings,
        job.audience,
        as_of=from_ms(run.as_of),
        on_page=job.on_page,
        asks_sums=asks_sums,
        known=known,
        tuning=workspace.tuning,
    ) as found:
        workspace.reach("sync.read")
        counts = Counts(read=found.rows, rejected=found.rejections.rows)
        writer = ChangeWriter(workspace, lease, job, run, found.rejections, counts)
        if run.kind is RunKind.INITIAL:
            job.on_first(found.rows - found.rejections.rows)
        run = writer.commit(found) if _goes_unguarded(job, run) else writer.stage(found)
    with workspace.database.read() as connection:
        members = audiences.by_id(connection, run.audience_id).members
    return RunReport(run, job.audience.key, members, found.rejections.counts, data_age=age, is_unread=found.is_known)


def _end_stale(workspace: Workspace, lease: HeldLease, job: Job, run: RunRow, age: DataAge) -> RunReport:
    """End a run whose data is too old; nothing is evaluated, so nothing has changed."""
    with workspace.database.write() as connection:
        lease.assert_held(connection)
        runs.finish(connection, run.id, RunState.STALE, now_ms=workspace.clock.now_ms(), reason=age.sentence)
        run = runs.get(connection, run.id)
        members = audiences.by_id(connection, run.audience_id).members
    return RunReport(run, job.audience.key, members, Counter(), data_age=age)


def _goes_unguarded(job: Job, run: RunRow) -> bool:
    """Return whether no guard can stop a run, so that it can commit while it compares."""
    limits = job.audience.guard
    return (
        run.kind is RunKind.INITIAL and limits.min_initial_members == 0 and not is_guarded(run.members_before, limits)
    )
