"""The reference evaluator against cases worked out by hand from the language's documentation.

Every case has the text of its query, so that it can be read without the data classes; that the text is written so is
checked along with the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.reference.evaluating import Evaluator
from tests.reference.language import (
    Between,
    Both,
    Comparison,
    Condition,
    Constant,
    Duration,
    Either,
    ExpiresAfter,
    Field,
    Filter,
    Moment,
    Not,
    Number,
    Query,
    Reduced,
    Since,
    Sources,
    Stream,
    Test,
    Text,
    Trait,
    Truth,
    Where,
    Within,
)
from tests.reference.spelling import write
from tests.reference.worlds import Definition, Event, Profile, World

NOW = datetime(2024, 3, 31, 12, 0, tzinfo=UTC)  # a Sunday; 14:00 in Berlin, where summer time began this morning
MILLISECOND = timedelta(milliseconds=1)
DAY = timedelta(days=1)
X = Trait(("x",))
PRICE = Field(("price",))


def answer(query: Query, world: World, *, timezone: str = "UTC") -> Any:
    """Return what a query is for the user `u`, as of NOW."""
    return Evaluator(world, [Definition("it", query, timezone)], NOW).result("it", "u")


def known(**traits: Any) -> World:
    """Return a world of one user of whom this is known."""
    return World((), (Profile("u", traits),))


def bought(*prices: Any, **others: Any) -> World:
    """Return a world where `u` buys things at these prices, a minute after each other, just before NOW."""
    return happened(
        *((timedelta(minutes=len(prices) - n), {"price": price} | others) for n, price in enumerate(prices))
    )


def happened(*events: tuple[timedelta, Mapping[str, Any]], name: str = "Bought") -> World:
    """Return a world where things happen to `u` so long before NOW."""
    return World(tuple(Event("u", name, NOW - ago, properties) for ago, properties in events))


def stream(*filters: Filter) -> Stream:
    """Return the stream of what was bought."""
    return Stream("Bought", filters)


def says(value: Any, name: str, *arguments: Constant | Duration) -> Test:
    """Return a test of a value."""
    return Test(value, name, arguments)


A_DAY, A_WEEK, A_MONTH, HALF_AN_HOUR = (
    Duration(1, "day"),
    Duration(7, "day"),
    Duration(1, "month"),
    Duration(30, "minute"),
)

COMPARISONS: list[tuple[Any, str, Condition, bool]] = [
    # equality: as numbers if both are numbers, else as texts; null is never equal and never different
    (5, "trait('x') = 5", Comparison(X, "equals", Number(5)), True),
    ("5", "trait('x') = 5", Comparison(X, "equals", Number(5)), True),
    ("5.0", "trait('x') = 5", Comparison(X, "equals", Number(5)), True),
    ("5e0", "trait('x') = '5'", Comparison(X, "equals", Text("5")), True),
    ("005", "trait('x') = 5", Comparison(X, "equals", Number(5)), False),
    ("+5", "trait('x') = 5", Comparison(X, "equals", Number(5)), False),
    (" 5", "trait('x') = 5", Comparison(X, "equals", Number(5)), False),
    ("5\n", "trait('x') = 5", Comparison(X, "equals", Number(5)), False),
    ("1,000", "trait('x') = 1000", Comparison(X, "equals", Number(1000)), False),
    ("1" + "0" * 40, "trait('x') >= 0", Comparison(X, "at_least", Number(0)), False),
    ("1" + "0" * 39, "trait('x') >= 0", Comparison(X, "at_least", Number(0)), True),
    (True, "trait('x') = 'true'", Comparison(X, "equals", Text("true")), True),
    ("true", "trait('x') = true", Comparison(X, "equals", Truth(True)), True),
    (1, "trait('x') = true", Comparison(X, "equals", Truth(True)), False),
    ([1], "trait('x') = '[1]'", Comparison(X, "equals", Text("[1]")), True),
    ("A", "trait('x') = 'a'", Comparison(X, "equals", Text("a")), False),
    (6, "trait('x') != 5", Comparison(X, "differs", Number(5)), True),
    ("5", "trait('x') != 5", Comparison(X, "differs", Number(5)), False),
    (None, "trait('x') != 5", Comparison(X, "differs", Number(5)), False),
    (None, "NOT trait('x') = 5", Not(Comparison(X, "equals", Number(5))), True),
    # order: numbers, or texts by code point, never one with the other
    (4, "trait('x') < 5", Comparison(X, "less_than", Number(5)), True),
    (5, "trait('x') <= '5'", Comparison(X, "at_most", Text("5")), True),
    ("10", "trait('x') > '9'", Comparison(X, "greater_than", Text("9")), True),
    ("10a", "trait('x') > '9a'", Comparison(X, "greater_than", Text("9a")), False),
    ("a", "trait('x') > 5", Comparison(X, "greater_than", Number(5)), False),
    ("a", "trait('x') <= 5", Comparison(X, "at_most", Number(5)), False),
    ("B", "trait('x') < 'a'", Comparison(X, "less_than", Text("a")), True),
    ("🙂", "trait('x') > '！'", Comparison(X, "greater_than", Text("！")), True),
    (None, "trait('x') <= 5", Comparison(X, "at_most", Number(5)), False),
    # a date or timestamp of the query: both are moments
    ("2024-02-01", "trait('x') = 2024-02-01T00:00:00Z", Comparison(X, "equals", Moment("2024-02-01T00:00:00Z")), True),
    ("2024-02-01T02:00+02:00", "trait('x') = 2024-02-01", Comparison(X, "equals", Moment("2024-02-01")), True),
    ("2024-02-01", "trait('x') = '2024-02-01T00:00'", Comparison(X, "equals", Text("2024-02-01T00:00")), False),
    ("2024-02-30", "trait('x') < 2025-01-01", Comparison(X, "less_than", Moment("2025-01-01")), False),
    ("2024-02-30", "trait('x') != 2025-01-01", Comparison(X, "differs", Moment("2025-01-01")), True),
    ("soon", "trait('x') >= 2024-02-01", Comparison(X, "at_least", Moment("2024-02-01")), False),
    (20240201, "trait('x') > 2024-01-01", Comparison(X, "greater_than", Moment("2024-01-01")), False),
]

TESTS: list[tuple[Any, str, Condition, bool]] = [
    ("a", "trait('x').exists()", says(X, "exists"), True),
    ("", "trait('x').exists()", says(X, "exists"), True),
    (None, "trait('x').exists()", says(X, "exists"), False),
    (None, "trait('x').absent()", says(X, "absent"), True),
    (False, "trait('x').absent()", says(X, "absent"), False),
    ("10", "trait('x').one_of('a', 10)", says(X, "one_of", Text("a"), Number(10)), True),
    ("b", "trait('x').one_of('a', 10)", says(X, "one_of", Text("a"), Number(10)), False),
    ("b", "trait('x').none_of('a')", says(X, "none_of", Text("a")), True),
    (None, "trait('x').none_of('a')", says(X, "none_of", Text("a")), False),
    ("red shoes", "trait('x').contains('hat', 'shoes')", says(X, "contains", Text("hat"), Text("shoes")), True),
    ("red Shoes", "trait('x').contains('hat', 'shoes')", says(X, "contains", Text("hat"), Text("shoes")), False),
    (150, "trait('x').contains('5')", says(X, "contains", Text("5")), True),
    ("a%b", "trait('x').contains('%')", says(X, "contains", Text("%")), True),
    ("ab", "trait('x').contains('a_')", says(X, "contains", Text("a_")), False),
    ("shoes", "trait('x').omits('hat')", says(X, "omits", Text("hat")), True),
    (None, "trait('x').omits('hat')", says(X, "omits", Text("hat")), True),
    ("hats", "trait('x').omits('hat')", says(X, "omits", Text("hat")), False),
    ("total_spend", "trait('x').starts_with('total')", says(X, "starts_with", Text("total")), True),
    ("Total", "trait('x').starts_with('total')", says(X, "starts_with", Text("total")), False),
    ("spend_total", "trait('x').ends_with('total')", says(X, "ends_with", Text("total")), True),
    (None, "trait('x').ends_with('')", says(X, "ends_with", Text("")), False),
    ("xab1", "trait('x').matches('[a-b]+[0-9]$')", says(X, "matches", Text("[a-b]+[0-9]$")), True),
    ("ab", "trait('x').matches('^b')", says(X, "matches", Text("^b")), False),
    ("2023-12-07T18:49Z", "trait('x').before_date('2023-12-07T18:50:00Z')",
     says(X, "before_date", Text("2023-12-07T18:50:00Z")), True),
    ("2023-12-07T18:50:00Z", "trait('x').before_date(2023-12-07T18:50:00Z)",
     says(X, "before_date", Moment("2023-12-07T18:50:00Z")), False),
    ("2023-12-08", "trait('x').after_date(2023-12-07T18:50:00Z)",
     says(X, "after_date", Moment("2023-12-07T18:50:00Z")), True),
    ("2024-03-24T12:00:00Z", "trait('x').within_last(7 days)", says(X, "within_last", A_WEEK), True),
    ("2024-03-24T11:59:59.999Z", "trait('x').within_last(7 days)", says(X, "within_last", A_WEEK), False),
    ("2024-03-31T12:00:00.001Z", "trait('x').within_last(7 days)", says(X, "within_last", A_WEEK), False),
    ("2024-03-31T12:00", "trait('x').within_next(7 days)", says(X, "within_next", A_WEEK), True),
    ("2024-04-07T12:00:00.001Z", "trait('x').within_next(7 days)", says(X, "within_next", A_WEEK), False),
    ("2024-03-24 12:00Z", "trait('x').before_last(7 days)", says(X, "before_last", A_WEEK), True),
    ("2024-03-25", "trait('x').before_last(7 days)", says(X, "before_last", A_WEEK), False),
    ("2024-04-07T12:00Z", "trait('x').after_next(7 days)", says(X, "after_next", A_WEEK), True),
    ("2024-04-30T12:00Z", "trait('x').within_next(1 month)", says(X, "within_next", A_MONTH), True),  # the end of April
    ("2024-04-30T12:01Z", "trait('x').within_next(1 month)", says(X, "within_next", A_MONTH), False),
    ("never", "trait('x').after_next(7 days)", says(X, "after_next", A_WEEK), False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text", "query", "expected"),
    COMPARISONS + TESTS,
    ids=[f"{one[0]!a} {one[1]!a}" for one in COMPARISONS + TESTS],
)
def test_conditions_of_one_value(value: Any, text: str, query: Condition, expected: bool) -> None:
    """Every comparator says of a value what the documentation says."""
    assert write(query) == text
    assert answer(query, known(x=value)) is expected


ELEMENTS: list[tuple[Any, str, bool]] = [
    (["a", "b"], "equals", True),
    (["b"], "equals", False),
    ("a", "equals", False),
    ([], "differs", False),
    (["a", "b"], "differs", True),
    ([None], "differs", False),
    ([], "absent", True),
    ([None], "absent", True),
    ([None, "a"], "exists", True),
    (["a"], "omits", False),
    (["a", "b"], "omits", True),
    ([], "omits", True),
    (None, "omits", True),
]


@pytest.mark.parametrize(("value", "name", "expected"), ELEMENTS, ids=[f"{one[0]} {one[1]}" for one in ELEMENTS])
def test_conditions_of_elements(value: Any, name: str, expected: bool) -> None:
    """With `$` a condition holds if it holds for any element; `absent` and `omits` hold where there is none."""
    elements = Trait(("x", "$"))
    query: Condition = says(elements, name, *([Text("a")] if name == "omits" else []))
    if name in {"equals", "differs"}:
        query = Comparison(elements, name, Text("a"))

    assert answer(query, known(x=value)) is expected
    assert answer(Not(query), known(x=value)) is not expected


PATHS: list[tuple[Any, tuple[str, ...], Any]] = [
    ({"a": {"b": 1}}, ("a", "b"), 1),
    ({"a.b": 2, "a": {"b": 1}}, ("a.b",), 2),
    ({"a": "text"}, ("a", "b"), None),
    ({"a": None}, ("a", "b"), None),
    ({"a": [1, 2]}, ("a", "0"), None),
    ({"a": "b"}, ("a", "length"), None),
]


@pytest.mark.parametrize(("traits", "path", "expected"), PATHS, ids=[f"{one[0]} {one[1]}" for one in PATHS])
def test_paths(traits: Any, path: tuple[str, ...], expected: Any) -> None:
    """Steps are keys of objects, never positions; what is not there is null."""
    assert answer(Trait(path), known(**traits)) == expected


MIXED = (1, "2.5", "a", None, True, "007", "1e1")

REDUCERS: list[tuple[Sequence[Any], str, Query, Any]] = [
    ((), "event('Bought').count()", Reduced(stream(), "count"), 0),
    ((None, 1), "event('Bought').count()", Reduced(stream(), "count"), 2),
    ((), "event('Bought').sum(property('price'))", Reduced(stream(), "sum", PRICE), None),
    (("a",), "event('Bought').sum(property('price'))", Reduced(stream(), "sum", PRICE), None),
    (MIXED, "event('Bought').sum(property('price'))", Reduced(stream(), "sum", PRICE), 13.5),
    (MIXED, "event('Bought').avg(property('price'))", Reduced(stream(), "avg", PRICE), 4.5),
    (MIXED, "event('Bought').min(property('price'))", Reduced(stream(), "min", PRICE), 1.0),
    (MIXED, "event('Bought').max(property('price'))", Reduced(stream(), "max", PRICE), 10.0),
    (MIXED, "event('Bought').min(property('price') as string)", Reduced(stream(), "min", PRICE, "string"), "007"),
    (MIXED, "event('Bought').max(property('price') as string)", Reduced(stream(), "max", PRICE, "string"), "true"),
    ((), "event('Bought').max(property('price') as string)", Reduced(stream(), "max", PRICE, "string"), None),
    ((None, "b", "a"), "event('Bought').first(property('price'))", Reduced(stream(), "first", PRICE), "b"),
    (("b", "a", None), "event('Bought').last(property('price'))", Reduced(stream(), "last", PRICE), "a"),
    ((), "event('Bought').last(property('price'))", Reduced(stream(), "last", PRICE), None),
    ((2, "2", "b", "a", "a"), "event('Bought').mode(property('price'))", Reduced(stream(), "mode", PRICE), "2"),
    (("b", "a", "b", "a"), "event('Bought').mode(property('price'), 2)",
     Reduced(stream(), "mode", PRICE, None, 2), "a"),
    (("b", "a"), "event('Bought').mode(property('price'), 2)", Reduced(stream(), "mode", PRICE, None, 2), None),
    (("b", "a"), "event('Bought').mode(property('price'), 1)", Reduced(stream(), "mode", PRICE, None, 1), "a"),
    (("b", 10, "a", "B", 10, None), "event('Bought').unique(property('price'))", Reduced(stream(), "unique", PRICE),
     ["10", "B", "a", "b"]),
    ((None,), "event('Bought').unique(property('price'))", Reduced(stream(), "unique", PRICE), None),
    ((1, "1", 2, None), "event('Bought').unique(property('price')).count()",
     Reduced(stream(), "unique.count", PRICE), 2),
    ((), "event('Bought').unique(property('price')).count()", Reduced(stream(), "unique.count", PRICE), 0),
    (([1, 2], [5], 7), "event('Bought').sum(property('price.$'))",
     Reduced(stream(), "sum", Field(("price", "$"))), 8.0),
    (([{"a": 1}, {}], [{"a": 2}]), "event('Bought').sum(property('price.$.a'))",
     Reduced(stream(), "sum", Field(("price", "$", "a"))), 3.0),
    ((["a", "b"], ["b"]), "event('Bought').mode(property('price.$'))",
     Reduced(stream(), "mode", Field(("price", "$"))), "b"),
    ((["a"], ["b"], ["b"], "b"), "event('Bought').mode(property('price.$') as array)",
     Reduced(stream(), "mode", Field(("price", "$")), "array"), '["b"]'),
    ((["b"], ["b"]), "event('Bought').mode(property('price'))", Reduced(stream(), "mode", PRICE), '["b"]'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("prices", "text", "query", "expected"), REDUCERS, ids=[f"{one[0]} {one[1]}" for one in REDUCERS]
)
def test_reducers(prices: Sequence[Any], text: str, query: Query, expected: Any) -> None:
    """Every reducer makes of a stream what the documentation says."""
    assert write(query) == text
    assert answer(query, bought(*prices)) == expected


def test_of_values_at_one_instant_the_first_is_the_smallest_and_the_last_the_greatest() -> None:
    """No database's own order decides what is first and last."""
    world = happened(*((DAY, {"price": price}) for price in ("b", "a", "c", 10)), (2 * DAY, {"price": None}))

    assert answer(Reduced(stream(), "first", PRICE), world) == 10
    assert answer(Reduced(stream(), "last", PRICE), world) == "c"


