"""How processes that deliver share the units of shards between them.

Units count by what waits in them: a process that has delivered its own takes its part of what the others still have.
All of it is arithmetic on what a process has just seen; the leases decide who gets a unit in the end.
"""

from __future__ import annotations

from collections.abc import Set

from audience_sync.core.shards import UNITS

LEAST_SLACK = 2  # units


def share(free: Set[int], waiting: Set[int], *, processes: int) -> list[int]:
    """Return which of the free units one of so many processes takes: everything, if it is the only one.

    Else its part of the units in which something waits, filled up to its part of all units: what comes next may lie
    there. Nothing, where nothing waits in any unit that is free.
    """
    if processes <= 1:
        return sorted(free)
    wanted = sorted(free & waiting)[: _part(len(waiting), processes)]
    more = sorted(free - waiting)[: _part(UNITS, processes) - len(wanted)]
    return sorted([*wanted, *more]) if wanted else []


def is_fair(mine: Set[int], free: Set[int], waiting: Set[int], *, processes: int, seekers: bool) -> bool:
    """Return whether a process should go on with its units, rather than give them back and take its part anew.

    It has too few where something waits in a free unit, as when another process has left; it has too many where others
    would find work in them. Small differences are left alone, unless somebody has nothing at all (`seekers`): taking
    units anew has its price.
    """
    part = _part(len(waiting), processes)
    has = len(mine & waiting)
    if free & waiting:
        return has >= part
    return has <= part + (0 if seekers else max(LEAST_SLACK, part // 4))


def _part(units: int, processes: int) -> int:
    """Return the most of so many units that one process takes."""
    return -(-units // max(1, processes))
