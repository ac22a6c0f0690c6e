"""Leases: one holder at a time, a dead one recognised at once, and nobody writes after somebody else has taken over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess

import pytest
import sqlalchemy as sa

from audience_sync.cli.status_commands import at_work as show
from audience_sync.clock import Clock
from audience_sync.errors import LeaseLost
from audience_sync.store import holders, leases
from audience_sync.store.database import Database
from audience_sync.store.leases import Lease
from audience_sync.store.workspace import Workspace
from tests.commands import FORKS
from tests.factories import FrozenClock
from tests.interrupted import hold_lease
from tests.tuned import tuned_database
from tests.waiting import somebody_waits, wait_until

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""For what several hosts have in common: on SQLite there is one."""

NOW = 1_000_000  # milliseconds
SECOND = 1000
TEN = 10 * SECOND


def take(database: Database, *numbers: int, holder: str, now_ms: int = NOW, dead: Iterable[str] = ()) -> Lease | None:
    """Take what is free of some leases."""
    with database.write() as connection:
        return leases.acquire(
            connection,
            numbers,
            holder=holder,
            now_ms=now_ms,
            expires_at=now_ms + TEN,
            dead=set(dead),
        )


def taken(database: Database, *numbers: int, holder: str, now_ms: int = NOW) -> Lease:
    """Take leases of which at least one must be free."""
    lease = take(database, *numbers, holder=holder, now_ms=now_ms)
    assert lease is not None
    return lease


def is_held(database: Database, lease: Lease) -> bool:
    """Tell whether a commit under a lease would be let through."""
    with database.write() as connection:
        try:
            leases.assert_held(connection, lease)
        except LeaseLost:
            return False
    return True


def renew(database: Database, lease: Lease, *, expires_at: int) -> bool:
    """Prolong a lease."""
    with database.write() as connection:
        return leases.renew(connection, lease, expires_at=expires_at)


def in_force(database: Database, now_ms: int = NOW) -> list[tuple[int, str, int]]:
    """Return the leases in force."""
    with database.read() as connection:
        return leases.held(connection, now_ms=now_ms)


def test_a_free_lease_is_taken(database: Database) -> None:
    """Whoever asks first gets what it wants, until the time it said."""
    lease = taken(database, 3, 1, holder="me")

    assert lease == Lease((1, 3), "me", 1)
    assert in_force(database) == [(1, "me", NOW + TEN), (3, "me", NOW + TEN)]
    assert is_held(database, lease)


def test_a_held_lease_is_not_given(database: Database) -> None:
    """Another holder gets the rest, or nothing."""
    mine = taken(database, 1, 2, holder="me")

    assert take(database, 1, 2, holder="you", now_ms=NOW + TEN - 1) is None
    rest = taken(database, 1, 2, 3, holder="you")
    assert rest.audience_ids == (3,)
    assert is_held(database, mine)


def test_a_lease_that_ran_out_is_taken_over(database: Database) -> None:
    """The new holder has a higher term, and the old one can neither commit, prolong nor give back."""
    mine = taken(database, 1, 2, holder="me")
    later = NOW + TEN
    yours = taken(database, 2, holder="you", now_ms=later)

    assert yours.term > mine.term
    assert not is_held(database, mine)
    assert not renew(database, mine, expires_at=later + 99 * SECOND)
    with database.write() as connection:
        leases.release(connection, mine)
    assert is_held(database, yours)
    assert [entry[:2] for entry in in_force(database, later)] == [(2, "you")]


def test_the_lease_of_a_dead_holder_is_free(database: Database) -> None:
    """Who is known to have died is not waited for; the others' leases stay theirs."""
    taken(database, 1, holder="dead")
    living = taken(database, 2, holder="living")
    mine = take(database, 1, 2, holder="me", dead=["dead"])

    assert mine is not None
    assert mine.audience_ids == (1,)
    assert is_held(database, living)
    with database.read() as connection:
        assert leases.holders(connection) == {"living", "me"}


def test_a_lease_that_ran_out_may_be_used_while_nobody_took_it(database: Database) -> None:
    """A holder that slept goes on when nobody missed it: the row decides, not the clock."""
    mine = taken(database, 1, holder="me")

    assert in_force(database, NOW + 11 * SECOND) == []
    assert is_held(database, mine)
    assert renew(database, mine, expires_at=NOW + 20 * SECOND)
    assert take(database, 1, holder="you", now_ms=NOW + 19 * SECOND) is None