INSTANTS = (
    "24T11:59:59.999", "24T12:00:00", "24T12:00:00.001", "24T22:59:59.999", "24T23:00:00",
    "30T22:59:59.999", "30T23:00:00", "31T12:00:00", "31T12:00:00.001",
)  # fmt: skip
WINDOWS: list[tuple[str, Filter, str, str, str]] = [
    # the first and the last of the instants of March that are inside
    ("within(7 days)", Within(A_WEEK), "UTC", "24T12:00:00", "31T12:00:00"),
    ("between(7 days, 10 days)", Between(A_WEEK, Duration(10, "day")), "UTC", "24T11:59:59.999", "24T12:00:00"),
    ("between(10 days, 7 days)", Between(Duration(10, "day"), A_WEEK), "UTC", "24T11:59:59.999", "24T12:00:00"),
    ("between(0 days, 1 day)", Between(Duration(0, "day"), A_DAY), "UTC", "30T22:59:59.999", "31T12:00:00"),
    ("since(start of day)", Since("day"), "UTC", "31T12:00:00", "31T12:00:00"),
    ("since(start of day)", Since("day"), "Europe/Berlin", "30T23:00:00", "31T12:00:00"),
    ("since(start of week)", Since("week"), "Europe/Berlin", "24T23:00:00", "31T12:00:00"),  # 25 March is a Monday
    ("since(start of week)", Since("week"), "UTC", "30T22:59:59.999", "31T12:00:00"),
]


