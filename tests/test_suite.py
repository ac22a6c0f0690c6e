"""What the plugins of this test suite promise."""

from __future__ import annotations

import pytest

from tests import pg_selection

LEAKING = """
import gc, socket, sqlite3

class Cycle:
    def __init__(self, held):
        self.held, self.itself = held, self

def test_before():
    with socket.socket() as one:
        assert one

def test_leaves_a_socket_to_the_collector():
    Cycle(socket.create_server(("127.0.0.1", 0)))

def test_between():
    gc.collect()

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
    monkeypatch.setattr(pg_selection, "is_available", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyfile(NEEDING)
    result = pytester.runpytest_inprocess("-p", "tests.pg_selection")

    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines([f"tests on PostgreSQL were deselected. {pg_selection.MISSING}"])

    monkeypatch.setenv("CI", "true")
    refused = pytester.runpytest_inprocess("-p", "tests.pg_selection")

    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines([f"ERROR: {pg_selection.MISSING}"])
