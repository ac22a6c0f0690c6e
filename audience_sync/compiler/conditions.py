"""Conditions as SQL: every comparator gives true, false or NULL, and NULL is false wherever it is asked.

AND, OR and WHERE treat NULL as false by themselves; only NOT has to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import assert_never

import sqlalchemy as sa

from audience_sync.compiler.dialect import Dialect, Expression, Truth, Value
from audience_sync.compiler.scalars import MomentValue, NumberValue, TextValue
from audience_sync.query import calendar
from audience_sync.query import literals as words
from audience_sync.query.syntax_tree import (
    EACH,
    And,
    Comparison,
    Condition,
    Context,
    DateCondition,
    DateTest,
    Duration,
    Kind,
    Literal,
    Not,
    OneOf,
    Operator,
    Or,
    Path,
    Presence,
    Property,
    Reduction,
    RelativeCondition,
    RelativeTest,
    Scalar,
    TextCondition,
    TextTest,
    Trait,
    kind_of,
)

Build = Callable[[Value], Truth]


@dataclass(frozen=True)
class Scope:
    """The meaning of the words of a condition, and the instant it is evaluated for."""

    dialect: Dialect
    as_of: datetime
    zone: tzinfo
    look_up: Callable[[Trait | Property | Context, Path], Value]
    reduced: Callable[[Reduction], Value]
    happened: Callable[[Comparison], Truth | None]  # whether there is any event, where a count asks no more

    def ago(self, duration: Duration, *, sign: int = -1) -> datetime:
        """Return the instant that lies a duration in the past, or with `sign` 1 in the future."""
        return calendar.shifted(self.as_of, duration, self.zone, sign=sign)


def truth(condition: Condition, scope: Scope) -> Truth:  # noqa: PLR0911 - one return for each kind reads best
    """Return whether a condition holds."""
    match condition:
        case And(operands):
            return sa.and_(*[truth(one, scope) for one in operands])
        case Or(operands):
            return sa.or_(*[truth(one, scope) for one in operands])
        case Not(operand):
            return opposite(truth(operand, scope))
        case Comparison(left, operator, right):
            happened = scope.happened(condition)
            if happened is not None:
                return happened

            def compare(a: Value, b: Value) -> Truth:
                return _compared(a, operator, b, written=condition, dialect=scope.dialect)

            return _with(left, scope, lambda a: _with(right, scope, lambda b: compare(a, b)))
        case Presence(scalar, absent):
            found = _with(scalar, scope, lambda value: value.present())
            return opposite(found) if absent else found
        case TextCondition(scalar, TextTest.OMITS, texts):
            omits = TextTest.OMITS
            lacking = _with(scalar, scope, lambda value: _text_test(value.text(), omits, texts, scope.dialect))
            return sa.or_(lacking, opposite(_with(scalar, scope, lambda _: sa.true())))
        case TextCondition(scalar, looked_for, texts):
            return _with(scalar, scope, lambda value: _text_test(value.text(), looked_for, texts, scope.dialect))
        case OneOf(scalar, values, negated):

            def equal(value: Value) -> Truth:
                found = _one_of(value, values, scope, subject=scalar)
                return sa.and_(value.present(), opposite(found)) if negated else found

            return _with(scalar, scope, equal)
        case DateCondition(scalar, test, written):
            limit = scope.dialect.instant(calendar.moment(written, scope.zone))
            before = test is DateTest.BEFORE_DATE
            return _with(scalar, scope, lambda value: value.moment() < limit if before else value.moment() > limit)
        case RelativeCondition(scalar, relative, duration):
            return _with(scalar, scope, lambda value: _relative(value.moment(), relative, duration, scope))
        case _:
            assert_never(condition)


def opposite(found: Truth) -> Truth:
    """Return the exact opposite of what holds: what is NULL does not."""
    return sa.not_(sa.func.coalesce(found, sa.false()))


def _with(scalar: Scalar, scope: Scope, build: Build) -> Truth:
    """Return what is built of a scalar's value; of a path with `$`, whether it holds for any element."""
    match scalar:
        case Literal(value):
            return build(constant(value, scope))
        case Reduction():
            return build(scope.reduced(scalar))
        case Trait(path) | Property(path) | Context(path):
            if EACH not in path:
                return build(scope.look_up(scalar, path))
            outer = path[: path.index(EACH)]
            return _any_element(scope.look_up(scalar, outer), path[len(outer) + 1 :], scope.dialect, build)
        case _:
            assert_never(scalar)


def _any_element(value: Value, path: Path, dialect: Dialect, build: Build) -> Truth:
    rows, inside = dialect.elements(value)
    if EACH in path:
        outer = path[: path.index(EACH)]
        found = _any_element(inside(outer), path[len(outer) + 1 :], dialect, build)
    else:
        found = build(inside(path))
    return sa.select(sa.literal_column("1")).select_from(rows).where(found).correlate_except(rows).exists()


