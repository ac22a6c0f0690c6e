"""Hooks: every change is sent to a receiver in order, which is never trusted, and never delays the destination."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from audience_sync.cli import deliver_commands
from audience_sync.delivery import DeliveryOptions, DeliveryReport, deliver, side_deliveries
from audience_sync.destinations.webhook.webhook_signature import signed_headers
from audience_sync.errors import DatabaseOlder
from audience_sync.manual.manual_pages import manual_pages
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job
from audience_sync.sync import sync as run_sync
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place, until
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME
from tests.support.webhook_receiver import SECRET, Fault, WebhookReceiver, receiving


@pytest.fixture
def place(tmp_path: Path, database_url: str, receiver: WebhookReceiver) -> Iterator[Place]:
    """Yield a shop whose configuration has a hook."""
    with open_place(tmp_path, database_url) as opened:
        opened.environment["CRM_SECRET"] = SECRET
        opened.configure(more=hook(receiver), guard={"max_exit_percent": 100})
        yield opened


def hook(receiver: WebhookReceiver, **settings: object) -> str:
    """Return the table of a hook, with settings in place of its own."""
    known = {"name": "crm", "url": receiver.url, "secret": "${CRM_SECRET}", "max_backoff": "1s", **settings}
    lines = [f"{name} = {json.dumps(value)}" for name, value in known.items()]
    return "\n".join(["[[hooks]]", *lines, "max_requests_per_second = 1000"])


def sync(place: Place, members: Iterable[str], *words: str) -> int:
    """Make these the members, and sync; return the exit code."""
    place.shop.set_orders(dict.fromkeys(members).items())
    return place.command("sync", *words).code


def stories(messages: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the types of the messages about each user, in their order."""
    found = defaultdict(list)
    for message in messages:
        found[message["user"]["keys"]["userId"]].append(message["type"])
    return dict(found)


def status(place: Place) -> dict[str, Any]:
    """Return what `status` says about the hook."""
    (whole,) = place.command("status", "--format", "json").records
    (found,) = whole["hooks"]
    return dict(found)


def test_changes_after_the_first_sync_are_sent(place: Place, receiver: WebhookReceiver) -> None:
    """The first sync is the state from which changes count; then each is a message with the facts of the change."""
    assert sync(place, ["u1", "u2"]) == 0
    assert receiver.requests == []
    assert sync(place, ["u2", "u3"]) == 0

    assert stories(receiver.taken) == {"u1": ["exited"], "u3": ["entered"]}
    (entered,) = [one for one in receiver.taken if one["type"] == "entered"]
    run = place.rows("SELECT as_of FROM sync_runs ORDER BY id DESC LIMIT 1")
    assert entered == {
        "id": entered["id"],
        "type": "entered",
        "audience": {"key": AUDIENCE_KEY, "name": AUDIENCE_NAME},
        "value": True,
        "user": {"keys": {"userId": "u3"}},
        "at": run[0][0],
        "initial": False,
    }
    assert place.rows("SELECT count(*) FROM events") == [(0,)]
    assert place.traits()["u3"] == {AUDIENCE_KEY: True}


def test_a_hook_can_begin_with_the_members(place: Place, receiver: WebhookReceiver) -> None:
    """With `start = "members"`, the members of a first sync are sent, and those that a later hook finds."""
    place.configure(more=hook(receiver, start="members"))
    assert sync(place, ["u1", "u2"]) == 0
    assert stories(receiver.taken) == {"u1": ["entered"], "u2": ["entered"]}
    with receiving() as later:
        more = "\n".join([hook(receiver, start="members"), hook(later, name="late", start="members")])
        place.configure(more=more, guard={"max_exit_percent": 100})
        assert sync(place, ["u2", "u3"]) == 0

        assert stories(later.taken) == {"u1": ["entered", "exited"], "u2": ["entered"], "u3": ["entered"]}
        assert [one["initial"] for one in later.taken if one["type"] == "entered"] == [True, True, False]
    assert stories(receiver.taken) == {"u1": ["entered", "exited"], "u2": ["entered"], "u3": ["entered"]}


