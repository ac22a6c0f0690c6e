"""The second half of a run: compare the spool with the memberships, and commit or stage what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sqlalchemy.engine import Connection

from audience_sync.core.guard import guard
from audience_sync.core.model import Change, ChangeKind, Counts, RunKind, RunState
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import memberships, runs
from audience_sync.store.memberships import ShardChanges
from audience_sync.store.runs import RunRow
from audience_sync.sync.finishing import CHANGES_A_COMMIT, apply_plan, supersede
from audience_sync.sync.job import Job
from audience_sync.sync.reading import Rejections, Trusted, compare, trusted
from audience_sync.sync.spool import Spool

Put: TypeAlias = Callable[[Connection, RunRow, list[ShardChanges]], None]


@dataclass
class Comparison:
    """A run whose rows are read: what it has counted so far, and how its changes become commits."""

    workspace: Workspace
    lease: HeldLease
    job: Job
    run: RunRow
    rejections: Rejections
    counts: Counts
    _rejections_stored: int = 0
    _was_cut: bool = False  # by the limit

    def commit(self, spool: Spool) -> RunRow:
        """Commit an initial run as it is compared, so that a run that dies is work done."""
        for chunk in self._chunks(spool):
            self._put(chunk, memberships.apply)
            self.workspace.seams.reach("sync.committed")
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            self._note_whole(connection)
            supersede(connection, self.run, RunState.BLOCKED, now_ms=self.workspace.seams.now_ms())
        return apply_plan(self.workspace, self.lease, self.run, check_stop=self.job.check_stop)

    def stage(self, spool: Spool) -> RunRow:
        """Stage the whole plan, let the guard look, and apply it."""
        for chunk in self._chunks(spool):
            self._put(chunk, lambda connection, run, shards: memberships.stage(connection, run.id, shards))
            self.workspace.seams.reach("sync.staged")
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            self._note_whole(connection)
            limits = self.job.audience.guard
            if self.run.partial:  # a part says nothing of the size of the whole
                limits = replace(limits, min_initial_members=0)
            refusals = guard(self.counts, kind=self.run.kind, members_before=self.run.members_before, limits=limits)
            supersede(connection, self.run, RunState.BLOCKED, now_ms=self.workspace.seams.now_ms())
            state = RunState.BLOCKED if refusals else RunState.APPLYING
            runs.set_state(connection, self.run.id, state, reason="; ".join(refusals) or self.run.reason)
            run = runs.get(connection, self.run.id)
        self.workspace.seams.reach("sync.decided")
        if refusals:
            return run
        return apply_plan(self.workspace, self.lease, run, check_stop=self.job.check_stop)

    def _note_whole(self, connection: Connection) -> None:
        """Make a run with a limit a whole one if the limit has left out no change."""
        if self.run.partial and self.job.only is None and not self._was_cut:
            self.run = runs.set_whole(connection, self.run.id)

    def _chunks(self, spool: Spool) -> Iterator[list[ShardChanges]]:
        """Compare all shards; yield those that differ from what is known, in groups of about one commit."""
        with self.workspace.database.read() as connection:
            known = trusted(connection, self.run.audience_id)
        compared = compare(
            self.workspace.database,
            self.run.audience_id if self.run.members_before else None,  # nothing to read where nobody is
            spool,
            rejections=self.rejections,
            trusted=Trusted() if self.run.kind is RunKind.RESYNC else known,
            on_missing=self.job.audience.on_missing,
            only=self.job.only,
        )
        waiting: list[ShardChanges] = []
        changes = 0
        for shard, counts in self._limited(compared):
            self.job.on_shard(shard.shard)
            self.counts += counts
            if shard.size or shard.digest != known.digests.get(shard.shard) or _has_new_reading(shard, known):
                waiting.append(shard)
                changes += shard.size
            if changes >= CHANGES_A_COMMIT:
                yield waiting
                waiting, changes = [], 0
        yield waiting

    def _put(self, shards: list[ShardChanges], put: Put) -> None:
        samples = self.rejections.samples
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            put(connection, self.run, shards)
            runs.set_counts(connection, self.run.id, self.counts)
            runs.add_rejections(connection, self.run.id, samples, first=self._rejections_stored)
        self._rejections_stored += len(samples)
        samples.clear()

    def _limited(self, compared: Iterator[tuple[ShardChanges, Counts]]) -> Iterator[tuple[ShardChanges, Counts]]:
        """Pass on the first changes, as many as the limit allows; a shard that loses some is compared again later."""
        limit = self.job.limit
        for shard, counts in compared:
            if limit is None:
                yield shard, counts
                continue
            if shard.size <= limit:
                limit -= shard.size
                yield shard, counts
            else:
                self._was_cut = True
                kept, limit = shard.every()[:limit], 0
                yield ShardChanges(shard.shard, kept, None), _cut(counts, kept)


def _has_new_reading(shard: ShardChanges, known: Trusted) -> bool:
    """Return whether the members of a shard came in another order than before."""
    return shard.reading != known.readings.get(shard.shard, b"")


def _cut(counts: Counts, kept: Sequence[Change]) -> Counts:
    """Return the counts of a shard when only some of its changes are kept."""
    kinds = Counter(change.kind for change in kept)
    return Counts(
        entered=kinds[ChangeKind.ENTERED],
        exited=kinds[ChangeKind.EXITED],
        updated=kinds[ChangeKind.UPDATED],
        unchanged=counts.unchanged,
        duplicates=counts.duplicates,
    )
