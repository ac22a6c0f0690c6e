"""Rows of events that are still being selected, and what all selections of a statement have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.dialect import Dialect, Expression, Truth, Value
from audience_sync.compiler.joins import Joins
from audience_sync.compiler.relations import EventRow, EventsLayout, ProfilesLayout
from audience_sync.query import calendar
from audience_sync.query.syntax_tree import (
    Between,
    Context,
    Duration,
    Path,
    Property,
    Reduction,
    Since,
    Stream,
    Trait,
    Within,
)

# --- windows of time --------------------------------------------------------------------------------------------------
# The windows of streams as conditions on the time of an event.


def in_window(selection: Selection, window: Within | Between | Since) -> list[Truth]:
    """Return that an event of a selection lies in a window; its ends are part of it."""
    world, time = selection.world, selection.event.time
    match window:
        case Within(duration, of_parent=True):
            return _behind(selection, latest=duration)
        case Between(near, far, of_parent=True):
            near, far = sorted((near, far), key=calendar.length_of)
            return _behind(selection, earliest=near, latest=far)
        case Within(duration):
            return [time.instant >= time.constant(_ago(world, duration))]
        case Between(near, far):
            first, last = sorted((_ago(world, near), _ago(world, far)))
            return [time.instant >= time.constant(first), time.instant <= time.constant(last)]
        case Since(period):
            return [time.instant >= time.constant(calendar.start_of(period, world.as_of, world.zone))]


def starts_at(world: World, stream: Stream) -> datetime | None:
    """Return when the windows of a stream begin, if it has any."""
    found: list[datetime] = []
    for one in stream.filters:
        match one:
            case Within(duration, of_parent=False):
                found.append(_ago(world, duration))
            case Between(near, far, of_parent=False):
                found.append(min(_ago(world, near), _ago(world, far)))
            case Since(period):
                found.append(calendar.start_of(period, world.as_of, world.zone))
            case _:
                pass
    return max(found, default=None)


def _behind(selection: Selection, *, earliest: Duration | None = None, latest: Duration) -> list[Truth]:
    """Return that the event comes behind its parent, and so far at least and at most."""
    if selection.parent is None:
        raise AssertionError("only a child has a parent")
    own, before = selection.event.time, selection.parent.time
    found = [own.instant > before.instant, own.instant <= before.later(calendar.length_of(latest))]
    if earliest is not None:
        found.append(own.instant >= before.later(calendar.length_of(earliest)))
    return found


def _ago(world: World, duration: Duration) -> datetime:
    return calendar.shifted(world.as_of, duration, world.zone, sign=-1)


# --- selections -------------------------------------------------------------------------------------------------------

_PARENT_ROW = "audience_sync_parent"


@dataclass(frozen=True)
class World:
    """The parts that all streams of a statement share."""

    dialect: Dialect
    as_of: datetime
    zone: tzinfo
    events: EventsLayout | None
    profiles: ProfilesLayout | None
    rows: Callable[[], FromClause]  # a fresh look at the events
    profile_rows: Callable[[], FromClause]  # a fresh look at the profiles
    look_up: Callable[[Trait, Path, Joins], Value]
    reduce: Callable[[Selection, Reduction], FromClause]  # rows of `key` and `value`
    reduced: Callable[[Reduction, FromClause], Value]  # the value of such a row, or of none

    @property
    def layout(self) -> EventsLayout:
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


def apart(selection: Selection, extra: list[sa.Label[object]], *, materialized: bool) -> Selection:
    """Return the rows selected so far, with the columns of events and some more, as something to select from."""
    event, world, parent = selection.event, selection.world, selection.parent
    columns = [event.rows.c[name].label(name) for name in world.layout.relation.types]
    if parent is not None:
        columns.append(parent.number.label(_PARENT_ROW))
    part = sa.select(*columns, *extra).select_from(selection.source).where(*selection.conditions)
    once = materialized and world.dialect.materializes
    rows: FromClause = part.cte().prefix_with("MATERIALIZED") if once else part.cte()
    inside = EventRow(world.layout, rows, world.dialect)
    joins = Joins(inside.user, world.layout.kind, world)
    if parent is None:
        return Selection(world, inside, rows, inside.user, joins)
    parent = replace(parent, rows=parent.rows.alias())
    base = rows.join(parent.rows, parent.number == rows.c[_PARENT_ROW])
    return Selection(world, inside, base, rows.c[_PARENT_ROW], joins, parent=parent)
