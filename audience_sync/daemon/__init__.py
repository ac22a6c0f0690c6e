"""The daemon: sync every audience on its schedule, deliver between syncs, and shut down cleanly.

Only this package uses APScheduler.
"""

from __future__ import annotations

from audience_sync.daemon.service import run

__all__ = ["run"]
