"""The result of a query for a user without certain events: users who cannot match are not looked at."""

from __future__ import annotations

import operator
from collections.abc import Set
from typing import Final

from audience_sync.query.syntax_tree import (
    And,
    Comparison,
    Condition,
    Function,
    Literal,
    Not,
    Operator,
    Or,
    Presence,
    Reduction,
    Scalar,
    TextCondition,
    TextTest,
)

NEVER_NULL: Final = (Function.COUNT, Function.UNIQUE_COUNT)
"""Reductions that are 0 without events; every other reduction is null then."""
_SIGNS: Final = {
    Operator.EQUALS: operator.eq,
    Operator.DIFFERS: operator.ne,
    Operator.LESS_THAN: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.GREATER_THAN: operator.gt,
    Operator.AT_LEAST: operator.ge,
}


def is_false_without(condition: Condition, empty: Set[Reduction]) -> bool:
    """Return whether a condition surely does not hold where the streams of these reductions are empty."""
    return bool(empty) and _truth(condition, empty) is False


def compare_numbers(left: float, sign: Operator, right: float) -> bool:
    """Return how two numbers compare."""
    return bool(_SIGNS[sign](left, right))


def _truth(condition: Condition, empty: Set[Reduction]) -> bool | None:  # noqa: PLR0911 - one return for each kind
    """Return whether a condition holds, None when that depends on something else."""
    match condition:
        case And(operands):
            found = [_truth(one, empty) for one in operands]
            return False if False in found else None if None in found else True
        case Or(operands):
            found = [_truth(one, empty) for one in operands]
            return True if True in found else None if None in found else False
        case Not(operand):
            inner = _truth(operand, empty)
            return None if inner is None else not inner
        case Presence(scalar, absent) if scalar in empty:
            return _is_null(scalar, empty) is absent
        case TextCondition(scalar, test, _) if _is_null(scalar, empty):
            return test is TextTest.OMITS
        case Comparison(left, sign, right):
            return _compared(left, sign, right, empty)
        case Presence() | TextCondition():
            return None
        case _:
            return False if _is_null(condition.scalar, empty) else None


def _compared(left: Scalar, sign: Operator, right: Scalar, empty: Set[Reduction]) -> bool | None:
    if _is_null(left, empty) or _is_null(right, empty):
        return False
    a, b = _number(left, empty), _number(right, empty)
    return None if a is None or b is None else compare_numbers(a, sign, b)


def _is_null(scalar: Scalar, empty: Set[Reduction]) -> bool:
    return isinstance(scalar, Reduction) and scalar in empty and scalar.function not in NEVER_NULL


def _number(scalar: Scalar, empty: Set[Reduction]) -> float | None:
    if isinstance(scalar, Reduction):
        return 0 if scalar in empty and scalar.function in NEVER_NULL else None
    if isinstance(scalar, Literal) and isinstance(scalar.value, int | float) and not isinstance(scalar.value, bool):
        return scalar.value
    return None
