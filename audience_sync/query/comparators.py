"""What a value is compared with, and whether the two can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from audience_sync.query.arguments import Given, duration, literal, no_argument, one_argument, one_or_more, text
from audience_sync.query.chains import Call
from audience_sync.query.mistakes import refusal, shown
from audience_sync.query.names import DATE_TESTS, OPERATORS, RELATIVE_TESTS, wrong_argument
from audience_sync.query.patterns import check_pattern
from audience_sync.query.sentences import to_scalar
from audience_sync.query.tree import (
    Comparison,
    Condition,
    DateCondition,
    Literal,
    OneOf,
    Presence,
    RelativeCondition,
    Scalar,
    TextCondition,
    kind_of,
)
from audience_sync.query.vocabulary import DateTest, Kind, Operator, RelativeTest, TextTest
from audience_sync.query.words import literal_moment, number_of_text, quoted

_EQUALITY = (Operator.EQUALS, Operator.DIFFERS)


def condition_of(scalar: Scalar, before: Call, call: Call, given: Sequence[Given]) -> Condition:
    """Return the condition that a call makes of the value that the call before it gives.

    Raises:
        QueryError: the comparator takes something else, or cannot look at such a value.
    """
    match call.name:
        case "exists" | "absent":
            no_argument(call, given)
            return Presence(scalar, absent=call.name == "absent")
        case "one_of" | "none_of":
            return _one_of(scalar, call, given)
        case name if name in OPERATORS:
            right = one_argument(call, given)
            return compared(Given(scalar, before.at), Operator[name.upper()], right, f"`{name}` takes a value")
        case name if name in DATE_TESTS or name in RELATIVE_TESTS:
            _refuse_numbers(scalar, before, call, "dates")
            return _about_time(scalar, call, one_argument(call, given))
        case _:
            _refuse_numbers(scalar, before, call, "texts")
            return _about_text(scalar, call, given)


def compared(left: Given, operator: Operator, right: Given, demand: str) -> Comparison:
    """Return the comparison of two values.

    Raises:
        QueryError: one is no value, or the two can never be compared.
    """
    comparison = Comparison(to_scalar(left, demand), operator, to_scalar(right, demand))
    if isinstance(comparison.left, Literal) and isinstance(comparison.right, Literal):
        raise refusal(left.at, "two literals are compared, which is the same for everybody: one side must be a value")
    for one, other, at in (
        (comparison.left, comparison.right, right.at),
        (comparison.right, comparison.left, left.at),
    ):
        if isinstance(other, Literal):
            _check_pair(one, operator, other, at)
    return comparison


def _check_pair(scalar: Scalar, operator: Operator, other: Literal, at: int) -> None:
    if isinstance(other.value, bool) and operator not in _EQUALITY:
        raise refusal(at, f"`{operator}` needs an order, and true and false have none: use `=` or `!=`")
    if kind_of(scalar) is not Kind.NUMBER:
        return
    match other.value:
        case bool():
            raise refusal(at, "a number is never true or false: compare it with a number, as in `>= 1`")
        case str(value) if number_of_text(value) is None:
            raise refusal(at, f"a number is compared with the text {shown(quoted(value))}, which is not written as one")
        case date():
            raise refusal(at, "a number is compared with a date: compare it with a number, as in `>= 1`")
        case _:
            pass


def _one_of(scalar: Scalar, call: Call, given: Sequence[Given]) -> OneOf:
    values = []
    for one in one_or_more(call, given):
        values.append(literal(call, one))
        _check_pair(scalar, Operator.EQUALS, values[-1], one.at)
    return OneOf(scalar, tuple(values), negated=call.name == "none_of")


def _refuse_numbers(scalar: Scalar, before: Call, call: Call, looked_at: str) -> None:
    if kind_of(scalar) is Kind.NUMBER:
        raise refusal(call.at, f"`{call.name}` looks at {looked_at}, and `{before.name}` gives a number")


def _about_time(scalar: Scalar, call: Call, given: Given) -> Condition:
    if call.name in RELATIVE_TESTS:
        return RelativeCondition(scalar, RelativeTest(call.name), duration(call, given))
    match given.value:
        case Literal(date() as moment):
            return DateCondition(scalar, DateTest(call.name), moment)
        case Literal(str(written)):
            try:
                return DateCondition(scalar, DateTest(call.name), literal_moment(written))
            except ValueError:
                raise wrong_argument(call, given.at) from None
        case _:
            raise wrong_argument(call, given.at)


def _about_text(scalar: Scalar, call: Call, given: Sequence[Given]) -> TextCondition:
    several = one_or_more(call, given) if call.name == "contains" else [one_argument(call, given)]
    texts = tuple(text(call, one) for one in several)
    if call.name == "matches":
        try:
            check_pattern(texts[0])
        except ValueError as error:
            raise refusal(several[0].at, str(error)) from None
    return TextCondition(scalar, TextTest(call.name), texts)
