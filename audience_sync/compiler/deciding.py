"""Which of many events make a reduction what it is: those that a person is shown first."""

from __future__ import annotations

import sqlalchemy as sa

from audience_sync.compiler.dialect import Expression
from audience_sync.compiler.selections import Selection
from audience_sync.query.syntax_tree import EACH, Reduction
from audience_sync.query.vocabulary import Form, Function

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
