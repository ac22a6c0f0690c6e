"""Databases that are read through SQLAlchemy: which driver serves a URL, and what a driver of any kind may raise."""

from __future__ import annotations

import shlex
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.engine import make_url
from sqlalchemy.engine.default import DefaultDialect

from audience_sync.checks.check_all import check
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.engines import columns, open_rows, ping, sqlalchemy_engine
from audience_sync.errors import SourceError
from tests.sources import database

AS_OF = datetime(2026, 11, 23, 14, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class QuotaExceeded(Exception):
    """What the HTTP client of a warehouse raises: nothing of DBAPI."""


FAULTS: dict[str, Exception | None] = {}
"""What the warehouse raises at each step: connect, execute, fetch or close."""


def fail(step: str) -> None:
    """Raise what is wanted at a step."""
    if (fault := FAULTS.get(step)) is not None:
        raise fault


class WarehouseCursor(sqlite3.Cursor):
    """A cursor that fails on request."""

    def execute(self, sql: str, parameters: Any = (), /) -> WarehouseCursor:
        """Run a statement."""
        fail("execute")
        return super().execute(sql, parameters or ())

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        """Return rows."""
        fail("fetch")
        return super().fetchmany(size)

    def close(self) -> None:
        """End it."""
        fail("close")
        super().close()


class WarehouseConnection(sqlite3.Connection):
    """A connection with such cursors."""

    def cursor(self, factory: Any = WarehouseCursor) -> Any:
        """Return a cursor."""
        return super().cursor(factory)


class WarehouseDialect(DefaultDialect):
    """The dialect ``warehouse://``, whose driver raises what DBAPI does not know."""

    name = "warehouse"
    supports_statement_cache = False

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the driver."""
        return SimpleNamespace(
            Error=sqlite3.Error, paramstyle="qmark", connect=lambda *_: WarehouseConnection(":memory:")
        )

    def connect(self, *words: Any, **options: Any) -> Any:
        """Open a connection."""
        del words, options
        fail("connect")
        return WarehouseConnection(":memory:", check_same_thread=False)

    def do_rollback(self, connection: Any) -> None:
        """Roll back."""
        connection.rollback()


@pytest.fixture(autouse=True)
def warehouse() -> Iterator[dict[str, Exception | None]]:
    """Register the dialect; the dictionary says what fails."""
    registry.register("warehouse", __name__, "WarehouseDialect")
    yield FAULTS
    FAULTS.clear()


def read(url: str = "warehouse://db/shop") -> list[Any]:
    """Return all rows of a query."""
    with open_rows(database(url), "SELECT 1 AS user_id", as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def refusal(url: str = "warehouse://db/shop") -> SourceError:
    """Return the error that reading ends with."""
    with pytest.raises(SourceError) as caught:
        read(url)
    return caught.value


def test_the_warehouse_works_without_faults() -> None:
    """The stand-in is a working database, so that the other tests mean something."""
    assert read() == [(1,)]
    ping(database("warehouse://db/shop"), MINUTE)
    assert [column.name for column in columns(database("warehouse://db/shop"), "SELECT 1 AS a", as_of=AS_OF)] == ["a"]


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("connect", "Cannot connect to the warehouse source shop on db: 403 quota exceeded."),
        ("execute", "The warehouse source shop on db refused the query: 403 quota exceeded."),
        ("fetch", "The warehouse source shop on db failed while reading rows: 403 quota exceeded."),
    ],
)
def test_a_drivers_own_exception_is_an_error_of_the_source(
    warehouse: dict[str, Exception | None], step: str, sentence: str
) -> None:
    """An exception that DBAPI does not know becomes one sentence with the place, like any other."""
    warehouse[step] = QuotaExceeded("403 quota exceeded\n\nLocation: EU\nJob ID: 7")

    assert str(refusal()) == sentence
    assert refusal().exit_code == 1


def test_an_exception_whose_words_say_nothing_is_named(warehouse: dict[str, Exception | None]) -> None:
    """A KeyError says only a word: its kind stands before it."""
    warehouse["execute"] = KeyError("project")

    assert str(refusal()) == "The warehouse source shop on db refused the query: KeyError: 'project'."


def test_a_driver_that_fails_while_it_closes_hides_nothing(warehouse: dict[str, Exception | None]) -> None:
    """Rows that were read are read, whatever the driver says at the end."""
    warehouse["close"] = QuotaExceeded("connection pool is closed")

    assert read() == [(1,)]


def test_check_goes_on_after_a_drivers_own_exception(warehouse: dict[str, Exception | None], tmp_path: Path) -> None:
    """`check` reports the source that fails, and everything after it."""
    (tmp_path / "shop.db").touch()
    path = tmp_path / "config.toml"
    path.write_text(
        '[schematic]\napi_url = "http://127.0.0.1:9"\ncapture_url = "http://127.0.0.1:9"\n'
        '[sources.lake]\nurl = "warehouse://db/shop"\n[sources.shop]\nurl = "sqlite:shop.db"\n'
        '[[audiences]]\nname = "A"\nsource = "lake"\nsql = "SELECT 1 AS user_id"\n'
        '[[audiences]]\nname = "B"\nsource = "shop"\nsql = "SELECT 1 AS user_id"\n'
    )
    warehouse["connect"] = QuotaExceeded("403 quota exceeded")
    found = {(one.check, one.subject): (one.state, one.message) for one in check(path, {}, Clock())}

    assert found["source", "lake"] == (
        "error",
        "Cannot connect to the warehouse source shop on db: 403 quota exceeded.",
    )
    assert found["audience", "a"][0] == "warning"
    assert found["audience", "b"] == ("ok", "query accepted; columns: user_id; values are not checked")
    assert ("schematic", "api_key") in found


@pytest.mark.parametrize(
    ("installed", "url", "driver"),
    [
        (["pyodbc", "pymssql"], "mssql://db/shop", "mssql+pyodbc"),
        ([], "mssql://db/shop", "mssql+pyodbc"),
        (["pyodbc"], "mssql+pymssql://db/shop", "mssql+pymssql"),
        (["pymssql"], "mssql://db/shop", "mssql+pymssql"),
        (["oracledb"], "oracle://db/shop", "oracle+oracledb"),
        ([], "warehouse://db/shop", "warehouse"),
    ],
)
def test_a_url_without_a_driver_gets_one_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], url: str, driver: str
) -> None:
    """`mssql://` works with whichever driver there is; a driver that is named is the one that is used."""
    monkeypatch.setattr(sqlalchemy_engine, "_is_installed", installed.__contains__)

    assert sqlalchemy_engine._with_driver(make_url(url)).drivername == driver


@pytest.mark.parametrize(
    ("url", "module", "packages"),
    [
        ("mysql://db/shop", "pymysql", ["pymysql>=1.1"]),
        ("postgresql://db/shop", "psycopg", ["psycopg[binary]>=3.2"]),
        ("oracle://db/shop", "oracledb", ["oracledb"]),
    ],
)
def test_a_missing_driver_comes_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, packages: list[str]
) -> None:
    """The hint can be pasted: it names this Python and the packages, not an extra that no index has."""
    monkeypatch.setattr(sqlalchemy_engine, "_is_installed", lambda _: False)
    monkeypatch.setitem(sys.modules, module, None)
    for engine in ("postgresql_engine", "mariadb_engine", "mariadb_columns"):
        monkeypatch.delitem(sys.modules, f"audience_sync.engines.{engine}", raising=False)
    error = refusal(url)
    place = f"the {make_url(url).get_backend_name()} source shop on db"

    assert str(error) == f"The driver for {place} is not installed: {module}."
    assert shlex.split(error.hint or "") == [sys.executable, "-m", "pip", "install", *packages]


def test_a_driver_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A psycopg without its library is installed, and still no driver: the first line of its reason is shown."""

    def connect(*_: object) -> None:
        raise ImportError("no pq wrapper available.\nAttempts made:\n- couldn't import psycopg 'c'")

    monkeypatch.setattr(sqlalchemy_engine, "connect", connect)

    assert str(refusal()) == "The driver for the warehouse source shop on db is not installed: no pq wrapper available."


def test_files_are_not_a_dialect() -> None:
    """A source of files has an engine, but no URL leads to it."""
    assert str(refusal("files://x")) == "The driver for the files source x is not installed: files."


def test_a_dialect_that_nobody_knows_is_named() -> None:
    """A misspelled URL names its dialect."""
    error = refusal("nonsense://db/shop")

    assert str(error) == "The driver for the nonsense source shop on db is not installed: nonsense."
    assert error.hint == "install the SQLAlchemy dialect of this database, or check the url"


def test_a_driver_that_the_url_names_is_not_replaced_by_another() -> None:
    """If the URL names a driver, installing another one would not help."""
    error = refusal("mssql+nope://db/shop")

    assert str(error) == "The driver for the mssql source shop on db is not installed: mssql+nope."
    assert error.hint == "install that driver, or leave it out of the url: mssql://…"


def test_duckdb_is_read_in_utc() -> None:
    """A time zone in the URL is refused: instants would have another meaning."""
    error = refusal("duckdb:///x.duckdb?TimeZone=Asia/Tokyo")

    assert str(error) == "The url of the source sets TimeZone, but sources are read in UTC."
    assert error.hint == "remove TimeZone from the url"


@pytest.mark.parametrize("url", ["sqlite:shop.db", "sqlite:./shop.db", "sqlite:///shop.db"])
def test_a_source_in_a_relative_file_is_found_next_to_the_configuration(tmp_path: Path, url: str) -> None:
    """`sqlite:shop.db` is the file next to the configuration."""
    with sqlite3.connect(tmp_path / "shop.db") as shop:
        shop.execute("CREATE TABLE customers AS SELECT 'u1' AS user_id")
    path = tmp_path / "config.toml"
    path.write_text(f'[sources.shop]\nurl = "{url}"\n')
    found = load(path, {}).sources["shop"]
    with open_rows(found, "SELECT user_id FROM customers", as_of=AS_OF) as rows:
        assert list(rows.pages()) == [[("u1",)]]


def test_duckdb_without_a_file_is_in_memory(tmp_path: Path) -> None:
    """`duckdb:` is a DuckDB in memory."""
    path = tmp_path / "config.toml"
    path.write_text('[sources.shop]\nurl = "duckdb:"\n')
    with open_rows(load(path, {}).sources["shop"], "SELECT 42 AS user_id", as_of=AS_OF) as rows:
        assert list(rows.pages()) == [[(42,)]]


def test_the_dialect_is_one_of_sqlalchemys() -> None:
    """The stand-in is found as SQLAlchemy finds any other dialect."""
    assert isinstance(sa.create_engine("warehouse://db/shop").dialect, WarehouseDialect)
