"""The trailing blanks of `char(n)` are padding and mean nothing: in keys, identifiers, values and queries."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.audiences.explanation import find
from audience_sync.config import Settings, load
from audience_sync.core.model import Member
from audience_sync.engines import registry
from audience_sync.engines.sqlalchemy_engine import is_blank_padded
from audience_sync.sync.preview import preview
from tests.factories import NOON
from tests.syncing import Syncing

TABLES = """
CREATE DOMAIN code AS char(6);
CREATE TABLE cu (user_id char(8), account char(10), plan char(12), tags char(4)[], region code);
CREATE TABLE ev (user_id text, event char(9), "timestamp" timestamptz, sku char(6), tags char(4)[]);
INSERT INTO cu VALUES ('ab', 'acme', 'pro', '{x,y}', 'eu'), ('cd ', ' b', ' ', NULL, NULL);
INSERT INTO cu (user_id) VALUES ('');
INSERT INTO ev VALUES ('ab', 'E', '2026-01-01', 's1', '{k}'), ('cd', 'E', '2026-01-01', 's2 ', '{l,k}');
"""
SOURCE = """
[sources.p]
url = {url}
[sources.p.events]
table = "ev"
[sources.p.profiles]
table = "cu"
company = "account"
"""


@pytest.fixture
def url(postgres_url: str) -> str:
    """The URL of a database with columns of `char(n)`."""
    plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        connection.execute(TABLES.encode())
    return postgres_url


def settings_of(url: str, syncing: Syncing, entries: str) -> Settings:
    """Return a configuration with audiences and computed traits on the database."""
    path = syncing.shop.path.with_name("padded.toml")
    path.write_text(SOURCE.format(url=json.dumps(url)) + entries)
    return load(path, {})


class Case(NamedTuple):
    """A definition, and who has which value; `true` in an audience."""

    kind: str
    definition: str
    expected: dict[str, str | None]


ACME = '{"company":{"groupId":"acme"}}'
CASES = [
    Case("audiences", "sql = 'SELECT user_id FROM cu'", {"ab": None, "cd": None}),
    Case("audiences", "sql = 'SELECT region AS user_id FROM cu'", {"eu": None}),
    Case("audiences", "sql = 'SELECT user_id || account AS user_id FROM cu'", {"abacme": None, "cd b": None}),
    Case("audiences", '''query = "event('E').count() >= 1"''', {"ab": None, "cd": None}),
    Case("audiences", '''query = "trait('plan') = 'pro' AND trait('region') = 'eu'"''', {"ab": None}),
    Case("audiences", '''query = "trait('tags.$') = 'x'"''', {"ab": None}),
    Case("audiences", '''query = "event('E').where(property('tags.$') = 'l').count() > 0"''', {"cd": None}),
    Case("audiences", '''query = "event('E').where(property('sku').ends_with('2')).count() > 0"''', {"cd": None}),
    Case("traits", "sql = 'SELECT user_id, plan AS value FROM cu'", {"ab": '"pro"', "cd": '""'}),
    Case("traits", "sql = 'SELECT user_id, tags AS value FROM cu'", {"ab": r'"[\"x\",\"y\"]"'}),
    Case("traits", '''query = "trait('plan')"''', {"ab": '"pro"', "cd": '""', "": None}),
    Case("traits", '''query = "trait('tags')"''', {"ab": r'"[\"x\",\"y\"]"'}),
    Case("traits", '''query = "event('E').last(property('sku'))"''', {"ab": '"s1"', "cd": '"s2"'}),
    Case(
        "traits", '''query = "event('E').unique(property('tags.$'))"''', {"ab": r'"[\"k\"]"', "cd": r'"[\"k\",\"l\"]"'}
    ),
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where memberships are kept is no matter
def test_padding_is_not_part_of_any_value(syncing: Syncing, url: str) -> None:
    """A user `ab` of a `char(8)` column is the user `ab` of the application, in SQL and in queries, everywhere."""
    entries = "".join(f"[[{case.kind}]]\nname = 'n{n}'\n{case.definition}\n" for n, case in enumerate(CASES))
    settings = settings_of(url, syncing, entries)

    for n, case in enumerate(CASES):
        audience = settings.audience(f"n{n}")
        seen = preview(settings, audience, as_of=NOON, sample=9, on_page=lambda _: None)
        found = {member.profile_key: member.value for member in seen.sample}
        assert found == {key: value for key, value in case.expected.items() if key}, case.definition
    sync = settings.audience("n0")
    assert find(settings, sync, "ab", as_of=NOON).member == Member("ab")
    assert find(settings, sync, "ab      ", as_of=NOON).member is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("engine", ["postgresql_engine", None])
def test_identifiers_have_no_padding(
    syncing: Syncing, url: str, monkeypatch: pytest.MonkeyPatch, engine: str | None
) -> None:
    """Company and further user keys are those of the application; blanks in front are part of the text."""
    monkeypatch.setattr(registry, "ENGINES", {"postgresql": registry.Entry(engine)})
    wanted: dict[str, Any] = {"company_keys": {"groupId": "account"}, "source_url": url}
    syncing.configure(sql="SELECT user_id, account FROM cu WHERE user_id <> ''", **wanted)
    syncing.sync()

    assert syncing.members() == {"ab": ACME, "cd": '{"company":{"groupId":" b"}}'}


@pytest.mark.parametrize(
    ("dialect", "code", "padded"),
    [
        ("redshift", 1042, True),
        ("cockroachdb", 1042, True),
        ("mysql", 1042, False),
        ("redshift", 1043, False),
        ("trino", "char(8)", True),
        ("trino", "varchar(8)", False),
        ("any", "CHARACTER", True),
        ("any", "character varying(8)", False),
        ("any", "NCHAR(3)", True),
        ("mssql", str, False),  # pyodbc says of CHAR and VARCHAR that both are str
        ("any", None, False),
    ],
)
def test_a_driver_says_which_columns_are_padded(dialect: str, code: object, padded: bool) -> None:
    """Only a column whose type is known to be padded loses its trailing blanks."""
    assert is_blank_padded(dialect, code) is padded


def test_oracle_says_it_by_name() -> None:
    """Type codes of Oracle's driver are objects with names."""

    class DbType(NamedTuple):
        name: str

    names = ("DB_TYPE_CHAR", "DB_TYPE_NCHAR", "DB_TYPE_VARCHAR")
    assert [is_blank_padded("oracle", DbType(name)) for name in names] == [True, True, False]