@pytest.mark.parametrize(
    ("text", "window", "timezone", "first", "last"), WINDOWS, ids=[f"{one[0]} {one[2]}" for one in WINDOWS]
)
def test_windows(text: str, window: Filter, timezone: str, first: str, last: str) -> None:
    """Windows include both edges, to the millisecond; nothing after as-of exists."""
    world = World(
        tuple(Event("u", "Bought", datetime.fromisoformat(f"2024-03-{one}Z"), {"price": one}) for one in INSTANTS)
    )
    query = Reduced(stream(window), "unique", PRICE)
    inside = list(INSTANTS[INSTANTS.index(first) : INSTANTS.index(last) + 1])

    assert write(query) == f"event('Bought').{text}.unique(property('price'))"
    assert answer(query, world, timezone=timezone) == inside


LONG: list[tuple[str, Filter, str, datetime]] = [
    ("within(1 month)", Within(A_MONTH), "UTC", datetime(2024, 2, 29, 12, 0, tzinfo=UTC)),
    ("within(1 month)", Within(A_MONTH), "Europe/Berlin", datetime(2024, 2, 29, 13, 0, tzinfo=UTC)),  # 14:00 there
    ("within(13 months)", Within(Duration(13, "month")), "UTC", datetime(2023, 2, 28, 12, 0, tzinfo=UTC)),
    ("within(2 weeks)", Within(Duration(2, "week")), "Europe/Berlin", datetime(2024, 3, 17, 12, 0, tzinfo=UTC)),
    ("since(start of month)", Since("month"), "Europe/Berlin", datetime(2024, 2, 29, 23, 0, tzinfo=UTC)),
    ("since(start of quarter)", Since("quarter"), "UTC", datetime(2024, 1, 1, tzinfo=UTC)),
    ("since(start of year)", Since("year"), "America/New_York", datetime(2024, 1, 1, 5, 0, tzinfo=UTC)),
]


