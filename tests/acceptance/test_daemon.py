"""The daemon as a process: each audience on its schedule through kills and restarts, and an end that leaves nothing."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.store import audiences
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import (
    DEADLINE,
    KILLED,
    ON_ONE_DATABASE,
    Place,
    assert_settled,
    customers,
    open_place,
    until,
)
from tests.factories import AUDIENCE_KEY
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

EVERYBODY = customers(range(300))
SOON = 10.0  # seconds in which SIGTERM ends the daemon
SLACK = 60.0  # seconds that a busy machine may be late, three restarts included
HOUR = 3600 * 1000  # milliseconds


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 300 customers, not yet synced, whose one audience is due every hour."""
    with open_place(tmp_path, database_url) as opened:
        hourly(opened)
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


def hourly(place: Place, *, more: str = "", destination: str | None = None) -> None:
    """Configure audiences that are due every hour to hour and a half."""
    schedule = '[schedule]\nevery = "1h"\njitter = "30m"'
    place.configure(more=f"{schedule}\n{more}", destination=destination)


def rings(count: int = 9) -> str:
    """Return more audiences of the same customers, as configuration."""
    sql = "SELECT customer_id AS user_id FROM orders"
    return "\n".join(f"[[audiences]]\nname = 'Ring {n}'\nsql = {json.dumps(sql)}" for n in range(count))


class Run(NamedTuple):
    """One run of one audience; times in milliseconds since 1970."""

    audience: str
    state: str
    started_at: int
    finished_at: int | None
    reason: str | None


def runs(place: Place) -> dict[str, list[Run]]:
    """Return the runs of each audience, in their order."""
    found: dict[str, list[Run]] = {}
    for row in place.rows(
        "SELECT a.key, r.state, r.started_at, r.finished_at, r.reason"
        " FROM runs r JOIN audiences a ON a.id = r.audience_id ORDER BY r.id"
    ):
        run = Run(*row)
        found.setdefault(run.audience, []).append(run)
    return found


def each_succeeded(place: Place, *, audiences: int, times: int) -> bool:
    """Tell whether so many audiences have succeeded so often, and know when they are due again."""
    succeeded = [sum(run.state == "succeeded" for run in of_one) for of_one in runs(place).values()]
    due = place.rows("SELECT 1 FROM audiences WHERE next_due_at IS NOT NULL")
    return len(due) == audiences == sum(count >= times for count in succeeded)


def due(place: Place) -> dict[str, int]:
    """Return when each audience is due, in milliseconds since 1970."""
    return dict(place.rows("SELECT key, next_due_at FROM audiences"))


# The schedule


@pytest.mark.slow  # kills five daemons
def test_no_run_overlaps_or_is_skipped_though_the_daemon_is_killed(place: Place) -> None:
    """Ten audiences, killed in the middle of runs and restarted: each goes on, one run after the other."""
    place.configure(more=f'[schedule]\nevery = "2s"\njitter = "1s"\n{rings()}')
    for point in ("sync.started:5", "sync.read:14", "sync.decided:6"):
        with place.running("run", kill=point) as daemon:
            assert daemon.end().code == KILLED
    with place.running("run") as daemon:
        until(lambda: each_succeeded(place, audiences=10, times=2))
        assert daemon.end(signal.SIGKILL).code == KILLED
    with place.running("run") as daemon:
        until(lambda: each_succeeded(place, audiences=10, times=3))
        ended = daemon.end(signal.SIGTERM, seconds=SOON)

    assert ended.code == 0
    assert place.held() == []
    early = 0
    for of_one in runs(place).values():
        assert len(of_one) >= 3
        assert {run.state for run in of_one[:-1]} <= {"succeeded", "failed"}
        for earlier, later in pairwise(of_one):
            assert earlier.finished_at is not None
            assert earlier.finished_at <= later.started_at
            if earlier.state == "succeeded":
                early += later.started_at - earlier.started_at < 2000
                assert later.started_at - earlier.started_at <= (3 + SLACK) * 1000
    # A daemon that died before it could keep when an audience is due next looks at it again at once: two are synced at
    # a time, and four daemons were killed.
    assert early <= 2 * 4
    reasons = {run.reason for of_one in runs(place).values() for run in of_one if run.state == "failed"}
    assert {"the process died"} <= reasons <= {"the process died", "stopped on request"}