def test_members_are_queued_in_pages_and_across_a_kill(place: Place, receiver: WebhookReceiver) -> None:
    """A sync that is killed while it queues the members goes on where it stopped, and each is sent once."""
    users = [f"u{number}" for number in range(7)]
    place.environment["CRM_SECRET"] = SECRET
    place.configure()
    assert sync(place, users) == 0
    settings = place.configure(more=hook(receiver, start="members"))
    job = Job(settings=settings, audience=settings.audiences[0])
    with place.workspace(changes_per_commit=2) as workspace:
        killed = replace(workspace, reach=failing_at("subscription.committed", 2))
        with pytest.raises(InterruptedError):
            run_sync(killed, job)
    assert place.rows("SELECT count(*) FROM events") == [(4,)]
    assert sync(place, users) == 0

    assert stories(receiver.taken) == {user: ["entered"] for user in users}
    assert len(receiver.taken) == len(users)


def test_a_slow_receiver_gets_everything(place: Place, receiver: WebhookReceiver) -> None:
    """A receiver that needs more than a second for each response gets some by `sync`, and all by `deliver`."""
    receiver.delay = 1.5
    place.configure(more=hook(receiver, batch_size=1, concurrency=1), guard={"max_exit_percent": 100})
    assert sync(place, ["u1"]) == 0
    assert sync(place, ["u1", "u2", "u3", "u4"]) == 0
    assert receiver.taken
    assert place.command("deliver").code == 0

    once = {message["id"]: message for message in receiver.taken}  # what was cut off is sent again
    assert stories(once.values()) == {user: ["entered"] for user in ("u2", "u3", "u4")}
    assert status(place)["open"] == 0


def failing_at(point: str, count: int) -> Callable[[str], None]:
    """Return what raises when a named point is reached for the nth time."""
    reached = Counter[str]()

    def reach(name: str) -> None:
        reached[name] += 1
        if name == point and reached[name] == count:
            raise InterruptedError(point)

    return reach


def test_a_hook_that_hangs_delays_nothing(place: Place, receiver: WebhookReceiver) -> None:
    """A sync ends long before the request that hangs, with the code of the destination; the messages stay."""
    place.configure(more=hook(receiver, timeout="60s"), guard={"max_exit_percent": 100})
    assert sync(place, ["u1"]) == 0
    place.always_forks = True  # the end of a process cuts off the request that hangs
    receiver.fail(Fault(hangs=True))
    began = time.monotonic()
    assert sync(place, ["u2"]) == 0
    assert time.monotonic() - began < 40  # some seconds, on a machine that does nothing else
    assert place.traits()["u2"] == {AUDIENCE_KEY: True}
    assert status(place)["open"] == 2

    receiver.recover()
    assert place.command("deliver").code == 0
    assert stories(receiver.taken) == {"u1": ["exited"], "u2": ["entered"]}
    assert status(place)["open"] == 0


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault(500), "retrying"),
        (Fault(302, headers={"Location": "http://127.0.0.1:1/other?token=t0ken"}), "stopped"),
        (Fault(410), "stopped"),
        (Fault(401), "key_refused"),
    ],
)
def test_a_failing_hook_is_in_the_status_and_not_in_the_exit_code(
    place: Place, receiver: WebhookReceiver, fault: Fault, state: str
) -> None:
    """Without `required`, a hook that fails changes no exit code; its messages wait, and `status` says why."""
    assert sync(place, ["u1"]) == 0
    receiver.fail(fault)
    assert sync(place, ["u2"]) == 0
    found = status(place)
    shown = place.command("status")

    assert (found["open"], found["dead"]) == (2, 0)
    assert found["state"] == state
    assert str(fault.status) in found["last_answer"]
    assert "token" not in json.dumps(found) + shown.out + shown.err
    assert "/hook" not in json.dumps(found) + shown.out + shown.err

    receiver.recover()
    assert place.command("deliver").code == 0
    assert stories(receiver.taken) == {"u1": ["exited"], "u2": ["entered"]}


def test_a_required_hook_counts(place: Place, receiver: WebhookReceiver) -> None:
    """With `required = true`, open messages end a sync with code 3, and a refused signature with code 6."""
    place.configure(more=hook(receiver, required=True), guard={"max_exit_percent": 100})
    assert sync(place, ["u1"]) == 0
    receiver.fail(Fault(503))
    assert sync(place, ["u2"], "--wait", "1s") == 3
    receiver.fail(Fault(401))
    assert place.command("deliver", "--wait", "1s").code == 6
    receiver.recover()
    assert place.command("deliver").code == 0
    assert len(receiver.once) == 2


