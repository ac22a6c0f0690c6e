"""Entries that only the memberships have: those of a first sync, until the member changes or leaves.

A first sync would write everybody twice. Readers of history include these entries: through the view `all_changes`, or
by the condition here where that view would be read whole.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import ChangeKind
from audience_sync.store import settings_table
from audience_sync.store.runs import RunRow

HISTORY_FROM: Final = "history_from"
"""The setting that says from when on history is whole, in milliseconds since 1970; `erasure.purge` moves it."""

UNWRITTEN: Final = (
    "m.entered_run_id = r.id AND m.run_id = r.id AND r.kind = 'initial' AND r.as_of >= :history_from"
    " AND NOT EXISTS (SELECT 1 FROM changes w WHERE w.run_id = r.id AND w.profile_key = m.profile_key)"
)
"""The condition of members `m` whose entry, with the run `r`, no other table has; `history_from` is a parameter."""

_WRITE: Final = sa.text(  # CROSS JOIN: SQLite goes from each change to its member
    "INSERT INTO changes (run_id, profile_key, kind, identifiers, value)"
    f" SELECT m.entered_run_id, m.profile_key, '{ChangeKind.ENTERED}', m.identifiers, m.value"
    " FROM staged s CROSS JOIN memberships m CROSS JOIN runs r"
    f" WHERE s.run_id = :r AND s.profile_key <= :upto AND s.kind <> '{ChangeKind.ENTERED}'"
    f" AND m.audience_id = :a AND m.profile_key = s.profile_key AND {UNWRITTEN}"
)


def history_from(connection: Connection) -> int:
    """Return since when history is whole."""
    return int(settings_table.get(connection, HISTORY_FROM) or 0)


def write(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Write down the entries of members who change or leave with what a run has staged up to a profile."""
    connection.execute(
        _WRITE, {"r": run.id, "a": run.audience_id, "upto": upto, "history_from": history_from(connection)}
    )
