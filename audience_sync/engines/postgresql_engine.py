"""PostgreSQL: one read-only REPEATABLE READ transaction in UTC, a server-side cursor, TCP keepalives.

Every `postgresql` URL is read with psycopg, whatever driver it names: the SQL and its parameters then mean one thing.
The trailing blanks of `char(n)` are padding, which PostgreSQL itself ignores, and are removed. A page with a value
that psycopg cannot represent (`infinity`, the year 20000) is decoded again, value by value.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader, Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from audience_sync.config import Source
from audience_sync.core.keys import canonical, unreadable
from audience_sync.core.parameters import Bound, Statement, bind_now
from audience_sync.engines.base import CONNECT_TIMEOUT, PAGE, Column, Engine, Page, Sums, everything, url_of
from audience_sync.engines.deadline import GRACE
from audience_sync.engines.postgresql_dialect import PostgresqlDialect

_DIALECT = PostgresqlDialect()
_CURSOR = "audience_sync"
_DECLARE = f'DECLARE "{_CURSOR}" CURSOR FOR '  # what psycopg puts before a query
_MISSING = "E'\\x01NULL\\x01'"  # hashed in place of NULL; how many values are not NULL is counted besides
_SETTINGS = ("server_version_num", "server_encoding", "DateStyle", "IntervalStyle")  # the same bytes mean other values
_TYPES = "SELECT oid, typname FROM pg_catalog.pg_type WHERE oid = ANY(%s)"
_MARGIN = timedelta(seconds=30)  # our own clock stops a query first; the server's is for when we have died
_UNREADABLE = (psycopg.DataError, ValueError, ArithmeticError, RecursionError)  # what loaders raise
_BEFORE_VALUE = re.compile(r":? '.*", re.DOTALL)  # psycopg ends its sentences with the value
_TEXT_TYPES = ("text", "varchar", "name")
_LIBPQ = {
    "application_name": "audience-sync",
    "client_encoding": "utf8",
    "keepalives_idle": "30",  # seconds
    "keepalives_interval": "10",  # seconds
    "keepalives_count": "3",
}


def connect(source: Source, limit: timedelta) -> PostgresqlSession:
    """Connect and begin a transaction that can only read; `limit` is the server's net, too."""
    url = url_of(source)
    dialect = url.set(drivername="postgresql+psycopg").get_dialect()()
    positional, named = dialect.create_connect_args(url)
    patience = {"connect_timeout": max(2, ceil(min(limit, CONNECT_TIMEOUT).total_seconds()))}  # below 2 libpq rounds up
    options: dict[str, Any] = {**_LIBPQ, **patience, **named, "prepare_threshold": None}
    connection = psycopg.connect(*positional, **options)
    try:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(
            "SELECT set_config('TimeZone', 'UTC', true), set_config('cursor_tuple_fraction', '1', true),"
            " set_config('synchronize_seqscans', 'off', true),"
            " set_config('statement_timeout', %s, true)",
            [str(int((limit + _MARGIN) / timedelta(milliseconds=1)))],
        )
        return PostgresqlSession(connection)
    except BaseException:
        connection.close()
        raise


