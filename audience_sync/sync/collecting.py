"""The garbage collector while rows are read: each is a tuple that lives for a moment and refers to nothing.

It is never off: a delivery may be under way in another thread, and HTTP leaves cycles behind. It only waits for more
objects than a page has rows.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 50_000  # more than a page of rows, and what a hundred requests leave behind

_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []  # the thresholds before each of those who are reading now


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Have the collector look only after many new objects, until nobody is reading any more."""
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
