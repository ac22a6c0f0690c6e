"""The rate of requests through an outage: everybody waits, one asks, and all come back little by little."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import TypeVar

import pytest

from audience_sync.delivery.rate_limit import RateLimiter
from audience_sync.store.workspace import Workspace
from tests.factories import FrozenClock

T = TypeVar("T")
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it has no part in the rules
PER_SECOND = 50.0
WORKERS = 8


class Hours(threading.Event):
    """An order to stop that never comes: whoever waits for it moves the clock instead."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass, in the least steps that the clock has at the least."""
        self._clock.advance(timedelta(seconds=timeout or 0) + timedelta(microseconds=1))
        return False


class Sender:
    """Threads with names that ask for moments, one at a time."""

    def __init__(self, limiter: RateLimiter, clock: FrozenClock) -> None:
        self.limiter = limiter
        self._clock = clock
        self._stop = Hours(clock)
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def send(self, name: str = "one") -> float:
        """Wait for a moment in a thread and return it, in seconds."""
        return self._in(name, self._wait).result(10)

    def may_go(self, name: str) -> bool:
        """Return whether a thread may send at once; one that may not does not wait."""
        return self._in(name, self.limiter._pause).result(10) <= 0

    def stop(self, name: str) -> bool:
        """Let a thread wait that is told to stop already, and return whether it may send."""
        told = threading.Event()
        told.set()
        return self._in(name, lambda: self.limiter.wait(told)).result(10)

    def end(self, name: str) -> None:
        """Let a thread die."""
        self._threads.pop(name).shutdown()

    def fail(self, name: str = "one", *, times: int = 1, throttled: bool = False, batch_id: int | None = None) -> None:
        """Let requests of a thread fail, each with another batch, or all with one."""
        for number in range(times):
            failed = number if batch_id is None else batch_id
            self._in(name, partial(self.limiter.failed, failed, asked=None, throttled=throttled)).result(10)

    def close(self) -> None:
        """End the threads."""
        for thread in self._threads.values():
            thread.shutdown()

    def _wait(self) -> float:
        assert self.limiter.wait(self._stop)
        return self._clock.monotonic()

    def _in(self, name: str, act: Callable[[], T]) -> Future[T]:
        return self._threads.setdefault(name, ThreadPoolExecutor(1)).submit(act)


@pytest.fixture
def sender(workspace: Workspace, clock: FrozenClock) -> Iterator[Sender]:
    """Yield threads that share a limit of fifty requests a second; the clock moves as they wait."""
    limiter = RateLimiter(workspace, per_second=PER_SECOND, workers=WORKERS, longest=timedelta(minutes=15))
    with closing(Sender(limiter, clock)) as opened:
        yield opened


def test_no_outage_no_slowness(sender: Sender) -> None:
    """While some fail and others pass, requests go at the full rate."""
    moments = [sender.send()]
    for _ in range(100):
        sender.fail(times=WORKERS - 1)
        sender.limiter.accepted()
        moments.append(sender.send())

    assert moments[-1] - moments[0] == pytest.approx(100 / PER_SECOND, abs=0.01)


def test_one_batch_that_fails_is_no_outage(sender: Sender) -> None:
    """However often it fails and however little else there is to send: a new batch goes at once."""
    sender.fail(times=100 * WORKERS, batch_id=1)

    assert sender.may_go("another")
    assert sender.limiter.resumes_in() == 0
    assert not sender.limiter.is_out()


def test_tries_of_three_days(sender: Sender) -> None:
    """Three days of silence are a request every quarter of an hour, one at a time, after a few in the first minutes."""
    started = sender.send()
    sender.fail(times=WORKERS)
    moments: list[float] = []
    while not moments or moments[-1] < started + 3 * 86400:
        moments.append(sender.send())
        sender.fail()

    assert len([at for at in moments if at < started + 1000]) == 9  # after 1 s, 2 s, 4 s … 256 s, 512 s
    assert len(moments) == pytest.approx(3 * 96 + 9, abs=2)


def test_one_asks_while_all_others_hold_still(sender: Sender, clock: FrozenClock) -> None:
    """After the pause one request goes alone; until it is answered no other does, and its failure is one more pause."""
    sender.fail(times=WORKERS)
    sender.send("first")

    assert not sender.may_go("second")
    sender.fail("first")
    assert not sender.may_go("second")
    clock.advance(timedelta(seconds=2))
    assert sender.may_go("second")
    assert not sender.may_go("first")


