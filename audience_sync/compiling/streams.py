"""Streams of events as rows: filters become conditions, and what needs its rows first becomes a part of its own.

Two things need their rows before anything else is asked of them: a funnel, whose child events are joined to the
numbered rows of their parents and counted for each; and a session, which looks at the gaps between rows. Only a funnel
that asks whether there is any child event is an EXISTS, in databases that make a join of it: none is asked to look
something up for each row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import assert_never

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiling.conditions import Scope, truth
from audience_sync.compiling.dialect import Dialect, Expression, Truth, Value
from audience_sync.compiling.emptiness import compare_numbers
from audience_sync.compiling.joins import Joins
from audience_sync.compiling.rooms import ROW, EventRow, EventsRoom, ProfilesRoom
from audience_sync.core.query import calendar
from audience_sync.core.query.tree import (
    And,
    Between,
    Comparison,
    Condition,
    Context,
    Duration,
    ExpiresAfter,
    Filter,
    Function,
    Literal,
    Path,
    Property,
    Reduction,
    Since,
    Sources,
    Stream,
    Trait,
    Where,
    Within,
    walk,
)

PARENT_ROW = "audience_sync_parent"
_GAP = "audience_sync_gap"
_ENDED = "audience_sync_ended"


@dataclass(frozen=True)
class World:
    """What all streams of a statement have in common."""

    dialect: Dialect
    as_of: datetime
    zone: tzinfo
    events: EventsRoom | None
    profiles: ProfilesRoom | None
    rows: Callable[[], FromClause]  # a fresh look at the events
    profile_rows: Callable[[], FromClause]  # a fresh look at the profiles
    look_up: Callable[[Trait, Path, Joins], Value]
    reduce: Callable[[Selection, Reduction], FromClause]  # rows of `key` and `value`
    reduced: Callable[[Reduction, FromClause], Value]  # the value of such a row, or of none

    @property
    def room(self) -> EventsRoom:
        """Return where events are; a query that asks for none does not come here."""
        if self.events is None:
            raise AssertionError("the file was checked for it")
        return self.events


@dataclass
class Selection:
    """Rows of events, with conditions not yet applied, and by what they are grouped: their user, or the parent row."""

    world: World
    event: EventRow
    base: FromClause
    key: Expression
    joins: Joins
    parent: EventRow | None = None
    conditions: list[Truth] = field(default_factory=list)

    @property
    def source(self) -> FromClause:
        """Return what is selected from."""
        return self.joins.onto(self.base)

    def value(self, node: Trait | Property | Context, path: Path) -> Value:
        """Return what a trait, a property or something of the context is for the rows."""
        if isinstance(node, Trait):
            return self.joins.value(node, path)
        event = self.parent if node.of_parent and self.parent is not None else self.event
        return event.value(node, path)

    def scope(self, reduced: Callable[[Reduction], Value]) -> Scope:
        """Return what the words of a condition about these events mean."""
        world = self.world
        return Scope(world.dialect, world.as_of, world.zone, self.value, reduced, lambda one: _happened(self, one))


def select(world: World, stream: Stream) -> Selection:
    """Return the events of a stream, by user."""
    event = EventRow(world.room, world.rows(), world.dialect)
    selection = Selection(world, event, event.rows, event.user, Joins(event.user, world.room.kind, world))
    return _narrow(selection, stream)


def is_flat(stream: Stream) -> bool:
    """Return whether a stream is conditions on single events, so that several can be read in one pass."""
    return not any(isinstance(node, ExpiresAfter | Reduction) for node in walk(stream))


def narrow_flat(selection: Selection, stream: Stream) -> list[Truth]:
    """Return the conditions of a flat stream on the rows of a selection, which is left as it is."""
    return _narrow(replace(selection, conditions=[]), stream).conditions


def starts_at(world: World, stream: Stream) -> datetime | None:
    """Return when the window of a stream begins, if it has one."""
    found: list[datetime] = []
    for one in stream.filters:
        match one:
            case Within(duration) | Between(_, duration):
                found.append(calendar.shifted(world.as_of, duration, world.zone, sign=-1))
            case Since(period):
                found.append(calendar.start_of(period, world.as_of, world.zone))
            case _:
                pass
    return max(found, default=None)


def _child(parent: Selection, stream: Stream) -> Selection:
    """Return the events of a funnel's child, by the number of the parent's row; the parent's rows are numbered."""
    world = parent.world
    event = EventRow(world.room, world.rows(), world.dialect)
    base = parent.event.rows.join(event.rows, event.user == parent.event.user)
    joins = Joins(event.user, world.room.kind, world)
    selection = Selection(world, event, base, parent.event.number, joins, parent=parent.event)
    return _narrow(selection, stream)