@pytest.mark.parametrize(("text", "window", "timezone", "begin"), LONG, ids=[f"{one[0]} {one[2]}" for one in LONG])
def test_windows_of_the_calendar(text: str, window: Filter, timezone: str, begin: datetime) -> None:
    """Months and periods are those of the audience's time zone; weeks and days are so many hours."""
    world = World(tuple(Event("u", "Bought", begin + n * MILLISECOND) for n in (-1, 0)))
    query = Reduced(stream(window), "count")

    assert write(query) == f"event('Bought').{text}.count()"
    assert answer(query, world, timezone=timezone) == 1


SESSIONS: list[tuple[list[int], int]] = [
    # minutes before as-of; how many of them are in the session of at most 30 minutes between events
    ([], 0),
    ([30], 1),
    ([31], 0),
    ([0, 30, 60, 91, 100], 3),
    ([0, 0, 40], 2),
    ([29, 59, 60], 3),
]


@pytest.mark.parametrize(("minutes", "expected"), SESSIONS, ids=[str(one[0]) for one in SESSIONS])
def test_sessions(minutes: list[int], expected: int) -> None:
    """A session goes on as long as no gap, and not the time since, is longer than the duration."""
    world = happened(*((timedelta(minutes=one), {}) for one in minutes))
    query = Reduced(stream(ExpiresAfter(HALF_AN_HOUR)), "count")

    assert write(query) == "event('Bought').expires_after(30 minutes).count()"
    assert answer(query, world) == expected


