"""Whether an audience may be evaluated follows from how everything it uses stands, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from audience_sync.core.guard import (
    NEEDS_A_PERSON,
    Decided,
    Hold,
    Obstacle,
    Used,
    hold,
    obstacle,
    would_be_stale,
    would_block,
)
from audience_sync.core.model import Computation, RunState

NOON = 1_774_958_400_000
GOOD = Used(
    key="spenders",
    computation=Computation.AUDIENCE,
    audience_id=7,
    state="active",
    in_file=True,
    enabled=True,
    decided=Decided(12, RunState.SUCCEEDED, is_current=True, is_partial=False),
    completed=True,
    is_current=True,
    accepted_as_of=NOON,
)
BLOCKED = Decided(12, RunState.BLOCKED, is_current=True, is_partial=False)
FAILED = Decided(12, RunState.FAILED, is_current=True, is_partial=False, reason="source shop: gone\nLINE 1")
IN_PART = Decided(12, RunState.SUCCEEDED, is_current=True, is_partial=True)
SYNC = "resolve it with `audience-sync sync spenders`"

CASES: dict[str, tuple[dict[str, Any], Obstacle | None, str]] = {
    "accepted for this instant": ({}, None, ""),
    "accepted for a later one": ({"accepted_as_of": NOON + 1}, None, ""),
    "accepted for an earlier one": (
        {"accepted_as_of": NOON - 1},
        Obstacle.BEHIND,
        f"has not been synced as of the same instant; {SYNC}",
    ),
    "synced in part since": (
        {"accepted_as_of": NOON - 1, "decided": IN_PART},
        Obstacle.BEHIND,
        f"was only partly synced (run 12); {SYNC}",
    ),
    "synced in part for an earlier instant": ({"decided": IN_PART}, None, ""),
    "never registered": (
        {"audience_id": None, "decided": None, "completed": False, "is_current": False, "accepted_as_of": None},
        Obstacle.NEW,
        f"has never been synced; {SYNC}",
    ),
    "synced in part only": (
        {"decided": IN_PART, "completed": False, "is_current": False, "accepted_as_of": None},
        Obstacle.NEW,
        f"was only partly synced (run 12); {SYNC}",
    ),
    "edited": ({"is_current": False}, Obstacle.EDITED, f"has not been synced with its current definition; {SYNC}"),
    "failed": (
        {"decided": FAILED},
        Obstacle.FAILED,
        "failed (run 12): source shop: gone; fix the cause, then run `audience-sync sync spenders`",
    ),
    "failed without a reason": (
        {"decided": FAILED._replace(reason=None)},
        Obstacle.FAILED,
        "failed (run 12); fix the cause, then run `audience-sync sync spenders`",
    ),
    "failed before it ever succeeded": (
        {"decided": FAILED, "completed": False},
        Obstacle.FAILED,
        "failed (run 12): source shop: gone; fix the cause, then run `audience-sync sync spenders`",
    ),
    "stale": (
        {"decided": FAILED._replace(state=RunState.STALE, reason="the newest data is 2d old")},
        Obstacle.STALE,
        (
            "was not evaluated (run 12): the newest data is 2d old; load new data, then run `audience-sync sync quiet`"
            " (--allow-stale evaluates the old data)"
        ),
    ),
    "blocked": (
        {"decided": BLOCKED},
        Obstacle.BLOCKED,
        "is blocked (run 12); resolve it with `audience-sync approve spenders`",
    ),
    "blocked, and edited in that run": (
        {"decided": BLOCKED, "is_current": False},
        Obstacle.BLOCKED,
        "is blocked (run 12); resolve it with `audience-sync approve spenders`",
    ),
    "blocked with another definition than that of the file": (
        {"decided": BLOCKED._replace(is_current=False)},
        None,
        "",
    ),
    "blocked, and edited since": (
        {"decided": BLOCKED._replace(is_current=False), "is_current": False},
        Obstacle.EDITED,
        f"has not been synced with its current definition; {SYNC}",
    ),
    "paused": ({"state": "paused"}, Obstacle.PAUSED, "is paused; resolve it with `audience-sync resume spenders`"),
    "paused while blocked": (
        {"state": "paused", "decided": BLOCKED},
        Obstacle.PAUSED,
        "is paused; resolve it with `audience-sync resume spenders`",
    ),
    "retired": (
        {"state": "retired"},
        Obstacle.RETIRED,
        "is retired; remove it from the query, then run `audience-sync sync quiet`",
    ),
    "disabled": (
        {"enabled": False},
        Obstacle.DISABLED,
        "is disabled; set `enabled = true`, then run `audience-sync sync quiet`",
    ),
    "removed": (
        {"in_file": False, "enabled": False},
        Obstacle.REMOVED,
        "is not in the configuration; add it again, or run `audience-sync retract spenders`",
    ),
    "removed and retired": ({"in_file": False, "state": "retired"}, None, ""),
    "a trait of the profiles": ({"in_file": False, "audience_id": None}, None, ""),
}


@pytest.mark.parametrize(("facts", "expected", "sentence"), CASES.values(), ids=CASES)
def test_what_holds(facts: dict[str, Any], expected: Obstacle | None, sentence: str) -> None:
    """Each state of what is used is an obstacle of its own, and its sentence ends with the command that resolves it."""
    used = replace(GOOD, **facts)

    assert obstacle(used, as_of=NOON) is expected
    found = hold("quiet", [GOOD, used], as_of=NOON)
    assert (found and (found.obstacle, found.reason, found.audience_id)) == (
        None if expected is None else (expected, f"audience `spenders` {sentence}", used.audience_id)
    )


def test_without_an_instant_any_will_do() -> None:
    """Looking at the database alone, what was accepted at any time is not behind."""
    assert obstacle(replace(GOOD, accepted_as_of=NOON - 1), as_of=None) is None


def test_the_first_obstacle_is_the_root() -> None:
    """Of a chain, what is used by what is used comes first: that is what a person must resolve."""
    root = replace(GOOD, key="orders", through="spenders", computation=Computation.TRAIT, state="paused")
    held = replace(GOOD, accepted_as_of=None)

    assert hold("quiet", [root, held], as_of=NOON) == Hold(
        Obstacle.PAUSED,
        "computed trait `orders` (used by `spenders`) is paused",
        "resolve it with `audience-sync resume orders`",
        7,
    )


def test_a_plan_that_a_guard_would_block() -> None:
    """A plan can only say what would be: there is no run to approve yet."""
    assert would_block(GOOD) == Hold(
        Obstacle.BLOCKED,
        "audience `spenders` would be blocked by a guard",
        "review it with `audience-sync plan spenders`",
        7,
    )


def test_a_plan_that_would_not_be_evaluated() -> None:
    """The data may be newer when the sync runs, so the plan of what is used is to be made again."""
    assert would_be_stale(GOOD, "the newest data is 2d old") == Hold(
        Obstacle.STALE,
        "audience `spenders` would not be evaluated: the newest data is 2d old",
        "`audience-sync plan spenders` shows whether that has changed",
        7,
    )


def test_what_a_sync_cannot_resolve() -> None:
    """A sync of the dependent first syncs what it uses, except where only a person can help."""
    assert set(Obstacle) - NEEDS_A_PERSON == {
        Obstacle.FAILED,
        Obstacle.STALE,
        Obstacle.NEW,
        Obstacle.EDITED,
        Obstacle.BEHIND,
    }
