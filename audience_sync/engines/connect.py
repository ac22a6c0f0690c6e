"""Opening a source with the module that knows its database, and putting what goes wrong there into one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Protocol

from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError

from audience_sync.config import Source
from audience_sync.core.parameters import place_in
from audience_sync.engines.session import CONNECT_TIMEOUT, GRACE, Deadline, Session
from audience_sync.engines.source_errors import explained, overdue, place_of
from audience_sync.errors import STOPPED_ON_REQUEST, AudienceSyncError, SourceError
from audience_sync.extras import DIALECTS, install_command, missing
from audience_sync.signals import interrupting

_MODULES = {"postgresql": "postgresql_source", "sqlite": "sqlite_source", "duckdb": "duckdb_source"}


class Reach(Protocol):
    """Runs a block under the deadline of its session, and explains what goes wrong in it."""

    def __call__(self, what: str, sql: str | None = None) -> AbstractContextManager[None]:
        """Return the context; `what` is said of a failure, `sql` is the SQL of a person that it may be about."""


def backend(source: Source) -> str:
    """Return whose SQL a source speaks: `sqlite`, `postgresql`, `duckdb` (files too), or SQLAlchemy's word for it."""
    return source.url.get_secret_value().get_backend_name() if source.url else "duckdb"


@contextmanager
def opened(source: Source, limit: timedelta) -> Iterator[tuple[Session, Reach]]:
    """Open a session and yield it with a function that runs a block under its deadline and explains its errors.

    Raises:
        SourceError: the source cannot be reached, its driver is missing, or what is run in the block fails.
        AudienceSyncError: a signal asked the process to end.
    """
    place = place_of(source)
    with closing(_connected_soon(source, place, limit)) as session, Deadline(limit, session.interrupts()) as deadline:

        @contextmanager
        def reach(what: str, sql: str | None = None) -> Iterator[None]:
            try:
                with deadline.running():
                    if deadline.stopped:  # before the query has begun, when an interrupt has no effect
                        raise _stopped()
                    yield
            except session.errors as error:
                if not deadline.is_over:
                    lost = session.is_lost(error)
                    failure = f"The connection to {place} was lost" if lost else f"{place} {what}"
                    at = session.position(error) if sql is not None else None
                    where = place_in(sql or "", at) if at is not None else None
                    raise explained(failure, error, source, where=where, hint=session.remedy(error)) from None
            if deadline.stopped:
                raise _stopped()
            if deadline.expired:
                raise overdue(place, limit)

        yield session, reach


def _connected_soon(source: Source, place: str, limit: timedelta) -> Session:
    """Connect in a thread of its own, which is left behind when the process is to end or a driver waits for ever."""
    found: Future[Session] = Future()
    woken = threading.Event()

    def work() -> None:
        try:
            session = _connected(source, place, limit)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            if found.set_running_or_notify_cancel():
                found.set_exception(error)
        else:
            if found.set_running_or_notify_cancel():
                found.set_result(session)
            else:
                session.close()
        woken.set()

    patience = limit if source.url is None else min(limit, CONNECT_TIMEOUT)  # files are looked at within the limit
    threading.Thread(target=work, name="connecting", daemon=True).start()
    in_time = False
    try:
        with interrupting(woken.set):
            in_time = woken.wait(patience.total_seconds() + GRACE)
    finally:
        is_left = found.cancel()
    if is_left:
        raise _stopped() if in_time else explained(f"Cannot connect to {place}", TimeoutError("no answer"), source)
    return found.result()


def _stopped() -> AudienceSyncError:
    return AudienceSyncError(STOPPED_ON_REQUEST)


def _connected(source: Source, place: str, limit: timedelta) -> Session:
    """Connect with the module of the source's database, or with the general one."""
    url = source.url.get_secret_value() if source.url else None
    packages = DIALECTS.get(url.get_backend_name(), ()) if url else ()
    name = _MODULES.get(backend(source), "sqlalchemy_source") if url else "file_source"
    try:
        module = import_module(f"audience_sync.engines.{name}")
        connect: Callable[[URL | Source, timedelta], Session] = module.connect
    except ImportError as error:
        raise _not_installed(place, missing(error), packages) from None
    try:
        return connect(url or source, limit)
    except ImportError as error:
        raise _not_installed(place, missing(error), packages) from None
    except NoSuchModuleError:
        raise _not_installed(place, url.drivername if url else name, packages) from None
    except (*module.CONNECT_ERRORS, OSError, TypeError, ValueError) as error:
        hint = "check the url of the source" if url else "check the path and the memory_limit of the source"
        raise explained(f"Cannot connect to {place}", error, source, hint=hint) from None


def _not_installed(place: str, what: str, packages: Sequence[str]) -> SourceError:
    otherwise = "install the SQLAlchemy dialect of this database, or check the url"
    hint = install_command(packages) if packages else otherwise
    return SourceError(f"The driver for {place} is not installed: {what}.", hint=hint)
