"""The scheduled syncs of the daemon, in this process and at a clock that stands: reloads, and what is logged of them.

The scheduler is not started: a test runs the job that it would run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from audience_sync.config import Settings, load
from audience_sync.core.model import RunState
from audience_sync.daemon.scheduler import Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.store import audiences, status_report
from audience_sync.store.workspace import Workspace
from audience_sync.sync import approve
from tests.factories import NOON, FrozenClock, Shop
from tests.tuned import tuned

pytestmark = pytest.mark.slow_on_postgres

HOUR = timedelta(hours=1)
ALL = "SELECT customer_id AS user_id FROM orders"
VIP = "SELECT customer_id AS user_id FROM orders WHERE company_id = 'vip'"
BROKEN = "SELECT gone AS user_id FROM nowhere"
PEOPLE = [(f"u{n}", "vip" if n < 10 else "acme") for n in range(200)]


def audience(name: str, sql: str = ALL, schedule: str = 'every = "2h", jitter = "0s"') -> str:
    """Return one audience of a configuration file."""
    return f"[[audiences]]\nname = {json.dumps(name)}\nsql = {json.dumps(sql)}\nschedule = {{ {schedule} }}\n"


@dataclass(kw_only=True)
class Daemon:
    """The syncing side of a daemon, whose jobs a test runs."""

    folder: Path
    workspace: Workspace
    clock: FrozenClock
    shop: Shop
    syncing: Syncing = field(init=False)
    reached: dict[str, Callable[[], None]] = field(default_factory=dict)  # what to do at a named point
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Begin without any audience."""
        self.workspace = replace(self.workspace, reach=lambda point: self.reached.pop(point, _pass)())
        self.tune()

    def tune(self, **changes: float) -> None:
        """Begin anew with other tunable numbers."""
        self.workspace = tuned(self.workspace, **changes)
        self.syncing = Syncing(self.workspace, self.settings(), stop=self.stop, troubles=Troubles(self.clock.monotonic))

    def settings(self, *audiences: str) -> Settings:
        """Write a configuration with these audiences, and load it."""
        path = self.folder / "config.toml"
        path.write_text("\n".join(["[sources.shop]\nurl = 'sqlite:///shop.db'", *audiences]))
        return load(path, {})

    def reload(self, *audiences: str) -> None:
        """Have the daemon go on with another configuration."""
        self.syncing.reload(self.settings(*audiences))

    def run(self, key: str, *, after: timedelta = timedelta(0)) -> None:
        """Run the job of an audience, as the scheduler does when it is due."""
        self.clock.advance(after)
        self.syncing._scheduler.remove_job(key)
        self.syncing._run(key)

    def due(self) -> dict[str, datetime]:
        """Return when each job comes; a job is never less than a second away."""
        jobs = {job.id: job.trigger.run_date for job in self.syncing._scheduler.get_jobs()}
        due = dict(self.syncing._due)
        assert jobs.keys() == due.keys()
        assert all(jobs[key] >= due[key] for key in due)
        return due

    def kept(self) -> dict[str, int | None]:
        """Return when each audience is due as the database has it, in hours after noon."""
        with self.workspace.database.read() as connection:
            return self.kept_by(connection)

    def kept_by(self, connection: Connection) -> dict[str, int | None]:
        """Return the same as a transaction sees it."""
        rows = connection.exec_driver_sql("SELECT key, next_due_at FROM audiences").all()
        return {key: None if at is None else round((at / 1000 - NOON.timestamp()) / 3600) for key, at in rows}

    def runs(self, key: str) -> list[tuple[str, int]]:
        """Return state and rows of an audience's runs."""
        with self.workspace.database.read() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT r.state, r.read FROM runs r JOIN audiences a ON a.id = r.audience_id WHERE a.key = '{key}'"
                " ORDER BY r.id"
            )
            return [(state, read) for state, read in rows]


def _pass() -> None:
    """Do nothing at a named point."""


@pytest.fixture
def daemon(tmp_path: Path, workspace: Workspace, clock: FrozenClock, shop: Shop) -> Daemon:
    """A daemon on a database of each kind, with 200 customers and no audience yet."""
    shop.set_orders(PEOPLE)
    return Daemon(folder=tmp_path, workspace=workspace, clock=clock, shop=shop)


def release(daemon: Daemon) -> None:
    """Have the one audience due now, as a process does that approves what it uses."""
    with daemon.workspace.database.write() as connection:
        audiences.set_next_due(connection, 1, daemon.workspace.clock.now_ms())


def told(logged: list[Any], *events: str) -> list[tuple[str, str]]:
    """Return event and level of the lines that are about these events."""
    return [(line["event"], line["log_level"]) for line in logged if line["event"] in events]


# Reload


