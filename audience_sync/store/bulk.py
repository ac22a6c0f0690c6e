"""Bulk writes: ``executemany`` on SQLite; ``COPY`` or a statement over arrays on PostgreSQL.

SQLAlchemy's own bulk insert costs three to nine times as much on both, and psycopg's ``executemany`` seven times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

# --- rows as JSON -----------------------------------------------------------------------------------------------------
# Many rows through one statement: the database makes rows of a JSON text, and a JSON text of rows.
#
# Under SQLite a statement that takes or yields rows one by one gives up Python's lock at every one of them, and
# next to other busy threads it has to wait each time until it has the lock back: a hundred times as long as the row
# itself takes.


def fetch(
    connection: Connection, query: str, *, columns: Sequence[str], key: int, parameters: Mapping[str, object]
) -> list[list[Any]]:
    """Return the columns of a query, its rows sorted by the first `key` of them."""
    if connection.dialect.name == "sqlite":
        arrays = ", ".join(f"json_group_array({column})" for column in columns)
        whole = f"SELECT json_array({arrays}) FROM ({query})"
    else:
        arrays = ", ".join(f"COALESCE(json_agg({column}), '[]')" for column in columns)
        whole = f"SELECT CAST(json_build_array({arrays}) AS text) FROM ({query}) AS found"
    found: list[list[Any]] = orjson.loads(connection.execute(sa.text(whole), parameters).scalar_one())
    places = list(zip(*found[:key], strict=True))
    if places != sorted(places):  # no database promises the order of what it puts together
        order = sorted(range(len(places)), key=places.__getitem__)
        found = [[column[n] for n in order] for column in found]
    return found


def given(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as the parameter that `table` reads."""
    return orjson.dumps(list(rows)).decode()


def table(connection: Connection, parameter: str, columns: Iterable[sa.Column[Any]]) -> str:
    """Return the query of the rows in a parameter, whose values are those of some columns in their order."""
    if connection.dialect.name == "sqlite":
        fields = (f"json_extract(value, '$[{n}]') AS {column.name}" for n, column in enumerate(columns))
        return f"SELECT {', '.join(fields)} FROM json_each(:{parameter})"
    fields = (f"CAST(value->>{n} AS {_kind(connection, column)}) AS {column.name}" for n, column in enumerate(columns))
    return f"SELECT {', '.join(fields)} FROM json_array_elements(CAST(:{parameter} AS json)) AS given(value)"


def _kind(connection: Connection, column: sa.Column[Any]) -> str:
    kind = column.type.dialect_impl(connection.dialect)
    return "text" if isinstance(kind, sa.String) else kind.compile(connection.dialect)


# --- inserts ----------------------------------------------------------------------------------------------------------

CHUNK = 20_000  # rows a statement
LINES_A_STATEMENT = 1_000  # more at once cost SQLite more for each
_NULL = r"\N"  # in the text format of COPY


def insert(
    connection: Connection,
    table: sa.Table,
    rows: Iterable[Sequence[Any]],
    *,
    without: Container[str] = (),
    on_conflict: str = "",
) -> None:
    """Insert rows given in the order of the table's columns, `without` those that get their defaults.

    Rows may come from a generator: under SQLite none is kept.
    """
    columns = [column for column in table.columns if column.name not in without]
    names = ", ".join(column.name for column in columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        _execute_many(connection, f"INSERT INTO {table.name} ({names}) VALUES ({marks}) {on_conflict}", rows)
        return
    if not on_conflict:
        with _copying(connection, f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    for chunk in _chunks(rows):
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) SELECT * FROM {_unnest(connection, columns)} {on_conflict}",
            _arrays(chunk),
        )


def insert_members(connection: Connection, lines: Sequence[str], *, audience_id: int, run_id: int) -> None:
    """Insert the members of lines (`core.rows`), who entered with one run.

    Many lines go to the database as one text: SQLite takes it apart itself, a row at a time costs it three times as
    much.
    """
    names = "audience_id, entered_run_id, run_id, profile_key, identifiers, value"
    if connection.dialect.name == "sqlite":
        rest = "NULLIF(value, ''), NULL"
        if lines[0].count("\t") > 1:  # of a computed trait all have both
            rest = "NULLIF(substr(value, 1, instr(value, char(9)) - 1), ''), substr(value, instr(value, char(9)) + 1)"
        for start in range(0, len(lines), LINES_A_STATEMENT):
            connection.exec_driver_sql(
                f"INSERT INTO memberships ({names}) SELECT ?, ?, ?, key, {rest} FROM json_each(?)",
                (audience_id, run_id, run_id, _as_object(lines[start : start + LINES_A_STATEMENT])),
            )
        return
    with _copying(connection, f"COPY memberships ({names}) FROM STDIN") as copy:
        before = f"{audience_id}\t{run_id}\t{run_id}"
        for start in range(0, len(lines), LINES_A_STATEMENT):
            text = "\n".join(lines[start : start + LINES_A_STATEMENT]).replace("\\", "\\\\")
            parted = (line.partition("\t")[::2] for line in text.split("\n"))
            copy.write("".join([f"{before}\t{key}\t{_copied(rest)}\n" for key, rest in parted]))