def test_a_session_is_of_the_stream_so_far() -> None:
    """A filter before `expires_after` may tear a session apart, one after it may not."""
    world = happened(*((timedelta(minutes=ago), {"price": price}) for ago, price in ((10, 1), (30, 9), (50, 1))))
    cheap, session = Where(Comparison(PRICE, "less_than", Number(5))), ExpiresAfter(HALF_AN_HOUR)

    assert answer(Reduced(stream(cheap, session), "count"), world) == 1
    assert answer(Reduced(stream(session, cheap), "count"), world) == 2


def test_sources() -> None:
    """Events of excluded sources are left out, those without a source are not."""
    world = World(tuple(Event("u", "Bought", NOW, source=source) for source in ("a", "b", "c", None)))
    query = Reduced(stream(Sources(("a", "b"))), "count")

    assert write(query) == "event('Bought').sources({exclude: 'a', 'b'}).count()"
    assert answer(query, world) == 2


def funnel(*filters: Filter) -> Comparison:
    """Return the condition: at least one bought thing was returned later."""
    child = Comparison(Reduced(Stream("Returned", filters), "count"), "at_least", Number(1))
    return Comparison(Reduced(stream(Where(child)), "count"), "at_least", Number(1))


AFTER = (-DAY, timedelta(0), MILLISECOND, DAY - MILLISECOND, DAY, 5 * DAY, 5 * DAY + MILLISECOND)
FIVE_DAYS = Duration(5, "day")
FUNNELS: list[tuple[str, Filter, Sequence[timedelta]]] = [
    # how long after its parent a child counts, of what is tried
    ("within(parent: 5 days)", Within(FIVE_DAYS, parent=True), AFTER[2:6]),
    ("between(parent: 1 day, 5 days)", Between(A_DAY, FIVE_DAYS, parent=True), AFTER[4:6]),
    ("between(parent: 0 days, 1 day)", Between(Duration(0, "day"), A_DAY, parent=True), AFTER[2:5]),
    ("within(30 days)", Within(Duration(30, "day")), AFTER),
]


