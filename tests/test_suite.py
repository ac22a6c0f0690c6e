"""What the plugins of this test suite promise."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience_sync.errors import AudienceSyncError
from audience_sync.store import schema
from audience_sync.store.database import connect
from tests import pg_cluster, server_selection
from tests.factories import make_run
from tests.pg_cluster import ReusedDatabase, Run, Server
from tests.waiting import wait_until

LEAKING = """
import gc, socket, sqlite3

class Cycle:
    def __init__(self, held):
        self.held, self.itself = held, self

def test_before():
    with socket.socket() as one:
        assert one

def test_leaves_a_socket_to_the_collector():
    gc.disable()  # it must not run by chance
    Cycle(socket.create_server(("127.0.0.1", 0)))

def test_between():
    gc.collect()
    gc.enable()

def test_leaves_a_database_open(tmp_path):
    global kept
    kept = sqlite3.connect(tmp_path / "left.db")
    kept.execute("CREATE TABLE t (x)")

def test_after():
    kept.close()
"""
NEEDING = """
import pytest

@pytest.fixture
def postgres_run():
    raise AssertionError("there is no server")

@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request):
    return request.param

def test_on_any_database(database_url):
    assert database_url == "sqlite"

def test_on_postgres(postgres_run):
    pass

def test_without_a_database():
    pass
"""


def test_what_is_left_open_fails_the_test_that_left_it(pytester: pytest.Pytester) -> None:
    """A leaked socket or database is an error of its test, and of no other one that happens to run the collector."""
    pytester.makepyfile(LEAKING)
    result = pytester.runpytest_inprocess("-p", "tests.leaks", "-W", "ignore::ResourceWarning", "-rE")

    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(
        [
            "left open: socket at ('127.0.0.1', *)",
            "left open: *left.db",
            "ERROR *::test_leaves_a_socket_to_the_collector*",
            "ERROR *::test_leaves_a_database_open*",
        ]
    )


def test_without_a_server_its_tests_are_deselected(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL is missing, the rest runs, and one line says what to install; in CI it is an error."""
    monkeypatch.setattr(server_selection, "missing_servers", lambda: [server_selection.POSTGRESQL])
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(NEEDING)
    result = pytester.runpytest_inprocess("-p", "tests.server_selection")

    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines([f"tests on PostgreSQL were deselected. {server_selection.POSTGRESQL.missing}"])

    monkeypatch.setenv("CI", "true")
    refused = pytester.runpytest_inprocess("-p", "tests.server_selection")

    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines([f"ERROR: {server_selection.POSTGRESQL.missing}"])


USER = """
import sys
from pathlib import Path
from tests import pg_cluster

print(pg_cluster.join(Path(sys.argv[1])).url, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow  # starts a server of its own
def test_the_server_ends_with_the_last_process_of_a_run() -> None:
    """Processes of a run share a server. It stops when the last of them has ended, though all were killed."""
    folder = pg_cluster.new_folder()
    command = [sys.executable, "-c", USER, str(folder)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        url = first.stdout.readline().strip()
        own = Run(folder)
        assert own.server().url == url
        first.kill()
        first.wait()
        with closing(connect(url)):  # it is still there for the other process
            own.close()

    wait_until(lambda: not folder.exists(), seconds=60)
    with pytest.raises(AudienceSyncError):
        connect(url)


def test_a_reused_database_is_like_a_new_one(postgres_run: Server) -> None:
    """After a reset the database has the schema, rows and sequences of a new one, whatever a test did to it."""
    reused = ReusedDatabase(postgres_run)
    try:
        before = _contents(reused)
        with closing(connect(reused.url)) as database, database.write() as connection:
            first = make_run(connection).id
        reused.reset()
        assert _contents(reused) == before
        with closing(connect(reused.url)) as database, database.write() as connection:
            assert make_run(connection).id == first
            connection.exec_driver_sql("ALTER TABLE runs DROP COLUMN reason CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA other CREATE TABLE left_over (n int)")
        reused.reset()
        assert _contents(reused) == before
        with closing(connect(reused.url)) as database:
            assert "other" not in sa.inspect(database.engine).get_schema_names()
    finally:
        reused.drop()


def _contents(reused: ReusedDatabase) -> dict[str, list[tuple[object, ...]]]:
    with closing(connect(reused.url)) as database, database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select())]
            for table in schema.metadata.sorted_tables
        }
