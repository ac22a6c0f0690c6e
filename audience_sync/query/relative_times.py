"""Times as people write them in options: `yesterday`, `2 days ago`, `today 10:00`, `2026-11-01 10:00`, ISO 8601.

A time is read without a clock and becomes an instant with `at`. The calendar is that of one time zone, as in queries:
a day of `2 days ago` is 24 hours, a month or year follows the calendar, and a month without that day ends with its last
day. A time of day that a change of the clocks skips is as much later; one that comes twice is the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final, TypeAlias

from audience_sync.core.text import did_you_mean, shown
from audience_sync.query.calendar import moment, shifted, start_of
from audience_sync.query.literals import duration_of, unit_of
from audience_sync.query.syntax_tree import Duration, Period, TimeUnit

EXAMPLES: Final = "`yesterday`, `2 days ago`, `2026-11-01` or `2026-11-01 10:00`"

_DAYS: Final = {"today": 0, "yesterday": -1, "tomorrow": 1}
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_PERIODS: Final = {period.value: period for period in Period if period is not Period.DAY}
_ABBREVIATED: Final = {
    "s": TimeUnit.SECOND, "m": TimeUnit.MINUTE, "h": TimeUnit.HOUR, "d": TimeUnit.DAY, "w": TimeUnit.WEEK,
}  # fmt: skip
_MONTHS_OF_YEAR: Final = 12
_AGO: Final = re.compile(r"(?:(?P<number>\d{1,9}) ?|an? )(?P<unit>[a-z]+) ago", re.ASCII)
_DAY: Final = re.compile(rf"(?P<day>{'|'.join((*_DAYS, *_WEEKDAYS))})(?:,? (?:at )?(?P<time>\d\d?:\d\d(?::\d\d)?))?")
_PERIOD: Final = re.compile(rf"(?P<which>this|last) (?P<period>{'|'.join(_PERIODS)})")
_UNITS: Final = tuple(f"{unit}s" for unit in (*TimeUnit, "year"))
_WORDS: Final = ("now", *_DAYS, *_WEEKDAYS, "at", *_UNITS, "ago", "this", "last", *_PERIODS)


_Resolver: TypeAlias = Callable[[datetime, tzinfo], datetime]


@dataclass(frozen=True)
class WrittenTime:
    """A time as it is written; `at` returns the instant it means."""

    text: str
    _resolve: _Resolver = field(repr=False, compare=False)

    def at(self, now: datetime, zone: tzinfo) -> datetime:
        """Return the instant that this time means at an instant `now`, in UTC.

        What has no time zone of its own is in `zone`.
        """
        return self._resolve(now.astimezone(UTC), zone)


def read_time(text: str) -> WrittenTime:
    """Return the time that a text says.

    Raises:
        ValueError: it is not a time; the sentence has examples.
    """
    words = " ".join(text.lower().split())
    found = _now(words) or _ago(words) or _day(words) or _period(words) or _written(text.strip())
    if found is None:
        raise ValueError(f"{shown(text)} is not a time, such as {EXAMPLES}{_advice(words)}")
    return WrittenTime(text, found)


def _now(words: str) -> _Resolver | None:
    return (lambda now, _zone: now) if words == "now" else None


def _ago(words: str) -> _Resolver | None:
    found = _AGO.fullmatch(words)
    if found is None:
        return None
    number, word = found["number"] or "1", found["unit"]
    if word in ("year", "years"):
        number, unit = str(int(number) * _MONTHS_OF_YEAR), TimeUnit.MONTH
    elif (known := unit_of(word) or _ABBREVIATED.get(word)) is not None:
        unit = known
    else:
        return None
    duration: Duration = duration_of(number, unit)
    return lambda now, zone: shifted(now, duration, zone, sign=-1)


def _day(words: str) -> _Resolver | None:
    found = _DAY.fullmatch(words)
    if found is None:
        return None
    day, written = found["day"], found["time"] or "00:00"
    try:
        time_of_day = time.fromisoformat(written if written[2] == ":" else f"0{written}")
    except ValueError:
        return None

    def resolve(now: datetime, zone: tzinfo) -> datetime:
        today = now.astimezone(zone).date()
        back = -_DAYS[day] if day in _DAYS else (today.weekday() - _WEEKDAYS.index(day)) % len(_WEEKDAYS)
        return moment(datetime.combine(today - timedelta(days=back), time_of_day), zone)

    return resolve


def _period(words: str) -> _Resolver | None:
    found = _PERIOD.fullmatch(words)
    if found is None:
        return None
    period = _PERIODS[found["period"]]

    def resolve(now: datetime, zone: tzinfo) -> datetime:
        first = start_of(period, now, zone)
        return first if found["which"] == "this" else start_of(period, first - timedelta(hours=1), zone)

    return resolve


def _written(text: str) -> _Resolver | None:
    """Read ISO 8601, with a space or a `T` before the time of day."""
    try:
        written = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not 1 < written.year < 9999:  # beyond, some time zone has no such moment
        return None
    return lambda _now, zone: moment(written, zone)


def _advice(words: str) -> str:
    """Return which word may be misspelled."""
    for word in re.findall(r"[a-z]+", words):
        if word not in _WORDS and (advice := did_you_mean(word, _WORDS)):
            return f"; {advice}"
    return ""
