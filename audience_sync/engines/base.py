"""The interface of a kind of source database: an `Engine`, and the `Session` that it opens.

The docstring of the package lists the steps of adding one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from sqlalchemy.engine import URL
from sqlalchemy.engine.default import DefaultDialect

from audience_sync.compiler.dialect import Dialect
from audience_sync.config import Source
from audience_sync.core.parameters import Lexis, Statement
from audience_sync.errors import SourceError

PAGE = 2_000  # rows fetched at a time: more take longer each, as they leave the cache of the processor
CONNECT_TIMEOUT = timedelta(seconds=30)

Page: TypeAlias = list[tuple[Any, ...]]


class Column(NamedTuple):
    """A column of a query: its name, and its type as the database names it, in lower case; "" where it does not say."""

    name: str
    type: str


class Sums(NamedTuple):
    """Number of the rows of a query, and all that tells other rows: hashes, columns, and the server's settings."""

    rows: int
    hashes: str


class Session(Protocol):
    """A read-only connection on which one statement is run.

    Its methods raise the driver's own exceptions; `query_run` turns them into sentences.
    """

    errors: tuple[type[Exception], ...]  # raised by its driver

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Make a statement of a person's SQL: `:now` is `as_of`, as this database writes instants best."""

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query and return the names of its columns; none: it was not a query."""

    def fetch(self) -> Page:
        """Return the next rows, at most `PAGE`; none: that was all."""

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Return the columns of a query with as little reading as the database allows."""

    def describe_table(self, names: Sequence[str]) -> tuple[Column, ...]:
        """Return the columns of a table or view; `names` are the parts of its name, its schema first."""

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the ways to stop, from another thread, what the connection is doing: the politest first."""

    def is_lost(self, error: Exception) -> bool:
        """Return whether an error means that the connection is gone."""

    def remedy(self, error: Exception) -> str | None:
        """Return what a person can do about an error, where that is known: the database's own hint, too."""

    def position(self, error: Exception) -> int | None:
        """Return the offset in a person's SQL that an error is about, where the database says it."""

    def close(self) -> None:
        """Release everything; never raises."""


@runtime_checkable
class Summing(Protocol):
    """A session whose database says what the rows of a query come to, from the snapshot in which they are read."""

    def sums(self, statement: Statement) -> Sums | None:
        """Return what its rows come to; None: the database cannot say it, and the query can still be read."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One kind of source database."""

    connect: Callable[[Source, timedelta], Session]  # read only, in one snapshot, within the time given
    connect_errors: tuple[type[Exception], ...]  # raised by `connect`: the source cannot be reached
    lexis: Lexis  # how the database reads a person's SQL
    dialect: Dialect | None = None  # how queries are written for it; None: it takes only a person's SQL

    def now(self, instant: datetime) -> object:
        """Return what `:now` in a person's SQL is bound to."""
        return instant.astimezone(UTC) if self.dialect is None else self.dialect.now(instant)


def everything(names: Sequence[str]) -> Statement:
    """Return the query for all of a table, in a database that quotes names as standard SQL does."""
    quote = DefaultDialect().identifier_preparer.quote_identifier
    return Statement(f"SELECT * FROM {'.'.join(map(quote, names))}", None)  # noqa: S608 - quoted


def url_of(source: Source) -> URL:
    """Return the URL of a source that is a database."""
    if source.url is None:
        raise AssertionError("the engine reads a database, but the source has no url")
    return source.url.get_secret_value()


def existing_file(url: URL) -> Path:
    """Return the absolute path of the file a URL names; a file that is not there is not made.

    Raises:
        SourceError: there is no such file, or the URL names none.
    """
    if url.database in {None, "", ":memory:"}:
        raise SourceError(
            "The url of the source has no file name.",
            hint="for an absolute path, write four slashes, as in sqlite:////srv/shop.db",
        )
    path = Path(str(url.database).removeprefix("file:")).absolute()
    if not path.is_file():
        raise SourceError(
            f"The source file {path} does not exist.",
            hint="check the url of the source",
        )
    return path
