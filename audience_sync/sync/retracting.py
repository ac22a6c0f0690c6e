"""The end of an audience: every member is told false, and its key is retired for ever."""

from __future__ import annotations

from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import audiences, binding, memberships, runs
from audience_sync.store.runs import NewRun, RunRow
from audience_sync.sync.finishing import CHANGES_A_COMMIT, finish_dead_runs, holding, supersede


def retract(workspace: Workspace, key: str) -> RunRow:
    """Retire an audience's key and put a false for every member into the outbox, from the database alone.

    A retraction that died goes on where it was.

    Raises:
        UnknownName: no audience of this key was ever synced.
        LeaseHeld: another process works on the audience now.
    """
    with workspace.database.read() as connection:
        audience = audiences.by_key(connection, key)
    with holding(workspace, audience) as lease:
        finish_dead_runs(workspace, lease, audience)
        run = _run(workspace, lease, audience.id)
        workspace.seams.reach("retract.decided")
        while True:
            with workspace.database.write() as connection:
                lease.assert_held(connection)
                members = memberships.members_of(connection, audience.id, at_most=CHANGES_A_COMMIT)
                if not members:
                    runs.finish(connection, run.id, RunState.SUCCEEDED, now_ms=workspace.seams.now_ms())
                    return runs.get(connection, run.id)
                memberships.retract(connection, run, members)
                exited = runs.get(connection, run.id).counts.exited + len(members)
                runs.set_counts(connection, run.id, Counts(exited=exited))
            workspace.seams.reach("retract.committed")


def _run(workspace: Workspace, lease: HeldLease, audience_id: int) -> RunRow:
    """Return the retraction under way, or start one: the key is retired before the first false is sent."""
    with workspace.database.write() as connection:
        lease.assert_held(connection)
        audience = audiences.by_id(connection, audience_id)
        unfinished = [r for r in runs.in_state(connection, audience_id, RunState.APPLYING) if r.kind is RunKind.RETRACT]
        if unfinished:
            return unfinished[0]
        now = workspace.seams.now_ms()
        run = runs.start(
            connection,
            NewRun(
                audience_id=audience_id,
                kind=RunKind.RETRACT,
                state=RunState.APPLYING,
                as_of=max(now, audience.applied_as_of or 0),
                started_at=now,
                generation=binding.next_generation(connection, now),
                definition_hash=audience.definition_hash or "",
                definition_changed=False,
                members_before=audience.members,
            ),
        )
        supersede(connection, run, now_ms=now)
        audiences.set_state(connection, audience_id, "retired")
        return run
