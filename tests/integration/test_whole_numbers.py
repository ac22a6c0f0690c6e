"""Whole numbers beyond 15 digits as values of computed traits: exact or refused, from SQL and queries, in lists."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.audiences.explanation import explain
from audience_sync.config import Settings, load
from audience_sync.sync.preview import preview
from tests.factories import NOON

A, B = 12345678901234567890, 12345678901234567891  # of 64 bits, one float for both
C, D = 2**53 + 1, 2**53 + 2
E, F = 123456789012345678901, 123456789012345678902  # beyond 64 bits
TYPES = {"sqlite": ("INTEGER", "TEXT"), "postgresql": ("numeric(30)", "jsonb"), "duckdb": ("HUGEINT", "JSON")}
EVENTS = [
    ("u1", f'{{"n": {A}, "list": [{A}, {B}, 7], "doc": {{"deep": {C}}}, "small": 5}}'),
    ("u2", f'{{"n": {B}, "list": [{E}, {F}], "doc": {{"deep": {D}}}, "small": 6}}'),
    ("u3", f'{{"n": {C}, "list": [{C}, {D}, {D}], "doc": {{"deep": {E}}}, "small": 7}}'),
    ("u4", f'{{"n": {E}, "list": [], "doc": {{"deep": {F}}}, "small": 1234567890123}}'),
]
USERS = {"u1": 2**62 + 1, "u2": 2**62 + 2, "u3": C, "u4": 15}
LIST = {
    "u1": sorted([str(A), str(B), "7"]),
    "u2": [str(E), str(F)],
    "u3": [str(C), str(D)],
}
TRAITS: dict[str, tuple[str, dict[str, str]]] = {
    "first": ("event('E').first(property('n'))", {"u1": str(A), "u2": str(B), "u3": str(C)}),
    "last": ("event('E').last(property('doc.deep'))", {"u1": str(C), "u2": str(D)}),
    "sum": ("event('E').sum(property('n'))", {}),
    "max": ("event('E').max(property('n'))", {}),
    "min": ("event('E').min(property('n'))", {}),
    "avg": ("event('E').avg(property('n'))", {}),
    "small": ("event('E').sum(property('small'))", {"u1": "5", "u2": "6", "u3": "7", "u4": "1234567890123"}),
    "text": (
        "event('E').max(property('n') as string)",
        {"u1": f'"{A}"', "u2": f'"{B}"', "u3": f'"{C}"', "u4": f'"{E}"'},
    ),
    "mode": ("event('E').mode(property('n'), 1)", {"u1": f'"{A}"', "u2": f'"{B}"', "u3": f'"{C}"', "u4": f'"{E}"'}),
    "unique": (
        "event('E').unique(property('list.$'))",
        {key: json.dumps(json.dumps(texts, separators=(",", ":"))) for key, texts in LIST.items()},
    ),
    "held": ("trait('account')", {key: str(number) for key, number in USERS.items()}),
    "chained": ("trait('sum')", {}),
}
REFUSED = {"first": 1, "last": 2, "sum": 4, "max": 4, "min": 4, "avg": 4, "chained": 4}


def fill(execute: Callable[[str], object], kind: str) -> None:
    """Make the tables."""
    number, document = TYPES[kind]
    execute(f"CREATE TABLE events (user_id TEXT, event TEXT, timestamp TEXT, properties {document})")
    execute(f"CREATE TABLE users (user_id TEXT, account {number}, total DOUBLE PRECISION)")
    for user, properties in EVENTS:
        execute(f"INSERT INTO events VALUES ('{user}', 'E', '2026-01-01', '{properties}')")
        execute(f"INSERT INTO users VALUES ('{user}', {USERS[user]}, {USERS[user]}.0)")


@pytest.fixture(params=sorted(TYPES))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A configuration with every trait, on a database of each kind."""
    match request.param:
        case "sqlite":
            url = f"sqlite:///{tmp_path / 'world.db'}"
            with closing(sqlite3.connect(tmp_path / "world.db")) as file:
                fill(file.execute, request.param)
                file.commit()
        case "duckdb":
            url = f"duckdb:///{tmp_path / 'world.duckdb'}"
            with closing(duckdb.connect(str(tmp_path / "world.duckdb"))) as database:
                fill(database.execute, request.param)
        case _:
            url = str(request.getfixturevalue("postgres_url"))
            plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain) as connection:
                fill(lambda sql: connection.execute(sql.encode()), request.param)
    tables = "[sources.s.events]\ntable = 'events'\nproperties = 'properties'\n[sources.s.profiles]\ntable = 'users'\n"
    sql = {
        "exact": "SELECT user_id, account AS value FROM users",
        "rounded": "SELECT user_id, total AS value FROM users",
    }
    written = [f"[sources.s]\nurl = {json.dumps(url)}\n{tables}"]
    written += [f"[[traits]]\nname = '{name}'\nquery = {json.dumps(query)}\n" for name, (query, _) in TRAITS.items()]
    written += [f"[[traits]]\nname = '{name}'\nsql = '{text}'\n" for name, text in sql.items()]
    (tmp_path / "config.toml").write_text("".join(written))
    return load(tmp_path / "config.toml", {})


def found(settings: Settings, name: str) -> tuple[dict[str, Any], int]:
    """Return the values of a trait by user, and how many rows are refused."""
    seen = preview(settings, settings.audience(name), as_of=NOON, sample=9, on_page=lambda _: None)
    assert set(seen.reasons) <= {"unfit_value"}
    return {member.profile_key: member.value for member in seen.sample}, seen.rejected


@pytest.mark.slow
def test_a_whole_number_is_exact_or_refused(settings: Settings) -> None:
    """No reducer rounds: what is computed as a double is refused from 2^53 on, other values keep their digits."""
    for name, (query, expected) in TRAITS.items():
        values, refused = found(settings, name)

        assert {key: value for key, value in values.items() if value != '"[]"'} == expected, query
        assert refused == REFUSED.get(name, 0), query
    assert found(settings, "exact") == ({key: str(number) for key, number in USERS.items()}, 0)
    assert found(settings, "rounded") == ({"u4": "15"}, 3)


@pytest.mark.slow
def test_an_explanation_shows_every_digit(settings: Settings) -> None:
    """Commands show the value that the database has."""
    for name, value in {"first": str(E), "held": "15", "unique": "[]"}.items():
        shown = explain(settings, settings.audience(name), "u4", as_of=NOON, events=3).root

        assert shown is not None
        assert getattr(shown, "value", None) in (value, "null"), name
