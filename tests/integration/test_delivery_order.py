"""The last word is right: newer values, lost answers, deaths and lost leases, and what Schematic knows in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.store import holders, identifiers, outbox, settings_table
from audience_sync.store.database import Database
from tests.factories import make_event, open_changes
from tests.sending import Sending, assert_agreed, assert_in_order, open_sending, run_deliver
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import somebody_waits, wait_until

pytestmark = pytest.mark.slow_on_postgres

EVERYBODY = [f"u{n}" for n in range(400)]
TAKEN_OVER = "UPDATE batches SET holder = 'elsewhere:1:x', claim = claim + 1"


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield two audiences, gold and silver."""
    with open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened:
        yield opened


def values_of(sending: Sending, profile: str) -> list[tuple[object, str]]:
    """Return what the sandbox was told of a profile being gold, and what it did with it."""
    return [(event.body["traits"]["gold"], event.status) for event in sending.events(profile)]  # type: ignore[index,call-overload]


def test_three_changes_arrive_as_three(sending: Sending) -> None:
    """True, false, true within a minute are three events with three idempotency keys."""
    for members in (["u1"], [], ["u1"]):
        sending.sync(gold=members)
        sending.deliver()

    assert values_of(sending, "u1") == [(True, "processed"), (False, "processed"), (True, "processed")]
    assert len({event.idempotency_key for event in sending.events()}) == 3
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["hold", "hold_before"])
def test_newer_value_stands(sending: Sending, place: str) -> None:
    """What changes while the answer is awaited, before or after it was applied, is told afterwards and stands."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(**{place: True}, user_key="u7", times=1)])  # type: ignore[arg-type]
    with sending.delivering() as report:
        assert sending.sandbox.gate.wait_for(1)
        sending.sync(gold=[user for user in EVERYBODY if user not in {"u7", "u8"}])
        sending.sync(silver=["u7"])
        sending.sandbox.gate.release()
        assert report.result().failure is None

    assert [event.body["traits"] for event in sending.events("u7")] == [
        {"gold": True},
        {"gold": False, "silver": True},
    ]
    assert_agreed(sending)
    assert_in_order(sending)


def test_newer_row_is_not_settled_away(sending: Sending) -> None:
    """Settling what was sent leaves the row that replaced it under way open."""
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(hold=True, times=1), FaultRule(refuse=True)])
    stop = threading.Event()
    with sending.delivering(stop=stop) as report:
        assert sending.sandbox.gate.wait_for(1)
        sending.sync(gold=[])
        sending.sandbox.gate.release()
        wait_until(sending.tried)
        stop.set()
        assert report.result().open == 1

    assert sending.rows("SELECT value, state FROM open_deliveries") == [("false", "retrying")]
    assert sending.rows("SELECT traits FROM sent_deliveries") == [('{"gold":true}',)]
    sending.sandbox.faults.clear()
    sending.deliver()
    assert values_of(sending, "u1") == [(True, "processed"), (False, "processed")]
    assert_agreed(sending)


def test_lost_answer_goes_again_before_anything_newer(sending: Sending) -> None:
    """A set whose answer was lost is sent again, unmixed and under its key, before what is newer of that profile."""
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(drop=True, times=1), FaultRule(refuse=True)])
    assert sending.deliver_until(sending.tried).open == 1
    sending.sync(gold=[], silver=["u1"])
    sending.sandbox.faults.clear()
    sending.deliver()

    told = [(event.body["traits"], event.status) for event in sending.events("u1")]
    first, second, third = sending.events("u1")
    assert told == [
        ({"gold": True}, "processed"),
        ({"gold": True}, "duplicate"),
        ({"gold": False, "silver": True}, "processed"),
    ]
    assert first.idempotency_key == second.idempotency_key != third.idempotency_key
    assert_agreed(sending)


@pytest.mark.slow
def test_killed_delivery_goes_on(sending: Sending) -> None:
    """Killed wherever it hurts, with changes in between, delivery ends right: same keys again, nothing out of order."""
    people = [f"u{n}" for n in range(1200)]  # a take has at most 20 batches of 10: five takes are sure
    turns = [people[:-20], people[20:], people[10:-10]]
    kills = ["deliver.taken:1", "deliver.taken:5", "deliver.posted:1", "deliver.posted:9", "deliver.settled:2"]
    sending.sync(gold=people, silver=people[::2])
    for turn, kill in enumerate(kills):
        died = run_deliver(sending, kill=kill)
        assert (died.returncode, died.stdout) == (-9, "")
        sending.sync(gold=turns[turn % 3], silver=people[turn::2])
    done = run_deliver(sending)

    assert done.returncode == 0, done.stderr
    assert_agreed(sending)
    assert_in_order(sending)
    processed = [event.idempotency_key for event in sending.events() if event.status == "processed"]
    again = {event.idempotency_key for event in sending.events() if event.status == "duplicate"}
    assert len(set(processed)) == len(processed)
    assert again  # what was posted when the process died


def test_lost_claim(sending: Sending) -> None:
    """Whoever finds its claim gone after a POST commits nothing under it, and opens the profiles again."""
    sending.sync(gold=["u1", "u2"])
    sending.sandbox.faults.set([FaultRule(hold=True, user_key="u1", times=1)])
    with sending.delivering(wait=1) as report:
        assert sending.sandbox.gate.wait_for(1)
        ((generation,),) = sending.rows("SELECT DISTINCT generation FROM open_deliveries WHERE profile_key = 'u1'")
        sending.write(TAKEN_OVER)
        sending.sync(gold=["u2"])  # the other holder might have told this meanwhile
        sending.sandbox.gate.release()
        assert report.result().open >= 1

    old, (value, newer) = sending.rows(
        "SELECT value, generation FROM open_deliveries WHERE profile_key = 'u1' ORDER BY generation"
    )
    assert (old, value, newer > generation) == (("true", generation), "false", True)
    assert sending.rows("SELECT * FROM sent_deliveries WHERE profile_key = 'u1'") == []
    assert sending.attempts() >= 1
    sending.write("UPDATE batches SET holder = '', claim_until = 0")
    sending.deliver()
    assert values_of(sending, "u1") == [(True, "processed"), (True, "duplicate"), (False, "processed")]
    assert_agreed(sending)


@pytest.mark.slow
def test_lost_claim_on_others_work(sending: Sending) -> None:
    """What another holder settled meanwhile is told once more in its present state: ours may have landed later."""
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(hold_before=True, times=1)])
    with sending.delivering(wait=1) as report:
        assert sending.sandbox.gate.wait_for(1)
        sending.write(TAKEN_OVER)
        sending.sync(gold=[])
        # As if all of it had been delivered there:
        sending.write("DELETE FROM outbox")  # first: once the profile is free, our own process would take it
        sending.write("UPDATE batches SET status = 'accepted', accepted_at = 1, http_status = 200, events = '[]'")
        sending.sandbox.gate.release()
        assert (report.result().events, report.result().open) == (1, 0)

    assert values_of(sending, "u1") == [(True, "processed"), (False, "processed")]
    assert_agreed(sending)


def test_reopening_does_not_overtake_a_sync(sending: Sending) -> None:
    """Opening a profile again while a sync is about to commit its exit leaves the exit as the last word."""
    sending.sync(gold=["u1"])
    database = sending.workspace.database
    with database.read() as connection:
        (change,) = open_changes(connection, "u1")
    newest = change.generation + 1000

    def open_again() -> None:
        with database.write() as connection:
            outbox.reopen(connection, [make_event(change)], generation=newest)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as syncing:
            for statement in (
                "DELETE FROM memberships",
                f"UPDATE outbox SET value = 'false', generation = {change.generation + 1}",
            ):
                syncing.execute(sa.text(statement))
            opened = pool.submit(open_again)
            if not database.is_sqlite:  # there, it waits before its first statement
                waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
                wait_until(lambda: sending.rows(waits))
        opened.result(30)

    assert sending.rows("SELECT value, generation FROM open_deliveries") == [("false", newest)]


def test_a_sync_that_commits_while_rows_are_taken(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is replaced between the reading and the deletion of its row is sent, after the older one."""
    sending.sync(gold=["u1", "u2"])
    database, page = sending.workspace.database, outbox.page
    with ThreadPoolExecutor(1) as pool:
        syncs: list[Future[object]] = []

        def read(*args: Any, **kwargs: Any) -> Any:
            found = page(*args, **kwargs)
            if found[0] and not syncs:
                sending.shop.set_orders([("u2", "gold")])
                syncs.append(pool.submit(sending.sync_again, "gold"))
                if not database.is_sqlite:  # there, it waits before its first statement
                    wait_until(lambda: somebody_waits(database))
            return found

        monkeypatch.setattr(outbox, "page", read)
        sending.deliver()
        syncs[0].result(30)
        sending.deliver()

    assert values_of(sending, "u1") == [(True, "processed"), (False, "processed")]
    assert_agreed(sending)


