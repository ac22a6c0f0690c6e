"""Streams reduced to one value for each user, or for each row of a funnel's parent.

Every part is named (WITH) rather than nested: SQLite's parser stops at a depth of a hundred.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.dialect import Dialect, Expression, Truth, Value
from audience_sync.compiler.no_events import NEVER_NULL
from audience_sync.compiler.scalars import NumberValue, TextValue
from audience_sync.compiler.selections import Selection
from audience_sync.query.syntax_tree import EACH, Form, Function, Kind, Path, Reduction, kind_of

_RANKED = (Function.FIRST, Function.LAST, Function.MODE, Function.UNIQUE)


def is_plain(reduction: Reduction) -> bool:
    """Return whether a reduction is one aggregate over rows, so that several can share a pass."""
    return reduction.function not in _RANKED and (reduction.of is None or EACH not in reduction.of.path)


def aggregate(selection: Selection, reduction: Reduction, *, among: Truth | None = None) -> Expression:
    """Return a plain reduction as an aggregate over the rows of a selection, or over those `among` them.

    Count is 0 where there is nothing, everything else NULL.
    """
    if reduction.of is None:
        return sa.func.count() if among is None else sa.func.count(sa.case((among, 1)))
    value = selection.value(reduction.of, reduction.of.path)
    return _aggregate(value, reduction, selection.world.dialect, among=among)


def _aggregate(value: Value, reduction: Reduction, dialect: Dialect, *, among: Truth | None = None) -> Expression:
    def of(expression: Expression) -> Expression:
        return expression if among is None else sa.case((among, expression))

    match reduction.function:
        case Function.SUM:
            return sa.func.sum(of(value.number()))
        case Function.AVG:
            return sa.func.avg(of(value.number()))
        case Function.MIN | Function.MAX as function:
            taken = dialect.ordered(value.text()) if reduction.form is Form.STRING else value.number()
            return (sa.func.min if function is Function.MIN else sa.func.max)(of(taken))
        case _:
            return sa.func.count(sa.distinct(of(value.text())))


def reduce(selection: Selection, reduction: Reduction) -> FromClause:
    """Return rows of `key` and `value`: the reduction of a selection, where there is anything to reduce."""
    if is_plain(reduction):
        value = aggregate(selection, reduction)
        rows = (
            sa.select(selection.key.label("key"), value.label("value"))
            .select_from(selection.source)
            .where(*selection.conditions)
        )
        return rows.group_by(selection.key).cte()
    values = _values(selection, reduction)
    match reduction.function:
        case Function.FIRST | Function.LAST:
            return _at_an_end(values, newest=reduction.function is Function.LAST, dialect=selection.world.dialect)
        case Function.MODE:
            return _most_frequent(values, reduction.at_least, selection.world.dialect)
        case Function.UNIQUE:
            return _distinct(values, selection.world.dialect)
        case _:
            value = _aggregate(_Reduced(values, selection.world.dialect), reduction, selection.world.dialect)
            return sa.select(values.c.key, value.label("value")).group_by(values.c.key).cte()


def reduced(reduction: Reduction, rows: FromClause, dialect: Dialect, *, column: str = "value") -> Value:
    """Return the value of a reduction from its row, which an outer join may have left empty."""
    value = rows.c[column]
    if reduction.function in NEVER_NULL:
        return NumberValue(sa.func.coalesce(value, 0), dialect)
    match kind_of(reduction):
        case Kind.NUMBER:
            return NumberValue(value, dialect)
        case Kind.TEXT:
            return TextValue(value, dialect)
        case _:
            return dialect.document(value)


class _Reduced:
    """The values of a list's elements, row by row, as something to aggregate."""

    def __init__(self, values: FromClause, dialect: Dialect) -> None:
        self._value = dialect.document(values.c.json)
        self.present, self.moment, self.json = self._value.present, self._value.moment, self._value.json
        self.text, self.number = self._value.text, self._value.number


def _values(selection: Selection, reduction: Reduction) -> FromClause:
    """Return the values that are reduced, row by row: `key`, `at`, `text`, `json`; no nulls."""
    if reduction.of is None:
        raise AssertionError("count() reduces no values")
    path, whole = reduction.of.path, reduction.form is Form.ARRAY
    steps: Sequence[Path] = _split(path)
    value = selection.value(reduction.of, steps[0])
    source = selection.source
    for step in [] if whole else steps[1:]:
        rows, inside = selection.world.dialect.elements(value)
        source = source.join(rows, sa.true())
        value = inside(step)
    return (
        sa.select(
            selection.key.label("key"),
            selection.event.time.instant.label("at"),
            value.text().label("text"),
            value.json().label("json"),
        )
        .select_from(source)
        .where(*selection.conditions, value.present())
        .cte()
    )


def _split(path: Path) -> list[Path]:
    """Return the parts of a path between its `$`."""
    parts: list[Path] = [()]
    for name in path:
        if name == EACH:
            parts.append(())
        else:
            parts[-1] = (*parts[-1], name)
    return parts


def _at_an_end(values: FromClause, *, newest: bool, dialect: Dialect) -> FromClause:
    text = dialect.ordered(values.c.text)
    order = [values.c.at.desc(), text.desc()] if newest else [values.c.at, text]
    place = sa.func.row_number().over(partition_by=values.c.key, order_by=order).label("place")
    ranked = sa.select(values.c.key, values.c.json.label("value"), place).cte()
    return sa.select(ranked.c.key, ranked.c.value).where(ranked.c.place == 1).cte()


def _most_frequent(values: FromClause, at_least: int, dialect: Dialect) -> FromClause:
    often = sa.func.count()
    order = [often.desc(), dialect.ordered(values.c.text)]
    place = sa.func.row_number().over(partition_by=values.c.key, order_by=order).label("place")
    ranked = (
        sa.select(values.c.key, values.c.text.label("value"), place)
        .group_by(values.c.key, values.c.text)
        .having(often >= at_least)
        .cte()
    )
    return sa.select(ranked.c.key, ranked.c.value).where(ranked.c.place == 1).cte()


def _distinct(values: FromClause, dialect: Dialect) -> FromClause:
    text = dialect.ordered(values.c.text)
    each = sa.select(values.c.key, values.c.text).group_by(values.c.key, values.c.text).order_by(text).cte()
    return sa.select(each.c.key, dialect.list_of(each.c.text).label("value")).group_by(each.c.key).cte()
