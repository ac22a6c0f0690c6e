"""The engines under test: how to make a source with a table of orders for each, and what its SQL looks like.

To test another engine, add an entry to `SUBJECTS`, with a function that makes the table in its database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import duckdb
import psycopg

from audience_sync.config import Source
from audience_sync.core.model import ColumnType
from tests import mariadb_servers
from tests.sources import MINUTE, database

ORDERS = [(1, "a", "2026-03-30 12:00:00"), (2, "b%", "2026-01-01 00:00:00"), (3, None, "2026-03-31 12:00:31")]
"""Rows of the table `orders`: id, user_id, ordered_at."""

_CREATE = "CREATE TABLE orders (id INTEGER, user_id TEXT, ordered_at TIMESTAMP)"
_INSERT = (
    "INSERT INTO orders VALUES (1, 'a', '2026-03-30 12:00:00'), (2, 'b%', '2026-01-01 00:00:00'),"
    " (3, NULL, '2026-03-31 12:00:31')"
)
_ENDLESS_RECURSION = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
_ENDLESS_RANGE = "SELECT a.range AS i FROM range(1000000000) a, range(1000000) b"
_LAST_30_DAYS = "ordered_at > :now::timestamp - interval '30 days' AND ordered_at <= :now"

Urls: TypeAlias = Callable[[str], str]
"""Gives the URL of an empty database, by the name of its fixture."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One engine."""

    make: Callable[[Path, Urls], Source]  # from an empty folder, or the URL of an empty database
    last_30_days: str  # condition on `ordered_at`
    endless: str  # query whose rows never end
    stuck: str  # query that never has a row; its last column is `i`
    json_type: str  # type of JSON columns
    text_type: str  # type of text columns
    named: str  # how a message names the source


def _sqlite(folder: Path, _: Urls) -> Source:
    with closing(sqlite3.connect(folder / "shop.db")) as file:
        file.executescript(f"{_CREATE};{_INSERT};")
    return database(f"sqlite:///{folder / 'shop.db'}")


def _duckdb(folder: Path, _: Urls) -> Source:
    with duckdb.connect(folder / "shop.duckdb") as file:
        file.execute(f"{_CREATE};{_INSERT};")
    return database(f"duckdb:///{folder / 'shop.duckdb'}")


def _postgresql(_: Path, urls: Urls) -> Source:
    url = urls("postgres_url")
    with psycopg.connect(url.replace("+psycopg", "")) as server:
        server.execute(_CREATE.encode())
        server.execute(_INSERT.encode())
    return database(url)


def _mariadb(_: Path, urls: Urls) -> Source:
    url = urls("mariadb_url")
    mariadb_servers.administer(url, _CREATE.replace("TEXT", "VARCHAR(40)"), _INSERT)
    return database(url)


def _mysql(folder: Path, urls: Urls) -> Source:
    return _mariadb(folder, lambda name: urls(name).replace("mariadb://", "mysql://"))


def _files(folder: Path, types: dict[str, ColumnType]) -> Source:
    return Source(
        name="shop",
        url=None,
        files={"orders": str(next(folder.iterdir()))},
        types=types,
        memory_limit="512MB",
        statement_timeout=MINUTE,
        events=None,
        profiles=None,
    )


def _parquet(folder: Path, _: Urls) -> Source:
    with duckdb.connect() as memory:
        memory.execute(f"{_CREATE};{_INSERT};")
        memory.execute(f"COPY orders TO '{folder / 'orders.parquet'}'")
    return _files(folder, {})


def _json_lines(folder: Path, _: Urls) -> Source:
    names = ("id", "user_id", "ordered_at")
    lines = (json.dumps(dict(zip(names, row, strict=True))) for row in ORDERS)
    (folder / "orders.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return _files(folder, {"id": ColumnType.NUMBER, "ordered_at": ColumnType.TIME})


_DUCKDB = Subject(
    make=_duckdb,
    last_30_days=_LAST_30_DAYS,
    endless=_ENDLESS_RANGE,
    stuck=f"SELECT count(*) AS i FROM ({_ENDLESS_RANGE}) WHERE i % 7 = 8",
    json_type="json",
    text_type="varchar",
    named="The duckdb source ",
)
_MARIADB = Subject(
    make=_mariadb,
    last_30_days="ordered_at > :now - INTERVAL 30 DAY AND ordered_at <= :now",
    endless="SELECT seq AS i FROM seq_0_to_1000000000000",
    stuck="SELECT SLEEP(600), 1 AS i",
    json_type="json",
    text_type="varchar",
    named="The mariadb source ",
)
SUBJECTS = {
    "sqlite": Subject(
        make=_sqlite,
        last_30_days="ordered_at > datetime(:now, '-30 days') AND ordered_at <= :now",
        endless=_ENDLESS_RECURSION,
        stuck=f"SELECT count(*) AS i FROM ({_ENDLESS_RECURSION})",
        json_type="json",
        text_type="text",
        named="The sqlite source ",
    ),
    "postgresql": Subject(
        make=_postgresql,
        last_30_days=_LAST_30_DAYS,
        endless=_ENDLESS_RECURSION,
        stuck="SELECT pg_sleep(600), 1 AS i",
        json_type="jsonb",
        text_type="text",
        named="The postgresql source ",
    ),
    "mariadb": _MARIADB,
    "mysql": replace(_MARIADB, make=_mysql, named="The mysql source "),
    "duckdb": _DUCKDB,
    "Parquet files": replace(_DUCKDB, make=_parquet, named="The file source "),
    "text files": replace(_DUCKDB, make=_json_lines, named="The file source "),
}
