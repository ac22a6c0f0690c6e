"""What `reading` asks of a database, and the clock that stops a query.

A session is one read-only connection on which one statement is run. Its methods raise the driver's own exceptions;
`reading` turns them into sentences.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple, Protocol, TypeAlias

from audience_sync.core.parameters import Statement
from audience_sync.signals import interrupting

PAGE = 20_000  # rows fetched at a time
CONNECT_TIMEOUT = timedelta(seconds=30)
GRACE = 5.0  # seconds a stopped query gets to end by itself before the next, ruder means

Page: TypeAlias = list[tuple[Any, ...]]


class Column(NamedTuple):
    """A column of a query: its name, and its type as the database names it, in lower case; "" where it does not say."""

    name: str
    type: str


class Session(Protocol):
    """An open connection to one kind of database."""

    errors: tuple[type[Exception], ...]  # what its driver raises

    def bind(self, sql: str, as_of: datetime) -> Statement:
        """Make a statement of a person's SQL: `:now` is `as_of`, as this database writes instants best."""

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query and return the names of its columns; none: it was not a query."""

    def fetch(self) -> Page:
        """Return the next rows, at most `PAGE`; none: that was all."""

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Return the columns of a query with as little reading as the database allows."""

    def interrupts(self) -> Sequence[Callable[[], None]]:
        """Return the ways to stop, from another thread, what the connection is doing: the politest first."""

    def is_lost(self, error: Exception) -> bool:
        """Tell whether an error means that the connection is gone."""

    def remedy(self, error: Exception) -> str | None:
        """Return what a person can do about an error, where that is known: the database's own hint, too."""

    def position(self, error: Exception) -> int | None:
        """Return the offset in a person's SQL that an error is about, where the database says it."""

    def close(self) -> None:
        """Give everything back; never raises."""


class Deadline:
    """The time a query may spend in the database; what its reader does with the rows does not count."""

    def __init__(self, limit: timedelta, interrupts: Sequence[Callable[[], None]]) -> None:
        self._left = limit.total_seconds()
        self._interrupts = interrupts
        self.expired = False
        self.stopped = False  # by a signal

    @property
    def is_over(self) -> bool:
        """Return whether the query was stopped, whoever wanted it."""
        return self.expired or self.stopped

    @contextmanager
    def running(self) -> Iterator[None]:
        """Stop what the connection does inside the block when the time is over, or the process is to end.

        `expired` and `stopped` tell whether it was.
        """
        ended, woken = threading.Event(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(woken, ended), name="deadline", daemon=True)
        began = time.monotonic()
        watcher.start()
        try:
            with interrupting(partial(self._stop, woken)):
                yield
        finally:
            ended.set()
            woken.set()
            watcher.join()  # an interrupt that came late must not meet a connection that was given back
            self._left -= time.monotonic() - began

    def _stop(self, woken: threading.Event) -> None:
        self.stopped = True
        woken.set()

    def _watch(self, woken: threading.Event, ended: threading.Event) -> None:
        """Try one way to stop the query after the other, until it has ended; the last one again and again.

        An interrupt that comes just before the query begins has no effect.
        """
        in_time = woken.wait(max(self._left, 0))
        if ended.is_set():
            return
        self.expired = not in_time
        for interrupt in chain(self._interrupts, repeat(self._interrupts[-1])):
            interrupt()
            if ended.wait(GRACE):
                return
