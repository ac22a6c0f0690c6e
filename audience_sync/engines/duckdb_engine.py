"""DuckDB: a database file opened read only, or no file at all and a query over Parquet and CSV.

Python has no infinite times, none before the year 1 or after 9999, and no interval of a million years. DuckDB's driver
turns the first into other times, the second into text, and fails for the third; so a query with such columns is
wrapped in one that also says which of their values are meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import duckdb

from audience_sync.config import Source
from audience_sync.core.keys import Unreadable, unreadable
from audience_sync.core.parameters import Statement, bind_now
from audience_sync.engines.base import PAGE, Column, Engine, Page, everything, existing_file, url_of
from audience_sync.engines.duckdb_dialect import DuckdbDialect
from audience_sync.errors import SourceError

MORE_MEMORY = "make the query cheaper, or raise memory_limit"
_DIALECT = DuckdbDialect()
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')  # names within a type
_MOST_CHECKED = 60  # columns: bits of a BIGINT
_MARKED = re.compile(r"^(?P<title>LINE (?P<number>\d+): )(?P<line>.*)\n(?P<before> *)\^", re.MULTILINE)
_CUT = "..."  # what DuckDB shows in place of the rest of a long line
_PROPOSAL = re.compile(r"^(?:Candidate |Did you mean |HINT: ).+", re.MULTILINE)


def connect(source: Source, limit: timedelta) -> DuckdbSession:
    """Open an existing file read only, with the URL's query as DuckDB's settings; DuckDB never waits for a lock."""
    del limit
    url = url_of(source)
    settings: dict[str, str | bool | int | float | list[str]] = {
        name: values[-1] for name, values in url.normalized_query.items()
    }
    if "timezone" in map(str.lower, settings):
        raise SourceError(
            "The url of the source sets TimeZone, but sources are read in UTC.", hint="remove TimeZone from the url"
        )
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
        self._checked: Sequence[int] = ()  # positions of the columns that may have unreadable values
        self._written = ""  # a person's SQL
        self._lines_before = 0  # of ours, before a person's SQL in the statement that ran last
        self._described: duckdb.Error | None = None  # what was wrong when only the columns were asked for

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Bind `:now` as a timestamp without a zone, in UTC, as DuckDB's timestamps without a zone are taken to be."""
        bound = bind_now(sql, "$now", lexis=_DIALECT.lexis)  # as long as `:now`: every place stays where it was
        self._written = sql
        return Statement(bound.sql, {"now": _DIALECT.now(as_of)} if bound.placeholders else None)

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query."""
        found: tuple[Column, ...] = ()
        try:
            found = self.describe(statement)
        except duckdb.Error as error:  # what is wrong with it is said when it runs, but perhaps not where
            self._described = error
        checks = _checks(found)
        self._lines_before = 1 if checks else 0
        self._checked = list(checks)
        if checks:
            statement = statement._replace(sql=_with_checks(statement.sql, found, checks))
        self._connection.execute(*statement)
        names = [column[0] for column in self._connection.description or ()]
        return tuple(names[:-1] if checks else names)

    def fetch(self) -> Page:
        """Return the next rows; what Python cannot represent is an `Unreadable` in its row."""
        page: Page = self._connection.fetchmany(PAGE)
        return [_readable(row, self._checked) if row[-1] else row[:-1] for row in page] if self._checked else page

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns and their types; nothing is run."""
        self._lines_before = 1
        self._connection.execute(*statement._replace(sql=f"DESCRIBE (\n{statement.sql}\n)"))
        return tuple(Column(name, kind.lower()) for name, kind, *_ in self._connection.fetchall())

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Name the columns and their types."""
        return self.describe(everything(names))

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return DuckDB's own interrupt."""
        return (self._connection.interrupt,)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether the database became unusable."""
        return isinstance(error, duckdb.FatalException)

    def remedy(self, error: Exception) -> str | None:
        """Return what to do when memory is short, or what DuckDB proposes."""
        if isinstance(error, duckdb.OutOfMemoryException):
            return MORE_MEMORY
        proposed = _PROPOSAL.search(str(error))
        return " ".join(proposed.group().split()).rstrip(".") if proposed else None

    def position(self, error: Exception) -> int | None:
        """Return where a person's SQL is wrong; with parameters, DuckDB says it only when it is asked for columns."""
        found = self._position(str(error), self._lines_before)
        return found if found is not None or self._described is None else self._position(str(self._described), 1)

    def _position(self, said: str, lines_before: int) -> int | None:
        """Return the place that DuckDB shows: a line, with a mark under the place."""
        shown = _MARKED.search(said)
        if shown is None:
            return None
        lines = self._written.split("\n")
        number = int(shown["number"]) - 1 - lines_before
        part = shown["line"].removeprefix(_CUT).removesuffix(_CUT).rstrip().replace("$now", ":now")
        start = lines[number].find(part) if 0 <= number < len(lines) else -1
        if start < 0:
            return None
        column = len(shown["before"]) - len(shown["title"]) - len(_CUT) * shown["line"].startswith(_CUT)
        return sum(len(line) + 1 for line in lines[:number]) + start + column

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _checks(columns: Sequence[Column]) -> dict[int, str]:
    """Return, by position, what is true in SQL of the values of a column that Python cannot represent."""
    if len({column.name.lower() for column in columns}) < len(columns):  # which of two is meant, nobody knows
        return {}
    found: dict[int, str] = {}
    for position, column in enumerate(columns):
        kind, name = _QUOTED.sub("", column.type), _name(column.name)
        if "interval" in kind:
            found[position] = f"{name} IS NOT NULL"
        elif kind == "date" or kind.startswith("timestamp"):
            exists = f"TRY_CAST({name} AS TIMESTAMP) BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"
            found[position] = f"{name} IS NOT NULL AND NOT coalesce({exists}, false)"
        elif kind == "time":
            found[position] = f"{name} = '24:00:00'"
    return dict(list(found.items())[:_MOST_CHECKED])


def _with_checks(sql: str, columns: Sequence[Column], checks: dict[int, str]) -> str:
    """Return a query with one more column, whose bits say which of the checked columns are unreadable."""
    bits = [f"CASE WHEN {check} THEN {1 << n} ELSE 0 END" for n, check in enumerate(checks.values())]
    intervals = [_name(columns[at].name) for at in checks if "interval" in _QUOTED.sub("", columns[at].type)]
    texts = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in intervals)
    return f"SELECT *{f' REPLACE ({texts})' if texts else ''}, {' + '.join(bits)} FROM (\n{sql}\n)"  # noqa: S608 - quoted


def _readable(row: tuple[Any, ...], checked: Sequence[int]) -> tuple[Any, ...]:
    """Return a row with its unreadable values marked, without the column that says which they are."""
    *values, bits = row
    for n, position in enumerate(checked):
        if bits >> n & 1:
            values[position] = _unreadable(values[position])
    return tuple(values)


def _unreadable(value: object) -> Unreadable:
    if isinstance(value, date):  # the driver's word for an infinite one
        return unreadable("infinity" if value.year > 1 else "-infinity", "an infinite time; cast it to text")
    return unreadable(str(value), "a time or interval that Python cannot represent; cast it to text")


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


ENGINE = Engine(connect=connect, connect_errors=(duckdb.Error,), lexis=_DIALECT.lexis, dialect=_DIALECT)
