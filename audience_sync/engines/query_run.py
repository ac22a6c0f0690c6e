"""Running a query: pages of plain tuples from any source, and one clear sentence when it goes wrong.

The rows come straight from the driver's cursor (SQLAlchemy's rows cost twice as much), in pages, in no order, from one
snapshot, over a connection that cannot write. No message shows a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from audience_sync.config import Source
from audience_sync.core.parameters import Statement, naming
from audience_sync.engines.base import Column, Page, Session, Summing, Sums
from audience_sync.engines.connect import opened
from audience_sync.errors import SourceError


@dataclass(frozen=True)
class Rows:
    """The result of one query: its columns as the database names them, and its rows, once.

    `sums` may be asked before the first page; None where the database cannot say it.
    """

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]
    sums: Callable[[], Sums | None]


@contextmanager
def open_rows(source: Source, query: str | Statement, *, as_of: datetime, file: Path | None = None) -> Iterator[Rows]:
    """Run a query and yield its columns and the pages of its rows.

    A text is a person's SQL, in which `:now` is `as_of` (aware), from a `file` if it has one of its own; errors name
    it. A statement is run as it is. The source's
    `statement_timeout` is for the time spent in the database, fetching included, not for what is done with the rows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: anything else, also while `pages` is read.
    """
    with opened(source, source.statement_timeout) as (session, reach):
        statement = _statement(session, query, as_of, file)
        with reach("refused the query", query if isinstance(query, str) else None, file):
            names = session.execute(statement)
        _require_columns(names)

        def pages() -> Iterator[Page]:
            while True:
                with reach("failed while reading rows"):
                    page = session.fetch()
                if not page:
                    return
                yield page

        def sums() -> Sums | None:
            if not isinstance(session, Summing):
                return None
            with reach("failed while computing sums"):
                return session.sums(statement)

        yield Rows(names, pages, sums)


def probe(source: Source, query: str | Statement, *, as_of: datetime, file: Path | None = None) -> tuple[str, ...]:
    """Return the names of a query's columns, as `open_rows` would, with as little reading as the database allows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: the source cannot be reached or refuses the query.
    """
    return tuple(column.name for column in columns(source, query, as_of=as_of, file=file))


def columns(source: Source, query: str | Statement, *, as_of: datetime, file: Path | None = None) -> tuple[Column, ...]:
    """Return the columns of a query with their types, with as little reading as the database allows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: the source cannot be reached or refuses the query.
    """
    with opened(source, source.statement_timeout) as (session, reach):
        statement = _statement(session, query, as_of, file)
        with reach("refused the query", query if isinstance(query, str) else None, file):
            found = session.describe(statement)
        _require_columns(found)
        return found


def table_columns(source: Source, table: str) -> tuple[Column, ...]:
    """Return the columns of a table or view, named as `table` or `schema.table`, with their declared types.

    Raises:
        SourceError: the source cannot be reached, or has no such table.
    """
    names = [table] if table in source.files else table.split(".")
    with opened(source, source.statement_timeout) as (session, reach), reach("refused the query"):
        return session.describe_table(names)


def ping(source: Source, timeout: timedelta) -> None:
    """Connect to a source and have it answer a query.

    Raises:
        SourceError: the source cannot be reached, or not within `timeout`.
    """
    with opened(source, timeout) as (session, reach), reach("refused the query"):
        session.execute(Statement("SELECT 1", None))
        session.fetch()


def _statement(session: Session, query: str | Statement, as_of: datetime, file: Path | None) -> Statement:
    """Bind `:now` in a person's SQL; a statement is ready already."""
    if not isinstance(query, str):
        return query
    with naming(file):
        return session.bind(query, as_of)


def _require_columns(found: Sized) -> None:
    """Refuse a statement that returns nothing."""
    if not found:
        raise SourceError("The SQL is not a query: it does not return any columns.", hint="write a SELECT")
