"""MariaDB and MySQL: one read-only transaction with a snapshot, rows streamed as they come, texts in UTF-8.

Every `mariadb` and `mysql` URL is read with PyMySQL, whatever driver it names. The server reports nothing while it
sends rows, so a query is stopped from a second connection. A date that does not exist, such as 0000-00-00, is an
`Unreadable` in its row.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pymysql
from pymysql.connections import Connection
from pymysql.constants import FIELD_TYPE
from pymysql.converters import conversions, convert_date, convert_datetime
from pymysql.cursors import SSCursor

from audience_sync.config import Source
from audience_sync.core.keys import unreadable
from audience_sync.core.parameters import Statement, bind_now
from audience_sync.engines.base import CONNECT_TIMEOUT, PAGE, Column, Engine, Page, url_of
from audience_sync.engines.deadline import GRACE
from audience_sync.engines.mariadb_columns import PreparedColumn, prepared_columns
from audience_sync.engines.mariadb_dialect import MariadbDialect
from audience_sync.engines.mariadb_servers import MariadbServer, server_of

_DIALECT = MariadbDialect()
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_IDENTITY = "SELECT version(), @@hostname, @@port, @@server_id, connection_id()"
_LOST = {1053, 1927, 2006, 2013, 2014, 2055}  # shutdown, killed, and what PyMySQL says of a broken connection
_JSON_WARNINGS = range(4035, 4045)  # a text that is not JSON, which JSON functions take for NULL
_NO_DATE = "does not exist; in the SQL, make it NULL: NULLIF(column, 0)"


class MariadbError(Exception):
    """An error of the server or of PyMySQL: its text on one line, and its number; 0 if it has none."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.number = number


class _Identity(NamedTuple):
    """Which server a connection leads to, and its number there."""

    version: str
    host: str
    port: int
    server: int
    number: int

    @property
    def place(self) -> tuple[str, int, int]:
        return self.host, self.port, self.server


def connect(source: Source, limit: timedelta) -> MariadbSession:
    """Connect and begin a transaction that can only read; `limit` is the server's net, too."""
    options = _options(source, min(limit, CONNECT_TIMEOUT))
    with _said():
        connection = pymysql.connect(**options)
        try:
            identity = _identity(connection)
            server = server_of(identity.version)
            for statement in server.statements(limit):
                connection.query(statement)
            return MariadbSession(connection, server, identity, options)
        except BaseException:
            connection.close()
            raise


def _options(source: Source, patience: timedelta) -> dict[str, Any]:
    """Return how PyMySQL connects: as the URL says, and as we read."""
    url = url_of(source).set(drivername="mysql+pymysql")
    positional, named = url.get_dialect()().create_connect_args(url)
    del positional  # PyMySQL has none
    ours = {
        "charset": "utf8mb4",
        "use_unicode": True,
        "autocommit": True,  # the transaction is begun by name
        "local_infile": False,
        "program_name": "audience-sync",
        "connect_timeout": max(1.0, patience.total_seconds()),
        "conv": _CONVERSIONS,
    }
    return {**named, **ours}


def _identity(connection: Connection[Any]) -> _Identity:
    with closing(connection.cursor()) as cursor:
        cursor.execute(_IDENTITY)
        return _Identity(*cursor.fetchone())


