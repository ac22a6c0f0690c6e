"""The second half of a run: compare what the definition says with the members, and commit or stage what differs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from audience_sync.core.guard import guard
from audience_sync.core.model import Change, ChangeKind, Counts, RunKind, RunState
from audience_sync.store import memberships, runs
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import HeldLease, Workspace
from audience_sync.sync.comparing import Difference, compare, compare_one
from audience_sync.sync.finishing import CHANGES_A_COMMIT, apply_plan, supersede
from audience_sync.sync.job import Job
from audience_sync.sync.reading import Found, Rejections

T = TypeVar("T")
Put: TypeAlias = Callable[[Connection, RunRow, Sequence[T]], None]


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

    def commit(self, found: Found) -> RunRow:
        """Commit an initial run in parts, so that a run that dies is work done."""
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

    def stage(self, found: Found) -> RunRow:
        """Stage the whole plan, let the guard look, and apply it."""
        difference = self._compare(found)
        self._put_all(difference.changes, difference, memberships.stage, kinds=_kinds, reached="sync.staged")
        with self.workspace.database.write() as connection:
            self.lease.assert_held(connection)
            self._close(connection, found, difference)
            limits = self.job.audience.guard
            if self.run.partial:  # a part says nothing of the size of the whole
                limits = replace(limits, min_initial_members=0)
            refusals = guard(self.counts, kind=self.run.kind, members_before=self.run.members_before, limits=limits)
            state = RunState.BLOCKED if refusals else RunState.APPLYING
            runs.set_state(connection, self.run.id, state, reason="; ".join(refusals) or self.run.reason)
            run = runs.get(connection, self.run.id)
        self.workspace.seams.reach("sync.decided")
        if refusals:
            return run
        return apply_plan(self.workspace, self.lease, run, check_stop=self.job.check_stop)

    def _compare(self, found: Found) -> Difference:
        database, audience_id = self.workspace.database, self.run.audience_id
        if self.job.only is not None:
            return compare_one(database, audience_id, found, self.job.only, on_missing=self.job.audience.on_missing)
        return compare(
            database,
            audience_id if self.run.members_before else None,  # nothing to read where nobody is
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
        """Put changes into the database, a commit of them at a time; with a limit, no more than that."""
        done: Counter[ChangeKind] = Counter()
        for some in _chunks(pages, limit=self.job.limit):
            done.update(kinds(some))
            self.job.on_changes(done.total())
            with self.workspace.database.write() as connection:
                self.lease.assert_held(connection)
                self._keep_wrapping(connection, difference)
                put(connection, self.run, some)
                self._note(connection, replace(self.counts, **{kind.value: done[kind] for kind in ChangeKind}))
            self.workspace.seams.reach(reached)
        self.counts = replace(self.counts + difference.counts, **{kind.value: done[kind] for kind in ChangeKind})

    def _keep_wrapping(self, connection: Connection, difference: Difference) -> None:
        """Have the run know, before its first change, what bare identifiers of its rows stand for."""
        template = None if difference.wrapping is None else difference.wrapping.template
        if self.run.identifiers != template:
            self.run = runs.set_identifiers(connection, self.run.id, template)

    def _note(self, connection: Connection, counts: Counts) -> None:
        """Keep what was counted, and samples of rejected rows."""
        samples = self.rejections.samples
        runs.set_counts(connection, self.run.id, counts)
        runs.add_rejections(connection, self.run.id, samples, first=self._rejections_stored)
        self._rejections_stored += len(samples)
        samples.clear()

    def _keep_digest(self, connection: Connection, found: Found, difference: Difference) -> None:
        """Keep what the members come to, and what the source said of the rows if each of them is one as it stands.

        Where the source was not asked, what it said of the same members before still holds.
        """
        said = None if self.rejections.counts else found.sums
        if difference.digest is not None:
            memberships.keep_digest(connection, self.run, difference.digest, source_sums=said)
        elif found.sums is not None and not found.is_known:
            memberships.keep_source_sums(connection, self.run.audience_id, said)

    def _close(self, connection: Connection, found: Found, difference: Difference) -> None:
        """Keep what was found; the plans that waited are superseded by it."""
        self._note(connection, self.counts)
        is_cut = self.counts.changed < difference.counts.changed
        if self.run.partial and self.job.only is None and not is_cut:  # the limit has left out no change
            self.run = runs.set_whole(connection, self.run.id)
        if not self.run.partial:
            self._keep_digest(connection, found, difference)
        supersede(connection, self.run, RunState.BLOCKED, now_ms=self.workspace.seams.now_ms())


def _chunks(pages: Iterable[Sequence[T]], *, limit: int | None) -> Iterator[list[T]]:
    """Yield what is in pages in chunks of a commit each, at most `limit` in all."""
    left = sys.maxsize if limit is None else limit
    waiting: list[T] = []
    for page in pages:
        waiting += page[:left]
        left -= min(left, len(page))
        while len(waiting) >= CHANGES_A_COMMIT:
            yield waiting[:CHANGES_A_COMMIT]
            del waiting[:CHANGES_A_COMMIT]
        if not left:
            break
    if waiting:
        yield waiting


def _kinds(changes: Sequence[Change]) -> Counter[ChangeKind]:
    return Counter(change.kind for change in changes)


def _all_enter(lines: Sequence[str]) -> Counter[ChangeKind]:
    return Counter({ChangeKind.ENTERED: len(lines)})
