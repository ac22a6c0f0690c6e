"""The end of a run: its plan becomes memberships, it fails, or a newer one supersedes it.

Whoever holds the audience's lease does it: the run itself, an approval, or a process that takes over (`takeover`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from audience_sync.core.model import Change, ChangeKind, Counts, RunKind, RunState
from audience_sync.store import memberships, outbox, runs, subscriptions
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import HeldLease, Workspace


def _go_on() -> None:
    """Never stop."""


def fail(workspace: Workspace, run_id: int, *, reason: str) -> None:
    """Mark a run as failed and drop its staged plan; a run that passed the guard stays to be finished."""
    with workspace.database.write() as connection:
        run = runs.get(connection, run_id)
        if run.state is RunState.RUNNING:
            memberships.unstage(connection, run)
            runs.finish(connection, run_id, RunState.FAILED, now_ms=workspace.clock.now_ms(), reason=reason)


def supersede(connection: Connection, newer: RunRow, state: RunState, *, now_ms: int) -> None:
    """Close blocked or held runs that a newer run of the audience replaces, and drop their plans."""
    for older in runs.in_state(connection, newer.audience_id, state):
        memberships.unstage(connection, older)
        reason = f"{older.reason}; superseded by run {newer.id}"
        runs.finish(connection, older.id, RunState.SUPERSEDED, now_ms=now_ms, reason=reason)


def apply_plan(
    workspace: Workspace, lease: HeldLease, run: RunRow, *, check_stop: Callable[[], None] = _go_on
) -> RunRow:
    """Move the rest of a run's plan into the memberships, commit by commit, and finish the run.

    If `check_stop` raises between two commits, the next caller finishes the rest.
    """
    clock = workspace.clock
    while True:
        check_stop()
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            upto = memberships.next_staged(connection, run.id, at_most=workspace.tuning.changes_per_commit)
            if upto is None:
                break
            memberships.apply_staged(connection, run, upto=upto)
        workspace.reach("apply.committed")
    after: str | None = _resend(workspace, lease, run) if run.kind is RunKind.RESYNC else None
    with workspace.database.write() as connection:
        lease.assert_held(connection)
        if after is not None:
            _resend_page(connection, run, after)
        if run.partial:
            runs.finish(connection, run.id, RunState.SUCCEEDED, now_ms=clock.now_ms())
        else:
            memberships.trust_digest(connection, run)
            runs.complete(connection, run, now_ms=clock.now_ms())
        return runs.get(connection, run.id)


def queue_members(workspace: Workspace, lease: HeldLease, audience_id: int) -> None:
    """Queue the members of an audience for subscriptions that begin with them, commit by commit."""
    now_ms, at_most = workspace.clock.now_ms(), workspace.tuning.changes_per_commit
    while True:
        with workspace.database.read() as connection:
            if not subscriptions.any_begun(connection, audience_id):
                return
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            subscriptions.queue_members(connection, audience_id, now_ms=now_ms, at_most=at_most)
        workspace.reach("subscription.committed")


def take_out_members(workspace: Workspace, lease: HeldLease, run: RunRow) -> RunRow:
    """Remove the remaining members of a retracted audience, commit by commit, and finish the run."""
    while True:
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            members = memberships.first(connection, run.audience_id, at_most=workspace.tuning.changes_per_commit)
            if not members:
                runs.finish(connection, run.id, RunState.SUCCEEDED, now_ms=workspace.clock.now_ms())
                return runs.get(connection, run.id)
            memberships.apply(connection, run, [Change(ChangeKind.EXITED, *member) for member in members])
            exited = runs.get(connection, run.id).counts.exited + len(members)
            runs.set_counts(connection, run.id, Counts(exited=exited))
        workspace.reach("retract.committed")


def _resend(workspace: Workspace, lease: HeldLease, run: RunRow) -> str:
    """Put every current value and every known exit into the outbox, except those of the last page.

    Return the profile before that page, which is committed with the end of the run, so that nothing is sent twice.
    A run goes on where a dead process stopped.
    """
    after, at_most = run.resent_to or "", workspace.tuning.changes_per_commit
    while True:
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            upto = memberships.page_end(connection, run.audience_id, after=after, at_most=at_most)
            if upto is None:
                return after
            _resend_page(connection, run, after, upto)
        after = upto
        workspace.reach("resync.committed")


def _resend_page(connection: Connection, run: RunRow, after: str, upto: str | None = None) -> None:
    resent = outbox.resend(connection, run, after=after, upto=upto)
    runs.set_resent(connection, run.id, upto=upto, resent=resent)
