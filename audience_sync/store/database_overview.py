"""What is known of the whole database, and of one person in every table."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import shard_of
from audience_sync.core.model import ChangeKind
from audience_sync.destinations.backoff import tries_until_stuck
from audience_sync.store import batches, outages, runs
from audience_sync.store.initial_entries import UNWRITTEN, history_from
from audience_sync.store.reports import Record, iso


class AudienceFacts(NamedTuple):
    """What the runs and the outbox say of one audience."""

    last_run: Record | None = None
    last_success: str | None = None  # when
    open: int = 0
    dead: int = 0


def facts(connection: Connection) -> dict[int, AudienceFacts]:
    """Return what is known of each audience, by its id."""
    succeeded: dict[int, int] = dict(
        connection.execute(
            sa.text("SELECT audience_id, max(finished_at) FROM runs WHERE state = 'succeeded' GROUP BY audience_id")
        ).all()
    )
    newest = connection.execute(
        sa.text(
            "SELECT audience_id, id, kind, state, started_at FROM runs"
            f" WHERE id IN (SELECT max(id) FROM runs WHERE {runs.NOT_STOPPED} GROUP BY audience_id)"
        ),
        runs.STOPPED,
    )
    last = {
        audience: {"id": run, "kind": kind, "state": state, "started_at": iso(started)}
        for audience, run, kind, state, started in newest
    }
    waiting = connection.execute(
        sa.text(
            "SELECT audience_id, dead_reason IS NOT NULL, count(*) FROM outbox GROUP BY 1, 2"
            " UNION ALL SELECT audience_id, 0 = 1, count(*) FROM open_values GROUP BY 1"
        )
    )
    counts: Counter[tuple[int, bool]] = Counter()
    for audience, is_dead, n in waiting:
        counts[audience, bool(is_dead)] += n
    return {
        audience: AudienceFacts(
            last.get(audience),
            iso(succeeded.get(audience)),
            counts[audience, False],
            counts[audience, True],
        )
        for (audience,) in connection.execute(sa.text("SELECT id FROM audiences"))
    }


def oldest_open(connection: Connection) -> str | None:
    """Return when the run started whose value has waited longest to be accepted; dead and paused rows do not count."""
    oldest: int | None = connection.execute(
        sa.text(
            "SELECT min(r.started_at) FROM runs r WHERE r.id IN (SELECT o.run_id FROM outbox o"
            " JOIN audiences a ON a.id = o.audience_id WHERE o.dead_reason IS NULL AND a.state <> 'paused'"
            " UNION ALL SELECT run_id FROM open_values)"
        )
    ).scalar()
    return iso(oldest)


def waiting_batches(connection: Connection, *, max_backoff: timedelta) -> list[Record]:
    """Return the batches that wait for another try; a lone event that waits as long as any may is stuck."""
    rows = connection.execute(
        sa.text(
            "SELECT id, forwarded, size, tries, created_at, not_before, error FROM batches"
            " WHERE status = 'open' AND tries > 0 ORDER BY id"
        )
    )
    earliest, stuck_tries = outages.next_try(connection), tries_until_stuck(max_backoff)
    return [
        {
            "id": batch,
            "of": "events" if forwarded else "changes",
            "events": size,
            "tries": tries,
            "since": iso(created),
            "next_try_at": iso(max(not_before, earliest) or None),
            "error": error,
            "stuck": size == 1 and tries >= stuck_tries,
        }
        for batch, forwarded, size, tries, created, not_before, error in rows
    ]


def destination(connection: Connection, *, now_ms: int) -> Record:
    """Return whether Schematic accepts events, and if not, since when, what it last answered and the next try.

    A time that has passed is none: whoever was to try then has been killed.
    """
    outage = outages.find(connection)
    if outage is None:
        return {"state": "reachable", "since": None, "last_answer": None, "next_try_at": None}
    return {
        "state": outage.kind.value,
        "since": iso(outage.since),
        "last_answer": outage.answer,
        "next_try_at": iso(outage.next_try_at if (outage.next_try_at or 0) > now_ms else None),
    }


def blocked_runs(connection: Connection) -> list[Record]:
    """Return the runs that wait for an approval."""
    rows = connection.execute(
        sa.text(
            "SELECT r.id, a.key AS audience, r.reason, r.started_at FROM runs r"
            " JOIN audiences a ON a.id = r.audience_id WHERE r.state = 'blocked' ORDER BY r.id"
        )
    ).mappings()
    return [{**row, "started_at": iso(row["started_at"])} for row in rows]


def failed_runs(connection: Connection) -> list[Record]:
    """Return the newest run of each audience whose newest run has failed; a run that is under way does not count."""
    rows = connection.execute(
        sa.text(
            "SELECT r.id, a.key AS audience, r.reason, r.started_at FROM runs r"
            " JOIN audiences a ON a.id = r.audience_id WHERE r.state = 'failed' AND r.id IN"
            f" (SELECT max(id) FROM runs WHERE state NOT IN ('running', 'applying') AND {runs.NOT_STOPPED}"
            " GROUP BY audience_id) ORDER BY r.id"
        ),
        runs.STOPPED,
    ).mappings()
    return [{**row, "started_at": iso(row["started_at"])} for row in rows]


def profile_audiences(connection: Connection, profile_key: str) -> list[Record]:
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


def profile_deliveries(connection: Connection, profile_key: str, *, at_most: int | None) -> list[Record]:
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


def profile_changes(connection: Connection, profile_key: str, *, at_most: int | None) -> list[Record]:
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
