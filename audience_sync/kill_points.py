"""Named points in the code at which a test may kill the process. In production nothing happens there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping

KILL_VARIABLE = "AUDIENCE_SYNC_TEST_KILL"
"""`NAME:N` kills the process, as ``kill -9`` would, when the point NAME is reached for the N-th time."""


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
