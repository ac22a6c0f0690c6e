"""MariaDB as a source: what its types, its collations, its clock and its protocol would otherwise make of the rows.

The server of the tests is in +05:00, its texts compare without case, and its SQL mode is another one; see
`mariadb_servers`.
"""

from __future__ import annotations

import re
import threading
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymysql.connections import Connection
from sqlalchemy.engine import make_url

from audience_sync.audiences import explanation
from audience_sync.audiences.definition import open_definition
from audience_sync.audiences.explanation import Clause, explain
from audience_sync.config import Source, load
from audience_sync.core.keys import Unreadable
from audience_sync.core.parameters import Statement
from audience_sync.engines import columns, engine_of, mariadb_engine, open_rows, ping, table_columns
from audience_sync.engines.mariadb_servers import MARIADB, MYSQL, server_of
from audience_sync.errors import SourceError
from tests import mariadb_servers
from tests.sources import database
from tests.waiting import wait_until

NOW = datetime(2026, 3, 31, 12, 0, 30, tzinfo=UTC)
SHORT = timedelta(milliseconds=300)
WHOLE_DAYS = "SELECT id, made FROM odd WHERE made IS NOT NULL"


@pytest.fixture
def url(mariadb_url: str) -> str:
    """A shop whose people and events only differ in what a collation ignores, and a table of odd values."""
    mariadb_servers.administer(
        mariadb_url,
        "SET sql_mode = ''",
        "CREATE TABLE events (user_id VARCHAR(20), event VARCHAR(40), occurred_at DATETIME(3), properties JSON)",
        """INSERT INTO events VALUES
           ('u1', 'Order', '2026-03-31 11:30:00', '{"total": 10, "code": "a"}'),
           ('U1', 'Order', '2026-03-31 09:30:00', '{"total": 20, "code": "A"}'),
           ('u1 ', 'order', '2026-03-31 11:30:00', '{"total": 40, "code": "a "}'),
           ('ü1', 'Order', '0000-00-00 00:00:00', '{"total": 80, "code": null}')""",
        "CREATE TABLE users (id VARCHAR(20) PRIMARY KEY COLLATE utf8mb4_bin, bit_one BIT(1), tiny TINYINT(1),"
        " big BIGINT UNSIGNED, price DECIMAL(10, 2), born DATE, doc JSON, raw VARBINARY(8), size ENUM('S', 'M'))",
        """INSERT INTO users VALUES
           ('u1', b'1', 1, 18446744073709551615, 2.50, '2000-02-29', '{"a": 1}', 'text', 'S'),
           ('U1', b'0', 0, 9007199254740993, 0, '0000-00-00', '"x"', x'ff00', 'M'),
           ('n', NULL, NULL, NULL, NULL, NULL, 'null', NULL, NULL)""",
        "CREATE TABLE odd (id INT, stamp TIMESTAMP NULL, made DATETIME, day DATE, lasts TIME, flags BIT(4), y YEAR)",
        """INSERT INTO odd VALUES
           (1, '2026-03-31 12:00:30', '2026-03-31 12:00:30', '2026-03-31', '-100:00:01', b'1010', 2026),
           (2, 0, 0, 0, 0, 0, 0), (3, NULL, '2026-02-00 00:00:00', '2026-00-01', NULL, NULL, NULL)""",
    )
    return mariadb_url


def read(url: str, sql: str, limit: timedelta = timedelta(minutes=1)) -> list[tuple[object, ...]]:
    """Return all rows of a query."""
    with open_rows(database(url, limit), sql, as_of=NOW) as rows:
        return [row for page in rows.pages() for row in page]


