"""Retract an audience or computed trait: false or null for everybody, and its key is retired for ever."""

from __future__ import annotations

from audience_sync.core.model import RunKind, RunState
from audience_sync.store import audiences, generations, runs
from audience_sync.store.runs import NewRun, RunRow
from audience_sync.store.workspace import HeldLease, Workspace
from audience_sync.sync.completion import supersede, take_out_members
from audience_sync.sync.takeover import finish_dead_runs, holding


def retract(workspace: Workspace, key: str) -> RunRow:
    """Retire an audience's key and take every member out, from the database alone: each is sent false, or null.

    A retraction that died is finished by whoever comes next, here or in the daemon.

    Raises:
        UnknownName: no audience of this key was ever synced.
        LeaseHeld: another process works on the audience now.
    """
    with workspace.database.read() as connection:
        audience = audiences.by_key(connection, key)
    with holding(workspace, audience) as lease:
        finish_dead_runs(workspace, lease, audience)
        run = _start(workspace, lease, audience.id)
        workspace.reach("retract.decided")
        return take_out_members(workspace, lease, run)


def _start(workspace: Workspace, lease: HeldLease, audience_id: int) -> RunRow:
    """Start a retraction: the key is retired before the first exit is sent."""
    with workspace.database.write() as connection:
        lease.assert_held(connection)
        audience = audiences.by_id(connection, audience_id)
        now = workspace.clock.now_ms()
        run = runs.start(
            connection,
            NewRun(
                audience_id=audience_id,
                kind=RunKind.RETRACT,
                state=RunState.APPLYING,
                as_of=max(now, audience.applied_as_of or 0),
                started_at=now,
                generation=generations.next_generation(connection, now),
                definition_hash=audience.definition_hash or "",
                definition_changed=False,
                members_before=audience.members,
            ),
        )
        for state in (RunState.BLOCKED, RunState.HELD):
            supersede(connection, run, state, now_ms=now)
        audiences.set_state(connection, audience_id, "retired")
        runs.release(connection, audience_id, now_ms=now)
        return run