def test_a_take_that_builds_slowly(sending: Sending) -> None:
    """Once building has taken too long, rows are left for the next take; of a batch at least each has some."""
    sending = sending.tuned(build_seconds=0.0)
    sending.sync(gold=EVERYBODY)
    reached: list[str] = []
    slow = replace(sending.workspace, reach=reached.append)
    Sending(**{**vars(sending), "workspace": slow}).deliver()

    assert reached.count("deliver.taken") == len(EVERYBODY) // 100
    assert_agreed(sending)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_take_that_waits_for_a_lock(sending: Sending) -> None:
    """While another process stands still with what is to be taken, a delivery tries again and says nothing of it."""
    sending = sending.tuned(take_lock_ms=50)
    sending.sync(gold=["u1"])
    warnings: list[str] = []
    with sending.delivering(warn=warnings.append) as report:
        with sending.workspace.database.write() as connection:
            settings_table.locked(connection, identifiers._TAKE)
            wait_until(lambda: somebody_waits(sending.workspace.database))
            wait_until(lambda: not somebody_waits(sending.workspace.database))
        assert report.result().open == 0

    assert warnings == []
    assert_agreed(sending)


def test_claims_are_given_up(sending: Sending) -> None:
    """After a delivery every batch that is still open is free at once, for whoever comes next."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(refuse=True)])
    sending.deliver_until(sending.tried)

    assert sending.rows("SELECT DISTINCT holder, claim_until FROM batches WHERE status = 'open'") == [("", 0)]


def test_two_deliveries_at_once(sending: Sending) -> None:
    """A second delivery beside the first sends nothing twice, and both end when all is delivered."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(hold=True, times=1)])
    with beside(sending) as other, sending.delivering() as first:
        assert sending.sandbox.gate.wait_for(1)
        with other.delivering() as second:
            wait_until(lambda: sending.posts() >= 4)
            sending.sandbox.gate.release()
            assert [first.result().failure, second.result().failure] == [None, None]

    assert {event.status for event in sending.events()} == {"processed"}
    assert_agreed(sending)


@contextmanager
def beside(sending: Sending) -> Iterator[Sending]:
    """Yield the same as another holder has it."""
    with closing(holders.enter(sending.workspace.database)) as holder:
        yield Sending(**{**vars(sending), "workspace": replace(sending.workspace, holder=holder)})
