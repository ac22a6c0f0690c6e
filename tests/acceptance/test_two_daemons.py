"""Two daemons on one membership database: they share the work, and each takes over what the other leaves behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.running import Place, Running, assert_settled, customers, open_place, until
from tests.support.faulty_sandbox import FaultRule

pytestmark = pytest.mark.slow
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""Where several hosts meet. On SQLite, one that is frozen in a commit holds all others up until it wakes."""

EVERYBODY = customers(range(900))
SLOWLY = FaultRule(delay=0.3)  # seconds
RATE = 30  # requests a second, of both together
INTERVAL = 6  # seconds between two syncs of an audience
LATEST = 5  # seconds; on a busy machine a run begins so much after it was due, and the next one is due as planned


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of many customers, not yet synced, and a Schematic that takes its time."""
    with open_place(tmp_path, database_url) as opened:
        opened.shop.set_orders(EVERYBODY.items())
        configure(opened)
        opened.sandbox.faults.set([SLOWLY])
        yield opened


@pytest.fixture
def daemons(place: Place) -> Iterator[ExitStack]:
    """Where daemons are started that end with the test, whatever Schematic still holds back."""
    with ExitStack() as stack:
        yield stack
        place.sandbox.gate.release()


def configure(place: Place, *, rate: float = 2000, more: str = "") -> None:
    """Configure many small requests, so that Schematic is the limit, and audiences that are due every hour."""
    settings = ["concurrency = 2", "batch_size = 5", '[schedule]\nevery = "1h"\njitter = "0s"', more]
    place.configure(rate=rate, more="\n".join(settings))
    path = place.folder / "config.toml"
    path.write_text(path.read_text().replace("[schematic]\n", '[schematic]\ntimeout = "2s"\n'))


def start(place: Place, daemons: ExitStack) -> Running:
    """Start a daemon, and return it when it has batches."""
    first = daemons.enter_context(place.running("run"))
    until(lambda: shared_by(place, first))
    return first


def join(place: Place, daemons: ExitStack, first: Running, *words: str) -> Running:
    """Start another process, and return it when each of the two has its part."""
    second = daemons.enter_context(place.running(*words))
    until(lambda: shared_by(place, first, second))
    return second


def shared_by(place: Place, *running: Running) -> bool:
    """Tell whether each of these processes, and no other, has open batches."""
    holders = place.rows("SELECT DISTINCT holder FROM batches WHERE status = 'open' AND holder <> ''")
    return {int(holder.split(":")[1]) for (holder,) in holders} == {pid(one) for one in running}


def pid(running: Running) -> int:
    """Return the process of a command that runs."""
    number = running.process._process.pid
    assert number is not None
    return number


def deliver_the_rest(place: Place) -> None:
    """Let Schematic be quick again and wait until nothing is left to be sent."""
    place.sandbox.faults.set([])
    until(
        lambda: (
            place.rows("SELECT 1 FROM open_deliveries LIMIT 1")
            == place.rows("SELECT 1 FROM batches WHERE status = 'open' LIMIT 1")
            == []
        )
    )


def stop(*running: Running) -> None:
    """End daemons as systemd does."""
    for one in running:
        assert one.end(signal.SIGTERM).code == 0


@ON_POSTGRES
def test_each_audience_is_synced_once_an_interval(place: Place, daemons: ExitStack) -> None:
    """However two daemons race for five audiences, each is synced once when it is due, by one of them."""
    place.shop.set_orders(customers(range(20)).items())
    sql = json.dumps("SELECT customer_id AS user_id FROM orders")
    rings = "\n".join(f"[[audiences]]\nname = 'Ring {n}'\nsql = {sql}" for n in range(4))
    place.configure(more=f'[schedule]\nevery = "{INTERVAL}s"\njitter = "0s"\n{rings}')
    both = [daemons.enter_context(place.running("run")) for _ in range(2)]

    def started() -> dict[str, list[int]]:
        """Return when the runs of each audience began, in milliseconds."""
        found: dict[str, list[int]] = {}
        for key, at in place.rows(
            "SELECT a.key, r.started_at FROM runs r JOIN audiences a ON a.id = r.audience_id ORDER BY r.started_at"
        ):
            found.setdefault(key, []).append(at)
        return found

    until(lambda: len(started()) == 5 and min(map(len, started().values())) >= 3)
    stop(*both)
    finished = [{line["run_id"] for line in one.logged if line["event"] == "sync_finished"} for one in both]

    gaps = [late - early for runs in started().values() for early, late in pairwise(runs)]
    assert min(gaps) > (INTERVAL - LATEST) * 1000
    assert finished[0].isdisjoint(finished[1])
    errors = [line.get("error") for one in both for line in one.logged if line["level"] == "error"]
    assert set(errors) <= {"stopped on request"}


def test_batches_are_shared_and_taken_over(place: Place, daemons: ExitStack) -> None:
    """A newcomer, daemon or command, gets its part; who leaves in order or is killed is replaced without any wait."""
    first = start(place, daemons)
    leaving = join(place, daemons, first, "deliver")
    told = place.command("status", "--holders", "--format", "json").records
    assert {pid(first), pid(leaving)} <= {int(one["holder"].split(":")[1]) for one in told if one["work"] == "delivery"}
    leaving.end(signal.SIGTERM)
    until(lambda: shared_by(place, first))
    killed = join(place, daemons, first, "run")
    killed.end(signal.SIGKILL)
    until(lambda: shared_by(place, first))
    deliver_the_rest(place)
    stop(first)

    assert_settled(place, EVERYBODY)


@ON_POSTGRES
def test_a_frozen_daemon_is_replaced_and_does_no_harm(place: Place, daemons: ExitStack) -> None:
    """Past its lease its work is another's; awake again it says nothing old, and all ends as the memberships are."""
    frozen = start(place, daemons)
    other = join(place, daemons, frozen, "run")
    frozen.process.send_signal(signal.SIGSTOP)
    until(lambda: shared_by(place, other))
    stayed = customers(range(700))
    place.shop.set_orders(stayed.items())
    assert place.command("sync", "--no-deliver").code == 0
    deliver_the_rest(place)
    frozen.process.send_signal(signal.SIGCONT)
    until(lambda: any(line["event"] == "events_delivered" for line in frozen.logged))
    deliver_the_rest(place)
    stop(frozen, other)

    assert_settled(place, stayed, before=EVERYBODY)


@ON_POSTGRES
def test_the_rate_is_that_of_both_together(place: Place, daemons: ExitStack) -> None:
    """Two daemons that could each send far more keep to the limit between them."""
    configure(place, rate=RATE)
    place.sandbox.faults.set([])
    first = start(place, daemons)
    second = join(place, daemons, first, "run")
    deliver_the_rest(place)
    stop(first, second)
    times = sorted(
        datetime.fromisoformat(at).timestamp()
        for (at,) in place.sandbox.ledger.read("SELECT at FROM requests WHERE path = '/batch'")
    )
    seconds = times[-1] - times[0]

    assert len(times) >= 180
    assert (len(times) - 1) / seconds <= RATE * 1.1
