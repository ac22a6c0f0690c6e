"""Let only one round of a process work on audiences that use one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager


class Claims:
    """Keys that rounds under way work on; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    @contextmanager
    def claim(self, keys: Set[str]) -> Iterator[bool]:
        """Claim some keys for the time of a block; yield False, and claim nothing, if one of them is taken."""
        with self._lock:
            is_free = self._taken.isdisjoint(keys)
            if is_free:
                self._taken |= keys
        try:
            yield is_free
        finally:
            if is_free:
                with self._lock:
                    self._taken -= keys