@pytest.mark.parametrize(("text", "window", "expected"), FUNNELS, ids=[one[0] for one in FUNNELS])
def test_funnels(text: str, window: Filter, expected: Sequence[timedelta]) -> None:
    """A child with a window of its parent comes strictly after it, and not after the end of the window."""
    begin = NOW - 10 * DAY
    worlds = {one: World((Event("u", "Bought", begin), Event("u", "Returned", begin + one))) for one in AFTER}

    assert write(funnel(window)) == f"event('Bought').where(event('Returned').{text}.count() >= 1).count() >= 1"
    assert [one for one, world in worlds.items() if answer(funnel(window), world)] == list(expected)


def test_a_child_compares_itself_with_its_parent() -> None:
    """`property(parent: …)` is the enclosing event's, `property(…)` the event's own; one pair is enough."""
    same = Where(Comparison(Field(("sku",)), "equals", Field(("sku",), parent=True)))
    query = funnel(same)

    def world(returned: str) -> World:
        skus = ("Bought", "a"), ("Bought", "b"), ("Returned", returned)
        return World(tuple(Event("u", name, NOW, {"sku": sku}) for name, sku in skus))

    assert write(query) == (
        "event('Bought').where("
        "event('Returned').where(property('sku') = property(parent: 'sku')).count() >= 1).count() >= 1"
    )
    assert answer(query, world("b")) is True
    assert answer(query, world("c")) is False


