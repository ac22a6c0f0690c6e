"""Holders of leases, and immediate detection of dead holders, without waiting for their leases to expire.

A holder keeps something that the operating system or Postgres takes away when its process dies: a lock on a small file
next to a SQLite database, or an advisory lock on a connection of its own. Whoever can take that lock knows that the
holder is gone, at once; on another host, only when its lease (30 s) or claim has expired.

Whoever comes next takes over. Runs: the next `sync`, `approve` or `retract` of the audience, or a daemon that starts
(`sync.takeover`); a run that died while reading is failed, one that died while applying is finished. Batches: any
process that delivers, which looks for free ones every second (`batches.claim_free`).

The dead one, should it wake up, cannot write: whoever takes over raises the term of the lease (`leases.assert_held`) or
the number of the claim (`batches`), which every commit compares. A request is sent only if the claim outlasts it; if
the claim is found gone afterwards, the current values are sent again (`batches.reopen`).
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import randbits, token_hex
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.errors import AudienceSyncError
from audience_sync.store.database import Database, file_of

_PROGRAM: Final = "audience-sync "
"""The application name of a connection with a holder's lock, before the name of the holder."""

_LIVING: Final = sa.text(
    "SELECT DISTINCT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND a.application_name LIKE :name"
)


class Holder(Protocol):
    """A living process, under a name that nobody else ever has."""

    name: str

    def is_dead(self, other: str) -> bool:
        """Return whether another holder is known to have died; False when that cannot be told."""

    def keep_alive(self) -> None:
        """Make sure that others still see us alive."""

    def close(self) -> None:
        """Stop being a holder."""


def enter(database: Database) -> Holder:
    """Become a holder on a database."""
    file = file_of(database.engine)
    return AdvisoryHolder(database) if file is None else FileHolder(file)


def dead(database: Database, others: Iterable[str]) -> set[str]:
    """Return which holders on a database are known to have died, for one who only looks."""
    file = file_of(database.engine)
    if file is not None:
        return {other for other in others if _is_gone(_folder_of(file), other)}
    with database.read() as connection:
        return {other for other in others if _is_free(connection, other)}


def living(database: Database) -> set[str]:
    """Return the names of the holders on a database that are known to live; on PostgreSQL without their last part."""
    file = file_of(database.engine)
    if file is not None:
        return {path.name for path in _folder_of(file).glob("[!.]*") if _is_locked(path)}
    with database.read() as connection:
        names = connection.execute(_LIVING, {"name": f"{_PROGRAM}%"}).scalars()
        return {f"{name.removeprefix(_PROGRAM)}:" for name in names}


class FileHolder:
    """A holder on a SQLite database: a locked file in the folder `<database>-holders`.

    A file appears there under its name only once it is locked, so that nobody takes a newcomer for dead.

    Raises:
        AudienceSyncError: nothing can be written there.
    """

    def __init__(self, database: Path) -> None:
        self._folder = _folder_of(database)
        try:
            self._enter()
        except OSError as error:
            raise AudienceSyncError(
                f"cannot write to {self._folder}: {error.strerror}",
                hint="make sure that the folder of the membership database has free space and belongs to the"
                " user who runs audience-sync",
            ) from None

    def _enter(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        for left in self._folder.glob("[!.]*"):
            self.is_dead(left.name)  # removes the file of one that died
        self._path = self._folder / self.name
        hidden = self._folder / f".{self.name}"
        self._file = hidden.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self._path)

    def is_dead(self, other: str) -> bool:
        """Return whether the other's file is gone or can be locked; only one of this host can be judged."""
        return other != self.name and _is_gone(self._folder, other)

    def keep_alive(self) -> None:
        """Do nothing: a lock on a file lasts as long as the process."""

    def close(self) -> None:
        """Remove the file; its lock goes with it."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class AdvisoryHolder:
    """A holder on a Postgres database: an advisory lock whose number is part of its name."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._number = randbits(62)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{self._number}"
        self._alone = threading.Lock()  # many threads ask, there is one connection
        self._connection: Connection | None = None
        self._is_locked = False
        self._take_lock()

    def is_dead(self, other: str) -> bool:
        """Return whether the other's advisory lock is free."""
        if other == self.name:
            return False
        with self._database.read() as connection:
            return _is_free(connection, other)

    def keep_alive(self) -> None:
        """Take the lock again if its connection was lost, as by a restart of Postgres.

        While the server holds our old session for alive, the lock is ours by that; it is asked for again the next time.
        """
        with self._alone:
            try:
                if self._connection is not None and self._is_locked:
                    self._connection.execute(sa.text("SELECT 1"))
                    return
            except sa.exc.SQLAlchemyError:
                self._drop()
            self._take_lock()

    def close(self) -> None:
        """Give the lock back."""
        with self._alone:
            self._drop()

    def _take_lock(self) -> None:
        if self._connection is None:
            engine = self._database.engine
            self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            name = _PROGRAM + self.name.rpartition(":")[0]
            self._connection.execute(sa.text("SELECT set_config('application_name', :name, false)"), {"name": name})
        taken = self._connection.execute(sa.text("SELECT pg_try_advisory_lock(:n)"), {"n": self._number}).scalar()
        self._is_locked = bool(taken)

    def _drop(self) -> None:
        """Close the connection for good, not back into the pool: the lock lasts as long as it does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()
                connection.close()


def _folder_of(database: Path) -> Path:
    return database.with_name(database.name + "-holders")


def _is_gone(folder: Path, name: str) -> bool:
    """Return whether a holder's file is gone, or can be locked: then it is removed."""
    if name.partition(":")[0] != socket.gethostname():
        return False
    try:
        with (folder / name).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except OSError:  # locked: it lives
        return False
    return True


def _is_locked(path: Path) -> bool:
    """Return whether a process of this host has locked a holder's file."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_free(connection: Connection, name: str) -> bool:
    """Return whether a holder's advisory lock is free; if we get it, it ends with this transaction."""
    number = name.rpartition(":")[2]
    if not number.isdigit():
        return False
    return bool(connection.execute(sa.text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": int(number)}).scalar())
