"""A value that a driver cannot represent costs its row where it is used, and nothing where it is not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.audiences.explanation import find
from audience_sync.core.keys import RowFault, Unreadable
from audience_sync.core.model import Counts, Member
from audience_sync.core.parameters import Statement
from audience_sync.engines import postgresql_engine, registry, sqlalchemy_engine
from audience_sync.engines.base import PAGE
from audience_sync.errors import SourceError
from audience_sync.store import reports
from audience_sync.sync.preview import preview
from tests.factories import NOON
from tests.sources import database
from tests.syncing import Syncing

pytestmark = pytest.mark.parametrize(
    "database_url", ["sqlite"], indirect=True
)  # where memberships are kept is no matter


class Odd(NamedTuple):
    """An expression whose value Python does not have, its type, and what is said of it."""

    expression: str
    good: str  # a value of the same type
    shown: str
    problem: str


AFTER = "timestamp too large (after year 10K); cast it to text"
BEFORE = "date too small (before year 1); cast it to text"
INFINITE = "an infinite time; cast it to text"
NO_PYTHON = "a time or interval that Python cannot represent; cast it to text"
ODD = {
    "postgresql": [
        Odd("timestamptz '20000-01-01 00:00Z'", "timestamptz '2026-01-01 00:00Z'", "20000-01-01 00:00:00+00", AFTER),
        Odd("timestamp 'infinity'", "timestamp '2026-01-01'", "infinity", AFTER),
        Odd("date '0044-03-15 BC'", "date '2026-01-01'", "0044-03-15 BC", BEFORE),
        Odd("time '24:00'", "NULL::time", "24:00:00", "can't parse time; cast it to text"),
        Odd("interval '3000000 years'", "NULL::interval", "3000000 years", "can't parse interval; cast it to text"),
        Odd("ARRAY[date 'infinity']", "ARRAY[date '2026-01-01']", "{infinity}", "can't parse date; cast it to text"),
        Odd(
            "daterange('20000-01-01', NULL)",
            "NULL::daterange",
            "[20000-01-01,)",
            "date too large (after year 10K); cast it to text",
        ),
    ],
    "duckdb": [
        Odd(
            "TIMESTAMPTZ '20000-01-01 00:00:00Z'",
            "TIMESTAMPTZ '2026-01-01 00:00:00Z'",
            "20000-01-01 00:00:00+00",
            NO_PYTHON,
        ),
        Odd("TIMESTAMP 'infinity'", "TIMESTAMP '2026-01-01'", "infinity", INFINITE),
        Odd("DATE '-infinity'", "DATE '9999-12-31'", "-infinity", INFINITE),
        Odd("DATE '0044-03-15 (BC)'", "DATE '0001-01-01'", "0044-03-15 (BC)", NO_PYTHON),
        Odd("TIME '24:00:00'", "NULL::TIME", "24:00:00", NO_PYTHON),
        Odd("INTERVAL 3000000 YEARS", "NULL::INTERVAL", "3000000 years", NO_PYTHON),
        Odd("[INTERVAL 3000000 YEARS]", "NULL::INTERVAL[]", "[3000000 years]", NO_PYTHON),
    ],
}
CASES = [pytest.param(kind, odd, id=f"{kind}-{odd.expression}") for kind, several in ODD.items() for odd in several]


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a database of a kind, in which nothing has to be."""
    return str(request.getfixturevalue("postgres_url")) if kind == "postgresql" else "duckdb:///:memory:"


def union(rows: Sequence[tuple[str, ...]], *names: str) -> str:
    """Return a query of some rows of SQL expressions."""
    return " UNION ALL ".join(
        f"SELECT {', '.join(f'{x} AS {n}' for x, n in zip(row, names, strict=True))}" for row in rows
    )


