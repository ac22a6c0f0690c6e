"""Streams of events as rows: filters become conditions, and what needs its rows first becomes a part of its own.

Two things need their rows before anything else is asked of them: a funnel, whose child events are joined to the
numbered rows of their parents and counted for each; and a session, which looks at the gaps between rows. Only a funnel
that asks whether there is any child event is an EXISTS, in databases that make a join of it: none is asked to look
something up for each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import assert_never

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.conditions import Scope, truth
from audience_sync.compiler.dialect import Expression, Truth, Value
from audience_sync.compiler.funnels import counted, existence, is_deep
from audience_sync.compiler.joins import Joins
from audience_sync.compiler.relations import ROW, EventRow
from audience_sync.compiler.selections import Selection, World, apart, in_window
from audience_sync.query import calendar
from audience_sync.query.syntax_tree import (
    And,
    Between,
    Comparison,
    Condition,
    ExpiresAfter,
    Filter,
    Reduction,
    Since,
    Sources,
    Stream,
    Where,
    Within,
    walk,
)

_GAP = "audience_sync_gap"
_ENDED = "audience_sync_ended"


def select(world: World, stream: Stream) -> Selection:
    """Return the events of a stream, by user."""
    event = EventRow(world.layout, world.rows(), world.dialect)
    selection = Selection(world, event, event.rows, event.user, Joins(event.user, world.layout.kind, world))
    return _narrow(selection, stream)


def is_flat(stream: Stream) -> bool:
    """Return whether a stream is conditions on single events, so that several can be read in one pass."""
    return not any(isinstance(node, ExpiresAfter | Reduction) for node in walk(stream))


def narrow_flat(selection: Selection, stream: Stream) -> list[Truth]:
    """Return the conditions of a flat stream on the rows of a selection, which is left as it is."""
    return _narrow(replace(selection, conditions=[]), stream).conditions


def _child(parent: Selection, stream: Stream) -> Selection:
    """Return the events of a funnel's child, by the number of the parent's row; the parent's rows are numbered."""
    world = parent.world
    event = EventRow(world.layout, world.rows(), world.dialect)
    base = parent.event.rows.join(event.rows, event.user == parent.event.user)
    joins = Joins(event.user, world.layout.kind, world)
    selection = Selection(world, event, base, parent.event.number, joins, parent=parent.event)
    return _narrow(selection, stream)


def _narrow(selection: Selection, stream: Stream) -> Selection:
    """Apply the name and the filters of a stream, in their order."""
    world = selection.world
    selection.conditions += [
        selection.event.name == stream.event,
        selection.event.time.until(world.as_of),
    ]
    if selection.parent is None:
        selection.conditions.append(selection.event.user.is_not(None))
    for one in stream.filters:
        selection = _filtered(selection, one)
    return selection


def _filtered(selection: Selection, one: Filter) -> Selection:
    match one:
        case Where(condition):
            return _where(selection, condition)
        case ExpiresAfter():
            return _session(selection, one)
        case Within() | Between() | Since():
            selection.conditions += in_window(selection, one)
        case Sources():
            selection.conditions.append(_from_others(selection.event, one))
        case _:
            assert_never(one)
    return selection


def _where(selection: Selection, condition: Condition) -> Selection:
    """Apply a condition; the parts of it that count no child events come first, so that few rows are numbered."""
    parts = condition.operands if isinstance(condition, And) else (condition,)
    funnels = [part for part in parts if counted(part, selection.world.dialect)]
    scope = _scope(selection, _no_reductions)
    selection.conditions += [truth(part, scope) for part in parts if part not in funnels]
    if not funnels:
        return selection
    numbered = _numbered(selection)
    found: dict[Reduction, FromClause] = {}
    for reduction in dict.fromkeys(one for part in funnels for one in counted(part, selection.world.dialect)):
        rows = numbered.world.reduce(_child(numbered, reduction.stream), reduction)
        found[reduction] = rows
        numbered.base = numbered.base.outerjoin(rows, rows.c.key == numbered.event.number)
    scope = _scope(numbered, lambda reduction: numbered.world.reduced(reduction, found[reduction]))
    numbered.conditions += [truth(part, scope) for part in funnels]
    return numbered


def _happened(selection: Selection, comparison: Comparison) -> Truth | None:
    """Return whether a child event exists, if that is all a comparison asks and the database likes to be asked so."""
    world, expected = selection.world, existence(comparison)
    reduction = comparison.left
    if expected is None or not isinstance(reduction, Reduction) or not world.dialect.joins_existence:
        return None
    if is_deep(reduction, world.dialect):
        return None
    event = EventRow(world.layout, world.rows(), world.dialect)
    joins = Joins(event.user, world.layout.kind, world)
    child = Selection(world, event, event.rows, event.user, joins, parent=selection.event)
    child = _narrow(child, reduction.stream)
    theirs = (
        sa.select(event.user)
        .select_from(child.source)
        .where(event.user == selection.event.user, *child.conditions)
        .correlate(selection.event.rows)
    )
    return theirs.exists() if expected else sa.not_(theirs.exists())


def _scope(selection: Selection, reduced: Callable[[Reduction], Value]) -> Scope:
    """Return what the words of a condition about the events of a selection mean."""
    world = selection.world
    return Scope(world.dialect, world.as_of, world.zone, selection.value, reduced, partial(_happened, selection))


def _no_reductions(reduction: Reduction) -> Value:
    raise AssertionError(f"unexpected {reduction}")


def _numbered(selection: Selection) -> Selection:
    """Return the rows selected so far as a part of their own, each with a number."""
    event, parent = selection.event, selection.parent
    columns: list[Expression] = [event.rows.c[name] for name in selection.world.layout.relation.types]
    if parent is not None:
        columns.append(parent.number)
    order = selection.world.dialect.numbering(columns)
    number = sa.func.row_number().over(order_by=order or None).label(ROW)
    return apart(selection, [number], materialized=True)


def _session(selection: Selection, one: ExpiresAfter) -> Selection:
    """Return the rows of the session that goes on: none behind which a gap is too long."""
    length = calendar.length_of(one.duration)
    world = selection.world
    own = selection.event.time.instant
    following = sa.func.lead(own).over(partition_by=selection.key, order_by=own)
    gaps = apart(selection, [following.label(_GAP)], materialized=False)
    time = gaps.event.time
    ended = sa.case(
        (time.later(length) < sa.func.coalesce(gaps.event.rows.c[_GAP], time.constant(world.as_of)), 1), else_=0
    )
    so_far = sa.func.sum(ended).over(partition_by=gaps.key, order_by=time.instant.desc())
    sessions = apart(gaps, [so_far.label(_ENDED)], materialized=False)
    sessions.conditions.append(sessions.event.rows.c[_ENDED] == 0)
    return sessions


def _from_others(event: EventRow, one: Sources) -> Truth:
    """Return that an event comes from a source that is not excluded; one that comes from none does."""
    source = event.source(at=one.at)
    return sa.or_(source.is_(None), sa.cast(source, sa.Text).not_in(one.exclude))