def test_a_rejected_message_is_a_dead_letter(place: Place, receiver: WebhookReceiver) -> None:
    """A clear refusal sets the message aside with the reason; it can be sent again under its id, or discarded."""
    assert sync(place, []) == 0
    receiver.fail(Fault(422, '{"error":"no such user"}'))
    assert sync(place, ["u1", "u2"]) == 0
    listed = place.command("dead", "list", "--hook", "crm", "--format", "json").records
    assert [(one["profile_key"], one["reason"]) for one in listed] == [
        (user, "HTTP 422: no such user") for user in ("u1", "u2")
    ]
    assert place.command("dead", "list", "--format", "json").records == []
    refused = {message["id"] for request in receiver.requests for message in request.messages}

    receiver.recover()
    assert place.command("dead", "discard", "--hook", "crm", "--profile", "u2", "--yes").code == 0
    assert place.command("dead", "retry", "--hook", "crm").out == "dead letters reopened: 1\n"
    assert place.command("deliver").code == 0
    assert stories(receiver.taken) == {"u1": ["entered"]}
    assert {one["id"] for one in receiver.taken} < refused


def test_a_removed_hook_keeps_its_messages_until_they_are_discarded(place: Place, receiver: WebhookReceiver) -> None:
    """Messages for a hook that is no longer in the file are shown, and discarded only on request."""
    assert sync(place, ["u1"]) == 0
    receiver.fail(Fault(503))
    assert sync(place, ["u2"]) == 0
    place.configure()
    assert sync(place, ["u3"]) == 0  # nothing more is queued
    found = status(place)
    assert (found["hook"], found["configured"], found["open"]) == ("crm", False, 2)
    assert "dead discard --hook crm" in place.command("status").err

    discarded = place.command("dead", "discard", "--hook", "crm", "--yes", "--format", "json")
    assert discarded.records == [{"discarded": 2, "values": 0, "events": 2}]
    (whole,) = place.command("status", "--format", "json").records
    assert whole["hooks"] == []
    unknown = place.command("dead", "discard", "--hook", "crm", "--yes")
    assert (unknown.code, unknown.err.splitlines()[-2:]) == (
        2,
        ["error: there is no hook 'crm'", "hint: `audience-sync status` lists them"],
    )


def test_a_forgotten_person_is_deleted_at_the_receiver(place: Place, receiver: WebhookReceiver) -> None:
    """`forget` drops what waits and sends `deleted`; afterwards nothing in the database names the person."""
    assert sync(place, ["u1", "u2"]) == 0
    assert sync(place, ["u1", "u2", "u3"]) == 0
    receiver.fail(Fault(503))
    assert sync(place, ["u1", "u2"]) == 0
    receiver.recover()
    forgotten = place.command("forget", "u3", "--yes")
    assert forgotten.code == 0
    assert "1 hook will get the message `deleted`" in forgotten.err
    assert place.command("deliver").code == 0

    assert stories(receiver.taken) == {"u3": ["entered", "deleted"]}
    deleted = receiver.taken[-1]
    assert deleted == {"id": deleted["id"], "type": "deleted", "user": {"keys": {"userId": "u3"}}, "at": deleted["at"]}
    left = {table: rows for table, rows in place.everything().items() if "'u3'" in repr(rows) or '"u3"' in repr(rows)}
    assert left == {}


def test_a_removed_hook_gets_no_new_messages(place: Place, receiver: WebhookReceiver) -> None:
    """A hook that is gone gets no message of other commands than `sync`, least of all about a forgotten person."""
    assert sync(place, ["u1", "u2"]) == 0
    place.configure()
    forgotten = place.command("forget", "u1", "--yes")
    assert "hook" not in forgotten.err
    assert place.command("retract", AUDIENCE_KEY, "--yes").code == 0

    assert place.rows("SELECT * FROM events") == []
    assert receiver.taken == []


def samples(place: Place) -> list[dict[str, Any]]:
    """Return the samples of a plan."""
    records = place.command("plan", "--samples", "9", "--format", "json").records
    return [one for one in records if one["record"] == "sample"]


