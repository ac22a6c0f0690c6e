"""Copy a membership database into an empty one, and close the old one: SQLite or PostgreSQL, in either direction.

The order of the commits makes a kill harmless at any point (see `relocation` for the marks):

1. The source is locked in one transaction, which lasts to the end: nothing can change it. The transaction already
   closes the source, but that is seen only once it is committed; a process that dies before leaves it as it was.
2. The target, marked as a copy that must not be used since it has tables, is filled in one transaction.
3. The rows of the target are read again, and their sums compared with those of the rows that were read.
4. The transaction of the source is committed: it is closed.
5. The mark of the target is removed.

Repeating an interrupted copy begins again at 1, or does 5 alone. A target that was filled before is filled anew.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import randbits, token_hex
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from audience_sync.clock import Clock
from audience_sync.database_error import explained, is_busy
from audience_sync.errors import AudienceSyncError, CopyRefused, LeaseHeld
from audience_sync.kill_points import pass_by
from audience_sync.store import (
    backup_mark,
    batches,
    generations,
    holders,
    leases,
    migration,
    relocation,
    schema,
    settings_table,
    table_copy,
)
from audience_sync.store.database import Database, connect, display_url, file_of, revision_in, revisions
from audience_sync.store.table_copy import TableSum
from audience_sync.tuning import DEFAULT_TUNING

LOCK_SECONDS: Final = 10
"""How long a copy waits for other processes that have locked one of the databases."""

COPY_LOCK: Final = 7_262_119_417_003_925_511
"""The advisory lock of PostgreSQL that a copy has on its source and on its target."""

EMPTY_HINT: Final = "copy to a new, empty database"

_USED: Final = ("identity", "environment", "began_at")
"""Settings of a database that has synced, sent or taken something."""


class CopyReport(NamedTuple):
    """The tables that were copied; none if an earlier copy was finished."""

    tables: list[TableSum]


@dataclass(frozen=True, kw_only=True)
class DatabaseCopy:
    """A copy to the database at a URL. `show` gets a stage (`copying`, `verifying`) and the rows it has done."""

    target: URL
    clock: Clock
    show: Callable[[str, int], None] = lambda *_: None
    reach: Callable[[str], None] = pass_by

    def run(self, source: Database) -> CopyReport:
        """Copy everything, and close the source.

        Raises:
            CopyRefused: the target has something in it, has another schema, or is the source.
            DatabaseOlder: the source comes from a backup.
            DatabaseMoved: the source was moved to another database before.
            LeaseHeld: other processes work on the source, or have locked one of the databases.
            AudienceSyncError: one of the databases failed, or the two differ in the end.
        """
        _require_other_file(source, self.target)
        if (moved_to := relocation.marks_of(source).moved_to) is not None:
            self._finish(source, moved_to)
            return CopyReport([])
        _require_idle(holders.living(source), source)
        backup_mark.require_newest(source)
        with self._opened() as target:
            _require_other_database(source, target)
            token = _token(source, target)
            with _target_errors(self.target):
                _prepare(target, source=display_url(source.engine.url), token=token)
            with _frozen(source, self.clock) as connection:
                self.reach("copy.frozen")
                generations.advance(connection, self.clock.now_ms())
                relocation.close(connection, target=display_url(self.target), token=token)
                copied = self._fill(target, connection, token)
                self.reach("copy.stored")
                self._verify(target, copied)
                self.reach("copy.verified")
            self.reach("copy.closed")
            with _target_errors(self.target):
                relocation.release(target)
            self.reach("copy.released")
        return CopyReport(copied)

    def _finish(self, source: Database, moved_to: str) -> None:
        """Release the target of a copy that died after it had closed the source."""
        if moved_to != display_url(self.target):
            raise relocation.moved(source, moved_to)
        backup_mark.require_kept(source)
        with _target_errors(self.target), closing(connect(self.target)) as target:
            marks = relocation.marks_of(target)
            if marks.copied_from is not None and marks.token == relocation.marks_of(source).token:
                relocation.release(target)

    @contextmanager
    def _opened(self) -> Iterator[Database]:
        """Open the target; a SQLite file is created."""
        url = self.target
        if url.get_backend_name() != "sqlite":
            given = url.query.get("options", "")
            options = f"{given if isinstance(given, str) else ' '.join(given)} -c lock_timeout={LOCK_SECONDS}s"
            url = url.update_query_dict({"options": options.strip()})
        is_new = url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()
        with _target_errors(self.target):
            target = connect(url, create=True, tuning=replace(DEFAULT_TUNING, busy_seconds=LOCK_SECONDS))
        if is_new:
            _give_to_owner(Path(url.database or ""))
        with closing(target):
            yield target

    def _fill(self, target: Database, source: Connection, token: str) -> list[TableSum]:
        """Fill the target in one transaction."""
        done = 0

        def show(rows: int) -> None:
            nonlocal done
            done += rows
            self.show("copying", done)

        with _target_errors(self.target), target.write() as connection:
            _claim(connection)
            _lock_tables(connection)
            _require_empty(connection, token)
            for table in reversed(schema.metadata.sorted_tables):
                connection.execute(table.delete())
            copied = [table_copy.copy_rows(source, connection, table, show) for table in table_copy.copied_tables()]
            relocation.mark_copy(
                connection, source=display_url(source.engine.url), token=token
            )  # deleted with the rest
            self.reach("copy.filled")
        return copied

    def _verify(self, target: Database, copied: list[TableSum]) -> None:
        """Compare what was written with what was read."""
        done = 0

        def show(rows: int) -> None:
            nonlocal done
            done += rows
            self.show("verifying", done)

        with _target_errors(self.target), target.read() as connection:
            found = [table_copy.sum_rows(connection, table, show) for table in table_copy.copied_tables()]
        for wanted, written in zip(copied, found, strict=True):
            if wanted != written:
                raise AudienceSyncError(
                    f"the copy differs: table {wanted.table} has {wanted.rows:,} rows with the digest {wanted.digest},"
                    f" but {written.rows:,} with {written.digest} in {display_url(self.target)}",
                    hint="nothing was moved, and the old database can be used; check the disk of the new one, then try"
                    " again",
                )


def _token(source: Database, target: Database) -> str:
    """Return the token of a copy, kept in the source: that of the interrupted copy in the target, or a new one."""
    with _target_errors(target.engine.url):
        begun = relocation.marks_of(target).token
    with _writing(source) as connection:
        token = settings_table.get(connection, relocation.TOKEN)
        if token is None or token != begun:
            token = token_hex(16)
            settings_table.put(connection, relocation.TOKEN, token)
        return token


@contextmanager
def _writing(source: Database) -> Iterator[Connection]:
    """Open a transaction that writes to a source, and waits for locks for `LOCK_SECONDS`."""
    with _lock_errors(source.engine.url), source.write(wait=LOCK_SECONDS if source.is_sqlite else None) as connection:
        if not source.is_sqlite:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        yield connection


@contextmanager
def _frozen(source: Database, clock: Clock) -> Iterator[Connection]:
    """Lock a source against every change until the block ends; an exception in it leaves the source as it was.

    Raises:
        LeaseHeld: other processes work on it, or have locked it.
    """
    with _writing(source) as connection:
        _claim(connection)
        _lock_tables(connection)
        now_ms = leases.clock_ms(connection, clock.steady_ms())
        claims = {holder for _, holder, _ in leases.held(connection, now_ms=now_ms)}
        claims |= {holder for holder, (_, until) in batches.holders(connection).items() if until > now_ms}
        _require_idle(claims - holders.dead(source, claims), source)
        yield connection


def _unlimited(connection: Connection) -> None:
    """Let a transaction of PostgreSQL last, and be idle, for as long as the other database takes."""
    for limit in ("idle_in_transaction_session_timeout", "statement_timeout"):
        connection.exec_driver_sql(f"SET LOCAL {limit} = 0")


def _claim(connection: Connection) -> None:
    """Take the lock that one copy at a time has on a database of PostgreSQL, until this transaction ends.

    Raises:
        LeaseHeld: another copy has it.
    """
    if connection.dialect.name != "sqlite":  # a transaction of SQLite that writes has the file alone
        _unlimited(connection)
        if not connection.execute(sa.text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": COPY_LOCK}).scalar():
            raise _busy(connection.engine.url)


def _lock_tables(connection: Connection) -> None:
    """Lock all tables of a database of PostgreSQL against changes, until this transaction ends; reading them works."""
    if connection.dialect.name != "sqlite":
        tables = ", ".join(table.name for table in schema.metadata.sorted_tables)
        connection.exec_driver_sql(f"LOCK TABLE {tables} IN EXCLUSIVE MODE")


def _require_other_database(source: Database, target: Database) -> None:
    """Refuse a target on PostgreSQL that is the source, under whichever URL: a lock of one is seen in the other."""
    if source.is_sqlite or target.is_sqlite:
        return
    lock, number = sa.text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": randbits(62)}
    with source.read() as one, _target_errors(target.engine.url), target.read() as other:
        one.execute(lock, number)
        if not other.execute(lock, number).scalar():
            raise _same(target.engine.url)


def _give_to_owner(file: Path) -> None:
    """Have a new file of root belong to the owner of its folder, so that the service can open it."""
    if os.geteuid() == 0:
        owner = file.parent.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def _require_other_file(source: Database, target: URL) -> None:
    """Refuse a target that is the file of the source, under whichever name."""
    file = file_of(source.engine)
    if file is None or target.get_backend_name() != "sqlite":
        return
    with suppress(OSError):
        if Path(target.database or "").samefile(file):
            raise _same(target)


def _require_idle(working: set[str], source: Database) -> None:
    """Refuse a source that processes work on."""
    if working:
        names = ", ".join(sorted(holder.rpartition(":")[0] for holder in working))
        raise LeaseHeld(
            f"nothing was copied: other processes work on {display_url(source.engine.url)} ({names})",
            hint="stop the service and wait until other commands have ended, then try again",
        )


def _require_no_tables(connection: Connection) -> None:
    """Refuse a target without a schema of ours that has tables."""
    taken = sorted(sa.inspect(connection).get_table_names())
    if taken:
        raise CopyRefused(
            f"{display_url(connection.engine.url)} is not empty: it has tables of another program ({', '.join(taken)})",
            hint=EMPTY_HINT,
        )


def _require_empty(connection: Connection, token: str) -> None:
    """Refuse a target with anything in it, unless it is the last, interrupted copy of this source."""
    marks = {row.name: row.value for row in connection.execute(sa.select(schema.settings))}
    if relocation.COPIED_FROM in marks:
        if marks.get(relocation.TOKEN) == token:
            return
        raise CopyRefused(
            f"{display_url(connection.engine.url)} is an unfinished copy of {marks[relocation.COPIED_FROM]}",
            hint=EMPTY_HINT,
        )
    for table in schema.metadata.sorted_tables:
        used = set(marks) & {*_USED, *relocation.MARKS} if table is schema.settings else None
        if used or (used is None and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()):
            raise CopyRefused(
                f"{display_url(connection.engine.url)} is not empty: it has rows in the table {table.name}",
                hint=EMPTY_HINT,
            )


def _prepare(target: Database, *, source: str, token: str) -> None:
    """Create the tables of an empty target, and mark it as a copy; refuse one that has other tables, or rows."""
    with target.write() as connection:
        _claim(connection)
        found, known = revision_in(connection), revisions()[-1]
        if found is None:
            _require_no_tables(connection)
            try:
                migration.upgrade(connection)
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError) as error:  # `init` or `migrate` was quicker
                raise _busy(target.engine.url) from error
        elif found != known:
            raise CopyRefused(
                f"{display_url(target.engine.url)} has schema {found}, but this version of audience-sync needs {known}",
                hint=EMPTY_HINT,
            )
        _require_empty(connection, token)
        relocation.mark_copy(connection, source=source, token=token)
    if found is None:
        _write_in_place(target)


def _write_in_place(target: Database) -> None:
    """Have SQLite write a new file directly if nobody else has opened it: its log would be as large as the file."""
    if not target.is_sqlite:
        return
    connection = target.engine.raw_connection()  # not possible within a transaction
    with closing(connection), suppress(sqlite3.OperationalError):
        connection.cursor().execute("PRAGMA journal_mode = DELETE")


def _same(url: URL) -> CopyRefused:
    return CopyRefused(
        f"{display_url(url)} is the membership database itself", hint="copy to a new, empty database with another URL"
    )


def _busy(url: URL) -> LeaseHeld:
    return LeaseHeld(
        f"nothing was copied: another process has locked {display_url(url)}",
        hint="wait until it has ended, or stop it, then try again",
    )


@contextmanager
def _lock_errors(url: URL) -> Iterator[None]:
    """Turn the failure to lock a database into a sentence."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if is_busy(error):
            raise _busy(url) from error
        raise


@contextmanager
def _target_errors(url: URL) -> Iterator[None]:
    """Turn a failure of the target into a sentence; those of the source are turned into one elsewhere."""
    try:
        with explained(url), _lock_errors(url):
            yield
    except AudienceSyncError as error:
        error.hint = error.hint and error.hint.replace("database.url", "--to")
        raise
