"""A source that hangs for ever, in connecting, in its query or between two pages: it ends by a timeout or by Ctrl-C.

Nothing is changed then, and a source that answers again is read whole.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

from audience_sync import signals
from audience_sync.config import Settings, Source, load
from audience_sync.engines import connect as opening
from audience_sync.engines import deadline, sqlite_engine
from audience_sync.engines.base import Session
from audience_sync.errors import AudienceSyncError, SourceError
from audience_sync.sync import Job, sync
from tests.acceptance.running import ON_ONE_DATABASE, Place, customers, open_place, until

pytestmark = ON_ONE_DATABASE

EVERYBODY = customers(range(20))
SOON = 15.0  # seconds; far less than any timeout of a source here
SHORT = "1s"
HANGING = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    " SELECT max(i) AS user_id, 1 AS company_id FROM n",
    "postgresql": "SELECT 'u1' AS user_id, pg_sleep(3600)::text AS company_id",
    "mariadb": "SELECT 'u1' AS user_id, SLEEP(3600) AS company_id",
    "duckdb": "SELECT sum(a.range * b.range)::text AS user_id, '1' AS company_id"
    " FROM range(10000000) a, range(10000000) b",
}
HALF_WAY = (
    "SELECT 'u' || n AS user_id, '1' AS company_id FROM generate_series(1, 50000) n"
    " WHERE n < 45000 OR pg_sleep(3600) IS NOT NULL"
)
ORDERS = "SELECT customer_id AS user_id, company_id FROM orders"


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 20 customers, synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.sync_here(opened.configure(guard={"min_members": 1000}), EVERYBODY)
        yield opened


@pytest.fixture(params=sorted(HANGING))
def dialect(request: pytest.FixtureRequest) -> str:
    """A kind of database that rows are read from."""
    return str(request.param)


@pytest.fixture
def source_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a source of that kind."""
    match dialect:
        case "sqlite":
            return "sqlite:///shop.db"
        case "duckdb":
            duckdb.connect(tmp_path / "shop.duckdb").close()
            return f"duckdb:///{tmp_path / 'shop.duckdb'}"
        case "mariadb":
            return str(request.getfixturevalue("mariadb_server"))
        case _:
            return str(request.getfixturevalue("postgres_server"))


@pytest.fixture
def deaf() -> Iterator[int]:
    """Port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def configured(place: Place, url: str, sql: str, *, timeout: str = "30m") -> Settings:
    """Configure the one audience with another source."""
    path = place.configure(source_url=url, sql=sql, guard={"min_members": 1000}).path
    path.write_text(path.read_text().replace("[sources.shop]", f'[sources.shop]\nstatement_timeout = "{timeout}"'))
    return load(path, {})


def sync_refused(place: Place, settings: Settings) -> str:
    """Sync in vain and return what was said, when nothing has changed."""
    before = place.members()
    with place.workspace() as workspace, pytest.raises(SourceError) as refused:
        sync(workspace, Job(settings=settings, audience=settings.audiences[0]))

    assert place.members() == before
    assert place.rows("SELECT state, reason FROM runs ORDER BY id DESC LIMIT 1") == [("failed", str(refused.value))]
    assert place.held() == []
    return str(refused.value)


# By a timeout


@pytest.mark.slow
def test_a_query_that_hangs_is_stopped(place: Place, source_url: str, dialect: str) -> None:
    """statement_timeout ends a query that never returns a row; the run has failed and changed nothing."""
    said = sync_refused(place, configured(place, source_url, HANGING[dialect], timeout=SHORT))

    assert f"The query on the {dialect} source" in said
    assert "did not finish within 1s" in said


def test_a_query_that_hangs_half_way_is_stopped(place: Place, postgres_server: str) -> None:
    """Rows that were read already do not become members when the others never come."""
    said = sync_refused(place, configured(place, postgres_server, HALF_WAY, timeout=SHORT))

    assert "did not finish within 1s" in said


def test_a_server_that_is_frozen_is_cut_off(
    place: Place, postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not even take the request to stop is left."""
    monkeypatch.setattr(deadline, "GRACE", 0.2)
    settings = configured(place, postgres_server, HANGING["postgresql"], timeout="2s")
    pids: list[int] = []

    def freeze() -> None:
        until(lambda: sleeping(postgres_server))
        pids.extend(sleeping(postgres_server))
        os.kill(pids[0], signal.SIGSTOP)

    freezing = threading.Thread(target=freeze)
    freezing.start()
    try:
        said = sync_refused(place, settings)
    finally:
        freezing.join()
        os.kill(pids[0], signal.SIGCONT)

    assert "did not finish within 2s" in said


