"""Approve the plan of a blocked run, for `audience-sync approve RUN` or `approve AUDIENCE` (its newest blocked run).

Approval is refused if the run is not blocked, a later run has changed the audience, or the audience is retired. The
approved run gets a new generation and becomes `applying`. `completion` then applies the stored plan without reading the
source again, and the command (`cli.sync_commands`) delivers the changes. Audiences that it held become due.
"""

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
    """Apply exactly the staged plan of a blocked run, or finish an approval that died.

    Raises:
        ApprovalRefused: the run is not blocked, or a later run has changed the audience.
        LeaseHeld: another process is working on the audience.
    """
    with workspace.database.read() as connection:
        audience = audiences.by_id(connection, runs.get(connection, run_id).audience_id)
    with holding(workspace, audience) as lease:
        finish_dead_runs(workspace, lease, audience)
        with workspace.database.write() as connection:
            lease.assert_held(connection)
            run = runs.get(connection, run_id)
            if run.approved_at is not None:
                return run  # its plan is applied; only the delivery may be left
            if run.state is not RunState.BLOCKED:
                raise ApprovalRefused(
                    f"run {run_id} cannot be approved: {_why_not(run)}", hint=_blocked_now(connection, audience)
                )
            if (later := runs.applied_after(connection, run)) is not None:
                raise ApprovalRefused(
                    f"run {run_id} cannot be approved: run {later} has since changed {audience.key}",
                    hint=f"make a new plan with `audience-sync sync {audience.key}`",
                )
            if audience.state == "retired":
                raise ApprovalRefused(f"audience {audience.key!r} is retired")
            now = workspace.clock.now_ms()
            runs.approve(connection, run_id, generation=generations.next_generation(connection, now), now_ms=now)
            run = runs.get(connection, run_id)
        workspace.reach("approve.decided")
        return apply_plan(workspace, lease, run)


def newest_blocked(connection: Connection, audience: AudienceRow) -> RunRow:
    """Return the blocked run of an audience; a newer one always replaces an older one.

    Raises:
        ApprovalRefused: no run of the audience is blocked.
    """
    if (blocked := _blocked(connection, audience)) is None:
        raise ApprovalRefused(
            f"no run of {audience.key} is blocked{_last_approval(connection, audience)}",
            hint=f"list its runs with `audience-sync runs {audience.key}`",
        )
    return blocked


def _last_approval(connection: Connection, audience: AudienceRow) -> str:
    """Return the time of the last approval for an audience, after a colon."""
    if (run := runs.newest_approved(connection, audience.id)) is None:
        return ""
    return f": run {run.id} was approved at {instant_text(iso(run.approved_at))}"


def _blocked(connection: Connection, audience: AudienceRow) -> RunRow | None:
    return next(reversed(runs.in_state(connection, audience.id, RunState.BLOCKED)), None)


def _why_not(run: RunRow) -> str:
    """Return why a run that is not blocked cannot be approved."""
    match run.state:
        case RunState.SUCCEEDED:
            return "it was not blocked, and its changes were applied"
        case RunState.SUPERSEDED:  # the reason ends with the run that replaced it
            return "it was " + (run.reason or "superseded by a newer run").rpartition("; ")[2]
        case RunState.HELD | RunState.FAILED:
            return f"it {'is held' if run.state is RunState.HELD else 'failed'}: {run.reason}"
        case RunState.STALE:
            return f"it was not evaluated: {run.reason}"
        case RunState.RUNNING | RunState.APPLYING | RunState.BLOCKED:
            return f"it is {run.state}"
        case _:
            assert_never(run.state)


def _blocked_now(connection: Connection, audience: AudienceRow) -> str:
    """Return the run of an audience that can be approved instead."""
    if (blocked := _blocked(connection, audience)) is None:
        return f"no run of {audience.key} is blocked now"
    number = blocked.id
    return (
        f"run {number} is blocked now; review it with `audience-sync plan {audience.key}`, then run"
        f" `audience-sync approve {number}`"
    )
