"""Whole statements: who is in an audience, what a computed trait is, and why.

All streams that are conditions on single events are read in one pass over the events. Users without any have counts
of 0 and no other values; where that is enough to keep a person out, only those in the pass are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import partial
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.conditions import truth
from audience_sync.compiler.dialect import Dialect, Expression, Truth, Value, fixed
from audience_sync.compiler.funnels import deciding_first
from audience_sync.compiler.joins import PROFILES, Joins
from audience_sync.compiler.reductions import reduce, reduced
from audience_sync.compiler.relations import EventsLayout, ProfilesLayout, Relation, person_sql
from audience_sync.compiler.scalars import NumberValue, TruthValue
from audience_sync.compiler.selections import World
from audience_sync.compiler.streams import select
from audience_sync.compiler.universe import users_of
from audience_sync.errors import QueryError
from audience_sync.query.syntax_tree import (
    Condition,
    Context,
    Kind,
    Literal,
    Path,
    Presence,
    Property,
    Query,
    Reduction,
    Scalar,
    Trait,
    kind_of,
)

Select: TypeAlias = sa.Select[Any]


@dataclass(frozen=True)
class PersonSql:
    """The SQL of a person for an audience or a computed trait; `user` is its column that names the user.

    `identifiers` are the columns of the other user and company keys, in the order of their canonical JSON.
    """

    relation: Relation
    user: str
    has_value: bool
    identifiers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A definition that a query refers to by its key: a condition, a scalar, or a person's SQL for either."""

    definition: Condition | Scalar | PersonSql
    zone: tzinfo