def test_a_restart_neither_repeats_nor_skips(place: Place) -> None:
    """When an audience is due is kept: after a kill nothing runs early, and what is overdue runs at once, and once."""
    hourly(place, more=rings())
    with place.running("run") as daemon:
        until(lambda: each_succeeded(place, audiences=10, times=1))
        daemon.end(signal.SIGKILL)
    kept = due(place)
    for key, (run,) in runs(place).items():
        assert HOUR <= kept[key] - run.started_at < 1.5 * HOUR

    overdue = kept["ring_3"] - 30 * HOUR
    with place.database.write() as connection:
        connection.execute(sa.text("UPDATE audiences SET next_due_at = :d WHERE key = 'ring_3'"), {"d": overdue})
    with place.running("run") as daemon:
        until(lambda: due(place)["ring_3"] > overdue)
        assert daemon.end(signal.SIGTERM, seconds=SOON).code == 0

    assert {key: len(of_one) for key, of_one in runs(place).items()} == {key: 1 + (key == "ring_3") for key in kept}
    assert {**due(place), "ring_3": 0} == {**kept, "ring_3": 0}
    assert HOUR <= due(place)["ring_3"] - runs(place)["ring_3"][1].started_at < 1.5 * HOUR


@pytest.mark.slow
def test_the_first_syncs_share_their_events(place: Place) -> None:
    """Ten audiences over the same users, all new: each user is told once, of all ten."""
    hourly(place, more=rings())
    with local_daemon(place, seconds=SOON):
        until(lambda: each_succeeded(place, audiences=10, times=1))
        until(lambda: place.rows("SELECT 1 FROM open_deliveries LIMIT 1") == [])

    trait_keys = [AUDIENCE_KEY, *(f"ring_{n}" for n in range(9))]

    assert place.traits() == {user: dict.fromkeys(trait_keys, True) for user in EVERYBODY}
    assert place.received() == len(EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_paused_audience_is_not_synced(place: Place) -> None:
    """A paused audience is passed over while others go on; resumed, it is synced again by the same daemon."""
    place.configure(more=f'[schedule]\nevery = "1s"\njitter = "0s"\n{rings(2)}')
    assert place.command("sync", "ring_0").code == 0
    assert place.command("pause", "ring_0").code == 0
    with local_daemon(place, seconds=SOON):
        until(lambda: len(runs(place).get("ring_1", [])) >= 3)
        assert len(runs(place)["ring_0"]) == 1
        assert place.command("resume", "ring_0").code == 0
        until(lambda: len(runs(place)["ring_0"]) > 1)


@ON_ONE_DATABASE
def test_one_broken_audience_does_not_stop_the_others(place: Place) -> None:
    """A definition that fails is logged in a sentence and tried again when it is due; others are delivered."""
    broken = "[[audiences]]\nname = 'Broken'\nsql = 'SELECT gone AS user_id FROM nowhere'"
    place.configure(more=f'[schedule]\nevery = "1s"\njitter = "0s"\n{broken}')
    with local_daemon(place, seconds=SOON) as daemon:
        until(lambda: len(runs(place).get("broken", [])) >= 2)
        until(lambda: set(place.traits()) == set(EVERYBODY))
    failures = [line for line in daemon.logged if line["event"] == "sync_failed"]

    assert "refused the query: no such table: nowhere, at line 1, column 29: `nowhere`." in failures[0]["error"]
    assert failures[0]["audience"] == "broken"
    assert {line["exc_info"] for line in failures} == {None}
    assert {run.state for run in runs(place)["broken"]} == {"failed"}


# Deliveries


@pytest.mark.slow
def test_deliveries_go_on_between_syncs(place: Place) -> None:
    """What Schematic refused for a while is delivered without another sync, and nobody had to do anything."""
    place.sandbox.faults.set([FaultRule(status=404, times=1), FaultRule(status=503, times=4)])
    with local_daemon(place, seconds=SOON) as daemon:
        until(lambda: len(place.traits()) == len(EVERYBODY))
        until(lambda: place.rows("SELECT 1 FROM open_deliveries LIMIT 1") == [])

    assert [line["level"] for line in daemon.logged if line["event"] == "delivery_stopped"] == ["error"]
    assert place.key not in repr(daemon.logged)
    assert [len(of_one) for of_one in runs(place).values()] == [1]
    assert_settled(place, EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_refused_key_does_not_end_the_daemon(place: Place) -> None:
    """A key that Schematic refuses is one error in the log, and nothing is lost: it is tried again until it is good."""
    place.sandbox.keys.revoke(place.key)
    with local_daemon(place, seconds=SOON) as daemon:
        daemon.wait_for("key_refused")
        refused = place.command("status", "--format", "json").records[0]["destination"]
        assert place.rows("SELECT count(*) FROM open_deliveries WHERE state <> 'dead'") == [(300,)]
        place.sandbox.keys.restore(place.key)
        until(lambda: place.rows("SELECT 1 FROM open_deliveries LIMIT 1") == [])
        accepted = place.command("status", "--format", "json").records[0]["destination"]
    told = [line for line in daemon.logged if line["event"] in {"key_refused", "schematic_recovered"}]

    assert [(line["event"], line["level"]) for line in told] == [
        ("key_refused", "error"),
        ("schematic_recovered", "info"),
    ]
    assert (told[0]["pending"], told[1]["was"]) == (300, "key_refused")
    assert "refused the API key: HTTP 401" in told[0]["error"]
    assert place.key not in repr(daemon.logged)
    assert (refused["state"], refused["since"], refused["last_answer"]) == (
        "key_refused",
        told[0]["since"],
        told[0]["error"],
    )
    assert accepted == {"state": "reachable", "since": None, "last_answer": None, "next_try_at": None}
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_the_key_of_another_environment_ends_the_daemon(place: Place) -> None:
    """A database that belongs to one Schematic environment is never delivered to another: exit code 2."""
    assert place.command("sync").code == 0
    place.shop.set_orders(customers(range(250)).items())
    with place.database.write() as connection:
        connection.execute(sa.text("UPDATE audiences SET next_due_at = 0"))
    production = SandboxSettings(environment_id="env_production", environment_type="production")
    with FaultySandbox(place.folder / "production.db", settings=production) as other:
        hourly(place, destination=other.url)
        ended = place.command("run")

        assert ended.code == 2
        assert other.ledger.stats()["events"] == {"processed": 0, "duplicate": 0, "failed": 0}
    assert (
        "error: this database belongs to the Schematic environment 'env_sandbox', but the API key"
        " belongs to 'env_production'\nhint: use the API key of that environment, or set another"
        " [database] url for this one"
    ) in ended.err


# The end


@pytest.mark.slow
def test_sigterm_in_a_slow_delivery(place: Place) -> None:
    """SIGTERM while Schematic does not answer: exit code 0 within ten seconds, no lease held, and nothing lost."""
    place.sandbox.faults.set([FaultRule(hold=True)])
    with place.running("run") as daemon:
        assert place.sandbox.gate.wait_for(1, timeout=DEADLINE)
        ended = daemon.end(signal.SIGTERM, seconds=SOON)

    assert ended.code == 0
    assert "Traceback" not in ended.err
    assert place.held() == []

    place.sandbox.faults.clear()
    place.sandbox.gate.release()

    assert place.command("deliver").code == 0
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_sigterm_in_a_source_that_hangs(place: Place) -> None:
    """SIGTERM while a source does not answer ends as soon, in order; the next daemon syncs again."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with place.running("run") as daemon:
        until(place.started)
        ended = daemon.end(signal.SIGTERM, seconds=SOON)
    place.shop.execute("COMMIT")

    assert ended.code == 0
    assert "Traceback" not in ended.err

    with place.running("run") as daemon:
        until(lambda: each_succeeded(place, audiences=1, times=1))
        until(lambda: place.rows("SELECT 1 FROM open_deliveries LIMIT 1") == [])
        assert daemon.end(signal.SIGTERM, seconds=SOON).code == 0
    assert place.rows("SELECT state, reason FROM runs ORDER BY id") == [
        ("failed", "stopped on request"),
        ("succeeded", None),
    ]
    assert_settled(place, EVERYBODY)


# Beside others


def test_a_sync_beside_the_daemon_waits_its_turn(place: Place) -> None:
    """While the daemon syncs an audience, a one-off sync of it waits, or exits 5 when told to wait no longer."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with local_daemon(place, seconds=SOON):
        until(place.held)
        impatient = place.command("sync", "--wait", "0s")
        with place.running("sync") as patient:
            patient.wait_for("membership database:")
            place.shop.execute("COMMIT")
            ended = patient.end()
        until(lambda: each_succeeded(place, audiences=1, times=2))

    first, second = runs(place)[AUDIENCE_KEY]

    assert impatient.code == 5
    assert ended.code in {0, 3}  # 3: the daemon is still delivering what it found
    assert first.finished_at is not None
    assert first.finished_at <= second.started_at
    assert place.command("deliver").code == 0
    assert_settled(place, EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_the_daemon_waits_for_others_too(place: Place) -> None:
    """An audience that somebody else works on is looked at again a few seconds later, not given up."""
    place.sync_here(place.configure(), EVERYBODY)
    hourly(place)
    with place.workspace() as workspace:
        with place.database.read() as connection:
            audience = audiences.by_key(connection, AUDIENCE_KEY)
        lease = workspace.hold([audience.id], seconds=60)
        assert lease is not None
        with lease, local_daemon(place, seconds=SOON) as daemon:
            daemon.wait_for("sync_deferred")
            lease.close()
            until(lambda: each_succeeded(place, audiences=1, times=2))


# What systemd hears


class Notified:
    """The socket that systemd listens on."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self.heard: list[str] = []

    def wait_for(self, message: str, *, times: int = 1) -> None:
        """Wait until a message has come so often."""
        deadline = time.monotonic() + DEADLINE
        while sum(one.startswith(message) for one in self.heard) < times:
            assert time.monotonic() < deadline, self.heard
            self.heard += self._socket.recv(4096).decode().splitlines()


@contextmanager
def systemd(place: Place) -> Iterator[Notified]:
    """Listen as systemd does, with a watchdog of two seconds."""
    folder = Path(tempfile.mkdtemp(prefix="notify-"))  # the path of a socket must be short
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
            listening.bind(str(folder / "s"))
            listening.settimeout(DEADLINE)
            place.environment.update(NOTIFY_SOCKET=str(folder / "s"), WATCHDOG_USEC="2000000")
            yield Notified(listening)
    finally:
        shutil.rmtree(folder)


@ON_ONE_DATABASE
def test_systemd_is_told(place: Place) -> None:
    """READY once it works, STATUS and WATCHDOG again and again, STOPPING at the end."""
    with systemd(place) as notified:
        with local_daemon(place, seconds=SOON):
            notified.wait_for("READY=1")
            assert notified.heard == ["READY=1"]
            notified.wait_for("WATCHDOG=1", times=3)
            notified.wait_for("STATUS=1 audience, next sync ")
        notified.wait_for("STOPPING=1")

    assert notified.heard[-1] == "STOPPING=1"
    assert " UTC, " in next(one for one in notified.heard if one.startswith("STATUS"))


@ON_ONE_DATABASE
def test_a_second_sigterm_ends_at_once(place: Place) -> None:
    """Whoever does not want to wait sends SIGTERM again; what was under way goes again, and is not applied twice."""
    place.sandbox.faults.set([FaultRule(hold=True)])
    with systemd(place) as notified, place.running("run") as daemon:
        assert place.sandbox.gate.wait_for(1, timeout=DEADLINE)
        daemon.process.send_signal(signal.SIGTERM)
        notified.wait_for("STOPPING=1")
        assert daemon.end(signal.SIGTERM, seconds=SOON).code == 128 + signal.SIGTERM

    place.sandbox.faults.clear()
    place.sandbox.gate.release()

    assert place.command("deliver").code == 0
    assert_settled(place, EVERYBODY)
    assert place.sandbox.ledger.stats()["events"] == {
        "processed": 300,
        "duplicate": place.received() - 300,
        "failed": 0,
    }
