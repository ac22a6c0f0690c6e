"""A receiver that fails, hangs, redirects and comes back, and a daemon that is killed: every change, once, in order."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import KILLED, Place, open_place, until
from tests.acceptance.test_hooks import hook, stories
from tests.factories import AUDIENCE_KEY
from tests.support.webhook_receiver import SECRET, Fault, WebhookReceiver, receiving

EVERY_SECOND = '[schedule]\nevery = "1s"\njitter = "0s"\n'
POINTS = ("sync.started", "apply.committed", "deliver.taken", "deliver.posted", "deliver.settled")
FAULTS = (
    Fault(500),
    Fault(hangs=True),
    None,
    Fault(302, headers={"Location": "http://127.0.0.1:1/"}),
    Fault(drops=True),
)
ROUNDS: tuple[list[str], ...] = (["u1", "u2"], ["u2", "u3"], ["u1", "u3", "u4"], [], ["u1", "u2", "u3"], ["u4"])


@pytest.fixture
def place(tmp_path: Path, database_url: str, receiver: WebhookReceiver) -> Iterator[Place]:
    """Yield a shop without customers, synced once, whose configuration has a hook."""
    with open_place(tmp_path, database_url) as opened:
        opened.environment["CRM_SECRET"] = SECRET
        settings = EVERY_SECOND + hook(receiver, timeout="2s", batch_size=2)
        opened.configure(more=settings, guard={"max_exit_percent": 100})
        opened.shop.set_orders([])
        assert opened.command("sync").code == 0
        yield opened


def is_known(place: Place, members: list[str]) -> bool:
    """Return whether Schematic has exactly these members."""
    return {user for user, traits in place.traits().items() if traits.get(AUDIENCE_KEY)} == set(members)


def history(place: Place) -> dict[str, list[str]]:
    """Return the kinds of the changes of each user, in their order."""
    found = defaultdict(list)
    for user, kind in place.rows("SELECT profile_key, kind FROM membership_changes ORDER BY run_id"):
        found[user].append(kind)
    return dict(found)


def assert_all_arrived(place: Place, receiver: WebhookReceiver) -> None:
    """Deliver what is left, and assert that each change has arrived under one id and in order."""
    receiver.recover()
    assert place.command("deliver", "--wait", "30s").code == 0
    until(lambda: place.command("deliver").code == 0 and not place.rows("SELECT 1 FROM events"))
    until(lambda: not place.rows("SELECT 1 FROM batches WHERE status = 'open'") or place.command("deliver").code != 0)

    assert stories(receiver.once) == history(place)
    assert len(receiver.once) == sum(map(len, history(place).values()))


def test_a_hanging_hook_never_delays_the_daemon(place: Place, receiver: WebhookReceiver) -> None:
    """While a hook hangs, Schematic gets every change within seconds; afterwards so does the hook, in order."""
    receiver.fail(Fault(hangs=True))
    with place.running("run") as running:
        for members in ROUNDS[:3]:
            place.shop.set_orders(dict.fromkeys(members).items())
            until(lambda wanted=members: is_known(place, wanted))  # type: ignore[misc]
        assert receiver.taken == []
        receiver.recover()
        until(lambda: len(receiver.once) == sum(map(len, history(place).values())))
        assert running.end(signal.SIGTERM).code == 0

    assert stories(receiver.once) == history(place)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_every_change_arrives_through_faults_and_kills(place: Place, receiver: WebhookReceiver, point: str) -> None:
    """Whenever the daemon dies and whatever the receiver does, each change arrives, with one id and in order."""
    for number, members in enumerate(ROUNDS):
        fault = FAULTS[number % len(FAULTS)]
        place.shop.set_orders(dict.fromkeys(members).items())
        receiver.recover() if fault is None else receiver.fail(fault)
        with place.running("run", kill=f"{point}:{1 + number % 2}") as running:
            until(lambda wanted=members: running.process.poll() is not None or is_known(place, wanted))  # type: ignore[misc]
            ended = running.end(signal.SIGTERM)
            assert ended.code in {0, KILLED, -signal.SIGTERM}  # the last if it had not begun
    assert place.command("sync").code == 0

    assert is_known(place, ROUNDS[-1])
    assert_all_arrived(place, receiver)


def test_a_reload_adds_and_removes_hooks(place: Place, receiver: WebhookReceiver) -> None:
    """A new hook begins with the members; a removed one gets nothing more; one without its secret is logged."""
    guard = {"max_exit_percent": 100}
    with receiving() as late, place.running("run") as running:
        place.shop.set_orders(["u1"])
        until(lambda: stories(receiver.once) == {"u1": ["entered"]})
        secretless = hook(receiver, name="mute", secret="${NOT_SET}")
        place.configure(
            more="\n".join([EVERY_SECOND, hook(late, name="late", start="members"), secretless]), guard=guard
        )
        running.process.send_signal(signal.SIGHUP)
        until(lambda: stories(late.once) == {"u1": ["entered"]})
        place.shop.set_orders(["u2"])
        until(lambda: stories(late.once) == {"u1": ["entered", "exited"], "u2": ["entered"]})
        ended = running.end(signal.SIGTERM)

    assert ended.code == 0
    assert stories(receiver.once) == {"u1": ["entered"]}
    (missing,) = [line for line in running.logged if line["event"] == "hook_not_started"]
    assert (missing["hook"], missing["level"]) == ("mute", "error")
    assert "`NOT_SET` is not set" in missing["error"]
