"""Who takes which units of shards, by arithmetic: everybody works, nothing is left over, and it comes to rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.shards import UNITS
from audience_sync.core.sharing import is_fair, share

ALL = set(range(UNITS))
SETS = st.sets(st.integers(0, UNITS - 1))
MOST_TURNS = 50


def settle(held: dict[str, set[int]], waiting: set[int]) -> int:
    """Let processes look around in turns until each is content, and return how many turns it took.

    One without units takes its part of what is free, if it finds work there; one that is not content gives its units
    back and takes its part anew.
    """
    for turn in range(MOST_TURNS):
        moved = False
        for name, mine in held.items():
            others = {other: units for other, units in held.items() if other != name}
            free = ALL - set().union(*others.values())
            seekers = any(not units for units in others.values())
            if mine and is_fair(mine, free - mine, waiting, processes=len(held), seekers=seekers):
                continue
            held[name] = set(share(free, waiting, processes=len(held)))
            moved |= held[name] != mine
        if not moved:
            return turn
    raise AssertionError("it never comes to rest")


def test_one_alone_takes_everything() -> None:
    """Who sees nobody else holds all shards, those without work too: what comes next is found at once."""
    assert share(ALL, {3}, processes=1) == sorted(ALL)
    assert share(ALL, set(), processes=1) == sorted(ALL)


def test_one_of_two_takes_half() -> None:
    """Where work waits everywhere, two processes have half of it each."""
    first = share(ALL, ALL, processes=2)

    assert len(first) == UNITS // 2
    assert len(share(ALL - set(first), ALL, processes=2)) == UNITS // 2


def test_nothing_is_taken_where_nothing_waits() -> None:
    """Who would find nothing to do leaves the free units to others."""
    assert share({1, 2}, {5}, processes=2) == []


def test_units_with_work_come_first() -> None:
    """What waits is shared; a few idle units fill up a part, so that what comes next has somebody."""
    taken = share(ALL, {0, 100, 101, 102}, processes=2)

    assert len(set(taken) & {0, 100, 101, 102}) == 2
    assert len(taken) == UNITS // 2


def test_a_newcomer_makes_the_holder_give() -> None:
    """Who holds everything shares as soon as somebody has nothing."""
    assert not is_fair(ALL, set(), ALL, processes=2, seekers=True)
    assert is_fair(set(range(UNITS // 2)), set(), ALL, processes=2, seekers=True)


def test_what_is_left_free_is_taken_over() -> None:
    """Who sees units with work that nobody holds takes its part of them: their holder has left, or died."""
    half = set(range(UNITS // 2))

    assert not is_fair(half, ALL - half, ALL, processes=1, seekers=False)
    assert is_fair(half, ALL - half, half, processes=1, seekers=False)


def test_who_is_done_helps_the_others() -> None:
    """What waits counts, not what is held: a process that has delivered its own gets half of the rest."""
    half = set(range(UNITS // 2))

    assert not is_fair(half, ALL - half, half, processes=2, seekers=True)
    assert len(set(share(ALL, half, processes=2)) & half) == UNITS // 4


def test_small_differences_are_left_alone() -> None:
    """Shards are not taken anew for a unit more or less while everybody works."""
    assert is_fair({1, 2, 3}, set(), {1, 2, 3}, processes=2, seekers=False)
    assert not is_fair({1, 2, 3}, set(), {1, 2, 3}, processes=2, seekers=True)


@pytest.mark.parametrize("processes", [2, 3, 4, 7])
def test_it_comes_to_rest(processes: int) -> None:
    """However many there are, each soon has about its part of the work, all of it is held, and none of it twice."""
    held: dict[str, set[int]] = {"first": set(ALL)} | {f"later {n}": set() for n in range(1, processes)}
    turns = settle(held, ALL)
    part = -(-UNITS // processes)

    assert turns <= 10
    assert sum(len(units) for units in held.values()) == UNITS == len(set().union(*held.values()))
    assert max(map(len, held.values())) <= part + max(2, part // 4)
    assert min(map(len, held.values())) >= part // 2


@given(waiting=SETS, shares=st.lists(SETS, min_size=2, max_size=5))
def test_from_any_state_all_that_waits_is_held(waiting: set[int], shares: list[set[int]]) -> None:
    """Whoever has left and however little waits: in the end each unit with work has one holder, and it is quiet."""
    held: dict[str, set[int]] = {}
    for number, units in enumerate(shares):
        held[str(number)] = units - set().union(*held.values())
    settle(held, waiting)

    assert waiting <= set().union(*held.values())
