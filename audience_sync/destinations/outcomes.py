"""Outcomes of sending a batch: one class for each line of the outcome table.

Only a clear refusal of these very events by the destination itself counts against them. Every other failure keeps
them for another try.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias


@dataclass(frozen=True)
class BatchAccepted:
    """The destination took the events and processes them later."""

    status: int


@dataclass(frozen=True)
class BatchApplied:
    """The destination took the events and has processed them."""

    status: int


@dataclass(frozen=True)
class RetryLater:
    """Unknown, or not now: the same events are sent again."""

    reason: str
    status: int  # 0 without an answer
    retry_after: timedelta | None


@dataclass(frozen=True)
class RefusedKey:
    """The destination does not accept the API key: stop everything, keep everything."""

    reason: str


@dataclass(frozen=True)
class WrongDestination:
    """The address does not lead to the destination: stop everything, keep everything."""

    reason: str


@dataclass(frozen=True)
class BatchTooLarge:
    """The batch must be smaller: at most `max_size` events, or half of what it was if that is None."""

    max_size: int | None


@dataclass(frozen=True)
class BatchRejected:
    """The destination refuses something in these events."""

    reason: str


Outcome: TypeAlias = (
    BatchAccepted | BatchApplied | RetryLater | RefusedKey | WrongDestination | BatchTooLarge | BatchRejected
)