def test_a_late_failure_lets_nobody_else_go(sender: Sender, clock: FrozenClock) -> None:
    """The failure of a request from before the outage does not end the turn of the one that goes alone."""
    sender.fail(times=WORKERS)
    sender.send("first")
    sender.fail("late")
    clock.advance(timedelta(seconds=2))

    assert not sender.may_go("second")
    sender.fail("first")
    clock.advance(timedelta(seconds=4))
    assert sender.may_go("second")


def test_an_outage_that_begins_while_somebody_waits_for_a_moment(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was given a moment before the outage began goes with the others: one alone, after the pause."""
    outage_began: list[float] = []

    def begin(wait: Callable[[], float] = sender.limiter._delay) -> float:
        if not outage_began:
            outage_began.append(sender.limiter._workspace.clock.monotonic())
            sender.fail("other", times=WORKERS)
        return wait()

    monkeypatch.setattr(sender.limiter, "_delay", begin)
    at = sender.send("first")

    assert at >= outage_began[0] + 0.5
    assert not sender.may_go("second")


def test_request_that_never_ends(sender: Sender, clock: FrozenClock) -> None:
    """A lone request of which nothing is heard again does not keep the others back for ever."""
    sender.fail(times=WORKERS)
    sender.send("first")
    clock.advance(timedelta(seconds=sender.limiter._tuning.longest_probe_seconds))

    assert sender.may_go("second")
    assert not sender.may_go("third")


def test_worker_that_ends(sender: Sender, clock: FrozenClock) -> None:
    """A worker that is told to stop before its lone request goes, or that ends, leaves it to another one."""
    sender.fail(times=WORKERS)
    clock.advance(timedelta(seconds=1))
    assert not sender.stop("first")

    assert sender.may_go("second")
    assert not sender.may_go("first")
    sender.end("second")
    assert sender.may_go("first")


def test_refusal_ends_an_outage(sender: Sender) -> None:
    """A lone request that was answered, though with a refusal of its events, is not taken for the outage."""
    sender.fail(times=WORKERS)
    sender.send("first")
    sender.send("first")
    sender.send("second")
    sender.fail("second")

    assert sender.limiter._outages == 0


def test_return_is_gradual(sender: Sender) -> None:
    """After a long outage requests go one a second, and each that is accepted makes it one more, up to the limit."""
    sender.fail(times=WORKERS)
    for _ in range(10):
        sender.send()
        sender.fail()
    moments = []
    for _ in range(300):
        moments.append(sender.send())
        sender.limiter.accepted()

    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps[:5] == pytest.approx([1, 1, 1 / 2, 1 / 3, 1 / 4], abs=0.03)
    assert gaps[60:] == pytest.approx([1 / PER_SECOND] * len(gaps[60:]), abs=1e-6)
    for at in moments:
        assert len([other for other in moments if at <= other < at + 1]) <= PER_SECOND + 1


def test_short_pause_costs_little(sender: Sender) -> None:
    """After a 429 that cost a second requests go on at half the rate, and are back at the limit within seconds."""
    sender.send()
    sender.fail(throttled=True)
    moments = []
    for _ in range(100):
        moments.append(sender.send())
        sender.limiter.accepted()

    assert moments[1] - moments[0] == pytest.approx(2 / PER_SECOND, rel=0.1)
    assert moments[-1] - moments[0] < 4


def test_answers_that_were_under_way(sender: Sender) -> None:
    """What is accepted during a break was sent before it: still one request alone sees whether it is over."""
    sender.fail(throttled=True)
    sender.limiter.accepted()
    sender.send("first")

    assert not sender.may_go("second")


def test_failure_on_the_way_back(sender: Sender) -> None:
    """Single failures on the way back do not begin the outage again: a third of errors would keep it for ever."""
    sender.fail(times=WORKERS)
    for turn in range(300):
        sender.send()
        if turn % 3:
            sender.limiter.accepted()
        else:
            sender.fail()

    assert sender.limiter._outages == 0
    assert sender.limiter._rate == PER_SECOND


def test_unused_moments_are_gone(sender: Sender, clock: FrozenClock) -> None:
    """Moments reserved before a long pause are not made up for at once afterwards."""
    sender.send()
    clock.advance(timedelta(minutes=15))
    started = clock.monotonic()
    moments = [sender.send() for _ in range(11)]

    assert moments[-1] - started == pytest.approx(10 / PER_SECOND, abs=0.01)


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_that_jumps(sender: Sender, clock: FrozenClock, hours: int) -> None:
    """A clock that jumps an hour either way holds no request back for longer than a minute, nor lets a heap go."""
    for _ in range(12):
        sender.send()
    clock.advance(timedelta(hours=hours))
    started = clock.monotonic()
    moments = [sender.send() for _ in range(11)]

    assert moments[-1] - started == pytest.approx(10 / PER_SECOND, abs=0.01)