@dataclass(frozen=True)
class Compiler:
    """Everything that a statement needs but its query: where, when, for which users, and the definitions with a key."""

    dialect: Dialect
    as_of: datetime
    events: EventsLayout | None
    profiles: ProfilesLayout | None
    known: Mapping[str, Known]
    only: str | None = None  # the one user who is looked at
    _made: dict[str, FromClause] = field(default_factory=dict, init=False)

    def members(self, condition: Condition, zone: tzinfo, identifiers: Sequence[str] = ()) -> Select:
        """Return who is in an audience: the user, and the columns of their profile that are `identifiers`.

        Raises:
            ConfigError: the source has not what is asked for.
        """
        users = users_of(condition, self._world(zone, condition), needed=condition)
        holds = truth(condition, users.scope)  # before the rows are put together: it joins what it asks for
        return users.select(identifiers).where(holds)

    def values(self, scalar: Scalar, zone: tzinfo, identifiers: Sequence[str] = ()) -> Select:
        """Return who has a value, and `value`, the text of its JSON.

        Raises:
            ConfigError: the source has not what is asked for.
        """
        users = users_of(scalar, self._world(zone, scalar), needed=Presence(scalar))
        value = users.value(scalar)
        return users.select(identifiers, self._text(value).label("value")).where(value.present())

    def evidence(
        self, query: Query, zone: tzinfo, scalars: Sequence[Scalar], conditions: Sequence[Condition]
    ) -> Select:
        """Return the users with some scalars of a query as JSON text and whether conditions hold, as 0 or 1 or truths.

        The columns are the user, `scalar_0…`, NULL for a missing value, and `condition_0…`.
        """
        users = users_of(query, self._world(zone, query), needed=None)
        columns = [self._text(users.value(one)).label(f"scalar_{n}") for n, one in enumerate(scalars)]
        holds = [sa.func.coalesce(truth(one, users.scope), sa.false()) for one in conditions]
        return users.select([], *columns, *[one.label(f"condition_{n}") for n, one in enumerate(holds)])

    def stream(self, reduction: Reduction, zone: tzinfo, shown: Sequence[Property | Context], *, limit: int) -> Select:
        """Return the events that a reduction of a query looks at, first those that decide what it is.

        The columns are `at`, what the database takes for an instant, `events`, how many there are in all, and
        `shown_0…`, JSON text.
        """
        found = select(self._world(zone, reduction, *shown), reduction.stream)
        columns = [found.event.time.instant.label("at"), sa.func.count().over().label("events")]
        columns += [self._text(found.value(one, one.path)).label(f"shown_{n}") for n, one in enumerate(shown)]
        rows = sa.select(*columns).select_from(found.source).where(*found.conditions)
        return rows.order_by(*deciding_first(found, reduction)).limit(limit)

    def rows_of_person(self, sql: str, user: str, *, kind: str, columns: Sequence[str]) -> Select:
        """Return what a person's own SQL has of the one user who is looked at; `kind` is the type of the column `user`.

        Raises:
            ConfigError: it can be seen to be no single query.
        """
        rows = person_sql(sql, self.dialect, self.as_of, columns=list(columns))
        return sa.select(*[rows.c[name] for name in columns]).where(self._is_only(rows.c[user], kind))

    def _world(self, zone: tzinfo, *about: object) -> World:
        """Return what the streams of a statement share; it is about these parts of a query."""
        events = self.events and self.events.without_unused(*about)
        profiles = self.profiles
        return World(
            dialect=self.dialect,
            as_of=self.as_of,
            zone=zone,
            events=events,
            profiles=profiles,
            rows=partial(self._rows, events),
            profile_rows=partial(self._rows, profiles),
            look_up=self._trait,
            reduce=reduce,
            reduced=lambda reduction, rows: reduced(reduction, rows, self.dialect),
        )

    def _rows(self, layout: EventsLayout | ProfilesLayout | None) -> FromClause:
        """Return a fresh look at events or profiles, at those of one user if only that one is looked at."""
        if layout is None:
            raise AssertionError("the file was checked for it")
        if self.only is None:
            return layout.relation.rows(self.dialect, self.as_of)
        rows = layout.relation.rows(self.dialect, self.as_of, (layout.user, self.only))
        return sa.select(rows).where(self._is_only(rows.c[layout.user], layout.kind)).subquery()

    def _is_only(self, user: Expression, kind: str) -> Truth:
        """Return whether a column names the one user who is looked at, in a way that an index on it can serve.

        Keys are texts, and a whole number is its digits: the column of a table may hold it as a number.
        """
        only = self.only or ""
        number = int(only) if only.removeprefix("-").isdecimal() and -(2**63) <= int(only) < 2**63 else None
        if number is not None and str(number) != only:
            number = None  # the key of a number never has leading zeros
        if not self.dialect.has_typed_columns:
            texts = [only] if number is None else [only, f"{only}.0"]
            alike = [user == only] if number is None else [user == only, user == number]
            return sa.and_(sa.or_(*alike), sa.cast(user, sa.Text).in_(texts))
        if isinstance(self.dialect.column(user, kind), NumberValue):
            return sa.false() if number is None else user == number
        return sa.cast(user, sa.Text) == only

    def _trait(self, trait: Trait, path: Path, joins: Joins) -> Value:
        """Return a trait: an audience or computed trait of the file before one of the profiles."""
        if len(trait.path) == 1 and trait.path[0] in self.known:
            return self._by_key(trait.path[0], joins)
        profiles = self.profiles
        if profiles is None:
            raise AssertionError("the file was checked for it")
        rows = joins.join(PROFILES, partial(self._rows, profiles), profiles.user, profiles.kind)
        return profiles.trait(rows, path, self.dialect, at=trait.at)

    def _by_key(self, key: str, joins: Joins) -> Value:
        definition = self.known[key].definition
        made = self._made.get(key)
        if made is None:
            try:
                made = self._made[key] = self._definition(self.known[key]).cte()
            except QueryError as error:  # of the innermost one, if one uses another
                raise QueryError(str(error), position=error.position, used=error.used or key) from None
        rows = joins.join(key, made.alias, "user", self._kind(definition))
        match definition:
            case PersonSql(relation, has_value=True):
                return self.dialect.column(rows.c.value, relation.types["value"])
            case Literal() | Trait() | Property() | Context() | Reduction() if kind_of(definition) is Kind.NUMBER:
                return self.dialect.column(rows.c.value, self.dialect.double)
            case Literal() | Trait() | Property() | Context() | Reduction():
                return self.dialect.document(rows.c.value)
            case _:
                return TruthValue(rows.c.user.is_not(None), self.dialect)

    def _kind(self, definition: Condition | Scalar | PersonSql) -> str:
        """Return the type of the users of something known by its key."""
        if isinstance(definition, PersonSql):
            return definition.relation.require(definition.user, setting="user_keys")
        layout = self.profiles or self.events
        return layout.kind if layout is not None else ""

    def _definition(self, known: Known) -> Select:
        """Return `user`, and of a computed trait `value`, one row a user."""
        match known.definition:
            case PersonSql():
                return self._person(known.definition)
            case Literal() | Trait() | Property() | Context() | Reduction():
                users = users_of(
                    known.definition, self._world(known.zone, known.definition), needed=Presence(known.definition)
                )
                value = users.value(known.definition)
                as_it_is = value.number() if kind_of(known.definition) is Kind.NUMBER else value.json()
                rows = users.select([], as_it_is.label("value")).where(value.present()).subquery()
            case _:
                rows = self.members(known.definition, known.zone).subquery()
        user, *others = rows.c
        return sa.select(user.label("user"), *others)

    def _person(self, definition: PersonSql) -> Select:
        relation = definition.relation
        rows = relation.rows(self.dialect, self.as_of)
        user = rows.c[definition.user]
        kind = relation.require(definition.user, setting="user_keys")
        is_asked = user.is_not(None) if self.only is None else self._is_only(user, kind)
        if not definition.has_value:
            return sa.select(user.label("user")).where(is_asked).distinct()
        found = self.dialect.column(rows.c.value, relation.require("value", setting="value"))
        order = [*self._more_identifiers_first(definition, rows), self.dialect.ordered(found.text())]
        place = sa.func.row_number().over(partition_by=user, order_by=order).label("place")
        ranked = sa.select(user.label("user"), rows.c.value, place).where(is_asked, found.present()).subquery()
        return sa.select(ranked.c.user, ranked.c.value).where(ranked.c.place == 1)

    def _more_identifiers_first(self, definition: PersonSql, rows: FromClause) -> list[Expression]:
        """Return the order of rows of one user in which a sync chooses among them; see `core.rows.distinct`."""
        types = definition.relation.types
        texts = [self.dialect.key(rows.c[name], types[name]) for name in definition.identifiers if name in types]
        if not texts:
            return []
        known = [sa.case((sa.func.trim(text) != fixed(""), 1), else_=0) for text in texts]
        count: Expression = known[0]
        for one in known[1:]:
            count = count + one
        return [count.desc(), *[self.dialect.ordered(sa.func.coalesce(text, fixed(""))) for text in texts]]

    def _text(self, value: Value) -> Expression:
        """Return a value as it is read: the text of its JSON."""
        if isinstance(value, NumberValue):
            return self.dialect.number_text(value.expression)
        return sa.cast(value.json(), sa.Text)