def query(tmp_path: Path, url: str, text: str, *, trait: bool = False, users: str = "") -> dict[str, object]:
    """Return the answer of a query for each user: True for members, else the value."""
    profiles = f"[sources.s.profiles]\ntable = 'users'\nuser = 'id'\n{users}" if users else ""
    (tmp_path / "config.toml").write_text(
        f"[sources.s]\nurl = '{url}'\n[sources.s.events]\ntable = 'events'\nuser = 'user_id'\nname = 'event'\n"
        f"timestamp = 'occurred_at'\nproperties = 'properties'\n{profiles}"
        f'[[{"traits" if trait else "audiences"}]]\nname = "it"\nquery = """{text}"""\n'
    )
    settings = load(tmp_path / "config.toml", {})
    with open_definition(settings, settings.audience("it"), as_of=NOW) as rows:
        found = [row for page in rows.pages() for row in page]
    assert len({row[0] for row in found}) == len(found)
    return {str(row[0]): row[-1] if trait else True for row in found}


# --- values -----------------------------------------------------------------------------------------------------------


def test_times_are_read_in_utc(url: str) -> None:
    """A TIMESTAMP is an instant, whatever the server's time zone; a DATETIME is as it is written."""
    rows = read(url, "SELECT stamp, made, day FROM odd WHERE id = 1")

    assert rows == [(NOW, NOW.replace(tzinfo=None), date(2026, 3, 31))]
    assert read(url, "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())") == [(0,)]
    assert read(url, "SELECT COUNT(*) FROM odd WHERE stamp = :now AND made = :now") == [(1,)]


@pytest.mark.parametrize("source", ["TIMESTAMP", "DATETIME"])
def test_the_last_hour_is_an_hour(url: str, tmp_path: Path, source: str) -> None:
    """An order of three hours ago is not one of the last hour, in SQL and in a query."""
    mariadb_servers.administer(url, f"ALTER TABLE events MODIFY occurred_at {source}(3) NULL")
    recent = "SELECT user_id FROM events WHERE occurred_at >= :now - INTERVAL 1 HOUR AND event = 'Order'"

    assert {row[0] for row in read(url, recent)} == {"u1", "u1 "}  # of a person's SQL, the column's collation counts
    assert query(tmp_path, url, "event('Order').within(1 hour).count() > 0") == {"u1": True}


def test_dates_that_do_not_exist_cost_their_row(url: str) -> None:
    """A zero date cannot be represented: it stands in its row as it is written, with what to do about it."""
    (_, zero, partial) = read(url, "SELECT stamp, made, day FROM odd ORDER BY id")

    assert [str(value) for value in zero] == ["0000-00-00 00:00:00", "0000-00-00 00:00:00", "0000-00-00"]
    assert [str(value) for value in partial] == ["None", "2026-02-00 00:00:00", "2026-00-01"]
    assert all(isinstance(value, Unreadable) and "NULLIF" in value.problem for value in (*zero, *partial[1:]))


def test_zero_dates_are_no_times_in_a_query(url: str, tmp_path: Path) -> None:
    """An event at 0000-00-00 did not happen, and a birthday 0000-00-00 is none."""
    assert query(tmp_path, url, "event('Order').sum(property('total'))", trait=True) == {"u1": "10", "U1": "20"}
    assert query(tmp_path, url, "trait('born').exists()", users=" ") == {"u1": True}
    assert query(tmp_path, url, "trait('born').before_date('2020-01-01')", users=" ") == {"u1": True}


def test_numbers_of_every_width(url: str) -> None:
    """Bits are whole numbers, unsigned ones keep all their digits, and a TIME is its text: it may exceed a day."""
    wanted = "SELECT bit_one, tiny, big, price FROM users WHERE id = 'u1'"
    assert read(url, wanted) == [(1, 1, 18446744073709551615, Decimal("2.50"))]
    assert read(url, "SELECT flags, lasts, y FROM odd WHERE id = 1") == [(10, "-100:00:01", 2026)]