def test_the_child_of_a_child_sees_the_child_as_its_parent() -> None:
    """`parent` is always the directly enclosing event."""
    inner = Where(Comparison(Field(("n",)), "greater_than", Field(("n",), parent=True)))
    grandchild = Comparison(Reduced(Stream("C", (inner,)), "count"), "at_least", Number(1))
    child = Comparison(Reduced(Stream("B", (Where(grandchild),)), "count"), "at_least", Number(1))
    query = Reduced(Stream("A", (Where(child),)), "count")
    events = [Event("u", name, NOW, {"n": n}) for name, n in (("A", 9), ("B", 1), ("C", 2))]

    assert answer(query, World(tuple(events))) == 1


BOUGHT_AT_LEAST_100 = Comparison(PRICE, "at_least", Number(100))
ONCE = Number(1)
SHOES = Stream("Shoes Bought", (Where(BOUGHT_AT_LEAST_100), Within(A_WEEK)))
NEITHER = Not(
    Both((
        Comparison(Reduced(Stream("Shoes Bought"), "count"), "at_least", ONCE),
        Comparison(Trait(("total_spend",)), "greater_than", Number(200)),
    ))
)  # fmt: skip


def test_the_first_example_of_the_documentation() -> None:
    """All users who bought shoes for at least 100 in the last seven days."""
    query = Comparison(Reduced(SHOES, "count"), "at_least", ONCE)
    events = [("a", 1, 100), ("b", 1, 99), ("c", 8, 100), ("d", 7, 250)]
    world = World(
        tuple(Event(user, "Shoes Bought", NOW - days * DAY, {"price": price}) for user, days, price in events)
    )

    assert write(query) == "event('Shoes Bought').where(property('price') >= 100).within(7 days).count() >= 1"
    assert Evaluator(world, [Definition("it", query)], NOW).members("it") == {"a", "d"}


