"""The places of events and profiles in a source, and one row of each as a query sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.dialect import Dialect, Expression, Timeline, Value
from audience_sync.core.parameters import bind_now
from audience_sync.core.text import did_you_mean
from audience_sync.errors import ConfigError, QueryError
from audience_sync.query.syntax_tree import Context, Property, walk

ROW = "audience_sync_row"
"""The number of a row among others; no column of a user has this name."""
_NOW = "\0"  # no SQL has one


@dataclass(frozen=True)
class Relation:
    """A table, or a query in its place, with the types of its columns as the database calls them."""

    place: str  # what messages call it: [sources.shop.events]
    table: str | None
    sql: str | None
    types: Mapping[str, str]

    def require(self, column: str, *, setting: str) -> str:
        """Return the type of a column that a setting names.

        Raises:
            ConfigError: there is no such column.
        """
        if column not in self.types:
            raise ConfigError(
                f"{self.place} has no column {column!r}, but `{setting}` refers to it",
                hint=f"it has the columns {', '.join(self.types)}",
            )
        return self.types[column]

    def rows(self, dialect: Dialect, as_of: datetime, sought: tuple[str, str] | None = None) -> FromClause:
        """Return the relation, to be selected from; `sought` is a column and the text that is looked for in it."""
        columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in self.types]
        if self.table is not None:
            *schema, name = self.table.split(".")
            rows: FromClause = sa.table(name, *columns, schema=".".join(schema) or None).alias()
        else:
            rows = person_sql(self.sql or "", dialect, as_of, columns=list(self.types))
        return dialect.readable(rows, self.types, sought)


def person_sql(sql: str, dialect: Dialect, as_of: datetime, *, columns: list[str]) -> FromClause:
    """Return a person's own SQL as a subquery; `:now` in it is bound.

    Raises:
        ConfigError: it can be seen to be no single query.
    """
    text = bind_now(sql, _NOW, lexis=dialect.lexis).sql.replace(":", "\\:").replace(_NOW, ":now")
    clause = sa.text(text + "\n")
    if ":now" in text.replace("\\:", ""):
        clause = clause.bindparams(sa.bindparam("now", dialect.now(as_of), type_=sa.types.NullType()))
    return clause.columns(*[sa.column(name) for name in columns]).subquery()


@dataclass(frozen=True)
class EventsLayout:
    """Which column of the events is what."""

    relation: Relation
    user: str
    name: str
    timestamp: str
    properties: str | None
    context: str | None
    source: str | None

    def __post_init__(self) -> None:
        for setting in ("user", "name", "timestamp", "properties", "context", "source"):
            column = getattr(self, setting)
            if column is not None:
                self.relation.require(column, setting=setting)

    @property
    def kind(self) -> str:
        """Return the type of users."""
        return self.relation.types[self.user]

    def without_unused(self, *about: object) -> EventsLayout:
        """Return the layout without the JSON that parts of a query do not look into: copies of rows are smaller."""
        if self.properties is None:
            return self
        asked = {type(node) for one in about for node in walk(one)}
        properties = self.properties if Property in asked else None
        context = self.context if Context in asked else None
        used = {self.user, self.name, self.timestamp, self.source, properties, context}
        unused = {self.properties, self.context} - used
        types = {name: kind for name, kind in self.relation.types.items() if name not in unused}
        relation = replace(self.relation, types=types)
        return replace(self, relation=relation, properties=properties, context=context)


@dataclass(frozen=True)
class ProfilesLayout:
    """Which column of the profiles is what."""

    relation: Relation
    user: str
    traits: str | None

    def __post_init__(self) -> None:
        self.relation.require(self.user, setting="user")
        if self.traits is not None:
            self.relation.require(self.traits, setting="traits")

    @property
    def kind(self) -> str:
        """Return the type of users."""
        return self.relation.types[self.user]

    def trait(self, rows: FromClause, path: tuple[str, ...], dialect: Dialect, *, at: int) -> Value:
        """Return a trait of a profile.

        Raises:
            QueryError: traits are columns, and there is none of this name.
        """
        if self.traits is not None:
            return dialect.inside(rows.c[self.traits], self.relation.types[self.traits], path)
        return _column(self.relation, rows, path, dialect, at=at)


@dataclass(frozen=True)
class EventRow:
    """One event: a row of the events, or of something that has their columns."""

    layout: EventsLayout
    rows: FromClause
    dialect: Dialect

    @property
    def user(self) -> Expression:
        """Return whose event it is."""
        return self.rows.c[self.layout.user]

    @property
    def name(self) -> Expression:
        """Return what happened, as text."""
        name = self.rows.c[self.layout.name]
        is_text = self.dialect.family(self.layout.relation.types[self.layout.name] or "text") == "text"
        return name if is_text else sa.cast(name, sa.Text)

    def source(self, *, at: int) -> Expression:
        """Return where it comes from.

        Raises:
            QueryError: the source does not say.
        """
        if self.layout.source is None:
            raise QueryError(
                (
                    f"sources(...) needs `source` in {self.layout.relation.place}: set it to the column with"
                    " the source ids"
                ),
                position=at,
            )
        return self.rows.c[self.layout.source]

    @property
    def number(self) -> Expression:
        """Return the number of the row, if its rows are numbered."""
        return self.rows.c[ROW]

    @property
    def time(self) -> Timeline:
        """Return when it happened."""
        return self.dialect.timeline(
            self.rows.c[self.layout.timestamp], self.layout.relation.types[self.layout.timestamp]
        )

    def value(self, node: Property | Context, path: tuple[str, ...]) -> Value:
        """Return a property, or something of the context, at a path.

        Raises:
            QueryError: the source says of no such column.
        """
        if isinstance(node, Context):
            if self.layout.context is None:
                raise QueryError(
                    f"context('{'.'.join(path)}') needs the column `context` in {self.layout.relation.place}",
                    position=node.at,
                )
            column = self.layout.context
        elif self.layout.properties is None:
            return _column(self.layout.relation, self.rows, path, self.dialect, at=node.at)
        else:
            column = self.layout.properties
        return self.dialect.inside(self.rows.c[column], self.layout.relation.types[column], path)


def _column(relation: Relation, rows: FromClause, path: tuple[str, ...], dialect: Dialect, *, at: int) -> Value:
    """Return a column, or what lies inside a column of JSON."""
    name, *inside = path
    if name not in relation.types:
        advice = did_you_mean(name, relation.types) or f"it has the columns {', '.join(relation.types)}"
        raise QueryError(f"{relation.place} has no column `{name}`; {advice}", position=at)
    if inside:
        return dialect.inside_column(rows.c[name], relation.types[name], tuple(inside))
    return dialect.column(rows.c[name], relation.types[name])
