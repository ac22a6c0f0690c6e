"""What a funnel asks of its child events: how many, or what, or only whether there are any."""

from __future__ import annotations

import sys

from audience_sync.compiler.dialect import Dialect
from audience_sync.compiler.emptiness import compare_numbers
from audience_sync.query.syntax_tree import Comparison, Condition, Literal, Reduction, Where, walk
from audience_sync.query.vocabulary import Function


def reductions_of(condition: object) -> list[Reduction]:
    """Return the reductions of a condition or scalar, without those inside their streams."""
    found: list[Reduction] = []
    inner: set[int] = set()
    for node in walk(condition):
        if isinstance(node, Reduction) and id(node) not in inner:
            found.append(node)
            inner.update(id(below) for below in walk(node.stream))
    return found


def counted(condition: Condition, dialect: Dialect) -> list[Reduction]:
    """Return the reductions of a condition that ask for more than whether there is any event."""
    found = reductions_of(condition)
    if not dialect.joins_existence:
        return found
    asked = [one for one in walk(condition) if isinstance(one, Comparison) and existence(one) is not None]
    return [one for one in found if not any(one is comparison.left for comparison in asked) or is_deep(one, dialect)]


def is_deep(reduction: Reduction, dialect: Dialect) -> bool:
    """Return whether the rows of a stream have to be a part of their own."""
    return any(counted(one.condition, dialect) for one in reduction.stream.filters if isinstance(one, Where))


def existence(comparison: Comparison) -> bool | None:
    """Return whether a comparison asks if there is any event, True, or if there is none, False; else None."""
    match comparison:
        case Comparison(Reduction(_, Function.COUNT), sign, Literal(int() | float() as limit)):
            none, *some = [compare_numbers(count, sign, limit) for count in (0, 1, 2, sys.maxsize)]
            return not none if len(set(some)) == 1 and some[0] is not none else None
        case _:
            return None
