"""Compiled queries: nothing of a query is in the text of its SQL, and SQL is one pass wherever it can be."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings

from audience_sync.compiler.dialect import Dialect, render
from audience_sync.compiler.relations import EventsLayout, ProfilesLayout, Relation
from audience_sync.compiler.statements import Compiler
from audience_sync.engines.duckdb_dialect import DuckdbDialect
from audience_sync.engines.postgresql_dialect import PostgresqlDialect
from audience_sync.engines.registry import dialect_of
from audience_sync.engines.sqlite_dialect import SqliteDialect
from audience_sync.errors import ConfigError, QueryError
from audience_sync.query.query_parser import parse_audience, parse_trait
from audience_sync.query.syntax_tree import EACH, Condition, Duration, Scalar, TextCondition, TextTest
from tests.profile import amount
from tests.queries import audiences, computed_traits
from tests.sources import database

DIALECTS: dict[str, Dialect] = {
    "sqlite": SqliteDialect(),
    "postgresql": PostgresqlDialect(),
    "duckdb": DuckdbDialect(),
}
NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
MARK = "Zq'\"%(x)s:y$1--"
TYPES = {
    "sqlite": {"time": "text", "json": "json"},
    "postgresql": {"time": "timestamptz", "json": "jsonb"},
    "duckdb": {"time": "timestamp", "json": "json"},
}


def compiler(name: str, *, profiles: bool = True, plain: bool = False) -> Compiler:
    """Return a compiler for tables `events` and `users`, with traits and properties in JSON or in `plain` columns."""
    kinds = TYPES[name]
    events = {"user_id": "text", "event": "text", "at": kinds["time"], "context": kinds["json"], "source": "text"}
    users = {"user_id": "text", "company_id": "text"}
    rest = {"amount": "int8", "colour": "text"} if plain else {"more": kinds["json"]}
    return Compiler(
        dialect=DIALECTS[name],
        as_of=NOW,
        events=EventsLayout(
            relation=Relation("[sources.s.events]", "events", None, {**events, **rest}),
            user="user_id",
            name="event",
            timestamp="at",
            properties=None if plain else "more",
            context="context",
            source="source",
        ),
        profiles=ProfilesLayout(
            Relation("[sources.s.profiles]", "users", None, {**users, **rest}), "user_id", None if plain else "more"
        )
        if profiles
        else None,
        known={},
    )


def marked(node: Any) -> Any:
    """Return a query with a hostile text in the place of every text of it."""
    if isinstance(node, TextCondition) and node.test is TextTest.MATCHES:
        return replace(node, scalar=marked(node.scalar))  # a pattern is not just any text
    if type(node) is str:
        return node if node == EACH else MARK
    if isinstance(node, Duration):
        return node
    if isinstance(node, tuple):
        return tuple(map(marked, node))
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{part.name: marked(getattr(node, part.name)) for part in fields(node) if part.init})
    return node


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=amount(small=10, large=30))
@given(query=audiences())
def test_nothing_of_an_audience_is_in_the_text_of_its_sql(name: str, query: Condition) -> None:
    """Names of events and properties, texts and numbers are bound, however they are written."""
    made = compiler(name)

    statement = render(made.members(marked(query), UTC, ["company_id"]), made.dialect)

    assert "Zq" not in statement.sql
    assert "Zq" in str(statement.parameters)
    assert not re.search(r"'[^']*Zq", statement.sql)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=amount(small=10, large=30))
@given(query=computed_traits())
def test_nothing_of_a_computed_trait_is_in_the_text_of_its_sql(name: str, query: Scalar) -> None:
    """The same holds for values, and for the events that decide."""
    made = compiler(name)

    assert "Zq" not in render(made.values(marked(query), UTC), made.dialect).sql


ONE_PASS = {
    "one": "event('A').within(90 days).sum(property('revenue')) >= 500",
    "two_windows": "event('A').within(30 days).count() >= 1 AND event('A').within(90 days).sum(property('x')) > 5",
    "three_events": "event('A').count() > 1 AND (event('B').avg(property('x')) > 2 OR NOT event('C').count() = 0)",
    "never": "NOT event('A').within(60 days).count() >= 1",
    "where_trait": "event('A').where(property('x') >= trait('y')).count() >= 1 AND trait('plan') = 'pro'",
}


@pytest.mark.parametrize("profiles", [True, False])
@pytest.mark.parametrize("query", ONE_PASS.values(), ids=ONE_PASS)
@pytest.mark.parametrize("name", DIALECTS)
def test_events_are_read_once(name: str, query: str, profiles: bool) -> None:
    """All streams that are conditions on single events are one pass over the table, in every database."""
    made = compiler(name, profiles=profiles or "trait" in query)

    statement = render(made.members(parse_audience(query), UTC), made.dialect)

    assert len(re.findall(r'FROM "?events"?|JOIN "?events"?', statement.sql)) == 1
    assert len(re.findall(r"GROUP BY", statement.sql)) == 1


def test_who_needs_no_look_is_not_looked_at() -> None:
    """A positive condition filters by name and window and joins; a negative one keeps everybody."""
    made = compiler("postgresql")

    positive = render(made.members(parse_audience("event('A').within(7 days).count() >= 1"), UTC), made.dialect).sql
    negative = render(made.members(parse_audience("event('A').within(7 days).count() = 0"), UTC), made.dialect).sql

    assert "LEFT OUTER JOIN" not in positive
    assert "LEFT OUTER JOIN" in negative
    assert "count(*)" in positive


@pytest.mark.parametrize("name", DIALECTS)
def test_missing_columns_are_named_with_their_place(name: str) -> None:
    """A property, a trait, a context or a source that the file does not place is refused at its character."""
    made = compiler(name, plain=True)
    cases = {
        "event('A').sum(property('amuont')) > 1": (
            15,
            "[sources.s.events] has no column `amuont`; did you mean `amount`?",
        ),
        "trait('color') = 'red'": (0, "[sources.s.profiles] has no column `color`; did you mean `colour`?"),
    }

    for query, (position, sentence) in cases.items():
        with pytest.raises(QueryError) as caught:
            made.members(parse_audience(query), UTC)
        assert (caught.value.position, str(caught.value)) == (position, sentence)


def test_other_databases_are_refused_with_the_remedy() -> None:
    """A warehouse without a dialect file is told so, and that SQL works."""
    with pytest.raises(ConfigError, match="queries are not supported for snowflake yet") as caught:
        dialect_of(database("snowflake://u@acme/db"))

    assert caught.value.hint == "define the audience with `sql`"


def test_a_trait_without_an_identifier_column_is_refused() -> None:
    """Identifiers that the profiles have not are named with the setting."""
    made = compiler("sqlite")

    with pytest.raises(ConfigError, match=r"has no column 'email', but `user_keys or company_keys` refers to it"):
        made.values(parse_trait("event('A').count()"), UTC, ["email"])
