"""The membership database: open it, and verify that it has the schema of this version."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext, make_url

from audience_sync.database_error import explain, first_line, shown
from audience_sync.errors import AudienceSyncError, SchemaOlder, SchemaOutOfDate
from audience_sync.extras import EXTRAS, install_command, missing
from audience_sync.folders import require_folder
from audience_sync.kill_points import pass_by
from audience_sync.tuning import DEFAULT_TUNING, Tuning

WRITE_OPTION = "audience_sync_write"
WAIT_OPTION = "audience_sync_wait"
ON_WAIT_OPTION = "audience_sync_on_wait"
AFTER_COMMIT = "audience_sync_after_commit"
FILE_OPTION = "audience_sync_file"
TUNING_OPTION = "audience_sync_tuning"
AWAY_STATES = frozenset({"25P03", "25006"})  # of Postgres: ended after `frozen_seconds`; read only, as after a failover
FROZEN_INFO = "audience_sync_frozen"  # a connection of Postgres that knows of `frozen_seconds`
# Parameters are people's data; and each delivery worker holds a connection now and then, however many there are.
ENGINE: dict[str, Any] = {"hide_parameters": True, "max_overflow": -1}


class Database:
    """One membership database: connections for reading and for writing.

    `on_wait` is called when a writer has waited `quiet_seconds` for another program that has locked a SQLite file.
    """

    def __init__(self, engine: Engine, *, reach: Callable[[str], None] = pass_by) -> None:
        self.engine = engine
        self.on_wait: Callable[[], None] | None = None
        self._reach = reach  # called at named points: see `kill_points`
        self._writer = threading.Lock()  # of SQLite: its own queue is to ask again and again, ever more seldom

    @property
    def is_sqlite(self) -> bool:
        """Return whether this is a SQLite file (else it is Postgres)."""
        return self.engine.dialect.name == "sqlite"

    @property
    def tuning(self) -> Tuning:
        """Return the tunable numbers of everything that works on this database."""
        return tuning_of(self.engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads; on both databases one snapshot for each statement at least."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, wait: float | None = None) -> Iterator[Connection]:
        """Open a transaction that writes, committed at the end of the block; on SQLite the one writer.

        With `wait` it fails with an OperationalError when SQLite's writer, or a lock of Postgres, is not free within
        that number of seconds, or a statement of Postgres takes longer.
        """
        with self.engine.connect() as connection:
            connection.info[AFTER_COMMIT] = []
            with self._turn(wait) as left:
                connection.execution_options(**{WRITE_OPTION: True, WAIT_OPTION: left, ON_WAIT_OPTION: self.on_wait})
                with connection.begin() as transaction:
                    if not self.is_sqlite:
                        _limit(connection, wait)
                    yield connection
                    is_kept = transaction.is_active  # not rolled back within the block
            connection.info[FROZEN_INFO] = is_kept or connection.info.get(FROZEN_INFO, False)
            connection.execution_options(**{WRITE_OPTION: False, WAIT_OPTION: None, ON_WAIT_OPTION: None})
            self._reach("database.committed")
            for work in connection.info[AFTER_COMMIT] if is_kept else ():
                work(connection)

    @contextmanager
    def _turn(self, wait: float | None) -> Iterator[float | None]:
        """Wait for the writer among the threads of this process; yield for how long SQLite may still be waited for."""
        if not self.is_sqlite:
            yield wait
            return
        is_mine, left = False, wait
        try:
            is_mine = self._writer.acquire(blocking=False)
            if not is_mine:
                began, most = time.monotonic(), self.tuning.busy_seconds if wait is None else wait
                is_mine = self._writer.acquire(timeout=most)
                left = max(0.0, most - (time.monotonic() - began))  # without success SQLite says so at once
            yield left
        finally:
            if is_mine:
                self._writer.release()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def after_commit(connection: Connection, work: Callable[[Connection], None]) -> None:
    """Have something done, once, when the transaction of `Database.write` under way is committed; it must not fail."""
    waiting: list[Callable[[Connection], None]] = connection.info.setdefault(AFTER_COMMIT, [])
    if work not in waiting:
        waiting.append(work)


def _limit(connection: Connection, wait: float | None) -> None:
    """Limit how long a transaction of Postgres may hold up others: once for each connection, and for this one alone."""
    if not connection.info.get(FROZEN_INFO):
        connection.exec_driver_sql(
            f"SET idle_in_transaction_session_timeout = {_milliseconds(tuning_of(connection).frozen_seconds)}"
        )
    for limit in ("lock_timeout", "statement_timeout") if wait is not None else ():
        connection.exec_driver_sql(f"SET LOCAL {limit} = {_milliseconds(wait or 0)}")


def tuning_of(connection: Connection | Engine) -> Tuning:
    """Return the tunable numbers that a database was opened with."""
    tuning: Tuning = connection.get_execution_options().get(TUNING_OPTION, DEFAULT_TUNING)
    return tuning


def file_of(engine: Engine) -> Path | None:
    """Return the file of a SQLite database; None on Postgres.

    Symbolic links are followed, as SQLite follows them: whatever belongs to the file has one place next to it, under
    whichever name the file is opened.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    known: Path | None = engine.get_execution_options().get(FILE_OPTION)
    return known or Path(engine.url.database).resolve()


