"""Every engine returns the time of the newest data, and an answer that is not one time gets one sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from audience_sync.audiences.data_age import CLOCK_SKEW, DataAge, DataAges
from audience_sync.config import FreshnessRule, Source
from audience_sync.errors import AudienceSyncError, ConfigError, SourceError

NEWEST = datetime(2026, 3, 31, 12, 0, 31, tzinfo=UTC)
NOW = NEWEST + timedelta(hours=2, minutes=5)
QUERY = "the `freshness` query of source `shop`"
ONE_VALUE = "select one value, as in SELECT max(loaded_at) FROM events"


def age(source: Source, sql: str, *, now: datetime = NOW, as_of: datetime | None = None, hours: float = 6) -> DataAge:
    """Return the age that a query finds."""
    rule = FreshnessRule(sql=sql, max_age=timedelta(hours=hours))
    return DataAges().of_source(source, rule, as_of=as_of, now=now)


def test_the_newest_time_of_a_table(source: Source) -> None:
    """A timestamp without a zone is UTC in every database, and in files."""
    found = age(source, "SELECT max(ordered_at) FROM orders")

    assert found.newest == NEWEST
    assert not found.is_stale
    assert found.sentence == "the newest data of source `shop` is 2h5m old (2026-03-31 12:00:31Z), and max_age is 6h"


def test_data_is_stale_when_it_is_older_than_allowed(source: Source) -> None:
    """Exactly the maximum age is allowed."""
    for late, is_stale in ((timedelta(), False), (timedelta(seconds=1), True)):
        found = age(source, "SELECT max(ordered_at) FROM orders", now=NEWEST + timedelta(hours=6) + late)

        assert found.is_stale is is_stale


NOTHING = {
    "NULL": "SELECT max(ordered_at) FROM orders WHERE id > 99",
    "no row": "SELECT ordered_at FROM orders WHERE id > 99",
}


@pytest.mark.parametrize("sql", NOTHING.values(), ids=NOTHING)
def test_no_data_is_stale(source: Source, sql: str) -> None:
    """An empty table has no newest data: a truncated one must not take everybody out."""
    found = age(source, sql)

    assert (found.newest, found.is_stale) == (None, True)
    assert found.sentence == f"{QUERY} found no data"


TIMES = {
    "a date": ("SELECT CAST('2026-03-31' AS DATE)", datetime(2026, 3, 31, tzinfo=UTC)),
    "text with a zone": ("SELECT '2026-03-31T14:00:31+02:00'", NEWEST),
    "text without a zone": ("SELECT '2026-03-31 12:00:31'", NEWEST),
    "the text of a date": ("SELECT '2026-03-31'", datetime(2026, 3, 31, tzinfo=UTC)),
    "Unix seconds": ("SELECT 1774958431", NEWEST),
    "Unix milliseconds": ("SELECT 1774958431000", NEWEST),
    "a decimal number": ("SELECT CAST(1774958431.5 AS DECIMAL(20, 3))", NEWEST + timedelta(milliseconds=500)),
    "the instant of the sync": ("SELECT max(ordered_at) FROM orders WHERE ordered_at <= :now", NEWEST),
}


@pytest.mark.parametrize(("sql", "expected"), TIMES.values(), ids=TIMES)
def test_what_counts_as_a_time(source: Source, sql: str, expected: datetime) -> None:
    """Timestamps, dates, ISO 8601 and Unix times are read as they are elsewhere."""
    if "AS DATE" in sql and source.url is not None and source.url.get_secret_value().get_backend_name() == "sqlite":
        sql = "SELECT date('2026-03-31')"  # SQLite has no type for dates

    assert age(source, sql).newest == expected


WRONG = {
    "two columns": ("SELECT id, ordered_at FROM orders", f"{QUERY} returns 2 columns", ONE_VALUE),
    "several rows": ("SELECT ordered_at FROM orders", f"{QUERY} returns more than one row", ONE_VALUE),
    "no time": (
        "SELECT 'yesterday'",
        f"{QUERY} returns a value that is not a time",
        "select a timestamp, a date, a text in ISO 8601 or a Unix time",
    ),
}


@pytest.mark.parametrize(("sql", "sentence", "hint"), WRONG.values(), ids=WRONG)
def test_what_is_not_one_time_is_an_error(source: Source, sql: str, sentence: str, hint: str) -> None:
    """The sentence names the setting and the source; the value itself, which may be anybody's, is not repeated."""
    with pytest.raises(SourceError) as caught:
        age(source, sql)

    assert (str(caught.value), caught.value.hint) == (sentence, hint)


def test_a_query_that_fails_is_named(source: Source) -> None:
    """The message of the database is not enough: people must know which query it is about."""
    with pytest.raises(AudienceSyncError) as caught:
        age(source, "SELECT max(nowhere) FROM orders")

    assert isinstance(caught.value, SourceError | ConfigError)
    assert str(caught.value).startswith(f"{QUERY} failed: The ")
    assert "nowhere" in str(caught.value)


def test_a_time_in_the_future_is_an_error(source: Source) -> None:
    """Clocks may differ by a few minutes; later data would hide for how long nothing has been loaded."""
    sql = "SELECT max(ordered_at) FROM orders"
    assert not age(source, sql, now=NEWEST - CLOCK_SKEW).is_stale

    with pytest.raises(SourceError) as caught:
        age(source, sql, now=NEWEST - CLOCK_SKEW - timedelta(seconds=1))

    assert str(caught.value) == "the newest data of source `shop` is 5m1s in the future (2026-03-31 12:00:31Z)"
    assert "a time without a zone is read as UTC" in str(caught.value.hint)


def test_the_age_is_that_at_the_instant_of_the_evaluation(source: Source) -> None:
    """As of an earlier instant the data was fresh; as of a later one it would not be."""
    sql = "SELECT max(ordered_at) FROM orders"

    assert not age(source, sql, now=NEWEST + timedelta(days=9), as_of=NEWEST + timedelta(hours=1)).is_stale
    assert age(source, sql, now=NEWEST, as_of=NEWEST + timedelta(days=9)).is_stale
    past = age(source, sql, now=NEWEST + timedelta(days=9), as_of=NEWEST - timedelta(days=1))
    assert (past.is_stale, past.sentence[:46]) == (False, "the newest data of source `shop` is 0s old (20")


def test_one_query_serves_every_audience(source: Source) -> None:
    """The query is run once; two maximum ages can make two things of its answer."""
    ages, sql = DataAges(), "SELECT max(ordered_at) FROM orders"
    rules = [FreshnessRule(sql=sql, max_age=timedelta(hours=hours)) for hours in (6, 1)]
    first = ages.of_source(source, rules[0], as_of=None, now=NOW)
    unreachable = source.model_copy(update={"url": None, "files": {"orders": "/nowhere.csv"}})

    second = ages.of_source(unreachable, rules[1], as_of=None, now=NOW + timedelta(hours=5))

    assert (first.newest, first.is_stale) == (NEWEST, False)
    assert (second.newest, second.at, second.is_stale) == (NEWEST, NOW, True)