@contextmanager
def _copying(connection: Connection, statement: str) -> Iterator[Any]:
    """Open a COPY of psycopg, whose errors are said as SQLAlchemy would say them."""
    dialect = connection.dialect
    base: Any = dialect.loaded_dbapi.Error
    try:
        with closing(connection.connection.cursor()) as cursor, cursor.copy(statement) as copy:
            yield copy
    except base as error:
        raise sa.exc.DBAPIError.instance(statement, None, error, base, hide_parameters=True, dialect=dialect) from error


def _copied(rest: str) -> str:
    """Return what follows the key in a line as the identifiers and the value of a row of COPY."""
    identifiers, _, value = rest.partition("\t")
    return f"{identifiers or _NULL}\t{value or _NULL}"


def _as_object(lines: Sequence[str]) -> str:
    """Return lines as a JSON object: of each key what follows it, in their order."""
    text = "\n".join(lines)
    if text.count("\t") != len(lines) or lines[0].count("\t") != 1:
        return orjson.dumps({key: rest for key, _, rest in (line.partition("\t") for line in lines)}).decode()
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", '":"').replace("\n", '","')
    return f'{{"{text}"}}'


def upsert(connection: Connection, table: sa.Table, rows: Iterable[Sequence[Any]]) -> None:
    """Insert whole rows, or put them in the place of those with the same primary key."""
    keys = [column.name for column in table.primary_key.columns]
    others = [column.name for column in table.columns if column.name not in keys]
    assignments = ", ".join(f"{name} = excluded.{name}" for name in others)
    insert(connection, table, rows, on_conflict=f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {assignments}")


def delete(connection: Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Delete the rows whose given columns equal one of `rows`."""
    if connection.dialect.name == "sqlite":
        where = " AND ".join(f"{name} = ?" for name in columns)
        _execute_many(connection, f"DELETE FROM {table.name} WHERE {where}", rows)
        return
    where = " AND ".join(f"t.{name} = gone.{name}" for name in columns)
    typed = [table.columns[name] for name in columns]
    for chunk in _chunks(rows):
        connection.exec_driver_sql(
            f"DELETE FROM {table.name} t USING {_unnest(connection, typed)} AS gone ({', '.join(columns)})"
            f" WHERE {where}",
            _arrays(chunk),
        )


def texts(connection: Connection, values: Iterable[str]) -> object:
    """Return many texts as one parameter; see `each`."""
    return orjson.dumps(list(values)).decode() if connection.dialect.name == "sqlite" else list(values)


def each(connection: Connection, parameter: str) -> str:
    """Return the query of the texts in a parameter that `texts` made; its one column is `item`."""
    if connection.dialect.name == "sqlite":
        return f"SELECT value AS item FROM json_each(:{parameter})"
    return f"SELECT unnest(CAST(:{parameter} AS text[])) AS item"


def _execute_many(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """Hand rows to the driver as they come: SQLAlchemy would make a list of them first."""
    with closing(connection.connection.cursor()) as cursor:
        try:
            cursor.executemany(statement, rows)  # type: ignore[arg-type]  # sqlite3 takes any iterable
        except sqlite3.OperationalError as error:  # as SQLAlchemy would say it
            raise sa.exc.OperationalError(statement, None, error) from error


def _chunks(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    coming = iter(rows)
    while chunk := list(islice(coming, CHUNK)):
        yield chunk


def _unnest(connection: Connection, columns: Sequence[sa.Column[Any]]) -> str:
    dialect = connection.dialect
    kinds = (column.type.dialect_impl(dialect) for column in columns)
    arrays = (f"%s::{'text' if isinstance(kind, sa.String) else kind.compile(dialect)}[]" for kind in kinds)
    return f"unnest({', '.join(arrays)})"


def _arrays(rows: Sequence[Sequence[Any]]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))