def highwater_of(path: Path) -> Path:
    """Return where the high-water mark of a SQLite file is; see `store.backup_mark`."""
    return path.with_name(path.name + "-highwater")


def display_url(url: str | URL) -> str:
    """Return a database URL without what it keeps secret."""
    return shown(make_url(url))


def connect(
    url: str | URL,
    *,
    create: bool = False,
    reach: Callable[[str], None] = pass_by,
    tuning: Tuning = DEFAULT_TUNING,
) -> Database:
    """Return the database at a URL; nothing is created unless asked. `reach` is called after each commit that writes.

    Raises:
        SchemaOutOfDate: a SQLite file does not exist.
        AudienceSyncError: the database cannot be reached, or its driver is not installed.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Database(_sqlite_engine(parsed, create=create, tuning=tuning), reach=reach)
    try:
        engine = sa.create_engine(
            parsed,
            connect_args=_postgres_arguments(parsed, tuning),
            execution_options={TUNING_OPTION: tuning},
            pool_pre_ping=True,
            **ENGINE,
        )
        with engine.connect():
            pass
    except ImportError as error:
        raise AudienceSyncError(
            f"the driver for {display_url(url)} is not installed: {missing(error)}",
            hint=install_command(EXTRAS["postgres"]),
        ) from error
    except sa.exc.SQLAlchemyError as error:
        raise _unopened(error, parsed) from error
    sa.event.listen(engine, "handle_error", _away, retval=True)
    return Database(engine, reach=reach)


def _away(context: ExceptionContext) -> BaseException | None:
    """Return an error of `AWAY_STATES` as what it is: a connection of no more use, not a fault of the program."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) not in AWAY_STATES:
        return None
    context.is_disconnect = True
    return sa.exc.OperationalError(context.statement, None, error, hide_parameters=True)


def _postgres_arguments(url: URL, tuning: Tuning) -> dict[str, Any]:
    """Return the arguments of psycopg in addition to the URL; options of the URL, such as a search_path, stay."""
    options = url.query.get("options", "")
    given = options if isinstance(options, str) else " ".join(options)
    # Rows are read by key, page by page: a table without statistics, as after a first sync, would be sorted for each.
    options = f"{given} -c timezone=UTC -c enable_bitmapscan=off".strip()
    return {"connect_timeout": tuning.connect_seconds, "options": options}


