"""Approve the plan of a blocked run."""

from __future__ import annotations

from typing import assert_never

from sqlalchemy.engine import Connection

from audience_sync.core.model import RunState
from audience_sync.core.text import instant_text
from audience_sync.errors import ApprovalRefused
from audience_sync.store import audiences, generations, runs
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.reports import iso
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync.completion import apply_plan
from audience_sync.sync.takeover import finish_dead_runs, holding


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
                    f"run {run_id} cannot be approved: {_why_not(run)}", hint=_blocked_now(connection, audience)
                )
            if (later := runs.applied_after(connection, run)) is not None:
                raise ApprovalRefused(
                    f"run {run_id} cannot be approved: run {later} has changed {audience.key} since",
                    hint=f"`audience-sync sync {audience.key}` makes a new plan",
                )
            if audience.state == "retired":
                raise ApprovalRefused(f"audience {audience.key!r} is retired")
            now = workspace.clock.now_ms()
            runs.approve(connection, run_id, generation=generations.next_generation(connection, now), now_ms=now)
            run = runs.get(connection, run_id)
        workspace.reach("approve.decided")
        return apply_plan(workspace, lease, run)


def newest_blocked(connection: Connection, audience: AudienceRow) -> RunRow:
    """Return the blocked run of an audience: a newer one always replaces an older one.

    Raises:
        ApprovalRefused: no run of the audience is blocked.
    """
    if (blocked := _blocked(connection, audience)) is None:
        raise ApprovalRefused(
            f"no run of {audience.key} is blocked{_last_approval(connection, audience)}",
            hint=f"`audience-sync runs {audience.key}` lists its runs",
        )
    return blocked


def _last_approval(connection: Connection, audience: AudienceRow) -> str:
    """Return when a run of an audience was approved last, behind a colon."""
    if (run := runs.newest_approved(connection, audience.id)) is None:
        return ""
    return f": run {run.id} was approved at {instant_text(iso(run.approved_at))}"


def _blocked(connection: Connection, audience: AudienceRow) -> RunRow | None:
    return next(reversed(runs.in_state(connection, audience.id, RunState.BLOCKED)), None)


def _why_not(run: RunRow) -> str:
    """Return why a run that is not blocked cannot be approved."""
    match run.state:
        case RunState.SUCCEEDED:
            return "no guard stopped it, and its changes are applied"
        case RunState.SUPERSEDED:  # the reason ends with the run that replaced it
            return "it was " + (run.reason or "superseded by a newer run").rpartition("; ")[2]
        case RunState.HELD | RunState.FAILED:
            return f"it {'is held' if run.state is RunState.HELD else 'failed'}: {run.reason}"
        case RunState.RUNNING | RunState.APPLYING | RunState.BLOCKED:
            return f"it is {run.state}"
        case _:
            assert_never(run.state)


def _blocked_now(connection: Connection, audience: AudienceRow) -> str:
    """Return which run of an audience can be approved instead."""
    if (blocked := _blocked(connection, audience)) is None:
        return f"no run of {audience.key} is blocked now"
    number = blocked.id
    return f"run {number} is blocked now: `audience-sync plan {audience.key}`, then `audience-sync approve {number}`"
