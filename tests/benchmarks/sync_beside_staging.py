"""A sync beside what SQL people would write: all rows into a temporary table, and two anti-joins with the memberships.

Usage: python -m tests.benchmarks.sync_beside_staging [MEMBERS] [--database sqlite|postgres] [--rounds N]

Both sides read the same source, a SQLite table in random order, and keep their state in a database of the same kind.
The opponent writes the same facts: memberships, history and an outbox, in tables of the same columns, in one
transaction. It is a good one: rows are staged in the order of their keys (SQLite) or by COPY (Postgres), and no row
comes back to Python. What it has not is a guard, a plan, transactions that let others write, and rejected rows.
Each side does its steps in processes of its own, and the sides take turns; all but the first sync happen ROUNDS times.
Of SQLite the CPU seconds of both sides are compared as well, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.sync_one_million import change_source, database_url, make_source, synced

SQL = "SELECT user_id, company_id FROM users"
KEY = {"sqlite": "TEXT", "postgres": 'TEXT COLLATE "C"'}
IDENTIFIERS = '\'{"company":{"groupId":"\' || s.company_id || \'"}}\''
TABLES = (
    (
        "memberships (audience_id INT, profile_key {key}, identifiers TEXT, value TEXT, entered_run_id INT,"
        " generation BIGINT, PRIMARY KEY (audience_id, profile_key))"
    ),
    (
        "changes (run_id INT, profile_key {key}, kind TEXT, identifiers TEXT, value TEXT,"
        " PRIMARY KEY (run_id, profile_key))"
    ),
    (
        "outbox (profile_key {key}, audience_id INT, value TEXT, identifiers TEXT, generation BIGINT, run_id INT,"
        " dead_reason TEXT, kind TEXT, PRIMARY KEY (profile_key, audience_id))"
    ),
)
UPSERT = (
    " ON CONFLICT (profile_key, audience_id) DO UPDATE SET value = excluded.value,"
    " identifiers = excluded.identifiers, generation = excluded.generation, run_id = excluded.run_id,"
    " kind = excluded.kind"
)
STATEMENTS = (
    # new, and known with other identifiers
    (
        "CREATE TEMP TABLE entered AS SELECT s.user_id, {identifiers} AS identifiers FROM staging s"
        " WHERE NOT EXISTS (SELECT 1 FROM memberships m WHERE m.audience_id = 1 AND m.profile_key = s.user_id)"
    ),
    (
        "CREATE TEMP TABLE updated AS SELECT s.user_id, {identifiers} AS identifiers FROM staging s"
        " JOIN memberships m ON m.audience_id = 1 AND m.profile_key = s.user_id WHERE m.identifiers <> {identifiers}"
    ),
    (
        "CREATE TEMP TABLE gone AS SELECT m.profile_key AS user_id, m.identifiers FROM memberships m"
        " WHERE m.audience_id = 1 AND NOT EXISTS (SELECT 1 FROM staging s WHERE s.user_id = m.profile_key)"
    ),
    "INSERT INTO memberships SELECT 1, user_id, identifiers, NULL, {run}, {run} FROM entered",
    (
        "UPDATE memberships SET identifiers = (SELECT u.identifiers FROM updated u WHERE u.user_id = profile_key)"
        " WHERE audience_id = 1 AND profile_key IN (SELECT user_id FROM updated)"
    ),
    "DELETE FROM memberships WHERE audience_id = 1 AND profile_key IN (SELECT user_id FROM gone)",
    *(
        statement
        for table, kind, value in (
            ("entered", "entered", "true"),
            ("updated", "updated", "true"),
            ("gone", "exited", "false"),
        )
        for statement in (
            f"INSERT INTO changes SELECT {{run}}, user_id, '{kind}', identifiers, NULL FROM {table}",
            (
                f"INSERT INTO outbox SELECT user_id, 1, '{value}', identifiers, {{run}}, {{run}}, NULL, '{kind}'"
                f" FROM {table} WHERE true{UPSERT}"
            ),
        )
    ),
)


def pages(folder: Path) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of the source."""
    cursor = sqlite3.connect(folder / "shop.db").execute(SQL)
    while page := cursor.fetchmany(20_000):
        yield page


