"""Two real data sets as events and profiles: the CDNOW sample of purchases, and the clickstream of a shop.

Each is put into SQLite, PostgreSQL and DuckDB, and written as files, in the shapes that people have: properties and
traits as JSON, as columns, and as columns without any profiles.
"""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import duckdb
import psycopg

DATA = Path(__file__).parent / "data"
ORDER = "Order Completed"
Columns: TypeAlias = Mapping[str, str]
"""The names of columns and their types in this file's words: text, integer, double, day, time, json."""

TYPES: dict[str, Columns] = {
    "sqlite": {"integer": "INTEGER", "double": "REAL", "json": "JSON"},
    "postgres": {"integer": "int", "double": "float8", "day": "date", "time": "timestamptz", "json": "jsonb"},
    "duckdb": {"integer": "INTEGER", "double": "DOUBLE", "day": "DATE", "time": "TIMESTAMP", "json": "JSON"},
}


class Event(NamedTuple):
    """Something that a user did."""

    user: str
    name: str
    at: datetime
    properties: dict[str, Any]
    context: dict[str, Any] | None = None
    source: str | None = None


class World(NamedTuple):
    """The events of a data set, oldest first, and the traits of its users; their properties and traits have types."""

    events: list[Event]
    traits: dict[str, dict[str, Any]]
    property_types: Columns
    trait_types: Columns


class Shape(StrEnum):
    """How a data set lies in a source."""

    JSON = "json"
    COLUMNS = "columns"
    BARE = "bare"  # columns of events, and no profiles


class Table(NamedTuple):
    """A table to be written."""

    name: str
    columns: dict[str, str]
    rows: list[tuple[Any, ...]]


def cdnow() -> World:
    """Return what 2,357 customers bought in 1997 and 1998, one event a purchase, at midnight of its day."""
    with gzip.open(DATA / "cdnow_sample.txt.gz", "rt") as lines:
        fields = [line.split() for line in lines]
    events = []
    traits: dict[str, dict[str, Any]] = {}
    for user, number, day, count, dollars in fields:
        at = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
        events.append(Event(user, ORDER, at, {"dollars": float(dollars), "count": int(count)}))
        known = traits.setdefault(user, {"number": number, "joined": at.date()})
        known["joined"] = min(known["joined"], at.date())
    types = {"dollars": "double", "count": "integer"}
    return World(sorted(events, key=lambda one: one.at), traits, types, {"number": "text", "joined": "day"})


