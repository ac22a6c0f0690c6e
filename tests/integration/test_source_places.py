"""A database's hint and the place it names are kept, in the SQL as a person wrote it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from audience_sync.config import Source
from audience_sync.config.types import SecretUrl
from audience_sync.core.parameters import bind_now, place_in
from audience_sync.engines import columns, open_rows
from audience_sync.engines.duckdb_engine import DuckdbSession
from audience_sync.engines.postgresql_dialect import PostgresqlDialect
from audience_sync.errors import ConfigError, SourceError

AS_OF = datetime(2026, 11, 23, 14, tzinfo=UTC)
SQL = """\
-- 100 % of the last month
SELECT user_id FROM orders
WHERE ordered_at < :now AND note LIKE '%:now%'
  AND ordered_at >= :now - interval '30 days' AND plann = 'trial'
"""
TABLE = "CREATE TABLE orders (user_id text, ordered_at timestamp, note text, plan text)"


@pytest.fixture(params=["postgresql", "duckdb"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A shop in a database that says where a query is wrong."""
    if request.param == "duckdb":
        url = f"duckdb:///{tmp_path / 'shop.duckdb'}"
        with duckdb.connect(tmp_path / "shop.duckdb") as file:
            file.execute(TABLE)
        yield source_at(url)
        return
    url = request.getfixturevalue("postgres_url")
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(plain, autocommit=True)) as server:
        server.execute(f"DROP TABLE IF EXISTS orders; {TABLE}".encode())
        yield source_at(url)
        server.execute(b"DROP TABLE orders")


def source_at(url: str) -> Source:
    """Return the source that a URL names."""
    return Source(
        name="shop",
        url=SecretUrl(make_url(url)),
        files={},
        memory_limit="512MB",
        statement_timeout=timedelta(minutes=1),
        events=None,
        profiles=None,
    )


def refusals(source: Source, sql: str) -> list[SourceError]:
    """Return the errors of running a query, and of asking for its columns."""
    found = []
    with pytest.raises(SourceError) as ran, open_rows(source, sql, as_of=AS_OF):
        pass
    found.append(ran.value)
    with pytest.raises(SourceError) as asked:
        columns(source, sql, as_of=AS_OF)
    return [*found, asked.value]


def test_the_place_is_that_of_the_persons_sql(source: Source) -> None:
    """Though `:now` was replaced, `%` doubled and a cursor declared, line and column are those of the file."""
    ran, asked = refusals(source, SQL)
    for error in (ran, asked):
        assert str(error).endswith(", at line 4, column 51: `plann = 'trial'`.")
        assert "\n" not in str(error)
        assert error.hint is not None
        assert "plan" in error.hint
        assert "\n" not in error.hint


def test_a_query_without_now_has_its_place(source: Source) -> None:
    """A table that is not there is named with its place; what the database proposes is the hint."""
    for error in refusals(source, "SELECT user_id\nFROM ordrs"):
        assert str(error).endswith(", at line 2, column 6: `ordrs`.")


def test_a_syntax_error_has_its_place(source: Source) -> None:
    """A word that is too much."""
    for error in refusals(source, "SELECT user_id FROM orders\nWHERE WHERE ordered_at < :now"):
        assert str(error).endswith(", at line 2, column 7: `WHERE ordered_at < :now`.")


def test_postgresql_says_its_own_words(postgres_url: str) -> None:
    """The whole message and the whole hint of PostgreSQL, in two lines."""
    plain = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg.connect(plain, autocommit=True)) as server:
        server.execute(f"DROP TABLE IF EXISTS orders; {TABLE}".encode())
        (error, _) = refusals(source_at(postgres_url), "SELECT usr_id FROM orders WHERE ordered_at < :now")
        server.execute(b"DROP TABLE orders")
    place = f"{make_url(postgres_url).database}"

    assert str(error).partition(" refused the query: ")[2] == (
        'column "usr_id" does not exist, at line 1, column 8: `usr_id FROM orders WHERE ordered_at < :n…`.'
    )
    assert place in str(error)
    assert error.hint == 'Perhaps you meant to reference the column "orders.user_id"'


