"""The migration to stale runs keeps what is in the database, and the constraints hold what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from audience_sync.store.database import Database, connect
from tests.integration.test_held_migration import move, refused, rows

REVISION = "0014"
FINAL = ("succeeded", "failed", "superseded")
STATES = ("held", "running", "blocked", "applying", *FINAL)


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """Yield a database of each kind with the schema before, and a run in every state."""
    with closing(connect(empty_url, create=True)) as database:
        move(database, REVISION)
        move(database, "-1", back=True)
        with database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO audiences (id, key, name, state, created_at) VALUES (7, 'gold', 'Gold', 'active', 0)"
            )
            for number, state in enumerate(STATES, 1):
                connection.execute(
                    sa.text(
                        "INSERT INTO runs (id, audience_id, kind, state, as_of, started_at, finished_at, generation,"
                        " definition_hash, members_before, reason) VALUES (:i, 7, 'initial', :s, 1, 1, :f, :i, 'h', 0,"
                        " 'why')"
                    ),
                    {"i": number, "s": state, "f": 5 if state in FINAL else None},
                )
            connection.exec_driver_sql(
                "INSERT INTO rejections (run_id, position, reason, profile_key, row)"
                " VALUES (5, 0, 'null_key', NULL, 'r')"
            )
        yield database


def schema(database: Database) -> list[tuple[object, ...]]:
    """Return the tables, indexes and views; only SQLite keeps the statements that made them."""
    if not database.is_sqlite:
        return []
    return rows(database, "SELECT type, name, sql FROM sqlite_master ORDER BY type, name")


def test_there_and_back(older: Database) -> None:
    """Every run and rejection is kept, and going back a stale run is one that failed for the same reason."""
    before, made = rows(older, "SELECT * FROM runs ORDER BY id"), schema(older)
    rejected = rows(older, "SELECT * FROM rejections")
    assert refused(older, "UPDATE runs SET state = 'stale', finished_at = 5 WHERE id = 1")

    move(older, REVISION)

    assert rows(older, "SELECT * FROM runs ORDER BY id") == before
    assert rows(older, "SELECT * FROM rejections") == rejected
    assert rows(older, "SELECT state FROM sync_runs ORDER BY id") == [(state,) for state in STATES]
    assert refused(older, "UPDATE runs SET state = 'stale' WHERE id = 2")  # it has not finished
    assert refused(older, "UPDATE runs SET state = 'lost' WHERE id = 2")
    assert refused(older, "UPDATE runs SET finished_at = 1 WHERE id = 2")
    assert refused(older, "UPDATE runs SET audience_id = 9 WHERE id = 2")
    assert refused(older, "DELETE FROM runs WHERE id = 5")  # its rejections refer to it
    assert not refused(older, "UPDATE runs SET state = 'stale', finished_at = 5 WHERE id = 2")
    move(older, "-1", back=True)
    assert rows(older, "SELECT state, finished_at, reason FROM runs WHERE id = 2") == [("failed", 5, "why")]
    assert rows(older, "SELECT * FROM runs WHERE id <> 2 ORDER BY id") == [row for row in before if row[0] != 2]
    assert rows(older, "SELECT * FROM rejections") == rejected
    assert refused(older, "UPDATE runs SET state = 'stale' WHERE id = 2")
    assert [row[:2] for row in schema(older)] == [row[:2] for row in made]
