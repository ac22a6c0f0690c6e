"""Outcomes of sending a batch, the table that makes them of HTTP answers, and how long to wait for another try.

Only a clear refusal of these very events by the destination itself counts against them. Every other failure keeps
them for another try.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeAlias

import orjson

FIRST_DELAY = timedelta(seconds=1)
LONGEST_ASKED = timedelta(days=1)  # a longer Retry-After is cut to this
MOST_SHOWN = 200  # characters of the text of an answer
RETRYABLE = frozenset({408, 423, 425, 429})
WRONG_DESTINATION = frozenset({404, 405, 501})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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


def backoff(tries: int, *, jitter: float, longest: timedelta, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after the given number of failed tries: 1 s, 2 s, 4 s … up to `longest`.

    `jitter` in [0, 1) takes away up to half, so that many do not come back together. The wait is never shorter than
    the server `asked` for.
    """
    doubled: timedelta = FIRST_DELAY * 2 ** min(tries - 1, 30)
    wait = min(doubled, longest) * (1 - jitter / 2)
    return max(wait, min(asked or timedelta(0), LONGEST_ASKED))


def tries_until_stuck(longest: timedelta) -> int:
    """Return after how many failed tries the wait for the next one is the longest there is."""
    tries = 1
    while backoff(tries, jitter=0, longest=longest) < longest:
        tries += 1
    return tries


@dataclass(frozen=True)
class HttpAnswer:
    """The answer to an HTTP request; status 0 and a sentence in `text` when it is missing or incomplete."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    text: str
    lasting: bool = False  # with status 0: the server cannot be trusted or talked to, and no later try changes that


def classify(  # noqa: PLR0911 - one return for each line of the table
    answer: HttpAnswer, *, now: datetime, too_large: BatchTooLarge | None = None
) -> Outcome:
    """Return the outcome of a batch.

    `too_large` is the outcome of a refusal that a destination recognises as one of the size, in its own way.
    """
    status = answer.status
    if 200 <= status < 300:
        return BatchAccepted(status)
    reason = describe(answer)
    if answer.lasting:
        return WrongDestination(reason)
    if is_retryable(status):
        now = http_date(answer.headers.get("date")) or now  # by the clock of the server, which may differ from ours
        return RetryLater(reason, status, retry_after(answer.headers.get("retry-after"), now=now))
    if status in (401, 403):
        return RefusedKey(reason)
    if 300 <= status < 400 or status in WRONG_DESTINATION:
        return WrongDestination(reason)
    if status == 413 or too_large is not None:
        return too_large or BatchTooLarge(None)
    if is_html(answer):
        return WrongDestination(reason)
    return BatchRejected(reason)


def is_retryable(status: int) -> bool:
    """Return whether the same request may go better later; without an answer (0) nobody knows."""
    return status in RETRYABLE or status < 200 or (status >= 500 and status != 501)


def describe(answer: HttpAnswer) -> str:
    """Return an answer in one short line: its status, where it leads, and the start of what it says."""
    if answer.status == 0:
        return answer.text
    where = f" to {location[:MOST_SHOWN]}" if (location := answer.headers.get("location")) else ""
    said = (
        "an HTML page" if is_html(answer) else " ".join((error_text(answer.text) or answer.text).split())[:MOST_SHOWN]
    )
    # A refusal may repeat what it refuses. Terminals must not get control characters, and PostgreSQL refuses NUL.
    return _CONTROL.sub("�", f"HTTP {answer.status}{where}" + (f": {said}" if said else ""))


def retry_after(text: str | None, *, now: datetime) -> timedelta | None:
    """Return the wait that a ``Retry-After`` header asks for, in seconds or as a date (RFC 9110), or None."""
    if text is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", text):
        return timedelta(seconds=float(text))
    moment = http_date(text)
    return None if moment is None else max(timedelta(0), moment - now)


def http_date(text: str | None) -> datetime | None:
    """Return the instant that a header names, or None if it names none."""
    try:
        moment: datetime = parsedate_to_datetime(text or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def is_html(answer: HttpAnswer) -> bool:
    """Return whether an answer is a page for people."""
    return "html" in answer.headers.get("content-type", "") or answer.text.lstrip()[:1] == "<"


def error_text(text: str) -> str | None:
    """Return the text `error` of a JSON object; None for any other text."""
    try:
        error = orjson.loads(text)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return error if isinstance(error, str) else None
