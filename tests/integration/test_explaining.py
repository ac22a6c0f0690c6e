"""Why somebody is in or not, asked of SQLite, PostgreSQL and DuckDB: the answers are those of the definition itself."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.audiences.definition import open_definition
from audience_sync.audiences.explanation import Clause, Explanation, Fact, asked_for, explain
from audience_sync.audiences.shown_sql import written_sql
from audience_sync.config import Settings, load
from audience_sync.core.keys import KeyRules, RowFault, stringify
from audience_sync.core.model import Computation
from audience_sync.query.printer import to_text
from audience_sync.sync.preview import preview

pytestmark = pytest.mark.slow_on_postgres

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
EVENTS = [
    (7, "Order Completed", "2026-03-30T10:00:00Z", {"revenue": 300, "sku": "b", "items": ["x", "y"]}),
    (7, "Order Completed", "2026-02-01T10:00:00Z", {"revenue": 250.5, "sku": "a"}),
    (7, "Order Completed", "2026-02-02T10:00:00Z", {"revenue": None, "sku": "it's\n%s"}),
    (7, "Viewed", "2026-03-30T09:00:00Z", {"sku": "b"}),
    (7, "Order Completed", "2026-04-30T10:00:00Z", {"revenue": 9999, "sku": "later"}),
    (8, "Order Completed", "2026-03-30T10:00:00Z", {"revenue": 20, "sku": "b"}),
    (9, "Viewed", "2026-03-30T10:00:00Z", {"sku": "c"}),
    (11, "Viewed", "2026-03-30T10:00:00Z", {"sku": "c"}),
]
USERS = [(7, "acme", "basic", ["a", "b"]), (8, None, "pro", []), (9, "acme", None, None), (10, None, "basic", ["c"])]
SPENT = "event('Order Completed').within(90 days).sum(property('revenue')) >= 500"
QUERIES = {
    "big": f"{SPENT} AND NOT (event('Viewed').count() > 3 OR trait('plan') = 'pro')",
    "bought_what_they_saw": "event('Viewed').where(event('Order Completed').within(parent: 2 days)"
    ".where(property('sku') = property(parent: 'sku')).count() >= 1).count() >= 1",
    "tagged": "trait('tags.$') = 'b' OR trait('plan').absent() OR trait('tags').absent()",
    "both": "trait('big') = true AND trait('spend') > 3",
    "neither": "NOT trait('big') = true AND 20 <= trait('spend')",
    "in_session": "event('Viewed').expires_after(2 days).count() >= 1",
}
TRAITS = {
    "spend": "event('Order Completed').sum(property('revenue'))",
    "first_sku": "event('Order Completed').first(property('sku'))",
    "skus": "event('Order Completed').unique(property('sku'))",
    "the_plan": "trait('plan')",
}
PEOPLE = ["7", "8", "9", "10", "11", "nobody", "07"]
SQL = "SELECT user_id, company_id FROM users WHERE user_id < 10 UNION ALL SELECT 7, 'other'"
VALUES = "SELECT user_id, plan AS value FROM users"


def fill_sqlite(folder: Path, _: pytest.FixtureRequest) -> str:
    """Return the URL of a SQLite file with the events and users."""
    with closing(sqlite3.connect(folder / "world.db")) as connection:
        connection.execute("CREATE TABLE events (user_id INTEGER, event TEXT, timestamp TEXT, properties TEXT)")
        connection.execute("CREATE TABLE users (user_id INTEGER, company_id TEXT, plan TEXT, tags JSON)")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows(EVENTS))
        connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows(USERS))
        connection.commit()
    return f"sqlite:///{folder / 'world.db'}"


def fill_postgres(_: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a PostgreSQL database with the events and users."""
    url = str(request.getfixturevalue("postgres_url"))
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE events (user_id bigint, event text, timestamp timestamptz, properties jsonb)")
        cursor.execute("CREATE TABLE users (user_id bigint, company_id text, plan text, tags jsonb)")
        cursor.executemany("INSERT INTO events VALUES (%s, %s, %s, %s)", rows(EVENTS))
        cursor.executemany("INSERT INTO users VALUES (%s, %s, %s, %s)", rows(USERS))
    return url


def fill_duckdb(folder: Path, _: pytest.FixtureRequest) -> str:
    """Return the URL of a DuckDB file with the events and users."""
    with closing(duckdb.connect(str(folder / "world.duckdb"))) as connection:
        connection.execute("CREATE TABLE events (user_id BIGINT, event TEXT, timestamp TIMESTAMP, properties JSON)")
        connection.execute("CREATE TABLE users (user_id BIGINT, company_id TEXT, plan TEXT, tags JSON)")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows(EVENTS))
        connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows(USERS))
    return f"duckdb:///{folder / 'world.duckdb'}"


FILLS: dict[str, Callable[[Path, pytest.FixtureRequest], str]] = {
    "sqlite": fill_sqlite,
    "postgresql": fill_postgres,
    "duckdb": fill_duckdb,
}


