"""Who holds leases, and whether a holder has died: known at once, without waiting for its lease to run out.

A holder keeps something that the operating system or Postgres takes away when its process dies: a lock on a small file
beside a SQLite database, or an advisory lock on a connection of its own. Whoever can take that lock knows that the
holder is gone.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from secrets import randbits, token_hex
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.db import Database


class Holder(Protocol):
    """A living process, under a name that nobody else ever has."""

    name: str

    def is_dead(self, other: str) -> bool:
        """Return whether another holder is known to have died; False when that cannot be told."""

    def close(self) -> None:
        """Stop being a holder."""


def enter(database: Database) -> Holder:
    """Become a holder on a database."""
    return FileHolder(Path(str(database.engine.url.database))) if database.is_sqlite else AdvisoryHolder(database)


class FileHolder:
    """A holder on a SQLite database: a locked file in the folder `<database>-holders`."""

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(database.name + "-holders")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"
        self._path = self._folder / self.name
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def is_dead(self, other: str) -> bool:
        """Return whether the other's file is gone or can be locked; only one of this host can be judged."""
        if other == self.name or other.partition(":")[0] != socket.gethostname():
            return False
        try:
            with (self._folder / other).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self._folder / other).unlink(missing_ok=True)
        except FileNotFoundError:
            return True
        except OSError:  # locked: it lives
            return False
        return True

    def close(self) -> None:
        """Remove the file; its lock goes with it."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class AdvisoryHolder:
    """A holder on a Postgres database: an advisory lock whose number is part of its name."""

    def __init__(self, database: Database) -> None:
        self._database = database
        number = randbits(62)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{number}"
        self._connection: Connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.execute(sa.text("SELECT pg_advisory_lock(:n)"), {"n": number})

    def is_dead(self, other: str) -> bool:
        """Return whether the other's advisory lock is free."""
        number = other.rpartition(":")[2]
        if other == self.name or not number.isdigit():
            return False
        with self._database.read() as connection:  # the lock, if we get it, ends with this transaction
            return bool(
                connection.execute(sa.text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": int(number)}).scalar()
            )

    def close(self) -> None:
        """Give the lock back."""
        self._connection.invalidate()
        self._connection.close()
