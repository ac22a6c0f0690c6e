"""What a sync would do now: read and compared like a run, and nothing stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from audience_sync.core.guard import guard
from audience_sync.core.model import Change, ChangeKind, Computation, Counts, RunKind
from audience_sync.leasing import Workspace
from audience_sync.store import audiences, binding, memberships
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.memberships import ShardChanges
from audience_sync.sync.job import Job
from audience_sync.sync.reading import Rejections, Trusted, compare, open_spool, read, trusted


@dataclass(frozen=True)
class Plan:
    """The changes a run would make, counted."""

    audience_key: str
    computation: Computation
    kind: RunKind
    as_of: datetime
    members_before: int
    counts: Counts
    new_users: int  # profiles that enter and are in no other audience: Schematic may have to create them
    definition_changed: bool
    refusals: list[str]  # of the guard
    rejections: Rejections


def plan(workspace: Workspace, job: Job, *, on_change: Callable[[Change], None]) -> Plan:
    """Compare a definition with the memberships; every change is shown to `on_change`, in the order of shards.

    Raises:
        ConfigError: no mapping carries the audience, or its key is retired or belongs to the other computation.
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
        known = trusted(connection, audience.id) if audience else Trusted()
    as_of = job.as_of or workspace.seams.clock().astimezone(UTC)
    rejections = Rejections()
    new_users = 0
    with open_spool(job.audience) as spool:
        rows = read(job.settings, job.audience, as_of=as_of, spool=spool, rejections=rejections, on_page=job.on_page)
        counts = Counts(read=rows, rejected=rejections.rows)
        audience_id = audience.id if audience else None
        compared = compare(
            workspace.database,
            audience_id,
            spool,
            rejections=rejections,
            trusted=known,
            on_missing=job.audience.on_missing,
        )
        for shard, found in compared:
            job.on_shard(shard.shard)
            counts += found
            new_users += _new_users(workspace, shard, audience_id)
            for change in shard.every():
                on_change(change)
    return _plan(job, audience, as_of=as_of, counts=counts, new_users=new_users, rejections=rejections)


def _new_users(workspace: Workspace, shard: ShardChanges, audience_id: int | None) -> int:
    """Return how many enter in a shard who are in no other audience."""
    entered = {change.profile_key for change in shard.every() if change.kind is ChangeKind.ENTERED}
    if not entered:
        return 0
    with workspace.database.read() as connection:
        return len(entered - memberships.known_profiles(connection, shard.shard, except_audience=audience_id))


def _plan(
    job: Job, audience: AudienceRow | None, *, as_of: datetime, counts: Counts, new_users: int, rejections: Rejections
) -> Plan:
    kind = RunKind.INCREMENTAL if audience and audience.completed else RunKind.INITIAL
    before = audience.members if audience else 0
    return Plan(
        audience_key=job.audience.key,
        computation=job.audience.computation,
        kind=kind,
        as_of=as_of,
        members_before=before,
        counts=counts,
        new_users=new_users,
        definition_changed=audience is not None
        and audience.definition_hash not in (None, job.audience.definition_hash),
        refusals=guard(counts, kind=kind, members_before=before, limits=job.audience.guard),
        rejections=rejections,
    )
