"""Queries as text again, in one canonical form: a line that is read as the tree it was made from.

Texts stand in single quotes, comparators that have a symbol are written with it, and no parentheses change nothing.
"""

from __future__ import annotations

from datetime import date

from audience_sync.query.literals import duration_text, moment_text, path_text, quoted
from audience_sync.query.syntax_tree import (
    And,
    Between,
    Comparison,
    Condition,
    Context,
    DateCondition,
    Duration,
    ExpiresAfter,
    Filter,
    Function,
    Literal,
    Not,
    OneOf,
    Or,
    Presence,
    Property,
    Query,
    Reduction,
    RelativeCondition,
    Scalar,
    Since,
    Sources,
    Stream,
    TextCondition,
    Trait,
    Where,
    Within,
)


def to_text(query: Query) -> str:
    """Return the query in canonical form, on one line unless a text in it has several."""
    if isinstance(query, Literal | Trait | Property | Context | Reduction):
        return _scalar(query)
    return _condition(query)


def _condition(condition: Condition) -> str:
    match condition:
        case Or(operands):
            return " OR ".join(map(_condition, operands))
        case And(operands):
            return " AND ".join(f"({_condition(one)})" if isinstance(one, Or) else _condition(one) for one in operands)
        case Not(And() | Or() as operand):
            return f"NOT ({_condition(operand)})"
        case Not(operand):
            return f"NOT {_condition(operand)}"
        case Comparison(left, operator, right):
            return f"{_scalar(left)} {operator} {_scalar(right)}"
        case _:
            return f"{_scalar(condition.scalar)}.{_comparator(condition)}"


def _comparator(condition: Presence | TextCondition | OneOf | DateCondition | RelativeCondition) -> str:
    match condition:
        case Presence(_, absent):
            return "absent()" if absent else "exists()"
        case TextCondition(_, test, texts):
            return f"{test}({', '.join(map(quoted, texts))})"
        case OneOf(_, values, negated):
            return f"{'none_of' if negated else 'one_of'}({', '.join(map(_scalar, values))})"
        case DateCondition(_, test, moment):
            return f"{test}({moment_text(moment)})"
        case RelativeCondition(_, test, duration):
            return f"{test}({duration_text(duration)})"


def _scalar(scalar: Scalar) -> str:  # noqa: PLR0911 - one return for each kind of value reads best
    match scalar:
        case Literal(bool() as value):
            return "true" if value else "false"
        case Literal(str() as value):
            return quoted(value)
        case Literal(date() as value):
            return moment_text(value)
        case Literal(value):
            return repr(value)
        case Trait(path):
            return f"trait({quoted(path_text(path))})"
        case Property(path, of_parent) | Context(path, of_parent):
            name = "property" if isinstance(scalar, Property) else "context"
            return f"{name}({_parent(of_parent=of_parent)}{quoted(path_text(path))})"
        case Reduction():
            return f"{_stream(scalar.stream)}.{_reducer(scalar)}"


def _reducer(reduction: Reduction) -> str:
    if reduction.of is None:
        return f"{reduction.function}()"
    if reduction.function is Function.UNIQUE_COUNT:
        return f"unique({_scalar(reduction.of)}).count()"
    form = f" as {reduction.form}" if reduction.form is not None else ""
    at_least = f", {reduction.at_least}" if reduction.function is Function.MODE else ""
    return f"{reduction.function}({_scalar(reduction.of)}{form}{at_least})"


def _stream(stream: Stream) -> str:
    return ".".join([f"event({quoted(stream.event)})", *map(_filter, stream.filters)])


def _filter(one: Filter) -> str:
    match one:
        case Where(condition):
            return f"where({_condition(condition)})"
        case Within(duration, of_parent):
            return f"within({_parent(of_parent=of_parent)}{duration_text(duration)})"
        case Between(near, far, of_parent):
            return f"between({_parent(of_parent=of_parent)}{_both(near, far)})"
        case Since(period):
            return f"since(start of {period})"
        case Sources(exclude):
            return f"sources({{exclude: {', '.join(map(quoted, exclude))}}})"
        case ExpiresAfter(duration):
            return f"expires_after({duration_text(duration)})"


def _both(near: Duration, far: Duration) -> str:
    return f"{duration_text(near)}, {duration_text(far)}"


def _parent(*, of_parent: bool) -> str:
    return "parent: " if of_parent else ""