def constant(value: str | float | bool | date | datetime, scope: Scope) -> Value:
    """Return a value written in the query; a whole number is a double as all numbers are."""
    match value:
        case bool():
            return TextValue(sa.literal("true" if value else "false", sa.Text), scope.dialect)
        case int() | float():
            return NumberValue(sa.literal(float(value), sa.Double), scope.dialect)
        case str():
            number = words.number_of_text(value)
            if number is not None:
                return NumberValue(sa.literal(number, sa.Double), scope.dialect)
            return TextValue(sa.literal(value, sa.Text), scope.dialect)
        case _:
            instant = scope.dialect.instant(calendar.moment(value, scope.zone))
            return MomentValue(instant, sa.literal(value.isoformat(), sa.Text), scope.dialect)


def _compared(left: Value, operator: Operator, right: Value, *, written: Comparison, dialect: Dialect) -> Truth:
    """Return how two values compare; what is known of either spares asking what it is."""
    if operator is Operator.DIFFERS:
        equal = _compared(left, Operator.EQUALS, right, written=written, dialect=dialect)
        return sa.and_(left.present(), right.present(), opposite(equal))
    if Kind.MOMENT in (kind_of(written.left), kind_of(written.right)):
        return _ordered(left.moment(), operator, right.moment())
    if isinstance(left, NumberValue) or isinstance(right, NumberValue):
        return _ordered(left.number(), operator, right.number())
    a, b = left.number(), right.number()
    if operator is Operator.EQUALS:
        if isinstance(written.left, Literal) or isinstance(written.right, Literal):  # a text that is not a number
            return left.text() == right.text()
        return sa.case((sa.and_(a.is_not(None), b.is_not(None)), a == b), else_=left.text() == right.text())
    texts = _ordered(dialect.ordered(left.text()), operator, dialect.ordered(right.text()))
    no_numbers = sa.and_(a.is_(None), b.is_(None), texts)
    return sa.or_(sa.and_(a.is_not(None), b.is_not(None), _ordered(a, operator, b)), no_numbers)


def _ordered(left: Expression, operator: Operator, right: Expression) -> Truth:
    match operator:
        case Operator.EQUALS:
            return left == right
        case Operator.DIFFERS:
            return left != right
        case Operator.LESS_THAN:
            return left < right
        case Operator.AT_MOST:
            return left <= right
        case Operator.GREATER_THAN:
            return left > right
        case Operator.AT_LEAST:
            return left >= right
        case _:
            assert_never(operator)


def _one_of(value: Value, literals: tuple[Literal, ...], scope: Scope, *, subject: Scalar) -> Truth:
    """Return whether a value equals any of several literals."""
    return sa.or_(
        *[
            _compared(
                value,
                Operator.EQUALS,
                constant(literal.value, scope),
                written=Comparison(subject, Operator.EQUALS, literal),
                dialect=scope.dialect,
            )
            for literal in literals
        ]
    )


def _text_test(text: Expression, test: TextTest, parts: tuple[str, ...], dialect: Dialect) -> Truth:
    match test:
        case TextTest.CONTAINS:
            return sa.or_(*[dialect.holds(text, part) for part in parts])
        case TextTest.OMITS:
            return opposite(sa.or_(*[dialect.holds(text, part) for part in parts]))
        case TextTest.STARTS_WITH:
            return sa.or_(*[sa.func.substr(text, 1, len(part)) == part for part in parts])
        case TextTest.ENDS_WITH:
            size = sa.func.length(text)
            return sa.or_(
                *[sa.and_(size >= len(one), sa.func.substr(text, size - (len(one) - 1)) == one) for one in parts]
            )
        case TextTest.MATCHES:
            return sa.or_(*[dialect.matches(text, pattern) for pattern in parts])
        case _:
            assert_never(test)


def _relative(moment: Expression, test: RelativeTest, duration: Duration, scope: Scope) -> Truth:
    def instant(at: datetime) -> Expression:
        return scope.dialect.instant(at)

    match test:
        case RelativeTest.WITHIN_LAST:
            return sa.and_(moment >= instant(scope.ago(duration)), moment <= instant(scope.as_of))
        case RelativeTest.WITHIN_NEXT:
            return sa.and_(moment >= instant(scope.as_of), moment <= instant(scope.ago(duration, sign=1)))
        case RelativeTest.BEFORE_LAST:
            return moment <= instant(scope.ago(duration))
        case RelativeTest.AFTER_NEXT:
            return moment >= instant(scope.ago(duration, sign=1))
        case _:
            assert_never(test)
