"""Open a source with its engine; what goes wrong with it becomes one sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import NoSuchModuleError

from audience_sync.config import Source
from audience_sync.core.parameters import place_in
from audience_sync.engines.base import CONNECT_TIMEOUT, Session
from audience_sync.engines.deadline import GRACE, Deadline
from audience_sync.engines.registry import engine_name, engine_of, not_installed
from audience_sync.engines.source_errors import explained, overdue, place_of
from audience_sync.errors import STOPPED_ON_REQUEST, AudienceSyncError
from audience_sync.extras import missing
from audience_sync.signals import interrupting


class Reach(Protocol):
    """Runs a block under the deadline of its session, and explains what goes wrong in it."""

    def __call__(self, what: str, sql: str | None = None, file: Path | None = None) -> AbstractContextManager[None]:
        """Return the context; `what` is said of a failure, `sql` is the SQL of a person that it may be about.

        `file` is the file of that SQL, if it has one of its own.
        """


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
        def reach(what: str, sql: str | None = None, file: Path | None = None) -> Iterator[None]:
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
                    where = _where(sql or "", at, None if sql is None or lost else file)
                    raise explained(failure, error, source, where=where, hint=session.remedy(error)) from None
            if deadline.stopped:
                raise _stopped()
            if deadline.expired:
                raise overdue(place, limit)

        yield session, reach


def _where(sql: str, at: int | None, file: Path | None) -> str | None:
    """Return where in a person's SQL, and in which file, an error is; None: nobody knows."""
    if at is None:
        return None if file is None else f"in {file}"
    return f"at {place_in(sql, at)}" if file is None else f"at {file}, {place_in(sql, at)}"


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
    if not is_left:
        return found.result()
    if in_time:  # woken by a signal
        raise _stopped()
    raise explained(f"Cannot connect to {place}", TimeoutError("no answer"), source, hint=_connect_hint(source))


def _stopped() -> AudienceSyncError:
    return AudienceSyncError(STOPPED_ON_REQUEST)


def _connected(source: Source, place: str, limit: timedelta) -> Session:
    """Connect with the engine of a source."""
    engine = engine_of(source)
    unreachable: tuple[type[Exception], ...] = (*engine.connect_errors, OSError, TypeError, ValueError)
    try:
        return engine.connect(source, limit)
    except ImportError as error:
        raise not_installed(source, missing(error)) from None
    except NoSuchModuleError:
        driver = source.url.get_secret_value().drivername if source.url else engine_name(source)
        raise not_installed(source, driver) from None
    except unreachable as error:
        raise explained(f"Cannot connect to {place}", error, source, hint=_connect_hint(source)) from None


def _connect_hint(source: Source) -> str:
    if source.url is None:
        return "check the path and memory_limit of the source"
    if source.url.get_secret_value().host is None:
        return "check the url of the source"
    return "check the url of the source, and that the server is running and accepts connections from this machine"