def test_new_audiences_are_due_at_once_and_removed_ones_never(daemon: Daemon) -> None:
    """A new audience is due now, a removed one is not synced again, and the others keep their time."""
    daemon.reload(audience("Gold"), audience("Silver"))
    daemon.run("gold")
    daemon.run("silver")
    assert daemon.due() == {"gold": NOON + 2 * HOUR, "silver": NOON + 2 * HOUR}

    daemon.clock.advance(HOUR)
    daemon.reload(audience("Gold"), audience("Bronze"))

    assert daemon.due() == {"gold": NOON + 2 * HOUR, "bronze": NOON + HOUR}

    daemon.reload(audience("Gold") + "enabled = false\n", audience("Silver"))

    assert daemon.due() == {"silver": NOON + 2 * HOUR}


def test_a_changed_definition_counts_from_the_next_run(daemon: Daemon) -> None:
    """It does not run early for that, and runs with the new definition when it is due."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.reload(audience("Gold", ALL + " WHERE customer_id NOT LIKE '%5'"))

    assert daemon.due() == {"gold": NOON + 2 * HOUR}
    daemon.run("gold", after=2 * HOUR)
    assert [rows for _, rows in daemon.runs("gold")] == [200, 180]


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ('every = "5h", jitter = "0s"', 5),  # from the last sync
        ('every = "30m", jitter = "0s"', 1),  # half an hour ago: now
        ('cron = "0 17 * * *"', 5),
        ('cron = "30 12 * * *"', 24.5),  # half an hour ago, it was not scheduled yet
    ],
)
def test_a_changed_schedule_counts_at_once(daemon: Daemon, schedule: str, hours: float) -> None:
    """An hour after its sync an audience gets another schedule: later, sooner, or by the clock."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.clock.advance(HOUR)
    daemon.reload(audience("Gold", schedule=schedule))

    assert daemon.due() == {"gold": NOON + hours * HOUR}
    assert daemon.kept() == {"gold": round(hours)}


def test_what_is_overdue_stays_due(daemon: Daemon) -> None:
    """A longer schedule does not put off a sync that is about to start."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.clock.advance(3 * HOUR)
    daemon.reload(audience("Gold", schedule='every = "24h"'))

    assert daemon.due() == {"gold": NOON + 2 * HOUR}


def test_a_sync_under_way_finishes_with_the_old_configuration(daemon: Daemon) -> None:
    """It reads and applies the definition that it began with; when it is due next, the new schedule says."""
    daemon.reload(audience("Gold"))
    daemon.reached["sync.started"] = lambda: daemon.reload(audience("Gold", VIP, 'every = "6h", jitter = "0s"'))
    daemon.run("gold")

    assert daemon.runs("gold") == [("succeeded", 200)]
    assert (daemon.due(), daemon.kept()) == ({"gold": NOON + 6 * HOUR}, {"gold": 6})

    daemon.run("gold", after=6 * HOUR)
    assert daemon.runs("gold")[1] == ("blocked", 10)


def test_an_audience_that_is_removed_while_it_is_synced(daemon: Daemon) -> None:
    """Its sync is finished and not scheduled again; back in the file, it goes on where it was."""
    daemon.reload(audience("Gold"))
    daemon.reached["sync.read"] = daemon.reload
    daemon.run("gold")

    assert daemon.runs("gold") == [("succeeded", 200)]
    assert daemon.due() == {}

    daemon.reload(audience("Gold"))
    assert daemon.due() == {"gold": NOON + 2 * HOUR}


def test_a_queued_job_of_a_removed_audience_does_nothing(daemon: Daemon) -> None:
    """A job that waits for a free thread while its audience is removed does not sync it."""
    daemon.reload(audience("Gold"))
    daemon.reload()
    daemon.syncing._run("gold")

    assert daemon.runs("gold") == []
    assert daemon.due() == {}


# When an audience is due


@pytest.mark.parametrize("sql", [ALL, BROKEN], ids=["succeeds", "fails"])
@pytest.mark.parametrize("schedule", [2, 6], ids=["as it was", "reloaded"])
def test_a_release_during_a_sync_is_kept(daemon: Daemon, sql: str, schedule: int) -> None:
    """Whatever another process has written meanwhile stays: the audience is due then, and is synced then."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.reload(audience("Gold", sql))

    def release_and_reload() -> None:
        release(daemon)
        daemon.reload(audience("Gold", sql, f'every = "{schedule}h", jitter = "0s"'))

    daemon.reached["sync.started"] = release_and_reload
    daemon.run("gold", after=3 * HOUR)

    assert (daemon.due(), daemon.kept()) == ({"gold": NOON + (3 + schedule) * HOUR}, {"gold": 3})
    daemon.syncing.follow_releases()
    assert daemon.due() == {"gold": NOON + 3 * HOUR}


