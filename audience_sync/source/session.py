"""What `reading` asks of a database, and the clock that stops a query.

A session is one read-only connection on which one query is run. Its methods raise the driver's own exceptions;
`reading` turns them into sentences.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

from audience_sync.core.parameters import Lexis

PAGE = 20_000  # rows fetched at a time
CONNECT_TIMEOUT = timedelta(seconds=30)
GRACE = 5.0  # seconds a stopped query gets to end by itself before the next, ruder means

Page: TypeAlias = list[tuple[Any, ...]]


class Session(Protocol):
    """An open connection to one kind of database."""

    lexis: Lexis
    placeholder: str  # what stands for `:now` in this driver's SQL
    double_percent: bool  # the driver reads % in SQL that has parameters
    errors: tuple[type[Exception], ...]  # what its driver raises

    def execute(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Start a query with `count` placeholders and return the names of its columns; none: it was not a query."""

    def fetch(self) -> Page:
        """Return the next rows, at most `PAGE`; none: that was all."""

    def describe(self, sql: str, count: int, as_of: datetime) -> tuple[str, ...]:
        """Return the names of a query's columns with as little reading as the database allows."""

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the ways to stop, from another thread, what the connection is doing: the politest first."""

    def is_lost(self, error: Exception) -> bool:
        """Tell whether an error means that the connection is gone."""

    def close(self) -> None:
        """Give everything back; never raises."""


class Deadline:
    """The time a query may spend in the database; what its reader does with the rows does not count."""

    def __init__(self, limit: timedelta, interrupts: Sequence[Callable[[], None]]) -> None:
        self._left = limit.total_seconds()
        self._interrupts = interrupts
        self.expired = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Stop what the connection does inside the block when the time is over; `expired` tells whether it was."""
        ended = threading.Event()
        timer = threading.Timer(max(self._left, 0), self._expire, [ended])
        timer.daemon = True
        began = time.monotonic()
        timer.start()
        try:
            yield
        finally:
            ended.set()
            timer.cancel()
            timer.join()  # an interrupt that came late must not meet a connection that was given back
            self._left -= time.monotonic() - began

    def _expire(self, ended: threading.Event) -> None:
        """Try one way to stop the query after the other, until it has ended."""
        if ended.is_set():
            return
        self.expired = True
        for interrupt in self._interrupts:
            interrupt()
            if ended.wait(GRACE):
                return
