"""The clock: whatever depends on the time of day, on time that passes, or on chance takes a `Clock`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def wall_clock() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The wall clock (aware UTC), a monotonic clock in seconds, and jitter in [0, 1) to spread times by."""

    now: Callable[[], datetime] = wall_clock
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = field(default=random.random)

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970, the unit in which the database keeps time."""
        return int(self.now().timestamp() * 1000)

    def steady_ms(self) -> int:
        """Return milliseconds since some moment, the same for all processes of this host; nobody can set it."""
        return int(self.monotonic() * 1000)
