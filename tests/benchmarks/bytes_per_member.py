"""How many bytes a member takes on disk: keys of 12 characters, no further identifiers.

Usage: python -m tests.benchmarks.bytes_per_member [MEMBERS] [--database sqlite|postgres]

After a first sync of which nothing is delivered. Of SQLite: the pages of each table (`dbstat`), and the file after a
checkpoint and a vacuum; of a private PostgreSQL: `pg_total_relation_size` after a vacuum.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from pathlib import Path

import psycopg

from tests.benchmarks.sync_one_million import database_url, make_source, synced

TABLES = ("memberships", "changes", "outbox", "shards")


def in_sqlite(path: Path) -> tuple[dict[str, int], int]:
    """Return the bytes of each table and of the whole file."""
    with sqlite3.connect(path, isolation_level=None) as database:
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
        database.execute("VACUUM")
        tables = {
            table: database.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            for table in TABLES
        }
        whole = database.execute("SELECT pg_database_size(current_database())").fetchone()
    return {table: row[0] for table, row in tables.items() if row}, whole[0] if whole else 0


def main(members: int, kind: str) -> None:
    """Sync once, and print the bytes a member of each table, and a summary."""
    with tempfile.TemporaryDirectory() as name, database_url(kind) as url:
        folder = Path(name)
        make_source(folder, members, url=url, company=False)
        synced(folder)
        tables, whole = in_sqlite(folder / "audience_sync.db") if kind == "sqlite" else in_postgres(url)
    for table, size in tables.items():
        print(f"{table:12} {size / members:6.1f} bytes a member")
    print(
        f"{members:,} members on {kind}: {tables['memberships'] / members:.1f} bytes each as memberships,"
        f" {whole / members:.1f} with history, digests and an outbox of which nothing is delivered"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("members", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    given = parser.parse_args()
    main(given.members, given.database)
