"""The wall clock jumps an hour, forward or back, under work that goes on: nobody waits an hour, nothing is done twice.

The clock that jumps is that of the program; a Postgres has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from apscheduler.schedulers import base
from pydantic import SecretStr

from audience_sync import daemon
from audience_sync.clock import Clock
from audience_sync.config import Settings
from audience_sync.core.model import RunState
from audience_sync.store import holders, request_times
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from tests.sending import Sending, assert_agreed, assert_in_order, open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

HOUR = timedelta(hours=1)
JUMPS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
PEOPLE = [f"u{n}" for n in range(300)]
SOON = 30.0  # seconds; nothing here should take five, and none an hour
NOW_US = 1_774_958_400_000_000


class JumpingClock:
    """The real wall clock, and how far it was moved."""

    def __init__(self) -> None:
        self.moved = timedelta(0)

    def __call__(self) -> datetime:
        """Return what the clock says."""
        return datetime.now(UTC) + self.moved

    def jump(self, by: timedelta) -> None:
        """Move it at once."""
        self.moved += by


@pytest.fixture
def jumping() -> JumpingClock:
    """A wall clock that can be moved."""
    return JumpingClock()


@pytest.fixture
def sending(tmp_path: Path, database: Database, jumping: JumpingClock) -> Iterator[Sending]:
    """One audience, whose work goes by that clock."""
    with FaultySandbox(tmp_path / "sandbox.db") as sandbox, open_sending(tmp_path, database, sandbox) as opened:
        yield at_clock(opened, jumping)


def at_clock(sending: Sending, clock: JumpingClock) -> Sending:
    """Return the same, at another clock."""
    workspace = Workspace(
        database=sending.workspace.database,
        holder=sending.workspace.holder,
        clock=Clock(now=clock, jitter=lambda: 0.99),
    )
    return Sending(**{**vars(sending), "workspace": workspace})


# Delivery


@pytest.mark.slow
@JUMPS
def test_a_jump_in_the_middle_of_a_delivery(sending: Sending, jumping: JumpingClock, jump: timedelta) -> None:
    """Requests go on at their rate, though moments were reserved by the clock of before."""
    sending.sync(gold=PEOPLE)
    slow = sending.with_settings(delivery={"max_requests_per_second": 20.0, "batch_size": 10})
    with slow.delivering() as report:
        wait_until(lambda: sending.posts() >= 5)
        jumping.jump(jump)

        assert report.result(timeout=SOON).open == 0
    assert_agreed(sending)


@pytest.mark.slow
@JUMPS
def test_a_jump_while_a_batch_waits_for_its_next_try(sending: Sending, jumping: JumpingClock, jump: timedelta) -> None:
    """What failed is tried again after its wait, whatever the clock says meanwhile."""
    sending.sync(gold=PEOPLE[:5])
    sending.sandbox.faults.set([FaultRule(path="/batch", status=503)])
    with sending.delivering() as report:
        wait_until(sending.tried)
        jumping.jump(jump)
        sending.sandbox.faults.clear()

        assert report.result(timeout=SOON).open == 0
    assert_agreed(sending)


def test_a_wait_of_before_a_jump_back_is_cut_short(sending: Sending, jumping: JumpingClock) -> None:
    """A process that comes after the jump waits no longer for a failed batch than the longest wait there is."""
    sending.sync(gold=PEOPLE[:5])
    sending.sandbox.faults.set([FaultRule(path="/batch", status=503)])
    assert sending.deliver_until(sending.tried).open == 5
    sending.sandbox.faults.clear()
    sending.write("UPDATE batches SET not_before = :late", late=int((jumping() + HOUR).timestamp() * 1000))
    stop = threading.Event()
    with sending.delivering(stop=stop) as report:  # the daemon's way: waits of before count
        wait_until(lambda: report.done() or not sending.attempts(), seconds=SOON)
        stop.set()

    assert_agreed(sending)


@pytest.mark.parametrize("per_second", [0.2, 1, 50, 2000])
def test_an_hour_that_was_reserved_in_error_is_given_up(database: Database, per_second: float) -> None:
    """After a jump back the next request waits ten minutes at most, at the lowest rates too."""
    with database.write() as connection:
        request_times.reserve_requests(connection, now_us=NOW_US + 3_600_000_000, requests=1, per_second=per_second)
        moment = request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=per_second)

    assert NOW_US <= moment <= NOW_US + 600_000_000


# Syncs


@pytest.mark.slow
@JUMPS
def test_syncs_around_a_jump(sending: Sending, jumping: JumpingClock, jump: timedelta) -> None:
    """A sync after a jump is no sync of the past: it is applied, under a later generation, and history goes on."""
    sending.sync(gold=PEOPLE[:10])
    jumping.jump(jump)
    first = sending.sync(gold=PEOPLE[5:15])["gold"]
    jumping.jump(-jump)
    second = sending.sync(gold=PEOPLE[8:20])["gold"]

    runs = sending.rows("SELECT state, as_of, generation FROM runs ORDER BY id")
    assert [state for state, *_ in runs] == [RunState.SUCCEEDED] * 3
    assert runs == sorted(runs, key=lambda run: run[1])
    assert [run[2] for run in runs] == sorted({run[2] for run in runs})
    assert (first.counts.entered, second.counts.exited) == (5, 3)
    sending.deliver()
    assert_agreed(sending)


# Leases


@contextmanager
def two(sending: Sending, clock: JumpingClock) -> Iterator[tuple[Workspace, Workspace]]:
    """Be two processes on one host, whose clock jumps for both."""
    with closing(holders.enter(sending.workspace.database)) as other:
        jumping = Clock(now=clock)
        yield (
            Workspace(database=sending.workspace.database, holder=sending.workspace.holder, clock=jumping),
            Workspace(database=sending.workspace.database, holder=other, clock=jumping),
        )


@JUMPS
def test_nobody_steals_a_lease_after_a_jump(sending: Sending, jumping: JumpingClock, jump: timedelta) -> None:
    """A lease whose holder lives stays with it; and is free for the other as soon as it is given back."""
    with two(sending, jumping) as (holder, other), ExitStack() as stack:
        lease = holder.hold([1], seconds=30.0)
        assert lease is not None
        stack.callback(lease.close)
        jumping.jump(jump)

        assert other.hold([1], seconds=30.0) is None
        with holder.database.write() as connection:
            lease.assert_held(connection)
        stack.close()
        taken = other.hold([1], seconds=30.0)
        assert taken is not None
        taken.close()


@pytest.mark.slow
@JUMPS
def test_two_that_deliver_around_a_jump(sending: Sending, jumping: JumpingClock, jump: timedelta) -> None:
    """Nothing is sent twice, because the second process does not take the first one's shards for free."""
    sending.sync(gold=PEOPLE)
    slow = sending.with_settings(delivery={"max_requests_per_second": 20.0, "batch_size": 10})
    with two(slow, jumping) as workspaces, ThreadPoolExecutor(2) as pool:
        both = [Sending(**{**vars(slow), "workspace": workspace}) for workspace in workspaces]
        reports = [pool.submit(both[0].deliver)]
        wait_until(lambda: sending.posts() >= 5)
        jumping.jump(jump)
        reports.append(pool.submit(both[1].deliver))
        assert [report.result(timeout=SOON).open for report in reports] == [0, 0]

    assert_agreed(sending)
    assert_in_order(sending)
    assert len(sending.events()) == len(PEOPLE)


