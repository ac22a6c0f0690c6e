"""Copy one table from a membership database to another, and compare the two by their number of rows and a digest.

Rows are read and written as values of their columns' types, so that both kinds of database hold the same. The digest is
the sum of the hashes of all rows: it is the same in whichever order a database returns them.

Claims belong to processes that work on the source, and are not copied: leases are left out, and batches have no holder.
Everything else of a batch is copied word for word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.database_error import explained
from audience_sync.store import bulk, relocation, schema

ROWS_PER_FETCH: Final = 5_000
DIGEST_BITS: Final = 128

EMPTIED: Final = frozenset({schema.leases.name})
"""Tables that have no rows in a copy."""

RELEASED: Final[dict[sa.Column[Any], object]] = {schema.batches.c.holder: "", schema.batches.c.claim_until: 0}
"""Columns with the one value that they have in a copy."""


class TableSum(NamedTuple):
    """A table: its name, the number of its rows, and their digest as 32 hexadecimal digits."""

    table: str
    rows: int
    digest: str


class RowSum:
    """The number of rows seen, and their digest."""

    def __init__(self, table: sa.Table, show: Callable[[int], None]) -> None:
        self._table = table
        self._show = show
        self._rows = 0
        self._total = 0

    def passing(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield rows as they are, and add them; after each `ROWS_PER_FETCH`, and at the end, show how many more."""
        count, total = 0, self._total
        for row in rows:
            hashed = hashlib.blake2b(orjson.dumps(row, default=bytes.hex), digest_size=DIGEST_BITS // 8)
            total += int.from_bytes(hashed.digest(), "big")
            count += 1
            if count % ROWS_PER_FETCH == 0:
                self._show(ROWS_PER_FETCH)
            yield row
        self._show(count % ROWS_PER_FETCH)
        self._rows += count
        self._total = total % 2**DIGEST_BITS

    def result(self) -> TableSum:
        """Return what the rows come to."""
        return TableSum(self._table.name, self._rows, f"{self._total:0{DIGEST_BITS // 4}x}")


def copied_tables() -> list[sa.Table]:
    """Return every table with rows to copy, each after those that it refers to."""
    return [table for table in schema.metadata.sorted_tables if table.name not in EMPTIED]


def copy_rows(source: Connection, target: Connection, table: sa.Table, show: Callable[[int], None]) -> TableSum:
    """Insert the rows of a table into the same, empty one of the target, continue its ids, and return their sum."""
    found = RowSum(table, show)
    bulk.insert(target, table, found.passing(_rows(source, table)))
    if table.autoincrement_column is not None:
        _put_next_id(target, table, _next_id(source, table))
    return found.result()


def sum_rows(connection: Connection, table: sa.Table, show: Callable[[int], None]) -> TableSum:
    """Return the sum of the rows that a copy of this table has."""
    found = RowSum(table, show)
    for _ in found.passing(_rows(connection, table)):
        pass
    return found.result()


def _rows(connection: Connection, table: sa.Table) -> Iterator[tuple[Any, ...]]:
    columns = [
        sa.literal(RELEASED[column], column.type).label(column.name) if column in RELEASED else column
        for column in table.columns
    ]
    query = sa.select(*columns).select_from(table).order_by(*table.primary_key.columns)
    if table is schema.settings:
        query = query.where(table.c.name.not_in(relocation.MARKS))
    with explained(connection.engine.url):  # whoever takes the rows may be writing to another database
        for rows in connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH)).partitions():
            yield from map(tuple, rows)


def _next_id(connection: Connection, table: sa.Table) -> int:
    """Return the id of the next row, above those of deleted rows where the database remembers them."""
    column = table.autoincrement_column
    most = int(connection.execute(sa.select(sa.func.max(column))).scalar() or 0)
    if _is_remembered(connection, table):
        given = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :t")
        return 1 + max(most, int(connection.execute(given, {"t": table.name}).scalar() or 0))
    if (sequence := _sequence(connection, table)) is None:
        return most + 1
    following = sa.text(f"SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM {sequence}")
    return max(most + 1, int(connection.execute(following).scalar_one()))


def _put_next_id(connection: Connection, table: sa.Table, following: int) -> None:
    if _is_remembered(connection, table):
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :t"), {"t": table.name})
        given = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:t, :s)")
        connection.execute(given, {"t": table.name, "s": following - 1})
    elif (sequence := _sequence(connection, table)) is not None:
        connection.execute(sa.text("SELECT setval(CAST(:s AS regclass), :n, false)"), {"s": sequence, "n": following})


def _is_remembered(connection: Connection, table: sa.Table) -> bool:
    """Return whether this is SQLite, and it keeps the highest id that the table ever had."""
    return connection.dialect.name == "sqlite" and bool(table.dialect_options["sqlite"]["autoincrement"])


def _sequence(connection: Connection, table: sa.Table) -> str | None:
    """Return the sequence of the ids of a table; None where there is none, as on SQLite."""
    if connection.dialect.name == "sqlite" or table.autoincrement_column is None:
        return None
    query = sa.text("SELECT pg_get_serial_sequence(:t, :c)")
    found: str | None = connection.execute(query, {"t": table.name, "c": table.autoincrement_column.name}).scalar()
    return found
