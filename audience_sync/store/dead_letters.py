"""Dead letters (changes and forwarded events): list, retry or discard them on request."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import MEMBER_VALUE
from audience_sync.store import audiences, event_reports, events, generations, reports, settings_table
from audience_sync.store.database import Database
from audience_sync.store.event_reports import EventState
from audience_sync.store.reports import Record, iso
from audience_sync.store.runs import identifiers_of
from audience_sync.store.schema import PRIMARY_DESTINATION

COLUMNS = (
    "audience", "profile_key", "value", "state", "since", "reason", "run_id", "generation", "message_id", "type",
    "name",
)  # fmt: skip

_ORDER = {"outbox": "profile_key, audience_id", "events": "profile_key, position"}


class Which(NamedTuple):
    """Which dead rows are meant, all by default. Those of an audience are changes: no forwarded event is of one."""

    audience_id: int | None = None
    profile_key: str | None = None
    forwarded_only: bool = False
    destination: str = PRIMARY_DESTINATION  # another has messages, and no changes

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables in which they are."""
        if self.forwarded_only or self.destination != PRIMARY_DESTINATION:
            return ("events",)
        return ("outbox", "events") if self.audience_id is None else ("outbox",)


def listed(database: Database, which: Which) -> Iterator[Record]:
    """Yield dead rows with the reason of each, changes before forwarded events."""
    found = {"outbox": _changes, "events": _events}
    return chain.from_iterable(found[table](database, which) for table in which.tables)


def _changes(database: Database, which: Which) -> Iterator[Record]:
    conditions, parameters = _conditions("outbox", which)

    def page(connection: Connection, last: Record | None) -> list[Record]:
        on = ["(o.profile_key, o.audience_id) > (:key, :audience)"] if last else []
        place = {"key": last["profile_key"], "audience": last["audience_id"]} if last else {}
        rows = connection.execute(
            sa.text(
                "SELECT a.key AS audience, o.profile_key, o.value, 'dead' AS state, r.started_at AS since,"
                " o.dead_reason AS reason, o.run_id, o.generation, o.audience_id"
                " FROM outbox o JOIN audiences a ON a.id = o.audience_id LEFT JOIN runs r ON r.id = o.run_id"
                f"{reports.where([f'o.{one}' for one in conditions], on)}"
                " ORDER BY o.profile_key, o.audience_id LIMIT :n"
            ),
            {**parameters, **place, "n": database.tuning.rows_per_page},
        ).mappings()
        nothing = dict.fromkeys(COLUMNS)
        return [{**nothing, **row, "since": iso(row["since"])} for row in rows]

    return reports.pages(database, page)


def _events(database: Database, which: Which) -> Iterator[Record]:
    nothing = dict.fromkeys(COLUMNS)
    found = event_reports.open_events(
        database, profile_key=which.profile_key, state=EventState.DEAD, destination=which.destination
    )
    return ({**nothing, **record} for record in found)


def count(connection: Connection, which: Which) -> int:
    """Return how many dead rows there are."""
    return sum(_count(connection, table, which) for table in which.tables)


def _count(connection: Connection, table: str, which: Which) -> int:
    conditions, parameters = _conditions(table, which)
    found = connection.execute(sa.text(f"SELECT count(*) FROM {table}{reports.where(conditions)}"), parameters)
    return int(found.scalar_one())


def retry(connection: Connection, which: Which, *, now_ms: int) -> dict[str, int]:
    """Open dead rows again; return how many of each table.

    Changes get a new generation, with the value and identifiers of now. Forwarded events are what they were, at the end
    of the row; of those only the bodies are sent that Schematic has not.
    """
    opened = {}
    for table in which.tables:
        if table == "events":
            opened[table] = _retry_events(connection, which)
        else:
            generation = generations.next_generation(connection, now_ms)
            opened[table] = _retry_changes(connection, which, generation=generation)
    return opened


def _retry_changes(connection: Connection, which: Which, *, generation: int) -> int:
    member = (
        "FROM memberships m LEFT JOIN runs w ON w.id = m.run_id"
        " WHERE m.audience_id = outbox.audience_id AND m.profile_key = outbox.profile_key"
    )
    identifiers = identifiers_of("m.identifiers", "w")
    conditions, parameters = _conditions("outbox", which)
    _lock(connection, "outbox", conditions, parameters)
    result = connection.execute(
        sa.text(
            "UPDATE outbox SET dead_reason = NULL, generation = :g,"
            f" value = COALESCE((SELECT COALESCE(m.value, '{MEMBER_VALUE}') {member}),"
            f" {audiences.exit_value('outbox.audience_id')}),"
            f" identifiers = CASE WHEN EXISTS (SELECT 1 {member}) THEN (SELECT {identifiers} {member})"
            " ELSE identifiers END"
            f"{reports.where(conditions)}"
        ),
        {**parameters, "g": generation},
    )
    return result.rowcount


def _retry_events(connection: Connection, which: Which) -> int:
    """Open dead events again behind all others, in the order they had; messages where they were.

    Some of their bodies may be in an open batch. Their outcome is kept in the row of the same messageId.
    """
    conditions, parameters = _conditions("events", which)
    if which.destination != PRIMARY_DESTINATION:  # a message has the place of its change
        _lock(connection, "events", conditions, parameters)
        return connection.execute(
            sa.text(f"UPDATE events SET dead_reason = NULL{reports.where(conditions)}"), parameters
        ).rowcount
    settings_table.locked(connection, events.POSITION)  # before the rows, as whoever takes events has it
    _lock(connection, "events", conditions, parameters)
    first, last = connection.execute(
        sa.text(f"SELECT min(position), max(position) FROM events{reports.where(conditions)}"), parameters
    ).one()
    if first is None:
        return 0
    start = settings_table.count_on(connection, events.POSITION, least=0, step=last - first + 1)
    reserved = [*conditions, "position BETWEEN :first AND :last"]  # one may have died since we looked
    result = connection.execute(
        sa.text(f"UPDATE events SET dead_reason = NULL, position = position + :shift{reports.where(reserved)}"),
        {**parameters, "first": first, "last": last, "shift": start - first},
    )
    return result.rowcount


def discard(connection: Connection, which: Which) -> dict[str, int]:
    """Delete dead rows: Schematic keeps what it has; return how many of each table."""
    discarded = {}
    for table in which.tables:
        conditions, parameters = _conditions(table, which)
        _lock(connection, table, conditions, parameters)
        result = connection.execute(sa.text(f"DELETE FROM {table}{reports.where(conditions)}"), parameters)
        discarded[table] = result.rowcount
    return discarded


def _conditions(table: str, which: Which) -> tuple[list[str], dict[str, object]]:
    conditions, parameters = ["dead_reason IS NOT NULL"], dict[str, object]()
    if which.audience_id is not None and table == "outbox":
        conditions.append("audience_id = :a")
        parameters["a"] = which.audience_id
    if which.profile_key is not None:
        conditions.append("profile_key = :k")
        parameters["k"] = which.profile_key
    if table == "events":
        conditions.append("destination = :d")
        parameters["d"] = which.destination
    return conditions, parameters


def _lock(connection: Connection, table: str, conditions: list[str], parameters: dict[str, object]) -> None:
    """Lock dead rows in the order in which syncs and deliveries lock theirs: none waits for the other for ever."""
    if connection.dialect.name != "sqlite":  # its one writer is alone
        ordered = f"SELECT 1 FROM {table}{reports.where(conditions)} ORDER BY {_ORDER[table]} FOR UPDATE"
        connection.execute(sa.text(ordered), parameters)