def ecom() -> World:
    """Return what 600 users looked at and bought in the first half of 2024."""
    with gzip.open(DATA / "ecom.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    names = ("session_id", "platform", "acquisition_channel", "user_lifecycle")
    events = []
    traits: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        at = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
        labels = [row["platform"], row["user_lifecycle"]]
        context = {"device": {"type": row["platform"]}, "campaign.medium": row["acquisition_channel"], "labels": labels}
        properties = {name: row[name] for name in names}
        events.append(Event(row["user_id"], row["event"], at, properties, context, row["platform"]))
        traits.setdefault(
            row["user_id"],
            {"cohort": row["user_cohort"], "acquisition_channel": row["acquisition_channel"], "first_seen": at},
        )
    trait_types = {"cohort": "text", "acquisition_channel": "text", "first_seen": "time"}
    return World(events, traits, dict.fromkeys(names, "text"), trait_types)


def part_of(world: World, every: int) -> World:
    """Return the events and traits of about one user in `every`."""

    def stays(user: str) -> bool:
        return crc32(user.encode()) % every == 0

    events = [event for event in world.events if stays(event.user)]
    return world._replace(events=events, traits={user: known for user, known in world.traits.items() if stays(user)})


def tables(world: World) -> list[Table]:
    """Return the tables of every shape."""
    key = {"user_id": "text"}
    event = {**key, "event": "text", "timestamp": "time"}
    more = {"context": "json", "source_id": "text"}
    known = [(one, [one.user, one.name, one.at], [_json(one.context), one.source]) for one in world.events]
    return [
        Table(
            "json_events",
            {**event, "properties": "json", **more},
            [(*head, _json(one.properties), *tail) for one, head, tail in known],
        ),
        Table(
            "columns_events",
            {**event, **world.property_types, **more},
            [(*head, *one.properties.values(), *tail) for one, head, tail in known],
        ),
        Table("json_users", {**key, "traits": "json"}, [(user, _json(one)) for user, one in world.traits.items()]),
        Table(
            "columns_users", {**key, **world.trait_types}, [(user, *one.values()) for user, one in world.traits.items()]
        ),
    ]


def fill_sqlite(path: Path, world: World) -> None:
    """Write every table into a SQLite file; days and instants are texts there."""
    with closing(sqlite3.connect(path)) as connection:
        for table in tables(world):
            connection.execute(_create(table, TYPES["sqlite"]))
            marks = ", ".join("?" * len(table.columns))
            rows = ([_written(one) for one in row] for row in table.rows)
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
        connection.commit()


def fill_postgres(url: str, world: World) -> None:
    """Write every table into a PostgreSQL database; it has the statistics that a database in use has."""
    with psycopg.connect(url) as connection:
        for table in tables(world):
            connection.execute(_create(table, TYPES["postgres"]).encode())
            with connection.cursor().copy(f"COPY {table.name} FROM STDIN".encode()) as copy:
                for row in table.rows:
                    copy.write_row(row)
        connection.execute("ANALYZE")


def fill_duckdb(path: Path, world: World) -> None:
    """Write every table into a DuckDB file, by way of CSV: that is a hundred times as fast as by rows."""
    with closing(duckdb.connect(str(path))) as connection:
        for table in tables(world):
            connection.execute(_create(table, TYPES["duckdb"]))
            passing = path.with_name(f"{table.name}.passing")
            _write_csv(passing, table)
            connection.execute(f"COPY {table.name} FROM '{passing}' (FORMAT csv, HEADER)")
            passing.unlink()


def fill_files(folder: Path, world: World) -> None:
    """Write CSV where properties are columns, lines of JSON where they are JSON, and Parquet without profiles."""
    for table in tables(world):
        if table.name.startswith("json"):
            _write_lines(folder / f"{table.name}.ndjson", table)
        else:
            _write_csv(folder / f"{table.name}.csv", table)
    with closing(duckdb.connect()) as connection:
        (events,) = [table for table in tables(world) if table.name == "columns_events"]
        connection.execute(_create(events, TYPES["duckdb"]))
        connection.execute(f"COPY {events.name} FROM '{folder / 'columns_events.csv'}' (FORMAT csv, HEADER)")
        connection.execute(f"COPY {events.name} TO '{folder / 'bare_events.parquet'}' (FORMAT parquet)")


def rooms(shape: Shape, folder: Path, url: str | None) -> str:
    """Return the configuration of a source with a data set in a shape: in the database at a URL, or in files."""
    ending = "ndjson" if shape is Shape.JSON else "csv"
    named = "json" if shape is Shape.JSON else "columns"
    lines = ["[sources.real]", *([f"url = {json.dumps(url)}"] if url else [])]
    events = f'table = "{named}_events"'
    users = f'table = "{named}_users"'
    if url is None:
        events = f'path = "{folder}/{named}_events.{ending}"'
        users = f'path = "{folder}/{named}_users.{ending}"'
        if shape is Shape.BARE:
            events = f'path = "{folder}/bare_events.parquet"'
    lines += ["[sources.real.events]", events, 'context = "context"', 'source = "source_id"']
    lines += ['properties = "properties"'] if shape is Shape.JSON else []
    if shape is not Shape.BARE:
        lines += ["[sources.real.profiles]", users, *(['traits = "traits"'] if shape is Shape.JSON else [])]
    return "\n".join([*lines, ""])


def _create(table: Table, types: Columns) -> str:
    columns = ", ".join(f"{name} {types.get(kind, 'TEXT')}" for name, kind in table.columns.items())
    return f"CREATE TABLE {table.name} ({columns})"


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, default=_written)


def _written(value: Any) -> Any:
    match value:
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case date():
            return value.isoformat()
        case _:
            return value


def _write_csv(path: Path, table: Table) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows([_written(one) for one in row] for row in table.rows)


def _write_lines(path: Path, table: Table) -> None:
    with path.open("w") as file:
        file.writelines(f"{json.dumps(one)}\n" for one in _objects(table))


def _objects(table: Table) -> Iterable[dict[str, Any]]:
    for row in table.rows:
        named = dict(zip(table.columns, row, strict=True))
        yield {
            name: json.loads(value) if value and table.columns[name] == "json" else _written(value)
            for name, value in named.items()
        }
