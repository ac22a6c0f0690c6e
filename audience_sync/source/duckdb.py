"""DuckDB as a source: a database file opened read only, or no file at all and a query over Parquet and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import duckdb
from sqlalchemy.engine import URL

from audience_sync.core.parameters import lexis_of
from audience_sync.source.session import PAGE, Page
from audience_sync.source.sqlite import existing_file

CONNECT_ERRORS = (duckdb.Error,)


def connect(url: URL, limit: timedelta) -> DuckdbSession:
    """Open an existing file read only, with the URL's query as DuckDB's settings; DuckDB never waits for a lock."""
    del limit
    settings: dict[str, str | bool | int | float | list[str]] = {
        name: values[-1] for name, values in url.normalized_query.items()
    }
    if url.database in {None, "", ":memory:"}:
        connection = duckdb.connect(":memory:", config=settings)
    elif str(url.database).startswith("md:"):
        connection = duckdb.connect(str(url.database), config=settings)
    else:
        connection = duckdb.connect(existing_file(url), read_only=True, config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    return DuckdbSession(connection)


class DuckdbSession:
    """One connection; its one query streams from the snapshot in which it began."""

    lexis = lexis_of("duckdb")
    placeholder = "$now"
    double_percent = False
    errors: tuple[type[Exception], ...] = (duckdb.Error, ValueError, OverflowError)  # dates Python has not

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Start a query; its time stamps without a zone are UTC, as `:now` is."""
        parameters = {"now": as_of.astimezone(UTC).replace(tzinfo=None)} if count else None
        self._connection.execute(sql, parameters)
        return tuple(column[0] for column in self._connection.description or ())

    def fetch(self) -> Page:
        """Return the next rows."""
        return self._connection.fetchmany(PAGE)

    def describe(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Name the columns; nothing is run."""
        self.execute(f"DESCRIBE (\n{sql}\n)", count, as_of)
        return tuple(row[0] for row in self._connection.fetchall())

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return DuckDB's own interrupt."""
        return (self._connection.interrupt,)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the database became unusable."""
        return isinstance(error, duckdb.FatalException)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
