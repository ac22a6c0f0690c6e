"""Running a person's query: pages of plain tuples from any database, and one clear sentence when it goes wrong.

The rows come straight from the driver's cursor (SQLAlchemy's rows cost twice as much), in pages, in no order, from one
snapshot, over a connection that cannot write. No message shows a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from audience_sync.core.parameters import Bound, bind_now
from audience_sync.errors import ConfigError, SourceError
from audience_sync.source.explain import explained, place_of, spell
from audience_sync.source.session import Deadline, Page, Session

_ROOMS = {"postgresql": "postgres", "sqlite": "sqlite", "duckdb": "duckdb"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Rows:
    """The result of one query: its columns as the database names them, and its rows, once."""

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]


@contextmanager
def open_rows(url: str, sql: str, *, as_of: datetime, statement_timeout: timedelta) -> Iterator[Rows]:
    """Run a query and yield its columns and the pages of its rows; `:now` is `as_of` (aware).

    `statement_timeout` is for the time spent in the database, fetching included, not for what is done with the rows.

    Raises:
        ConfigError: the SQL or the URL can be seen to be wrong without asking the database.
        SourceError: anything else, also while `pages` is read.
    """
    with _session(url, statement_timeout) as (session, reach):
        bound = _bind(session, sql)
        with reach("refused the query"):
            columns = session.execute(*bound, as_of)
        _require_columns(columns)

        def pages() -> Iterator[Page]:
            while True:
                with reach("failed while its rows were read"):
                    page = session.fetch()
                if not page:
                    return
                yield page

        yield Rows(columns, pages)


def probe(url: str, sql: str, *, as_of: datetime, statement_timeout: timedelta) -> tuple[str, ...]:
    """Return the columns of a query, as `open_rows` would, with as little reading as the database allows.

    Raises:
        ConfigError: the SQL or the URL can be seen to be wrong without asking the database.
        SourceError: the database cannot be reached or refuses the query.
    """
    with _session(url, statement_timeout) as (session, reach):
        bound = _bind(session, sql)
        with reach("refused the query"):
            columns = session.describe(*bound, as_of)
        _require_columns(columns)
        return columns


def ping(url: str, timeout: timedelta) -> None:
    """Connect to a source and have it answer a query.

    Raises:
        ConfigError: the URL cannot be read.
        SourceError: the source cannot be reached, or not within `timeout`.
    """
    with _session(url, timeout) as (session, reach), reach("refused the query"):
        session.execute("SELECT 1", 0, _EPOCH)
        session.fetch()


_Reach = Callable[[str], AbstractContextManager[None]]


@contextmanager
def _session(text: str, limit: timedelta) -> Iterator[tuple[Session, _Reach]]:
    """Open a session and yield it with a function that runs a block under its deadline and explains its errors."""
    url = _parse(text)
    place = place_of(url)
    with closing(_open(url, place, limit)) as session:
        deadline = Deadline(limit, session.interrupts())

        @contextmanager
        def reach(what: str) -> Iterator[None]:
            try:
                with deadline.running():
                    yield
            except session.errors as error:
                if not deadline.expired:
                    lost = session.is_lost(error)
                    failure = f"The connection to {place} was lost" if lost else f"{place} {what}"
                    raise explained(failure, error, url) from None
            if deadline.expired:
                raise SourceError(
                    f"The query on {place} did not finish within {spell(limit)}.",
                    hint="make the query cheaper or raise statement_timeout",
                )

        yield session, reach


def _open(url: URL, place: str, limit: timedelta) -> Session:
    """Connect with the room of the URL's database, or with the general one."""
    backend = url.get_backend_name()
    name = _ROOMS.get(backend, "other")
    try:
        room = import_module(f"audience_sync.source.{name}")
        connect: Callable[[URL, timedelta], Session] = room.connect
    except ModuleNotFoundError as error:
        raise _not_installed(place, error.name, f"pip install 'audience-sync[{name}]'") from None
    try:
        return connect(url, limit)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise _not_installed(place, url.drivername, f"pip install the SQLAlchemy driver of {backend}") from None
    except (*room.CONNECT_ERRORS, OSError, TypeError, ValueError) as error:
        raise explained(f"Cannot connect to {place}", error, url, hint="check the url of the source") from None


def _not_installed(place: str, missing: str | None, remedy: str) -> SourceError:
    return SourceError(f"The driver for {place} is not installed: {missing}.", hint=remedy)


def _bind(session: Session, sql: str) -> Bound:
    """Put the driver's placeholders in place of `:now`."""
    return bind_now(sql, session.placeholder, lexis=session.lexis, double_percent=session.double_percent)


def _require_columns(columns: tuple[str, ...]) -> None:
    """Refuse a statement that returns nothing."""
    if not columns:
        raise SourceError("The SQL is not a query: it returns no columns.", hint="write a SELECT")


def _parse(text: str) -> URL:
    """Read the URL of a source without ever repeating it."""
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "The url of the source is not a database URL.", hint="write dialect://user@host/database"
        ) from None