def test_the_example_of_what_was_not_done() -> None:
    """The universe are the profiles: who did nothing is found by NOT, who has no profile is not."""
    world = World(
        tuple(Event(user, "Shoes Bought", NOW) for user in ("a", "b", "stranger")),
        (Profile("a", {"total_spend": 300}), Profile("b", {"total_spend": 200}), Profile("c"), Profile("d", {})),
    )

    assert write(NEITHER) == "NOT (event('Shoes Bought').count() >= 1 AND trait('total_spend') > 200)"
    assert Evaluator(world, [Definition("it", NEITHER)], NOW).members("it") == {"b", "c", "d"}


def test_without_profiles_everybody_with_an_event_is_there() -> None:
    """Events after as-of, without a user or without a readable time do not exist."""
    events = [
        Event("a", "Other", NOW),
        Event("b", "Other", NOW + MILLISECOND),
        Event(None, "Other", NOW),
        Event("d", "Other", None),
    ]

    assert Evaluator(World(tuple(events)), [Definition("it", NEITHER)], NOW).members("it") == {"a"}


def test_the_example_with_a_trait_of_another_definition() -> None:
    """A price may be compared with a computed trait; an audience used as a trait is true or false."""
    average = Definition("avg_spend", Reduced(stream(), "avg", PRICE))
    above = Definition("above", Comparison(
        Reduced(stream(Where(Comparison(PRICE, "at_least", Trait(("avg_spend",))))), "count"), "equals", ONCE,
    ))  # fmt: skip
    outside = Definition("outside", Comparison(Trait(("above",)), "equals", Truth(False)))
    world = World(
        (*bought(10, 20, 90).events, Event("w", "Other", NOW)),
        (Profile("u", {"above": "x", "avg_spend": 1}), Profile("w")),
    )
    evaluator = Evaluator(world, [outside, above, average], NOW)

    assert write(above.query) == "event('Bought').where(property('price') >= trait('avg_spend')).count() = 1"
    assert evaluator.values("avg_spend") == {"u": 40.0, "w": None}
    assert evaluator.members("above") == {"u"}
    assert evaluator.members("outside") == {"w"}


def test_literals_are_in_the_zone_of_the_definition_and_values_in_utc() -> None:
    """A moment without a zone is UTC in data and local in a query, in quotes too."""
    text = "2024-02-01T00:00:00"
    later, limit = Comparison(X, "greater_than", Moment(text)), says(X, "after_date", Text(text))

    assert [answer(later, known(x=text), timezone=zone) for zone in ("UTC", "Europe/Berlin")] == [False, True]
    assert [answer(limit, known(x=text), timezone=zone) for zone in ("UTC", "Europe/Berlin")] == [False, True]


def test_and_binds_tighter_than_or() -> None:
    """Parentheses stand only where the meaning needs them."""
    a, b, c = (says(Trait((name,)), "exists") for name in "abc")
    world = known(a=1)

    assert write(Either((a, Both((b, c))))) == "trait('a').exists() OR trait('b').exists() AND trait('c').exists()"
    assert write(Both((Either((a, b)), c))) == "(trait('a').exists() OR trait('b').exists()) AND trait('c').exists()"
    assert write(Not(Either((a, b)))) == "NOT (trait('a').exists() OR trait('b').exists())"
    assert answer(Either((a, Both((b, c)))), world) is True
    assert answer(Both((Either((a, b)), c)), world) is False


def test_texts_in_quotes() -> None:
    """A backslash stands before a quote or another backslash, anywhere else it is itself."""
    written = [write(says(X, "contains", Text(text))) for text in ("it's", '"', "a\\b", "\\", "\\\\")]

    assert written == [
        "trait('x').contains('it\\'s')",
        "trait('x').contains('\"')",
        "trait('x').contains('a\\b')",
        "trait('x').contains('\\\\')",
        "trait('x').contains('\\\\\\\\')",
    ]
    assert write(says(Trait(("a.b", "c")), "exists")) == "trait('a\\.b.c').exists()"
