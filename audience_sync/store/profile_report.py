"""Everything about one person, table by table."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import shard_of
from audience_sync.core.model import ChangeKind
from audience_sync.store import batches, outages, runs
from audience_sync.store.memberships import UNWRITTEN, history_from
from audience_sync.store.reports import Record, iso


def audiences(connection: Connection, profile_key: str) -> list[Record]:
    """Return for every audience whether a profile is in it, since when, and what is still to be sent of it.

    Of a computed trait: whether it has a value for the profile.
    """
    rows = connection.execute(
        sa.text(
            "SELECT a.id, a.key, a.computation, a.state, r.as_of, m.entered_run_id, m.value,"
            f" {runs.identifiers_of('m.identifiers', 'w')} AS identifiers,"
            " o.value AS open_value, o.generation, o.dead_reason"
            " FROM audiences a"
            " LEFT JOIN memberships m ON m.audience_id = a.id AND m.profile_key = :k"
            " LEFT JOIN runs r ON r.id = m.entered_run_id LEFT JOIN runs w ON w.id = m.run_id"
            " LEFT JOIN outbox o ON o.profile_key = :k AND o.audience_id = a.id ORDER BY a.key"
        ),
        {"k": profile_key},
    ).mappings()
    in_batches = {
        row.audience_id: row
        for row in connection.execute(
            sa.text(
                "SELECT audience_id, value, tries, not_before, error FROM open_values WHERE profile_key = :k"
                " ORDER BY generation"
            ),
            {"k": profile_key},
        )
    }
    earliest = outages.next_try(connection)
    found = []
    for row in rows:
        value, tries, next_try, error = row["open_value"], 0, None, row["dead_reason"]
        state = "dead" if error else "paused" if row["state"] == "paused" else "waiting"
        if (sent := in_batches.get(row["id"])) is not None and value is None:  # else a newer value waits
            value, tries, error = sent.value, sent.tries, sent.error
            state = "retrying" if tries else "waiting"
            next_try = max(sent.not_before or 0, earliest) or None if tries else None
        found.append(
            {
                "audience": row["key"],
                "computation": row["computation"],
                "member": row["entered_run_id"] is not None,
                "since": iso(row["as_of"]),
                "run_id": row["entered_run_id"],
                "value": row["value"],
                "identifiers": row["identifiers"],
                "open_value": value,
                "open_state": None if value is None else state,
                "tries": tries,
                "next_try_at": iso(next_try),
                "reason": error,
            }
        )
    return found


def deliveries(connection: Connection, profile_key: str, *, at_most: int | None) -> list[Record]:
    """Return what Schematic accepted of a profile, newest first."""
    older = connection.execute(
        sa.text(
            "SELECT accepted_at, traits, run_ids, status, mapping, idempotency_key, message_id FROM deliveries"
            f" WHERE shard = :s AND profile_key = :k ORDER BY accepted_at DESC{_limit(at_most)}"
        ),
        {"s": shard_of(profile_key), "k": profile_key},
    ).mappings()
    found = [*batches.accepted_of(connection, profile_key, at_most=at_most), *(dict(row) for row in older)]
    return [{**row, "accepted_at": iso(row["accepted_at"])} for row in found[:at_most]]


def changes(connection: Connection, profile_key: str, *, at_most: int | None) -> list[Record]:
    """Return when a profile entered, exited or was updated, newest first."""
    rows = connection.execute(
        sa.text(  # CROSS JOIN: SQLite goes from each run, or audience, to its one row, along the primary key
            "SELECT r.as_of, a.key AS audience, c.kind, c.value,"
            f" {runs.identifiers_of('c.identifiers', 'r')} AS identifiers, c.run_id, a.computation"
            " FROM runs r CROSS JOIN changes c CROSS JOIN audiences a"
            " WHERE c.run_id = r.id AND c.profile_key = :k AND a.id = r.audience_id"
            f" UNION ALL SELECT r.as_of, a.key, '{ChangeKind.ENTERED}', m.value,"
            f" {runs.identifiers_of('m.identifiers', 'r')}, r.id, a.computation"
            " FROM audiences a CROSS JOIN memberships m CROSS JOIN runs r"
            f" WHERE m.audience_id = a.id AND m.profile_key = :k AND {UNWRITTEN}"
            f" ORDER BY 6 DESC{_limit(at_most)}"
        ),
        {"k": profile_key, "history_from": history_from(connection)},
    ).mappings()
    return [{**row, "as_of": iso(row["as_of"])} for row in rows]


def _limit(at_most: int | None) -> str:
    return "" if at_most is None else f" LIMIT {int(at_most)}"
