"""Checked expressions read as what their place demands: a condition, a value, one side of a comparison, an argument.

Where something else stands there, a sentence says what it is and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

from audience_sync.core.text import did_you_mean, shown
from audience_sync.errors import QueryError
from audience_sync.query.call_chains import Call, Span, StartOf
from audience_sync.query.function_names import DATE_TESTS, OPERATORS, RELATIVE_TESTS, wrong_argument
from audience_sync.query.literals import check_pattern, literal_moment, number_of_text, path_of, quoted
from audience_sync.query.query_errors import refusal
from audience_sync.query.syntax_tree import (
    And,
    Comparison,
    Condition,
    Context,
    DateCondition,
    DateTest,
    Duration,
    Form,
    Function,
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
    Stream,
    TextCondition,
    TextTest,
    Trait,
    kind_of,
)

CONDITIONS = (Comparison, Presence, TextCondition, OneOf, DateCondition, RelativeCondition, Not, And, Or)


def to_condition(given: Given, demand: str) -> Condition:
    """Return the condition that stands here; `demand` begins the sentence, as in "an audience is a condition".

    Raises:
        QueryError: something else stands here.
    """
    if isinstance(given.value, CONDITIONS):
        return given.value
    if isinstance(given.value, Stream | Literal | Trait | Property | Context | Reduction):
        raise refusal(given.at, f"{demand}, but {_name_and_remedy(given.value)}")
    raise _no_expression(given, demand)


def to_scalar(given: Given, demand: str, *, lists: bool = False) -> Scalar:
    """Return the value that stands here; `demand` begins the sentence, as in "a computed trait is a value".

    Raises:
        QueryError: something else stands here; a list is accepted only where `lists` says so.
    """
    value = given.value
    if isinstance(value, Stream):
        raise refusal(given.at, f"{demand}, but event() is a stream of events; reduce it first, as in `.count()`")
    if isinstance(value, CONDITIONS):
        raise refusal(given.at, f"{demand}, but this is a condition")
    if not isinstance(value, Literal | Trait | Property | Context | Reduction):
        raise _no_expression(given, demand)
    if kind_of(value) is Kind.LIST and not lists:
        raise refusal(given.at, f"{demand}, but unique() is a list; count it, as in `.count()`")
    return value


def _no_expression(given: Given, demand: str) -> QueryError:
    if isinstance(given.value, tuple):
        what = "this is more than one"
    else:
        what = "this is a duration" if isinstance(given.value, Span) else "this is the start of a period"
    return refusal(given.at, f"{demand}, but {what}")


def _name_and_remedy(built: Built) -> str:  # noqa: PLR0911 - one return for each kind of value reads best
    match built:
        case Stream():
            return "event() is a stream of events; count it, as in `.count() >= 1`"
        case Reduction(function=Function.UNIQUE):
            return "unique() is a list; count it, as in `.count() >= 1`"
        case Reduction(function=Function.UNIQUE_COUNT):
            return "count() is a number; compare it, as in `>= 1`"
        case Reduction(function=function) if kind_of(built) is Kind.NUMBER:
            return f"{function}() is a number; compare it, as in `>= 1`"
        case Reduction(function=function) if kind_of(built) is Kind.TEXT:
            return f"{function}() is text; compare it, as in `= 'basic'`"
        case Literal():
            return "this is a literal; compare a value with it, as in `trait('plan') = 'basic'`"
        case _:
            name = built.function if isinstance(built, Reduction) else type(built).__name__.lower()
            return f"{name}() is a value; compare it, as in `= 'basic'`, or test for it, as in `.exists()`"


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
        QueryError: one side is not a value, or the two can never be compared.
    """
    comparison = Comparison(to_scalar(left, demand), operator, to_scalar(right, demand))
    if isinstance(comparison.left, Literal) and isinstance(comparison.right, Literal):
        raise refusal(left.at, "a comparison of two literals is the same for every user; compare a trait or property")
    for one, other, at in (
        (comparison.left, comparison.right, right.at),
        (comparison.right, comparison.left, left.at),
    ):
        if isinstance(other, Literal):
            _check_pair(one, operator, other, at)
    return comparison


def _check_pair(scalar: Scalar, operator: Operator, other: Literal, at: int) -> None:
    if isinstance(other.value, bool) and operator not in _EQUALITY:
        raise refusal(at, f"`{operator}` does not work with true and false; use `=` or `!=`")
    if kind_of(scalar) is not Kind.NUMBER:
        return
    match other.value:
        case bool():
            raise refusal(at, "a number cannot be compared with true or false; compare it with a number, as in `>= 1`")
        case str(value) if number_of_text(value) is None:
            raise refusal(at, f"a number cannot be compared with the text {shown(quoted(value))}")
        case date():
            raise refusal(at, "a number cannot be compared with a date; compare it with a number, as in `>= 1`")
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
        raise refusal(call.at, f"`{call.name}` tests {looked_at}, but `{before.name}` returns a number")


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


