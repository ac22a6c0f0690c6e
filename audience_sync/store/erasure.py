"""Delete data: erase users, and purge history past its retention."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.config import RetentionTable
from audience_sync.core.keys import MAX_KEY_LENGTH, shard_of
from audience_sync.errors import UnknownName
from audience_sync.store import (
    audiences,
    batches,
    definition_texts,
    events,
    identifiers,
    memberships,
    settings_table,
    subscriptions,
)
from audience_sync.store.database import Database
from audience_sync.store.memberships import HISTORY_FROM, history_from
from audience_sync.store.schema import PRIMARY_DESTINATION

SPARE_SHARE = 10  # a tenth of the file may stay free: the next changes need it again

# The rows of one person in each table but `batches`. The messageIds of `message_ids` and `event_counts` name nobody.
_PLACES = {
    "memberships": "audience_id IN (SELECT id FROM audiences) AND profile_key = :k",
    "staged": "run_id IN (SELECT id FROM runs) AND profile_key = :k",
    "changes": "run_id IN (SELECT id FROM runs) AND profile_key = :k",
    "outbox": "profile_key = :k",
    "user_identifiers": "profile_key = :k",
    "events": "profile_key = :k",
    "deliveries": "shard = :s AND profile_key = :k",
    "rejections": "profile_key = :cut",  # they keep no more of a key than this
}

_OLD = {  # what finds and counts groups of old rows, and what deletes one of these
    "batches": (
        "SELECT id, size AS n FROM batches WHERE status <> 'open' AND accepted_at < :limit",
        "DELETE FROM batches WHERE id = :id",
    ),
    "deliveries": (
        "SELECT shard, count(*) AS n FROM deliveries WHERE accepted_at < :limit GROUP BY shard",
        "DELETE FROM deliveries WHERE shard = :shard AND accepted_at < :limit",
    ),
    "rejections": (
        (
            "SELECT j.run_id, count(*) AS n FROM runs r CROSS JOIN rejections j"
            " WHERE j.run_id = r.id AND r.started_at < :limit GROUP BY j.run_id"
        ),
        "DELETE FROM rejections WHERE run_id = :run_id",
    ),
    "event_counts": (
        "SELECT day, count(*) AS n FROM event_counts WHERE day < :limit GROUP BY day",
        "DELETE FROM event_counts WHERE day = :day",
    ),
}


_OLD_CHANGES = sa.text(
    "DELETE FROM changes WHERE run_id = :r AND profile_key <= (SELECT max(profile_key) FROM"
    " (SELECT profile_key FROM changes WHERE run_id = :r ORDER BY profile_key LIMIT :n) AS first)"
)


def traces(connection: Connection, profile_key: str) -> dict[str, int]:
    """Return how many rows of each table tell of a person; of `batches`, how many events."""
    found = {
        table: int(
            connection.execute(sa.text(f"SELECT count(*) FROM {table} WHERE {where}"), _of(profile_key)).scalar_one()
        )
        for table, where in _PLACES.items()
    }
    return {**found, "batches": batches.traces(connection, profile_key)}


def known_traces(connection: Connection, profile_key: str) -> dict[str, int]:
    """Return what `traces` does, for a person that the database knows.

    Raises:
        UnknownName: it has nothing about the person.
    """
    found = traces(connection, profile_key)
    if not any(found.values()):
        raise UnknownName(
            f"the database has no data about user {profile_key!r}",
            hint="the key must match exactly, including case and spaces",
        )
    return found


def block_taking(connection: Connection) -> None:
    """Have all processes wait with taking rows into batches for any destination until this transaction ends."""
    for destination in (PRIMARY_DESTINATION, *subscriptions.destinations(connection)):
        identifiers.block_taking(connection, destination=destination)


def forget(connection: Connection, profile_key: str) -> dict[str, int]:
    """Erase a person from every table, and return what `traces` had found.

    Erased are their rows in memberships, plans, history, outbox, identifiers, forwarded events, old deliveries and
    rejections, their events in open and accepted batches, and their key in the reasons of runs. Not erased are
    messageIds and counts, which name nobody, events that mention them under another key, backups, and the user at the
    destination. If the person is still in the source, the next sync adds them again.

    The caller holds the leases of all audiences: a sync that read the person before would put them back. It has also
    seized the person's open batches (`batches.seize`), and none of them is under way.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")  # overwritten, not only unlinked
    found = traces(connection, profile_key)
    rows = connection.execute(
        sa.text(f"SELECT audience_id FROM memberships WHERE {_PLACES['memberships']}"), _of(profile_key)
    ).all()
    for (audience_id,) in rows:
        audiences.add_members(connection, audience_id, -1)
    memberships.forget_digests(connection)  # those of plans that wait were made with the person
    for table, where in _PLACES.items():
        connection.execute(sa.text(f"DELETE FROM {table} WHERE {where}"), _of(profile_key))
    connection.execute(sa.text("UPDATE runs SET resent_to = '' WHERE resent_to = :k"), {"k": profile_key})
    batches.forget(connection, profile_key)
    _forget_reasons(connection, profile_key)
    return found


