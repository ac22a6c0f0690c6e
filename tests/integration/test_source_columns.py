"""Of what type the columns of a source are, and statements that bring their own values."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import psycopg
import pytest

from audience_sync.engines import (
    Column,
    Statement,
    columns,
    open_rows,
    probe,
    registry,
    sqlite_engine,
    table_columns,
)
from audience_sync.errors import SourceError
from tests.sources import database

AS_OF = datetime(2026, 3, 31, 12, 0, 30, tzinfo=UTC)
RICH = (
    "CREATE TABLE rich (id bigint, at timestamptz, local timestamp, doc jsonb, raw json, price numeric(8,2), ok bool,"
    " key uuid, note text, name varchar(20), tags text[], mood feeling, big_feeling happy)"
)


@pytest.fixture
def rich_postgres_url(postgres_url: str) -> str:
    """A PostgreSQL database with tables and a view."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TYPE feeling AS ENUM ('fine', 'so so')")
        connection.execute("CREATE DOMAIN happy AS int CHECK (value > 0)")
        connection.execute(RICH.encode())
        connection.execute('CREATE SCHEMA "Odd schema"')
        connection.execute('CREATE TABLE "Odd schema"."a ""% b" ("User" int, "100%" text)')
        connection.execute("CREATE VIEW seen AS SELECT id, doc->>'a' AS a FROM rich")
    return postgres_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file with a table, a view, a virtual table and an attached-looking name."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.executescript(
            'CREATE TABLE events (id INTEGER PRIMARY KEY, "At" TIMESTAMP, price NUMERIC(8, 2), properties JSON, free,'
            " twice INT AS (id * 2));"
            'CREATE TABLE "Order ""x""" (a VARCHAR(10));'
            'CREATE VIEW recent AS SELECT "At", price + 1 AS more FROM events;'
            "CREATE VIEW broken AS SELECT a FROM nowhere;"
            "CREATE VIRTUAL TABLE words USING fts5(word);"
            "INSERT INTO events (id, properties) VALUES (1, '{}'), (2, '100%')"
        )
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
def duckdb_url(tmp_path: Path) -> str:
    """A DuckDB file with a table in a schema."""
    with duckdb.connect(tmp_path / "shop.duckdb") as shop:
        shop.execute("CREATE SCHEMA s")
        shop.execute('CREATE TABLE s."at" ("select" TIMESTAMPTZ, doc JSON, tags VARCHAR[], n BIGINT)')
        shop.execute("CREATE TABLE events AS SELECT 1 AS id UNION ALL SELECT 2")
    return f"duckdb:///{tmp_path / 'shop.duckdb'}"


def types(url: str, query: str | Statement) -> list[tuple[str, str]]:
    """Return the names and types of the columns of a query."""
    return [(name, kind) for name, kind in columns(database(url), query, as_of=AS_OF)]


def table_types(url: str, table: str) -> list[tuple[str, str]]:
    """Return the names and types of the columns of a table."""
    return [(name, kind) for name, kind in table_columns(database(url), table)]


