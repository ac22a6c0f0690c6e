"""Instants of the reference: which texts are one, and how far a duration reaches, by the calendar of a time zone."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from tests.reference.language import Duration

_MOMENT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))?)?"
)
_LENGTHS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(hours=24),
    "week": timedelta(days=7),
}


def read(value: object, zone: tzinfo = UTC) -> datetime | None:
    """Return the moment a value is, or None; one without a zone is of `zone`."""
    if isinstance(value, datetime):
        return value
    match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zulu, sign, hours, minutes = match.groups(default="")
    try:
        local = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int(fraction.ljust(6, "0") or 0), tzinfo=UTC if zulu or sign else zone,
        )  # fmt: skip
    except ValueError:
        return None
    if sign and (int(hours) > 23 or int(minutes) > 59):
        return None
    ahead = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta(0)
    return (local - ahead if sign == "+" else local + ahead).astimezone(UTC)


def length(duration: Duration) -> timedelta:
    """Return the length of a duration; a month has none."""
    return duration.amount * _LENGTHS[duration.unit]


def back(instant: datetime, duration: Duration, zone: ZoneInfo) -> datetime:
    """Return the instant a duration before."""
    return _moved(instant, duration, zone, -1)


def on(instant: datetime, duration: Duration, zone: ZoneInfo) -> datetime:
    """Return the instant a duration after."""
    return _moved(instant, duration, zone, 1)


def _moved(instant: datetime, duration: Duration, zone: ZoneInfo, way: int) -> datetime:
    if duration.unit != "month":
        return instant + way * length(duration)
    local = instant.astimezone(zone)
    months = local.year * 12 + local.month - 1 + way * duration.amount
    year, month = months // 12, months % 12 + 1
    day = min(local.day, calendar.monthrange(year, month)[1])
    return local.replace(year=year, month=month, day=day).astimezone(UTC)


def start_of(period: str, instant: datetime, zone: ZoneInfo) -> datetime:
    """Return the beginning of the day, week (Monday), month, quarter or year that contains an instant."""
    midnight = instant.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case "week":
            midnight -= timedelta(days=midnight.weekday())  # of the calendar: the zone is the same
        case "month":
            midnight = midnight.replace(day=1)
        case "quarter":
            midnight = midnight.replace(month=(midnight.month - 1) // 3 * 3 + 1, day=1)
        case "year":
            midnight = midnight.replace(month=1, day=1)
        case _:
            assert period == "day"
    return midnight.astimezone(UTC)