def test_duckdb_shows_the_middle_of_a_long_line() -> None:
    """The place is found in the whole line all the same, parameters before it included."""
    with closing(duckdb.connect()) as connection:
        session = DuckdbSession(connection)
        sql = f"SELECT {', '.join(f'{n} AS a{n}' for n in range(200))}, :now AS n, wrong FROM range(3)"
        with pytest.raises(duckdb.Error) as caught:
            session.execute(session.bind(sql, AS_OF))

        assert session.position(caught.value) == sql.index("wrong")


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("SELECT usr_id\nFROM orders -- usr_id", "line 1, column 8: `usr_id`"),
        ("SELECT 'usr_id'\nFROM orders o WHERE\n  o.Usr_id > :now", "line 3, column 3: `o.Usr_id > :now`"),
        ("SELECT user_id\nFROM ordrs", "line 2, column 6: `ordrs`"),
        ("SELECT user_id FROM orders\n  WHEERE plan = 'x'", "line 2, column 10: `plan = 'x'`"),
        ("SELECT\n  median(plan) FROM orders", "line 2, column 3: `median(plan) FROM orders`"),
        ("SELECT nope FROM orders WHERE nope = 1", None),  # which of them, SQLite does not say
        ("SELECT user_id, FROM orders WHERE plan = (SELECT 1 FROM orders)", None),
        ("SELECT user_id FROM orders)", None),
    ],
)
def test_sqlite_names_a_word_whose_place_is_found(tmp_path: Path, sql: str, place: str | None) -> None:
    """SQLite says which word it objects to: where the SQL has it once, outside of literals, that is the place."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as file:
        file.execute(TABLE)
    for error in refusals(source_at(f"sqlite:///{tmp_path / 'shop.db'}"), sql):
        assert str(error).partition(", at ")[2] == (f"{place}." if place else "")


def test_sql_of_a_file_names_the_file(source: Source, tmp_path: Path) -> None:
    """Behind what is wrong, where the database says it, else alone; before what is seen without the database."""
    file = tmp_path / "queries" / "gold.sql"
    with pytest.raises(SourceError) as caught, open_rows(source, "SELECT 1\nFROM ordrs", as_of=AS_OF, file=file):
        pass
    assert str(caught.value).endswith(f", at {file}, line 2, column 6: `ordrs`.")

    with pytest.raises(SourceError) as nowhere:
        columns(source, "SELECT 1 FROM range(:now, :now, :now, :now)", as_of=AS_OF, file=file)
    assert str(file) in str(nowhere.value)

    with pytest.raises(ConfigError) as seen:
        columns(source, "SELECT 1\nFROM t WHERE a > :since", as_of=AS_OF, file=file)
    assert str(seen.value) == f"{file}: Unknown parameter :since on line 2; the only parameter is :now."
    assert seen.value.hint is not None


PIECES = st.sampled_from(["SELECT 1", ":now", "'%:now'", "-- :now\n", "a % b", "\n", "x::now", "%(now)s", "$1"])


@given(st.lists(PIECES))
def test_every_offset_comes_back(pieces: list[str]) -> None:
    """Whatever stands around `:now`, an offset in what PostgreSQL gets is one in the text that was written."""
    sql = " ".join(["SELECT", *pieces])
    bound = bind_now(sql, "%(now)s", lexis=PostgresqlDialect.lexis, double_percent=True)
    sent, offset = "", 0
    for at in bound.now_at:
        sent, offset = f"{sent}{sql[offset:at]}$1", at + len(":now")
    sent += sql[offset:]
    for position, letter in enumerate(sent):
        written = bound.written_at(position, placeholder="$1")
        assert sql[written] == letter or sql[written : written + 4] == ":now"


@pytest.mark.parametrize(
    ("sql", "offset", "place"),
    [
        ("SELECT a", 7, "line 1, column 8: `a`"),
        ("SELECT\n\ta\nFROM b", 8, "line 2, column 2: `a`"),
        ("SELECT", 6, "line 1, column 7"),
        (f"SELECT {'a' * 60}", 7, f"line 1, column 8: `{'a' * 40}…`"),
    ],
)
def test_a_place_is_written_as_editors_count(sql: str, offset: int, place: str) -> None:
    """Lines and columns from 1, and what stands there, in a few words."""
    assert place_in(sql, offset) == place
