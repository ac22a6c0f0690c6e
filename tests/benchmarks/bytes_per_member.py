"""How many bytes a member takes on disk: keys of 12 characters, a company of 11.

Usage: python -m tests.benchmarks.bytes_per_member [MEMBERS] [--database sqlite|postgres] [--changes RUNS]

After a first sync and ten runs in each of which 1 % has changed; what was to be delivered is deleted. Of SQLite: the
pages of each table (`dbstat`) after a vacuum; of a private PostgreSQL: `pg_total_relation_size` after a vacuum.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from pathlib import Path

import psycopg

from tests.benchmarks.sync_one_million import change_source, database_url, make_source, synced

TABLES = ("memberships", "changes", "digests", "runs")


def in_sqlite(path: Path) -> tuple[dict[str, int], int]:
    """Return the bytes of each table and of the whole file."""
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("DELETE FROM outbox")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        tables = {
            table: database.execute("SELECT sum(pgsize) FROM dbstat WHERE name = ?", (table,)).fetchone()[0]
            for table in TABLES
        }
    return tables, path.stat().st_size


def in_postgres(url: str) -> tuple[dict[str, int], int]:
    """Return the bytes of each table with its indexes, and of the whole database."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as database:
        database.execute("TRUNCATE outbox")
        database.execute("VACUUM FULL")
        tables = {
            table: database.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            for table in TABLES
        }
        whole = database.execute("SELECT pg_database_size(current_database())").fetchone()
    return {table: row[0] for table, row in tables.items() if row}, whole[0] if whole else 0


def main(members: int, kind: str, *, changes: int) -> None:
    """Sync, change and sync again, and print the bytes a member of each table, and a summary."""
    with tempfile.TemporaryDirectory() as name, database_url(kind) as url:
        folder = Path(name)
        make_source(folder, members, url=url, company=True)
        synced(folder)
        for time in range(changes):
            change_source(folder, members, time=time)
            synced(folder)
        tables, _ = in_sqlite(folder / "audience_sync.db") if kind == "sqlite" else in_postgres(url)
    for table, size in tables.items():
        print(f"{table:12} {size / members:6.1f} bytes a member")
    print(
        f"{members:,} members on {kind} after {changes} runs with changes: {tables['memberships'] / members:.1f} bytes"
        f" each as memberships, {sum(tables.values()) / members:.1f} with history"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("members", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--changes", type=int, default=10)
    given = parser.parse_args()
    main(given.members, given.database, changes=given.changes)
