"""Death at every point of a run: whoever comes next brings the audience to where an undisturbed run would have."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from audience_sync.config import Settings
from audience_sync.core.model import RunState
from audience_sync.store.database import Database, connect
from tests import interrupted
from tests.factories import VALUES_SQL, Shop
from tests.syncing import people, query, replayed

pytestmark = pytest.mark.slow_on_postgres
ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
BEFORE = [(key, "c1") for key in people(range(300))]
AFTER = [(key, "c2") for key in people(range(40))] + [(key, "c1") for key in people(range(40, 220), range(300, 360))]
ALL_LIMITS_OFF = {"max_exit_percent": 100}


class Twin:
    """One audience on one database, worked on by processes of its own."""

    def __init__(self, perform: Callable[[dict[str, str]], int], url: str, *, shop: Shop, config: Path) -> None:
        self._perform = perform
        self._work = {"url": url, "config": str(config)}
        self._shop = shop
        self.url = url

    def does(self, action: str, orders: Iterable[tuple[object, ...]] | None = None, **wanted: str) -> int:
        """Do something in a process and return how it ended."""
        if orders is not None:
            self._shop.set_orders(orders)
        return self._perform({**self._work, "action": action, **wanted})

    def state(self, database: Database) -> dict[str, object]:
        """Return what must not depend on whether anybody died: members, what is to be sent, and where history leads."""
        members = query(database, "SELECT profile_key, identifiers, value FROM current_members ORDER BY 1")
        assert replayed(database) == {key: identifiers for key, identifiers, _ in members}
        assert query(database, "SELECT members, state FROM audiences")[0][0] == len(members)
        assert query(database, "SELECT * FROM staged") == []
        return {
            "members": [tuple(row) for row in members],
            "outbox": [
                tuple(r) for r in query(database, "SELECT profile_key, value, identifiers FROM outbox ORDER BY 1")
            ],
            "audience": [tuple(r) for r in query(database, "SELECT key, state, completed FROM audiences")],
        }


@pytest.fixture(scope="module")
def perform_in_a_process() -> Iterator[Callable[[dict[str, str]], int]]:
    """Return a function that does a piece of work in a process of its own and returns how that ended."""
    command = [sys.executable, "-m", "tests.interrupted"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def ask(work: dict[str, str]) -> int:
            requests.write(json.dumps(work) + "\n")
            requests.flush()
            return int(answers.readline())

        yield ask


@pytest.fixture
def perform(perform_in_a_process: Callable[[dict[str, str]], int]) -> Callable[[dict[str, str]], int]:
    """Return a function that does a piece of work, in a process of its own if that is to be killed."""

    def act(work: dict[str, str]) -> int:
        return perform_in_a_process(work) if "kill" in work else interrupted.child(work)

    return act


@pytest.fixture
def twin(
    perform: Callable[[dict[str, str]], int], database_url: str, shop: Shop, make_settings: Callable[..., Settings]
) -> Twin:
    """One audience that will be disturbed, on a database of each kind."""
    return Twin(perform, database_url, shop=shop, config=make_settings(guard=ALL_LIMITS_OFF).path)


@pytest.fixture
def undisturbed(
    perform: Callable[[dict[str, str]], int],
    sqlite_template: Path,
    tmp_path: Path,
    shop: Shop,
    make_settings: Callable[..., Settings],
) -> Iterator[tuple[Twin, Database]]:
    """The same audience in another database, where nobody dies; both databases keep the same."""
    path = tmp_path / "undisturbed.db"
    shutil.copy(sqlite_template, path)
    url = f"sqlite:///{path}"
    with closing(connect(url)) as opened:
        yield Twin(perform, url, shop=shop, config=make_settings(guard=ALL_LIMITS_OFF).path), opened


@pytest.mark.slow
@pytest.mark.parametrize("point", ["sync.started:1", "sync.read:1", "sync.committed:3", "sync.committed:6"])
def test_death_in_a_first_sync(twin: Twin, undisturbed: tuple[Twin, Database], database: Database, point: str) -> None:
    """What was committed stays, the next run goes on with it, and is still a first one."""
    expected, quiet = undisturbed
    assert expected.does("sync", BEFORE) == 0

    assert twin.does("sync", kill=point) == KILLED
    assert twin.does("sync") == 0

    assert twin.state(database) == expected.state(quiet)
    assert [tuple(row) for row in query(database, "SELECT kind, state, reason FROM runs ORDER BY id")] == [
        ("initial", "failed", "the process died"),
        ("initial", "succeeded", None),
    ]


LATER = ["sync.started:1", "sync.read:1", "sync.staged:3", "sync.decided:1", "apply.committed:2"]


@pytest.mark.slow
@pytest.mark.parametrize("point", LATER)
def test_death_in_a_later_sync(twin: Twin, undisturbed: tuple[Twin, Database], database: Database, point: str) -> None:
    """Before the decision nothing has changed; after it the plan is finished, whatever the source says by then."""
    expected, quiet = undisturbed
    for one in (expected, twin):
        assert one.does("sync", BEFORE) == 0
    assert expected.does("sync", AFTER) == 0

    assert twin.does("sync", kill=point) == KILLED
    decided = point.startswith(("sync.decided", "apply"))
    members = query(database, "SELECT count(*) FROM memberships")[0][0]
    assert members == 300 or point.startswith("apply")
    assert twin.does("sync") == 0

    assert twin.state(database) == expected.state(quiet)
    states = [row[0] for row in query(database, "SELECT state FROM runs ORDER BY id")]
    assert states == ["succeeded", "succeeded" if decided else "failed", "succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["resync.committed:3"])
def test_death_in_a_resync(twin: Twin, undisturbed: tuple[Twin, Database], database: Database, point: str) -> None:
    """A resync goes on where it was: everything is sent again, under the generation of that resync."""
    expected, quiet = undisturbed
    for one in (expected, twin):
        assert one.does("sync", BEFORE) == 0
        assert one.does("sync", AFTER) == 0
    for opened in (quiet, database):
        with opened.write() as connection:
            connection.exec_driver_sql("DELETE FROM outbox")
    assert expected.does("resync") == 0

    assert twin.does("resync", kill=point) == KILLED
    assert twin.does("sync") == 0

    assert twin.state(database) == expected.state(quiet)
    (run,) = query(database, "SELECT id, state, resent, generation FROM runs WHERE kind = 'resync'")
    assert (run.state, run.resent) == (RunState.SUCCEEDED, 280 + 80)
    assert query(database, "SELECT DISTINCT generation FROM outbox") == [(run.generation,)]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "again"), [("approve.decided:1", "approve"), ("apply.committed:2", "sync")])
def test_death_in_an_approval(
    twin: Twin, undisturbed: tuple[Twin, Database], database: Database, point: str, again: str, tmp_path: Path
) -> None:
    """A yes is a yes: a second one, or the next sync, finishes what the first began."""
    expected, quiet = undisturbed
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace("max_exit_percent = 100", "max_exit_percent = 10"))
    for one in (expected, twin):
        assert one.does("sync", BEFORE) == 0
        assert one.does("sync", AFTER) == 0
    assert expected.does("approve", run="2") == 0

    assert twin.does("approve", run="2", kill=point) == KILLED
    assert twin.does(again, run="2") == 0

    assert twin.state(database) == expected.state(quiet)
    assert query(database, "SELECT state FROM runs WHERE id = 2") == [("succeeded",)]
    assert query(database, "SELECT count(*) FROM outbox WHERE run_id <> 2 AND value = 'false'") == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["retract.decided:1", "retract.committed:3"])
def test_death_in_a_retraction(twin: Twin, undisturbed: tuple[Twin, Database], database: Database, point: str) -> None:
    """The key is retired before the first false is sent, and the same retraction is gone on with."""
    expected, quiet = undisturbed
    for one in (expected, twin):
        assert one.does("sync", BEFORE) == 0
    assert expected.does("retract") == 0

    assert twin.does("retract", kill=point) == KILLED
    assert query(database, "SELECT state FROM audiences") == [("retired",)]
    assert twin.does("retract") == 0

    assert twin.state(database) == expected.state(quiet)
    run = query(database, "SELECT state, exited, generation FROM runs WHERE kind = 'retract' ORDER BY id")[0]
    assert (run.state, run.exited) == (RunState.SUCCEEDED, 300)
    assert query(database, "SELECT DISTINCT value, generation FROM outbox") == [("false", run.generation)]


VALUES_BEFORE = [(key, n % 7) for n, key in enumerate(people(range(300)))]
VALUES_AFTER = [(key, f"text {key}") for key in people(range(40))] + [
    (key, n % 7 or None) for n, key in enumerate(people(range(360))) if 40 <= n < 220 or n >= 300
]


@pytest.mark.slow
@pytest.mark.parametrize("point", [*LATER, "resync.committed:3", "retract.committed:3"])
def test_death_in_the_life_of_a_computed_trait(
    twin: Twin,
    undisturbed: tuple[Twin, Database],
    database: Database,
    make_settings: Callable[..., Settings],
    point: str,
) -> None:
    """Values, and the nulls of those who have none any more, are what they would be if nobody had died."""
    make_settings(guard=ALL_LIMITS_OFF, entries="traits", sql=VALUES_SQL, company_keys={})
    expected, quiet = undisturbed
    deed = point.partition(".")[0] if point.startswith(("resync", "retract")) else "sync"
    for one in (expected, twin):
        assert one.does("sync", VALUES_BEFORE) == 0
    assert expected.does(deed, VALUES_AFTER) == 0

    assert twin.does(deed, kill=point) == KILLED
    assert twin.does(deed) == 0

    assert twin.state(database) == expected.state(quiet)
    told = {value for (value,) in query(database, "SELECT DISTINCT value FROM outbox")}
    assert "null" in told
    assert "false" not in told


@pytest.mark.slow
def test_death_in_the_first_sync_of_a_computed_trait(
    twin: Twin, undisturbed: tuple[Twin, Database], database: Database, make_settings: Callable[..., Settings]
) -> None:
    """The values that were committed stay, and the next run goes on with them."""
    make_settings(guard=ALL_LIMITS_OFF, entries="traits", sql=VALUES_SQL, company_keys={})
    expected, quiet = undisturbed
    assert expected.does("sync", VALUES_BEFORE) == 0

    assert twin.does("sync", kill="sync.committed:3") == KILLED
    assert twin.does("sync") == 0

    assert twin.state(database) == expected.state(quiet)
    assert [tuple(row) for row in query(database, "SELECT kind, state FROM runs ORDER BY id")] == [
        ("initial", "failed"),
        ("initial", "succeeded"),
    ]
