"""`sums_first`: PostgreSQL says what the rows come to, and they are not read where these are those of the members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from audience_sync.cli import run_output
from audience_sync.cli.console import Format
from audience_sync.config import Settings
from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.engines import Sums, open_rows
from audience_sync.errors import SourceError
from audience_sync.store import erasure, memberships
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, RunReport, approve, sync
from tests.factories import FrozenClock

NOW = datetime(2026, 3, 31, tzinfo=UTC)
SQL = "SELECT user_id, company_id FROM orders"
PEOPLE = [(f"u{n}", f"c{n % 7}") for n in range(5_000)]


@dataclass
class Place:
    """A shop in PostgreSQL whose source is asked for sums first, and its membership database."""

    url: str
    workspace: Workspace
    clock: FrozenClock
    shop: psycopg.Connection[Any]
    make_settings: Callable[..., Settings]
    pages: list[int] = field(default_factory=list)  # how many rows were read, page by page, in the last sync

    def set_orders(self, rows: Sequence[tuple[str | None, str | None]]) -> None:
        """Let the shop have these orders, in this order."""
        self.shop.execute("DELETE FROM orders")  # a TRUNCATE would wait for readers
        with self.shop.cursor() as cursor, cursor.copy("COPY orders FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def settings(self, **wanted: Any) -> Settings:
        """Return the settings; `placeholders` and what `config_text` has."""
        placeholders = wanted.pop("placeholders", None)
        settings = self.make_settings(**{"source_url": self.url, "sql": SQL, "guard": {"min_members": 9_999}} | wanted)
        source = settings.sources["shop"].model_copy(update={"sums_first": True})
        keys = (
            settings.keys if placeholders is None else settings.keys.model_copy(update={"placeholders": placeholders})
        )
        return settings.model_copy(update={"sources": {"shop": source}, "keys": keys})

    def sync(self, *, settings: Settings | None = None, **wanted: Any) -> RunReport:
        """Sync a minute later than before."""
        self.clock.advance(timedelta(minutes=1))
        self.pages.clear()
        its = settings or self.settings()
        job = Job(settings=its, audience=its.audiences[0], on_progress=self._note, **wanted)
        return sync(self.workspace, job)

    def _note(self, doing: str, count: int) -> None:
        if doing == "reading":
            self.pages.append(count)

    def has_read(self) -> bool:
        """Return whether the last sync read the rows: they are many pages."""
        assert self.pages
        return len(self.pages) > 1

    def sums(self, sql: str, now: datetime = NOW) -> Sums | None:
        """Return what the rows of a query come to."""
        with open_rows(self.settings().sources["shop"], sql, as_of=now) as rows:
            return rows.sums()


@pytest.fixture
def place(
    postgres_url: str, workspace: Workspace, clock: FrozenClock, make_settings: Callable[..., Settings]
) -> Iterator[Place]:
    """A shop of 5,000 people."""
    with closing(psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True)) as shop:
        shop.execute("CREATE TABLE orders (user_id text, company_id text)")
        made = Place(postgres_url, workspace, clock, shop, make_settings)
        made.set_orders(PEOPLE)
        yield made


SAME = [
    ("SELECT * FROM (VALUES (1, 'a'), (2, 'b')) t", "SELECT * FROM (VALUES (2, 'b'), (1, 'a')) t -- turned"),
    ("SELECT 'a' AS x, 'b' AS x", "SELECT * FROM (VALUES ('a', 'b')) t (x, x)"),
    ("SELECT 1 WHERE false", "SELECT 2 WHERE :now < '2000-01-01' AND 'a%' LIKE 'a%'"),
    ("WITH t AS (SELECT 'x' AS x) SELECT * FROM t ORDER BY 1;", "SELECT 'x' AS x"),
]
OTHERS = [
    ("SELECT NULL::text", "SELECT ''"),
    ("SELECT NULL::text, ''", "SELECT '', NULL::text"),
    ("SELECT 'ab', 'c'", "SELECT 'a', 'bc'"),
    ("SELECT 'a', 'b'", "SELECT 'b', 'a'"),
    ("VALUES ('a'), ('a'), ('b'), ('b')", "VALUES ('a'), ('a'), ('c'), ('c')"),
    ("VALUES ('a'), ('b')", "VALUES ('a'), ('b'), ('b')"),
    ("VALUES ('a', 1), ('b', 2)", "VALUES ('a', 2), ('b', 1)"),
    ("SELECT 'a'", "SELECT 'A'"),
    ("SELECT 'e' || chr(769)", "SELECT chr(233)"),
    ("SELECT 0.1::float8 + 0.2::float8", "SELECT 0.3::float8"),
    ("SELECT 9007199254740993", "SELECT 9007199254740992"),
    ("SELECT '\\x00'::bytea", "SELECT '\\x0000'::bytea"),
    ("SELECT NULL::text", "SELECT E'\\x01NULL\\x01'"),
    ("SELECT 'a' AS x, 'b' AS y", "SELECT 'a' AS y, 'b' AS x"),
    ("SELECT 1", "SELECT 1::bigint"),
    ("SELECT '2026-01-01'::date AS x", "SELECT '2026-01-01'::text AS x"),
    ("SELECT 'x' WHERE :now > '2000-01-01'", "SELECT 'x' WHERE :now < '2000-01-01'"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_rows_come_to_the_same(place: Place, one: str, other: str) -> None:
    """The order of rows says nothing, nor does the text of the query."""
    assert place.sums(one) == place.sums(other) is not None


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_rows_come_to_something_else(place: Place, one: str, other: str) -> None:
    """Whatever differs in what is read differs in the sums: a column, a NULL, how often, a case, the last digit."""
    first, second = place.sums(one), place.sums(other)
    assert first is not None
    assert second is not None
    assert first != second


def test_rows_are_read_from_the_snapshot_of_the_sums(place: Place) -> None:
    """Rows written between the question and the first page are in neither."""
    with open_rows(place.settings().sources["shop"], SQL, as_of=NOW) as rows:
        assert rows.sums() == rows.sums() == place.sums(SQL)
        place.set_orders([])
        assert rows.sums() is not None
        assert sum(map(len, rows.pages())) == len(PEOPLE)


def test_what_cannot_be_summed_is_read(place: Place) -> None:
    """A server that refuses the question, as an older one does, is read all the same; an error of the query ends it."""
    failing = "SELECT (1 / (n - 1))::text, n::text FROM generate_series(1, 9000) n"
    with pytest.raises(SourceError, match="failed while computing sums: division by zero"):
        place.sums(failing)
    place.shop.execute("CREATE ROLE reader LOGIN")
    try:
        place.shop.execute("GRANT SELECT ON orders TO reader")
        place.shop.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.hashtextextended(text, bigint) FROM PUBLIC")
        theirs = place.settings(source_url=make_url(place.url).set(username="reader").render_as_string())
        with open_rows(theirs.sources["shop"], SQL, as_of=NOW) as rows:
            assert rows.sums() is None
            assert sum(map(len, rows.pages())) == len(PEOPLE)
        for _ in range(2):
            assert place.sync(settings=theirs).members == len(PEOPLE)
            assert place.has_read()
    finally:
        place.shop.execute("DROP OWNED BY reader")
        place.shop.execute("DROP ROLE reader")


def test_nothing_is_read_where_nothing_changed(place: Place) -> None:
    """The counts are those of a sync that read everything; a change is found at once."""
    assert place.sync().run.kind is RunKind.INITIAL
    assert place.has_read()
    place.set_orders(PEOPLE[::-1])
    unchanged = place.sync()
    assert not place.has_read()
    assert unchanged.run.state is RunState.SUCCEEDED
    assert unchanged.run.counts == Counts(read=5_000, unchanged=5_000)
    assert unchanged.members == 5_000

    place.set_orders([*PEOPLE[1:], ("u0", "other"), ("new", "c1")])
    changed = place.sync()
    assert place.has_read()
    assert (changed.run.counts.entered, changed.run.counts.updated) == (1, 1)
    assert place.sync().run.counts.unchanged == 5_001
    assert not place.has_read()


def test_many_columns_are_summed(place: Place) -> None:
    """A function of PostgreSQL takes a hundred arguments; a table may have more columns."""
    one, other = (f"SELECT {', '.join(f'{n} AS c{n}' for n in range(200))}, {last} AS last" for last in (1, 2))
    assert place.sums(one) != place.sums(other) is not None


def test_rows_that_were_not_summed_are_read_again(place: Place) -> None:
    """A definition that returns other rows than were summed has no sums to be believed."""
    turn = "set_config('shop.turn', (coalesce(current_setting('shop.turn', true), '') || 'x'), true)"
    some = place.settings(sql=f"{SQL} WHERE (SELECT {turn}) = 'x' OR user_id < 'u3'")
    assert place.sync(settings=some).members not in {0, len(PEOPLE)}
    with place.workspace.database.read() as connection:
        assert memberships.source_sums(connection, 1) is None


def test_sums_that_do_not_hold_for_the_rows_drop_those_before(place: Place) -> None:
    """A definition that turns out to say now this and now that is read again, though its members are the same."""
    place.shop.execute("CREATE TABLE odd (user_id text)")
    turn = "set_config('shop.turn', (coalesce(current_setting('shop.turn', true), '') || 'x'), true)"
    some = place.settings(sql=f"{SQL} UNION ALL SELECT user_id, NULL FROM odd WHERE (SELECT {turn}) = 'x'")
    place.sync(settings=some)
    with place.workspace.database.read() as connection:
        assert memberships.source_sums(connection, 1) is not None
    place.shop.execute("INSERT INTO odd VALUES ('extra')")
    report = place.sync(settings=some)
    assert (report.run.counts.read, report.run.counts.unchanged) == (5_000, 5_000)
    with place.workspace.database.read() as connection:
        assert memberships.source_sums(connection, 1) is None


def test_a_limited_run_without_changes_leaves_the_sums(place: Place) -> None:
    """Sums of members still hold where a run that did not ask has changed none."""
    place.sync()
    place.sync(limit=5)
    place.sync()
    assert not place.has_read()


def test_a_renamed_column_is_read(place: Place) -> None:
    """Two columns that change names make other people of the same texts: the name of a column is part of the sums."""
    settings = place.settings(sql="SELECT * FROM orders")
    place.sync(settings=settings)
    for old, new in (("user_id", "former"), ("company_id", "user_id"), ("former", "company_id")):
        place.shop.execute(f"ALTER TABLE orders RENAME {old} TO {new}".encode())
    report = place.sync(settings=settings)
    assert place.has_read()
    assert (report.run.counts.exited, report.members) == (len(PEOPLE), 7)


@pytest.mark.parametrize(
    "wanted",
    [
        {"company_keys": {"accountId": "company_id"}},
        {"sql": SQL + " WHERE true"},
        {"placeholders": ("u17",)},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
def test_another_meaning_is_read(place: Place, wanted: dict[str, object]) -> None:
    """Other settings make other members of the same rows."""
    place.sync()
    other = place.settings(**wanted)
    place.sync(settings=other)
    assert place.has_read()
    place.sync(settings=other)
    assert place.has_read() == ("placeholders" in wanted)  # a row is rejected each time, and to be counted


def test_whoever_stayed_leaves(place: Place) -> None:
    """Rows that are what they were can still mean that somebody is to leave."""
    trait = {"entries": "traits", "sql": "SELECT user_id, company_id, 1 AS value FROM orders"}
    keep = place.settings(**trait, audience={"on_missing": "keep"})
    place.sync(settings=keep)
    place.set_orders(PEOPLE[1:])
    place.sync(settings=keep)
    kept = place.sync(settings=keep)
    assert not place.has_read()
    assert (kept.run.counts, kept.members) == (Counts(read=4_999, unchanged=4_999), 5_000)
    report = place.sync(settings=place.settings(**trait, audience={"on_missing": "null"}))
    assert (report.run.counts.exited, report.members) == (1, 4_999)


@pytest.mark.parametrize("row", [(None, "c"), ("", "c"), ("u1", "c1"), ("u6000", "\x01")], ids=repr)
def test_what_is_rejected_is_counted_each_time(place: Place, row: tuple[str | None, str | None]) -> None:
    """Rejections, duplicates and omitted identifiers are found by reading only."""
    place.set_orders([*PEOPLE, row])
    first = place.sync()
    again = place.sync()
    assert place.has_read()
    assert again.rejections == first.rejections != {}


@pytest.mark.parametrize("way", ["only", "limit", "resync", "forget"])
def test_whatever_else_changes_members_has_them_read(place: Place, way: str) -> None:
    """Sums are of members that a whole sync left, and of none that anything else has changed."""
    place.sync()
    place.set_orders(PEOPLE[2:])
    match way:
        case "only":
            place.sync(only="u0")
        case "limit":
            place.sync(limit=1)
        case "resync":
            place.sync(resync=True)
            assert place.has_read()
        case _:
            with place.workspace.database.write() as connection:
                erasure.forget(connection, "u0")
    place.set_orders(PEOPLE)
    assert place.sync().members == 5_000
    assert place.has_read()


@pytest.mark.parametrize(
    "wanted", [{"resync": True}, {"limit": 9}, {"only": "u1"}], ids=lambda wanted: next(iter(wanted))
)
def test_who_asks_for_more_has_the_rows_read(place: Place, wanted: dict[str, Any]) -> None:
    """A resync believes no digest, and a limited run says nothing of the whole."""
    place.sync()
    place.sync(**wanted)
    assert place.has_read()


def test_sync_says_that_no_row_was_read(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A report shows whether the sums let the sync skip reading, and `sync` prints it on stderr; JSON is unchanged."""
    reports = [place.sync(), place.sync()]
    run_output.show_runs(place.workspace.database, reports, format=Format.JSON)
    printed = capsys.readouterr()

    assert [report.is_unread for report in reports] == [False, True]
    assert printed.err == f"{reports[0].audience_key}: no rows read, because the sums of the source are unchanged\n"
    assert "unread" not in printed.out


def test_a_blocked_run_is_blocked_again(place: Place) -> None:
    """The sums of a plan that waits are nobody's until it is approved."""
    strict = place.settings(guard={"min_members": 10, "max_exit_percent": 10})
    place.sync(settings=strict)
    place.set_orders(PEOPLE[:3_000])
    for _ in range(2):
        report = place.sync(settings=strict)
        assert (report.run.state, report.members) == (RunState.BLOCKED, 5_000)
        assert place.has_read()
    place.clock.advance(timedelta(minutes=1))
    approve(place.workspace, report.run.id)
    assert place.sync(settings=strict).members == 3_000
    assert not place.has_read()