def test_columns_in_a_query(url: str, tmp_path: Path) -> None:
    """BIT(1) and TINYINT(1) are truths, an unsigned number its digits, an ENUM and bytes of UTF-8 are texts."""

    def trait(name: str) -> dict[str, object]:
        return query(tmp_path, url, f"trait('{name}')", trait=True, users=" ")

    assert trait("bit_one") == trait("tiny") == {"u1": "true", "U1": "false"}
    assert trait("big") == {"u1": "18446744073709551615", "U1": "9007199254740993"}
    assert trait("price") == {"u1": "2.50", "U1": "0.00"}
    assert trait("size") == {"u1": '"S"', "U1": '"M"'}
    assert trait("doc") == {"u1": '{"a": 1}', "U1": '"x"'}
    assert trait("doc.a") == {"u1": "1"}
    assert trait("raw")["u1"] == '"text"'


def test_types_of_columns(url: str) -> None:
    """A table says which columns are of JSON, which MariaDB keeps as text, and which are truths."""
    types = {column.name: column.type for column in table_columns(database(url), "users")}

    assert types == {
        "id": "varchar", "bit_one": "boolean", "tiny": "boolean", "big": "bigint", "price": "decimal", "born": "date",
        "doc": "json", "raw": "varbinary", "size": "enum",
    }  # fmt: skip
    described = columns(database(url), "SELECT doc, CONCAT(doc, '') AS d FROM users", as_of=NOW)
    assert [one.type for one in described] == ["json", "text"]


# --- texts ------------------------------------------------------------------------------------------------------------


def test_users_and_names_compare_as_bytes(url: str, tmp_path: Path) -> None:
    """Case, accents and blanks at the end tell users, events and values apart, whatever the table's collation."""
    assert query(tmp_path, url, "event('Order').count() > 0") == {"u1": True, "U1": True}
    assert query(tmp_path, url, "event('order').count() > 0") == {"u1 ": True}
    assert query(tmp_path, url, "event('Order').where(property('code') = 'a').count() > 0") == {"u1": True}
    assert query(tmp_path, url, "event('order').where(property('code') = 'a').count() > 0") == {}
    assert query(tmp_path, url, "event('Order').where(property('code').matches('^[a-z]$')).count() > 0") == {"u1": True}


def test_a_mode_of_the_server_changes_nothing(url: str) -> None:
    """Double quotes are texts and a backslash escapes, as in a session with MariaDB's default SQL mode."""
    assert read(url, """SELECT "it's", 'a\\'b', 1 || 0, 7 DIV 0, 'ü☕'""") == [("it's", "a'b", 1, None, "ü☕")]
    ((mode, zone, names, only),) = read(url, "SELECT @@sql_mode, @@time_zone, @@collation_connection, @@tx_read_only")
    assert (mode, zone, names, only) == (
        "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
        "+00:00",
        MARIADB.collation,
        1,
    )


def test_text_that_is_not_json_is_refused(url: str, tmp_path: Path) -> None:
    """MariaDB takes it for NULL; then people would silently leave an audience."""
    mariadb_servers.administer(
        url, "ALTER TABLE events MODIFY properties TEXT", "UPDATE events SET properties = 'oops'"
    )
    with pytest.raises(SourceError, match=r"failed while reading rows: Syntax error in JSON text .*json_extract"):
        query(tmp_path, url, "event('Order').sum(property('total')) > 1")
    assert read(url, "SELECT JSON_EXTRACT('oops', '$.a')") == [(None,)]  # a person's SQL means what MariaDB says


# --- queries that end early -------------------------------------------------------------------------------------------


def running(url: str) -> list[str]:
    """Return the queries that run in a database."""
    name = make_url(url).database
    with closing(mariadb_servers.connected(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            "SELECT info FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID()"
            " AND command <> 'Sleep'",
            [name],
        )
        return [row[0] for row in cursor.fetchall()]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SLEEP(600)",
        "SELECT BENCHMARK(1000000000000, MD5('x'))",
        "SELECT COUNT(*) FROM seq_1_to_1000000000 a, seq_1_to_1000000000 b WHERE a.seq * b.seq % 7 = 8",
        "SELECT seq FROM seq_1_to_1000000000000",
    ],
)
def test_a_query_that_takes_too_long_ends_on_the_server(url: str, sql: str) -> None:
    """After its time it is over, here and there: before the first row, between rows, and in the midst of one."""
    began = datetime.now(UTC)
    with pytest.raises(SourceError, match=r"did not finish within 0\.3s"):
        read(url, sql, SHORT)
    assert datetime.now(UTC) - began < timedelta(seconds=4)
    wait_until(lambda: running(url) == [])


