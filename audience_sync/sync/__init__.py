"""Sync one audience: read, compare, apply the guard, commit. `delivery` sends the changes."""

from __future__ import annotations

from audience_sync.sync.approval import approve, newest_blocked
from audience_sync.sync.job import Job, RunReport
from audience_sync.sync.plan import Plan, plan
from audience_sync.sync.prerequisites import Round, hold_of, make_round, standing_hold, uses_any
from audience_sync.sync.retraction import retract
from audience_sync.sync.run import sync, sync_under, taking
from audience_sync.sync.takeover import recover

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
