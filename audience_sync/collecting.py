"""The garbage collector while rows are read or sent: tuples by the thousand that live for a moment, and no cycles.

Looking through them again and again takes a fifth of a delivery. It is never off: HTTP through a proxy leaves cycles
behind. It only waits for more objects than the rows that are under way.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000  # more than a page of rows for each of some workers, and what hundreds of requests leave behind

_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []  # the thresholds before each of those who are at it now


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have the collector look only after many new objects, until nobody is at it any more."""
    with _lock:
        _usual.append(_usual[0] if _usual else gc.get_threshold())
        gc.set_threshold(OBJECTS, *_usual[0][1:])
    try:
        yield
    finally:
        with _lock:
            usual = _usual.pop()
            if not _usual:
                gc.set_threshold(*usual)
