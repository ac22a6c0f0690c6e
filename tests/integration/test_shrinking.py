"""What a large sync and its delivery needed is given back: a SQLite file ends near what its memberships take.

On Postgres that is what autovacuum is for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from audience_sync.config import RetentionTable
from audience_sync.errors import AudienceSyncError
from audience_sync.store import erasure
from audience_sync.store.database import Database, connect, verify
from audience_sync.store.migration import let_shrink, migrate
from audience_sync.tuning import DEFAULT_TUNING, Tuning
from tests.sending import Sending, open_sending
from tests.support.faulty_sandbox import FaultySandbox
from tests.tuned import tuned_database

MANY = 12_000
DELIVERED = 3_000  # really delivered: takes a second for each thousand
PAGE = 4096  # bytes
PEOPLE = [f"customer-{n:06}" for n in range(MANY)]
LATER = 500 * 24 * 3600 * 1000  # milliseconds: beyond every retention
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


@pytest.fixture
def sending(tmp_path: Path, database: Database) -> Iterator[Sending]:
    """One audience, not yet synced."""
    with FaultySandbox(tmp_path / "sandbox.db") as sandbox, open_sending(tmp_path, database, sandbox) as opened:
        yield opened


def sync(sending: Sending, customers: list[str]) -> None:
    """Sync these customers, and empty the outbox as their delivery would."""
    sending.sync(gold=customers)
    sending.write("DELETE FROM outbox")


def file_of(database: Database) -> Path:
    """Return the file of a SQLite database."""
    return Path(str(database.engine.url.database))


def log_of(database: Database) -> int:
    """Return the size of its write-ahead log in bytes."""
    return file_of(database).with_name(file_of(database).name + "-wal").stat().st_size


def pages(database: Database, *tables: str) -> int:
    """Return how many pages of a SQLite file tables take, their indexes included; all tables by default."""
    where = f"WHERE name IN ({', '.join(map(repr, tables))})" if tables else ""
    with database.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM dbstat {where}").scalar_one())


def pragma(database: Database, name: str) -> int:
    """Return a number that SQLite says of a file."""
    with database.read() as connection:
        return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


@pytest.mark.slow
@ON_SQLITE
def test_a_file_shrinks_to_its_memberships(sending: Sending) -> None:
    """After a first sync, its delivery and the end of retention the file is as large as the memberships, or so."""
    database = sending.workspace.database
    sending.sync(gold=PEOPLE[:DELIVERED])
    sending.deliver()
    at_its_height = file_of(database).stat().st_size + log_of(database)
    erasure.purge(database, RetentionTable(), now_ms=sending.workspace.clock.now_ms() + LATER)

    memberships = pages(database, "memberships") * PAGE
    assert sending.rows("SELECT count(*) FROM memberships") == [(DELIVERED,)]
    assert log_of(database) == 0
    assert file_of(database).stat().st_size <= memberships + 64 * PAGE
    assert file_of(database).stat().st_size < at_its_height / 3


@ON_SQLITE
def test_a_delivery_gives_back_what_its_outbox_took(sending: Sending) -> None:
    """A tenth stays free for the next changes; the rest, and the log, is given back, in bounded steps."""
    database = sending.workspace.database
    sync(sending, PEOPLE)
    free, kept = pragma(database, "freelist_count"), pages(database)
    erasure.tidy(tuned_database(database, vacuum_pages=20, vacuum_steps=1, small_log_bytes=0))
    after_a_step = pragma(database, "freelist_count")
    erasure.tidy(tuned_database(database, vacuum_pages=20, vacuum_steps=1_000, small_log_bytes=0))

    tenth = (free + kept) // 10
    assert free > 2 * tenth
    assert free - 30 <= after_a_step < free
    assert tenth - 1 <= pragma(database, "freelist_count") <= tenth + 1
    assert pages(database) == kept
    assert log_of(database) == 0


@ON_SQLITE
def test_tidying_disturbs_nobody(sending: Sending) -> None:
    """While another program writes nothing is given back, and nothing fails."""
    sync(sending, PEOPLE)
    database = tuned_database(sending.workspace.database, vacuum_pages=50, vacuum_wait_ms=1)
    free = pragma(database, "freelist_count")
    with closing(sqlite3.connect(file_of(database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        erasure.tidy(database)

        assert pragma(database, "freelist_count") == free
    assert pragma(database, "busy_timeout") == DEFAULT_TUNING.busy_seconds * 1000


@pytest.mark.slow
@ON_SQLITE
def test_a_later_sync_needs_no_more_room_than_there_is(sending: Sending) -> None:
    """What one sync and its delivery leave free the next ones use: beside history, which ends, the file stays."""
    database = sending.workspace.database
    sync(sending, PEOPLE)
    first, history = pragma(database, "page_count"), pages(database, "changes")
    for customers in (PEOPLE[1000:], PEOPLE, PEOPLE[1000:]):
        sync(sending, customers)

    assert pragma(database, "page_count") <= first + pages(database, "changes") - history


def made_otherwise(folder: Path, tuning: Tuning = DEFAULT_TUNING) -> Database:
    """Return a migrated database in a file that never gives space back: somebody else had made it."""
    path = folder / "old.db"
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("CREATE TABLE gone (x)")
        plain.executemany("INSERT INTO gone VALUES (?)", [("x" * 1000,)] * 2000)
        plain.execute("DROP TABLE gone")
        plain.commit()
    database = connect(f"sqlite:///{path}", tuning=tuning)
    migrate(database)
    return database


def test_a_file_made_otherwise_can_shrink_after_migrate(tmp_path: Path) -> None:
    """A file that was not made to give space back is rewritten once, with all that is in it."""
    with closing(made_otherwise(tmp_path)) as database:
        before = file_of(database).stat().st_size
        assert pragma(database, "auto_vacuum") == 0

        assert let_shrink(database)
        assert not let_shrink(database)
        assert pragma(database, "auto_vacuum") == 2
        assert pragma(database, "freelist_count") == 0
        erasure.compact(database)
        assert file_of(database).stat().st_size < before / 4
        verify(database)


def test_a_file_that_others_use_is_not_rewritten(tmp_path: Path) -> None:
    """While another program is at work on the file, rewriting it is refused in a sentence, and nothing is lost."""
    with (
        closing(made_otherwise(tmp_path, replace(DEFAULT_TUNING, busy_seconds=0.05))) as database,
        closing(sqlite3.connect(file_of(database), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AudienceSyncError, match="to release unused space: database is locked") as refused:
            let_shrink(database)
        other.execute("ROLLBACK")

        assert "nothing was lost" in str(refused.value.hint)
        verify(database)


@pytest.mark.slow
@ON_POSTGRES
def test_postgres_gives_empty_tables_back(sending: Sending) -> None:
    """Vacuum, which Postgres does by itself, takes what a delivery has left behind; only indexes keep their size."""
    database = sending.workspace.database
    kept = []
    for customers in (PEOPLE[:1000], PEOPLE[-1:]):
        sync(sending, customers)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM outbox, staged")
            sizes = connection.exec_driver_sql("SELECT pg_relation_size('outbox'), pg_relation_size('staged')").one()
            kept.append(tuple(sizes))

    assert kept == [(0, 0), (0, 0)]