def stage_in_sqlite(folder: Path, run: int) -> None:
    """Do one sync the other way, in SQLite."""
    database = sqlite3.connect(folder / "staging.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    for table in TABLES:
        database.execute(f"CREATE TABLE IF NOT EXISTS {table.format(key=KEY['sqlite'])} WITHOUT ROWID")
    database.execute("BEGIN IMMEDIATE")
    database.execute("CREATE TEMP TABLE unordered (user_id TEXT, company_id TEXT)")
    for page in pages(folder):
        database.executemany("INSERT INTO unordered VALUES (?, ?)", page)
    database.execute("CREATE TEMP TABLE staging (user_id TEXT PRIMARY KEY, company_id TEXT) WITHOUT ROWID")
    database.execute("INSERT OR IGNORE INTO staging SELECT user_id, company_id FROM unordered ORDER BY user_id")
    for statement in STATEMENTS:
        database.execute(statement.format(run=run, identifiers=IDENTIFIERS))
    database.execute("COMMIT")


def stage_in_postgres(folder: Path, run: int, url: str) -> None:
    """Do one sync the other way, in Postgres."""
    with psycopg.connect(url.replace("+psycopg", "")) as database:
        database.execute("CREATE SCHEMA IF NOT EXISTS staged")
        database.execute("SET search_path = staged")
        database.execute("SET work_mem = '64MB'")
        for table in TABLES:
            database.execute(f"CREATE TABLE IF NOT EXISTS {table.format(key=KEY['postgres'])}")
        database.execute(f"CREATE TEMP TABLE staging (user_id {KEY['postgres']}, company_id TEXT)")
        with database.cursor().copy("COPY staging FROM STDIN") as copy:
            for page in pages(folder):
                copy.write("".join([f"{user}\t{company}\n" for user, company in page]))
        database.execute("ANALYZE staging")
        for statement in STATEMENTS:
            database.execute(statement.format(run=run, identifiers=IDENTIFIERS))
        database.commit()
        database.autocommit = True
        database.execute("ANALYZE memberships")


def step(folder: Path, run: int, url: str) -> tuple[float, float]:
    """Do one sync the other way and return the seconds and the CPU seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    if url.startswith("sqlite"):
        stage_in_sqlite(folder, run)
    else:
        stage_in_postgres(folder, run, url)
    return time.perf_counter() - started, time.process_time() - cpu


def staged(folder: Path, run: int, url: str) -> tuple[float, float]:
    """Do the same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.sync_beside_staging", "--step", str(folder), str(run), url]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, cpu = json.loads(out.stdout)
    return float(seconds), float(cpu)


def main(members: int, *, kind: str, rounds: int) -> None:
    """Let both sides do every step, and print their ratio."""
    with tempfile.TemporaryDirectory() as name, database_url(kind) as url:
        folder = Path(name)
        make_source(folder, members, url=url, company=True)
        steps = ["initial", *["0 % changed", "1 % changed"] * rounds]
        spent = {title: [0.0, 0.0, 0.0, 0.0] for title in steps}
        for run, title in enumerate(steps, 1):
            if title == "1 % changed":
                change_source(folder, members, time=run)
            ours = synced(folder)
            found = (ours["seconds"], ours["cpu"], *staged(folder, run, url))
            spent[title] = [before + now for before, now in zip(spent[title], found, strict=True)]
        ratios = {}
        for title, (seconds, cpu, other_seconds, other_cpu) in spent.items():
            ratios[title] = other_seconds / seconds
            of_cpu = f", of CPU {other_cpu / cpu:.1f} x" if kind == "sqlite" else ""
            print(f"{title:12} {seconds:7.2f} s, staging {other_seconds:7.2f} s = {ratios[title]:.1f} x{of_cpu}")
        print(
            f"{members:,} members on {kind}, times faster than a temporary table and anti-joins:"
            f" {', '.join(f'{title} {ratio:.1f}' for title, ratio in ratios.items())}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("members", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", nargs=3, metavar=("FOLDER", "RUN", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(Path(given.step[0]), int(given.step[1]), given.step[2])))
    else:
        main(given.members, kind=given.database, rounds=given.rounds)
