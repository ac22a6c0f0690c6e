"""What an answer of Schematic means: the table of outcomes, line by line, and the arithmetic of waiting.

Retryability follows Segment's rule (408, 423, 429 and 5xx but 501 are tried again); everything that is not a clear
refusal of these very events by Schematic itself keeps them.
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
LONGEST_ASKED = timedelta(days=1)  # a server's Retry-After beyond this is taken for a mistake
MOST_SHOWN = 200  # characters of what a server says
RETRYABLE = frozenset({408, 423, 425, 429})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
WRONG_DESTINATION = frozenset({404, 405, 501})


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP; status 0 and a sentence in `text` when no whole answer came."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    text: str
    lasting: bool = False  # without a status: who answers cannot be talked to, and no later try will change that


@dataclass(frozen=True)
class Accepted:
    """Schematic took the events."""

    status: int


@dataclass(frozen=True)
class Later:
    """Nobody knows, or not now: the same events go again."""

    reason: str
    status: int
    retry_after: timedelta | None


@dataclass(frozen=True)
class RefusedKey:
    """The API key is not accepted: stop everything, keep everything."""

    reason: str


@dataclass(frozen=True)
class WrongDestination:
    """What answers is not Schematic: stop everything, keep everything."""

    reason: str


@dataclass(frozen=True)
class TooLarge:
    """The batch must be smaller: of at most `max_size` events, or half of what it was."""

    max_size: int | None


@dataclass(frozen=True)
class Rejected:
    """Schematic refuses something in these events."""

    reason: str


Outcome: TypeAlias = Accepted | Later | RefusedKey | WrongDestination | TooLarge | Rejected


def classify(answer: Answer, *, now: datetime) -> Outcome:  # noqa: PLR0911 - one return for each line of the table
    """Return what an answer to ``POST /batch`` means."""
    status = answer.status
    if 200 <= status < 300:
        return Accepted(status)
    reason = describe(answer)
    if answer.lasting:
        return WrongDestination(reason)
    if is_retryable(status):
        now = _date(answer.headers.get("date")) or now  # by the clock of the server, which may differ from ours
        return Later(reason, status, retry_after(answer.headers.get("retry-after"), now=now))
    if status in (401, 403):
        return RefusedKey(reason)
    if 300 <= status < 400 or status in WRONG_DESTINATION:
        return WrongDestination(reason)
    if status == 413 or "batch too large" in answer.text:
        return TooLarge(_max_size(answer.text))
    if is_html(answer):
        return WrongDestination(reason)
    return Rejected(reason)


def is_retryable(status: int) -> bool:
    """Return whether the same request may go better later; without an answer (0) nobody knows."""
    return status in RETRYABLE or status < 200 or (status >= 500 and status != 501)


def describe(answer: Answer) -> str:
    """Return an answer in one short line: its status, where it leads, and the start of what it says."""
    if answer.status == 0:
        return answer.text
    where = f" to {location[:MOST_SHOWN]}" if (location := answer.headers.get("location")) else ""
    said = "an HTML page" if is_html(answer) else " ".join((_error(answer.text) or answer.text).split())[:MOST_SHOWN]
    # A refusal may repeat what it refuses: control characters are for no terminal, and NUL fits into no Postgres.
    return _CONTROL.sub("�", f"HTTP {answer.status}{where}" + (f": {said}" if said else ""))


def retry_after(text: str | None, *, now: datetime) -> timedelta | None:
    """Return the wait that a ``Retry-After`` header asks for, in seconds or as a date (RFC 9110), or None."""
    if text is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", text):
        return timedelta(seconds=float(text))
    moment = _date(text)
    return None if moment is None else max(timedelta(0), moment - now)


def _date(text: str | None) -> datetime | None:
    """Return the instant that a header names, or None if it names none."""
    try:
        moment: datetime = parsedate_to_datetime(text or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def backoff(tries: int, *, jitter: float, longest: timedelta, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after the given number of failed tries: 1 s, 2 s, 4 s … up to `longest`.

    `jitter` in [0, 1) takes away up to half, so that many do not come back together. What the server `asked` for is
    waited in any case.
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


def is_html(answer: Answer) -> bool:
    """Return whether an answer is a page for people."""
    return "html" in answer.headers.get("content-type", "") or answer.text.lstrip()[:1] == "<"


def is_schematic_error(answer: Answer) -> bool:
    """Return whether a refusal has the shape of Schematic's: a JSON object with the text `error`."""
    return _error(answer.text) is not None


def _max_size(text: str) -> int | None:
    try:
        size = orjson.loads(text)["max_size"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return size if type(size) is int and size > 0 else None  # true is an int, too


def _error(text: str) -> str | None:
    try:
        error = orjson.loads(text)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return error if isinstance(error, str) else None