Built: TypeAlias = Stream | Scalar | Condition
"""The kinds of expression in a query."""

_LABELS = {
    "property": "parent",
    "context": "parent",
    "within": "parent",
    "between": "parent",
    "sources": "exclude",
}
_FORMS = {
    "min": (Form.NUMBER, Form.STRING),
    "max": (Form.NUMBER, Form.STRING),
    "mode": (Form.NUMBER, Form.STRING, Form.ARRAY),
}


@dataclass(frozen=True, slots=True)
class Given:
    """An argument whose expression is checked."""

    value: Built | Span | StartOf | tuple[Given, ...]
    at: int  # of what a sentence about it points at
    label: str | None = None
    form: str | None = None


def check_shape(call: Call, given: Sequence[Given]) -> None:
    """Refuse braces, labels and types that the call does not know.

    Raises:
        QueryError: it has one.
    """
    if call.braces and call.name not in ("where", "sources"):
        raise refusal(call.at, f"`{call.name}` does not take braces; only `where` and `sources` do")
    for place, one in enumerate(given):
        if one.label is not None and one.label != (_LABELS.get(call.name) if place == 0 else None):
            raise refusal(one.at, _wrong_label(call, one.label, place))
        if one.form is not None and (call.name not in _FORMS or place):
            raise refusal(
                one.at, f"`as` is only allowed after the property of `min`, `max` and `mode`, not of `{call.name}`"
            )


def no_argument(call: Call, given: Sequence[Given]) -> None:
    """Refuse any argument.

    Raises:
        QueryError: there is one.
    """
    if given:
        raise wrong_argument(call, given[0].at)


def one_argument(call: Call, given: Sequence[Given]) -> Given:
    """Return the only argument.

    Raises:
        QueryError: there are none or more.
    """
    if len(given) != 1:
        raise wrong_argument(call, given[1].at if given else None)
    return given[0]


def one_or_more(call: Call, given: Sequence[Given]) -> list[Given]:
    """Return the arguments, which may stand in brackets.

    Raises:
        QueryError: there is none.
    """
    if len(given) == 1 and isinstance(given[0].value, tuple):
        return list(given[0].value)
    if not given:
        raise wrong_argument(call)
    return list(given)


def text(call: Call, given: Given) -> str:
    """Return the text that an argument is.

    Raises:
        QueryError: it is something else.
    """
    match given.value:
        case Literal(str() as value):
            return value
        case _:
            raise wrong_argument(call, given.at)


def path(call: Call, given: Given) -> Path:
    """Return the path that an argument is.

    Raises:
        QueryError: it is not a text, or its text is not a path.
    """
    try:
        return path_of(text(call, given))
    except ValueError as error:
        raise refusal(given.at, str(error)) from None


def literal(call: Call, given: Given) -> Literal:
    """Return the text, number, date or truth value that an argument is.

    Raises:
        QueryError: it is something else.
    """
    match given.value:
        case Literal() as value:
            return value
        case _:
            raise wrong_argument(call, given.at)


def duration(call: Call, given: Given, least: int = 1) -> Duration:
    """Return the duration that an argument is, of at least `least` units.

    Raises:
        QueryError: it is something else, or shorter.
    """
    match given.value:
        case Span(length) if length.amount >= least:
            return length
        case Span(length):
            raise refusal(given.at, f"`{call.name}` needs at least 1 {length.unit.value}")
        case Literal(int()):
            raise refusal(given.at, f"the unit is missing; `{call.name}` takes {_duration_example(call)}")
        case _:
            raise wrong_argument(call, given.at)


def form(call: Call, given: Given) -> Form | None:
    """Return the type that an argument is taken `as`, None if it does not say.

    Raises:
        QueryError: the type is unknown, or the call does not take it.
    """
    if given.form is None:
        return None
    known = _FORMS[call.name]
    if given.form.lower() not in known:
        names = " or ".join(f"`{one}`" for one in known) if len(known) == 2 else "`number`, `string` or `array`"
        raise refusal(given.at, f"`{call.name}` takes a property as {names}, not as {shown(given.form)}")
    return Form(given.form.lower())


def _wrong_label(call: Call, label: str, place: int) -> str:
    known = _LABELS.get(call.name)
    if known is None:
        return f"`{call.name}` has no {shown(label + ':')}"
    if place and label == known:
        return f"put `{known}:` before the first argument of `{call.name}`"
    advice = did_you_mean(label + ":", [known + ":"]) or f"only `{known}:` is allowed"
    return f"`{call.name}` has no {shown(label + ':')}; {advice}"


def _duration_example(call: Call) -> str:
    return "durations such as `7 days`" if call.name == "between" else "a duration such as `7 days`"
