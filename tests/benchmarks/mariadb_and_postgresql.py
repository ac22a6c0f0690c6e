"""How long a sync of the same rows takes from MariaDB compared with PostgreSQL, by SQL and by queries.

Usage: python -m tests.benchmarks.mariadb_and_postgresql [PEOPLE] [--rounds N]

Private servers get PEOPLE users and three times as many events of a year, in no order and without indexes but that on
the key of users. Each audience is synced into a SQLite database of its own: once for the first time, then ROUNDS times
with nothing changed, both servers in turn. Both must find the same members. The figures are ratios of the seconds of
MariaDB to those of PostgreSQL, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from audience_sync import runtime
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.sync import Job, sync
from tests import mariadb_servers, pg_cluster

AUDIENCES = {
    "sql": 'sql = "SELECT user_id, company_id FROM users"\ncompany_keys = { groupId = "company_id" }',
    "sum": "query = \"event('Order Completed').within(90 days).sum(property('revenue')) >= 100\"",
    "not": "query = \"NOT event('Order Completed').within(60 days).count() >= 1 AND trait('plan') = 'pro'\"",
    "funnel": (
        "query = \"event('Shoes Bought').where(event('Shoes Returned').within(parent: 30 days).count() >= 1)"
        '.count() >= 1"'
    ),
}
CONFIG = """
[database]
url = "sqlite:///{name}.db"
[sources.shop]
url = "{url}"
[sources.shop.events]
table = "events"
timestamp = "occurred_at"
properties = "properties"
[sources.shop.profiles]
table = "users"
[[audiences]]
name = "them"
{definition}
"""
NAMES = ("Order Completed", "Page Viewed", "Shoes Bought", "Shoes Returned")
TABLES = (
    "CREATE TABLE users (user_id VARCHAR(40) PRIMARY KEY, company_id VARCHAR(40), plan VARCHAR(10))",
    (
        "CREATE TABLE events (user_id VARCHAR(40) NOT NULL, event VARCHAR(40) NOT NULL, occurred_at {time} NOT NULL,"
        " properties {json})"
    ),
)
BATCH = 5_000


def users(people: int) -> list[tuple[object, ...]]:
    """Return users in no order."""
    found: list[tuple[object, ...]] = [
        (f"usr_{n:08d}", f"co_{n % 5_000}", ("pro", "trial", "free")[n % 3]) for n in range(people)
    ]
    random.Random(1).shuffle(found)
    return found


def events(people: int) -> Iterator[tuple[object, ...]]:
    """Return events in no order."""
    drawn, now = random.Random(2), datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    for n in range(people * 3):
        document = json.dumps({"revenue": round(drawn.random() * 400, 2), "page": f"p{n % 100}"})
        at = now - timedelta(seconds=drawn.randrange(365 * 86_400))
        yield f"usr_{drawn.randrange(people):08d}", NAMES[n % len(NAMES)], at, document


def fill(postgresql: str, mariadb: str, people: int) -> None:
    """Write the same tables into both."""
    with (
        psycopg.connect(postgresql.replace("+psycopg", "")) as one,
        closing(mariadb_servers.connected(mariadb)) as other,
        one.cursor() as here,
        closing(other.cursor()) as there,
    ):
        for table in TABLES:
            here.execute(table.format(time="timestamp", json="jsonb").encode())
            there.execute(table.format(time="DATETIME", json="JSON"))
        for name, rows in {"users": iter(users(people)), "events": events(people)}.items():
            _write(name, rows, here, there)
        there.execute("ANALYZE TABLE users, events")
    with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as one:
        one.execute("VACUUM ANALYZE")


def _write(table: str, rows: Iterator[tuple[Any, ...]], here: psycopg.Cursor[Any], there: Any) -> None:
    there.execute("BEGIN")
    while batch := list(islice(rows, BATCH)):
        with here.copy(f"COPY {table} FROM STDIN".encode()) as copy:
            for row in batch:
                copy.write_row(row)
        there.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(batch[0]))})", batch)
    there.execute("COMMIT")


def synced(path: Path) -> tuple[float, int]:
    """Sync once; return the seconds and the number of members."""
    settings = load(path, {})
    runtime.create(settings)
    with runtime.working(settings, Clock()) as workspace:
        began = time.perf_counter()
        report = sync(workspace, Job(settings=settings, audience=settings.audiences[0]))
        return time.perf_counter() - began, report.members or 0


def compare(folder: Path, urls: dict[str, str], definition: str, rounds: int) -> None:
    """Sync one audience from both, and print a line."""
    paths = {}
    for server, url in urls.items():
        paths[server] = folder / f"{server}_{definition}.toml"
        text = CONFIG.format(name=f"{server}_{definition}", url=url, definition=AUDIENCES[definition])
        paths[server].write_text(text)
    first = {server: synced(path) for server, path in paths.items()}
    members = {server: found[1] for server, found in first.items()}
    assert len(set(members.values())) == 1, members
    ratios = []
    for _ in range(rounds):
        again = {server: synced(path)[0] for server, path in paths.items()}
        ratios.append(again["mariadb"] / again["postgresql"])
    print(
        f"{definition:8} {members['mariadb']:9,} members: MariaDB takes {statistics.median(ratios):.2f} x PostgreSQL"
        f" ({min(ratios):.2f}-{max(ratios):.2f}), the first time"
        f" {first['mariadb'][0] / first['postgresql'][0]:.2f} x",
        flush=True,
    )


def main(people: int, rounds: int) -> None:
    """Compare every audience."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        servers = [
            pg_cluster.Run(pg_cluster.new_folder()),
            pg_cluster.Run(pg_cluster.new_folder(), mariadb_servers.MODULE),
        ]
        for server in servers:
            stack.callback(server.close)
        urls = {
            "postgresql": stack.enter_context(pg_cluster.new_database(servers[0].found()["url"])),
            "mariadb": stack.enter_context(mariadb_servers.new_database(servers[1].found()["url"])),
        }
        fill(urls["postgresql"], urls["mariadb"], people)
        for definition in AUDIENCES:
            compare(folder, urls, definition, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("people", nargs="?", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.people, given.rounds)
