"""Any other database that SQLAlchemy has a driver for, as far as drivers agree: streaming where the dialect can.

The transaction is rolled back in the end. Whether more than that keeps the database from being written to is up to the
account in the URL: give it one that can only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Connection, CursorResult
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from audience_sync.core.parameters import Statement, bind_now, lexis_of
from audience_sync.source.session import CONNECT_TIMEOUT, PAGE, Column, Page

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
        self.errors: tuple[type[Exception], ...] = (SQLAlchemyError, connection.dialect.loaded_dbapi.Error)

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as an aware instant in UTC, in the shape that the driver's parameter style wants."""
        lexis, formatted = lexis_of(self._connection.dialect.name), self._style in {"format", "pyformat"}
        bound = bind_now(sql, _PLACEHOLDERS[self._style], lexis=lexis, double_percent=formatted)
        return Statement(bound.sql, self._parameters(bound.placeholders, as_of.astimezone(UTC)))

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query."""
        sql, parameters = statement
        options = {"no_parameters": parameters is None}  # not even an empty list: then drivers leave every % alone
        if isinstance(parameters, Sequence):
            parameters = tuple(parameters)
        with self._unwrapped():
            result = self._result = self._connection.exec_driver_sql(sql, parameters, execution_options=options)
        return tuple(column[0] for column in result.cursor.description) if result.returns_rows else ()

    def fetch(self) -> Page:
        """Return the next rows, by way of SQLAlchemy: where it streams it has read ahead of the driver's cursor."""
        with self._unwrapped():
            return [tuple(row) for row in self._result.fetchmany(PAGE)] if self._result is not None else []

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns by starting the query, no way around it is known to every database; types where told."""
        names = self.execute(statement)
        codes = [column[1] for column in self._result.cursor.description] if self._result and names else []
        kinds = [code.lower() if isinstance(code, str) else "" for code in codes]
        return tuple(Column(name, kind) for name, kind in zip(names, kinds, strict=True))

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the driver's own way to cancel, if it has one, and closing the connection under the query."""
        driver: Any = self._connection.connection.driver_connection
        ways = [getattr(driver, name, None) for name in ("cancel", "interrupt", "close")]
        return [self._quietly(way) for way in ways if way is not None]

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the dialect took the error for the end of the connection."""
        del error
        return self._connection.invalidated

    def remedy(self, error: Exception) -> None:
        """Return None: the database's own words say enough."""
        del error

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

    def _parameters(self, count: int, now: datetime) -> Mapping[str, datetime] | tuple[datetime, ...] | None:
        """Shape the one value the way the driver's parameter style wants it."""
        if not count:
            return None
        if self._style in {"named", "pyformat"}:
            return {"now": now}
        return (now,) * (count if self._style in {"qmark", "format"} else 1)

    def _quietly(self, way: Callable[[], None]) -> Callable[[], None]:
        """Return a way to stop the query that does not mind when the query has just ended."""

        def stop() -> None:
            with suppress(*self.errors):
                way()

        return stop