def _narrow(selection: Selection, stream: Stream) -> Selection:
    """Apply the name and the filters of a stream, in their order."""
    world = selection.world
    selection.conditions += [
        selection.event.name == stream.event,
        selection.event.time.instant <= selection.event.time.constant(world.as_of),
    ]
    if selection.parent is None:
        selection.conditions.append(selection.event.user.is_not(None))
    for one in stream.filters:
        selection = _filtered(selection, one)
    return selection


def _filtered(selection: Selection, one: Filter) -> Selection:
    event, world = selection.event, selection.world
    match one:
        case Where(condition):
            return _where(selection, condition)
        case ExpiresAfter():
            return _session(selection, one)
        case Within(duration, of_parent) if of_parent:
            selection.conditions += _behind(selection, latest=one.duration)
        case Between(near, far, of_parent) if of_parent:
            near, far = sorted((near, far), key=calendar.length_of)
            selection.conditions += _behind(selection, earliest=near, latest=far)
        case Within(duration):
            first = calendar.shifted(world.as_of, duration, world.zone, sign=-1)
            selection.conditions.append(event.time.instant >= event.time.constant(first))
        case Between(near, far):
            ends = [calendar.shifted(world.as_of, one, world.zone, sign=-1) for one in (near, far)]
            selection.conditions.append(event.time.instant >= event.time.constant(min(ends)))
            selection.conditions.append(event.time.instant <= event.time.constant(max(ends)))
        case Since(period):
            first = calendar.start_of(period, world.as_of, world.zone)
            selection.conditions.append(event.time.instant >= event.time.constant(first))
        case Sources():
            selection.conditions.append(_from_others(event, one))
        case _:
            assert_never(one)
    return selection


def _behind(selection: Selection, *, earliest: Duration | None = None, latest: Duration) -> list[Truth]:
    """Return that the event comes behind its parent, and so far at least and at most."""
    if selection.parent is None:
        raise AssertionError("only a child has a parent")
    own, before = selection.event.time, selection.parent.time
    found = [own.instant > before.instant, own.instant <= before.later(calendar.length_of(latest))]
    if earliest is not None:
        found.append(own.instant >= before.later(calendar.length_of(earliest)))
    return found


def _where(selection: Selection, condition: Condition) -> Selection:
    """Apply a condition; the parts of it that count no child events come first, so that few rows are numbered."""
    parts = condition.operands if isinstance(condition, And) else (condition,)
    funnels = [part for part in parts if _counted(part, selection.world.dialect)]
    scope = selection.scope(_no_reductions)
    selection.conditions += [truth(part, scope) for part in parts if part not in funnels]
    if not funnels:
        return selection
    numbered = _numbered(selection)
    found: dict[Reduction, FromClause] = {}
    for reduction in dict.fromkeys(one for part in funnels for one in _counted(part, selection.world.dialect)):
        rows = numbered.world.reduce(_child(numbered, reduction.stream), reduction)
        found[reduction] = rows
        numbered.base = numbered.base.outerjoin(rows, rows.c.key == numbered.event.number)
    scope = numbered.scope(lambda reduction: numbered.world.reduced(reduction, found[reduction]))
    numbered.conditions += [truth(part, scope) for part in funnels]
    return numbered


def reductions_of(condition: object) -> list[Reduction]:
    """Return the reductions of a condition or scalar, without those inside their streams."""
    found: list[Reduction] = []
    inner: set[int] = set()
    for node in walk(condition):
        if isinstance(node, Reduction) and id(node) not in inner:
            found.append(node)
            inner.update(id(below) for below in walk(node.stream))
    return found


def _counted(condition: Condition, dialect: Dialect) -> list[Reduction]:
    """Return the reductions of a condition that ask for more than whether there is any event."""
    found = reductions_of(condition)
    if not dialect.joins_existence:
        return found
    asked = [one for one in walk(condition) if isinstance(one, Comparison) and existence(one) is not None]
    return [one for one in found if not any(one is comparison.left for comparison in asked) or _is_deep(one, dialect)]


