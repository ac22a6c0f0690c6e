"""Is everything there that a sync needs? Looks at all of it and says what is wrong with each part, all at once.

Nothing is changed and no event is sent. `finding` is what is said; the other modules each look at one part.
"""

from __future__ import annotations

from audience_sync.checks.finding import Finding, State, exit_code

__all__ = ["Finding", "State", "exit_code"]