def test_terms_always_rise(database: Database) -> None:
    """No two grants of a lease have one term: given back, run out, or taken again by the same holder."""
    terms = []
    for turn in range(4):
        lease = taken(database, 1, holder="me" if turn % 2 else "you", now_ms=NOW + turn * 60 * SECOND)
        terms.append(lease.term)
        if turn == 1:
            with database.write() as connection:
                leases.release(connection, lease)

    assert terms == sorted(set(terms))


def test_a_lease_given_back_is_free(database: Database) -> None:
    """Giving back lets the next holder in at once, and the one that gave it back writes no more."""
    mine = taken(database, 1, holder="me")
    with database.write() as connection:
        leases.release(connection, mine)

    assert in_force(database) == []
    assert not is_held(database, mine)
    assert taken(database, 1, holder="you").audience_ids == (1,)


def test_one_of_many_gets_it(database: Database) -> None:
    """Of eight that ask at the same moment, exactly one is let in."""
    barrier = threading.Barrier(8)

    def ask(name: str) -> Lease | None:
        barrier.wait()
        return take(database, 1, holder=name)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, "abcdefgh"))

    assert sum(answer is not None for answer in answers) == 1


def test_a_takeover_waits_for_the_commit_under_way(database: Database) -> None:
    """A commit that was let through is whole before the next holder begins, or it is refused."""
    mine = taken(database, 1, holder="me")
    begun, order = threading.Event(), []

    def take_over() -> None:
        begun.set()
        taken(database, 1, holder="you", now_ms=NOW + 60 * SECOND)
        order.append("taken over")

    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            leases.assert_held(connection, mine)
            other = pool.submit(take_over)
            begun.wait(10)
            if not database.is_sqlite:
                wait_until(lambda: somebody_waits(database))
            order.append("committed")
        other.result()

    assert order == ["committed", "taken over"]


@contextmanager
def another_process(database_url: str) -> Iterator[BaseProcess]:
    """Start a process that holds the lease of audience 1 for an hour, and end it at last."""
    ours, its = FORKS.Pipe()
    with ours, its:
        process = FORKS.Process(target=hold_lease, args=(database_url, its))
        process.start()
        try:
            assert ours.poll(60)
            assert ours.recv() == "held"
            yield process
        finally:
            process.kill()
            process.join()
            process.close()


def test_a_dead_process_is_recognised_at_once(database: Database, database_url: str) -> None:
    """While it lives its lease is respected; when it was killed nobody waits for the hour to pass."""
    with closing(holders.enter(database)) as holder:
        workspace = Workspace(database=database, holder=holder, clock=Clock())
        with another_process(database_url) as process:
            assert workspace.hold([1], seconds=60) is None
            process.kill()
            process.join(10)
            held = None

            def take_it() -> bool:  # Postgres needs a moment to see that the connection is gone
                nonlocal held
                held = workspace.hold([1], seconds=60)
                return held is not None

            wait_until(take_it, seconds=10)
            assert held is not None
            with held, database.write() as connection:
                held.assert_held(connection)


def test_who_only_looks_sees_who_died(database: Database, database_url: str) -> None:
    """`status` shows a lease while its holder lives, and no longer once that was killed."""

    def at_work() -> list[str]:
        with database.read() as connection:
            return [str(one["holder"]) for one in show(database, connection, {1: "gold"}, clock=Clock())]

    with another_process(database_url) as process:
        assert [name.split(":")[1] for name in at_work()] == [str(process.pid)]
        process.kill()
        process.join(10)
        wait_until(lambda: at_work() == [], seconds=10)


def test_a_living_holder_is_not_taken_for_dead(database: Database) -> None:
    """Holders of one process see each other alive; one that left, or of another host, is judged carefully."""
    with closing(holders.enter(database)) as one, closing(holders.enter(database)) as two:
        assert one.name != two.name
        assert not one.is_dead(two.name)
        assert not two.is_dead(one.name)
        assert not one.is_dead(one.name)
        assert not one.is_dead("")
        gone = holders.enter(database)
        assert not one.is_dead(gone.name)
        gone.close()
        wait_until(lambda: one.is_dead(gone.name))
        if database.is_sqlite:  # Postgres knows of every host
            assert not one.is_dead("elsewhere:1:abcd")