def read(url: str, query: str | Statement) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    with open_rows(database(url), query, as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def test_postgres_names_its_types(rich_postgres_url: str) -> None:
    """Tables, views and expressions have the types of the catalogue, of people's own types as well."""
    assert table_types(rich_postgres_url, "rich") == [
        ("id", "int8"),
        ("at", "timestamptz"),
        ("local", "timestamp"),
        ("doc", "jsonb"),
        ("raw", "json"),
        ("price", "numeric"),
        ("ok", "bool"),
        ("key", "uuid"),
        ("note", "text"),
        ("name", "varchar"),
        ("tags", "_text"),
        ("mood", "feeling"),
        ("big_feeling", "int4"),
    ]
    assert table_types(rich_postgres_url, "public.seen") == [("id", "int8"), ("a", "text")]
    assert types(rich_postgres_url, "SELECT :now AS now, 1 AS one, 'x' AS x, NULL AS nothing") == [
        ("now", "timestamptz"),
        ("one", "int4"),
        ("x", "text"),
        ("nothing", "text"),
    ]


def test_names_of_tables_are_quoted(rich_postgres_url: str, sqlite_url: str, duckdb_url: str) -> None:
    """Capitals, blanks, quotes, percent signs and reserved words in names mean nothing else."""
    assert table_types(rich_postgres_url, 'Odd schema.a "% b') == [("User", "int4"), ("100%", "text")]
    assert table_types(sqlite_url, 'main.Order "x"') == [("a", "varchar(10)")]
    assert table_types(duckdb_url, "s.at") == [
        ("select", "timestamp with time zone"),
        ("doc", "json"),
        ("tags", "varchar[]"),
        ("n", "bigint"),
    ]


def test_sqlite_tells_what_was_declared(sqlite_url: str) -> None:
    """Columns of tables and views have their declared type, in lower case; hidden columns are left out."""
    assert table_types(sqlite_url, "events") == [
        ("id", "integer"),
        ("At", "timestamp"),
        ("price", "numeric(8, 2)"),
        ("properties", "json"),
        ("free", ""),
        ("twice", "int"),
    ]
    assert table_types(sqlite_url, "recent") == [("At", "timestamp"), ("more", "")]
    assert table_types(sqlite_url, "words") == [("word", "")]


def test_sqlite_tells_the_affinity_of_what_a_query_gives(sqlite_url: str) -> None:
    """Columns of a query have the type that SQLite compares them as; the session stays read-only."""
    wanted = "SELECT id, CAST(id AS TEXT) AS name, price, 1 AS one, :now AS now FROM events"
    assert types(sqlite_url, wanted) == [("id", "int"), ("name", "text"), ("price", "num"), ("one", ""), ("now", "")]
    with closing(sqlite_engine.connect(database(sqlite_url), timedelta(seconds=5))) as session:
        session.describe(session.bind("SELECT 1", datetime(2026, 1, 1, tzinfo=UTC)))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            session.execute(Statement("CREATE TEMP TABLE t (a)", None))


@pytest.mark.parametrize("kind", ["sqlite", "rich_postgres", "duckdb"])
def test_a_table_that_is_not_there_is_told(request: pytest.FixtureRequest, kind: str) -> None:
    """The sentence is the database's own, and names the table."""
    url = str(request.getfixturevalue(f"{kind}_url"))
    for table in ("nowhere", "nowhere.nothing", "x; DROP TABLE events"):
        with pytest.raises(SourceError, match=r"refused the query: .*(nowhere|x; DROP)"):
            table_columns(database(url), table)


def test_a_broken_view_is_told(sqlite_url: str) -> None:
    """A view of SQLite whose table is gone is an error."""
    with pytest.raises(SourceError, match="nowhere"):
        table_columns(database(sqlite_url), "broken")


def test_statements_bring_their_values(rich_postgres_url: str, sqlite_url: str, duckdb_url: str) -> None:
    """A statement is in its driver's own style; its values are values and its percent signs are the driver's."""
    value = "it's 100% :x $1 %(x)s"

    assert read(sqlite_url, Statement("SELECT :x, id FROM events WHERE id = :n", {"x": value, "n": 2})) == [(value, 2)]
    assert read(duckdb_url, Statement("SELECT $1, id FROM events WHERE id = $2 AND $2 > 1", [value, 2])) == [(value, 2)]
    formatted = Statement("SELECT %(x)s::text, 7 %% 5 WHERE 'ab' LIKE 'a%%' AND %(x)s::text IS NOT NULL", {"x": value})
    assert read(rich_postgres_url, formatted) == [(value, 2)]
    assert read(rich_postgres_url, Statement("SELECT 7 %% 5", {})) == [(2,)]
    assert read(rich_postgres_url, Statement("SELECT 7 % 5", None)) == [(2,)]
    assert read(rich_postgres_url, "SELECT 7 % 5") == [(2,)]


def test_statements_are_described(rich_postgres_url: str, sqlite_url: str, duckdb_url: str) -> None:
    """`columns` and `probe` take statements, too."""
    assert types(sqlite_url, Statement("SELECT :n AS n", {"n": 1})) == [("n", "")]
    assert types(duckdb_url, Statement("SELECT id + $1 AS n FROM events", [1])) == [("n", "integer")]
    assert types(rich_postgres_url, Statement("SELECT %(n)s::int AS n", {"n": 1})) == [("n", "int4")]
    assert probe(database(duckdb_url), Statement("SELECT $1 AS n", ["x"]), as_of=AS_OF) == ("n",)


@pytest.mark.parametrize("sql", ["DELETE FROM events", "DROP TABLE events", "CREATE TABLE more (a int)"])
def test_a_statement_cannot_write(sqlite_url: str, duckdb_url: str, sql: str) -> None:
    """Whatever a statement says, the connection only reads."""
    for url in (sqlite_url, duckdb_url):
        with pytest.raises(SourceError):
            read(url, Statement(sql, None))
        assert read(url, "SELECT count(*) FROM events") == [(2,)]


def test_the_backend_is_named() -> None:
    """Whose SQL a source speaks does not depend on the driver in its URL."""
    urls = ["sqlite:////x.db", "postgresql://db/x", "postgresql+psycopg://db/x", "duckdb://", "mysql+pymysql://db/x"]

    assert [registry.engine_name(database(url)) for url in urls] == [
        "sqlite",
        "postgresql",
        "postgresql",
        "duckdb",
        "mysql",
    ]


def test_the_general_way_takes_statements(
    rich_postgres_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through SQLAlchemy, statements are run and tables described as far as the driver tells."""
    monkeypatch.setattr(registry, "ENGINES", {})
    url = rich_postgres_url

    assert read(url, Statement("SELECT %(x)s::int %% 5", {"x": 7})) == [(2,)]
    assert read(url, "SELECT 7 % 5") == [(2,)]
    assert read(sqlite_url, Statement("SELECT ?, id FROM events WHERE id = ?", ["x", 2])) == [("x", 2)]
    assert table_columns(database(url), "rich")[0] == Column("id", "")


def test_sqlite_has_regular_expressions(sqlite_url: str) -> None:
    r"""`REGEXP` finds a pattern anywhere; \d and \w are ASCII; NULL stays NULL; numbers are their text."""
    cases = [
        ("'order 12' REGEXP '[0-9]+$'", 1),
        ("'order 12' REGEXP '^[0-9]+'", 0),
        (r"'٣' REGEXP '\d'", 0),
        ("'Zoë' REGEXP 'ë'", 1),
        ("12.5 REGEXP '^12[.]5$'", 1),
        ("NULL REGEXP 'x'", None),
        ("'x' REGEXP NULL", None),
        ("CAST('Zoë' AS BLOB) REGEXP '^Zoë$'", 1),
        ("CAST(x'41ff' AS BLOB) REGEXP '^A.$'", 1),
    ]

    for expression, expected in cases:
        assert read(sqlite_url, f"SELECT {expression}") == [(expected,)], expression
    assert read(sqlite_url, Statement("SELECT 'a''b' REGEXP :p", {"p": "a'b"})) == [(1,)]


def test_a_wrong_regular_expression_is_told(sqlite_url: str) -> None:
    """The sentence says what is wrong with the pattern, or that the text is not UTF-8, and what to do then."""
    with pytest.raises(SourceError, match=r"the regular expression is invalid: missing \)"):
        read(sqlite_url, "SELECT 'x' REGEXP '('")
    with pytest.raises(SourceError, match="use CAST"):
        read(sqlite_url, "SELECT CAST(x'41ff' AS TEXT) REGEXP 'A'")


def test_regular_expressions_meet_broken_text(tmp_path: Path) -> None:
    """Text that is not UTF-8 in the middle of a large result neither stops a search nor loses a row."""
    with closing(sqlite3.connect(tmp_path / "odd.db")) as writer:
        writer.execute("CREATE TABLE t (a TEXT)")
        writer.executemany("INSERT INTO t VALUES (?)", ((f"user {i}",) for i in range(30_000)))
        writer.execute("UPDATE t SET a = CAST(x'75736572ff' AS TEXT) WHERE rowid = 25000")
        writer.commit()
    rows = read(f"sqlite:///{tmp_path / 'odd.db'}", "SELECT a FROM t WHERE CAST(a AS BLOB) REGEXP '^user'")

    assert len(rows) == 30_000
    assert ("user\udcff",) in rows
