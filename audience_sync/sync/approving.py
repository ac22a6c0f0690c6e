"""A person's yes to a plan that a guard refused."""

from __future__ import annotations

from audience_sync.core.model import RunState
from audience_sync.errors import ApprovalRefused
from audience_sync.leasing import Workspace
from audience_sync.store import audiences, binding, runs
from audience_sync.store.runs import RunRow
from audience_sync.sync.finishing import apply_plan, finish_dead_runs, holding


def approve(workspace: Workspace, run_id: int) -> RunRow:
    """Apply exactly the staged plan of a blocked run; what an approval that died has left to do is finished.

    Raises:
        ApprovalRefused: the run is not blocked (any more), or a later run has changed the audience since.
        LeaseHeld: another process works on the audience now.
    """
    with workspace.database.read() as connection:
        audience = audiences.by_id(connection, runs.get(connection, run_id).audience_id)
    with holding(workspace, audience) as lease:
        finish_dead_runs(workspace, lease, audience)
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            run = runs.get(connection, run_id)
            if run.approved_at is not None:
                return run  # its plan is applied; what may be left is to deliver it
            if run.state is not RunState.BLOCKED:
                raise ApprovalRefused(
                    f"run {run_id} is {run.state}, not blocked" + (f": {run.reason}" if run.reason else ""),
                    hint="`audience-sync runs` shows which run is blocked now",
                )
            if (later := runs.applied_after(connection, run)) is not None:
                raise ApprovalRefused(f"run {later} has changed the audience since run {run_id} was planned")
            if audience.state == "retired":
                raise ApprovalRefused(f"audience {audience.key!r} is retired")
            now = workspace.seams.now_ms()
            runs.approve(connection, run_id, generation=binding.next_generation(connection, now), now_ms=now)
            run = runs.get(connection, run_id)
        workspace.seams.reach("approve.decided")
        return apply_plan(workspace, lease, run)
