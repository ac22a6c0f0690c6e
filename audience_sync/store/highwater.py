"""The high-water mark: the highest generation ever committed, in a small file beside a SQLite database.

A database that comes back from a backup has forgotten what was sent since, and cannot know that it has. The file
`<database>-highwater` is no part of a backup of the database, and tells. It is written only after a generation is
committed and never runs ahead of the database: one that is behind its mark is older than what was sent from it,
wherever a process was killed. Nothing is sent under a generation before the mark has been raised to it: by whoever
issued it, or, if that died, by the next to open the database. A database that is copied elsewhere has no mark, and
starts one. Postgres has no file beside it, and so no mark.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.db import Database, highwater_of
from audience_sync.errors import AudienceSyncError, DatabaseOlder


class Mark(NamedTuple):
    """How far a database has come: its highest generation, 0 for none, and when its first run started.

    Both are milliseconds since 1970, a generation only about so. No two databases began at one moment, so that tells
    them apart; None of one that has had no run.
    """

    generation: int
    began_at: int | None


def require_newest(database: Database) -> None:
    """Refuse a database that is behind its mark, and raise the mark to one that is not.

    Raises:
        DatabaseOlder: it is behind.
        AudienceSyncError: the mark cannot be read or written.
    """
    path = path_of(database.engine)
    if path is None:
        return
    known = read(path)  # before the database: others may raise both in between
    with database.read() as connection:
        found = _of(connection)
    _compare(path, found, known)
    try:
        _raise(path, found)
    except OSError as error:
        raise AudienceSyncError(f"cannot write {path}: {error.strerror}") from None


def require_not_behind(connection: Connection) -> None:
    """Refuse, within a transaction that writes, a database that is behind its mark.

    Raises:
        DatabaseOlder: it is behind.
        AudienceSyncError: the mark cannot be read.
    """
    path = path_of(connection.engine)
    if path is not None:
        _compare(path, _of(connection), read(path))


def keep(connection: Connection) -> None:
    """Raise the mark to what the database has; the caller has just committed.

    Where the file cannot be written, as on a full disk, what is committed stands all the same: the next generation, or
    the next start, raises the mark.
    """
    path = path_of(connection.engine)
    if path is not None:
        with suppress(OSError, AudienceSyncError, sa.exc.SQLAlchemyError):
            _raise(path, _of(connection))


def known_of(connection: Connection) -> Mark:
    """Return the mark of a database, all zero where it has none."""
    path = path_of(connection.engine)
    return (read(path) if path else None) or Mark(0, None)


def is_behind(connection: Connection) -> bool:
    """Return whether a database is behind its mark."""
    try:
        require_not_behind(connection)
    except DatabaseOlder:
        return True
    return False


def path_of(engine: Engine) -> Path | None:
    """Return where the mark of a SQLite database is; None on Postgres."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return highwater_of(Path(engine.url.database))


def read(path: Path) -> Mark | None:
    """Return a mark, or None where there is none.

    Raises:
        AudienceSyncError: the file cannot be read.
    """
    try:
        return Mark(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AudienceSyncError(f"cannot read {path}: {error.strerror}") from None
    except (TypeError, ValueError):
        raise AudienceSyncError(
            f"cannot read {path}: it is not what audience-sync writes",
            hint="if the database beside it is the newest that you have, remove the file; the next sync makes it anew",
        ) from None


def _of(connection: Connection) -> Mark:
    following = connection.execute(sa.text("SELECT value FROM settings WHERE name = 'generation'")).scalar_one()
    began_at = connection.execute(sa.text("SELECT started_at FROM runs ORDER BY id LIMIT 1")).scalar()
    return Mark(max(0, int(following) - 1), began_at)


def _compare(path: Path, found: Mark, known: Mark | None) -> None:
    if known is None or _are_strangers(found, known) or found.generation >= known.generation:
        return
    until = f"its last sync was at {_time(found)}" if found.generation else "it has never synced"
    raise DatabaseOlder(
        f"the membership database beside {path} is older than what was sent from it: {until},"
        f" and others followed until {_time(known)}",
        hint="put the newer file back; or go on with this one: `audience-sync sync --resync --force` sends again all"
        " that it knows",
    )


def _are_strangers(found: Mark, known: Mark) -> bool:
    return None not in {found.began_at, known.began_at} and found.began_at != known.began_at


def _time(mark: Mark) -> str:
    return f"{datetime.fromtimestamp(mark.generation / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _raise(path: Path, found: Mark) -> None:
    """Write a mark unless the one that is there is as high; safe against a crash, and against who else is writing."""
    if not found.generation:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # of two processes neither may put the lower mark over the higher
        known = read(path)
        if known is not None and not _are_strangers(found, known) and known.generation >= found.generation:
            return
        fresh = path.with_name(path.name + ".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            if os.geteuid() == 0:  # as SQLite does with its files: root must not lock the database's owner out
                owner = path.with_name(path.name.removesuffix("-highwater")).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(json.dumps(found._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        os.fsync(folder)
    finally:
        os.close(folder)
