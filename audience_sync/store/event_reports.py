"""Reports on forwarded events: pending and dead events, and the number of events that sent nothing, by reason.

The fields are those of the views `open_events` and `unsent_events`. Lists are read page by page, as in `reports`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.store import events, outages, reports, settings_table
from audience_sync.store.database import Database
from audience_sync.store.reports import Record, iso
from audience_sync.store.schema import PRIMARY_DESTINATION

EVENT_COLUMNS = (
    "profile_key", "message_id", "type", "name", "state", "since", "tries", "next_try_at", "reason", "position",
    "payload",
)  # fmt: skip
UNSENT_COLUMNS = ("day", "reason", "type", "count", "last_message_id", "last_at")
REASON_COLUMNS = UNSENT_COLUMNS[1:]


class EventState(StrEnum):
    """How a forwarded event stands that Schematic has not accepted yet."""

    WAITING = "waiting"
    RETRYING = "retrying"
    DEAD = "dead"


_CONDITIONS: Final = {  # on rows of `events`, and on events in open batches
    EventState.WAITING: ("dead_reason IS NULL", "tries = 0"),
    EventState.RETRYING: ("0 = 1", "tries > 0"),
    EventState.DEAD: ("dead_reason IS NOT NULL", "0 = 1"),
}


def open_events(
    database: Database,
    *,
    profile_key: str | None = None,
    state: EventState | None = None,
    destination: str = PRIMARY_DESTINATION,
) -> Iterator[Record]:
    """Yield the events that wait or are dead, of one profile and in one state if asked for, in the order of each.

    They are forwarded events, or the messages for another destination.
    """
    of = _Selection(profile_key, state, destination)

    def page(connection: Connection, last: Record | None) -> list[Record]:
        return _page(connection, of, last=last, limit=database.tuning.rows_per_page)

    return reports.pages(database, page)


def of_profile(connection: Connection, profile_key: str, *, at_most: int | None) -> list[Record]:
    """Return the events of a profile that wait or are dead, those that came first before the others."""
    return _page(connection, _Selection(profile_key), last=None, limit=at_most)


def unsent(database: Database, *, since_ms: int | None = None, until_ms: int | None = None) -> list[Record]:
    """Return why events sent nothing, day by day, newest first: from the day of `since_ms` to before `until_ms`."""
    with database.read() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT day, reason, type, count, last_message_id, last_at FROM event_counts"
                f"{_within(since_ms, until_ms)} ORDER BY day DESC, count DESC, reason, type"
            ),
            _days(since_ms, until_ms),
        ).mappings()
        return [{**row, "day": _date(row["day"]), "last_at": iso(row["last_at"])} for row in rows]


def reasons(database: Database, *, since_ms: int | None = None, until_ms: int | None = None) -> list[Record]:
    """Return why events sent nothing, all days of `unsent` together, the most frequent first."""
    with database.read() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT c.reason, c.type, c.count, l.last_message_id, l.last_at"
                " FROM (SELECT reason, type, CAST(sum(count) AS BIGINT) AS count, max(day) AS day"
                f" FROM event_counts{_within(since_ms, until_ms)} GROUP BY reason, type) c"
                " JOIN event_counts l ON l.day = c.day AND l.reason = c.reason AND l.type = c.type"
                " ORDER BY c.count DESC, c.reason, c.type"
            ),
            _days(since_ms, until_ms),
        ).mappings()
        return [{**row, "last_at": iso(row["last_at"])} for row in rows]


def summary(connection: Connection) -> Record:
    """Return how many events wait and since when, how many are dead, and how many sent nothing, by reason."""
    rows = connection.execute(
        sa.text(
            "SELECT is_dead, CAST(sum(n) AS BIGINT), min(oldest) FROM ("
            " SELECT dead_reason IS NOT NULL AS is_dead, count(*) AS n, min(received_at) AS oldest FROM events"
            " WHERE destination = :d"
            " GROUP BY 1 UNION ALL SELECT 0 = 1, count(*), min(received_at) FROM batched_events WHERE destination = :d"
            ") o GROUP BY 1"
        ),
        {"d": PRIMARY_DESTINATION},
    )
    counts = {bool(dead): (n, oldest) for dead, n, oldest in rows}
    waiting, oldest = counts.get(False, (0, None))
    sums = connection.execute(
        sa.text("SELECT reason, sum(count) AS total FROM event_counts GROUP BY reason ORDER BY total DESC, reason")
    )
    by_reason = {reason: int(n) for reason, n in sums}
    return {
        "open": waiting,
        "dead": counts.get(True, (0, None))[0],
        "oldest": iso(oldest),
        "unsent": sum(by_reason.values()),
        "reasons": by_reason,
    }


def any_ever(connection: Connection) -> bool:
    """Return whether an event was ever taken."""
    return int(settings_table.get(connection, events.POSITION) or 0) > 0


class _Selection(NamedTuple):
    """Which events a list has."""

    profile_key: str | None = None
    state: EventState | None = None
    destination: str = PRIMARY_DESTINATION


def _page(connection: Connection, of: _Selection, *, last: Record | None, limit: int | None) -> list[Record]:
    """Return the next events along the primary key; with a state, every row that may be in it."""
    key = last["profile_key"] if last else of.profile_key
    if of.profile_key is not None:
        conditions = ["destination = :d", "profile_key = :key", *reports.only({"position > :position": last})]
    else:
        conditions = ["destination = :d", *reports.only({"(profile_key, position) > (:key, :position)": last})]
    columns = "profile_key, message_id, type, name, received_at, position, payload"
    waiting, in_batches = ([], []) if of.state is None else ([one] for one in _CONDITIONS[of.state])
    halves = [
        (
            f"SELECT {columns}, dead_reason, 0 AS tries, CAST(NULL AS BIGINT) AS not_before,"
            f" CAST(NULL AS TEXT) AS error FROM events{reports.where(conditions, waiting)}"
        ),
        (
            f"SELECT {columns}, NULL, tries, not_before, error FROM batched_events"
            f"{reports.where(conditions, in_batches)}"
        ),
    ]
    rows = connection.execute(
        sa.text(f"{' UNION ALL '.join(halves)} ORDER BY profile_key, position{'' if limit is None else ' LIMIT :n'}"),
        {"d": of.destination, "key": key, "position": last and last["position"], "n": limit},
    )
    earliest = outages.next_try(connection, destination=of.destination)
    return [_record(row, earliest) for row in rows]


def _record(row: sa.Row[tuple[object, ...]], earliest: int) -> Record:
    state = EventState.RETRYING if row.tries else EventState.WAITING
    return {
        "profile_key": row.profile_key,
        "message_id": row.message_id,
        "type": row.type,
        "name": row.name,
        "state": (EventState.DEAD if row.dead_reason is not None else state).value,
        "since": iso(row.received_at),
        "tries": row.tries,
        "next_try_at": iso(max(row.not_before or 0, earliest) or None) if row.tries else None,
        "reason": row.dead_reason or row.error,
        "position": row.position,
        "payload": row.payload,
    }


def _within(since_ms: int | None, until_ms: int | None) -> str:
    return reports.where(reports.only({"day >= :first": since_ms, "day < :end": until_ms}))


def _days(since_ms: int | None, until_ms: int | None) -> dict[str, int]:
    """Return the first day, and the day after the last one that begins before `until_ms`."""
    first = {} if since_ms is None else {"first": since_ms // events.DAY_MS}
    return first if until_ms is None else {**first, "end": -(-until_ms // events.DAY_MS)}


def _date(day: int) -> str:
    return str(iso(day * events.DAY_MS))[:10]
