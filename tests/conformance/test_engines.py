"""Every engine reads a person's SQL in the same way: rows, `:now`, columns, limits, refusals, and never a write."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from audience_sync.config import Source
from audience_sync.engines import Column, columns, engine_of, open_rows, ping, probe, table_columns
from audience_sync.engines.base import PAGE
from audience_sync.engines.registry import ENGINES, engine_name
from audience_sync.errors import ConfigError, SourceError
from tests.conformance.engine_subjects import SUBJECTS, Subject

AS_OF = datetime(2026, 3, 31, 14, 0, 30, tzinfo=timezone(timedelta(hours=2)))  # 12:00:30 in UTC
SHORT = timedelta(milliseconds=300)


def limited(source: Source, limit: timedelta) -> Source:
    """Return the source with another time for each query."""
    return source.model_copy(update={"statement_timeout": limit})


def read(source: Source, sql: str) -> list[tuple[object, ...]]:
    """Return all rows of a query."""
    with open_rows(source, sql, as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def refusal(source: Source, sql: str) -> SourceError:
    """Return the error a query ends with: one sentence on one line."""
    with pytest.raises(SourceError) as caught:
        read(source, sql)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_engine_is_tested() -> None:
    """An engine that is added to the registry has a subject here."""
    assert set(SUBJECTS) == {name for name, entry in ENGINES.items() if entry.module is not None}


def test_a_source_has_its_engine(source: Source, subject: Subject) -> None:
    """The engine of a source is the registry's, and answers."""
    assert SUBJECTS[engine_name(source)] is subject
    ping(source, timedelta(seconds=30))


@pytest.mark.slow
def test_rows_come_as_plain_tuples(source: Source) -> None:
    """A query with a CTE, comments, quotes, percent signs and a semicolon is run as it was written."""
    sql = """
    -- who's recent? ':then'
    WITH recent AS (SELECT * FROM orders WHERE user_id LIKE 'b%' OR user_id IS NULL) /* :no */
    SELECT user_id, id AS "the :id", '12:30:now' AS at FROM recent ORDER BY id;  -- that's all
    """
    with open_rows(source, sql, as_of=AS_OF) as rows:
        assert rows.columns == ("user_id", "the :id", "at")
        assert list(rows.pages()) == [[("b%", 2, "12:30:now"), (None, 3, "12:30:now")]]


def test_now_is_the_instant_asked_for(source: Source, subject: Subject) -> None:
    """`:now` is as_of in UTC, next to casts, intervals and percent signs, as often as it is used."""
    assert read(source, f"SELECT id FROM orders WHERE {subject.last_30_days} AND user_id NOT LIKE 'b%'") == [(1,)]


def test_values_keep_their_types(source: Source) -> None:
    """Text, numbers and NULL are Python's own."""
    assert read(source, "SELECT 'ä', 7, NULL, 9007199254740993") == [("ä", 7, None, 9007199254740993)]


def test_probe_names_the_columns(source: Source) -> None:
    """`probe` gives the names `open_rows` would, doubles and computed ones included."""
    sql = "SELECT id, user_id AS id, count(*) AS n FROM orders WHERE ordered_at < :now GROUP BY 1, 2 ORDER BY 1 -- end"
    with open_rows(source, sql, as_of=AS_OF) as rows:
        columns = rows.columns

    assert columns == ("id", "id", "n")
    assert probe(source, sql, as_of=AS_OF) == columns


def test_a_table_is_described(source: Source) -> None:
    """A table has the columns of a query for all of it, in their order; types are in lower case."""
    found = table_columns(source, "orders")

    assert sorted(column.name for column in found) == ["id", "ordered_at", "user_id"]
    assert all(column.type and column.type == column.type.lower() for column in found)
    assert [column.name for column in columns(source, "SELECT * FROM orders", as_of=AS_OF)] == [
        column.name for column in found
    ]
    assert isinstance(found[0], Column)


@pytest.mark.parametrize("table", ["nowhere", "nowhere.nothing", "x; DROP TABLE orders"])
def test_a_table_that_is_not_there_is_named(source: Source, table: str) -> None:
    """The sentence is the database's own, and names the table."""
    with pytest.raises(SourceError, match=r"refused the query: .*(nowhere|x; DROP)"):
        table_columns(source, table)


def test_rows_stream(source: Source, subject: Subject) -> None:
    """The first pages of a result without end are there at once: nothing is collected first."""
    with open_rows(source, subject.endless, as_of=AS_OF) as rows:
        pages = rows.pages()
        first, second = next(pages), next(pages)

    assert 0 < len(first) <= PAGE
    assert 0 < len(second) <= PAGE


def test_probe_runs_nothing(source: Source, subject: Subject) -> None:
    """`probe` of a query that would never end answers at once."""
    columns = probe(limited(source, timedelta(seconds=5)), subject.stuck, as_of=AS_OF)

    assert columns[-1] == "i"


@pytest.mark.slow
def test_a_query_that_takes_too_long_is_stopped(source: Source, subject: Subject) -> None:
    """The time limit ends a query that is stuck, before its first row or while rows are fetched."""
    for sql in (subject.stuck, subject.endless):
        error = refusal(limited(source, SHORT), sql)
        assert "did not finish within 0.3s" in str(error)
        assert "statement_timeout" in str(error.hint)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT 1 FROM WHERE", "WHERE"),
        ("SELECT missing FROM orders", "missing"),
    ],
)
def test_a_refused_query_is_told_in_the_databases_words(source: Source, subject: Subject, sql: str, words: str) -> None:
    """The sentence names the source and carries the database's first line, for `open_rows` and `probe` alike."""
    error = refusal(source, sql)
    assert subject.named in str(error)
    assert "refused the query: " in str(error)
    assert words in str(error)
    with pytest.raises(SourceError, match="refused the query"):
        probe(source, sql, as_of=AS_OF)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT 1; DELETE FROM orders",
        "WITH gone AS (SELECT 1) DELETE FROM orders",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
        "EXPLAIN SELECT 1",
    ],
)
def test_nothing_can_be_written(source: Source, sql: str) -> None:
    """A statement that is not a plain query is refused and has changed nothing."""
    with pytest.raises((ConfigError, SourceError)):
        read(source, sql)
    with pytest.raises((ConfigError, SourceError)):
        probe(source, sql, as_of=AS_OF)

    assert read(source, "SELECT count(*) FROM orders") == [(3,)]


def test_a_session_can_be_stopped_and_closed(source: Source) -> None:
    """There is a way to stop a query from another thread, and it does nothing while none runs."""
    engine = engine_of(source)
    with closing(engine.connect(source, timedelta(seconds=30))) as session:
        assert session.interrupts()
        session.execute(session.bind("SELECT 1 AS one", AS_OF))
        assert [row for page in iter(session.fetch, []) for row in page] == [(1,)]
        session.interrupts()[0]()
    assert issubclass(engine.connect_errors[0], Exception)
