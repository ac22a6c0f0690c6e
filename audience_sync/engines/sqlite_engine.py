"""SQLite files: opened read only, one snapshot, also while another program writes to it.

Text is decoded by the fast, strict way of sqlite3. When that meets bytes that are not UTF-8, the query is run again in
the same snapshot with lenient decoding (a third slower), and the pages that were already given away are passed over.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import quote, urlencode

from audience_sync.config import Source
from audience_sync.core.parameters import Statement, bind_now, only_place_of
from audience_sync.engines.base import CONNECT_TIMEOUT, PAGE, Column, Engine, Page, everything, existing_file, url_of
from audience_sync.engines.sqlite_dialect import SqliteDialect
from audience_sync.errors import SourceError

_DIALECT = SqliteDialect()
_DECLARED = "SELECT name, type FROM pragma_table_xinfo(:name, :schema) WHERE hidden <> 1"  # 1: not in SELECT *
_Outline: TypeAlias = tuple[int, tuple[object, ...], tuple[object, ...]]  # length, first and last row of a page
_UNKNOWN_NAME_HINT = (
    "correct the SQL of the audience, or the tables and columns of the source in the configuration, then run"
    " `audience-sync check`"
)
_OBJECTION = re.compile(r'near "(\w+)": syntax error|no such (?:table|column|function): "?([\w.]+)')
_CACHE_KIB = 8192  # pages are read once: a large cache would only hold memory


def connect(source: Source, limit: timedelta) -> SqliteSession:
    """Open an existing file read only; waiting for another program's lock takes at most `limit`."""
    url = url_of(source)
    path = existing_file(url)
    options = {name: value for name, value in url.normalized_query.items() if name in {"immutable", "vfs", "nolock"}}
    name = f"file:{quote(str(path))}?{urlencode({**options, 'mode': 'ro'}, doseq=True)}"
    patience = min(limit, CONNECT_TIMEOUT).total_seconds()
    regexp = _Regexp()
    connection = sqlite3.connect(name, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        connection.create_function("regexp", 2, regexp, deterministic=True)
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").close()  # reads the file: not a database fails here
    except BaseException:
        connection.close()
        raise
    return SqliteSession(connection, regexp)


class SqliteSession:
    """One read transaction on a SQLite file."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection, regexp: _Regexp) -> None:
        self._connection = connection
        self._regexp = regexp
        self._given: list[_Outline] = []
        self._written = ""  # a person's SQL

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as the text that SQLite's own functions return for an instant in UTC."""
        bound = bind_now(sql, ":now", lexis=_DIALECT.lexis)
        self._written = sql
        return Statement(bound.sql, {"now": _DIALECT.now(as_of)})

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query; SQLite has found its first row when this returns."""
        self._statement = (statement.sql, statement.parameters or ())
        with self._complaints():
            try:
                self._cursor = self._connection.execute(*self._statement)
            except sqlite3.OperationalError as error:
                if not _is_undecodable(error):
                    raise
                self._start_again()
        return tuple(column[0] for column in self._cursor.description or ())

    def fetch(self) -> Page:
        """Return the next rows; text that is not UTF-8 has lone surrogates where its bytes were."""
        with self._complaints():
            try:
                page = self._cursor.fetchmany(PAGE)
            except sqlite3.OperationalError as error:
                if not _is_undecodable(error):
                    raise
                self._start_again()
                page = self._cursor.fetchmany(PAGE)
        if page:
            self._given.append(_outline(page))
        return page

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns, with their affinities as types, without reading a row.

        SQLite numbers the names that come twice, so take that back.
        """
        empty = f"SELECT * FROM (\n{statement.sql}\n) AS audience_sync_probe WHERE 1 = 0"  # noqa: S608 - read only
        names = self.execute(statement._replace(sql=empty))
        plain = [re.sub(r":\d+$", "", name) for name in names]
        return tuple(
            Column(short if short in names[:i] else name, kind)
            for i, (name, short, kind) in enumerate(zip(names, plain, self._affinities(empty), strict=True))
        )

    def _affinities(self, empty: str) -> list[str]:
        """Return the affinity of each column of the query that was just described: `text`, `int`, `num`, `real` or "".

        A temporary table made of a query has them as its types (https://www.sqlite.org/lang_createtable.html#ctas).
        Joins of columns with one affinity can use an index; a cast on both sides makes them quadratic.
        """
        self._connection.execute("PRAGMA query_only = OFF")  # the file itself was opened for reading alone
        try:
            self._connection.execute(f"CREATE TEMP TABLE audience_sync_types AS {empty}", self._statement[1])
            declared = self._connection.execute("SELECT type FROM pragma_table_info('audience_sync_types', 'temp')")
            kinds = [str(kind).lower() for (kind,) in declared]
            self._connection.execute("DROP TABLE temp.audience_sync_types")
        finally:
            self._connection.execute("PRAGMA query_only = ON")
        return kinds

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Name the columns with their declared types, which say more than affinities."""
        where = {"name": names[-1], "schema": names[0] if len(names) > 1 else None}
        declared = self._connection.execute(_DECLARED, where)
        found = tuple(Column(name, str(kind).lower()) for name, kind in declared)
        return found or self.describe(everything(names))  # SQLite itself says best that there is no such table

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return SQLite's own interrupt."""
        return (self._connection.interrupt,)

    def is_lost(self, error: Exception) -> bool:
        """Return False: there is no connection to a file that could be lost."""
        del error
        return False

    def remedy(self, error: Exception) -> str | None:
        """Return what to do about a name that the database does not have; its own words say enough of the rest."""
        return _UNKNOWN_NAME_HINT if str(error).startswith(("no such table", "no such column")) else None

    def position(self, error: Exception) -> int | None:
        """Return where a person's SQL has the word that SQLite objects to, if it has it once: SQLite names no place."""
        named = _OBJECTION.match(str(error))
        return only_place_of(named[1] or named[2], self._written, lexis=_DIALECT.lexis) if named else None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        """Say what our function complained of."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if str(error) == "user-defined function raised exception":
                raise sqlite3.OperationalError(self._regexp.complaint) from None
            raise

    def _start_again(self) -> None:
        """Run the query again with lenient decoding and pass over the pages that were given away."""
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        self._cursor = self._connection.execute(*self._statement)
        for outline in self._given:
            page = self._cursor.fetchmany(PAGE)
            if not page or _outline(page) != outline:
                raise SourceError(
                    (
                        "The source has text that is not valid UTF-8, and the query returned different rows"
                        " when repeated."
                    ),
                    hint=(
                        "repair the text, or make the query repeatable: use :now instead of the database's"
                        " clock, and no random()"
                    ),
                )


class _Regexp:
    """The function that `text REGEXP pattern` calls: is the pattern found somewhere in the text?

    SQLite does not pass on what an exception of a function says, so it is kept. Text that is not UTF-8 never gets
    here; bytes do, so whoever must read any text writes `CAST(text AS BLOB) REGEXP pattern`.
    """

    def __init__(self) -> None:
        self.complaint = "cannot search text that is not valid UTF-8; use CAST(… AS BLOB) REGEXP"

    def __call__(self, pattern: object, text: object) -> bool | None:
        if pattern is None or text is None:
            return None
        try:
            return _compiled(_text(pattern)).search(_text(text)) is not None
        except re.error as error:
            self.complaint = f"the regular expression is invalid: {error}"
            raise


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _outline(page: Page) -> _Outline:
    """Return what tells a page from another: a row more or less anywhere before moves its borders."""
    return len(page), page[0], page[-1]


def _is_undecodable(error: sqlite3.OperationalError) -> bool:
    return str(error).startswith("Could not decode to UTF-8")


ENGINE = Engine(connect=connect, connect_errors=(sqlite3.Error,), lexis=_DIALECT.lexis, dialect=_DIALECT)
