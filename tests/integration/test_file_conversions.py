"""Text of files becomes numbers and times one value at a time: what is read, and what is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import duckdb
import pytest

from audience_sync.core.model import DateOrder
from audience_sync.engines.text_conversions import Doubt, Doubted, conversions, doubted

Convert = Callable[[str, str | None], object]

TIMES = {
    "2026-11-20": (11, 20, 0, 0, 0, 0),
    "2026-1-5": (1, 5, 0, 0, 0, 0),
    "2026/11/20": (11, 20, 0, 0, 0, 0),
    "2026-11-20 10:00": (11, 20, 10, 0, 0, 0),
    "2026-11-20T10:00:01": (11, 20, 10, 0, 1, 0),
    "2026-11-20T10:00:01.5Z": (11, 20, 10, 0, 1, 500_000),
    "2026-11-20 10:00:01.123456789+00": (11, 20, 10, 0, 1, 123_456),
    "2026-11-20 10:00:00+05:30": (11, 20, 4, 30, 0, 0),
    "2026-11-20 10:00:00 +05:30": (11, 20, 4, 30, 0, 0),
    "2026-11-20 10:00:00 -0530": (11, 20, 15, 30, 0, 0),
    "2026-11-20 10:00:00-05": (11, 20, 15, 0, 0, 0),
    "2026-11-20 10:00:00 UTC": (11, 20, 10, 0, 0, 0),
    "2026-11-20 23:59:59": (11, 20, 23, 59, 59, 0),
    "20261120": (11, 20, 0, 0, 0, 0),
    "20261120100001": (11, 20, 10, 0, 1, 0),
    "1793181600": (10, 28, 10, 0, 0, 0),
    "1793181600.25": (10, 28, 10, 0, 0, 250_000),
    "1793181600123": (10, 28, 10, 0, 0, 123_000),
}
NOT_TIMES = [
    "",
    "x",
    "2026-02-30",
    "2026-13-01",
    "20260230",
    "20260230100000",
    "2026-11-20 24:00:00",
    "2026-11-20 10",
    "2026-11-20 10:00:00 Europe/Berlin",
    "2026-11-20x",
    "infinity",
    "epoch",
    "1e30",
    "007",
    "1.2.34",
    "20261120-1",
]
ORDERED = {
    "11/05/2026": ((5, 11, 0, 0, 0, 0), (11, 5, 0, 0, 0, 0)),
    "1/2/2026": ((2, 1, 0, 0, 0, 0), (1, 2, 0, 0, 0, 0)),
    "11.05.2026": ((5, 11, 0, 0, 0, 0), (11, 5, 0, 0, 0, 0)),
    "11-05-2026": ((5, 11, 0, 0, 0, 0), (11, 5, 0, 0, 0, 0)),
    "11/05/26": ((5, 11, 0, 0, 0, 0), (11, 5, 0, 0, 0, 0)),
    "11/05/2026 09:30": ((5, 11, 9, 30, 0, 0), (11, 5, 9, 30, 0, 0)),
    "11/05/2026 9:30:05": ((5, 11, 9, 30, 5, 0), (11, 5, 9, 30, 5, 0)),
    "11/05/2026, 9:30:05.25": ((5, 11, 9, 30, 5, 250_000), (11, 5, 9, 30, 5, 250_000)),
    "11/05/2026 9:30 PM": ((5, 11, 21, 30, 0, 0), (11, 5, 21, 30, 0, 0)),
    "11/05/2026T21:30:00": ((5, 11, 21, 30, 0, 0), (11, 5, 21, 30, 0, 0)),
}


@pytest.fixture(scope="module")
def converting() -> Callable[[DateOrder | None], Convert]:
    """Opens a DuckDB with the functions and a date order, and calls one of them on a text of a table."""

    def opened(order: DateOrder | None) -> Convert:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE texts (t VARCHAR)")
        for statement in conversions(order):
            connection.execute(statement)

        def convert(function: str, text: str | None) -> object:
            connection.execute("DELETE FROM texts")
            connection.execute("INSERT INTO texts VALUES ($1)", [text])
            try:
                (found,) = connection.execute(f"SELECT {function}(t) FROM texts").fetchone() or ()
            except duckdb.Error as error:
                return doubted(str(error))
            return found

        return convert

    return opened


def instant(month: int, day: int, hour: int, minute: int, second: int, microsecond: int) -> datetime:
    """Return an instant of 2026 as DuckDB gives it, in UTC without saying so."""
    return datetime(2026, month, day, hour, minute, second, microsecond, tzinfo=UTC).replace(tzinfo=None)


def test_times_are_read_as_they_are_written(converting: Callable[[DateOrder | None], Convert]) -> None:
    """ISO 8601 with any offset, dates, and unix times are instants in UTC; only events have unix times otherwise."""
    convert = converting(None)
    for text, parts in TIMES.items():
        expected = instant(*parts)

        assert convert("parse_time", text) == expected, text
        assert convert("try_parse_event_time", text) == expected, text
        assert convert("try_parse_time", text) == (None if text.startswith(("179", "202611")) else expected), text


@pytest.mark.parametrize("order", [None, *DateOrder])
def test_what_is_not_a_time_is_refused(
    converting: Callable[[DateOrder | None], Convert], order: DateOrder | None
) -> None:
    """A text that is not a time is an error in a column of times, and an event without a time otherwise."""
    convert = converting(order)
    for text in NOT_TIMES:
        assert convert("parse_time", text) == Doubted(Doubt.TIME, text), text
        assert convert("try_parse_time", text) is None, text
        assert convert("try_parse_event_time", text) is None, text
    assert convert("parse_time", None) is convert("try_parse_time", None) is None


@pytest.mark.parametrize("function", ["parse_time", "try_parse_time", "try_parse_event_time"])
def test_day_and_month_never_change_places(converting: Callable[[DateOrder | None], Convert], function: str) -> None:
    """Without an order every such date is refused, also 13/11/2026; with one it has one meaning, or is refused."""
    plain, day_first, month_first = converting(None), converting(DateOrder.DMY), converting(DateOrder.MDY)
    for text, (first, second) in ORDERED.items():
        assert plain(function, text) == Doubted(Doubt.ORDER, text), text
        assert day_first(function, text) == instant(*first), text
        assert month_first(function, text) == instant(*second), text
    for text in ("13/11/2026", "31/12/2026 10:00"):
        assert plain(function, text) == Doubted(Doubt.ORDER, text)
        assert month_first(function, text) == Doubted(Doubt.DATE, text)
        assert day_first(function, text) is not None
    for text in ("11/13/2026", "30/02/2026", "11/05/2026 noon", "11/05/2026 25:00"):
        assert day_first(function, text) == Doubted(Doubt.DATE, text), text
    assert plain(function, "2026-05-11") == day_first(function, "2026-05-11") == instant(5, 11, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("-12", -12.0),
        ("12.5", 12.5),
        ("1e3", 1000.0),
        ("1E-2", 0.01),
        ("9007199254740992", 9007199254740992.0),
        ("0.1234567890123456789", 0.1234567890123456789),
        (None, None),
        ("9007199254740993", Doubt.DIGITS),
        ("123456789012345678901234567890123456789", Doubt.DIGITS),
        ("", Doubt.NUMBER),
        ("007", Doubt.NUMBER),
        ("+5", Doubt.NUMBER),
        (" 5", Doubt.NUMBER),
        ("1,5", Doubt.NUMBER),
        ("1,234", Doubt.NUMBER),
        (".5", Doubt.NUMBER),
        ("0x10", Doubt.NUMBER),
        ("NaN", Doubt.NUMBER),
        ('it\'s "1"\n☃', Doubt.NUMBER),
    ],
)
def test_numbers_are_those_of_json(
    converting: Callable[[DateOrder | None], Convert], text: str | None, expected: object
) -> None:
    """A number is one as JSON writes it and a double holds it; anything else is an error with the text."""
    found = converting(None)("parse_number", text)

    assert found == (Doubted(expected, text or "") if isinstance(expected, Doubt) else expected)


def test_other_errors_are_left_alone() -> None:
    """An error that is not of these functions is not taken for one."""
    assert doubted("Conversion Error: Could not convert string 'x' to INT32") is None
