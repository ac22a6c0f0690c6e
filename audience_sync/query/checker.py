"""Chains of calls as a syntax tree: which call may follow which, what each takes, and where it may stand.

A stream is followed by filters and by one reducer, a value by one comparator, a list by `count()`, a condition by
nothing. `depth` counts the events whose `where` an expression stands in: 0 outside, 1 inside the `where` of an event, 2
inside the `where` of an event in there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from audience_sync.core.text import did_you_mean, shown
from audience_sync.query.arguments import (
    CONDITIONS,
    Built,
    Given,
    check_shape,
    compared,
    condition_of,
    duration,
    form,
    literal,
    no_argument,
    one_argument,
    one_or_more,
    path,
    text,
    to_condition,
    to_scalar,
)
from audience_sync.query.call_chains import (
    Argument,
    Bare,
    Call,
    Chain,
    Compared,
    Constant,
    Joined,
    Negated,
    Several,
    Span,
    StartOf,
    Value,
    Written,
)
from audience_sync.query.function_names import (
    COMPARATORS,
    EXTRACTORS,
    FILTERS,
    REDUCERS,
    alone,
    wrong_after_condition,
    wrong_after_list,
    wrong_after_literal,
    wrong_after_stream,
    wrong_after_value,
    wrong_argument,
    wrong_beginning,
)
from audience_sync.query.literals import seconds_about
from audience_sync.query.query_errors import refusal
from audience_sync.query.syntax_tree import (
    And,
    Between,
    Condition,
    Context,
    Duration,
    ExpiresAfter,
    Filter,
    Function,
    Kind,
    Literal,
    Not,
    Or,
    Period,
    Property,
    Reduction,
    Scalar,
    Since,
    Sources,
    Stream,
    TimeUnit,
    Trait,
    Where,
    Within,
    kind_of,
    walk,
)

MAX_COMPARISONS = 50


def audience(written: Written) -> Condition:
    """Return the condition that an audience is.

    Raises:
        QueryError: it is something else, or something in it is wrong.
    """
    _check_length(written)
    return to_condition(_given(written, 0), "an audience needs a condition")


def computed_trait(written: Written) -> Scalar:
    """Return the value that a computed trait is.

    Raises:
        QueryError: it is something else, or something in it is wrong.
    """
    _check_length(written)
    given = _given(written, 0)
    if isinstance(given.value, CONDITIONS):
        raise refusal(given.at, "a computed trait needs a value, but this is a condition; define it as an audience")
    return to_scalar(given, "a computed trait needs a value", lists=True)


def _check_length(written: Written) -> None:
    comparisons = [
        node.at
        for node in walk(written)
        if isinstance(node, Compared) or (isinstance(node, Chain) and node.calls[-1].name in COMPARATORS)
    ]
    if len(comparisons) > MAX_COMPARISONS:
        raise refusal(
            comparisons[MAX_COMPARISONS],
            f"a query can have at most {MAX_COMPARISONS} comparisons, including those inside `where`; this"
            f" one has {len(comparisons)}",
        )


def _build(written: Written, depth: int) -> Built:
    match written:
        case Constant(constant):
            return constant
        case Bare():
            raise alone(written)
        case Negated(operand):
            return Not(to_condition(_given(operand, depth), "`NOT` takes a condition"))
        case Joined(word, operands):
            return _joined(word, [to_condition(_given(one, depth), f"`{word}` joins conditions") for one in operands])
        case Compared(left, operator, right):
            return compared(
                _given(left, depth), operator, _given(right, depth), f"`{operator}` must have a value on both sides"
            )
        case Chain(calls):
            built = _extracted(calls[0], depth)
            for before, call in pairwise(calls):
                built = _followed(built, before, call, depth)
            return built


def _joined(word: str, operands: list[Condition]) -> Condition:
    """Return the conditions as one; what is joined by the same word inside them is one with it."""
    kind = And if word == "AND" else Or
    return kind(tuple(inner for one in operands for inner in (one.operands if isinstance(one, kind) else (one,))))


def _extracted(call: Call, depth: int) -> Built:
    if call.name not in EXTRACTORS:
        raise wrong_beginning(call)
    given = [_argument(one, depth) for one in call.arguments]
    check_shape(call, given)
    only = one_argument(call, given)
    match call.name:
        case "event":
            return Stream(text(call, only))
        case "trait":
            return Trait(path(call, only), call.at)
        case "literal":
            return literal(call, only)
        case _:
            of_parent = only.label is not None
            _check_around(call, depth, of_parent=of_parent)
            kind = Property if call.name == "property" else Context
            return kind(path(call, only), of_parent, call.at)


def _check_around(call: Call, depth: int, *, of_parent: bool) -> None:
    if not depth:
        raise refusal(
            call.at,
            f"`{call.name}` reads from an event: use it inside `where`, as in event('Order"
            f" Completed').where({call.name}('name') = 'value'), or in a function such as `sum`",
        )
    if of_parent and depth < 2:
        raise refusal(
            call.arguments[0].at,
            "`parent:` has no parent event here; use it in the `where` of an event inside another `where`",
        )


def _followed(built: Built, before: Call, call: Call, depth: int) -> Built:
    if isinstance(built, CONDITIONS):
        raise wrong_after_condition(before, call)
    if isinstance(built, Stream):
        if call.name not in FILTERS and call.name not in REDUCERS:
            raise wrong_after_stream(call)
        given = _arguments(call, depth if call.name in FILTERS and call.name != "where" else depth + 1)
        return filtered(built, call, given, depth=depth) if call.name in FILTERS else reduced(built, call, given)
    if isinstance(built, Literal):
        raise wrong_after_literal(call)
    if isinstance(built, Reduction) and kind_of(built) is Kind.LIST:
        if call.name != "count":
            raise wrong_after_list(call)
        one_counted = reduced(built.stream, call, _arguments(call, depth))
        return Reduction(one_counted.stream, Function.UNIQUE_COUNT, built.of)
    if call.name not in COMPARATORS:
        raise wrong_after_value(before, call)
    return condition_of(built, before, call, _arguments(call, depth))


def _arguments(call: Call, depth: int) -> list[Given]:
    given = [_argument(one, depth) for one in call.arguments]
    check_shape(call, given)
    return given


def _argument(argument: Argument, depth: int) -> Given:
    given = _given(argument.value, depth)
    at = given.at if argument.label is None else argument.at
    return Given(given.value, at, argument.label, argument.form)


def _given(value: Value, depth: int) -> Given:
    match value:
        case Several(values, at):
            return Given(tuple(_given(one, depth) for one in values), at)
        case Span(_, at) | StartOf(_, at):
            return Given(value, at)
        case Chain(calls):
            return Given(_build(value, depth), calls[-1].at)
        case _:
            return Given(_build(value, depth), value.at)


MODE_AT_LEAST = 2  # how often a value must occur if `mode` does not say


def filtered(stream: Stream, call: Call, given: Sequence[Given], *, depth: int) -> Stream:
    """Return a stream with the filter that a call is; `depth` counts the events whose `where` it stands in.

    Raises:
        QueryError: the filter takes something else, or does not belong here.
    """
    return replace(stream, filters=(*stream.filters, _filter(call, given, depth)))


def _filter(call: Call, given: Sequence[Given], depth: int) -> Filter:
    match call.name:
        case "where":
            return Where(to_condition(one_argument(call, given), "`where` takes a condition"))
        case "within":
            only = one_argument(call, given)
            return Within(_checked(duration(call, only), only, depth), of_parent=only.label is not None)
        case "between":
            return _between(call, given, depth)
        case "since":
            return Since(_period(call, one_argument(call, given)))
        case "sources":
            return Sources(tuple(text(call, one) for one in one_or_more(call, given)), call.at)
        case _:
            if depth:
                raise refusal(
                    call.at,
                    "`expires_after` is not allowed inside `where`: sessions are formed from the outermost events",
                )
            only = one_argument(call, given)
            return ExpiresAfter(_fixed(duration(call, only), only, "in `expires_after`"))


def _between(call: Call, given: Sequence[Given], depth: int) -> Between:
    if len(given) != 2:
        raise wrong_argument(call, given[2].at if len(given) > 2 else None)
    of_parent = given[0].label is not None
    ends = [duration(call, one, least=0) for one in given]
    for one, end in zip(given, ends, strict=True):
        _checked(end, replace(one, label=given[0].label), depth)
    near, far = sorted(ends, key=seconds_about)
    return Between(near, far, of_parent)


def _checked(length: Duration, given: Given, depth: int) -> Duration:
    if given.label is None:
        return length
    if not depth:
        raise refusal(given.at, "`parent:` has no parent event here; use it in the `where` of another event")
    return _fixed(length, given, "after `parent:`")


def _fixed(length: Duration, given: Given, place: str) -> Duration:
    if length.unit is TimeUnit.MONTH:
        raise refusal(given.at, f"months have no fixed length {place}; use days, as in `30 days`")
    return length


def _period(call: Call, given: Given) -> Period:
    if not isinstance(given.value, StartOf):
        raise wrong_argument(call, given.at)
    name = given.value.period.lower()
    if name not in list(Period):
        advice = did_you_mean(name, Period) or f"use one of {', '.join(Period)}"
        raise refusal(given.at, f"unknown period {shown(given.value.period)}; {advice}")
    return Period(name)


def reduced(stream: Stream, call: Call, given: Sequence[Given]) -> Reduction:
    """Return the value that a call makes of a stream.

    Raises:
        QueryError: the reducer takes something else.
    """
    function = Function(call.name)
    if function is Function.COUNT:
        no_argument(call, given)
        return Reduction(stream, function)
    if function is Function.MODE and given:
        of, *rest = given
        at_least = _occurrences(call, rest) if rest else MODE_AT_LEAST
        return Reduction(stream, function, _reducible(call, of), form(call, of), at_least)
    of = one_argument(call, given)
    return Reduction(stream, function, _reducible(call, of), form(call, of))


def _reducible(call: Call, given: Given) -> Property | Context:
    if not isinstance(given.value, Property | Context):
        raise wrong_argument(call, given.at)
    if given.value.of_parent:
        raise refusal(given.at, f"`{call.name}` reads only its own events; use `parent:` in the `where` of its events")
    return given.value


def _occurrences(call: Call, given: Sequence[Given]) -> int:
    match one_argument(call, given).value:
        case Literal(int(at_least)) if at_least >= 1 and not isinstance(at_least, bool):
            return at_least
        case _:
            raise wrong_argument(call, given[0].at)
