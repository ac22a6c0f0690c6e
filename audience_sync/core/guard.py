"""The guard: a source that suddenly says something very different is asked about, not believed."""

from __future__ import annotations

from audience_sync.core.model import Counts, GuardLimits, RunKind


def guard(counts: Counts, *, kind: RunKind, members_before: int, limits: GuardLimits) -> list[str]:
    """Return why a run must wait for a person's yes; an empty list when it may go on.

    Percentages are of the members before, and count from `min_members` on: ten of twelve people may well leave. Entries
    of an initial run are not counted: that is what it is for, also when it goes on after a crash.
    """
    found = counts.entered + counts.updated + counts.unchanged
    if kind is RunKind.INITIAL and found < limits.min_initial_members:
        return [f"the first run found {found:,} members; min_initial_members asks for {limits.min_initial_members:,}"]
    if not is_guarded(members_before, limits):
        return []
    exits = ("would leave", counts.exited, "max_exit_percent", limits.max_exit_percent)
    entries = ("would enter", counts.entered, "max_entry_percent", limits.max_entry_percent)
    updates = ("would be updated", counts.updated, "max_update_percent", limits.max_update_percent)
    return [
        f"{amount:,} {verb}, {100 * amount / members_before:.1f} % of the {members_before:,} members before;"
        f" {setting} allows {limit:g} %"
        for verb, amount, setting, limit in ((exits, updates) if kind is RunKind.INITIAL else (exits, entries, updates))
        if 100 * amount > limit * members_before
    ]


def is_guarded(members_before: int, limits: GuardLimits) -> bool:
    """Return whether an audience has enough members for percentages of them to be looked at."""
    return members_before > 0 and members_before >= limits.min_members
