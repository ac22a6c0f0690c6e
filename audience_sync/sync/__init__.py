"""Sync one audience: read, compare, ask the guard, commit. `delivery` sends the changes."""

from __future__ import annotations

from audience_sync.sync.approving import approve, newest_blocked
from audience_sync.sync.job import Job, RunReport
from audience_sync.sync.planning import Plan, plan
from audience_sync.sync.prerequisites import hold_of, standing_hold
from audience_sync.sync.retracting import retract
from audience_sync.sync.round import Round, make_round, uses_any
from audience_sync.sync.running import recover, sync, sync_under, taking

__all__ = [
    "Job",
    "Plan",
    "Round",
    "RunReport",
    "approve",
    "hold_of",
    "make_round",
    "newest_blocked",
    "plan",
    "recover",
    "retract",
    "standing_hold",
    "sync",
    "sync_under",
    "taking",
    "uses_any",
]
