"""The members of an audience at an earlier time: the current members with all later changes undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.text import instant_text
from audience_sync.errors import ConfigError, UnknownName
from audience_sync.store import memberships
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database
from audience_sync.store.memberships import history_from
from audience_sync.store.reports import MEMBER_COLUMNS, Record, iso
from audience_sync.store.runs import HAS_CHANGED_MEMBERS, identifiers_of


class _Past(NamedTuple):
    """How somebody was in; None where history does not reach back so far."""

    value: str | None = None
    identifiers: str | None = None
    since: int | None = None
    run_id: int | None = None
    generation: int | None = None


def members_as_of(database: Database, audience: AudienceRow, at_ms: int) -> Iterator[Record]:
    """Return an iterator over those who were in an audience at an instant, by profile key.

    Of somebody who changed later, what older history said (`since`, `run_id`, `value`, `identifiers`, `generation`) may
    be None: it can have been purged. The members themselves are exact.

    Raises:
        UnknownName: the audience was never synced.
        ConfigError: it was first synced later, or history does not reach back to that instant.
    """
    with database.read() as connection:
        last_run = _last_run_at(connection, audience, at_ms)
    return _walk(database, audience, last_run)


def _instant(milliseconds: int | None) -> str:
    return instant_text(iso(milliseconds))


def _last_run_at(connection: Connection, audience: AudienceRow, at_ms: int) -> int:
    """Return the run that had the last word at an instant; the changes of later runs are to be undone."""
    first, last = connection.execute(
        sa.text(
            "SELECT min(as_of), max(CASE WHEN as_of <= :t THEN id END) FROM runs"
            f" WHERE audience_id = :a AND {HAS_CHANGED_MEMBERS}"
        ),
        {"a": audience.id, "t": at_ms},
    ).one()
    if first is None:
        raise UnknownName(f"audience {audience.key!r} has no completed sync", hint=f"audience-sync sync {audience.key}")
    if last is None:
        raise ConfigError(
            (f"audience {audience.key!r} was first synced as of {_instant(first)}, which is after {_instant(at_ms)}"),
            hint=f"list its syncs with `audience-sync runs {audience.key}`",
        )
    if at_ms < (whole_from := history_from(connection)):
        raise ConfigError(
            f"history starts at {_instant(whole_from)}; the members at {_instant(at_ms)} are no longer known",
            hint="to keep history longer from now on, raise `changes` in [retention]",
        )
    return int(last)


def _walk(database: Database, audience: AudienceRow, last_run: int) -> Iterator[Record]:
    after: str | None = ""
    while after is not None:
        with database.read() as connection:
            if not database.is_sqlite:  # several statements must see one state; in a transaction of SQLite they do
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            upto = memberships.page_end(
                connection, audience.id, after=after, at_most=database.tuning.history_members_per_read
            )
            found = _members_after(connection, {"a": audience.id, "run": last_run, "after": after, "upto": upto})
        after = upto
        for key in sorted(found):
            past = found[key]
            said = (past.value, past.identifiers, iso(past.since), past.run_id, past.generation)
            yield dict(zip(MEMBER_COLUMNS, (audience.key, key, *said, audience.computation.value), strict=True))


def _members_after(connection: Connection, place: dict[str, Any]) -> dict[str, _Past]:
    """Return the members behind one profile and up to another as they were after a run."""
    now = connection.execute(
        sa.text(
            f"SELECT m.profile_key, m.value, {identifiers_of('m.identifiers', 'w')}, r.as_of, m.entered_run_id,"
            " w.generation FROM memberships m LEFT JOIN runs r ON r.id = m.entered_run_id"
            " LEFT JOIN runs w ON w.id = m.run_id"
            f" WHERE m.audience_id = :a AND m.entered_run_id <= :run AND {_within('m', place)}"
        ),
        place,
    )
    found = {key: _Past(*rest) for key, *rest in now}
    undone: set[str] = set()
    changed: set[str] = set()
    for key, kind, value, identifiers, *_ in connection.execute(_history("r.id > :run", place), place):
        if key in undone:
            continue  # only the first change after the instant tells what was before it
        undone.add(key)
        before = found.pop(key, _Past())
        if kind == "entered":
            continue
        changed.add(key)
        stayed = before.run_id is not None and before.run_id <= place["run"]
        found[key] = _Past(
            since=before.since if stayed else None,
            run_id=before.run_id if stayed else None,
            value=value if kind == "exited" else None,  # an exit keeps what was last seen, an update what is new
            identifiers=identifiers if kind == "exited" else None,
        )
    return _recall(connection, place, found, changed) if changed else found


def _recall(
    connection: Connection, place: dict[str, Any], found: dict[str, _Past], changed: set[str]
) -> dict[str, _Past]:
    """Fill in from older history how those who changed later had come to be as they were."""
    for key, kind, value, identifiers, run_id, as_of, generation in connection.execute(
        _history("r.id <= :run", place), place
    ):
        if key in changed:
            past = found[key]._replace(value=value, identifiers=identifiers, generation=generation)
            found[key] = past._replace(since=as_of, run_id=run_id) if kind == "entered" else past
    return found


def _within(table: str, place: dict[str, Any]) -> str:
    upto = "" if place["upto"] is None else f" AND {table}.profile_key <= :upto"
    return f"{table}.profile_key > :after{upto}"


def _history(condition: str, place: dict[str, Any]) -> sa.TextClause:
    """Return the query of an audience's changes to some profiles, oldest first."""
    return sa.text(  # CROSS JOIN: SQLite goes from each run to its rows, along the primary key
        f"SELECT c.profile_key, c.kind, c.value, {identifiers_of('c.identifiers', 'r')}, r.id, r.as_of, r.generation"
        " FROM runs r CROSS JOIN changes c WHERE c.run_id = r.id AND r.audience_id = :a"
        f" AND {condition} AND {_within('c', place)} ORDER BY r.id"
    )
