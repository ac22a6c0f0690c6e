"""The batches that a process has claimed: which stay in memory when claims are renewed."""

from __future__ import annotations

import threading

import pytest

from audience_sync.clock import Clock
from audience_sync.delivery.claims import Pool
from audience_sync.destinations.rendered_events import BatchContents
from audience_sync.store.batches import Batch
from tests.factories import make_event, make_open


def batch(number: int, *, origin: int | None = None) -> Batch:
    """Return a claimed batch."""
    return Batch(number, 1, BatchContents.of([make_event(make_open(f"u{number}"))]), origin=origin)


def test_a_batch_that_comes_during_a_renewal_stays() -> None:
    """Only what was to be renewed can be found to be somebody else's."""
    pool = Pool(Clock())
    pool.add([batch(1), batch(2)], until=10.0)
    ids = pool.ids()
    pool.add([batch(3)], until=10.0)

    pool.renewed(ids, {1: 1, 2: 7}, until=20.0)

    assert pool.ids() == [1, 3]
    assert [one.until for one in (pool.next(0), pool.next(0)) if one is not None] == [20.0, 10.0]


@pytest.mark.parametrize(
    ("others", "alone", "alone_but_parts"),
    [([], True, True), ([batch(2, origin=1)], False, True), ([batch(2, origin=1), batch(3)], False, False)],
)
def test_alone(others: list[Batch], alone: bool, alone_but_parts: bool) -> None:
    """A batch is alone though other parts of what it was cut from are there, if these are not to count."""
    pool = Pool(Clock())
    pool.add([batch(1, origin=1)], until=10.0)
    held = pool.next(0)
    pool.add(others, until=10.0)

    assert held is not None
    assert pool.is_alone(held, with_parts=False) is alone
    assert pool.is_alone(held, with_parts=True) is alone_but_parts


def test_who_waits_is_woken() -> None:
    """At the end nobody waits for a batch that does not come."""
    pool = Pool(Clock())
    waiting = threading.Thread(target=pool.next, args=[600.0], daemon=True)
    waiting.start()
    for _ in range(1000):  # it may not wait yet
        pool.wake()
        waiting.join(0.01)
        if not waiting.is_alive():
            break

    assert not waiting.is_alive()
