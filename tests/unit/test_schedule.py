"""When an audience is due: `every` and `cron` against an enumeration of every minute of a zone's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest

from audience_sync.config import Schedule
from audience_sync.daemon.schedule import next_due, next_time

MINUTE = timedelta(minutes=1)
AROUND = timedelta(hours=26)  # what is enumerated before and after a transition
CRONS = (
    "0 0 * * *",
    "30 0 * * *",
    "30 2 * * *",
    "15,45 1-3 * * *",
    "0 0 * * sat-sun",
    "0 0 1,last * *",
    "0 6 * * mon-fri",
    "0 */2 * * *",
    "30 */3 * * *",
    "20 * * * *",
    "*/20 2 * * *",
    "*/30 * * * *",
)
FIRST, LAST = datetime(2026, 11, 1, tzinfo=UTC), datetime(2037, 1, 1, tzinfo=UTC)
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Transition(NamedTuple):
    """A change of a zone's offset: the first instant with the new one."""

    at: datetime
    before: timedelta
    after: timedelta


# The reference: a clock that is looked at every minute.


def numbers(field: str, low: int, high: int) -> set[int]:
    """Return the numbers that a field of a crontab names."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (str(low), "-", str(high)) if span == "*" else span.partition("-")
        found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


@lru_cache
def fields(cron: str) -> tuple[set[int], ...]:
    """Return the numbers of each field; the last day of a month is 0, and the week begins on Monday with 0."""
    minute, hour, day, month, weekday = cron.split()
    for number, name in enumerate(WEEKDAYS):
        weekday = weekday.replace(name, str(number))
    ranges = ((minute, 0, 59), (hour, 0, 23), (day.replace("last", "0"), 1, 31), (month, 1, 12), (weekday, 0, 6))
    return tuple(numbers(*one) for one in ranges)


def names(cron: str, wall: datetime) -> bool:
    """Return whether a crontab names a wall-clock minute."""
    minute, hour, day, month, weekday = fields(cron)
    if wall.minute not in minute or wall.hour not in hour:
        return False
    is_last = (wall + timedelta(days=1)).month != wall.month
    return (wall.day in day or (is_last and 0 in day)) and wall.month in month and wall.weekday() in weekday


def walls(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return every minute from `start` to `end`, with what a clock on the wall shows then."""
    minutes = range(int((end - start) / MINUTE))
    return [(at, at.astimezone(zone).replace(tzinfo=None)) for at in (start + n * MINUTE for n in minutes)]


def enumerated(cron: str, clock: list[tuple[datetime, datetime]]) -> Iterator[datetime]:
    """Yield each minute at which a crontab runs: what the clock skips runs after the gap, and nothing is left out.

    What it shows twice runs twice if the minute or the hour begins with `*`.
    """
    minute, hour, *_ = cron.split()
    counts_time = minute.startswith("*") or hour.startswith("*")
    shown_until = clock[0][1] - MINUTE
    for at, wall in clock:
        missing = range(1, int((wall - shown_until) / MINUTE))
        is_repeated = wall <= shown_until
        if (names(cron, wall) and (counts_time or not is_repeated)) or any(
            names(cron, shown_until + n * MINUTE) for n in missing
        ):
            yield at
        shown_until = max(shown_until, wall)


