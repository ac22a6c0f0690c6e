"""The migration to held runs keeps what is in the database, and the constraints hold what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from audience_sync.store.database import Database, connect, migrations

REVISION, BEFORE = "0006", "0005"
STATES = ["running", "blocked", "applying", "succeeded", "failed", "superseded"]


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """Yield a database of each kind with the schema before, and a run in every state."""
    with closing(connect(empty_url, create=True)) as database:
        move(database, BEFORE)
        with database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO audiences (id, key, name, state, created_at) VALUES (7, 'gold', 'Gold', 'active', 0)"
            )
            for number, state in enumerate(STATES, 1):
                finished = 5 if state in {"succeeded", "failed", "superseded"} else None
                connection.execute(
                    sa.text(
                        "INSERT INTO runs (id, audience_id, kind, state, as_of, started_at, finished_at, generation,"
                        " definition_hash, members_before, reason) VALUES (:i, 7, 'initial', :s, 1, 1, :f, :i, 'h', 0,"
                        " 'why')"
                    ),
                    {"i": number, "s": state, "f": finished},
                )
            connection.exec_driver_sql(
                "INSERT INTO rejections (run_id, position, reason, profile_key, row)"
                " VALUES (4, 0, 'null_key', NULL, 'r')"
            )
        yield database


def move(database: Database, revision: str, *, back: bool = False) -> None:
    """Bring a database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    with database.write() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if back else command.upgrade)(config, revision)


def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    with database.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def refused(database: Database, statement: str) -> bool:
    """Tell whether a constraint refuses a statement."""
    try:
        with database.write() as connection:
            connection.exec_driver_sql(statement)
    except sa.exc.IntegrityError:
        return True
    return False


def test_there_and_back(older: Database) -> None:
    """Every run and rejection is kept, the view on the runs too; only held runs do not go back."""
    before = rows(older, "SELECT * FROM runs ORDER BY id")
    rejected = rows(older, "SELECT * FROM rejections")
    hold = (
        "INSERT INTO runs (id, audience_id, kind, state, as_of, started_at, generation, definition_hash,"
        " members_before, held_by) VALUES (8, 7, 'initial', 'held', 1, 1, 0, 'h', 0, 7)"
    )

    move(older, REVISION)

    assert rows(older, "SELECT * FROM runs ORDER BY id") == [(*row, None) for row in before]
    assert rows(older, "SELECT * FROM rejections") == rejected
    assert rows(older, "SELECT state FROM sync_runs ORDER BY id") == [(state,) for state in STATES]
    assert not refused(older, hold)
    assert refused(older, "UPDATE runs SET state = 'lost' WHERE id = 8")
    assert refused(older, "UPDATE runs SET finished_at = 1 WHERE id = 8")
    assert refused(older, "DELETE FROM runs WHERE id = 4")  # its rejections refer to it
    assert refused(older, "UPDATE runs SET audience_id = 9 WHERE id = 4")
    move(older, BEFORE, back=True)
    assert rows(older, "SELECT * FROM runs ORDER BY id") == before
    assert rows(older, "SELECT * FROM rejections") == rejected
    assert rows(older, "SELECT count(*) FROM sync_runs") == [(len(STATES),)]
    assert refused(older, "UPDATE runs SET state = 'held' WHERE id = 1")