def _sqlite_engine(url: URL, *, create: bool, tuning: Tuning) -> Engine:
    path = Path(url.database or "")
    require_folder(path.parent, f"of the membership database {path.name}")
    if not create and not path.exists():
        raise SchemaOutOfDate(f"there is no membership database at {path}", hint="create it with `audience-sync init`")
    arguments = {"timeout": tuning.busy_seconds, "isolation_level": None}
    options = {FILE_OPTION: path.resolve(), TUNING_OPTION: tuning}  # asked for in every commit
    engine = sa.create_engine(url, connect_args=arguments, execution_options=options, **ENGINE)

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # synchronous=FULL: what is committed survives a power cut, not only a crash of the process.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that begins as a reader and then writes cannot wait its turn: SQLite refuses it at once.
        options = connection.get_execution_options()
        statement = "BEGIN IMMEDIATE" if options.get(WRITE_OPTION) else "BEGIN"
        wait = options.get(WAIT_OPTION)
        on_wait = options.get(ON_WAIT_OPTION)
        if wait is None and on_wait is not None and _begins_soon(connection, statement):
            return
        if wait is None:
            if on_wait is not None:
                on_wait()
            connection.exec_driver_sql(statement)
            return
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {_milliseconds(wait)}")
        try:
            connection.exec_driver_sql(statement)
        finally:  # whoever has the connection next waits as long as ever
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_milliseconds(tuning.busy_seconds)}")

    try:
        if create:
            _prepare_new_file(path)
        with engine.connect():
            pass
    except sa.exc.SQLAlchemyError as error:
        raise _unopened(error, url) from error
    except (OSError, sqlite3.Error) as error:
        raise AudienceSyncError(
            f"cannot create the membership database {path}: {getattr(error, 'strerror', None) or error}",
            hint=f"make the folder {path.parent} writable by this user, or set database.url to another location",
        ) from error
    return engine


def _begins_soon(connection: Connection, statement: str) -> bool:
    """Begin a transaction of SQLite; return False if another program holds the lock for longer than `quiet_seconds`."""
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA busy_timeout = {_milliseconds(tuning_of(connection).quiet_seconds)}")
    try:
        connection.exec_driver_sql(statement)
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
            raise
        return False
    finally:
        driver.execute(f"PRAGMA busy_timeout = {_milliseconds(tuning_of(connection).busy_seconds)}")
    return True


def _unopened(error: sa.exc.SQLAlchemyError, url: URL) -> AudienceSyncError:
    """Return why a database cannot be opened."""
    known = explain(error, url)
    return AudienceSyncError(f"cannot open {display_url(url)}: {first_line(error)}", hint=known.hint if known else None)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # 0 would mean for ever to Postgres


def _prepare_new_file(path: Path) -> None:
    """Create an empty database file that only its owner can read, and that can give space back."""
    if path.exists():
        return
    highwater_of(path.resolve()).unlink(missing_ok=True)  # of a database that is gone: this one has sent nothing
    path.touch(mode=0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    connection.close()


def migrations() -> Path:
    """Return the folder of the migrations: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def revisions() -> list[str]:
    """Return the revisions that this program knows, oldest first: the names of their files begin with them."""
    return sorted(path.name.partition("_")[0] for path in (migrations() / "versions").glob("[0-9]*.py"))


def verify(database: Database) -> None:
    """Refuse a schema that is missing, older or newer than this program's.

    Raises:
        SchemaOutOfDate: it is.
    """
    found, known = revision_of(database), revisions()
    if found == known[-1]:
        return
    where = display_url(database.engine.url)
    if found is None:
        raise SchemaOutOfDate(
            f"{where} does not have the tables of audience-sync", hint="create them with `audience-sync init`"
        )
    if found in known:
        with_backup = ", which makes a backup first" if database.is_sqlite else " after a backup with pg_dump"
        raise SchemaOlder(
            f"{where} has an older schema ({found})",
            hint=f"stop the service, then run `audience-sync migrate`{with_backup}",
        )
    raise SchemaOutOfDate(
        f"{where} has schema {found} from a newer version of audience-sync",
        hint="install that version or a later one",
    )


def revision_of(database: Database) -> str | None:
    """Return the revision of the schema that a database has, or None."""
    with database.read() as connection:
        return revision_in(connection)


def revision_in(connection: Connection) -> str | None:
    """Return the revision of the schema as a transaction sees it, or None."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision
