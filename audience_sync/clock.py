"""Where the outside world enters: the clock, randomness, and named points at which a test may kill the process.

Everything that needs one of them takes a `Seams`; only `Seams.real` touches the real thing.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

KILL_VARIABLE = "AUDIENCE_SYNC_TEST_KILL"
"""`NAME:N` kills the process, as ``kill -9`` would, when the point NAME is reached for the N-th time."""


def wall_clock() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)


def pass_by(point: str) -> None:
    """Do nothing at a named point: what happens in production."""


def killer(environ: Mapping[str, str]) -> Callable[[str], None]:
    """Return what happens at named points: nothing, or the death that `KILL_VARIABLE` asks for."""
    wanted = environ.get(KILL_VARIABLE)
    if not wanted:
        return pass_by
    name, _, count = wanted.partition(":")
    left = int(count or 1)
    lock = threading.Lock()

    def reach(point: str) -> None:
        nonlocal left
        if point != name:
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


@dataclass(frozen=True, kw_only=True)
class Seams:
    """The clock (aware UTC), a monotonic clock in seconds, jitter in [0, 1), and the named points."""

    clock: Callable[[], datetime] = wall_clock
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = field(default=random.random)
    reach: Callable[[str], None] = pass_by

    @classmethod
    def real(cls, environ: Mapping[str, str] = os.environ) -> Seams:
        """Return the real world, with the kill point that the environment asks for."""
        return cls(reach=killer(environ))

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970, the unit in which the database keeps time."""
        return int(self.clock().timestamp() * 1000)

    def steady_ms(self) -> int:
        """Return milliseconds since some moment, the same for all processes of this host; nobody can set it."""
        return int(self.monotonic() * 1000)