def sleeping(url: str) -> list[int]:
    """Return the processes of a Postgres that sleep in a query."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(
            connection.exec_driver_sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'").scalars()
        )


@pytest.mark.abandons_connection
def test_a_server_that_does_not_answer_is_given_up(place: Place, deaf: int) -> None:
    """A server that takes the connection and says nothing is given up, as is one that cannot be reached."""
    settings = configured(place, f"postgresql+psycopg://reader@127.0.0.1:{deaf}/shop", ORDERS, timeout="2s")
    said = sync_refused(place, settings)

    assert said.startswith("Cannot connect to the postgresql source shop on 127.0.0.1: ")
    assert "timeout" in said


def test_a_driver_that_waits_for_ever_is_left(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a driver that knows no timeout does not hold a sync back; what it opens at last is closed."""
    answer, closed = threading.Event(), threading.Event()
    connect = sqlite_engine.connect

    def slow(source: Source, limit: timedelta) -> Session:
        answer.wait(60)
        late = connect(source, limit)
        closing_late = late.close

        def close() -> None:
            closing_late()
            closed.set()

        monkeypatch.setattr(late, "close", close)
        return late

    monkeypatch.setattr(sqlite_engine, "ENGINE", replace(sqlite_engine.ENGINE, connect=slow))
    monkeypatch.setattr(opening, "GRACE", 0.1)
    said = sync_refused(place, configured(place, "sqlite:///shop.db", ORDERS, timeout=SHORT))

    assert said == f"Cannot connect to the sqlite source {place.folder / 'shop.db'}: no answer."
    answer.set()
    assert closed.wait(15)


@pytest.mark.abandons_connection
def test_the_command_says_it_in_one_sentence(place: Place, deaf: int) -> None:
    """`sync` leaves with 1 and one sentence, and the next one, whose source answers, reads it whole."""
    configured(place, f"postgresql+psycopg://reader@127.0.0.1:{deaf}/shop", ORDERS, timeout="2s")
    failed = place.command("sync")
    now = customers(range(5, 25))
    place.shop.set_orders(now.items())
    place.configure(guard={"min_members": 1000})

    assert failed.code == 1
    assert sum(line.startswith("error:") for line in failed.err.splitlines()) == 1
    assert "Traceback" not in failed.err
    assert place.command("sync").code == 0
    assert place.members().keys() == now.keys()


# By Ctrl-C


def test_ctrl_c_ends_a_query_that_hangs(place: Place, source_url: str, dialect: str) -> None:
    """The first Ctrl-C ends a sync whose source hangs in its query."""
    configured(place, source_url, HANGING[dialect])
    assert_interruptible(place)


def test_ctrl_c_ends_connecting(place: Place, deaf: int) -> None:
    """The first Ctrl-C ends a sync whose source does not answer when it is connected to."""
    configured(place, f"postgresql+psycopg://reader@127.0.0.1:{deaf}/shop", ORDERS)
    assert_interruptible(place)


def test_ctrl_c_ends_waiting_for_a_lock(place: Place) -> None:
    """The first Ctrl-C ends a sync that waits for another program's lock on a SQLite source."""
    place.configure()
    place.shop.execute("BEGIN EXCLUSIVE")
    try:
        assert_interruptible(place)
    finally:
        place.shop.execute("COMMIT")


def assert_interruptible(place: Place) -> None:
    """Assert that one SIGINT ends a sync in order though its source hangs."""
    with place.running("sync") as syncing:
        until(lambda: place.held() and place.rows("SELECT 1 FROM runs WHERE state = 'running'"))
        ended = syncing.end(signal.SIGINT, seconds=SOON)

    assert ended.code == 130
    assert "stopping after the current step" in ended.err
    assert ended.err.endswith("interrupted\n")
    assert "Traceback" not in ended.err
    assert place.rows("SELECT state, reason FROM runs ORDER BY id DESC LIMIT 1") == [("failed", "stopped on request")]
    assert place.held() == []


def test_the_daemon_ends_though_its_source_hangs(place: Place, deaf: int) -> None:
    """SIGTERM ends a daemon whose source does not answer in order: nothing is left for the next one to find."""
    configured(place, f"postgresql+psycopg://reader@127.0.0.1:{deaf}/shop", ORDERS)
    with place.running("run") as running:
        until(lambda: place.rows("SELECT 1 FROM runs WHERE state = 'running'"))
        ended = running.end(signal.SIGTERM, seconds=SOON)

    assert ended.code == 0
    assert "work_abandoned" not in ended.err
    assert place.held() == []
    assert place.rows("SELECT state FROM runs WHERE state = 'running'") == []


def test_a_signal_before_the_query_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes before a query has begun keeps it from beginning to hang."""
    settings = configured(place, "sqlite:///shop.db", HANGING["sqlite"])
    came = threading.Event()
    came.set()
    monkeypatch.setattr(signals, "_came", came)
    with place.workspace() as workspace, pytest.raises(AudienceSyncError, match="stopped on request"):
        sync(workspace, Job(settings=settings, audience=settings.audiences[0]))

    assert signals._interrupts == {}