@pytest.mark.parametrize(("kind", "odd"), CASES)
def test_an_unreadable_value_costs_its_row(
    syncing: Syncing, request: pytest.FixtureRequest, kind: str, odd: Odd
) -> None:
    """The rejection names the column and the row; `plan`, `preview` and `explain` say the same."""
    sql = union([("'u1'", odd.expression), ("'u2'", odd.good)], "user_id", "value")
    as_trait: dict[str, Any] = {
        "entries": "traits",
        "company_keys": {},
        "source_url": url_of(kind, request),
        "sql": sql,
    }
    syncing.configure(**as_trait)
    (trait,) = syncing.settings.audiences
    plan, _ = syncing.plan()
    seen = preview(syncing.settings, trait, as_of=NOON, sample=9, on_page=lambda _: None)
    found = find(syncing.settings, trait, "u1", as_of=NOON)
    report = syncing.sync()

    has_value = not odd.good.startswith("NULL")
    expected = {RowFault.UNREADABLE_VALUE: 1} | ({} if has_value else {RowFault.NULL_VALUE: 1})
    assert report.rejections == plan.rejections.counts == seen.reasons == expected
    assert report.run.counts == Counts(read=2, entered=has_value, rejected=2 - has_value)
    assert (found.member, found.reasons) == (None, (RowFault.UNREADABLE_VALUE,))
    (kept,) = [row for row in reports.rejections(syncing.database) if row["reason"] == RowFault.UNREADABLE_VALUE]
    assert (kept["profile_key"], kept["row"], kept["detail"]) == ("u1", '["u1"]', f"column value: {odd.problem}")


@pytest.mark.parametrize("kind", sorted(ODD))
def test_a_column_that_is_not_used_does_not_matter(syncing: Syncing, request: pytest.FixtureRequest, kind: str) -> None:
    """An audience is read whatever other columns hold; as an identifier an unreadable value is left out and named."""
    names = ["user_id", "company_id", *(f"c{n}" for n in range(len(ODD[kind])))]
    odd, good = [one.expression for one in ODD[kind]], [one.good for one in ODD[kind]]
    company = next(one for one in ODD[kind] if "infin" in one.expression)
    sql = union([("'u1'", company.expression, *odd), ("'u2'", company.good, *good)], *names)
    syncing.configure(sql=sql, source_url=url_of(kind, request), company_keys={})
    assert syncing.sync().run.counts == Counts(read=2, entered=2)
    syncing.configure(sql=sql, source_url=url_of(kind, request))
    report = syncing.sync()

    assert syncing.members() == {"u1": None, "u2": None}
    assert report.rejections == {RowFault.OMITTED_IDENTIFIER: 2}
    details = {row["profile_key"]: row["detail"] for row in reports.rejections(syncing.database)}
    assert details == {"u1": f"column company_id: {company.problem}", "u2": "column company_id: unsupported_type"}


@pytest.mark.parametrize("kind", sorted(ODD))
def test_an_unreadable_key_is_rejected(syncing: Syncing, request: pytest.FixtureRequest, kind: str) -> None:
    """A row that nobody can be named by is rejected with its value, as the database writes it."""
    odd = ODD[kind][0]
    syncing.configure(
        sql=union([(odd.expression,), (odd.good,)], "user_id"), source_url=url_of(kind, request), company_keys={}
    )
    report = syncing.sync()

    assert report.rejections == {RowFault.UNREADABLE_VALUE: 1, RowFault.UNSUPPORTED_TYPE: 1}
    (row,) = [row for row in reports.rejections(syncing.database) if row["reason"] == "unreadable_value"]
    assert (row["profile_key"], row["row"]) == (odd.shown, json.dumps([odd.shown]))
    assert row["detail"] == f"column user_id: {odd.problem}"


