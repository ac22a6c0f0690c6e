"""Running a query: pages of plain tuples from any source, and one clear sentence when it goes wrong.

The rows come straight from the driver's cursor (SQLAlchemy's rows cost twice as much), in pages, in no order, from one
snapshot, over a connection that cannot write. No message shows a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine.default import DefaultDialect

from audience_sync.config import Source
from audience_sync.core.parameters import Statement
from audience_sync.engines.connect import backend, opened
from audience_sync.engines.session import Column, Page, Session, Summing, Sums
from audience_sync.errors import SourceError

_STANDARD = {"sqlite", "postgresql", "duckdb"}  # quote names as standard SQL does
_DECLARED = "SELECT name, type FROM pragma_table_xinfo(:name, :schema) WHERE hidden <> 1"  # 1: not in SELECT *


@dataclass(frozen=True)
class Rows:
    """The result of one query: its columns as the database names them, and its rows, once.

    `sums` may be asked before the first page; None where the database cannot say it.
    """

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]
    sums: Callable[[], Sums | None]


@contextmanager
def open_rows(source: Source, query: str | Statement, *, as_of: datetime) -> Iterator[Rows]:
    """Run a query and yield its columns and the pages of its rows.

    A text is a person's SQL, in which `:now` is `as_of` (aware); a statement is run as it is. The source's
    `statement_timeout` is for the time spent in the database, fetching included, not for what is done with the rows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: anything else, also while `pages` is read.
    """
    with opened(source, source.statement_timeout) as (session, reach):
        statement = _statement(session, query, as_of)
        with reach("refused the query", query if isinstance(query, str) else None):
            names = session.execute(statement)
        _require_columns(names)

        def pages() -> Iterator[Page]:
            while True:
                with reach("failed while its rows were read"):
                    page = session.fetch()
                if not page:
                    return
                yield page

        def sums() -> Sums | None:
            if not isinstance(session, Summing):
                return None
            with reach("failed while counting its rows"):
                return session.sums(statement)

        yield Rows(names, pages, sums)


def probe(source: Source, query: str | Statement, *, as_of: datetime) -> tuple[str, ...]:
    """Return the names of a query's columns, as `open_rows` would, with as little reading as the database allows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: the source cannot be reached or refuses the query.
    """
    return tuple(column.name for column in columns(source, query, as_of=as_of))


def columns(source: Source, query: str | Statement, *, as_of: datetime) -> tuple[Column, ...]:
    """Return the columns of a query with their types, with as little reading as the database allows.

    Raises:
        ConfigError: the SQL can be seen to be wrong without asking the database.
        SourceError: the source cannot be reached or refuses the query.
    """
    with opened(source, source.statement_timeout) as (session, reach):
        statement = _statement(session, query, as_of)
        with reach("refused the query", query if isinstance(query, str) else None):
            found = session.describe(statement)
        _require_columns(found)
        return found


def table_columns(source: Source, table: str, *, as_of: datetime) -> tuple[Column, ...]:
    """Return the columns of a table or view, named as `table` or `schema.table`, with their declared types.

    Raises:
        SourceError: the source cannot be reached, or has no such table.
    """
    names = [table] if table in source.files else table.split(".")
    if backend(source) == "sqlite":
        where = {"name": names[-1], "schema": names[0] if len(names) > 1 else None}
        with open_rows(source, Statement(_DECLARED, where), as_of=as_of) as rows:
            declared = tuple(Column(name, str(kind).lower()) for page in rows.pages() for name, kind in page)
        if declared:
            return declared  # else there is no such table, which SQLite says best itself
    return columns(source, _everything(source, names), as_of=as_of)


def ping(source: Source, timeout: timedelta) -> None:
    """Connect to a source and have it answer a query.

    Raises:
        SourceError: the source cannot be reached, or not within `timeout`.
    """
    with opened(source, timeout) as (session, reach), reach("refused the query"):
        session.execute(Statement("SELECT 1", None))
        session.fetch()


def _statement(session: Session, query: str | Statement, as_of: datetime) -> Statement:
    """Bind `:now` in a person's SQL; a statement is ready already."""
    return session.bind(query, as_of) if isinstance(query, str) else query


def _require_columns(found: Sized) -> None:
    """Refuse a statement that returns nothing."""
    if not found:
        raise SourceError("The SQL is not a query: it returns no columns.", hint="write a SELECT")


def _everything(source: Source, names: Sequence[str]) -> Statement:
    """Return the query for all of a table, the parts of its name quoted by the rules of the source's database."""
    if backend(source) in _STANDARD or source.url is None:
        quote: Callable[[str], str] = DefaultDialect().identifier_preparer.quote_identifier
        parameters: dict[str, object] | None = None
    else:  # SQLAlchemy doubles each % where the driver, when it is given parameters, would take it for its own
        quote = source.url.get_secret_value().get_dialect()().identifier_preparer.quote
        parameters = {}
    return Statement(f"SELECT * FROM {'.'.join(map(quote, names))}", parameters)  # noqa: S608 - quoted
