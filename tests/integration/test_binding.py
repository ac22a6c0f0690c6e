"""What a database is bound to, and the numbers it issues: one after the other, however many ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from audience_sync.errors import BindingRefused
from audience_sync.store import backup_mark, binding, events, generations, request_times, settings_table
from audience_sync.store.database import Database
from tests.waiting import somebody_waits, wait_until

NOW_US = 1_774_958_400_000_000


def together(count: int, work: Callable[[], object]) -> list[object]:
    """Do a piece of work in several threads that start at the same moment, and return all results."""
    barrier = threading.Barrier(count)

    def start() -> object:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(start) for _ in range(count)]]


def test_generations_rise_strictly(database: Database) -> None:
    """Two runs never have one generation, however many start at the same moment."""

    def issue() -> list[int]:
        issued = []
        for _ in range(10):
            with database.write() as connection:
                issued.append(generations.next_generation(connection, 1000))
        return issued

    results = together(8, issue)

    every = [number for issued in results for number in issued]  # type: ignore[attr-defined]  # lists of numbers
    assert sorted(every) == list(range(1000, 1080))
    assert all(issued == sorted(issued) for issued in results)  # type: ignore[call-overload]  # lists of numbers


def test_a_generation_is_about_the_time_and_never_goes_back(database: Database) -> None:
    """A clock that is set back does not make a newer value look older."""
    with database.write() as connection:
        issued = [generations.next_generation(connection, now) for now in (5000, 4000, 5001, 9000, 0)]

    assert issued == [5000, 5001, 5002, 9000, 9001]


def test_requests_are_spaced_over_all_processes(database: Database) -> None:
    """Two processes together keep the rate: no two requests have the same moment."""

    def reserve() -> list[int]:
        moments = []
        for _ in range(10):
            with database.write() as connection:
                moments.append(request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=50))
        return moments

    results = together(2, reserve)

    moments = sorted(moment for found in results for moment in found)  # type: ignore[attr-defined]  # lists of numbers
    assert moments[0] == NOW_US
    assert {later - earlier for earlier, later in pairwise(moments)} == {20_000}


def test_several_requests_are_reserved_at_once(database: Database) -> None:
    """A reservation of five moments leaves room for five, and time that passed unused is not made up for."""
    with database.write() as connection:
        first = request_times.reserve_requests(connection, now_us=NOW_US, requests=5, per_second=10)
        second = request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=10)
        later = request_times.reserve_requests(connection, now_us=NOW_US + 10_000_000, requests=1, per_second=10)

    assert [first, second, later] == [NOW_US, NOW_US + 500_000, NOW_US + 10_000_000]


def test_a_clock_that_was_ahead_stops_nobody(database: Database) -> None:
    """A reservation far in the future is taken for a mistake of somebody's clock."""
    with database.write() as connection:
        request_times.reserve_requests(connection, now_us=NOW_US + 86_400_000_000, requests=1, per_second=50)
        again = request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=50)
        next_one = request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=50)

    assert [again, next_one] == [NOW_US, NOW_US + 20_000]


def test_a_slow_rate_is_kept(database: Database) -> None:
    """Eight workers at one request in ten seconds wait for each other, though the last one waits for over a minute."""
    moments = []
    for _ in range(9):
        with database.write() as connection:
            moments.append(request_times.reserve_requests(connection, now_us=NOW_US, requests=1, per_second=0.1))

    assert [moment - NOW_US for moment in moments] == [n * 10_000_000 for n in range(9)]


def test_the_identity_is_bound_once(database: Database) -> None:
    """A database that knows people by one key is not filled by another."""
    with database.write() as connection:
        binding.bind_identity(connection, "userId")
        binding.bind_identity(connection, "userId")

    with database.write() as connection, pytest.raises(BindingRefused, match=r"'userId'.*'email'") as caught:
        binding.bind_identity(connection, "email")
    assert 'identity = "userId"' in str(caught.value.hint)


def test_two_first_syncs_do_not_both_bind(database: Database) -> None:
    """Of two processes that bind different identities at the same moment the second is refused."""

    def bind_other() -> None:
        with database.write() as connection:
            binding.bind_identity(connection, "email")

    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            binding.bind_identity(connection, "userId")
            other = pool.submit(bind_other)
            wait_until(lambda: database.is_sqlite or somebody_waits(database))
        with pytest.raises(BindingRefused):
            other.result()


def test_the_environment_is_bound_once(database: Database) -> None:
    """A key of another environment is refused; one that may not ask is taken at the file's word."""
    with database.write() as connection:
        assert binding.bind_environment(connection, None, label="", destination="Schematic") == ""
        bound = binding.bind_environment(connection, None, label="production", destination="Schematic")
        assert bound == "production"
        assert binding.bind_environment(connection, "production", label="", destination="Schematic") == "production"
        assert binding.bind_environment(connection, None, label="", destination="Schematic") == "production"
        with pytest.raises(BindingRefused, match=r"'production'.*'staging'"):
            binding.bind_environment(connection, "staging", label="production", destination="Schematic")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_postgres_has_no_mark(database: Database) -> None:
    """File not found: next to it, and no row that every writer would have to wait for."""
    with database.write() as connection:
        before = settings_table.get(connection, "generation")
        events.take(connection, [], now_ms=1_000)
        after = settings_table.get(connection, "generation")
    backup_mark.require_newest(database)
    backup_mark.require_kept(database)
    backup_mark.require_writable(database)

    assert before == after
    assert not backup_mark.is_missing(database)
    with database.read() as connection:
        assert settings_table.get(connection, backup_mark.BEGAN_AT) is None
