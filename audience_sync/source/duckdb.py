"""DuckDB as a source: a database file opened read only, or no file at all and a query over Parquet and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import duckdb
from sqlalchemy.engine import URL

from audience_sync.core.parameters import Statement, bind_now, lexis_of
from audience_sync.source.session import PAGE, Column, Page
from audience_sync.source.sqlite import existing_file

CONNECT_ERRORS = (duckdb.Error,)
MORE_MEMORY = "make the query cheaper or raise memory_limit"
_LEXIS = lexis_of("duckdb")


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

    errors: tuple[type[Exception], ...] = (duckdb.Error, ValueError, OverflowError)  # dates Python has not

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as a timestamp without a zone, in UTC, as DuckDB's timestamps without a zone are taken to be."""
        bound = bind_now(sql, "$now", lexis=_LEXIS)
        now = as_of.astimezone(UTC).replace(tzinfo=None)
        return Statement(bound.sql, {"now": now} if bound.placeholders else None)

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query."""
        self._connection.execute(*statement)
        return tuple(column[0] for column in self._connection.description or ())

    def fetch(self) -> Page:
        """Return the next rows."""
        return self._connection.fetchmany(PAGE)

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns and their types; nothing is run."""
        self.execute(statement._replace(sql=f"DESCRIBE (\n{statement.sql}\n)"))
        return tuple(Column(name, kind.lower()) for name, kind, *_ in self._connection.fetchall())

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return DuckDB's own interrupt."""
        return (self._connection.interrupt,)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the database became unusable."""
        return isinstance(error, duckdb.FatalException)

    def remedy(self, error: Exception) -> str | None:
        """Return what to do when memory is short."""
        return MORE_MEMORY if isinstance(error, duckdb.OutOfMemoryException) else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