def _forget_reasons(connection: Connection, profile_key: str) -> None:
    """Take a person's key out of the reason of runs that were limited to them."""
    said = f"only {profile_key}"
    connection.execute(
        sa.text(
            "UPDATE runs SET reason = 'only a forgotten user' WHERE partial = :yes"
            " AND (reason = :said OR substr(reason, 1, :length) = :more)"
        ),
        {"yes": True, "said": said, "more": f"{said};", "length": len(said) + 1},
    )


def _of(profile_key: str) -> dict[str, object]:
    return {"s": shard_of(profile_key), "k": profile_key, "cut": profile_key[:MAX_KEY_LENGTH]}


def purge(database: Database, retention: RetentionTable, *, now_ms: int) -> dict[str, int]:
    """Delete history beyond its retention, in short transactions; return how many rows of each table.

    Dead events stay: a person has to decide about them.
    """
    limits = {
        name: now_ms - int(getattr(retention, name).total_seconds() * 1000)
        for name in ("changes", "deliveries", "rejections")
    }
    with database.write() as connection:  # first: nobody may take a history with holes for the whole
        if limits["changes"] > history_from(connection):
            settings_table.put(connection, HISTORY_FROM, str(limits["changes"]))
    limits["batches"] = limits["deliveries"]
    limits["event_counts"] = limits["deliveries"] // events.DAY_MS
    purged = {"changes": _in_commits(database, partial(_delete_changes, before=limits["changes"]))}
    purged |= {table: _purge(database, *statements, limits[table]) for table, statements in _OLD.items()}
    first_day = now_ms // events.DAY_MS - events.KNOWN_DAYS
    purged["message_ids"] = _in_commits(database, partial(_delete_message_ids, before=first_day))
    with database.write() as connection:
        purged["definitions"] = definition_texts.drop_unused(connection)
    compact(database)
    return purged


def _purge(database: Database, groups: str, delete: str, limit: int) -> int:
    """Delete the groups of rows that a query finds and counts, several in a commit."""
    deleted = 0
    tuning = database.tuning
    while True:
        with database.read() as connection:
            limited = sa.text(f"{groups} LIMIT {tuning.purged_groups_per_read}")
            found = connection.execute(limited, {"limit": limit}).mappings().all()
        for chunk in _chunks([dict(row) for row in found], rows=tuning.purged_rows_per_commit):
            with database.write() as connection:
                for group in chunk:
                    deleted += connection.execute(sa.text(delete), {**group, "limit": limit}).rowcount
        if len(found) < tuning.purged_groups_per_read:
            return deleted


def _in_commits(database: Database, delete_some: Callable[[Connection, int], int]) -> int:
    """Delete rows commit by commit until fewer are left than one commit deletes; return how many they were."""
    deleted, at_most = 0, database.tuning.purged_rows_per_commit
    while True:
        with database.write() as connection:
            gone = delete_some(connection, at_most)
        deleted += gone
        if gone < at_most:
            return deleted


def _delete_changes(connection: Connection, at_most: int, *, before: int) -> int:
    """Delete some of the changes of runs before an instant: a run may have millions."""
    found = connection.execute(
        sa.text(
            "SELECT r.id FROM runs r WHERE r.as_of < :before"
            " AND EXISTS (SELECT 1 FROM changes c WHERE c.run_id = r.id) ORDER BY r.id LIMIT :n"
        ),
        {"before": before, "n": at_most},
    )
    gone = 0
    for run_id in found.scalars().all():
        gone += connection.execute(_OLD_CHANGES, {"r": run_id, "n": at_most - gone}).rowcount
        if gone >= at_most:
            break
    return gone


