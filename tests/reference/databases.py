"""Puts a world into each database: the tables `events` and `users`, in the shape a case asks for.

Plain drivers and a few lines of SQL, so that nothing of what the product reads with takes part in the writing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import duckdb
import psycopg

from tests.reference.vocabulary import EVENT_COLUMNS, USER_COLUMNS
from tests.reference.worlds import Case, Event, Profile, Shape, Value, World

Row = tuple[Any, ...]
Columns = dict[str, str]
"""The names of columns and their types in this file's words: text, integer, double, truth, time, json."""

SQLITE = {
    "text": "TEXT",
    "integer": "INTEGER",
    "double": "REAL",
    "truth": "BOOLEAN",
    "time": "DATETIME",
    "json": "JSON",
}
POSTGRES = {
    "text": "text",
    "integer": "bigint",
    "double": "double precision",
    "truth": "boolean",
    "time": "timestamptz",
    "json": "jsonb",
}
DUCKDB = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "double": "DOUBLE",
    "truth": "BOOLEAN",
    "time": "TIMESTAMPTZ",
    "json": "JSON",
}

MARIADB = {
    "text": "VARCHAR(200)",
    "integer": "BIGINT",
    "double": "DOUBLE",
    "truth": "BOOLEAN",
    "time": "DATETIME(6)",
    "json": "JSON",
}


def fill_sqlite(path: str, case: Case) -> None:
    """Write the tables of a case into a SQLite file, instead of those in it; instants are ISO texts there."""
    with closing(sqlite3.connect(path)) as connection:
        for name, columns, rows in tables(case):
            connection.execute(f'DROP TABLE IF EXISTS "{name}"')
            if columns:
                connection.execute(_create(name, columns, SQLITE))
                marks = ", ".join("?" * len(columns))
                connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', [_as_texts(row) for row in rows])
        connection.commit()


def fill_postgres(connection: psycopg.Connection[Any], case: Case) -> None:
    """Write the tables of a case into a PostgreSQL database, instead of those in it."""
    types = POSTGRES if case.shape.binary_json else POSTGRES | {"json": "json"}
    for name, columns, rows in tables(case):
        connection.execute(f'DROP TABLE IF EXISTS "{name}"')
        if columns:
            connection.execute(_create(name, columns, types))
            if rows:
                marks = ", ".join(["(" + ", ".join(["%s"] * len(columns)) + ")"] * len(rows))
                values = [value for row in rows for value in row]
                connection.execute(f'INSERT INTO "{name}" VALUES {marks}', values)
    connection.commit()


def fill_duckdb(path: str, case: Case) -> None:
    """Write the tables of a case into a DuckDB file, instead of those in it."""
    with closing(duckdb.connect(path)) as connection:
        for name, columns, rows in tables(case):
            connection.execute(f'DROP TABLE IF EXISTS "{name}"')
            if columns:
                connection.execute(_create(name, columns, DUCKDB))
                if rows:
                    marks = ", ".join(["(" + ", ".join("?" * len(columns)) + ")"] * len(rows))
                    values = [value for row in rows for value in row]
                    connection.execute(f'INSERT INTO "{name}" VALUES {marks}', values)


def fill_mariadb(connection: Any, case: Case) -> None:
    """Write the tables of a case into a MariaDB database, instead of those in it, through a connection in UTC."""
    with closing(connection.cursor()) as cursor:
        for name, columns, rows in tables(case):
            cursor.execute(f"DROP TABLE IF EXISTS `{name}`")
            if columns:
                cursor.execute(_create(name, columns, MARIADB, quote="`"))
                marks = ", ".join(["%s"] * len(columns))
                cursor.executemany(f"INSERT INTO `{name}` VALUES ({marks})", [_in_utc(row) for row in rows])


def tables(case: Case) -> list[tuple[str, Columns, list[Row]]]:
    """Return the name, columns and rows of every table; one that this world has not got has no columns."""
    user = {"user_id": "integer" if case.shape.integer_users else "text"}
    events = user | {"event": "text", "occurred_at": "text" if case.shape.text_timestamps else "time"}
    events |= (EVENT_COLUMNS if case.shape.plain else {"properties": "json"}) | {"context": "json", "source_id": "text"}
    users = user | {"company_id": "text"} | (USER_COLUMNS if case.shape.plain else {"traits": "json"})
    return [
        ("events", events, [_event_row(one, case.shape) for one in case.world.events]),
        ("users", users if case.world.profiles is not None else {}, _user_rows(case.world, case.shape)),
    ]


def _event_row(event: Event, shape: Shape) -> Row:
    at = event.at if not shape.text_timestamps else event.spelled
    properties = _members(event.properties, EVENT_COLUMNS, shape)
    return (_user(event.user, shape), event.name, at, *properties, _json(event.context, shape), event.source)


def _user_rows(world: World, shape: Shape) -> list[Row]:
    def row(one: Profile) -> Row:
        return (_user(one.user, shape), "acme", *_members(one.traits, USER_COLUMNS, shape))

    return [row(one) for one in world.profiles or ()]


def _user(user: str | None, shape: Shape) -> str | int | None:
    return int(user) if shape.integer_users and user is not None else user


def _members(tree: Any, columns: Columns, shape: Shape) -> Sequence[Value]:
    if not shape.plain:
        return [_json(tree, shape)]
    values = {name: (tree or {}).get(name) for name in columns}
    return [_json(one, shape) if columns[name] == "json" else one for name, one in values.items()]


def _json(value: Value, shape: Shape) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=shape.escaped_json)


def _as_texts(row: Row) -> Row:
    return tuple(_written(one) if isinstance(one, datetime) else one for one in row)


def _in_utc(row: Row) -> Row:
    return tuple(one.astimezone(UTC).replace(tzinfo=None) if isinstance(one, datetime) else one for one in row)


def _written(instant: datetime) -> str:
    """Write an instant as SQLite's tables have it: UTC, with or without fraction and zone, all mixed in one column."""
    utc = instant.astimezone(UTC)
    if utc.microsecond:
        return utc.strftime("%Y-%m-%d %H:%M:%S.") + f"{utc.microsecond // 1000:03d}"
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ" if utc.minute % 2 else "%Y-%m-%d %H:%M:%S")


def _create(name: str, columns: Columns, types: dict[str, str], quote: str = '"') -> str:
    names = {column: f"{quote}{column.replace(quote, quote * 2)}{quote}" for column in columns}
    quoted = ", ".join(f"{names[column]} {types[kind]}" for column, kind in columns.items())
    return f"CREATE TABLE {quote}{name}{quote} ({quoted})"
