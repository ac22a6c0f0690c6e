"""The users that a query is about, one row each, with everything joined that the query asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.conditions import Scope, constant
from audience_sync.compiler.dialect import Expression, Value
from audience_sync.compiler.funnels import reductions_of
from audience_sync.compiler.joins import PROFILES, Joins
from audience_sync.compiler.no_events import is_false_without
from audience_sync.compiler.reductions import aggregate, is_plain, reduce, reduced
from audience_sync.compiler.relations import EventRow, ProfilesLayout
from audience_sync.compiler.selections import Selection, World, starts_at
from audience_sync.compiler.streams import is_flat, narrow_flat, select
from audience_sync.query.syntax_tree import Condition, Context, Literal, Path, Property, Query, Reduction, Scalar, Trait


@dataclass
class Users:
    """Rows of users: where they are selected from, who each is, and what each reduction of the query is for them."""

    world: World
    base: FromClause
    joins: Joins
    name: str  # of the column that names the user
    profiles: ProfilesLayout | None
    values: dict[Reduction, Value]

    @property
    def scope(self) -> Scope:
        """Return what the words of the query mean for a user."""
        world = self.world
        return Scope(world.dialect, world.as_of, world.zone, self._look_up, self.values.__getitem__, lambda _: None)

    def value(self, scalar: Scalar) -> Value:
        """Return a scalar of the query for a user."""
        match scalar:
            case Reduction():
                return self.values[scalar]
            case Literal(written):
                return constant(written, self.scope)
            case _:
                return self._look_up(scalar, scalar.path)

    def select(self, identifiers: Sequence[str], *columns: sa.Label[Any]) -> sa.Select[Any]:
        """Return a statement of the user, columns of their profile, and others; every one of them is used by now.

        Raises:
            ConfigError: the profiles have no such column.
        """
        found: list[Expression] = [self.joins.user.label(self.name)]
        for name in identifiers:
            if self.profiles is None:
                raise AssertionError("the file was checked for it")
            self.profiles.relation.require(name, setting="user_keys or company_keys")
            found.append(self.joins.present[PROFILES].c[name])
        return sa.select(*found, *columns).select_from(self.joins.onto(self.base))

    def _look_up(self, node: Trait | Property | Context, path: Path) -> Value:
        match node:
            case Trait():
                return self.joins.value(node, path)
            case _:
                raise AssertionError("properties are looked up in events")


def users_of(query: Query, world: World, *, needed: Condition | None) -> Users:
    """Return the users a query is about; who surely does not satisfy what is `needed` may be left out."""
    wanted = list(dict.fromkeys(reductions_of(query)))
    together = [one for one in wanted if is_flat(one.stream) and is_plain(one)]
    apart = [one for one in wanted if one not in together]
    if world.profiles is None:
        return _with_events(world, together, apart, needed=needed)
    rows = world.profile_rows()
    joins = Joins(rows.c[world.profiles.user], world.profiles.kind, world, present={PROFILES: rows})
    users = Users(world, rows, joins, world.profiles.user, world.profiles, {})
    if together:
        _add(users, _pass(world, together, everybody=False), together, needed=needed)
    for one in apart:
        _add(users, reduce(select(world, one.stream), one), [one], needed=needed)
    return users


def _with_events(world: World, together: list[Reduction], apart: list[Reduction], *, needed: Condition | None) -> Users:
    """Return everybody with an event, or those of them with the events that are needed."""
    first = together
    if together:
        everybody = needed is None or not is_false_without(needed, set(together))
        rows = _pass(world, together, everybody=everybody)
    else:
        deciding = [one for one in apart if needed is not None and is_false_without(needed, {one})]
        first = deciding[:1]
        rows = reduce(select(world, first[0].stream), first[0]) if first else _everybody(world)
    users = Users(world, rows, Joins(rows.c.key, world.layout.kind, world), world.layout.user, None, {})
    users.values |= _values(world, rows, first)
    for one in apart:
        if one not in first:
            _add(users, reduce(select(world, one.stream), one), [one], needed=needed)
    return users


def _add(users: Users, rows: FromClause, reductions: list[Reduction], *, needed: Condition | None) -> None:
    """Join the rows of some reductions; who has none stays, unless that keeps them out anyway."""
    is_required = needed is not None and is_false_without(needed, set(reductions))
    theirs = users.joins.is_user(rows.c.key, users.world.layout.kind)
    users.base = users.base.join(rows, theirs, isouter=not is_required)
    users.values |= _values(users.world, rows, reductions)


def _values(world: World, rows: FromClause, reductions: list[Reduction]) -> dict[Reduction, Value]:
    if len(reductions) == 1:
        return {reductions[0]: reduced(reductions[0], rows, world.dialect)}
    return {one: reduced(one, rows, world.dialect, column=f"value_{n}") for n, one in enumerate(reductions)}


def _pass(world: World, reductions: list[Reduction], *, everybody: bool) -> FromClause:
    """Return one pass over the events for several reductions, by user: those with such events, or all with any."""
    event = EventRow(world.layout, world.rows(), world.dialect)
    selection = Selection(world, event, event.rows, event.user, Joins(event.user, world.layout.kind, world))
    streams = {one.stream: narrow_flat(selection, one.stream) for one in reductions}
    alone = len(streams) == 1 and not everybody
    columns = [
        aggregate(selection, one, among=None if alone else sa.and_(*streams[one.stream])).label(
            "value" if len(reductions) == 1 else f"value_{n}"
        )
        for n, one in enumerate(reductions)
    ]
    where = next(iter(streams.values()))
    if not alone:
        where = [event.time.until(world.as_of), event.user.is_not(None)]
    if not alone and not everybody:
        where.append(event.name.in_([stream.event for stream in streams]))
        starts = [starts_at(world, stream) for stream in streams]
        known: list[datetime] = [start for start in starts if start is not None]
        if len(known) == len(starts):
            where.append(event.time.instant >= event.time.constant(min(known)))
    rows = sa.select(event.user.label("key"), *columns).select_from(selection.source).where(*where)
    return rows.group_by(event.user).subquery()


def _everybody(world: World) -> FromClause:
    event = EventRow(world.layout, world.rows(), world.dialect)
    return (
        sa.select(event.user.label("key"))
        .where(event.time.until(world.as_of), event.user.is_not(None))
        .distinct()
        .subquery()
    )
