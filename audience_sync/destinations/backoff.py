"""Backoff: how long to wait after failed tries."""

from __future__ import annotations

from datetime import timedelta

FIRST_DELAY = timedelta(seconds=1)
LONGEST_ASKED = timedelta(days=1)  # a longer Retry-After is taken for a mistake of the server


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