# The daemon


@contextmanager
def running(sending: Sending, settings: Settings) -> Iterator[None]:
    """Run the daemon in a thread; it must end well."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(daemon.run, sending.workspace, settings, SecretStr(sending.key), stop=stop)
        try:
            yield
        finally:
            stop.set()
        ended.result(timeout=60)


def hourly(sending: Sending, every: timedelta) -> Settings:
    """Return settings whose audience is due so often."""
    (audience,) = sending.settings.audiences
    schedule = audience.schedule.model_copy(update={"every": every, "jitter": timedelta(0)})
    return sending.settings.model_copy(update={"audiences": (audience.model_copy(update={"schedule": schedule}),)})


@pytest.fixture
def scheduler_clock(jumping: JumpingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let APScheduler go by the clock that jumps, as it does by that of a machine."""

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(jumping().timestamp(), tz)

    monkeypatch.setattr(base, "datetime", Jumping)


def due_in(sending: Sending) -> timedelta:
    """Return how long it is until the audience is due."""
    ((due_at,),) = sending.rows("SELECT next_due_at FROM audiences")
    return datetime.fromtimestamp((due_at or 0) / 1000, UTC) - sending.workspace.clock.now()


def runs_of(sending: Sending) -> int:
    """Return how many runs have succeeded."""
    ((count,),) = sending.rows("SELECT count(*) FROM runs WHERE state = 'succeeded'")
    return int(count)


@pytest.mark.slow
@pytest.mark.usefixtures("scheduler_clock")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # systemd's socket is left to the end
def test_the_daemon_goes_on_after_a_jump_back(sending: Sending, jumping: JumpingClock) -> None:
    """An audience that was due in seconds is synced in seconds, not an hour later; and what changed is sent."""
    sending.shop.set_orders([(user, "gold") for user in PEOPLE[:10]])
    with running(sending, hourly(sending, timedelta(seconds=2))):
        wait_until(lambda: told(sending, 10), seconds=SOON)
        jumping.jump(-HOUR)
        sending.shop.set_orders([(user, "gold") for user in PEOPLE[:20]])
        wait_until(lambda: told(sending, 20), seconds=SOON)

    assert sending.rows("SELECT reason FROM runs WHERE state = 'failed' AND reason <> 'stopped on request'") == []


@pytest.mark.usefixtures("scheduler_clock")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_daemon_catches_up_once_after_a_jump_forward(sending: Sending, jumping: JumpingClock) -> None:
    """What an hour made due is synced once, soon; not once for each time that was passed over, nor again and again."""
    sending = sending.tuned(watch_seconds=0.1)
    sending.shop.set_orders([(user, "gold") for user in PEOPLE[:10]])
    with running(sending, hourly(sending, timedelta(minutes=10))):
        wait_until(lambda: told(sending, 10), seconds=SOON)
        jumping.jump(HOUR)
        wait_until(lambda: runs_of(sending) == 2 and due_in(sending) > timedelta(minutes=9), seconds=SOON)

    assert runs_of(sending) == 2


def told(sending: Sending, members: int) -> bool:
    """Return whether Schematic knows of so many members, and nothing waits."""
    return len(sending.traits()) == members and not sending.attempts()
