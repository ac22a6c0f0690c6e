"""Queries mean what the documentation of Segment's query language says: every example of it becomes the right tree."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.errors import QueryError
from audience_sync.query.literals import moment_of_text, number_of_text
from audience_sync.query.printer import to_text
from audience_sync.query.query_parser import parse_audience, parse_trait
from audience_sync.query.syntax_tree import (
    EACH,
    And,
    Between,
    Comparison,
    Condition,
    Context,
    DateCondition,
    DateTest,
    Duration,
    ExpiresAfter,
    Filter,
    Form,
    Function,
    Literal,
    Not,
    OneOf,
    Operator,
    Period,
    Presence,
    Property,
    Reduction,
    RelativeCondition,
    RelativeTest,
    Scalar,
    Since,
    Sources,
    Stream,
    TextCondition,
    TextTest,
    TimeUnit,
    Trait,
    Where,
    Within,
    traits_of,
)
from tests.queries import queries
from tests.steps import steps

TRAIT = Trait(("x",))
SPEND = Property(("spend",))
PATTERN = r"(?i)^\d{2,}[^\]a-]+?(?:x|y)*$"
WEEK, MONTH = Duration(7, TimeUnit.DAY), Duration(30, TimeUnit.DAY)
SECOND = datetime(2023, 12, 7, 18, 50, tzinfo=UTC)


def counted(event: str, *filters: Filter, least: int = 1) -> Comparison:
    """Return the condition that there are at least so many events."""
    return Comparison(Reduction(Stream(event, filters), Function.COUNT), Operator.AT_LEAST, Literal(least))


def compared(left: Scalar, operator: str, right: object) -> Comparison:
    """Return the comparison with a literal."""
    assert isinstance(right, str | int | float | bool | date)
    return Comparison(left, Operator(operator), Literal(right))


BOUGHT = counted("Shoes Bought")
RICH = compared(Trait(("total_spend",)), ">", 200)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "event('Shoes Bought').where( property('price') >= 100 ).within(7 days).count() >= 1",
            counted("Shoes Bought", Where(compared(Property(("price",)), ">=", 100)), Within(WEEK)),
        ),
        (
            ("event('Shoes Bought').where( \nproperty('price') >= trait('avg_spend')\nAND \n"
            "event('Shoes Returned').within(parent: 5 days).count() >= 1 \n).within(30 days).count() >= 1"),
            counted(
                "Shoes Bought",
                Where(
                    And((
                        Comparison(Property(("price",)), Operator.AT_LEAST, Trait(("avg_spend",))),
                        counted("Shoes Returned", Within(Duration(5, TimeUnit.DAY), of_parent=True)),
                    ))
                ),
                Within(MONTH),
            ),
        ),
        ("NOT ( event('Shoes Bought').count() >= 1 AND trait('total_spend') > 200 )", Not(And((BOUGHT, RICH)))),
        ("trait('VIP') = 'true'", compared(Trait(("VIP",)), "=", "true")),
    ],
)  # fmt: skip
def test_the_documented_audiences(query: str, expected: Condition) -> None:
    """The examples of audiences are read as what their explanations say."""
    assert expected == parse_audience(query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "event('Shoes Bought').within(30 days).avg(property('spend'))",
            Reduction(Stream("Shoes Bought", (Within(MONTH),)), Function.AVG, SPEND),
        ),
        (
            ("event('Shoes Bought').where( property('price') > 100 AND property('brand') = 'My Brand' )"
            ".min(property('spend'))"),
            Reduction(
                Stream(
                    "Shoes Bought",
                    (
                        Where(
                            And((
                                compared(Property(("price",)), ">", 100),
                                compared(Property(("brand",)), "=", "My Brand"),
                            ))
                        ),
                    ),
                ),
                Function.MIN,
                SPEND,
            ),
        ),
        (
            "event('Shoes Bought').within(30 days).first(property('spend'))",
            Reduction(Stream("Shoes Bought", (Within(MONTH),)), Function.FIRST, SPEND),
        ),
        (
            "event('Shoes Bought').within(30 days).mode(property('spend'), 2)",
            Reduction(Stream("Shoes Bought", (Within(MONTH),)), Function.MODE, SPEND, None, 2),
        ),
    ],
)  # fmt: skip
def test_the_documented_computed_traits(query: str, expected: Scalar) -> None:
    """The examples of computed traits are read as what their explanations say."""
    assert expected == parse_trait(query)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (
            "ALL ( event('Shoes Bought').count() >= 1 AND trait('total_spend') > 200 )",
            "account audiences, which are not supported",
        ),
        ("ALL NOT event('Shoes Bought').count() >= 1", "account audiences, which are not supported"),
        ("ANY event('Shoes Bought').count() >= 1", "account audiences, which are not supported"),
        ("entity('orders').where(entity('order-products').count() >= 1).count() >= 1", "linked audiences"),
        ("entity('orders').count() >= 1 OR trait('VIP') = 'true'", "linked audiences"),
        ("entity('orders').where(property('total') > 500).count() >= 1", "linked audiences"),
    ],
)
def test_the_documented_examples_of_accounts_and_entities(query: str, reason: str) -> None:
    """What needs accounts or entities is refused and says so."""
    with pytest.raises(QueryError, match=reason):
        parse_audience(query)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("where({property('price_usd') > 100})", Where(compared(Property(("price_usd",)), ">", 100))),
        ("where(context('page.url').exists())", Where(Presence(Context(("page", "url"))))),
        (
            "sources({exclude: 'QgRHeujRJBM9j18yChyC', '/;hSBZDqGDPvXCKHbikPm'})",
            Sources(("QgRHeujRJBM9j18yChyC", "/;hSBZDqGDPvXCKHbikPm")),
        ),
        ("sources({exclude: ['a', \"b\"]})", Sources(("a", "b"))),
        ("within(7 days)", Within(WEEK)),
        ("within(1 Month)", Within(Duration(1, TimeUnit.MONTH))),
        ("between(7 days, 10 days)", Between(WEEK, Duration(10, TimeUnit.DAY))),
        ("between(10 days, 7 days)", Between(WEEK, Duration(10, TimeUnit.DAY))),
        ("between(0 hours, 90 seconds)", Between(Duration(0, TimeUnit.HOUR), Duration(90, TimeUnit.SECOND))),
        ("since(start of month)", Since(Period.MONTH)),
        ("since( START  OF Week )", Since(Period.WEEK)),
        ("expires_after(1 hour)", ExpiresAfter(Duration(1, TimeUnit.HOUR))),
        (
            "where(event('B').between(parent: 1 day, 3 days).where(property('a')=property(parent: 'b')).count()>=1)",
            Where(
                counted(
                    "B",
                    Between(Duration(1, TimeUnit.DAY), Duration(3, TimeUnit.DAY), of_parent=True),
                    Where(Comparison(Property(("a",)), Operator.EQUALS, Property(("b",), of_parent=True))),
                )
            ),
        ),
    ],
)
def test_filters(written: str, expected: Filter) -> None:
    """Every filter, as documented, filters a stream."""
    assert counted("A", expected) == parse_audience(f"event('A').{written}.count() >= 1")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("count()", (Function.COUNT,)),
        ("sum(property('spend'))", (Function.SUM, SPEND)),
        ("max(property('spend'))", (Function.MAX, SPEND)),
        ("max(property('spend') as string)", (Function.MAX, SPEND, Form.STRING)),
        ("min(property('spend') AS Number)", (Function.MIN, SPEND, Form.NUMBER)),
        ("mode(property('spend'))", (Function.MODE, SPEND, None, 2)),
        ("mode(property('spend') as array, 1)", (Function.MODE, SPEND, Form.ARRAY, 1)),
        ("last(context('ip'))", (Function.LAST, Context(("ip",)))),
        ("unique(property('spend'))", (Function.UNIQUE, SPEND)),
        ("unique(property('items.$.sku')).count()", (Function.UNIQUE_COUNT, Property(("items", EACH, "sku")))),
    ],
)
def test_reducers(written: str, expected: tuple[Function]) -> None:
    """Every reducer, as documented, makes a value of a stream."""
    assert Reduction(Stream("A"), *expected) == parse_trait(f"event('A').{written}")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (".equals(500)", compared(TRAIT, "=", 500)),
        (" == 500", compared(TRAIT, "=", 500)),
        (".differs(500)", compared(TRAIT, "!=", 500)),
        ("!=500", compared(TRAIT, "!=", 500)),
        (".greater_than(-2.5)", compared(TRAIT, ">", -2.5)),
        (" > literal(500)", compared(TRAIT, ">", 500)),
        (".at_least(500)", compared(TRAIT, ">=", 500)),
        (".less_than(500)", compared(TRAIT, "<", 500)),
        (".at_most(500)", compared(TRAIT, "<=", 500)),
        ("<=literal(2022-10-17T00:00:00)", compared(TRAIT, "<=", datetime(2022, 10, 17))),  # noqa: DTZ001
        (" = TRUE", compared(TRAIT, "=", True)),
        (" = trait('y')", Comparison(TRAIT, Operator.EQUALS, Trait(("y",)))),
        (".equals(event('A').count())", Comparison(TRAIT, Operator.EQUALS, Reduction(Stream("A"), Function.COUNT))),
        (".absent()", Presence(TRAIT, absent=True)),
        (".exists()", Presence(TRAIT)),
        (".contains('shoes','shirts')", TextCondition(TRAIT, TextTest.CONTAINS, ("shoes", "shirts"))),
        (".contains(['shoes','shirts'])", TextCondition(TRAIT, TextTest.CONTAINS, ("shoes", "shirts"))),
        (".omits('shoes')", TextCondition(TRAIT, TextTest.OMITS, ("shoes",))),
        (".starts_with('total')", TextCondition(TRAIT, TextTest.STARTS_WITH, ("total",))),
        (".ends_with('total')", TextCondition(TRAIT, TextTest.ENDS_WITH, ("total",))),
        (f".matches('{PATTERN}')", TextCondition(TRAIT, TextTest.MATCHES, (PATTERN,))),
        (".one_of('shoes', 5, true)", OneOf(TRAIT, (Literal("shoes"), Literal(5), Literal(value=True)))),
        (".none_of('shoes')", OneOf(TRAIT, (Literal("shoes"),), negated=True)),
        (".before_date(2023-12-07T18:50:00Z)", DateCondition(TRAIT, DateTest.BEFORE_DATE, SECOND)),
        (".before_date('2023-12-07T18:50:00Z')", DateCondition(TRAIT, DateTest.BEFORE_DATE, SECOND)),
        (".after_date('2023-12-07')", DateCondition(TRAIT, DateTest.AFTER_DATE, date(2023, 12, 7))),
        (".within_last(7 days)", RelativeCondition(TRAIT, RelativeTest.WITHIN_LAST, WEEK)),
        (".within_next(7 days)", RelativeCondition(TRAIT, RelativeTest.WITHIN_NEXT, WEEK)),
        (".before_last(7 days)", RelativeCondition(TRAIT, RelativeTest.BEFORE_LAST, WEEK)),
        (".after_next(7 days)", RelativeCondition(TRAIT, RelativeTest.AFTER_NEXT, WEEK)),
    ],
)  # fmt: skip
def test_comparators(written: str, expected: Condition) -> None:
    """Every comparator, as documented and as a symbol, makes a condition of a value."""
    assert repr(expected) == re.sub(r"at=\d+", "at=0", repr(parse_audience(f"trait('x'){written}")))


@pytest.mark.parametrize(
    ("query", "canonical"),
    [
        ("100 <= trait('x')", "100 <= trait('x')"),
        ("(event('x').count())>=('5')", "event('x').count() >= '5'"),
        ("a or b and not c", "a OR b AND NOT c"),
        ("(a or b) and c", "(a OR b) AND c"),
        ("a and (b and c) or (d or e)", "a AND b AND c OR d OR e"),
        ("not (a) and not (a and b) or not not c", "NOT a AND NOT (a AND b) OR NOT NOT c"),
    ],
)
def test_joining(query: str, canonical: str) -> None:
    """NOT binds tighter than AND, AND tighter than OR; parentheses that change nothing are not printed."""

    def written(text: str) -> str:
        return re.sub(r"\b([a-e])\b(?!')", r"trait('\1').exists()", text)

    assert written(canonical) == to_text(parse_audience(written(query)))


def test_junctions_are_flat() -> None:
    """Conditions joined by one word are one node, in audiences and in `where` alike."""
    joined = parse_audience(
        "event('x').where((property('a') = 1 or property('b') = 2) or property('c') = 3).count() = 1"
    )

    assert isinstance(joined, Comparison)
    assert "Or(operands=" in repr(joined)
    assert repr(joined).count("Or(operands=") == 1


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("'a.b'", ("a", "b")),
        (r"'a\.b'", ("a.b",)),
        (r"'a\\\\.b.c'", ("a.b", "c")),
        ("'items.$.a b'", ("items", EACH, "a b")),
        (r"'it\'s'", ("it's",)),
        ('"it\'s"', ("it's",)),
        (r"'\n\"'", ('\\n"',)),
    ],
)
def test_paths_and_texts(written: str, path: tuple[str, ...]) -> None:
    """Dots lead into objects, backslashes before a dot make it literal; in a text they stand before quotes."""
    assert Trait(path) == parse_trait(f"trait({written})")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("-5", -5),
        ("2.50", 2.5),
        ("1e3", 1000.0),
        ("9007199254740992", 2**53),
        ("9007199254740993", float(2**53)),
        ("False", False),
        ("2024-02-29", date(2024, 2, 29)),
        ("2024-02-01T10:00", datetime(2024, 2, 1, 10)),  # noqa: DTZ001
        ("2024-02-01T10:00:05.25", datetime(2024, 2, 1, 10, 0, 5, 250_000)),  # noqa: DTZ001
        ("2024-02-01T10:00+02:00", datetime(2024, 2, 1, 10, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_literals(written: str, value: object) -> None:
    """Numbers, truth values, dates and timestamps are what they say."""
    literal = parse_trait(written)

    assert isinstance(literal, Literal)
    assert (type(value), value) == (type(literal.value), literal.value)


def test_positions() -> None:
    """What can turn out wrong only against a source carries its place in the text."""
    query = parse_audience("trait('a') = 1 AND\n  trait('b').exists()")

    assert [trait.at for trait in traits_of(query)] == [0, 21]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5.0),
        ("-0", -0.0),
        ("0.50", 0.5),
        ("1E+05", 1e5),
        ("1e-5", 1e-5),
        ("1" * 40, float("1" * 40)),
        *(
            (text, None)
            for text in ("", "007", "+5", " 5", "5 ", "5\n", "1,000", ".5", "5.", "1e100", "٣", "1" * 41, "NaN")
        ),
    ],
)
def test_numbers_in_texts(text: str, number: float | None) -> None:
    """A text is a number if it is written as JSON writes one, and is not longer than 40 characters."""
    assert number == number_of_text(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29", date(2024, 2, 29)),
        ("2024-02-01 10:00", datetime(2024, 2, 1, 10)),  # noqa: DTZ001
        ("2023-12-07T18:50:00.000Z", SECOND),
        ("2023-12-07T19:50+01:00", SECOND),
        *(
            (text, None)
            for text in (
                *("2023-02-29", "2024-13-01", "2024-2-1", "20240201", "2024-02-01T24:00", "2024-02-01T10", "10:00"),
                *("2024-02-01T10:00:60", "2024-02-01T10:00+0200", "2024-02-01t10:00z", "2024-02-01\n", "soon", ""),
                *("0000-01-01", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00", "٢٠٢٤-02-01"),
            )
        ),
    ],
)
def test_moments_in_texts(text: str, moment: date | None) -> None:
    """A text is a moment if it is an ISO date or timestamp that really exists."""
    assert moment == moment_of_text(text)


WORDS = (
    "event trait property where within count sum exists equals ( ) { } [ ] , . : = >= NOT AND OR as start of 7 days "
    "'a' \"b\" 2024-02-01 true parent ' \\ 5. -"
)
PIECES = st.sampled_from(WORDS.split())


def assert_read_or_refused(text: str) -> None:
    """Assert that a text gives a tree, or one sentence with a place in it."""
    for parse in (parse_audience, parse_trait):
        refusal = None
        try:
            parse(text)
        except QueryError as error:
            refusal = error

        assert refusal is None or 0 <= refusal.position <= len(text)
        assert refusal is None or re.match(r"(line \d+, )?column \d+: \S", str(refusal))


@given(st.text() | st.lists(PIECES).map(" ".join) | st.lists(PIECES).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text at all does anything but give a tree or one sentence with a place in the text."""
    assert_read_or_refused(text)


@given(queries().map(to_text), st.data())
def test_a_mutated_query_is_read_or_refused(text: str, data: st.DataObject) -> None:
    """A query in which something was cut out, put in or doubled gives a tree or one sentence, too."""
    first, second = sorted(data.draw(st.integers(0, len(text))) for _ in range(2))
    middle = data.draw(st.sampled_from(["", text[first:second] * 2]) | PIECES | st.characters())

    assert_read_or_refused(text[:first] + middle + text[second:])


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 10_000, "NOT " * 2_500, "[" * 10_000, "a." * 5_000, "'" * 10_000, "1" * 10_000, "2024-" * 2_000),
        *("trait('a') = 1 AND " * 530, "é" * 5_000, f"trait('a').matches('{'(a*)*' * 1500}')"),
        f"trait('a').matches('{'(' * 9000}')",
    ],
    ids=lambda text: text[:24],
)
def test_hostile_texts_are_refused_quickly(text: str) -> None:
    """No text of the greatest length takes more than a hundred steps per character."""

    def refuse() -> None:
        with pytest.raises(QueryError):
            parse_trait(text)

    assert steps(refuse) < 100 * len(text)
