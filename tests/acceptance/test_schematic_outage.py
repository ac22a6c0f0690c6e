"""Schematic away for three days, while people enter and leave every two hours: little waits, and all ends right.

The clock is moved from sync to sync; databases, requests and threads are real. Deliveries are made as the daemon makes
them, one that goes on through it all, and as commands do, one after each sync that gives up.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audience_sync.clock import Clock
from audience_sync.delivery import KnownDestination
from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.store.database import Database
from audience_sync.tuning import Tuning
from tests.sending import Sending, assert_agreed, assert_in_order, open_sending, user_of
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
EVERYBODY = [f"u{n}" for n in range(100)]
EVERY = timedelta(hours=2)
SYNCS_A_DAY = 12
RATE = 40.0  # requests a second
BATCH_SIZE = 5
WORKERS = 8
WAYS_TO_BE_DOWN = (  # day by day
    FaultRule(refuse=True, delay=0.01),
    FaultRule(status=503, body="<html>maintenance</html>", delay=0.01),
    FaultRule(status=429, delay=0.01),
)


class MovedClock:
    """The wall clock, moved."""

    def __init__(self) -> None:
        self.by = timedelta(0)

    def __call__(self) -> datetime:
        """Return the instant it shows."""
        return datetime.now(UTC) + self.by


@dataclass
class Watched:
    """When batches came, in seconds of a monotonic clock, and how many were under way then, this one included."""

    at: list[float] = field(default_factory=list)
    under_way: list[int] = field(default_factory=list)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def watching(self, sandbox: FaultySandbox) -> Iterator[None]:
        """Look at everything that comes to a sandbox."""
        answerer = sandbox._server.answerer

        def look(request: Request) -> SandboxResponse | None:
            if request.path != "/batch":
                return answerer(request)
            with self._lock:
                self._now += 1
                self.at.append(time.monotonic())
                self.under_way.append(self._now)
            try:
                return answerer(request)
            finally:
                with self._lock:
                    self._now -= 1

        sandbox._server.answerer = look
        yield
        sandbox._server.answerer = answerer


@dataclass(kw_only=True)
class Outage:
    """Two audiences that are synced every two hours, a sandbox that may be down, and who looks at it."""

    sending: Sending
    clock: MovedClock
    watched: Watched
    known: KnownDestination  # of who has asked Schematic before it went down
    dice: random.Random = field(default_factory=lambda: random.Random(11))
    rows: list[int] = field(default_factory=list)  # in the outbox and open batches, after each sync
    open: list[int] = field(default_factory=list)  # events in open batches of one process, after each sync
    bytes: list[int] = field(default_factory=list)  # see `_on_disk`, after each sync

    def three_days(self, meanwhile: Callable[[], object]) -> None:
        """Let three days pass, each with another fault, and do something after each sync."""
        for rule in WAYS_TO_BE_DOWN:
            self.break_down(rule)
            for _ in range(SYNCS_A_DAY):
                self.two_hours()
                meanwhile()
                self._measure()

    def break_down(self, rule: FaultRule) -> None:
        """Let Schematic be down, with the API that reads back."""
        paths = ("/batch", "/whoami", "/entity-trait-definitions")
        self.sending.sandbox.faults.set([replace(rule, path=path) for path in paths])

    def two_hours(self) -> None:
        """Let two hours pass, and sync: all who are gold change places with all who are not; once a day silver, too."""
        self.clock.by += EVERY
        half = self.clock.by // EVERY % 2
        self.sending.sync(gold=EVERYBODY[half::2])
        if self.clock.by % timedelta(days=1) == timedelta(0):
            self.sending.sync(silver=self.dice.sample(EVERYBODY, 70))

    def assert_bounded(self) -> None:
        """Assert that no more waits after three days than there are profiles and audiences, nor takes more room."""
        assert max(self.rows) <= 2 * len(EVERYBODY) + len(EVERYBODY) // 5 + WORKERS
        assert max(self.open) <= Tuning().open_batches * BATCH_SIZE
        first, last = self.bytes[SYNCS_A_DAY - 1], self.bytes[-1]
        assert last <= 1.2 * first

    def _measure(self) -> None:
        ((waiting, different),) = self.sending.rows(
            "SELECT count(*), count(DISTINCT profile_key || ' ' || audience_id) FROM outbox"
        )
        ((batches, events),) = self.sending.rows(
            "SELECT count(*), COALESCE(sum(size), 0) FROM batches WHERE status = 'open'"
        )
        assert waiting == different
        self.rows.append(waiting + batches)
        self.open.append(events)
        self.bytes.append(self._on_disk())

    def _on_disk(self) -> int:
        """Return how large a SQLite file is without the history of syncs, or the tables of what waits in Postgres."""
        database = self.sending.workspace.database
        if database.is_sqlite:
            ((size,),) = self.sending.rows(
                "SELECT page_count * page_size - (SELECT sum(pgsize) FROM dbstat WHERE name IN"
                " (SELECT name FROM sqlite_schema WHERE tbl_name IN ('changes', 'runs')))"
                " FROM pragma_page_count, pragma_page_size"
            )
            return int(size)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM outbox, batches")  # as the server does, minutes later
        ((size,),) = self.sending.rows("SELECT pg_total_relation_size('outbox') + pg_total_relation_size('batches')")
        return int(size)


@pytest.fixture
def outage(tmp_path: Path, database: Database) -> Iterator[Outage]:
    """Yield two audiences whose first members are delivered."""
    clock, watched = MovedClock(), Watched()
    with (
        FaultySandbox(tmp_path / "sandbox.db") as sandbox,
        open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened,
        watched.watching(sandbox),
    ):
        opened.workspace = replace(opened.workspace, clock=Clock(now=clock, jitter=lambda: 0.99))
        limits = {"batch_size": BATCH_SIZE, "concurrency": WORKERS, "max_requests_per_second": RATE}
        sending = opened.with_settings(delivery={**limits, "max_backoff": timedelta(seconds=0.1)})
        sending.sync(gold=EVERYBODY, silver=EVERYBODY)
        known = KnownDestination()
        assert sending.deliver(known=known).events == len(EVERYBODY)
        yield Outage(sending=sending, clock=clock, watched=watched, known=known)


def assert_delivered(outage: Outage, since: int) -> None:
    """Assert that all has arrived in order, with nothing told that was not the last word, and within the rate.

    `since` is how many requests there were before Schematic came back.
    """
    told = Counter(user_of(event) for event in outage.sending.events())
    at = outage.watched.at[since:]
    burst = RATE * 0.1 + WORKERS  # what is reserved at once, and what a busy machine holds up

    assert_agreed(outage.sending)
    assert_in_order(outage.sending)
    assert max(told.values()) <= 3  # before the outage, what was under way when it began, and the last word
    assert max(sum(first <= other < first + 1 for other in at) for first in at) <= RATE + burst
    assert len(at) <= RATE * (at[-1] - at[0]) + burst


def test_daemon(outage: Outage) -> None:
    """One delivery that goes on through the outage asks little, one request at a time, and comes back by and by."""
    watched = outage.watched

    def wait_for_a_try() -> None:
        tries = len(watched.at)
        wait_until(lambda: len(watched.at) > tries)

    outage.break_down(WAYS_TO_BE_DOWN[0])
    outage.two_hours()
    began = len(watched.at)
    stop = threading.Event()
    with outage.sending.delivering(wait=10**6, stop=stop, known=outage.known) as report:
        try:
            outage.three_days(wait_for_a_try)
            during = len(watched.at)
            outage.sending.sandbox.faults.clear()
            ended = report.result(60)
        finally:
            stop.set()

    assert (ended.open, ended.dead, ended.failure) == (0, 0, None)
    assert set(watched.under_way[began + 2 * WORKERS : during + 1]) == {1}
    back = watched.at[during:]
    assert sum(at < back[0] + 0.5 for at in back) <= RATE / 4
    outage.assert_bounded()
    assert_delivered(outage, during)


def test_commands(outage: Outage) -> None:
    """Commands that give up each time leave the same behind, and the first one that gets through delivers it all."""
    outage.three_days(lambda: outage.sending.deliver(wait=0.1))
    during = len(outage.watched.at)
    outage.sending.sandbox.faults.clear()
    ended = outage.sending.deliver()

    assert (ended.open, ended.dead, ended.failure) == (0, 0, None)
    outage.assert_bounded()
    assert_delivered(outage, during)
