"""Conditions and values where they are demanded, or a sentence about what stands there instead and what to do."""

from __future__ import annotations

from audience_sync.errors import QueryError
from audience_sync.query.arguments import Built, Given
from audience_sync.query.chains import Span
from audience_sync.query.mistakes import refusal
from audience_sync.query.tree import (
    And,
    Comparison,
    Condition,
    Context,
    DateCondition,
    Literal,
    Not,
    OneOf,
    Or,
    Presence,
    Property,
    Reduction,
    RelativeCondition,
    Scalar,
    Stream,
    TextCondition,
    Trait,
    kind_of,
)
from audience_sync.query.vocabulary import Function, Kind

CONDITIONS = (Comparison, Presence, TextCondition, OneOf, DateCondition, RelativeCondition, Not, And, Or)


def to_condition(given: Given, demand: str) -> Condition:
    """Return the condition that stands here; `demand` begins the sentence, as in "an audience is a condition".

    Raises:
        QueryError: something else stands here.
    """
    if isinstance(given.value, CONDITIONS):
        return given.value
    if isinstance(given.value, Stream | Literal | Trait | Property | Context | Reduction):
        raise refusal(given.at, f"{demand}, and {_name_and_remedy(given.value)}")
    raise _no_expression(given, demand)


def to_scalar(given: Given, demand: str, *, lists: bool = False) -> Scalar:
    """Return the value that stands here; `demand` begins the sentence, as in "a computed trait is a value".

    Raises:
        QueryError: something else stands here; a list is accepted only where `lists` says so.
    """
    value = given.value
    if isinstance(value, Stream):
        raise refusal(given.at, f"{demand}, and event() is a stream of events: reduce it, as in `.count()`")
    if isinstance(value, CONDITIONS):
        raise refusal(given.at, f"{demand}, and this is a condition")
    if not isinstance(value, Literal | Trait | Property | Context | Reduction):
        raise _no_expression(given, demand)
    if kind_of(value) is Kind.LIST and not lists:
        raise refusal(given.at, f"{demand}, and unique() is a list: count it, as in `.count()`")
    return value


def _no_expression(given: Given, demand: str) -> QueryError:
    if isinstance(given.value, tuple):
        what = "these are several"
    else:
        what = "this is a length of time" if isinstance(given.value, Span) else "this is the start of a period"
    return refusal(given.at, f"{demand}, and {what}")


def _name_and_remedy(built: Built) -> str:  # noqa: PLR0911 - one return for each kind of value reads best
    match built:
        case Stream():
            return "event() is a stream of events: count it, as in `.count() >= 1`"
        case Reduction(function=Function.UNIQUE):
            return "unique() is a list: count it, as in `.count() >= 1`"
        case Reduction(function=Function.UNIQUE_COUNT):
            return "count() is a number: compare it, as in `>= 1`"
        case Reduction(function=function) if kind_of(built) is Kind.NUMBER:
            return f"{function}() is a number: compare it, as in `>= 1`"
        case Reduction(function=function) if kind_of(built) is Kind.TEXT:
            return f"{function}() is a text: compare it, as in `= 'basic'`"
        case Literal():
            return "this is a literal: compare something with it, as in `trait('plan') = 'basic'`"
        case _:
            name = built.function if isinstance(built, Reduction) else type(built).__name__.lower()
            return f"{name}() is a value: compare it, as in `= 'basic'`, or ask for it, as in `.exists()`"