def test_a_release_right_after_a_sync_is_kept(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload during the sync has changed its schedule: that is kept late, and not over a release."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.reached["sync.started"] = lambda: daemon.reload(audience("Gold", schedule='every = "6h", jitter = "0s"'))
    keep = daemon.syncing._by_schedule

    def release_before(*arguments: Any) -> datetime:
        release(daemon)
        return keep(*arguments)

    monkeypatch.setattr(daemon.syncing, "_by_schedule", release_before)
    daemon.run("gold", after=3 * HOUR)

    assert (daemon.due(), daemon.kept()) == ({"gold": NOON + 9 * HOUR}, {"gold": 3})


def test_a_busy_database_does_not_hold_up_the_main_thread(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload and a clock that was set write for a moment at most; where they cannot, they change nothing."""
    daemon.tune(due_write_seconds=0.05)
    monkeypatch.setattr(daemon.syncing._scheduler, "wakeup", _pass)
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    seldom = audience("Gold", schedule='every = "6h", jitter = "0s"')
    with capture_logs() as logged:
        with daemon.workspace.database.write() as connection:
            connection.exec_driver_sql("UPDATE audiences SET name = 'busy'")
            with pytest.raises(sa.exc.OperationalError):
                daemon.reload(seldom, audience("Silver"))
            daemon.clock.advance(-24 * HOUR)
            daemon.syncing._drift += 24 * 3600  # the monotonic clock of the tests jumps, too
            for _ in range(2):
                daemon.syncing.follow_clock()
            assert (daemon.due(), daemon.kept_by(connection)) == ({"gold": NOON + 2 * HOUR}, {"gold": 2})
        daemon.syncing.follow_clock()
        assert (daemon.due(), daemon.kept()) == ({"gold": NOON - 22 * HOUR}, {"gold": -22})
        daemon.reload(seldom, audience("Silver"))

    assert daemon.due() == {"gold": NOON + 6 * HOUR, "silver": NOON - 24 * HOUR}
    assert told(logged, "database_unavailable", "clock_jumped") == [
        ("database_unavailable", "error"),
        ("clock_jumped", "warning"),
    ]


def test_the_next_sync_is_not_in_the_past(daemon: Daemon) -> None:
    """An audience that is overdue, or that is being synced, is due now."""
    assert daemon.syncing.next_at() is None
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    daemon.clock.advance(HOUR)
    assert daemon.syncing.next_at() == NOON + 2 * HOUR
    daemon.clock.advance(5 * HOUR)
    assert daemon.syncing.next_at() == NOON + 6 * HOUR


# The log


def test_trouble_of_another_kind_begins_anew(daemon: Daemon) -> None:
    """Blocked for two hours and then failing for two: when it is over, it has failed for two."""
    daemon.reload(audience("Gold"))
    with capture_logs() as logged:
        daemon.run("gold")
        daemon.shop.set_orders(PEOPLE[:20])
        daemon.run("gold", after=2 * HOUR)
        daemon.reload(audience("Gold", BROKEN))
        daemon.run("gold", after=2 * HOUR)
        daemon.shop.set_orders(PEOPLE)
        daemon.reload(audience("Gold"))
        daemon.run("gold", after=2 * HOUR)
    (recovered,) = (line for line in logged if line["event"] == "sync_recovered")

    assert (recovered["was"], recovered["after_seconds"]) == ("failed", 2 * 3600)


def test_a_blocked_run_is_a_warning_once(daemon: Daemon) -> None:
    """It names the command that approves it; the next ones are information until something was applied in between."""
    daemon.reload(audience("Gold"))
    with capture_logs() as logged:
        daemon.run("gold")
        daemon.shop.set_orders(PEOPLE[:20])
        daemon.run("gold", after=2 * HOUR)
        daemon.run("gold", after=2 * HOUR)
        approve(daemon.workspace, 3)
        daemon.shop.set_orders(PEOPLE)
        daemon.run("gold", after=2 * HOUR)
        daemon.reload(audience("Gold") + "guard = { max_entry_percent = 10000 }\n")
        daemon.run("gold", after=2 * HOUR)
    (first, second) = (line for line in logged if line["event"] == "run_blocked")

    assert told(logged, "run_blocked", "sync_recovered") == [
        ("run_blocked", "warning"),
        ("run_blocked", "info"),
        ("sync_recovered", "info"),
    ]
    assert first == {
        "event": "run_blocked",
        "log_level": "warning",
        "audience": "gold",
        "run_id": 2,
        "reason": "180 would exit: 90.0 % of the previous 200 members; max_exit_percent allows 30 %",
        "look": "audience-sync plan gold",
        "approve": "audience-sync approve gold",
    }
    assert (second["run_id"], second["approve"]) == (3, first["approve"])  # the command of the warning still works


def test_a_run_that_is_blocked_after_an_approval_is_news(daemon: Daemon) -> None:
    """Once somebody has approved a plan, the next run that is blocked is a warning again."""
    daemon.reload(audience("Gold"))
    with capture_logs() as logged:
        daemon.run("gold")
        for people in (PEOPLE[:120], PEOPLE[:10]):
            daemon.shop.set_orders(people)
            daemon.run("gold", after=2 * HOUR)
            run_id = len(daemon.runs("gold"))
            daemon.clock.advance(HOUR)
            if people is not PEOPLE[:10]:
                approve(daemon.workspace, run_id)

    assert told(logged, "run_blocked") == [("run_blocked", "warning")] * 2


def test_a_failure_is_an_error_once(daemon: Daemon) -> None:
    """Another failure is another error; when it works again, that is said with how long it did not."""
    daemon.reload(audience("Gold", BROKEN))
    with capture_logs() as logged:
        daemon.run("gold")
        daemon.run("gold", after=2 * HOUR)
        daemon.shop.execute("CREATE TABLE nowhere (other)")
        daemon.run("gold", after=2 * HOUR)
        daemon.shop.execute("ALTER TABLE nowhere ADD COLUMN gone")
        daemon.run("gold", after=2 * HOUR)
    failures = [line for line in logged if line["event"] == "sync_failed"]

    assert [(line["log_level"], line["due_at"][11:16]) for line in failures] == [
        ("error", "14:00"),
        ("info", "16:00"),
        ("error", "18:00"),
    ]
    assert "no such table: nowhere" in failures[0]["error"]
    assert "no such column: gone" in failures[2]["error"]
    (recovered,) = (line for line in logged if line["event"] == "sync_recovered")
    assert recovered == {
        "event": "sync_recovered",
        "log_level": "info",
        "audience": "gold",
        "was": "failed",
        "after_seconds": 6 * 3600,
    }


def test_a_requested_stop_is_not_an_error(daemon: Daemon) -> None:
    """A sync that ends because the daemon ends has not failed, and stays due."""
    daemon.reload(audience("Gold"))
    daemon.reached["sync.started"] = daemon.stop.set
    with capture_logs() as logged:
        daemon.run("gold")

    assert [(line["event"], line["log_level"]) for line in logged] == [("sync_interrupted", "info")]
    assert logged[0]["why"] == "stopped on request"
    assert daemon.kept() == {"gold": None}


def test_a_requested_stop_hides_nothing(daemon: Daemon) -> None:
    """`status` has what the last run said that was not stopped: a failure stays one."""
    daemon.reload(audience("Gold", BROKEN))
    daemon.run("gold")
    with daemon.workspace.database.read() as connection:
        failed = status_report.newest_runs(connection, RunState.FAILED)
    daemon.reload(audience("Gold"))
    daemon.reached["sync.started"] = daemon.stop.set
    daemon.run("gold")

    assert daemon.runs("gold")[-1][0] == "failed"
    with daemon.workspace.database.read() as connection:
        assert status_report.newest_runs(connection, RunState.FAILED) == failed
        (facts,) = status_report.facts(connection).values()
    assert (facts.last_run or {})["id"] == failed[0]["id"]


def test_a_renamed_audience_is_a_warning(daemon: Daemon) -> None:
    """The daemon says what `check` says: the trait begins anew under another key."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    with capture_logs() as logged:
        daemon.reload(audience("Gold Customers"))
    (renamed,) = (line for line in logged if line["event"] == "audience_renamed")

    assert (renamed["log_level"], renamed["audience"]) == ("warning", "gold_customers")
    assert str(renamed["why"]).startswith("was previously synced as gold: a sync sends the new trait gold_customers")
    assert 'set key = "gold"' in str(renamed["hint"])


def test_a_disabled_audience_of_the_same_name_was_not_renamed(daemon: Daemon) -> None:
    """An audience that is still in the file has not become another one."""
    daemon.reload(audience("Gold"))
    daemon.run("gold")
    with capture_logs() as logged:
        daemon.reload(audience("Gold") + "enabled = false\n", audience("Gold Too"))

    assert told(logged, "audience_renamed", "audience_skipped") == [("audience_skipped", "warning")]


def test_times_have_one_format(daemon: Daemon) -> None:
    """The times in the log are written as everywhere else: ISO 8601, UTC, milliseconds."""
    daemon.reload(audience("Gold", BROKEN))
    with capture_logs() as logged:
        daemon.run("gold")

    assert logged[0]["due_at"] == (NOON + 2 * HOUR).strftime("%Y-%m-%dT%H:%M:%S.000Z")
