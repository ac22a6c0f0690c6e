"""Check everything that a sync needs, and report all problems at once.

Checks change nothing and send no events. Each module checks one area and yields `Finding`s.
"""

from __future__ import annotations

from audience_sync.checks.finding import Finding, State, exit_code

__all__ = ["Finding", "State", "exit_code"]
