"""Any other database that SQLAlchemy has a driver for, as far as drivers agree: streaming where the dialect can.

The transaction is rolled back in the end. Whether more than that keeps the database from being written to is up to the
account in the URL: give it one that can only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Connection, CursorResult
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from audience_sync.core.parameters import lexis_of
from audience_sync.source.session import CONNECT_TIMEOUT, PAGE, Page

CONNECT_ERRORS = (SQLAlchemyError,)
_PLACEHOLDERS = {
    "qmark": "?",
    "format": "%s",
    "pyformat": "%(now)s",
    "named": ":now",
    "numeric": ":1",
    "numeric_dollar": "$1",
}


def connect(url: URL, limit: timedelta) -> OtherSession:
    """Connect through SQLAlchemy; MySQL's drivers are told how long, others have their own idea."""
    patience = ceil(min(limit, CONNECT_TIMEOUT).total_seconds())
    arguments = {"connect_timeout": patience} if url.get_backend_name() in {"mysql", "mariadb"} else {}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)
    return OtherSession(engine.connect().execution_options(stream_results=True))


class OtherSession:
    """One transaction with the cursor that the dialect streams with."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._result: CursorResult[Any] | None = None
        self._style = connection.dialect.paramstyle
        self.lexis = lexis_of(connection.dialect.name)
        self.placeholder = _PLACEHOLDERS[self._style]
        self.double_percent = self._style in {"format", "pyformat"}
        self.errors: tuple[type[Exception], ...] = (SQLAlchemyError, connection.dialect.loaded_dbapi.Error)

    def execute(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Start a query; `:now` is an aware instant in UTC."""
        with self._unwrapped():
            result = self._result = self._connection.exec_driver_sql(sql, self._parameters(count, as_of))
        return tuple(column[0] for column in result.cursor.description) if result.returns_rows else ()

    def fetch(self) -> Page:
        """Return the next rows, by way of SQLAlchemy: where it streams it has read ahead of the driver's cursor."""
        with self._unwrapped():
            return [tuple(row) for row in self._result.fetchmany(PAGE)] if self._result is not None else []

    def describe(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Name the columns by starting the query: no way around it is known to every database."""
        return self.execute(sql, count, as_of)

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the driver's own way to cancel, if it has one, and closing the connection under the query."""
        driver: Any = self._connection.connection.driver_connection
        ways = [getattr(driver, name, None) for name in ("cancel", "interrupt", "close")]
        return [self._quietly(way) for way in ways if way is not None]

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the dialect took the error for the end of the connection."""
        del error
        return self._connection.invalidated

    def close(self) -> None:
        """Roll back and close."""
        with suppress(*self.errors):
            if self._result is not None:
                self._result.close()
        with suppress(*self.errors):
            self._connection.close()
        self._connection.engine.dispose()

    @contextmanager
    def _unwrapped(self) -> Iterator[None]:
        """Raise the driver's own errors: SQLAlchemy's repeat the whole SQL."""
        try:
            yield
        except DBAPIError as error:
            raise error.orig if isinstance(error.orig, self.errors) else error from None

    def _parameters(self, count: int, as_of: datetime) -> Any:
        """Shape the one value the way the driver's parameter style wants it."""
        if not count:
            return None
        now = as_of.astimezone(UTC)
        if self._style in {"named", "pyformat"}:
            return {"now": now}
        return (now,) * (count if self._style in {"qmark", "format"} else 1)

    def _quietly(self, way: Callable[[], None]) -> Callable[[], None]:
        """Return a way to stop the query that does not mind when the query has just ended."""

        def stop() -> None:
            with suppress(*self.errors):
                way()

        return stop