def rows(table: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Return rows with their documents as JSON text."""
    return [tuple(json.dumps(one) if isinstance(one, dict | list) else one for one in row) for row in table]


@pytest.fixture(params=sorted(FILLS))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Return a configuration with all the queries on a database of each kind."""
    lines = [
        "[sources.shop]",
        f"url = {json.dumps(FILLS[request.param](tmp_path, request))}",
        '[sources.shop.events]\ntable = "events"\nproperties = "properties"',
        '[sources.shop.profiles]\ntable = "users"\ncompany = "company_id"',
    ]
    for entry, definitions in (("audiences", QUERIES), ("traits", TRAITS)):
        for key, query in definitions.items():
            lines.append(f'[[{entry}]]\nname = "{key} name"\nkey = "{key}"\nquery = {json.dumps(query)}')
    lines.append(f'[[audiences]]\nname = "by_sql"\nsql = {json.dumps(SQL)}\ncompany_keys = {{groupId = "company_id"}}')
    lines.append(f'[[traits]]\nname = "by_sql_too"\nsql = {json.dumps(VALUES)}\ntype = "string"')
    lines.append(
        "[[audiences]]\nname = \"on_sql\"\nquery = \"trait('by_sql') = true AND trait('by_sql_too') = 'basic'\""
    )
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load(path, {})


def why(settings: Settings, user: str, key: str, *, events: int = 5) -> Explanation:
    """Return why a user is in, or not."""
    return explain(settings, settings.audience(key), user, as_of=NOW, events=events)


def facts(explanation: Explanation) -> dict[str, Fact]:
    """Return the values of an explanation by the text of what has them."""
    if isinstance(explanation.root, Fact):
        return {to_text(explanation.root.scalar): explanation.root}
    return {to_text(fact.scalar): fact for clause in clauses(explanation.root) for fact in clause.facts}


def clauses(clause: Clause | None) -> list[Clause]:
    """Return a clause and everything below it."""
    return [] if clause is None else [clause, *(below for one in clause.operands for below in clauses(one))]


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_an_explanation_never_contradicts_the_definition(settings: Settings, every: int) -> None:
    """Whoever is in, or has a value, is said to be, with a tree that holds; the same for whoever is not."""
    for number, audience in enumerate(settings.audiences):
        with open_definition(settings, audience, as_of=NOW) as definition:
            column = definition.columns.index(audience.user_keys["userId"])
            inside = {stringify(row[column], KeyRules(())) for page in definition.pages() for row in page}
        for user in PEOPLE[number % every :: every]:
            found = explain(settings, audience, user, as_of=NOW, events=1)
            expected = user in inside if audience.key != "by_sql_too" else user in inside - {"9"}

            assert (found.found.member is not None) is expected, (audience.key, user)
            if isinstance(found.root, Clause):
                assert found.root.holds is expected, (audience.key, user)
            elif audience.query is not None and user in {"7", "8", "9", "10"}:
                assert isinstance(found.root, Fact)
                assert (found.root.value != "null") is expected


def test_conditions_have_values_and_events(settings: Settings) -> None:
    """Each condition stands at its place with its value; a stream shows what is looked at, newest first."""
    found = why(settings, "7", "big", events=2)
    spent = facts(found)["event('Order Completed').within(90 days).sum(property('revenue'))"]
    assert isinstance(found.root, Clause)

    assert [(one.node, one.holds) for one in clauses(found.root)] == [
        ("1", True),
        ("1.1", True),
        ("1.2", True),
        ("1.2.1", False),
        ("1.2.1.1", False),
        ("1.2.1.2", False),
    ]
    assert (spent.value, spent.events_in_all) == ("550.5", 3)
    assert [(event.at, event.properties) for event in spent.events] == [
        ("2026-03-30T10:00:00.000Z", '{"revenue":300}'),
        ("2026-02-02T10:00:00.000Z", '{"revenue":null}'),
    ]
    assert asked_for(found.root.operands[0]) == ">= 500"
    assert facts(found)["trait('plan')"].value == '"basic"'
    assert found.found.member is not None
    assert found.found.member.identifiers == '{"company":{"groupId":"acme"}}'


@pytest.mark.slow
def test_where_nothing_is_looked_at_everything_is_shown(settings: Settings) -> None:
    """A count shows the whole event; a funnel what is asked of the event by its own conditions and its children's."""
    counted = facts(why(settings, "7", "in_session"))["event('Viewed').expires_after(2 days).count()"]
    (funnel,) = facts(why(settings, "7", "bought_what_they_saw")).values()

    assert [event.properties for event in counted.events] == ['{"sku":"b"}']
    assert (funnel.value, [event.properties for event in funnel.events]) == ("1", ['{"sku":"b"}'])


def test_the_event_that_decides_comes_first(settings: Settings) -> None:
    """Of `first` it is the oldest that has the property; a value with odd characters stays what it is."""
    first = facts(why(settings, "7", "first_sku", events=1))["event('Order Completed').first(property('sku'))"]
    odd = facts(why(settings, "7", "skus"))["event('Order Completed').unique(property('sku'))"]

    assert (first.value, first.events_in_all) == ('"a"', 3)
    assert [event.properties for event in first.events] == ['{"sku":"a"}']
    assert json.loads(odd.value) == ["a", "b", "it's\n%s"]
    assert json.loads(odd.events[1].properties) == {"sku": "it's\n%s"}


def test_what_is_asked_by_key_is_named(settings: Settings) -> None:
    """An audience and a computed trait of the file are said to be ones; the trait of a list shows the list."""
    both = facts(why(settings, "8", "both"))
    tags = facts(why(settings, "7", "tagged"))["trait('tags')"]

    assert {(text, one.value, one.known and one.known.key) for text, one in both.items()} == {
        ("trait('big')", "false", "big"),
        ("trait('spend')", "20", "spend"),
    }
    assert json.loads(json.loads(tags.value) if tags.value.startswith('"') else tags.value) == ["a", "b"]


def test_no_events_are_asked_for_where_none_are_wanted(settings: Settings) -> None:
    """`events=0` spares the statements about events."""
    found = facts(why(settings, "7", "big", events=0))

    assert {(one.events, one.events_in_all) for one in found.values()} == {((), None)}


def test_somebody_unknown_is_not_in_the_universe(settings: Settings) -> None:
    """Without a profile there is no tree; that there are events all the same is told."""
    stranger, nobody = why(settings, "11", "big"), why(settings, "nobody", "big")

    assert (stranger.root, stranger.found.member, stranger.has_events) == (None, None, True)
    assert (nobody.root, nobody.found.member, nobody.has_events) == (None, None, False)


def test_the_rows_of_sql_are_taken_as_a_sync_takes_them(settings: Settings) -> None:
    """Of two rows of one key the smallest counts, and a row without a value says why it is none."""
    twice, without = why(settings, "7", "by_sql").found, why(settings, "9", "by_sql_too").found

    assert twice.member is not None
    assert (twice.member.identifiers, twice.reasons) == ('{"company":{"groupId":"acme"}}', (RowFault.DUPLICATE,))
    assert (without.member, without.reasons) == (None, (RowFault.NULL_VALUE,))


def test_the_sql_and_its_parameters_are_all_that_runs(settings: Settings) -> None:
    """Every parameter is a comment of one line, whatever is in it, and no value of the query is in the SQL itself."""
    written = written_sql(settings, settings.audience("big"), as_of=NOW)
    comments = [line for line in written.text.removeprefix(written.sql).splitlines() if line]

    assert "Order Completed" not in written.sql
    assert "'Order Completed'" in written.parameters.values()
    assert len(comments) == len(written.parameters)
    assert all(line.startswith("-- ") for line in comments)


def test_sqlite_joins_queries_on_plain_columns(tmp_path: Path) -> None:
    """A cast on both sides of a join takes the time of all pairs: users as text are compared as they are."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript("CREATE TABLE e (user_id TEXT, event TEXT, at TEXT); CREATE TABLE u (user_id TEXT)")
    (tmp_path / "config.toml").write_text(
        f"""
[sources.shop]
url = "sqlite:///{tmp_path / "shop.db"}"
events = {{ sql = "SELECT user_id, event, at AS timestamp FROM e WHERE at <= :now" }}
profiles = {{ sql = "SELECT user_id FROM u" }}
[[audiences]]
name = "Buyers"
query = "event('Order Completed').count() >= 1"
[[audiences]]
name = "Known"
sql = "SELECT user_id FROM u WHERE :now > ''"
[[audiences]]
name = "Known Buyers"
query = "trait('known') = true AND event('Order Completed').count() >= 1"
"""
    )
    settings = load(tmp_path / "config.toml", {})
    for key in ("buyers", "known_buyers"):
        sql = written_sql(settings, settings.audience(key), as_of=NOW).sql
        joins = re.findall(r" ON (.*?)(?= LEFT OUTER JOIN| \nWHERE)", sql)
        assert joins
        assert not [condition for condition in joins if "CAST" in condition or "CASE" in condition]


def test_a_preview_is_what_a_sync_would_take(settings: Settings) -> None:
    """Size, sample and values are those of the distinct profiles; the rows that are not taken are counted by reason."""

    def look(key: str, sample: int = 10) -> object:
        found = preview(settings, settings.audience(key), as_of=NOW, sample=sample, on_page=lambda _: None)
        return found.read, found.size, dict(found.reasons), sorted(one.profile_key for one in found.sample)

    spend = preview(settings, settings.audience("spend"), as_of=NOW, sample=1, on_page=lambda _: None)
    plans = preview(settings, settings.audience("by_sql_too"), as_of=NOW, sample=0, on_page=lambda _: None)

    assert look("by_sql") == (4, 3, {RowFault.DUPLICATE: 1}, ["7", "8", "9"])
    assert look("both") == (1, 1, {}, ["7"])
    assert (spend.values.least, spend.values.middle, spend.values.greatest) == (20, 285.25, 550.5)
    assert len(spend.sample) == 1
    assert settings.audience("by_sql_too").computation is Computation.TRAIT
    assert (plans.size, plans.rejected, plans.values.frequent) == (3, 1, {'"basic"': 2, '"pro"': 1})
