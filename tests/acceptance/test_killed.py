"""A sync and an approval killed, as by `kill -9`, at any moment: running them again ends as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import KILLED, Place, assert_settled, assert_stored, customers, open_place

RATE = 20  # requests a second: about 30 batches take long enough to be killed among them
LONGEST = 0.6  # seconds from the start of the work to a random kill
MANY = 51_000  # changes, more than one commit takes

BEFORE = customers(range(3000))
AFTER = {
    **customers(range(300, 3000)),
    **customers(range(1000, 1300), company="globex"),
    **customers(range(3000, 3300)),
}
HALF = customers(range(0, 3000, 2))


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 3,000 customers, not yet synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure(rate=RATE)
        opened.shop.set_orders(BEFORE.items())
        yield opened


def synced(place: Place) -> None:
    """Sync and deliver the first 3,000."""
    place.sync_here(place.configure(), BEFORE)
    assert place.command("deliver").code == 0
    place.configure(rate=RATE)


def blocked(place: Place) -> str:
    """Let half of the customers disappear, and return the id of the run that the guard blocked."""
    (report,) = place.sync_here(place.configure(rate=RATE), HALF)
    place.shop.set_orders(BEFORE.items())  # the source is whole again: nobody may look at it
    return str(report.run.id)


def die_at(place: Place, points: list[str], *words: str) -> None:
    """Run a command again and again, killed at one point after the other."""
    for point in points:
        assert place.command(*words, kill=point).code == KILLED, point


def die_at_random(place: Place, seed: int, *words: str) -> None:
    """Run a command again and again, killed at random moments of its work."""
    dice = random.Random(seed)
    for _ in range(3):
        with place.running(*words) as running:
            running.wait_for("membership database:")
            assert running.kill_after(dice.uniform(0, LONGEST)) == KILLED


SYNC_POINTS = ["sync.started", "sync.read"]
DELIVERY_POINTS = ["deliver.marked:2", "deliver.posted:3", "deliver.settled:2"]


def test_a_first_sync_killed_at_every_turn(place: Place) -> None:
    """A first sync killed at each of its turns, again and again, ends as an undisturbed one; the guard stays out."""
    die_at(place, [*SYNC_POINTS, "sync.committed", *DELIVERY_POINTS], "sync")

    assert place.command("sync").code == 0
    assert_settled(place, BEFORE)


def test_a_later_sync_killed_at_every_turn(place: Place) -> None:
    """A later sync killed at each of its turns ends as an undisturbed one: exits and updates too."""
    synced(place)
    place.shop.set_orders(AFTER.items())
    die_at(place, [*SYNC_POINTS, "sync.staged", "sync.decided", "apply.committed", *DELIVERY_POINTS], "sync")

    assert place.command("sync").code == 0
    assert_settled(place, AFTER, before=BEFORE)


def test_syncs_killed_at_random(place: Place) -> None:
    """A first and a later sync killed at random moments end as undisturbed ones."""
    die_at_random(place, 1, "sync")

    assert place.command("sync").code == 0
    assert_settled(place, BEFORE)

    place.shop.set_orders(AFTER.items())
    die_at_random(place, 2, "sync")

    assert place.command("sync").code == 0
    assert_settled(place, AFTER, before=BEFORE)


def test_an_approval_killed_at_every_turn(place: Place) -> None:
    """An approval killed at each of its turns is finished by approving again, from its plan and nothing else."""
    synced(place)
    run = blocked(place)
    die_at(place, ["approve.decided", "apply.committed", *DELIVERY_POINTS], "approve", run)

    assert place.command("approve", run).code == 0
    assert_settled(place, HALF, before=BEFORE)


def test_an_approval_killed_at_random(place: Place) -> None:
    """An approval killed at random moments is finished by approving again."""
    synced(place)
    run = blocked(place)
    die_at_random(place, 3, "approve", run)

    assert place.command("approve", run).code == 0
    assert_settled(place, HALF, before=BEFORE)


def test_a_killed_approval_is_finished_by_a_sync(place: Place) -> None:
    """What a person approved is applied by whoever comes next, before anything newer, without asking again."""
    synced(place)
    run = blocked(place)
    die_at(place, ["approve.decided"], "approve", run)

    assert place.command("sync").code == 0
    assert place.rows("SELECT id, state, exited, entered FROM runs ORDER BY id")[1:] == [
        (2, "succeeded", 1500, 0),
        (3, "succeeded", 0, 1500),
    ]
    assert_settled(place, BEFORE)


def test_large_syncs_killed_between_two_commits(place: Place) -> None:
    """Changes of more than one commit, killed between two of them, are completed by the next sync."""
    first = customers(range(MANY))
    place.shop.set_orders(first.items())
    die_at(place, ["sync.committed"], "sync", "--no-deliver")
    assert 0 < len(place.members()) < MANY
    assert place.command("sync", "--no-deliver").code == 0
    assert_stored(place, first)

    second = customers(range(MANY), company="globex")
    place.shop.set_orders(second.items())
    die_at(place, ["sync.staged", "apply.committed"], "sync", "--no-deliver")
    assert 0 < place.rows("SELECT count(*) FROM staged")[0][0] < MANY
    assert place.command("sync", "--no-deliver").code == 0
    assert_stored(place, second)
