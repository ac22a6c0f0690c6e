"""The guard: where its limits lie, to the member."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audience_sync.core.guard import guard
from audience_sync.core.model import Counts, GuardLimits, RunKind

LIMITS = GuardLimits(
    max_exit_percent=30, max_entry_percent=200, max_update_percent=100, min_members=100, min_initial_members=0
)


def refusals(counts: Counts, *, before: int, limits: GuardLimits = LIMITS) -> list[str]:
    """Return what the guard says of a later run."""
    return guard(counts, kind=RunKind.INCREMENTAL, members_before=before, limits=limits)


@pytest.mark.parametrize(
    ("counts", "before", "refused"),
    [
        (Counts(exited=300), 1000, False),
        (Counts(exited=301), 1000, True),
        (Counts(exited=99), 99, False),  # below min_members
        (Counts(exited=100), 100, True),  # at min_members
        (Counts(entered=2000), 1000, False),
        (Counts(entered=2001), 1000, True),
        (Counts(updated=1000), 1000, False),
        (Counts(updated=1001), 1000, True),
        (Counts(unchanged=1000), 1000, False),
        (Counts(entered=10**9), 0, False),
    ],
)
def test_the_limits_of_a_later_run(counts: Counts, before: int, refused: bool) -> None:
    """A run is blocked by one member more than the limit allows, and not by less."""
    assert bool(refusals(counts, before=before)) is refused


@pytest.mark.parametrize("kind", [RunKind.INCREMENTAL, RunKind.RESYNC])
def test_an_empty_result_is_refused(kind: RunKind) -> None:
    """A source that returns nothing is not believed, in a resync neither."""
    found = guard(Counts(exited=1000), kind=kind, members_before=1000, limits=LIMITS)

    assert found == ["1,000 would exit: 100.0 % of the previous 1,000 members; max_exit_percent allows 30 %"]


def test_every_limit_that_is_passed_is_named() -> None:
    """A person who is to say yes reads everything that is unusual."""
    found = refusals(Counts(entered=3000, exited=1000), before=1000)

    assert [sentence.partition(";")[2].split()[0] for sentence in found] == ["max_exit_percent", "max_entry_percent"]


def test_no_exit_is_allowed_at_zero_percent() -> None:
    """A limit of zero means none, and a limit of a fraction is a fraction."""
    none = replace(LIMITS, max_exit_percent=0, min_members=1)
    half = replace(LIMITS, max_exit_percent=0.5, min_members=1)

    assert refusals(Counts(exited=1), before=1_000_000, limits=none) != []
    assert refusals(Counts(exited=5), before=1000, limits=half) == []
    assert refusals(Counts(exited=6), before=1000, limits=half) != []


@pytest.mark.parametrize(
    ("counts", "refused"),
    [
        (Counts(entered=10), False),
        (Counts(entered=4, unchanged=5, updated=1), False),  # what a dead first run left counts too
        (Counts(entered=9), True),
        (Counts(exited=100), True),
    ],
)
def test_the_least_size_of_a_first_run(counts: Counts, refused: bool) -> None:
    """A first run that finds fewer members than expected waits for a yes."""
    limits = replace(LIMITS, min_initial_members=10)

    assert bool(guard(counts, kind=RunKind.INITIAL, members_before=0, limits=limits)) is refused


def test_a_first_run_has_no_other_limits() -> None:
    """Everybody enters in a first run."""
    assert guard(Counts(entered=10**7), kind=RunKind.INITIAL, members_before=0, limits=LIMITS) == []