def test_rows_that_nobody_reads_end_the_query(url: str) -> None:
    """A query that is left after its first page does not go on, though it finds no more rows to send."""
    rare = "SELECT seq FROM seq_1_to_1000000000000 WHERE seq <= 100000 OR seq % 1000000000 = 0"
    with open_rows(database(url), rare, as_of=NOW) as rows:
        next(rows.pages())
    wait_until(lambda: running(url) == [])


def test_the_server_has_a_limit_of_its_own(url: str) -> None:
    """It is there for when this process has died, and longer than ours; rows may wait for their reader for a day."""
    found = read(url, "SELECT @@max_statement_time, @@net_write_timeout", timedelta(minutes=30))
    assert found == [(Decimal("4200.000000"), 86_400)]


def test_a_lost_connection_is_named(url: str) -> None:
    """A connection that somebody kills is said to be lost, not refused."""

    def kill() -> None:
        wait_until(lambda: running(url) != [])
        name = make_url(url).database
        with closing(mariadb_servers.connected(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s AND command = 'Query'", [name])
            for (number,) in cursor.fetchall():
                if number != connection.thread_id():
                    cursor.execute(f"KILL CONNECTION {number}")

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        with pytest.raises(SourceError, match=r"^The connection to the mariadb source .* was lost: "):
            read(url, "SELECT SLEEP(60)")
    finally:
        killing.join()


def test_a_query_on_another_server_is_not_killed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy, the number of a connection may be that of someone else on another server."""
    killed = []
    with closing(engine_of(database(url)).connect(database(url), timedelta(minutes=1))) as session:
        session.execute(session.bind("SELECT 1", NOW))
        identity = mariadb_engine._identity
        monkeypatch.setattr(mariadb_engine, "_identity", lambda other: identity(other)._replace(host="elsewhere"))
        query = Connection.query
        monkeypatch.setattr(
            Connection,
            "query",
            lambda self, sql, *rest, **more: (
                killed.append(sql) if str(sql).startswith("KILL") else query(self, sql, *rest, **more)
            ),
        )
        session.interrupts()[0]()
    assert killed == []


# --- who may do what --------------------------------------------------------------------------------------------------


def test_nothing_is_written_by_a_function(url: str) -> None:
    """Even a function that writes is refused, and locks are not taken for others to wait for."""
    mariadb_servers.administer(
        url,
        "CREATE FUNCTION meddle() RETURNS INT MODIFIES SQL DATA BEGIN DELETE FROM odd; RETURN 1; END",
    )
    with pytest.raises(SourceError, match="READ ONLY transaction"):
        read(url, "SELECT meddle()")
    assert read(url, "SELECT COUNT(*) FROM odd") == [(3,)]


def test_a_reader_needs_to_select_only(url: str, tmp_path: Path) -> None:
    """SELECT on the tables is enough, for a query, for its types and to stop it."""
    name = make_url(url).database
    mariadb_servers.administer(
        url,
        "CREATE USER reader IDENTIFIED BY 'a@b/c'",
        f"GRANT SELECT ON {name}.events TO reader",
        f"GRANT SELECT ON {name}.users TO reader",
    )
    try:
        theirs = make_url(url).set(username="reader", password="a@b/c").render_as_string(hide_password=False)
        assert query(tmp_path, theirs, "event('Order').count() > 0") == {"u1": True, "U1": True}
        assert {column.name: column.type for column in table_columns(database(theirs), "users")}["doc"] == "json"
        with pytest.raises(SourceError, match="did not finish"):
            read(theirs, "SELECT SLEEP(600) FROM users", SHORT)
        with pytest.raises(SourceError, match=r"refused the query: SELECT command denied .*odd") as denied:
            read(theirs, "SELECT * FROM odd")
        assert "a@b/c" not in str(denied.value)
        wrong = make_url(theirs).set(password="wrong").render_as_string(hide_password=False)
        with pytest.raises(SourceError, match=r"Cannot connect .*Access denied for user 'reader'@") as refused:
            ping(database(wrong), timedelta(seconds=10))
        assert "(1045" not in str(refused.value)
    finally:
        mariadb_servers.administer(url, "DROP USER reader")


# --- around -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mariadb", "mysql", "mysql+pymysql", "mariadb+pymysql", "mysql+mysqldb"])
def test_every_url_leads_there(url: str, scheme: str) -> None:
    """The server says what it is; a URL need not, and the driver that it names is not needed."""
    same = url.replace("mariadb://", f"{scheme}://")

    assert engine_of(database(same)) is mariadb_engine.ENGINE
    assert read(same, "SELECT @@time_zone, :now") == [("+00:00", NOW.replace(tzinfo=None))]


def test_an_unknown_option_of_a_url_is_named(url: str) -> None:
    """An option that the driver does not know is one sentence."""
    with pytest.raises(SourceError, match=r"^Cannot connect to the mariadb source .*colour"):
        ping(database(f"{url}?colour=red"), timedelta(seconds=10))


def test_a_member_is_explained(url: str, tmp_path: Path) -> None:
    """`explain` finds the events of one user, and no others that a collation would."""
    query(tmp_path, url, "event('Order').within(1 day).count() > 0")
    settings = load(tmp_path / "config.toml", {})
    found = {user: explain(settings, settings.audience("it"), user, as_of=NOW, events=5) for user in ("u1", "u1 ")}

    assert {user: one.found.member is not None for user, one in found.items()} == {"u1": True, "u1 ": False}
    clause = found["u1"].root
    assert isinstance(clause, Clause)
    (event,) = clause.facts[0].events
    assert event.at == "2026-03-31T11:30:00.000Z"


def test_a_user_is_looked_up_by_an_index(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`explain` does not read the events of everybody: the index on their users serves it, collation or not."""
    mariadb_servers.administer(url, "CREATE INDEX by_user ON events (user_id)")
    statements: list[Statement] = []
    run = open_rows

    def noted(source: Source, statement: Statement, **options: Any) -> object:
        statements.append(statement)
        return run(source, statement, **options)

    monkeypatch.setattr(explanation, "open_rows", noted)
    query(tmp_path, url, "event('Order').within(1 day).count() > 0")
    settings = load(tmp_path / "config.toml", {})
    explain(settings, settings.audience("it"), "u1", as_of=NOW, events=5)

    assert statements
    with closing(mariadb_servers.connected(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"SET NAMES utf8mb4 COLLATE {MARIADB.collation}")
        for sql, parameters in statements:
            cursor.execute(f"EXPLAIN {sql}", parameters)
            assert "by_user" in {row[4] for row in cursor.fetchall()}  # key that can be used; there are few rows


@pytest.mark.parametrize(
    ("version", "server"),
    [
        ("10.11.19-MariaDB-0+deb12u1", MARIADB),
        ("5.5.5-10.6.1-MariaDB-log", MARIADB),
        ("11.4.2-MariaDB", MARIADB),
        ("8.0.36", MYSQL),
        ("8.0.mysql_aurora.3.04.0", MYSQL),
        ("9.1.0-commercial", MYSQL),
    ],
)
def test_a_server_says_what_it_is(version: str, server: object) -> None:
    """Its version tells MariaDB from MySQL."""
    assert server_of(version) is server


@pytest.mark.parametrize(
    ("version", "needed"), [("5.7.44-log", "MySQL 8.0.21"), ("10.5.27-MariaDB", "MariaDB 10.6"), ("8.0.20", "MySQL 8")]
)
def test_an_old_server_is_refused(version: str, needed: str) -> None:
    """The sentence names the version that is there and the one that is needed."""
    with pytest.raises(ValueError, match=f" {re.escape(version)}, but {needed}"):
        server_of(version)