class PostgresqlSession:
    """One transaction with one server-side cursor."""

    errors: tuple[type[Exception], ...] = (psycopg.Error, UnicodeDecodeError)

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._has_encoding = connection.info.parameter_status("server_encoding") != "SQL_ASCII"
        connection.adapters.register_loader("bpchar", _BlankPaddedLoader)
        for name in () if self._has_encoding else _TEXT_TYPES:
            connection.adapters.register_loader(name, _BytesLoader)
        self._cursor = connection.cursor(_CURSOR)
        self._bound: Bound | None = None
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as a timestamptz."""
        bound = self._bound = bind_now(sql, "%(now)s", lexis=_DIALECT.lexis, double_percent=True)
        return Statement(bound.sql, {"now": _DIALECT.now(as_of)} if bound.placeholders else None)

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Declare the cursor; the server plans the query and runs nothing yet."""
        self._cursor.execute(statement.sql.encode(), statement.parameters)
        if not self._has_encoding:  # else the server refuses to send bytes that are not UTF-8
            self._connection.execute("SET client_encoding TO 'SQL_ASCII'")
        return tuple(column.name for column in self._cursor.description or ())

    def sums(self, statement: Statement) -> Sums | None:
        """Return what the rows of the query that was executed come to, as PostgreSQL 11 and later can say it.

        A column of another name, or of another type, is another one though its texts are equal.
        """
        columns = [[column.name, column.type_code] for column in self._cursor.description or ()]
        names = [f"c{number}" for number, _ in enumerate(columns)]
        parts = [f"count({name})" for name in names] + [f"current_setting('{name}')" for name in _SETTINGS]
        for seed in range(2):
            value = str(seed)
            for name in names:  # by its bytes, whatever the collation
                text = f'coalesce({name}::text, {_MISSING}) COLLATE "C"'
                value = f"pg_catalog.hashtextextended({text}, {value})"
            parts.append(f"coalesce(sum({value}), 0)")
        said = f"count(*), array_to_string(ARRAY[{', '.join(f'({part})::text' for part in parts)}], ' ')"
        rows = f"(\n{statement.sql}\n) AS audience_sync_rows ({', '.join(names)})"
        query = f"SELECT {said} FROM {rows}"  # noqa: S608 - read only
        try:
            with self._connection.transaction():  # a savepoint: what fails here leaves the cursor as it is
                self._connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")  # as the cursor has none
                found = self._connection.execute(query.encode(), statement.parameters).fetchone()
        except (psycopg.ProgrammingError, psycopg.NotSupportedError):  # no such function, as before PostgreSQL 11
            return None
        return None if found is None else Sums(found[0], f"{found[1]} {canonical(columns)}")

    def fetch(self) -> Page:
        """Return the next rows; what psycopg cannot represent is an `Unreadable` in its row."""
        before = self._cursor.pgresult
        try:
            return self._cursor.fetchmany(PAGE)
        except _UNREADABLE:
            page = self._cursor.pgresult
            if page is None or page is before:  # the server raised it
                raise
            return _decoded(page, self._cursor)

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns and their types; nothing is run."""
        self.execute(statement)
        found = self._cursor.description or ()
        kinds = dict(self._connection.execute(_TYPES, [[column.type_code for column in found]]).fetchall())
        return tuple(Column(column.name, str(kinds[column.type_code]).lower()) for column in found)

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Name the columns and their types."""
        return self.describe(everything(names))

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return: ask the server to cancel; cut the connection of a server that does not answer."""
        return (self._cancel, self._cut)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the server or the network ended the connection."""
        del error
        return self._connection.closed

    def remedy(self, error: Exception) -> str | None:
        """Return the server's own hint."""
        hint = error.diag.message_hint if isinstance(error, psycopg.Error) else None
        return hint and " ".join(hint.split()).rstrip(".")

    def position(self, error: Exception) -> int | None:
        """Return where a person's SQL is wrong: the server counts in the statement that declares the cursor."""
        found = error.diag.statement_position if isinstance(error, psycopg.Error) else None
        if found is None or self._bound is None or int(found) <= len(_DECLARE):
            return None
        return self._bound.written_at(int(found) - 1 - len(_DECLARE), placeholder="$1")

    def close(self) -> None:
        """Close the cursor and the connection; the transaction had nothing to keep."""
        with suppress(psycopg.Error):
            self._cursor.close()
        self._connection.close()
        self._socket.close()

    def _cancel(self) -> None:
        with suppress(psycopg.Error, OSError):
            self._connection.cancel_safe(timeout=GRACE)

    def _cut(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _BlankPaddedLoader(Loader):
    """Loads `char(n)`, also in arrays, without its padding."""

    def load(self, data: Buffer) -> str:
        """Return the text."""
        return str(data, "utf-8").rstrip(" ")


class _BytesLoader(Loader):
    """Loads text of a database that does not know its encoding: UTF-8 is assumed, and not required."""

    def load(self, data: Buffer) -> str:
        """Return the text; bytes that are not UTF-8 are lone surrogates, as from SQLite."""
        return str(data, "utf-8", "surrogateescape")


def _decoded(page: PGresult, context: AdaptContext) -> Page:
    """Return the rows of a page, decoded value by value."""
    transformer = Transformer(context)
    columns = []
    for column in range(page.nfields):
        load = transformer.get_loader(page.ftype(column), Format.TEXT).load
        columns.append([_loaded(load, page.get_value(row, column)) for row in range(page.ntuples)])
    return list(zip(*columns, strict=True))


def _loaded(load: Callable[[Buffer], Any], raw: bytes | None) -> Any:
    """Return one value; text that is not UTF-8 has lone surrogates where its bytes were, as from SQLite."""
    if raw is None:
        return None
    try:
        return load(raw)
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape")
    except _UNREADABLE as error:
        problem = _BEFORE_VALUE.sub("", str(error))
        return unreadable(raw.decode("utf-8", "replace"), f"{problem}; cast it to text")


ENGINE = Engine(connect=connect, connect_errors=(psycopg.Error,), lexis=_DIALECT.lexis, dialect=_DIALECT)
