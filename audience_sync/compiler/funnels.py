"""Funnels: count, reduce or only look for the child events of an event."""

from __future__ import annotations

import sys

import sqlalchemy as sa

from audience_sync.compiler.dialect import Dialect, Expression
from audience_sync.compiler.no_events import compare_numbers
from audience_sync.compiler.selections import Selection
from audience_sync.query.syntax_tree import EACH, Comparison, Condition, Form, Function, Literal, Reduction, Where, walk

# --- deciding events --------------------------------------------------------------------------------------------------
# Which of many events make a reduction what it is: those that a person is shown first.

_BY_VALUE = (Function.FIRST, Function.LAST, Function.MIN, Function.MAX)


def deciding_first(found: Selection, reduction: Reduction) -> list[Expression]:
    """Return the order in which the events come first that decide.

    Of first, last, min and max it is the one with that value; of all others, and of values inside lists, the newest.
    """
    of, at = reduction.of, found.event.time.instant
    oldest_first = reduction.function is Function.FIRST
    by_time = at if oldest_first else at.desc()
    if of is None or EACH in of.path or reduction.function not in _BY_VALUE:
        return [by_time]
    value = found.value(of, of.path)
    text = found.world.dialect.ordered(value.text())
    if reduction.function in (Function.FIRST, Function.LAST):
        return [sa.case((value.present(), 0), else_=1), by_time, text if oldest_first else text.desc()]
    taken = text if reduction.form is Form.STRING else value.number()
    extreme = taken if reduction.function is Function.MIN else taken.desc()
    return [sa.case((taken.is_not(None), 0), else_=1), extreme, by_time]


# --- funnels ----------------------------------------------------------------------------------------------------------


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
