"""Times in options: what each of them means at an instant, around changes of the clocks and ends of months."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from audience_sync.query.relative_times import read_time

NOW = datetime(2026, 11, 30, 15, 20, 30, tzinfo=UTC)  # a Monday; 16:20:30 in Berlin


def instant(text: str, *, now: datetime = NOW, zone: str = "Europe/Berlin") -> str:
    """Return the instant that a text means, in UTC."""
    found = read_time(text).at(now, ZoneInfo(zone))
    assert found.tzinfo is UTC
    return found.isoformat(" ").removesuffix("+00:00")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-30 15:20:30"),
        ("today", "2026-11-29 23:00:00"),
        ("yesterday", "2026-11-28 23:00:00"),
        ("tomorrow", "2026-11-30 23:00:00"),
        ("Yesterday", "2026-11-28 23:00:00"),
        ("today 10:00", "2026-11-30 09:00:00"),
        ("yesterday at 9:30:15", "2026-11-29 08:30:15"),
        ("monday", "2026-11-29 23:00:00"),
        ("tuesday", "2026-11-23 23:00:00"),
        ("sunday 12:00", "2026-11-29 11:00:00"),
        ("this week", "2026-11-29 23:00:00"),
        ("last week", "2026-11-22 23:00:00"),
        ("this month", "2026-10-31 23:00:00"),
        ("last month", "2026-09-30 22:00:00"),
        ("last quarter", "2026-06-30 22:00:00"),
        ("this year", "2025-12-31 23:00:00"),
        ("30 seconds ago", "2026-11-30 15:20:00"),
        ("an hour ago", "2026-11-30 14:20:30"),
        ("90m ago", "2026-11-30 13:50:30"),
        ("2 days ago", "2026-11-28 15:20:30"),
        ("  2   Days  ago ", "2026-11-28 15:20:30"),
        ("1 week ago", "2026-11-23 15:20:30"),
        ("2 months ago", "2026-09-30 14:20:30"),
        ("a year ago", "2025-11-30 15:20:30"),
        ("2026-11-01", "2026-10-31 23:00:00"),
        ("2026-11-01 10:00", "2026-11-01 09:00:00"),
        ("2026-07-01T10:00", "2026-07-01 08:00:00"),
        ("2026-11-01T10:00Z", "2026-11-01 10:00:00"),
        ("2026-11-29 14:05:09Z", "2026-11-29 14:05:09"),
        ("2026-11-01T10:00:00.250-05:00", "2026-11-01 15:00:00.250000"),
    ],
)
def test_a_time_is_in_the_time_zone_of_the_configuration(text: str, expected: str) -> None:
    """Calendar words, dates and times without an offset are in the zone; a time with an offset is not."""
    assert instant(text) == expected


def test_a_day_that_begins_in_another_zone() -> None:
    """`today` is the day of the zone, which may be tomorrow or yesterday in UTC."""
    late = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)

    assert instant("today", now=late) == "2026-11-30 23:00:00"
    assert instant("today", now=late, zone="UTC") == "2026-11-30 00:00:00"
    assert instant("today", now=late, zone="America/New_York") == "2026-11-30 05:00:00"


@pytest.mark.parametrize(
    ("text", "now", "zone", "expected"),
    [
        # The last days of March and October 2026 in Berlin have 23 and 25 hours.
        ("yesterday", "2026-03-30 10:00", "Europe/Berlin", "2026-03-28 23:00:00"),
        ("today", "2026-03-29 10:00", "Europe/Berlin", "2026-03-28 23:00:00"),
        ("today 12:00", "2026-03-29 10:00", "Europe/Berlin", "2026-03-29 10:00:00"),
        ("1 day ago", "2026-03-29 10:00", "Europe/Berlin", "2026-03-28 10:00:00"),
        ("1 month ago", "2026-04-15 10:00", "Europe/Berlin", "2026-03-15 11:00:00"),
        # Skipped times are as much later, repeated ones the first.
        ("2026-03-29 02:30", "2026-04-01 00:00", "Europe/Berlin", "2026-03-29 01:30:00"),
        ("2026-10-25 02:30", "2026-11-01 00:00", "Europe/Berlin", "2026-10-25 00:30:00"),
        # Midnight did not exist in Cairo on 24 April 2026: the day began at 01:00.
        ("today", "2026-04-24 12:00", "Africa/Cairo", "2026-04-23 22:00:00"),
        # A month without the day ends with its last day.
        ("1 month ago", "2026-03-31 12:00", "UTC", "2026-02-28 12:00:00"),
        ("1 month ago", "2028-03-30 12:00", "UTC", "2028-02-29 12:00:00"),
        ("1 year ago", "2028-02-29 12:00", "UTC", "2027-02-28 12:00:00"),
        ("yesterday", "2028-03-01 12:00", "UTC", "2028-02-29 00:00:00"),
        ("last month", "2026-01-31 12:00", "UTC", "2025-12-01 00:00:00"),
    ],
)
def test_changes_of_the_clocks_and_ends_of_months(text: str, now: str, zone: str, expected: str) -> None:
    """Days begin when the zone says, durations in days have 24 hours, and months have the days they have."""
    assert instant(text, now=datetime.fromisoformat(now).replace(tzinfo=UTC), zone=zone) == expected


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("yestreday", "; did you mean `yesterday`?"),
        ("2 dayz ago", "; did you mean `days`?"),
        ("2 days", ""),
        ("", ""),
        ("2026-02-30", ""),
        ("2026-13-01", ""),
        ("0001-01-01", ""),
        ("today 25:00", ""),
        ("1.5 days ago", ""),
        ("-1 days ago", ""),
        ("2026-11-01 10:00\x1b[31m", ""),
    ],
)
def test_what_is_not_a_time_is_refused(text: str, advice: str) -> None:
    """One sentence says so, with examples and, for a misspelled word, the word."""
    with pytest.raises(ValueError, match="is not a time, such as `yesterday`, `2 days ago`") as caught:
        read_time(text)

    assert str(caught.value).endswith(f"`2026-11-01 10:00`{advice}")
    assert str(caught.value).isprintable()


def test_a_time_before_the_calendar_is_refused() -> None:
    """A duration is at most 1,000 years, as in queries."""
    with pytest.raises(ValueError, match="at most 1,000 years"):
        read_time("1100 years ago")

    assert instant("1000 years ago", zone="UTC") == "1026-11-30 15:20:30"