def _delete_message_ids(connection: Connection, at_most: int, *, before: int) -> int:
    """Delete some of what arrived before a day: a day may have millions."""
    rest = connection.execute(
        sa.text(
            "SELECT day, message_id FROM message_ids WHERE day < :before ORDER BY day, message_id LIMIT 1 OFFSET :n"
        ),
        {"before": before, "n": at_most},
    ).first()
    day, message_id = rest or (before, "")
    return connection.execute(
        sa.text("DELETE FROM message_ids WHERE (day, message_id) < (:day, :message_id)"),
        {"day": day, "message_id": message_id},
    ).rowcount


def _chunks(groups: Sequence[Mapping[str, int]], *, rows: int) -> Iterator[list[Mapping[str, int]]]:
    chunk: list[Mapping[str, int]] = []
    found = 0
    for group in groups:
        chunk.append(group)
        found += group["n"]
        if found >= rows:
            yield chunk
            chunk, found = [], 0
    if chunk:
        yield chunk


def compact(database: Database) -> None:
    """Give all free pages of a SQLite file back, and empty its write-ahead log; on Postgres autovacuum does its own."""
    tuning = database.tuning
    if database.is_sqlite:
        with _cursor_of(database) as cursor:
            _give_back(cursor, keep=0, pages=tuning.vacuum_pages, steps=None)
        with _cursor_of(database, wait_ms=tuning.vacuum_wait_ms) as cursor:
            _empty_log(cursor)


def tidy(database: Database) -> None:
    """Give back what a delivery has left behind in a SQLite file, where it is much: politeness that never fails.

    A tenth of the file stays for the next changes, and the write-ahead log while it is small. The work is bounded: what
    is left of it is done the next time.
    """
    if not database.is_sqlite:
        return
    tuning, log = database.tuning, Path(f"{database.engine.url.database}-wal")
    gone_wrong = (OSError, sqlite3.Error, sa.exc.SQLAlchemyError)
    with suppress(*gone_wrong), _cursor_of(database, wait_ms=tuning.vacuum_wait_ms) as cursor:
        free, pages = _number(cursor, "freelist_count"), _number(cursor, "page_count")
        keep = max(tuning.vacuum_pages, pages // SPARE_SHARE)
        if free > keep:
            _give_back(cursor, keep=keep, pages=tuning.vacuum_pages, steps=tuning.vacuum_steps)
        if log.stat().st_size > tuning.small_log_bytes:
            _empty_log(cursor)


@contextmanager
def _cursor_of(database: Database, *, wait_ms: int | None = None) -> Iterator[sqlite3.Cursor]:
    """Yield a cursor outside of any transaction, where alone all this is possible."""
    connection = database.engine.raw_connection()
    try:
        cursor: Any = connection.cursor()
        waits = _number(cursor, "busy_timeout")
        if wait_ms is not None:
            _number(cursor, f"busy_timeout = {wait_ms}")
        try:
            yield cursor
        finally:
            _number(cursor, f"busy_timeout = {waits}")
    finally:
        connection.close()


def _give_back(cursor: sqlite3.Cursor, *, keep: int, pages: int, steps: int | None) -> None:
    """Shorten the file by some pages in each step, others may write in between, until `keep` free pages are left."""
    before, free = None, _number(cursor, "freelist_count")
    while free > keep and (before is None or free < before) and steps != 0:
        _number(cursor, f"incremental_vacuum({min(pages, free - keep)})")
        before, free = free, _number(cursor, "freelist_count")
        steps = None if steps is None else steps - 1


def _empty_log(cursor: sqlite3.Cursor) -> None:
    _number(cursor, "wal_checkpoint(TRUNCATE)")


def _number(cursor: sqlite3.Cursor, pragma: str) -> int:
    rows = cursor.execute(f"PRAGMA {pragma}").fetchall()
    return int(rows[0][0]) if rows else 0
