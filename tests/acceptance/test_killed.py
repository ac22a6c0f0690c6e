"""A sync and an approval killed, as by `kill -9`, at one turn after the other: tried again, they end as undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import KILLED, Place, assert_settled, customers, open_place

pytestmark = pytest.mark.slow
RATE = 20  # requests a second: batches are settled in several commits
BATCH_SIZE = 40  # a first sync is taken in several transactions, too, and a later one fills 20 batches

BEFORE = customers(range(2000))
AFTER = {
    **customers(range(200, 2000)),
    **customers(range(1000, 1200), company="globex"),
    **customers(range(2000, 2200)),
}
HALF = customers(range(0, 2000, 2))


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 2,000 customers, not yet synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure()
        opened.shop.set_orders(BEFORE.items())
        yield opened


def synced(place: Place) -> None:
    """Sync and deliver the first 2,000."""
    place.sync_here(place.configure(), BEFORE)
    place.deliver_here()


def blocked(place: Place) -> str:
    """Let half of the customers disappear, and return the id of the run that the guard blocked."""
    (report,) = place.sync_here(place.configure(), HALF)
    place.shop.set_orders(BEFORE.items())  # the source is whole again: nobody may look at it
    return str(report.run.id)


def die_at(place: Place, points: list[str], *words: str) -> None:
    """Run a command again and again, killed at one point after the other."""
    place.configure(rate=RATE, more=f"batch_size = {BATCH_SIZE}")
    for point in points:
        assert place.command(*words, kill=point).code == KILLED, point
    place.configure()


SYNC_POINTS = ["sync.started", "sync.read"]
DELIVERY_POINTS = ["deliver.taken", "deliver.claimed", "deliver.posted:3", "deliver.settled:2"]


def test_a_first_sync_killed_at_every_turn(place: Place) -> None:
    """A first sync killed at each of its turns, again and again, ends as an undisturbed one; the guard stays out."""
    points = [*SYNC_POINTS, "sync.committed", "deliver.taken", "deliver.posted", *DELIVERY_POINTS]
    die_at(place, points, "sync")

    assert place.command("sync").code == 0
    assert_settled(place, BEFORE)


def test_a_later_sync_killed_at_every_turn(place: Place) -> None:
    """A later sync killed at each of its turns ends as an undisturbed one: exits and updates too."""
    synced(place)
    place.shop.set_orders(AFTER.items())
    die_at(place, [*SYNC_POINTS, "sync.staged", "sync.decided", "apply.committed", *DELIVERY_POINTS], "sync")

    assert place.command("sync").code == 0
    assert_settled(place, AFTER, before=BEFORE)


def test_an_approval_killed_at_every_turn(place: Place) -> None:
    """An approval killed at each of its turns is finished by approving again, from its plan and nothing else."""
    synced(place)
    run = blocked(place)
    die_at(place, ["approve.decided", "apply.committed", *DELIVERY_POINTS], "approve", run)

    assert place.command("approve", run).code == 0
    assert_settled(place, HALF, before=BEFORE)


def test_a_killed_approval_is_finished_by_a_sync(place: Place) -> None:
    """What a person approved is applied by whoever comes next, before anything newer, without asking again."""
    synced(place)
    run = blocked(place)
    die_at(place, ["approve.decided"], "approve", run)

    assert place.command("sync").code == 0
    assert place.rows("SELECT id, state, exited, entered FROM runs ORDER BY id")[1:] == [
        (2, "succeeded", 1000, 0),
        (3, "succeeded", 0, 1000),
    ]
    assert_settled(place, BEFORE)
