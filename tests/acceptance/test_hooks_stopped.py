"""Hooks whose delivery ends with an error while the daemon runs: it is logged, and the hook is started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audience_sync.daemon import dispatcher
from audience_sync.delivery import DeliveryOptions, DeliveryReport, deliver
from audience_sync.errors import DatabaseOlder
from audience_sync.store.workspace import Workspace
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place, until
from tests.acceptance.test_hooks import hook, stories, sync
from tests.support.webhook_receiver import SECRET, WebhookReceiver

OLDER = "the database is older than the data sent from it"
CRASHED = "delivery has crashed; see `thread_crashed` in the log"


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """Yield a shop."""
    with open_place(tmp_path, database_url) as opened:
        opened.environment["CRM_SECRET"] = SECRET
        yield opened


def end_deliveries(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[str]:
    """Have the daemon's next deliveries to the hook end with these errors; return where its threads are noted."""
    threads: list[str] = []

    def ending(workspace: Workspace, delivery: DeliveryOptions) -> DeliveryReport:
        if delivery.route is not None:
            threads.append(f"{threading.get_ident()} {threading.current_thread().name}")
            if errors:
                raise errors.pop(0)
        return deliver(workspace, delivery)

    monkeypatch.setattr(dispatcher, "deliver", ending)
    return threads


@ON_ONE_DATABASE
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(("error", "reason"), [(DatabaseOlder(OLDER), OLDER), (ValueError("a bug"), CRASHED)])
def test_a_hook_that_stops_is_logged_and_started_again(
    place: Place,
    receiver: WebhookReceiver,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    *,
    required: bool,
) -> None:
    """The daemon goes on, says once as an error why the hook stopped, and sends its messages after `max_backoff`."""
    place.configure(more=hook(receiver, required=required), guard={"max_exit_percent": 100})
    assert sync(place, ["u1"]) == 0
    assert sync(place, ["u2"], "--no-deliver") == 0
    end_deliveries(monkeypatch, [error, error])
    with local_daemon(place) as running:
        until(lambda: receiver.taken)
        until(lambda: set(place.traits()) == {"u1", "u2"})
    stopped = [line for line in running.logged if line["event"] == "hook_stopped"]

    assert stories(receiver.taken) == {"u1": ["exited"], "u2": ["entered"]}
    assert [(line["level"], line["hook"], line["error"]) for line in stopped] == [
        ("error", "crm", reason),
        ("info", "crm", reason),
    ]


@ON_ONE_DATABASE
def test_a_hook_that_has_stopped_does_not_outlive_the_daemon(
    place: Place, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is stopped meanwhile ends in time, and the hook is not started again."""
    place.configure(more=hook(receiver, max_backoff="1h"), guard={"max_exit_percent": 100})
    assert sync(place, ["u1"]) == 0
    assert sync(place, ["u2"], "--no-deliver") == 0
    tries = end_deliveries(monkeypatch, [DatabaseOlder(OLDER)])
    with local_daemon(place) as running:
        running.wait_for("hook_stopped")

    assert len(tries) == 1
    assert receiver.requests == []