def _is_deep(reduction: Reduction, dialect: Dialect) -> bool:
    """Return whether the rows of a stream have to be a part of their own."""
    parts = [one for one in reduction.stream.filters if isinstance(one, Where | ExpiresAfter)]
    return any(isinstance(one, ExpiresAfter) or bool(_counted(one.condition, dialect)) for one in parts)


def existence(comparison: Comparison) -> bool | None:
    """Return whether a comparison asks if there is any event, True, or if there is none, False; else None."""
    match comparison:
        case Comparison(Reduction(_, Function.COUNT), sign, Literal(int() | float() as limit)):
            none, *some = [compare_numbers(count, sign, limit) for count in (0, 1, 2, sys.maxsize)]
            return not none if len(set(some)) == 1 and some[0] is not none else None
        case _:
            return None


def _happened(selection: Selection, comparison: Comparison) -> Truth | None:
    """Return whether a child event exists, if that is all a comparison asks and the database likes to be asked so."""
    world, expected = selection.world, existence(comparison)
    reduction = comparison.left
    if expected is None or not isinstance(reduction, Reduction) or not world.dialect.joins_existence:
        return None
    if _is_deep(reduction, world.dialect):
        return None
    event = EventRow(world.room, world.rows(), world.dialect)
    joins = Joins(event.user, world.room.kind, world)
    child = Selection(world, event, event.rows, event.user, joins, parent=selection.event)
    child = _narrow(child, reduction.stream)
    theirs = (
        sa.select(event.user)
        .select_from(child.source)
        .where(event.user == selection.event.user, *child.conditions)
        .correlate(selection.event.rows)
    )
    return theirs.exists() if expected else sa.not_(theirs.exists())


def _no_reductions(reduction: Reduction) -> Value:
    raise AssertionError(f"unexpected {reduction}")


def _numbered(selection: Selection) -> Selection:
    """Return the rows selected so far as a part of their own, each with a number."""
    number = sa.func.row_number().over().label(ROW)
    return _apart(selection, [number], materialized=True)


def _session(selection: Selection, one: ExpiresAfter) -> Selection:
    """Return the rows of the session that goes on: none behind which a gap is too long."""
    length = calendar.length_of(one.duration)
    world = selection.world
    own = selection.event.time.instant
    following = sa.func.lead(own).over(partition_by=selection.key, order_by=own)
    gaps = _apart(selection, [following.label(_GAP)], materialized=False)
    time = gaps.event.time
    ended = sa.case(
        (time.later(length) < sa.func.coalesce(gaps.event.rows.c[_GAP], time.constant(world.as_of)), 1), else_=0
    )
    so_far = sa.func.sum(ended).over(partition_by=gaps.key, order_by=time.instant.desc())
    sessions = _apart(gaps, [so_far.label(_ENDED)], materialized=False)
    sessions.conditions.append(sessions.event.rows.c[_ENDED] == 0)
    return sessions


def _apart(selection: Selection, extra: list[sa.Label[object]], *, materialized: bool) -> Selection:
    """Return the rows selected so far, with the columns of events and some more, as something to select from."""
    event, world, parent = selection.event, selection.world, selection.parent
    columns = [event.rows.c[name].label(name) for name in world.room.relation.types]
    if parent is not None:
        columns.append(parent.number.label(PARENT_ROW))
    part = sa.select(*columns, *extra).select_from(selection.source).where(*selection.conditions)
    rows: FromClause = part.cte().prefix_with("MATERIALIZED") if materialized else part.subquery()
    inside = EventRow(world.room, rows, world.dialect)
    joins = Joins(inside.user, world.room.kind, world)
    if parent is None:
        return Selection(world, inside, rows, inside.user, joins)
    parent = replace(parent, rows=parent.rows.alias())
    base = rows.join(parent.rows, parent.number == rows.c[PARENT_ROW])
    return Selection(world, inside, base, rows.c[PARENT_ROW], joins, parent=parent)


def _from_others(event: EventRow, one: Sources) -> Truth:
    """Return that an event comes from a source that is not excluded; one that comes from none does."""
    source = event.source(at=one.at)
    return sa.or_(source.is_(None), sa.cast(source, sa.Text).not_in(one.exclude))
