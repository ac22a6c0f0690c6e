"""The high-water mark: the highest generation ever committed, in a small file next to a SQLite database.

A database that is restored from a backup has forgotten what was sent since, and cannot notice that by itself. The file
`<database>-highwater` is not part of the backup and shows it. These rules hold:

- Every commit that changes what is to be sent, or settles what was sent, takes a generation (`generations.advance`):
  each commit of leased work, events that are taken, a person who is forgotten.
- The mark is written, and is on the disk, only after such a commit. It never runs ahead of the database: a crash
  between the two is not mistaken for a restore, and the next commit or the next start catches up.
- Nothing is sent while the mark is below the commit that decided to send it (`require_kept`). So a database below its
  mark has forgotten something, and a database at or above it has forgotten nothing that Schematic knows.
- A mark belongs to the database that began at the same moment; it does not apply to another database in its place.

A database that is copied elsewhere has no mark there, and starts one. A snapshot of the whole folder takes the mark
along. PostgreSQL has no file next to it, and so no mark.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TextIO

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from audience_sync.core.model import from_ms
from audience_sync.core.text import instant_text
from audience_sync.errors import DatabaseOlder, MarkUnusable
from audience_sync.segment.timestamps import iso
from audience_sync.store.database import Database, file_of, highwater_of

MISSING: Final = (
    "the high-water mark next to the membership database is missing, so audience-sync cannot tell whether"
    " this is the newest copy of the database; a new mark is kept from now on"
)
MISSING_HINT: Final = (
    "if the database was restored from a backup, run `audience-sync sync --resync` to send everything again"
)

BEGAN_AT: Final = "began_at"  # a setting, from the first generation on


class Mark(NamedTuple):
    """How far a database has come: its highest generation, 0 for none, and when the first one was issued.

    Both are milliseconds since 1970; a generation only approximately. Two databases never began at the same moment, so
    `began_at` distinguishes them. It is None while no generation was issued.
    """

    generation: int
    began_at: int | None


def require_newest(database: Database) -> None:
    """Refuse a database that is behind its mark; raise the mark to one that is not, if the mark can be written.

    Raises:
        DatabaseOlder: it is behind.
        MarkUnusable: the mark cannot be read.
    """
    path = path_of(database.engine)
    if path is None:
        return
    known = read(path)  # before the database: others may raise both in between
    with database.read() as connection:
        found = _of(connection)
    _compare(path, found, known)
    with suppress(MarkUnusable):  # before anything is sent, it must be possible
        _raise(path, found)


def is_missing(database: Database) -> bool:
    """Return whether the mark is missing although it was kept before.

    Then the database was copied or restored to this place, or somebody removed the mark.
    """
    path = path_of(database.engine)
    if path is None or path.exists():
        return False
    with database.read() as connection:
        return _began_at(connection) is not None


def require_kept(database: Database) -> None:
    """Raise the mark to what is committed. To be called between a commit and the first request that depends on it.

    Raises:
        MarkUnusable: the mark cannot be read or written, so nothing may be sent.
    """
    path = path_of(database.engine)
    if path is not None:
        with database.read() as connection:
            found = _of(connection)
        _raise(path, found)


def require_writable(database: Database) -> None:
    """Try whether the mark could be written, without writing it.

    Raises:
        MarkUnusable: it could not.
    """
    path = path_of(database.engine)
    if path is not None:
        with _locked(path), _written(_fresh(path)):
            _fresh(path).unlink()


def require_not_behind(connection: Connection) -> None:
    """Refuse, within a transaction that writes, a database that is behind its mark.

    Raises:
        DatabaseOlder: it is behind.
        MarkUnusable: the mark cannot be read.
    """
    path = path_of(connection.engine)
    if path is not None:
        _compare(path, _of(connection), read(path))


def begin(connection: Connection, now_ms: int) -> None:
    """Keep when a database that has a mark began, if it begins now."""
    if path_of(connection.engine) is not None and _began_at(connection) is None:
        found = _of(connection).began_at
        connection.execute(
            sa.text(f"INSERT INTO settings (name, value) VALUES ('{BEGAN_AT}', :v)"),
            {"v": str(now_ms if found is None else found)},
        )


def keep(connection: Connection) -> None:
    """Raise the mark to what the database has; the caller has just committed.

    Where the file cannot be written, as on a full disk, what is committed stands all the same: `require_kept` says so
    before anything is sent.
    """
    path = path_of(connection.engine)
    if path is not None:
        with suppress(MarkUnusable, sa.exc.SQLAlchemyError):
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
    """Return where the mark of a SQLite database is, next to its real file; None on Postgres."""
    file = file_of(engine)
    return None if file is None else highwater_of(file)


def read(path: Path) -> Mark | None:
    """Return a mark, or None where there is none.

    Raises:
        MarkUnusable: the file cannot be read.
    """
    try:
        return Mark(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MarkUnusable(f"cannot read {path}: {error.strerror}") from None
    except (TypeError, ValueError):
        raise MarkUnusable(
            f"cannot read {path}: it was not written by audience-sync",
            hint="if the membership database in this folder is the newest copy you have, delete only this file: the"
            " next sync creates it again",
        ) from None


def _of(connection: Connection) -> Mark:
    following = connection.execute(sa.text("SELECT value FROM settings WHERE name = 'generation'")).scalar_one()
    began_at = _began_at(connection)
    if began_at is None:  # as marks of version 0.5 have it
        began_at = connection.execute(sa.text("SELECT started_at FROM runs ORDER BY id LIMIT 1")).scalar()
    return Mark(max(0, int(following) - 1), began_at)


def _began_at(connection: Connection) -> int | None:
    found = connection.execute(sa.text(f"SELECT value FROM settings WHERE name = '{BEGAN_AT}'")).scalar()
    return None if found is None else int(found)


def _compare(path: Path, found: Mark, known: Mark | None) -> None:
    if known is None or _are_strangers(found, known) or found.generation >= known.generation:
        return
    until = f"its last commit was at {_time(found)}" if found.generation else "it has no syncs and no forwarded events"
    raise DatabaseOlder(
        f"the membership database next to {path} is older than the data sent from it: {until}, but data"
        f" committed up to {_time(known)} was sent",
        hint="restore the newer file, or accept this one with `audience-sync sync --resync --force`, which sends"
        " everything again",
    )


def _are_strangers(found: Mark, known: Mark) -> bool:
    return None not in {found.began_at, known.began_at} and found.began_at != known.began_at


def _time(mark: Mark) -> str:
    return instant_text(iso(from_ms(mark.generation)))


def _raise(path: Path, found: Mark) -> None:
    """Write a mark unless the one that is there is as high; safe against a crash, and against other writers."""
    with _locked(path) as folder:  # a mark that is seen under the lock is on the disk, and no writer can lower it
        known = read(path)
        if known is not None and not _are_strangers(found, known) and known.generation >= found.generation:
            return
        with _written(_fresh(path)) as file:
            if os.geteuid() == 0:  # as SQLite does with its files: root must not lock the database's owner out
                owner = path.with_name(path.name.removesuffix("-highwater")).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(json.dumps(found._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _fresh(path).replace(path)
        os.fsync(folder)


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _written(path: Path) -> TextIO:
    """Return a new or emptied file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the folder of a mark, alone among all processes, and return it open.

    Raises:
        MarkUnusable: the mark cannot be written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)
    except OSError as error:
        raise MarkUnusable(
            f"delivery is stopped because the high-water mark {path} cannot be written: {error.strerror}",
            hint="nothing was lost; make sure that the folder of the membership database has free space and"
            " belongs to the user who runs audience-sync, then run `audience-sync deliver`",
        ) from None
