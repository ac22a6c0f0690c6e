"""Threads of a process take turns at SQLite's one writer, and wait no longer than they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience_sync.store.database import Database, connect, file_of
from audience_sync.tuning import DEFAULT_TUNING
from tests.waiting import wait_until

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """Keep the writer in another thread, until the block ends."""
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        with database.write():
            begun.set()
            over.wait()

    with ThreadPoolExecutor(1) as pool, ExitStack() as last:
        last.callback(over.set)
        done = pool.submit(write)
        assert begun.wait(10)
        yield
        over.set()
        done.result()


def write_once(database: Database) -> None:
    """Write."""
    with database.write():
        pass


def waited(database: Database, *, wait: float | None) -> float:
    """Return how many seconds a writer waits without success."""
    began = time.monotonic()
    with pytest.raises(sa.exc.OperationalError, match="locked"), database.write(wait=wait):
        pass
    return time.monotonic() - began


@ON_SQLITE
@pytest.mark.parametrize("wait", [1.0, None])
def test_a_writer_waits_as_long_as_it_says(database: Database, wait: float | None) -> None:
    """Whoever has the writer, a thread of the same process or another program: not once for each."""
    tuning = replace(DEFAULT_TUNING, busy_seconds=1.0)
    with closing(connect(database.engine.url, tuning=tuning)) as opened:
        with writing(opened):
            assert 0.9 < waited(opened, wait=wait) < 1.7
        with closing(connect(database.engine.url)) as other, writing(other), ThreadPoolExecutor(4) as pool:
            times = list(pool.map(lambda _: waited(opened, wait=wait), range(4)))
    assert min(times) > 0.9
    assert max(times) < 1.7


@ON_SQLITE
def test_who_waits_does_not_ask_sqlite(database: Database) -> None:
    """A thread that waits for another one is woken by it: SQLite would look again only now and then."""
    begun: list[str] = []
    sa.event.listen(database.engine, "begin", lambda _: begun.append(threading.current_thread().name))
    with ThreadPoolExecutor(1, thread_name_prefix="next") as pool:
        with database.write():
            waiting = pool.submit(write_once, database)
            wait_until(waiting.running)
            time.sleep(0.2)
            assert begun == ["MainThread"]
        waiting.result()
    assert begun == ["MainThread", "next_0"]


@ON_SQLITE
def test_a_failure_gives_the_turn_back(database: Database) -> None:
    """Whatever ends a transaction, the next one begins."""
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure), database.write():
            raise failure
    with database.write(wait=0.1) as connection:
        assert connection.in_transaction()


@ON_SQLITE
def test_the_file_is_the_one_that_was_opened(database: Database, tmp_path: Path) -> None:
    """A database has its mark next to the file behind the link under which it is opened."""
    link = tmp_path / "link.db"
    link.symlink_to(str(database.engine.url.database))
    with closing(connect(f"sqlite:///{link}")) as opened, opened.read() as connection:
        assert file_of(opened.engine) == file_of(connection.engine) == link.resolve()


@ON_POSTGRES
def test_a_read_only_server_is_away(database: Database) -> None:
    """As after a failover: that passes, or a person repairs it; the program does not crash."""
    with pytest.raises(sa.exc.OperationalError, match="read-only"):
        write_one(database, "SET TRANSACTION READ ONLY")
    write_one(database, "SET TRANSACTION READ WRITE")


def write_one(database: Database, before: str) -> None:
    """Write a row after something else in one transaction."""
    with database.write() as connection:
        connection.exec_driver_sql(before)
        connection.execute(sa.text("INSERT INTO settings (name, value) VALUES ('n', '1')"))