def test_a_plan_shows_the_messages(place: Place, receiver: WebhookReceiver) -> None:
    """Samples have what each hook gets, and nothing is sent: of a first sync, a hook that begins now gets nothing."""
    place.shop.set_orders(["u1"])
    assert [one["hooks"] for one in samples(place)] == ["{}"]
    assert sync(place, ["u1"]) == 0
    place.shop.set_orders(["u2"])
    planned = {one["profile_key"]: json.loads(one["hooks"])["crm"] for one in samples(place)}
    shown = place.command("plan", "--samples", "1").out

    assert 'hook crm: {"id":"(generated when sent)","type":"entered"' in shown
    assert receiver.requests == []
    assert sync(place, ["u2"]) == 0
    changing = {"id": None, "at": None}
    assert {key: {**one, **changing} for key, one in planned.items()} == {
        one["user"]["keys"]["userId"]: {**one, **changing} for one in receiver.taken
    }


@ON_ONE_DATABASE
def test_check_has_a_line_for_each_hook(place: Place, receiver: WebhookReceiver) -> None:
    """The receiver gets a signed request without messages; a hook that fails is a warning, a required one an error."""
    found = [one for one in place.command("check", "--format", "json").records if one["check"] == "hook"]
    assert [(one["state"], one["message"]) for one in found] == [("ok", "accepts signed requests; no message was sent")]
    assert [request.messages for request in receiver.requests] == [[]]
    receiver.fail(Fault(401))
    assert place.command("check").code == 0
    place.configure(more=hook(receiver, required=True))
    assert place.command("check").code != 0


@ON_ONE_DATABASE
def test_a_missing_secret_is_named(place: Place, receiver: WebhookReceiver) -> None:
    """Without its secret, a hook sends nothing and its messages stay; a required one fails the command."""
    assert sync(place, ["u1"]) == 0
    del place.environment["CRM_SECRET"]
    place.shop.set_orders(["u2"])
    ended = place.command("sync")
    assert ended.code == 0
    assert "hook crm: `CRM_SECRET` is not set as an environment variable or a systemd credential" in ended.err
    assert status(place)["open"] == 2
    place.configure(more=hook(receiver, required=True))
    assert place.command("deliver").code == 2


@ON_ONE_DATABASE
def test_a_required_hook_without_its_secret_fails_before_anything_is_synced(
    place: Place, receiver: WebhookReceiver
) -> None:
    """As with the API key, a command that could not send everything commits and sends nothing."""
    assert sync(place, ["u1"]) == 0
    place.configure(more=hook(receiver, required=True), guard={"max_exit_percent": 100})
    del place.environment["CRM_SECRET"]
    before = place.everything()
    place.shop.set_orders(["u2"])
    ended = place.command("sync")

    assert ended.code == 2
    assert "hook crm: `CRM_SECRET` is not set as an environment variable or a systemd credential" in ended.err
    assert place.everything() == before
    assert place.command("sync", "--no-deliver").code == 0
    assert list(place.members()) == ["u2"]
    place.environment["CRM_SECRET"] = SECRET
    assert place.command("deliver").code == 0
    assert stories(receiver.taken) == {"u1": ["exited"], "u2": ["entered"]}


def crash_deliveries(monkeypatch: pytest.MonkeyPatch, crashes: Mapping[str, BaseException]) -> None:
    """Have deliveries end with an exception: by the name of the hook, or `schematic`."""

    def crashing(workspace: Workspace, delivery: DeliveryOptions) -> DeliveryReport:
        name = "schematic" if delivery.route is None else delivery.route.name
        if name in crashes:
            raise crashes[name]
        return deliver(workspace, delivery)

    monkeypatch.setattr(deliver_commands, "deliver", crashing)
    monkeypatch.setattr(side_deliveries, "deliver", crashing)


