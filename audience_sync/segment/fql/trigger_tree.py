"""The syntax tree of a trigger, and its text again. `matcher` has the meaning of a condition for an event."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

Field: TypeAlias = tuple[str, ...]
"""The path of a value in an event."""

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FieldComparison:
    """A field against one value; `<`, `<=`, `>` and `>=` have a number."""

    field: Field
    operator: str  # = != < <= > >=
    value: Scalar


@dataclass(frozen=True, slots=True)
class TextCall:
    """Whether a text contains another, or fits a pattern; for a value that is not text, this and its negation fail."""

    function: str  # contains, match
    field: Field
    text: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class FieldOneOf:
    """Whether a field equals one of several values; negated: none of them."""

    field: Field
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Has:
    """Whether a field is a list that has a value."""

    field: Field
    value: Scalar


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a field is there and is not null."""

    field: Field


@dataclass(frozen=True, slots=True)
class TriggerNot:
    """The opposite of an expression."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class TriggerAnd:
    """Whether all of two or more expressions are true."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class TriggerOr:
    """Whether any of two or more expressions is true."""

    operands: tuple[Expression, ...]


Condition: TypeAlias = FieldComparison | TextCall | FieldOneOf | Has | Exists
Expression: TypeAlias = Condition | TriggerNot | TriggerAnd | TriggerOr


def to_text(expression: Expression) -> str:  # noqa: PLR0911 - one return for each kind of expression reads best
    """Return a trigger in canonical form: double quotes, keywords in small letters, no parentheses without need."""
    match expression:
        case FieldComparison(field, operator, value):
            return f"{path_text(field)} {operator} {_value_text(value)}"
        case TextCall(function, field, text, negated):
            return f"{'!' if negated else ''}{function}({path_text(field)}, {_value_text(text)})"
        case FieldOneOf(field, values, negated):
            return f"{path_text(field)} {'not ' if negated else ''}in [{', '.join(map(_value_text, values))}]"
        case Has(field, value):
            return f"{_value_text(value)} in {path_text(field)}"
        case Exists(field):
            return f"exists({path_text(field)})"
        case TriggerNot(TriggerAnd() | TriggerOr() | TextCall(negated=False) as operand):
            return f"not ({to_text(operand)})"
        case TriggerNot(operand):
            return f"not {to_text(operand)}"
        case TriggerAnd(operands):
            return " and ".join(f"({to_text(one)})" if isinstance(one, TriggerOr) else to_text(one) for one in operands)
        case TriggerOr(operands):
            return " or ".join(map(to_text, operands))


def path_text(field: Field) -> str:
    """Return a path as it is written in a trigger."""
    return ".".join(re.sub(r"([^\w-])", r"\\\1", name) or '""' for name in field)


def conditions(expression: Expression) -> list[Condition]:
    """Return the conditions of a trigger in the order in which they are read."""
    match expression:
        case TriggerAnd(operands) | TriggerOr(operands):
            return list(chain.from_iterable(map(conditions, operands)))
        case TriggerNot(operand):
            return conditions(operand)
        case condition:
            return [condition]


def fields(expression: Expression) -> frozenset[Field]:
    """Return the paths of an event that a trigger reads."""
    return frozenset(condition.field for condition in conditions(expression))


def all_of(operands: list[Expression]) -> Expression:
    """Return one or more expressions joined by `and`."""
    joined = [inner for one in operands for inner in (one.operands if isinstance(one, TriggerAnd) else (one,))]
    return TriggerAnd(tuple(joined)) if len(joined) > 1 else joined[0]


def any_of(operands: list[Expression]) -> Expression:
    """Return one or more expressions joined by `or`."""
    joined = [inner for one in operands for inner in (one.operands if isinstance(one, TriggerOr) else (one,))]
    return TriggerOr(tuple(joined)) if len(joined) > 1 else joined[0]


def _value_text(value: Scalar) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            # Only where it would be read otherwise has a backslash another one before it.
            return '"' + re.sub(r'(\\(?=["\\]|\Z)|")', r"\\\1", value) + '"'
        case _:
            return repr(value)
