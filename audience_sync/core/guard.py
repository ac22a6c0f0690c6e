"""Whether a run may go on: the guard compares its changes with limits, and a hold waits for what its query uses.

A source that suddenly says something very different is asked about, not believed. A query compiles the audiences it
uses into its own statement. So it may run only where a guard or a person has accepted each of these definitions, as
the file has it now, for the same instant or a later one. Otherwise the audience is held.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from audience_sync.core.model import Computation, Counts, GuardLimits, RunKind, RunState
from audience_sync.core.text import counted


def guard(counts: Counts, *, kind: RunKind, members_before: int, limits: GuardLimits) -> list[str]:
    """Return why a run must wait for a person's yes; an empty list when it may go on.

    Percentages are of the members before, and count from `min_members` on: ten of twelve people may well leave. Entries
    of an initial run are not counted: that is what it is for, also when it goes on after a crash.
    """
    found = counts.entered + counts.updated + counts.unchanged
    if kind is RunKind.INITIAL and found < limits.min_initial_members:
        return [
            (
                f"the first run found {counted(found, 'member')}, but min_initial_members requires"
                f" {limits.min_initial_members:,}"
            )
        ]
    if not is_guarded(members_before, limits):
        return []
    exits = ("would exit", counts.exited, "max_exit_percent", limits.max_exit_percent)
    entries = ("would enter", counts.entered, "max_entry_percent", limits.max_entry_percent)
    updates = ("would be updated", counts.updated, "max_update_percent", limits.max_update_percent)
    return [
        f"{amount:,} {verb}: {100 * amount / members_before:.1f} % of the previous {members_before:,}"
        f" members; {setting} allows {limit:g} %"
        for verb, amount, setting, limit in ((exits, updates) if kind is RunKind.INITIAL else (exits, entries, updates))
        if 100 * amount > limit * members_before
    ]


def is_guarded(members_before: int, limits: GuardLimits) -> bool:
    """Return whether an audience has enough members for percentages of them to be looked at."""
    return members_before > 0 and members_before >= limits.min_members


class Obstacle(StrEnum):
    """Why an audience or computed trait cannot be used by another one now."""

    REMOVED = "removed"  # the database has it, the file does not
    DISABLED = "disabled"  # enabled = false
    RETIRED = "retired"
    PAUSED = "paused"
    BLOCKED = "blocked"  # the definition in the file, by a guard
    FAILED = "failed"
    STALE = "stale"  # not evaluated, because the data of its source was too old
    NEW = "new"  # no run has completed
    EDITED = "edited"  # the definition in the file is not the one that was accepted
    BEHIND = "behind"  # accepted for an earlier instant only


NOT_SYNCED: Final = frozenset({Obstacle.REMOVED, Obstacle.DISABLED, Obstacle.RETIRED, Obstacle.PAUSED})
"""The obstacles of what is not synced at all."""

NEEDS_A_PERSON: Final = NOT_SYNCED | {Obstacle.BLOCKED}
"""The obstacles that stay until a person acts. A sync of what is used may remove the others."""


class Decided(NamedTuple):
    """The newest run that was decided: blocked, failed, stale or succeeded."""

    run_id: int
    state: RunState
    is_current: bool  # of the definition in the file
    is_partial: bool
    reason: str | None = None  # why it is blocked, failed or stale


@dataclass(frozen=True, kw_only=True)
class Used:
    """An audience or computed trait that a query uses, as the file and the database have it."""

    key: str
    computation: Computation
    through: str | None = None  # what the query uses that uses this one; None: the query itself does
    audience_id: int | None  # None: the database does not know it
    state: str  # of its row: active, paused or retired
    in_file: bool
    enabled: bool
    decided: Decided | None
    completed: bool  # one run has
    is_current: bool  # the last run that completed had the definition in the file
    accepted_as_of: int | None  # milliseconds since 1970


class Hold(NamedTuple):
    """Why an audience is held, in a sentence, and what resolves it."""

    obstacle: Obstacle
    cause: str
    remedy: str
    audience_id: int | None  # of what holds it

    @property
    def reason(self) -> str:
        """Return the cause and the remedy, as a run keeps them."""
        return f"{self.cause}; {self.remedy}"


def obstacle(used: Used, *, as_of: int | None) -> Obstacle | None:
    """Return why something cannot be used for an evaluation as of an instant, or None; without `as_of`, for any."""
    if not used.in_file:  # the key of a retired audience means a trait of the profiles again
        return None if used.audience_id is None or used.state == "retired" else Obstacle.REMOVED
    state = None if used.decided is None else used.decided.state
    is_blocked = state is RunState.BLOCKED and used.decided is not None and used.decided.is_current
    obstacles = (
        (Obstacle.DISABLED, not used.enabled),
        (Obstacle.RETIRED, used.state == "retired"),
        (Obstacle.PAUSED, used.state == "paused"),
        (Obstacle.BLOCKED, is_blocked),
        (Obstacle.FAILED, state is RunState.FAILED),
        (Obstacle.STALE, state is RunState.STALE),
        (Obstacle.NEW, not used.completed),
        (Obstacle.EDITED, not used.is_current),
        (Obstacle.BEHIND, as_of is not None and (used.accepted_as_of is None or used.accepted_as_of < as_of)),
    )
    return next((one for one, is_there in obstacles if is_there), None)


def hold(key: str, uses: Iterable[Used], *, as_of: int | None) -> Hold | None:
    """Return why an audience is held: the first obstacle in what it uses; None if it may be evaluated."""
    for used in uses:
        found = obstacle(used, as_of=as_of)
        if found is not None:
            cause, remedy = _sentence(key, used, found)
            return Hold(found, f"{_subject(used)} {cause}", remedy, used.audience_id)
    return None


def would_block(used: Used) -> Hold:
    """Return why an audience would be held if a guard blocked the next run of what it uses."""
    remedy = f"review it with `audience-sync plan {used.key}`"
    return Hold(Obstacle.BLOCKED, f"{_subject(used)} would be blocked by a guard", remedy, used.audience_id)


def would_fail(used: Used) -> Hold:
    """Return why an audience would be held if the next run of what it uses failed."""
    remedy = f"`audience-sync plan {used.key}` shows why"
    return Hold(Obstacle.FAILED, f"{_subject(used)} could not be planned", remedy, used.audience_id)


def would_be_stale(used: Used, reason: str) -> Hold:
    """Return why an audience would be held if the data for what it uses were still too old."""
    remedy = f"`audience-sync plan {used.key}` shows whether that has changed"
    return Hold(Obstacle.STALE, f"{_subject(used)} would not be evaluated: {reason}", remedy, used.audience_id)


def _subject(used: Used) -> str:
    through = "" if used.through is None else f" (used by `{used.through}`)"
    return f"{used.computation.noun} `{used.key}`{through}"


def _sentence(key: str, used: Used, found: Obstacle) -> tuple[str, str]:
    """Return what is wrong with something that `key` uses, and what resolves it."""
    decided = used.decided
    run = None if decided is None else decided.run_id
    sync = f"resolve it with `audience-sync sync {used.key}`"
    then = f"then run `audience-sync sync {key}`"
    if found in (Obstacle.NEW, Obstacle.BEHIND) and decided is not None and decided.is_partial:
        return f"was only partly synced (run {run})", sync
    return {
        Obstacle.REMOVED: ("is not in the configuration", f"add it again, or run `audience-sync retract {used.key}`"),
        Obstacle.DISABLED: ("is disabled", f"set `enabled = true`, {then}"),
        Obstacle.RETIRED: ("is retired", f"remove it from the query, {then}"),
        Obstacle.PAUSED: ("is paused", f"resolve it with `audience-sync resume {used.key}`"),
        Obstacle.BLOCKED: (f"is blocked (run {run})", f"resolve it with `audience-sync approve {used.key}`"),
        Obstacle.FAILED: (
            f"failed (run {run}){_why(decided)}",
            f"fix the cause, then run `audience-sync sync {used.key}`",
        ),
        Obstacle.STALE: (
            f"was not evaluated (run {run}){_why(decided)}",
            f"load new data, {then} (--allow-stale evaluates the old data)",
        ),
        Obstacle.NEW: ("has never been synced", sync),
        Obstacle.EDITED: ("has not been synced with its current definition", sync),
        Obstacle.BEHIND: ("has not been synced as of the same instant", sync),
    }[found]


def _why(decided: Decided | None) -> str:
    """Return the first line of the reason of a run, behind a colon."""
    reason = None if decided is None else decided.reason
    return f": {reason.splitlines()[0].removesuffix('.')}" if reason else ""
