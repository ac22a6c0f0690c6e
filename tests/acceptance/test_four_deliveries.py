"""Several `deliver` on one membership database: one is killed, one is frozen beyond its claims and wakes up late."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.tuning import DEFAULT_TUNING, Tuning
from tests.acceptance.running import KILLED, Customers, Place, Running, assert_settled, customers, open_place, until
from tests.sending import in_between
from tests.support.faulty_sandbox import FaultRule

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("database_url", ["postgres"], indirect=True),
]
RATE = 25  # requests a second, of all together
BATCH_SIZE, WORKERS = 5, 2
TIMEOUT = 2  # seconds of a request
REPLACED = TIMEOUT + 10  # seconds after which somebody else has what a process held
EVERYBODY = customers(range(2400))
FLIPPED: Customers = {**customers(range(0, 2400, 2)), **customers(range(2400, 2500))}
LATE = 0.25  # of the requests of a second: a busy machine delivers some late, and those of the next second in time


@dataclass
class Watch:
    """When requests with events came, in seconds of a monotonic clock."""

    at: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, request: Request) -> SandboxResponse | None:
        """Write a request down, and leave its answer to the sandbox."""
        if request.path == "/batch":
            with self._lock:
                self.at.append(time.monotonic())
        return None

    def most_in_a_second(self) -> int:
        """Return how many came in the second with most of them, wherever it begins."""
        return max(sum(first <= other < first + 1 for other in self.at) for first in self.at)


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop whose customers are to be told to a Schematic that takes a moment for each request."""
    with open_place(tmp_path, database_url) as opened:
        settings = opened.configure(
            rate=RATE, more=f"concurrency = {WORKERS}\nbatch_size = {BATCH_SIZE}", guard={"min_members": 10_000}
        )
        path = opened.folder / "config.toml"
        path.write_text(path.read_text().replace("[schematic]\n", f'[schematic]\ntimeout = "{TIMEOUT}s"\n'))
        opened.sync_here(settings, EVERYBODY)
        opened.sandbox.faults.set([FaultRule(delay=0.1)])
        yield opened


@contextmanager
def delivering(place: Place, count: int) -> Iterator[list[Running]]:
    """Have `count` processes deliver; yield them when each has batches."""
    with ExitStack() as stack:
        stack.callback(place.sandbox.gate.release)
        all_of_them = [stack.enter_context(place.running("deliver")) for _ in range(count)]
        until(lambda: held(place) >= {pid(one) for one in all_of_them})
        yield all_of_them
        for one in all_of_them:
            one.process.send_signal(signal.SIGCONT)


def pid(running: Running) -> int:
    """Return the process of a command."""
    number = running.process.pid
    assert number is not None
    return number


def held(place: Place) -> set[int]:
    """Return the processes that hold open batches."""
    rows = place.rows("SELECT DISTINCT holder FROM batches WHERE status = 'open' AND holder <> ''")
    return {int(holder.split(":")[1]) for (holder,) in rows}


def flip(place: Place) -> None:
    """Let every second one leave, and others come."""
    place.shop.set_orders(FLIPPED.items())
    assert place.command("sync", "--no-deliver").code == 0


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("is_late", [True, False], ids=["awake after the end", "awake in between"])
def test_one_is_killed_and_one_frozen(place: Place, count: int, is_late: bool) -> None:
    """The others take over in time; who wakes up loses nothing; all agree in the end, and keep to the rate together."""
    watch = Watch()
    with in_between(place.sandbox, watch.look), delivering(place, count) as (frozen, killed, *others):
        until(lambda: place.received() > 50)
        frozen.process.send_signal(signal.SIGSTOP)
        gone_after = DEFAULT_TUNING.frozen_seconds if is_in_transaction(place) else REPLACED
        flip(place)
        if others:
            killed.process.kill()
            assert_replaced(place, killed, within=gone_after)
        assert_replaced(place, frozen, within=gone_after + 1)  # until somebody looks
        killed.process.kill()
        with place.running("deliver") as newcomer:
            if not is_late:
                frozen.process.send_signal(signal.SIGCONT)
            for one in (*others, newcomer):
                ended = one.end()
                assert ended.code == 0, ended.err
        frozen.process.send_signal(signal.SIGCONT)
        woken = frozen.end()
        assert woken.code == 0, woken.err
        assert killed.end().code == KILLED
        last = place.command("deliver")

    assert last.code == 0, last.err
    assert_settled(place, FLIPPED, before=EVERYBODY)
    most, seconds = watch.most_in_a_second(), watch.at[-1] - watch.at[0]
    print(f"{len(watch.at)} requests in {seconds:.1f} s, at most {most} in a second, at a limit of {RATE}")
    assert most <= RATE * (1 + Tuning().rate_reservation_seconds + LATE)
    assert len(watch.at) <= RATE * (seconds + Tuning().rate_reservation_seconds) + count


def is_in_transaction(place: Place) -> bool:
    """Return whether a process stopped in the middle of a transaction: the others wait for what it has locked."""
    time.sleep(0.5)
    return bool(
        place.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
            " AND clock_timestamp() - state_change > interval '400 ms'"
        )
    )


def assert_replaced(place: Place, gone: Running, *, within: float) -> None:
    """Assert that a process has lost all it held before some seconds are over."""
    began = time.monotonic()
    until(lambda: pid(gone) not in held(place))
    took = time.monotonic() - began
    print(f"replaced after {took:.1f} s")
    assert took < within
