"""A writer that waits for another program to release a SQLite file tells the user what it is waiting for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from audience_sync.store.database import connect
from audience_sync.tuning import DEFAULT_TUNING


def test_a_writer_says_once_what_it_waits_for(tmp_path: Path) -> None:
    """`on_wait` is called once while another program holds the lock; the write then succeeds without an error."""
    tuning = replace(DEFAULT_TUNING, quiet_seconds=0.05)
    path, waits = tmp_path / "a.db", []
    with (
        closing(connect(f"sqlite:///{path}", create=True, tuning=tuning)) as database,
        closing(sqlite3.connect(path)) as other,
    ):
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")

        def release() -> None:
            waits.append("waiting")
            other.execute("ROLLBACK")

        database.on_wait = release
        for _ in range(2):
            with database.write() as connection:
                connection.execute(sa.text("CREATE TABLE IF NOT EXISTS t (a)"))
                timeout = connection.execute(sa.text("PRAGMA busy_timeout")).scalar()

    assert waits == ["waiting"]
    assert timeout == tuning.busy_seconds * 1000
