"""Plan a sync: read and compare as a run does, but store nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from audience_sync.core.guard import NOT_SYNCED, Hold, Used, guard, hold, would_be_stale, would_block, would_fail
from audience_sync.core.model import Change, Computation, Counts, RunKind, RunState, to_ms
from audience_sync.store import audiences, binding, runs
from audience_sync.store.workspace import Workspace
from audience_sync.sync.comparison import compare
from audience_sync.sync.definition_rows import Rejections, reading
from audience_sync.sync.job import Job
from audience_sync.sync.prerequisites import used_by


@dataclass(frozen=True)
class Plan:
    """The changes that a run would make, with counts."""

    audience_key: str
    computation: Computation
    kind: RunKind
    as_of: datetime
    members_before: int
    counts: Counts
    definition_changed: bool
    refusals: list[str]  # of the guard
    blocked_run: int | None  # a run with a plan that waits for approval
    rejections: Rejections
    held: str | None = None  # why a sync would not evaluate it; nothing is counted then
    stale: str | None = None  # how old the data is, if a sync would not evaluate it for that; nothing is counted then


def plan(
    workspace: Workspace,
    job: Job,
    *,
    on_found: Callable[[Sequence[Change]], None],
    planned: Mapping[str, Plan | None] | None = None,
) -> Plan:
    """Compare a definition with the memberships; `on_found` gets the changes in pages, by profile key.

    `planned` has the plans of audiences that the same sync would sync first (None: planning failed). If a used one
    would be blocked or held, the definition is not evaluated, because a sync would not evaluate it either.

    Raises:
        ConfigError: no mapping sends the audience, or its key is retired or belongs to the other computation.
        BindingRefused: the database has another identity.
        SourceError: the source could not be read.
    """
    with workspace.database.read() as connection:
        job.require_carried(binding.environment(connection))
        binding.check_identity(connection, job.settings.identity)
        audience = audiences.find(connection, job.audience.key)
        if audience is not None:
            audiences.require_computation(audience, job.audience.computation)
            audiences.require_not_retired(audience)
        waiting = runs.in_state(connection, audience.id, RunState.BLOCKED) if audience else []
        held = _planned_hold(connection, job, planned or {})
    as_of = job.as_of or job.at_least or workspace.clock.now().astimezone(UTC)
    made = Plan(
        audience_key=job.audience.key,
        computation=job.audience.computation,
        kind=RunKind.INCREMENTAL if audience and audience.completed else RunKind.INITIAL,
        as_of=as_of,
        members_before=audience.members if audience else 0,
        counts=Counts(),
        definition_changed=audience is not None and audience.is_edited(job.audience.definition_hash),
        refusals=[],
        blocked_run=waiting[-1].id if waiting else None,
        rejections=Rejections(),
        held=None if held is None else held.reason,
    )
    if held is not None:
        return made
    age = job.data_age(now=workspace.clock.now())
    if age is not None and age.is_stale:
        return replace(made, stale=age.sentence)
    with reading(
        job.settings,
        job.audience,
        as_of=as_of,
        on_page=job.on_page,
        tuning=workspace.tuning,
    ) as read:
        counts = Counts(read=read.rows, rejected=read.rejections.rows)
        difference = compare(
            workspace.database,
            audience.id if audience and audience.members else None,
            read,
            trust=True,
            on_missing=job.audience.on_missing,
            on_members=job.on_members,
        )
        for changes in difference.changes:
            job.check_stop()
            on_found(changes)
    counts += difference.counts
    refusals = guard(counts, kind=made.kind, members_before=made.members_before, limits=job.audience.guard)
    return replace(made, counts=counts, refusals=refusals, rejections=read.rejections)


def _planned_hold(connection: Connection, job: Job, planned: Mapping[str, Plan | None]) -> Hold | None:
    """Return why an audience would be held after the planned syncs of those it uses, or None.

    Audiences without a plan stay as they are.
    """
    for used in used_by(connection, job.settings, job.audience):
        found = hold(job.audience.key, [used], as_of=None if job.as_of is None else to_ms(job.as_of))
        if used.key in planned and (found is None or found.obstacle not in NOT_SYNCED):
            found = _outcome(used, planned[used.key])
        if found is not None:
            return found
    return None


def _outcome(used: Used, made: Plan | None) -> Hold | None:
    """Return why what is used would hold an audience after it was synced as planned, or None."""
    if made is None:
        return would_fail(used)
    if made.stale is not None:
        return would_be_stale(used, made.stale)
    return would_block(used) if made.refusals else None
