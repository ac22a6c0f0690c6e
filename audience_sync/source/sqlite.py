"""A SQLite file as a source: opened read only, one snapshot, also while another program writes to it.

Text is decoded by the fast, strict way of sqlite3. When that meets bytes that are not UTF-8, the query is run again in
the same snapshot with lenient decoding (a third slower), and the pages that were already given away are passed over.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, urlencode

from sqlalchemy.engine import URL

from audience_sync.core.parameters import lexis_of
from audience_sync.errors import SourceError
from audience_sync.source.session import CONNECT_TIMEOUT, PAGE, Page

CONNECT_ERRORS = (sqlite3.Error,)
_Outline: TypeAlias = tuple[int, tuple[object, ...], tuple[object, ...]]  # length, first and last row of a page
_CACHE_KIB = 8192  # pages are read once: a large cache would only hold memory


def connect(url: URL, limit: timedelta) -> SqliteSession:
    """Open an existing file read only; waiting for another program's lock takes at most `limit`."""
    path = existing_file(url)
    options = {name: value for name, value in url.normalized_query.items() if name in {"immutable", "vfs", "nolock"}}
    name = f"file:{quote(str(path))}?{urlencode({**options, 'mode': 'ro'}, doseq=True)}"
    patience = min(limit, CONNECT_TIMEOUT).total_seconds()
    connection = sqlite3.connect(name, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").close()  # reads the file: not a database fails here
    except BaseException:
        connection.close()
        raise
    return SqliteSession(connection)


def existing_file(url: URL) -> Path:
    """Return the absolute path of the file a URL names; a file that is not there is not made.

    Raises:
        SourceError: there is no such file, or the URL names none.
    """
    if url.database in {None, "", ":memory:"}:
        raise SourceError("The url of the source names no file.", hint="write dialect:////absolute/path")
    path = Path(str(url.database).removeprefix("file:")).absolute()
    if not path.is_file():
        raise SourceError(f"The source file {path} does not exist.", hint="check the url of the source")
    return path


class SqliteSession:
    """One read transaction on a SQLite file."""

    lexis = lexis_of("sqlite")
    placeholder = ":now"
    double_percent = False
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._given: list[_Outline] = []

    def execute(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Start a query; SQLite has found its first row when this returns."""
        self._statement = (sql, {"now": f"{as_of.astimezone(UTC):%Y-%m-%d %H:%M:%S}"} if count else {})
        try:
            self._cursor = self._connection.execute(*self._statement)
        except sqlite3.OperationalError as error:
            if not _is_undecodable(error):
                raise
            self._start_again()
        return tuple(column[0] for column in self._cursor.description or ())

    def fetch(self) -> Page:
        """Return the next rows; text that is not UTF-8 has lone surrogates where its bytes were."""
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

    def describe(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Name the columns without reading a row; SQLite numbers the names that come twice, so take that back."""
        empty = f"SELECT * FROM (\n{sql}\n) AS audience_sync_probe WHERE 1 = 0"  # noqa: S608 - the person's own SQL
        columns = self.execute(empty, count, as_of)
        plain = [re.sub(r":\d+$", "", name) for name in columns]
        return tuple(
            short if short in columns[:i] else name for i, (name, short) in enumerate(zip(columns, plain, strict=True))
        )

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return SQLite's own interrupt."""
        return (self._connection.interrupt,)

    def is_lost(self, error: Exception) -> bool:
        """Return False: there is no connection to a file that could be lost."""
        del error
        return False

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _start_again(self) -> None:
        """Run the query again with lenient decoding and pass over the pages that were given away."""
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        self._cursor = self._connection.execute(*self._statement)
        for outline in self._given:
            page = self._cursor.fetchmany(PAGE)
            if not page or _outline(page) != outline:
                raise SourceError(
                    "The source has text that is not UTF-8, and the query returned other rows when it was run again.",
                    hint="use :now instead of the database's clock, no random(), or repair the text",
                )


def _outline(page: Page) -> _Outline:
    """Return what tells a page from another: a row more or less anywhere before moves its borders."""
    return len(page), page[0], page[-1]


def _is_undecodable(error: sqlite3.OperationalError) -> bool:
    return str(error).startswith("Could not decode to UTF-8")