def test_a_lost_connection_is_not_death(database: Database) -> None:
    """A process whose connection broke, as by a restart of Postgres, is seen alive again when it next takes a lease."""
    with closing(holders.enter(database)) as one, closing(holders.enter(database)) as two:
        if not database.is_sqlite:  # a lock on a file lasts as long as the process
            with database.read() as connection:
                connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            wait_until(lambda: two.is_dead(one.name))
        held = Workspace(database=database, holder=one, clock=Clock()).hold([1], seconds=60)
        assert held is not None
        with held:
            assert not two.is_dead(one.name)


def test_a_lease_is_renewed_in_the_background(database: Database) -> None:
    """Work may take longer than its lease: that is prolonged while the process lives, and given back at the end."""
    with closing(holders.enter(database)) as holder:
        workspace = Workspace(database=database, holder=holder, clock=Clock())
        held = workspace.hold([1], seconds=0.6)
        assert held is not None
        with held:
            began = time.monotonic()
            first = in_force(database, 0)[0][2]
            wait_until(lambda: any(entry[2] > first + 600 for entry in in_force(database, 0)))
            assert time.monotonic() - began > 0.5
            assert is_held(database, held.lease)
        assert in_force(database, 0) == []


def test_a_lost_lease_is_not_renewed(database: Database) -> None:
    """A holder that was taken over stops prolonging, its time runs out, and its commits are refused."""
    clock = FrozenClock()
    with closing(holders.enter(database)) as holder:
        frozen = Clock(now=clock, monotonic=clock.monotonic)
        held = Workspace(database=database, holder=holder, clock=frozen).hold([1], seconds=0.3)
        assert held is not None
        with held:
            clock.advance(timedelta(seconds=5))
            with database.write() as connection:
                connection.execute(sa.text("UPDATE leases SET holder = 'you', term = term + 1"))
            wait_until(lambda: not held._thread.is_alive())

            with pytest.raises(LeaseLost), database.write() as connection:
                held.assert_held(connection)
        assert [entry[1] for entry in in_force(database, 0)] == ["you"]


@ON_POSTGRES
def test_hosts_whose_clocks_differ_agree(database: Database) -> None:
    """Leases go by the clock of the database: a host that is an hour ahead takes nothing from one that lives."""
    clock = FrozenClock()
    clock.now += timedelta(days=400)
    with closing(holders.enter(database)) as one, closing(holders.enter(database)) as two:
        held = Workspace(database=database, holder=one, clock=Clock()).hold([1], seconds=60)
        assert held is not None
        with held:
            ahead = Workspace(database=database, holder=two, clock=Clock(now=clock))

            assert ahead.hold([1], seconds=60) is None


@ON_POSTGRES
def test_a_process_frozen_in_a_commit_is_not_waited_for(database: Database) -> None:
    """Postgres ends a transaction in which nothing happens: what it had locked is free, and it commits nothing."""
    database = tuned_database(database, frozen_seconds=0.5)
    mine = taken(database, 1, holder="me")
    later: list[Lease] = []

    def freeze() -> None:
        with database.write() as connection:
            leases.assert_held(connection, mine)
            later.append(taken(database, 1, holder="you", now_ms=NOW + 60 * SECOND))

    with pytest.raises(sa.exc.OperationalError):  # as when the database is away: that is tried again
        freeze()
    assert is_held(database, *later)


def test_what_the_dead_held_is_cleared_away(database: Database, database_url: str) -> None:
    """A killed process is not shown at work any more, once somebody has looked."""
    with closing(holders.enter(database)) as holder:
        workspace = Workspace(database=database, holder=holder, clock=Clock())
        with another_process(database_url) as process:
            workspace.release_dead_holders()
            assert len(in_force(database, 0)) == 1
            process.kill()
            process.join(10)

            def is_cleared() -> bool:  # Postgres needs a moment to see that the connection is gone
                workspace.release_dead_holders()
                return in_force(database, 0) == []

            wait_until(is_cleared)
