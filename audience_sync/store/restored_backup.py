"""Continue with a database that is older than the data sent from it.

First, everything that the database knows of its audiences is sent to Schematic again; then ordinary syncs bring both up
to date. A user who entered after the backup and has exited since is unknown to both.

Pending forwarded events may have been sent after the backup, and Schematic counts an event twice once it has forgotten
its key. So they are not sent automatically: they become dead letters, to be retried or discarded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from audience_sync.core.model import RunKind, RunState
from audience_sync.store import audiences, backup_mark, batches, events, generations, runs, settings_table
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.runs import NewRun

REASON: Final = "the database was older than the data sent from it: all its values are sent again"
EVENT_REASON: Final = "pending in a database restored from a backup; may have been sent since"


class AcceptedBackup(NamedTuple):
    """The audiences of an accepted database that are sent again, and the number of events that became dead letters."""

    audiences: list[AudienceRow]
    events: int


def accept(connection: Connection, keys: Collection[str], *, now_ms: int) -> AcceptedBackup | None:
    """Let generations go on above the mark, and owe Schematic all that is remembered of the audiences of these keys.

    Each gets a resync that is past its reading, so whoever has its lease next sends everything again (see
    `sync.takeover`): in this process, or, if that dies, in the next. Returns None, and does nothing, if the database is
    not behind its mark.
    """
    settings_table.locked(connection, "generation")
    if not backup_mark.is_behind(connection):
        return None
    settings_table.put(connection, "generation", str(backup_mark.known_of(connection).generation + 1))
    generations.advance(connection, now_ms)
    set_aside = batches.drop_forwarded(connection, reason=EVENT_REASON)
    set_aside += events.set_waiting_dead(connection, reason=EVENT_REASON)
    owed = [row for row in audiences.every(connection) if row.key in keys and row.state != "retired"]
    for audience in owed:
        run = NewRun(
            audience_id=audience.id,
            kind=RunKind.RESYNC,
            state=RunState.APPLYING,
            as_of=now_ms if audience.applied_as_of is None else audience.applied_as_of,
            started_at=now_ms,
            generation=generations.next_generation(connection, now_ms),
            definition_hash=audience.definition_hash or "",
            definition_changed=False,
            members_before=audience.members,
            partial=True,  # it says nothing of the source
            reason=REASON,
        )
        runs.start(connection, run)
    return AcceptedBackup(owed, set_aside)
