"""Queries to try things with: any tree that a query can be, with all nodes and operators, and odd names and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from audience_sync.query.checker import MAX_COMPARISONS
from audience_sync.query.literals import seconds_about
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
    Kind,
    Literal,
    Not,
    OneOf,
    Operator,
    Or,
    Path,
    Period,
    Presence,
    Primary,
    Property,
    Query,
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
    kind_of,
    walk,
)


def _path(names: Sequence[str]) -> Path:
    """Return the names as a path that can be written: none has a backslash before a dot, be it in it or behind it."""
    written = [re.sub(r"\\+\.", ".", name) for name in names]
    inner = [name.rstrip("\\") or "x" for name in written[:-1]]
    first, *others = [*inner, written[-1]]
    return ("list" if first == EACH else first, *others)


def _zone(minutes: int) -> tzinfo:
    return timezone(timedelta(minutes=minutes))


def _between(ends: Sequence[Duration]) -> Between:
    near, far = sorted(ends, key=seconds_about)
    return Between(near, far)


TEXTS = st.sampled_from(
    ["", "Order Completed", "\\", '"', "'", "\\'", "\\\\", "a\\b", "C:\\", "007", "\n", "🙂", "NOT"]
) | (st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-1e90, 1e90).filter(lambda number: not 0 < abs(number) < 1e-90)
ZONES = st.integers(-14 * 60, 14 * 60).map(_zone)
FIRST, LAST = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001 - without a zone they are meant in the audience's
MOMENTS = st.one_of(
    st.dates(FIRST.date(), LAST.date()), st.datetimes(FIRST, LAST), st.datetimes(FIRST, LAST, timezones=ZONES)
)
NAMES = st.sampled_from(["plan", "is gift", "a.b", ".", EACH, "a\\b"]) | TEXTS.filter(bool)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(_path)
LITERALS = st.one_of(TEXTS, NUMBERS, st.booleans(), MOMENTS).map(Literal)
NUMBER_LITERALS = (NUMBERS | st.sampled_from(["5", "-2.5", "1e3"])).map(Literal)
DURATIONS = st.builds(Duration, st.integers(1, 600), st.sampled_from(TimeUnit))
FIXED_DURATIONS = st.builds(
    Duration, st.integers(1, 600), st.sampled_from([unit for unit in TimeUnit if unit != TimeUnit.MONTH])
)
PATTERNS = st.sampled_from(["", "^a.*b$", "(?i)sku-[0-9]{3,}", "(?:a|b)+?", "\\d\\.\\\\'", "[^\\]a-f-]"])


@cache
def conditions(events_around: int = 0, levels: int = 2) -> SearchStrategy[Condition]:
    """Return any conditions that stand in the `where` of so many events, with so many levels of nodes below them."""
    primary = _primaries(events_around, levels)
    if not levels:
        return primary
    inner = conditions(events_around, levels - 1)
    return st.one_of(
        primary,
        inner.map(Not),
        st.lists(inner.filter(lambda one: not isinstance(one, And)), min_size=2, max_size=3).map(tuple).map(And),
        st.lists(inner.filter(lambda one: not isinstance(one, Or)), min_size=2, max_size=3).map(tuple).map(Or),
    )


@cache
def audiences() -> SearchStrategy[Condition]:
    """Return any conditions that an audience can be: with at most 50 comparisons."""
    return conditions().filter(_fits)


@cache
def computed_traits() -> SearchStrategy[Scalar]:
    """Return any values that a computed trait can be, lists included."""
    return (values(0, 2) | _streams(0, 2).flatmap(_lists) | LITERALS).filter(_fits)


@cache
def queries() -> SearchStrategy[Query]:
    """Return any queries."""
    return audiences() | computed_traits()


@cache
def values(events_around: int, levels: int) -> SearchStrategy[Scalar]:
    """Return any values but literals and lists."""
    kinds: list[SearchStrategy[Scalar]] = [PATHS.map(Trait)]
    if events_around:
        kinds.append(_event_values(of_parent=st.booleans() if events_around > 1 else st.just(value=False)))
    if levels:
        kinds.append(_streams(events_around, levels - 1).flatmap(_reductions))
    return st.one_of(kinds)


def _event_values(of_parent: SearchStrategy[bool]) -> SearchStrategy[Property | Context]:
    return st.builds(Property, PATHS, of_parent) | st.builds(Context, PATHS, of_parent)


def _reductions(stream: Stream) -> SearchStrategy[Reduction]:
    of = _event_values(st.just(value=False))
    ordered = st.sampled_from([Function.MIN, Function.MAX])
    plain = st.sampled_from([Function.SUM, Function.AVG, Function.FIRST, Function.LAST, Function.UNIQUE_COUNT])
    return st.one_of(
        st.just(Reduction(stream, Function.COUNT)),
        st.builds(Reduction, st.just(stream), plain, of),
        st.builds(Reduction, st.just(stream), ordered, of, st.sampled_from([None, Form.NUMBER, Form.STRING])),
        st.builds(
            Reduction, st.just(stream), st.just(Function.MODE), of, st.sampled_from([None, *Form]), st.integers(1, 9)
        ),
    )


def _lists(stream: Stream) -> SearchStrategy[Reduction]:
    return st.builds(Reduction, st.just(stream), st.just(Function.UNIQUE), _event_values(st.just(value=False)))


@cache
def _streams(events_around: int, levels: int) -> SearchStrategy[Stream]:
    return st.builds(Stream, TEXTS, st.lists(filters(events_around, levels), max_size=3).map(tuple))


@cache
def filters(events_around: int, levels: int) -> SearchStrategy[Filter]:
    """Return any filters of a stream that stands in the `where` of so many events."""
    kinds: list[SearchStrategy[Filter]] = [
        DURATIONS.map(Within),
        st.lists(DURATIONS, min_size=2, max_size=2).map(_between),
        st.sampled_from(Period).map(Since),
        st.lists(TEXTS, min_size=1, max_size=2).map(tuple).map(Sources),
        conditions(events_around + 1, levels).map(Where),
    ]
    if events_around:
        kinds += [
            FIXED_DURATIONS.map(lambda length: Within(length, of_parent=True)),
            FIXED_DURATIONS.map(lambda far: Between(Duration(0, TimeUnit.SECOND), far, of_parent=True)),
        ]
    else:
        kinds.append(FIXED_DURATIONS.map(ExpiresAfter))
    return st.one_of(kinds)


@cache
def _primaries(events_around: int, levels: int) -> SearchStrategy[Primary]:
    return st.one_of(
        values(events_around, levels).flatmap(lambda left: _comparisons(left, values(events_around, levels))),
        values(events_around, levels).flatmap(_looks),
    )


def _comparisons(left: Scalar, others: SearchStrategy[Scalar]) -> SearchStrategy[Primary]:
    operators = st.sampled_from(Operator)
    right: SearchStrategy[Scalar] = others | (NUMBER_LITERALS if kind_of(left) is Kind.NUMBER else LITERALS)
    straight = st.builds(Comparison, st.just(left), operators, right)
    return (straight | straight.map(lambda one: Comparison(one.right, one.operator, one.left))).filter(_has_order)


def _has_order(one: Comparison) -> bool:
    truths = Kind.BOOLEAN in (kind_of(one.left), kind_of(one.right))
    return one.operator in (Operator.EQUALS, Operator.DIFFERS) or not truths


def _looks(scalar: Scalar) -> SearchStrategy[Primary]:
    """Return the conditions about one value that have no other on their right."""
    of, number = st.just(scalar), kind_of(scalar) is Kind.NUMBER
    listed = st.lists(NUMBER_LITERALS if number else LITERALS, min_size=1, max_size=3).map(tuple)
    kinds: list[SearchStrategy[Primary]] = [
        st.builds(Presence, of, st.booleans()),
        st.builds(OneOf, of, listed, st.booleans()),
    ]
    if not number:
        plain = [TextTest.OMITS, TextTest.STARTS_WITH, TextTest.ENDS_WITH]
        one_text = st.tuples(TEXTS)
        kinds += [
            st.builds(
                TextCondition, of, st.just(TextTest.CONTAINS), st.lists(TEXTS, min_size=1, max_size=3).map(tuple)
            ),
            st.builds(TextCondition, of, st.sampled_from(plain), one_text),
            st.builds(TextCondition, of, st.just(TextTest.MATCHES), st.tuples(PATTERNS)),
            st.builds(DateCondition, of, st.sampled_from(DateTest), MOMENTS),
            st.builds(RelativeCondition, of, st.sampled_from(RelativeTest), DURATIONS),
        ]
    return st.one_of(kinds)


def _fits(query: Query) -> bool:
    return sum(isinstance(node, Primary) for node in walk(query)) <= MAX_COMPARISONS
