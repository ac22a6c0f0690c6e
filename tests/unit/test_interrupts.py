"""How a query is stopped."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from audience_sync.engines import deadline as clock
from audience_sync.engines.deadline import Deadline

SOON = 15.0  # seconds


def test_an_interrupt_that_comes_too_early_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database forgets an interrupt that comes just before the query begins: the query must not hang."""
    monkeypatch.setattr(clock, "GRACE", 0.01)
    third, calls = threading.Event(), list[None]()

    def interrupt() -> None:
        calls.append(None)
        if len(calls) == 3:
            third.set()

    with Deadline(timedelta(0), [interrupt]) as deadline, deadline.running():
        assert third.wait(SOON)

    assert deadline.expired