class MariadbSession:
    """One transaction with one stream of rows."""

    errors: tuple[type[Exception], ...] = (MariadbError,)

    def __init__(
        self, connection: Connection[Any], server: MariadbServer, identity: _Identity, options: Mapping[str, Any]
    ) -> None:
        self._connection = connection
        self._server = server
        self._identity = identity
        self._options = {**options, "connect_timeout": GRACE, "read_timeout": GRACE, "write_timeout": GRACE}
        self._cursor = _Stream(connection)
        self._waiting: str | None = None  # the query, until its rows are asked for
        self._is_ours = True  # the SQL is our own
        self._socket = socket.socket(fileno=os.dup(connection._sock.fileno()))  # noqa: SLF001 - to cut it off
        if self._socket.family != socket.AF_UNIX:
            for name, value in _KEEPALIVE.items():
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as a DATETIME in UTC."""
        self._is_ours = False
        bound = bind_now(sql, "%(now)s", lexis=_DIALECT.lexis, double_percent=True)
        return Statement(bound.sql, {"now": _DIALECT.now(as_of)} if bound.placeholders else None)

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Have the server prepare the query; it runs nothing before rows are asked for."""
        with _said():
            found = self._prepared(statement)
        return tuple(column.name for column in found)

    def fetch(self) -> Page:
        """Return the next rows."""
        with _said():
            if self._waiting is not None:
                query, self._waiting = self._waiting, None
                self._cursor.execute(query)
            page: Page = list(self._cursor.fetchmany(PAGE))
            if len(page) < PAGE and self._is_ours and self._cursor.warning_count:
                self._require_json()
        return page

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns and their types; nothing is run."""
        with _said():
            found = self._prepared(statement)
            documents = self._documents(found)
        return tuple(Column(one.name, "json" if one.origin in documents else one.type) for one in found)

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Name the columns and their types."""
        return self.describe(Statement(f"SELECT * FROM {_quoted(*names)}", None))  # noqa: S608 - quoted

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return: have the server kill the query; cut the connection of a server that does not."""
        return (self._kill, self._cut)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the server or the network ended the connection."""
        return not self._connection.open or (isinstance(error, MariadbError) and error.number in _LOST)

    def remedy(self, error: Exception) -> None:
        """Return None: the server has no hints."""
        del error

    def position(self, error: Exception) -> None:
        """Return None: the server's sentence shows the place."""
        del error

    def close(self) -> None:
        """Close the connection, and have the server stop a query whose rows nobody reads."""
        if self._cursor.is_active and self._connection.open:
            self._kill()
        self._cursor.abandon()
        with suppress(pymysql.Error, OSError):
            self._connection.close()
        self._socket.close()

    def _prepared(self, statement: Statement) -> list[PreparedColumn]:
        query: str = self._cursor.mogrify(statement.sql, statement.parameters)
        found = prepared_columns(self._connection, query)
        self._waiting = query
        return found

    def _documents(self, columns: Sequence[PreparedColumn]) -> set[tuple[str, str, str] | None]:
        """Return which columns of tables are of JSON, which is text with a condition in MariaDB.

        Who may only select from a table does not see its conditions, but how it was made.
        """
        found: set[tuple[str, str, str] | None] = set()
        json_columns = self._server.json_columns
        if json_columns is None:
            return found
        origins = {one.origin for one in columns if one.origin is not None and one.type == "text"}
        for schema, table in {(schema, table) for schema, table, _ in origins}:
            with suppress(pymysql.Error), closing(self._connection.cursor()) as cursor:  # a view keeps it to itself
                cursor.execute(f"SHOW CREATE TABLE {_quoted(schema, table)}")
                made = str(cursor.fetchone()[1])
                found |= {(schema, table, name.replace("``", "`")) for name in json_columns.findall(made)}
        return found & origins

    def _require_json(self) -> None:
        """Refuse a result in which a text was read as JSON and is not JSON."""
        for _, number, message in self._connection.show_warnings():
            if number in _JSON_WARNINGS:
                raise MariadbError(number, message)

    def _kill(self) -> None:
        """Kill the query from another connection, unless that leads to another server, as behind a proxy."""
        with suppress(pymysql.Error, OSError, RuntimeError), closing(pymysql.connect(**self._options)) as other:
            if _identity(other).place == self._identity.place:
                other.query(f"KILL QUERY {self._identity.number}")

    def _cut(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Stream(SSCursor):  # type: ignore[misc]  # PyMySQL has no types
    """A cursor that streams, and that can be left before its last row."""

    @property
    def is_active(self) -> bool:
        """Return whether there are rows that were not read."""
        return self._result is not None and bool(self._result.unbuffered_active)

    def abandon(self) -> None:
        """Forget the rows that were not read; to close the cursor would read them all."""
        if self._result is not None:
            self._result.unbuffered_active = False
            self._result.connection = None
        self.connection = None


@contextmanager
def _said() -> Iterator[None]:
    """Raise whatever PyMySQL raises as one line without the number, which people do not look for first."""
    try:
        yield
    except pymysql.Error as error:
        number, *message = error.args or (0,)
        known = isinstance(number, int)
        raise MariadbError(number if known else 0, str(message[0]) if message and known else str(error)) from None
    except (UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: a package is missing for the way to log in
        raise MariadbError(0, str(error)) from None


def _quoted(*names: str) -> str:
    return ".".join(f"`{name.replace('`', '``')}`" for name in names)


def _literal(instant: datetime, _: object = None) -> str:
    """Return a DATETIME in SQL; as a text, it would be compared as one where nothing else is a time."""
    return f"TIMESTAMP'{instant.isoformat(sep=' ')}'"


def _moment(raw: str) -> object:
    found = convert_datetime(raw)
    return found if isinstance(found, datetime) else unreadable(raw, _NO_DATE)


def _instant(raw: str) -> object:
    """Return a TIMESTAMP, which is an instant; DATETIME says nothing of its zone."""
    found = _moment(raw)
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) else found


def _day(raw: str) -> object:
    found = convert_date(raw)
    return found if isinstance(found, date) else unreadable(raw, _NO_DATE)


_CONVERSIONS = {
    **conversions,
    datetime: _literal,
    FIELD_TYPE.DATETIME: _moment,
    FIELD_TYPE.TIMESTAMP: _instant,
    FIELD_TYPE.DATE: _day,
    FIELD_TYPE.TIME: str,  # it may be longer than a day
    FIELD_TYPE.BIT: lambda raw: int.from_bytes(raw, "big"),
}

ENGINE = Engine(connect=connect, connect_errors=(MariadbError, pymysql.Error), lexis=_DIALECT.lexis, dialect=_DIALECT)
