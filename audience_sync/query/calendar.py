"""From the windows of a query to instants: how long ago, since when, and what a moment without a zone means."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from audience_sync.query.syntax_tree import Duration, Period, TimeUnit

_FIXED = {
    TimeUnit.SECOND: timedelta(seconds=1),
    TimeUnit.MINUTE: timedelta(minutes=1),
    TimeUnit.HOUR: timedelta(hours=1),
    TimeUnit.DAY: timedelta(days=1),
    TimeUnit.WEEK: timedelta(weeks=1),
}
_BEGINNING = datetime(1, 1, 3, tzinfo=UTC)  # two days after the first: it exists in every time zone
_END = datetime(9999, 12, 29, tzinfo=UTC)


def length_of(duration: Duration) -> timedelta:
    """Return the length of a duration that is not counted in months.

    Raises:
        KeyError: months have no fixed length.
    """
    return duration.amount * _FIXED[duration.unit]


def shifted(instant: datetime, duration: Duration, zone: tzinfo, *, sign: int) -> datetime:
    """Return the instant a duration later (`sign` 1) or earlier (-1), in UTC; months are those of the zone's calendar.

    What lies beyond the calendar is its first or last days: a window of a million years is all of history.
    """
    if duration.unit is TimeUnit.MONTH:
        return _month_shifted(instant.astimezone(zone), sign * duration.amount).astimezone(UTC)
    try:
        return min(max(instant.astimezone(UTC) + sign * length_of(duration), _BEGINNING), _END)
    except OverflowError:
        return _BEGINNING if sign < 0 else _END


def start_of(period: Period, instant: datetime, zone: tzinfo) -> datetime:
    """Return when the day, week (from Monday), month, quarter or year began that has `instant` in it, in UTC."""
    day = instant.astimezone(zone).date()
    match period:
        case Period.DAY:
            first = day
        case Period.WEEK:
            first = day - timedelta(days=day.weekday())
        case Period.MONTH:
            first = day.replace(day=1)
        case Period.QUARTER:
            first = day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
        case Period.YEAR:
            first = day.replace(month=1, day=1)
    return moment(first, zone)


def moment(written: date | datetime, zone: tzinfo) -> datetime:
    """Return the instant of a date or timestamp, in UTC: a date is its midnight, and what has no zone is in `zone`."""
    if not isinstance(written, datetime):
        written = datetime.combine(written, time())
    return written.replace(tzinfo=zone).astimezone(UTC) if written.tzinfo is None else written.astimezone(UTC)


def _month_shifted(local: datetime, months: int) -> datetime:
    """Return the same time of the same day some months later; a day that the month does not have is its last."""
    number = local.year * 12 + local.month - 1 + months
    if not _BEGINNING.year * 12 < number < _END.year * 12:
        return _BEGINNING if months < 0 else _END
    year, month = number // 12, number % 12 + 1
    day = min(local.day, calendar.monthrange(year, month)[1])
    return local.replace(year=year, month=month, day=day)
