"""Reloads of a daemon that delivers, in this process: mappings, an outage, and an API key that is rotated."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs
from structlog.typing import EventDict

from audience_sync import daemon
from audience_sync.clock import Clock
from audience_sync.config import load, resolve_api_key
from audience_sync.daemon import scheduler, service
from audience_sync.daemon.hook_dispatchers import HookDispatchers
from audience_sync.daemon.troubles import Troubles
from audience_sync.errors import AudienceSyncError
from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store import backlog, holders
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, sync
from tests.factories import Shop
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.support.webhook_receiver import SECRET, WebhookReceiver, receiving
from tests.tuned import tuned
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

PEOPLE = [f"u{n}" for n in range(5)]
MAPPINGS = """
[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
user_traits = { "@path" = "$.traits" }
[[mappings]]
name = "Joined"
trigger = 'context.change = "entered"'
action = "trackEvent"
[mappings.fields]
event_name = "Joined"
user_keys = { userId = { "@path" = "$.userId" } }
"""
SILVER = '[[audiences]]\nname = "Silver"\nsql = "SELECT customer_id AS user_id FROM orders"\n'
LONG = 60.0  # seconds; on a busy machine a start alone may take ten


@dataclass(kw_only=True)
class Served:
    """A daemon whose configuration a test writes, the sandbox it delivers to, and its log."""

    folder: Path
    workspace: Workspace
    shop: Shop
    sandbox: FaultySandbox
    logged: list[EventDict]
    asked: threading.Event = field(default_factory=threading.Event)

    def write(self, more: str = "", *, key: str = DEVELOPMENT_KEY, url: str | None = None) -> None:
        """Write the configuration and the file of the API key."""
        (self.folder / "key").write_text(key)
        where = json.dumps(url or self.sandbox.url)
        (self.folder / "config.toml").write_text(
            f'[schematic]\napi_key_file = "key"\ncapture_url = {where}\napi_url = {where}\n'
            '[delivery]\nmax_backoff = "1h"\n[schedule]\nevery = "1h"\n'
            '[sources.shop]\nurl = "sqlite:///shop.db"\n'
            f'[[audiences]]\nname = "Gold"\nsql = "SELECT customer_id AS user_id FROM orders"\n{more}'
        )

    def reload(self, more: str = "", **written: Any) -> None:
        """Write the configuration, and have the daemon read it."""
        self.write(more, **written)
        self.asked.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the daemon in a thread; it must end well."""
        stop = threading.Event()
        settings = load(self.folder / "config.toml", {})
        key = resolve_api_key(settings.schematic, {})
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(daemon.run, self.workspace, settings, key, stop=stop, reload=self.asked)
            try:
                yield
            finally:
                stop.set()
            ended.result(timeout=60)

    def traits(self) -> dict[str, Any]:
        """Return the traits that the sandbox knows of everybody."""
        return dict(self.sandbox.ledger.all_traits("userId"))

    def told(self, *events: str) -> list[tuple[str, str]]:
        """Return event and level of the log lines so far that are about these events."""
        return [(line["event"], line["log_level"]) for line in self.logged if line["event"] in events]


@pytest.fixture
def served(tmp_path: Path, database: Database, shop: Shop) -> Iterator[Served]:
    """A shop of five customers, due every hour; the daemon looks often."""
    shop.set_orders(PEOPLE)
    with (
        FaultySandbox(tmp_path / "sandbox.db") as sandbox,
        closing(holders.enter(database)) as holder,
        capture_logs() as logged,
    ):
        workspace = Workspace(database=database, holder=holder, clock=Clock(jitter=lambda: 0.0))
        workspace = tuned(workspace, watch_seconds=0.05, outbox_poll_seconds=0.05)
        opened = Served(folder=tmp_path, workspace=workspace, shop=shop, sandbox=sandbox, logged=logged)
        opened.write()
        yield opened


def test_mappings_count_for_what_is_sent_from_then_on(served: Served) -> None:
    """A mapping that the file gains makes events of the changes of an audience that it gains, too."""
    with served.running():
        wait_until(lambda: len(served.traits()) == 5, seconds=LONG)
        served.reload(SILVER + MAPPINGS)
        wait_until(lambda: any(event.type == "track" for event in served.sandbox.ledger.events()), seconds=LONG)

    assert [line["settings"] for line in served.logged if line["event"] == "configuration_reloaded"] == [("mappings",)]


def test_a_reload_ends_the_wait_of_an_outage(served: Served) -> None:
    """Schematic asks for an hour; whoever knows better reloads, and it is tried at once."""
    served.sandbox.faults.set([FaultRule(status=503, headers={"Retry-After": "3600"})])
    with served.running():
        wait_until(lambda: served.told("schematic_unreachable"), seconds=LONG)
        served.sandbox.faults.clear()
        served.reload()
        wait_until(lambda: len(served.traits()) == 5, seconds=LONG)

    assert served.told("schematic_unreachable", "schematic_recovered") == [
        ("schematic_unreachable", "warning"),
        ("schematic_recovered", "info"),
    ]


def test_a_rotated_key_is_used_after_a_reload(served: Served) -> None:
    """The key is refused; the new one is in its file, and the reload sends what has waited."""
    served.write(key="sch_revoked")
    with served.running():
        wait_until(lambda: served.told("key_refused"), seconds=LONG)
        served.reload()
        wait_until(lambda: len(served.traits()) == 5, seconds=LONG)
    reloaded = next(line for line in served.logged if line["event"] == "configuration_reloaded")

    assert reloaded["settings"] == ("the API key",)
    assert served.told("key_refused", "schematic_recovered") == [
        ("key_refused", "error"),
        ("schematic_recovered", "info"),
    ]


@pytest.mark.slow
def test_the_key_of_another_environment_stops_deliveries_alone(served: Served, tmp_path: Path) -> None:
    """A mistake in a reload sends nothing to the wrong environment and ends nothing; the next reload corrects it."""
    production = SandboxSettings(environment_id="env_production", environment_type="production")
    with FaultySandbox(tmp_path / "production.db", settings=production) as other, served.running():
        wait_until(lambda: len(served.traits()) == 5, seconds=LONG)
        served.reload(SILVER, url=other.url)
        wait_until(lambda: served.told("delivery_stopped"), seconds=LONG)
        received = other.ledger.stats()["events"]
        served.reload(SILVER)
        wait_until(lambda: all("silver" in traits for traits in served.traits().values()), seconds=LONG)
    (stopped,) = (line for line in served.logged if line["event"] == "delivery_stopped")

    assert received == {"processed": 0, "duplicate": 0, "failed": 0}
    assert (stopped["log_level"], stopped["error"]) == (
        "error",
        "this database belongs to the Schematic environment 'env_sandbox', but the API key belongs to 'env_production'",
    )


def test_an_outage_that_turns_into_another(served: Served) -> None:
    """First Schematic is away, then it refuses the key, then all is well: each line says what was, and for how long."""
    served.sandbox.faults.set([FaultRule(status=503, headers={"Retry-After": "3600"})])
    with served.running():
        wait_until(lambda: served.told("schematic_unreachable"), seconds=LONG)
        served.sandbox.faults.set([FaultRule(status=401)])  # also for a request that is under way
        served.reload()
        wait_until(lambda: served.told("key_refused"), seconds=LONG)
        served.sandbox.faults.clear()
        served.reload()
        wait_until(lambda: served.told("schematic_recovered"), seconds=LONG)
    names = ("schematic_unreachable", "key_refused", "schematic_recovered")
    away, refused, back = (line for line in served.logged if line["event"] in names)
    seconds = (datetime.fromisoformat(refused["since"]) - datetime.fromisoformat(away["since"])).total_seconds()

    assert "was" not in away
    assert (refused["was"], refused["after_seconds"]) == ("unreachable", round(seconds))
    assert back == {
        "event": "schematic_recovered",
        "log_level": "info",
        "pending": back["pending"],
        "was": "key_refused",
        "after_seconds": back["after_seconds"],
        "nothing_accepted_since": away["since"],
    }


def test_a_reload_waits_for_a_busy_database(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread does not wait with it: it tries again, and says so once."""
    served.workspace = tuned(served.workspace, due_write_seconds=0.01)
    database = served.workspace.database
    tries: list[None] = []
    keep_all = scheduler.Syncing._keep_all

    def counted(*arguments: Any, **more: Any) -> None:
        tries.append(None)
        keep_all(*arguments, **more)

    with served.running():
        wait_until(lambda: served.told("sync_finished") and len(served.traits()) == 5, seconds=LONG)
        monkeypatch.setattr(scheduler.Syncing, "_keep_all", counted)
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE audiences SET name = 'busy'")
            served.reload("schedule = { every = '2h' }\n")
            wait_until(lambda: len(tries) >= 3, seconds=LONG)
            assert served.told("reload_delayed", "configuration_reloaded") == [("reload_delayed", "warning")]
        wait_until(lambda: served.told("configuration_reloaded"), seconds=LONG)

    assert served.told("reload_delayed", "configuration_reloaded") == [
        ("reload_delayed", "warning"),
        ("configuration_reloaded", "info"),
    ]


class Bug(Exception):
    """Something that nobody foresaw."""


def break_deliveries(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    """Have every delivery end with a bug."""

    def crash(_: object, **_options: object) -> bool:
        raise bug

    monkeypatch.setattr(backlog, "any_deliverable", crash)


@pytest.mark.parametrize(
    "bug", [Bug(), sa.exc.IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))], ids=["any", "database"]
)
def test_a_crash_of_delivering_ends_the_daemon(served: Served, bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not go on without delivering, and does not call a bug an outage of the database."""
    break_deliveries(monkeypatch, bug)
    with pytest.raises(AudienceSyncError, match="delivery has crashed"), served.running():
        wait_until(lambda: served.told("daemon_stopping"), seconds=LONG)
    (crashed,) = (line for line in served.logged if line["event"] == "thread_crashed")

    assert (crashed["log_level"], crashed["thread"], crashed["exc_info"]) == ("error", "dispatcher", bug)
    assert served.told("database_unavailable") == []


@pytest.mark.parametrize("is_requested", [True, False])
def test_only_a_requested_end_is_a_success(served: Served, monkeypatch: pytest.MonkeyPatch, is_requested: bool) -> None:
    """Though a source still does not answer, a daemon that has crashed exits with 1, so that systemd restarts it."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    end = service._end
    monkeypatch.setattr(service, "_end", lambda *parts: end(*parts) and False)
    monkeypatch.setattr(os, "_exit", leave)
    if not is_requested:
        break_deliveries(monkeypatch, Bug())
    with pytest.raises(SystemExit) as left, served.running():
        wait_until(lambda: served.told("daemon_started" if is_requested else "work_abandoned"), seconds=LONG)

    assert left.value.code == (0 if is_requested else 1)


def hook_table(receiver: WebhookReceiver) -> str:
    """Return the table of a hook whose secret is in a file."""
    return f'[[hooks]]\nname = "crm"\nurl = "{receiver.url}"\nsecret_file = "secret"\nmax_requests_per_second = 1000\n'


def hook_threads() -> list[threading.Thread]:
    """Return the dispatchers of the hook."""
    return [thread for thread in threading.enumerate() if thread.name == "dispatcher crm"]


def test_a_hook_that_moves_and_loses_its_secret_sends_nothing_to_the_old_address(
    served: Served, tmp_path: Path
) -> None:
    """Without its secret, a hook goes on only as the file has it; another address ends it until the secret is there."""
    secret = tmp_path / "secret"
    with receiving() as old, receiving() as new:
        secret.write_text(SECRET)
        served.write(hook_table(old))
        with served.running():
            wait_until(lambda: len(served.traits()) == 5, seconds=LONG)
            secret.unlink()
            served.reload(hook_table(old))
            wait_until(lambda: len(served.told("configuration_reloaded")) == 1, seconds=LONG)
            (before,) = hook_threads()
            served.reload(hook_table(new))
            wait_until(lambda: len(served.told("configuration_reloaded")) == 2, seconds=LONG)
            wait_until(lambda: not before.is_alive())
            served.shop.set_orders(PEOPLE[1:])
            settings = load(tmp_path / "config.toml", {})
            sync(served.workspace, Job(settings=settings, audience=settings.audiences[0]))
            wait_until(lambda: served.traits()[PEOPLE[0]] == {"gold": False}, seconds=LONG)
            secret.write_text(SECRET)
            served.reload(hook_table(new))
            wait_until(lambda: new.taken, seconds=LONG)

        assert old.requests == []
        assert [message["type"] for message in new.once] == ["exited"]
    assert served.told("hook_not_started") == [("hook_not_started", "error")] * 2
    assert hook_threads() == []


def test_dispatchers_that_have_ended_are_forgotten(served: Served, tmp_path: Path) -> None:
    """A daemon that is reloaded often does not keep the threads of hooks that were removed."""
    (tmp_path / "secret").write_text(SECRET)
    without = load(tmp_path / "config.toml", {})
    with receiving() as receiver:
        served.write(hook_table(receiver))
        settings = load(tmp_path / "config.toml", {})
        troubles, stop = Troubles(served.workspace.clock.monotonic), threading.Event()
        syncing = scheduler.Syncing(served.workspace, settings, stop=stop, troubles=troubles)
        hooks = HookDispatchers(served.workspace, syncing=syncing, troubles=troubles)
        for _ in range(3):
            hooks.follow(settings, {})
            hooks.follow(without, {})
            wait_until(lambda: not hook_threads())
        hooks.follow(without, {})

    assert hooks._ending == []
