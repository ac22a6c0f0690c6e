"""Stop a query that exceeds its time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, repeat
from types import TracebackType
from typing import Self

from audience_sync.signals import interrupting

SHORTEST_LOOK = 0.01  # seconds between two looks at a clock that has run out with no query under way
GRACE = 5.0  # seconds a stopped query gets to end by itself before the next, ruder means


class Deadline:
    """The time a query may spend in the database; what its reader does with the rows does not count.

    A context manager: within it, one thread watches over block after block.
    """

    def __init__(self, limit: timedelta, interrupts: Sequence[Callable[[], None]]) -> None:
        self._left = limit.total_seconds()
        self._interrupts = interrupts
        self._block: object | None = None  # the one that runs
        self._began = 0.0
        self._changed = threading.Condition()  # it runs no more, or is to be stopped
        self._watcher = threading.Thread(target=self._watch, name="deadline", daemon=True)
        self._is_closed = False
        self.expired = False
        self.stopped = False  # by a signal

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._watcher.join()

    @property
    def is_over(self) -> bool:
        """Return whether the query was stopped, whoever wanted it."""
        return self.expired or self.stopped

    @contextmanager
    def running(self) -> Iterator[None]:
        """Stop what the connection does inside the block when the time is over, or the process is to end.

        `expired` and `stopped` tell whether it was.
        """
        with self._changed:
            self._block, self._began = object(), time.monotonic()
            if self._left <= 0:
                self._changed.notify()
        try:
            with interrupting(self._stop):
                yield
        finally:
            with self._changed:  # an interrupt that came late must not meet a connection that was given back
                self._block = None
                self._left -= time.monotonic() - self._began
                if self.is_over:
                    self._changed.notify()

    def _stop(self) -> None:
        self.stopped = True
        with self._changed:
            self._changed.notify()

    def _remaining(self) -> float:
        return self._left if self._block is None else self._left - (time.monotonic() - self._began)

    def _watch(self) -> None:
        """Stop the block that runs when the time is over; it is not woken for each one, and looks again by itself."""
        with self._changed:
            while not self._is_closed:
                if self._block is None or not (self.stopped or self._remaining() <= 0):
                    self._changed.wait(min(max(self._remaining(), SHORTEST_LOOK), threading.TIMEOUT_MAX))
                    continue
                self.expired = not self.stopped
                self._interrupt(self._block)

    def _interrupt(self, block: object) -> None:
        """Try one way to stop a block after the other, until it has ended; the last one again and again.

        An interrupt that comes just before the query begins has no effect.
        """
        for interrupt in chain(self._interrupts, repeat(self._interrupts[-1])):
            interrupt()
            self._changed.wait_for(lambda: self._block is not block or self._is_closed, GRACE)
            if self._block is not block or self._is_closed:
                return