@ON_ONE_DATABASE
@pytest.mark.parametrize("crash", [ValueError("personal data"), DatabaseOlder("the database is old")])
def test_the_crash_of_a_hook_is_printed_and_logged(
    place: Place, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch, crash: Exception
) -> None:
    """A delivery that crashes is a warning, and a bug is logged with its place; nothing else is disturbed."""
    assert sync(place, ["u1"]) == 0
    crash_deliveries(monkeypatch, {"crm": crash})
    place.shop.set_orders(["u2"])
    ended = place.command("sync", "--format", "json")

    assert ended.code == 0
    assert [one["state"] for one in ended.records] == ["succeeded"]
    assert place.traits()["u2"] == {AUDIENCE_KEY: True}
    assert receiver.requests == []
    assert "personal data" not in ended.err
    if isinstance(crash, DatabaseOlder):
        assert "warning: hook crm: the database is old" in ended.err
    else:
        assert "warning: hook crm: the delivery crashed; its messages stay pending" in ended.err
        (logged,) = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
        assert (logged["event"], logged["thread"]) == ("thread_crashed", "delivery to crm")
        assert logged["exception"].startswith("ValueError\n")


@ON_ONE_DATABASE
def test_the_crash_of_a_required_hook_does_not_replace_another(
    place: Place, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends as its own delivery does; every other one has ended before, and each crash is printed."""
    with receiving() as second:
        hooks = [hook(receiver, required=True), hook(second, name="late", required=True)]
        place.configure(more="\n".join(hooks), guard={"max_exit_percent": 100})
        assert sync(place, ["u1"]) == 0
        crashes: dict[str, BaseException] = {"crm": ValueError("of a hook"), "schematic": DatabaseOlder("its own")}
        crash_deliveries(monkeypatch, crashes)
        place.shop.set_orders(["u2"])
        ended = place.command("sync")
        assert (ended.code, ended.err.splitlines()[-1]) == (DatabaseOlder.exit_code, "error: its own")
        assert "warning: hook crm: the delivery crashed; its messages stay pending" in ended.err
        assert stories(second.taken) == {"u1": ["exited"], "u2": ["entered"]}

        del crashes["schematic"]
        place.shop.set_orders(["u3"])
        ended = place.command("sync")
        assert ended.code == 1
        assert "ValueError" in ended.err
        assert stories(second.taken) == {"u1": ["exited"], "u2": ["entered", "exited"], "u3": ["entered"]}


@ON_ONE_DATABASE
def test_the_receiver_of_the_manual(place: Place, tmp_path: Path) -> None:
    """The receiver that the manual shows verifies the signature and the age, and processes each message once."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", manual_pages()["webhooks"].text(), re.DOTALL | re.MULTILINE)
    folder = tmp_path / "receiver"
    folder.mkdir()
    (folder / "receiver.py").write_text(code, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "CRM_HOOK_SECRET": SECRET.replace(" ", "_"), "PORT": str(port)}
    place.environment["CRM_SECRET"] = environment["CRM_HOOK_SECRET"]
    url = f"http://127.0.0.1:{port}/"
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen([sys.executable, "receiver.py"], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        until(lambda: post(url, b"{}", {}) == 401)
        more = "\n".join(["[[hooks]]", f'name = "crm"\nurl = "{url}"\nsecret = "${{CRM_SECRET}}"\nrequired = true'])
        place.configure(more=more, guard={"max_exit_percent": 100})
        assert sync(place, ["u1"]) == 0
        assert sync(place, ["u2"]) == 0

        (batch,) = place.rows("SELECT events FROM batches WHERE destination = 'crm' LIMIT 1")
        body = json.dumps({"messages": [{"id": "1", "type": "entered", "user": {"keys": {"userId": "x"}}}]}).encode()
        secret, now = [environment["CRM_HOOK_SECRET"]], datetime.now(UTC)
        assert "u2" in batch[0]
        assert post(url, body, signed_headers(body, secret, now=now - timedelta(hours=1))) == 401
        assert post(url, body + b" ", signed_headers(body, secret, now=now)) == 401
        assert [post(url, body, signed_headers(body, secret, now=now)) for _ in range(2)] == [204, 204]
    finally:
        process.terminate()
        process.wait()
    said = [line for line in (folder / "out.txt").read_text().splitlines() if "keys" in line or "userId" in line]
    assert sorted(said) == [
        "entered None {'userId': 'x'}",
        f"entered {AUDIENCE_KEY} {{'userId': 'u2'}}",
        f"exited {AUDIENCE_KEY} {{'userId': 'u1'}}",
    ]


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Post a body and return the status; 0 without an answer."""
    try:
        return httpx.post(url, content=body, headers=dict(headers), trust_env=False).status_code
    except httpx.TransportError:
        return 0