@pytest.mark.usefixtures("database")
def test_pages_around_an_unreadable_value_are_whole(postgres_url: str) -> None:
    """No row is lost or read twice where a page is decoded again, and an error of the server is still one."""
    session = postgresql_engine.connect(database(postgres_url), timedelta(minutes=1))
    with closing(session):
        day = f"CASE WHEN i IN (5, {PAGE + 1}) THEN date 'infinity' ELSE '2026-01-01' END"
        session.execute(Statement(f"SELECT i, {day} FROM generate_series(1, {2 * PAGE + 3}) i", None))
        pages = list(iter(session.fetch, []))

    assert [len(page) for page in pages] == [PAGE, PAGE, 3]
    assert [row[0] for page in pages for row in page] == list(range(1, 2 * PAGE + 4))
    assert [row[0] for page in pages for row in page if isinstance(row[1], Unreadable)] == [5, PAGE + 1]
    session = postgresql_engine.connect(database(postgres_url), timedelta(minutes=1))
    with closing(session):
        session.execute(Statement(f"SELECT 1 / (i - {PAGE + 5}) FROM generate_series(1, {2 * PAGE}) i", None))
        assert len(session.fetch()) == PAGE
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.fetch()


def test_text_of_a_database_without_an_encoding(syncing: Syncing, postgres_url: str) -> None:
    """In a SQL_ASCII database text that is not UTF-8 costs its row, as it does in SQLite."""
    name = make_url(postgres_url).database + "_ascii"  # type: ignore[operator]  # it has one
    plain = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
            sql = union([(r"E'u\xff1'",), ("'ü2'",), ("'ab'::char(8)",)], "user_id")
            syncing.configure(sql=f"SELECT user_id::text AS user_id FROM ({sql}) q", source_url=url, company_keys={})
            report = syncing.sync()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert report.rejections == {RowFault.UNUSABLE_TEXT: 1}
    assert syncing.members() == {"ü2": None, "ab": None}


def test_text_of_sqlite_that_is_not_utf8(syncing: Syncing, tmp_path: Path) -> None:
    """Broken text costs the row where it is a key or a value, and nothing in a column that is not used."""
    with closing(sqlite3.connect(tmp_path / "odd.db")) as file:
        file.execute("CREATE TABLE t (user_id TEXT, value TEXT)")
        file.execute(
            "INSERT INTO t VALUES ('u1', CAST(x'41ff' AS TEXT)), ('u2', 'good'), (CAST(x'ff' AS TEXT), 'good')"
        )
        file.commit()
    wanted: dict[str, Any] = {"source_url": f"sqlite:///{tmp_path / 'odd.db'}", "company_keys": {}}
    syncing.configure(**wanted, sql="SELECT * FROM t")
    assert syncing.sync().rejections == {RowFault.UNUSABLE_TEXT: 1}
    assert syncing.members() == {"u1": None, "u2": None}
    syncing.configure(**wanted, sql="SELECT * FROM t", entries="traits", name="Odd")
    report = syncing.sync()

    assert report.rejections == {RowFault.UNUSABLE_TEXT: 1, RowFault.UNFIT_VALUE: 1}
    details = [row["detail"] for row in reports.rejections(syncing.database, run_id=report.run.id)]
    assert sorted(filter(None, details)) == ["column value: nested too deeply, or not valid UTF-8"]


def test_the_general_driver_says_what_to_do(syncing: Syncing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver of another database that fails over a value ends the run with a sentence and a remedy."""
    monkeypatch.setattr(registry, "ENGINES", {})

    def fail(_: sqlalchemy_engine.SqlalchemySession) -> list[tuple[object, ...]]:
        raise ValueError("year 20000 is out of range")

    monkeypatch.setattr(sqlalchemy_engine.SqlalchemySession, "fetch", fail)
    with pytest.raises(SourceError, match="failed while reading rows: year 20000 is out of range") as caught:
        syncing.sync()

    assert caught.value.hint == "in the SQL, cast columns with unusual values to text"


def test_a_member_is_found_beside_unreadable_values(syncing: Syncing, postgres_url: str) -> None:
    """`explain` finds a person whose row has an unreadable value in a column that is not used."""
    sql = "SELECT 'ab'::char(8) AS user_id, timestamp 'infinity' AS seen_at"
    syncing.configure(sql=sql, source_url=postgres_url, company_keys={})
    (audience,) = syncing.settings.audiences

    assert find(syncing.settings, audience, "ab", as_of=NOON).member == Member("ab")
