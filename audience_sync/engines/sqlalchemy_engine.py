"""Any other database that SQLAlchemy has a driver for, as far as drivers agree: streaming where the dialect can.

The transaction is rolled back in the end. Whether more than that keeps the database from being written to is up to the
account in the URL: give it one that can only read.

Where the driver says that a column is of a blank-padded type (CHAR of Oracle, Redshift, CockroachDB and Trino), its
trailing blanks are removed. The drivers of SQL Server and DB2 do not say it: there the SQL has to trim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL, Connection, CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from audience_sync.config import Source
from audience_sync.core.parameters import Lexis, Statement, bind_now
from audience_sync.engines.base import PAGE, Column, Engine, Page, url_of

_ERRORS = (Exception,)
"""A driver should raise its own `Error` (PEP 249). BigQuery, ClickHouse and others let the exceptions of their HTTP
client, their credentials or their parser through, so whatever is raised between us and a driver is an error of the
source. This is the only place where that is so: `connect` turns it into a `SourceError`."""
_DRIVERS: Mapping[str, Mapping[str, str]] = {
    "mssql": {"pyodbc": "pyodbc", "pymssql": "pymssql"},
    "oracle": {"oracledb": "oracledb", "cx_oracle": "cx_Oracle"},
}
"""The drivers of a dialect that has several, with the module of each. A URL need not name one."""
_UNREADABLE = (ValueError, ArithmeticError)  # what drivers raise for a value that Python does not have
_POSTGRES = Lexis(nested_comments=True, dollar_quotes=True)
_GOOGLE = Lexis(backslashes=True, backticks=True, line_comments=("--", "#"))
_SPARK = Lexis(backslashes=True, backticks=True)
LEXES: Mapping[str, Lexis] = {
    "redshift": _POSTGRES,
    "cockroachdb": _POSTGRES,
    "mssql": Lexis(nested_comments=True, brackets=True),
    "bigquery": _GOOGLE,
    "clickhouse": _GOOGLE,
    "clickhousedb": _GOOGLE,
    "databricks": _SPARK,
    "hive": _SPARK,
    "snowflake": Lexis(backslashes=True, dollar_quotes=True, line_comments=("--", "//")),
}
"""How databases read SQL, by their names; any other as standard SQL."""
_BPCHAR = 1042  # the number of PostgreSQL's type for char(n), in its relatives too
_POSTGRES_LIKE = {"cockroachdb", "postgresql", "redshift"}
_PADDED_NAMES = ("char(", "nchar(", "character(", "bpchar", "db_type_char", "db_type_nchar")
_PADDED = ("char", "nchar", "character")
_PLACEHOLDERS = {
    "qmark": "?",
    "format": "%s",
    "pyformat": "%(now)s",
    "named": ":now",
    "numeric": ":1",
    "numeric_dollar": "$1",
}


def connect(source: Source, limit: timedelta) -> SqlalchemySession:
    """Connect through SQLAlchemy; drivers have time limits of their own."""
    del limit
    engine = create_engine(_with_driver(url_of(source)), poolclass=NullPool, hide_parameters=True)
    return SqlalchemySession(engine.connect().execution_options(stream_results=True))


def _with_driver(url: URL) -> URL:
    """Return a URL that names a driver: an installed one, else the one to install."""
    backend = url.get_backend_name()
    if "+" in url.drivername or backend not in _DRIVERS:
        return url
    installed = (driver for driver, module in _DRIVERS[backend].items() if _is_installed(module))
    driver = next(installed, next(iter(_DRIVERS[backend])))
    return url.set(drivername=f"{backend}+{driver}")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


class SqlalchemySession:
    """One transaction with the cursor that the dialect streams with."""

    errors: tuple[type[Exception], ...] = _ERRORS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._result: CursorResult[Any] | None = None
        self._style = connection.dialect.paramstyle
        self._padded: Sequence[int] = ()  # positions of the columns of blank-padded types

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as an aware instant in UTC, in the shape that the driver's parameter style wants."""
        lexis, formatted = _lexis(self._connection.dialect.name), self._style in {"format", "pyformat"}
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
        if not result.returns_rows:
            return ()
        found = result.cursor.description
        dialect = self._connection.dialect.name
        self._padded = [at for at, column in enumerate(found) if is_blank_padded(dialect, column[1])]
        return tuple(column[0] for column in found)

    def fetch(self) -> Page:
        """Return the next rows, by way of SQLAlchemy: where it streams it has read ahead of the driver's cursor."""
        with self._unwrapped():
            page = [tuple(row) for row in self._result.fetchmany(PAGE)] if self._result is not None else []
        return [_without_padding(row, self._padded) for row in page] if self._padded else page

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns by starting the query, no way around it is known to every database; types where told."""
        names = self.execute(statement)
        codes = [column[1] for column in self._result.cursor.description] if self._result and names else []
        kinds = [code.lower() if isinstance(code, str) else "" for code in codes]
        return tuple(Column(name, kind) for name, kind in zip(names, kinds, strict=True))

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Name the columns, and their types where told.

        SQLAlchemy doubles each % of a name, as drivers take it for their own when they are given parameters.
        """
        quote = self._connection.dialect.identifier_preparer.quote
        return self.describe(Statement(f"SELECT * FROM {'.'.join(map(quote, names))}", {}))  # noqa: S608 - quoted

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the driver's own way to cancel, if it has one, and closing the connection under the query."""
        driver: Any = self._connection.connection.driver_connection
        ways = [getattr(driver, name, None) for name in ("cancel", "interrupt", "close")]
        return [self._quietly(way) for way in ways if way is not None]

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the dialect took the error for the end of the connection."""
        del error
        return self._connection.invalidated

    def remedy(self, error: Exception) -> str | None:
        """Return what to do about a value that the driver cannot represent; it does not say whose it is."""
        return "in the SQL, cast columns with unusual values to text" if isinstance(error, _UNREADABLE) else None

    def position(self, error: Exception) -> None:
        """Return None: the driver does not say where."""
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
            raise error.orig if isinstance(error.orig, Exception) else error from None

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


def is_blank_padded(dialect: str, type_code: object) -> bool:
    """Return whether a driver's type code is that of text padded with blanks, in which trailing blanks mean nothing."""
    if isinstance(type_code, int):
        return type_code == _BPCHAR and dialect in _POSTGRES_LIKE
    name = str(getattr(type_code, "name", type_code)).lower()
    return name in _PADDED or name.startswith(_PADDED_NAMES)


def _without_padding(row: tuple[Any, ...], padded: Sequence[int]) -> tuple[Any, ...]:
    values = list(row)
    for position in padded:
        if isinstance(values[position], str):
            values[position] = values[position].rstrip(" ")
    return tuple(values)


def _lexis(name: str) -> Lexis:
    return LEXES.get(name, Lexis())


def engine_named(name: str) -> Engine:
    """Return the engine of a database by the name that SQLAlchemy's URLs have for it."""
    return Engine(connect=connect, connect_errors=_ERRORS, lexis=_lexis(name))
