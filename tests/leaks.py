"""A pytest plugin: a test that leaves a socket or a database file open fails, instead of a later one.

Python closes what is lost when the garbage collector runs, which may be many tests later. Comparing the open files
before and after each test costs a fraction of a millisecond; collecting garbage after each test would cost more than
most tests.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

OPEN_FILES = Path("/proc/self/fd")
GRACE = 2.0  # seconds in which the thread of a server closes what a client has left
POLL_INTERVAL = 0.01  # seconds


@pytest.fixture(autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail if the test or its fixtures leave a socket or a database file open.

    A test marked `abandons_connection` gives up a connection that a thread is still opening; the collector closes it.
    """
    before = open_files()
    yield
    is_abandoned = request.node.get_closest_marker("abandons_connection") is not None
    deadline = time.monotonic() + GRACE
    while (left := open_files().items() - before.items()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
        if is_abandoned:
            gc.collect()
    if left:
        described = sorted(_describe(number, name) for name, number in left)
        gc.collect()  # what nothing refers to says where it was opened, if tracemalloc is on
        pytest.fail(f"left open: {', '.join(described)}", pytrace=False)


def open_files() -> dict[str, int]:
    """Return the sockets and database files that this process has open, with their descriptors."""
    found: dict[str, int] = {}
    for path in OPEN_FILES.iterdir() if OPEN_FILES.is_dir() else ():
        with suppress(OSError):  # closed meanwhile
            name = str(path.readlink())
            if name.startswith("socket:") or name.endswith((".db", ".db-wal", ".duckdb")):
                found[name] = int(path.name)
    return found


def _describe(number: int, name: str) -> str:
    if not name.startswith("socket:"):
        return name
    with suppress(OSError), closing(socket.socket(fileno=os.dup(number))) as same:
        name = f"socket at {same.getsockname()}"
        name += f" connected to {same.getpeername()}"
    return name
