"""The daemon: every audience on its schedule, deliveries between syncs, and a clean end. All of APScheduler is here."""

from __future__ import annotations

from audience_sync.daemon.service import run

__all__ = ["run"]