def computed(cron: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Return what the product says: each time, asked for after the one before."""
    found = []
    at = start - MINUTE
    while (at := next_time(cron, zone, after=at)) < end:
        found.append(at)
    return found


def transitions(zone: ZoneInfo, first: datetime, last: datetime) -> list[Transition]:
    """Return the changes of a zone's offset, of those that last for a day at least."""
    days = [first + timedelta(days=n) for n in range((last - first).days)]
    offsets = [day.astimezone(zone).utcoffset() or timedelta() for day in days]
    found = []
    for (day, before), (_, after) in pairwise(zip(days, offsets, strict=True)):
        if before != after:
            minutes = (day + n * MINUTE for n in range(24 * 60 + 1))
            found.append(Transition(next(m for m in minutes if m.astimezone(zone).utcoffset() == after), before, after))
    return found


def assert_agreed(zone: ZoneInfo, transition: datetime) -> None:
    """Assert that every crontab runs around a transition as the enumeration says."""
    start, end = transition - AROUND, transition + AROUND
    clock = walls(zone, start, end)
    for cron in CRONS:
        assert computed(cron, zone, start, end) == list(enumerated(cron, clock)), f"{cron} {zone.key} {transition}"


@pytest.mark.parametrize(
    ("name", "transition"),
    [
        ("America/New_York", datetime(2027, 3, 14, 7, tzinfo=UTC)),
        ("America/New_York", datetime(2027, 11, 7, 6, tzinfo=UTC)),
        ("America/Chicago", datetime(2027, 3, 14, 8, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2027, 3, 28, 1, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2027, 10, 31, 1, tzinfo=UTC)),
        ("Africa/Cairo", datetime(2027, 4, 29, 22, tzinfo=UTC)),  # at midnight, which does not exist
        ("Africa/Cairo", datetime(2027, 10, 28, 21, tzinfo=UTC)),  # at midnight, back to the day before
        ("Africa/Casablanca", datetime(2027, 2, 7, 2, tzinfo=UTC)),  # back for a month
        ("Africa/Casablanca", datetime(2027, 3, 14, 2, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2027, 10, 2, 15, 30, tzinfo=UTC)),  # by half an hour
        ("Australia/Lord_Howe", datetime(2027, 4, 3, 15, tzinfo=UTC)),
        ("America/Havana", datetime(2027, 3, 14, 5, tzinfo=UTC)),
        ("America/Havana", datetime(2027, 11, 7, 5, tzinfo=UTC)),
        ("Asia/Beirut", datetime(2027, 3, 27, 22, tzinfo=UTC)),
        ("America/Santiago", datetime(2027, 9, 5, 4, tzinfo=UTC)),
        ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # a whole day does not exist
        ("America/Nuuk", datetime(2027, 3, 28, 1, tzinfo=UTC)),
        ("Asia/Gaza", datetime(2027, 4, 3, 0, tzinfo=UTC)),
        ("Antarctica/Troll", datetime(2027, 10, 31, 1, tzinfo=UTC)),  # by two hours
        ("Asia/Kathmandu", datetime(2027, 3, 28, 1, tzinfo=UTC)),  # never, and at a quarter of an hour
    ],
)
def test_no_run_is_skipped_where_the_clocks_change(name: str, transition: datetime) -> None:
    """Around a transition every scheduled time runs, at the instant that counting minutes finds."""
    assert_agreed(ZoneInfo(name), transition)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_run_is_skipped_in_any_zone_for_ten_years() -> None:
    """Every transition of every zone of the tz database; one that many zones share is looked at once."""
    seen: set[Transition] = set()
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for transition in transitions(zone, FIRST, LAST):
            if transition not in seen:
                seen.add(transition)
                assert_agreed(zone, transition.at)

    assert len(seen) > 300


def test_a_time_that_does_not_exist_runs_at_the_next_one_that_does() -> None:
    """02:30 in the night in which the clocks go from 02:00 to 03:00 is 03:00, on a day of its own."""
    found = computed(
        "30 2 * * *", ZoneInfo("Europe/Berlin"), datetime(2027, 3, 27, tzinfo=UTC), datetime(2027, 3, 30, tzinfo=UTC)
    )

    assert [f"{at:%d %H:%M}" for at in found] == ["27 01:30", "28 01:00", "29 00:30"]


def test_a_time_that_occurs_twice_runs_once() -> None:
    """02:30 in the night in which the clocks go back is the first 02:30; asked in between, the next is tomorrow's."""
    zone = ZoneInfo("Europe/Berlin")
    found = computed("30 2 * * *", zone, datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 27, tzinfo=UTC))

    assert [f"{at:%d %H:%M}" for at in found] == ["25 00:30", "26 01:30"]
    for passed in (0, 20, 40, 59, 61, 119):
        after = datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + passed * MINUTE
        assert next_time("30 2 * * *", zone, after=after) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_run_that_starts_a_moment_early_does_not_swallow_the_next() -> None:
    """A sync that catches up in the last second before a scheduled time is followed by that one."""
    moment = datetime(2027, 1, 1, 11, 59, 59, 300_000, tzinfo=UTC)

    assert next_time("0 12 * * *", ZoneInfo("UTC"), after=moment) == datetime(2027, 1, 1, 12, tzinfo=UTC)
    assert next_time("0 12 * * *", ZoneInfo("UTC"), after=moment + MINUTE) == datetime(2027, 1, 2, 12, tzinfo=UTC)


def test_day_and_weekday_must_both_match() -> None:
    """`0 0 1 * mon` is the first of a month that is a Monday, as it has always been here."""
    start = datetime(2027, 1, 1, tzinfo=UTC)
    found = computed("0 0 1 * mon", ZoneInfo("UTC"), start, datetime(2028, 1, 1, tzinfo=UTC))

    assert [f"{at:%F}" for at in found] == ["2027-02-01", "2027-03-01", "2027-11-01"]


@pytest.mark.parametrize(("jitter", "minutes"), [(0.0, 0), (0.5, 15)])
def test_jitter_comes_on_top(jitter: float, minutes: int) -> None:
    """`every` counts from the start of the sync, `cron` from the clock; the schedule's jitter is added to both."""
    started = datetime(2027, 1, 1, 12, 34, 56, tzinfo=UTC)
    later = timedelta(minutes=minutes)

    def due(every: timedelta | None, cron: str | None) -> datetime:
        schedule = Schedule(every=every, cron=cron, timezone="Europe/Berlin", jitter=timedelta(minutes=30))
        return next_due(schedule, started_at=started, jitter=jitter)

    assert due(timedelta(hours=2), None) == datetime(2027, 1, 1, 14, 34, 56, tzinfo=UTC) + later
    assert due(None, "0 6 * * *") == datetime(2027, 1, 2, 5, tzinfo=UTC) + later
