"""What a sync would do now: read and compared like a run, and nothing stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from audience_sync.core.guard import guard
from audience_sync.core.model import Computation, Counts, RunKind, RunState
from audience_sync.leasing import Workspace
from audience_sync.store import audiences, binding, memberships, runs
from audience_sync.store.memberships import ShardChanges
from audience_sync.sync.job import Job
from audience_sync.sync.reading import Rejections, Trusted, compare, open_spool, read, trusted

LOOKED_UP = 10_000  # profiles that enter; of more, those of one shard in sixteen are looked up in other audiences
ONE_SHARD_OF = 16


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
    blocked_run: int | None  # a run whose plan waits for an approval
    rejections: Rejections


class _NewUsers:
    """Counts who enters and is in no other audience; of many, those of a part of all shards stand for the rest."""

    def __init__(self, workspace: Workspace, audience_id: int | None) -> None:
        self._workspace = workspace
        self._audience_id = audience_id
        self._entered = self._looked_up = self._new = 0

    def add(self, shard: ShardChanges) -> None:
        """Count those of one shard."""
        entered = shard.entered()
        self._entered += len(entered)
        if entered and (self._looked_up < LOOKED_UP or shard.shard % ONE_SHARD_OF == 0):
            with self._workspace.database.read() as connection:
                known = memberships.known_profiles(connection, shard.shard, entered, except_audience=self._audience_id)
            self._looked_up += len(entered)
            self._new += len(entered) - len(known)

    def count(self) -> int:
        """Return how many there are, or about how many."""
        return round(self._entered * self._new / self._looked_up) if self._looked_up else 0


def plan(workspace: Workspace, job: Job, *, on_found: Callable[[ShardChanges], None]) -> Plan:
    """Compare a definition with the memberships; the changes of every shard are shown to `on_found`, in their order.

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
        waiting = runs.in_state(connection, audience.id, RunState.BLOCKED) if audience else []
    as_of = job.as_of or workspace.seams.clock().astimezone(UTC)
    rejections = Rejections()
    with open_spool(job.audience) as spool:
        rows = read(job.settings, job.audience, as_of=as_of, spool=spool, rejections=rejections, on_page=job.on_page)
        counts = Counts(read=rows, rejected=rejections.rows)
        audience_id = audience.id if audience else None
        new_users = _NewUsers(workspace, audience_id)
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
            new_users.add(shard)
            on_found(shard)
    kind = RunKind.INCREMENTAL if audience and audience.completed else RunKind.INITIAL
    before = audience.members if audience else 0
    return Plan(
        audience_key=job.audience.key,
        computation=job.audience.computation,
        kind=kind,
        as_of=as_of,
        members_before=before,
        counts=counts,
        new_users=new_users.count(),
        definition_changed=audience is not None
        and audience.definition_hash not in (None, job.audience.definition_hash),
        refusals=guard(counts, kind=kind, members_before=before, limits=job.audience.guard),
        blocked_run=waiting[-1].id if waiting else None,
        rejections=rejections,
    )
