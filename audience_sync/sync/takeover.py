"""Hold an audience's lease, and take over what a dead process left.

`store.holders` says who has died; deliveries claim the batches of the dead themselves. A run that died while reading is
failed: it changed nothing, or, an initial one, what it committed is found by the next. A run that died while applying
is finished from its staged plan, without reading or asking again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from audience_sync.core.model import RunKind, RunState
from audience_sync.errors import LeaseHeld
from audience_sync.store import runs
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.workspace import HeldLease, Workspace
from audience_sync.sync.completion import apply_plan, fail, queue_members, take_out_members


@contextmanager
def holding(workspace: Workspace, audience: AudienceRow) -> Iterator[HeldLease]:
    """Hold the lease of an audience.

    Raises:
        LeaseHeld: somebody else works on it now.
    """
    lease = workspace.hold([audience.id], seconds=workspace.tuning.lease_seconds)
    if lease is None:
        raise LeaseHeld(
            f"another process is working on audience {audience.key!r}", hint="`audience-sync status` shows the process"
        )
    with lease:
        yield lease


def recover(workspace: Workspace, audience: AudienceRow) -> None:
    """Finish what a dead process left of an audience's runs; nothing if it lives and works on it."""
    lease = workspace.hold([audience.id], seconds=workspace.tuning.lease_seconds)
    if lease is not None:
        with lease:
            finish_dead_runs(workspace, lease, audience)


def finish_dead_runs(workspace: Workspace, lease: HeldLease, audience: AudienceRow) -> None:
    """Fail an audience's runs that died while reading, and finish those that died while applying.

    First, a subscription that one of them has begun gets its members.
    """
    queue_members(workspace, lease, audience.id)
    with workspace.database.read() as connection:
        running = runs.in_state(connection, audience.id, RunState.RUNNING)
        applying = runs.in_state(connection, audience.id, RunState.APPLYING)
    for run in running:
        fail(workspace, run.id, reason="the process died")
    for run in applying:
        if run.kind is RunKind.RETRACT:
            take_out_members(workspace, lease, run)
        else:
            apply_plan(workspace, lease, run)
