"""Revision 0010: rows lose the shard of their profile, and what depends on the tables stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest
import sqlalchemy as sa

from audience_sync.core.keys import shard_of
from audience_sync.destinations.rendered_events import BatchContents
from audience_sync.store import audiences, batches, memberships, outbox
from audience_sync.store.database import Database, connect, verify
from tests.factories import make_event, make_open
from tests.integration.test_migrations import run_alembic

KEYS: Final = ["u1", "u2", "é", "\U0001f642", "a b", "Z", "z", "quote'\"\\"]
ROWS: Final = {  # the columns but `shard` and `profile_key`, and their values
    "memberships": {
        "audience_id": 1,
        "identifiers": '{"company":{"groupId":"c"}}',
        "entered_run_id": 1,
        "generation": 5,
    },
    "staged": {"run_id": 2, "kind": "entered"},
    "changes": {"run_id": 1, "kind": "entered", "value": "1"},
    "outbox": {"audience_id": 1, "value": "true", "generation": 5, "run_id": 1, "kind": "entered", "gives_up": False},
    "user_identifiers": {"name": "email", "value": "a@example.com", "sent": True},
    "events": {"position": 7, "message_id": "m", "type": "track", "payload": "{}", "received_at": 1},
}
VIEWS: Final = ("current_members", "membership_changes", "open_deliveries", "open_events", "shared_identifiers")


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of the revision before, with rows of every profile in every table."""
    with closing(connect(empty_url, create=True)) as database:
        run_alembic(database, "up", "0009")
        with database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO audiences (id, key, name, state, created_at, members)"
                " VALUES (1, 'gold', 'Gold', 'active', 0, 8)"
            )
            for number, state in ((1, "succeeded"), (2, "blocked")):
                connection.execute(
                    sa.text(
                        "INSERT INTO runs (id, audience_id, kind, state, as_of, started_at, finished_at, generation,"
                        " definition_hash, members_before) VALUES (:i, 1, 'initial', :s, 0, 0, :f, 5, '', 0)"
                    ),
                    {"i": number, "s": state, "f": 1 if number == 1 else None},
                )
            for table, facts in ROWS.items():
                names = ", ".join(facts)
                marks = ", ".join(f":{name}" for name in facts)
                insert = f"INSERT INTO {table} (shard, profile_key, {names}) VALUES (:shard, :key, {marks})"
                connection.execute(sa.text(insert), [{**facts, "shard": shard_of(k), "key": k} for k in KEYS])
        yield database


def dumped(database: Database, *tables: str) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of some tables or views."""
    with database.read() as connection:
        return {
            table: sorted((tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")), key=repr)
            for table in tables
        }


def named(database: Database) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the rows of the tables, whatever the order of their columns is."""
    with database.read() as connection:
        return {
            table: sorted(
                sorted((name, repr(value)) for name, value in row.items())
                for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()
            )
            for table in ROWS
        }


def without_shards(rows: list[tuple[object, ...]], *, at: int) -> list[tuple[object, ...]]:
    """Return rows without the column of the shard."""
    return sorted(((*row[:at], *row[at + 1 :]) for row in rows), key=repr)


def test_rows_keep_everything_but_their_shard(older: Database) -> None:
    """Every row of every table is there with what it had, and the views show the same."""
    before, shown = dumped(older, *ROWS), dumped(older, *VIEWS)
    first = {"memberships", "staged", "changes"}  # the shard came behind the audience or run

    run_alembic(older, "up")

    after = dumped(older, *ROWS)
    after["memberships"] = sorted(((*row[:-1], 5) for row in after["memberships"] if row[-1] == 1), key=repr)  # the run
    after["events"] = [row[:-1] for row in after["events"]]  # the destination, of a later revision
    assert after == {table: without_shards(rows, at=int(table in first)) for table, rows in before.items()}
    assert dumped(older, *VIEWS) == shown
    verify(older)


def test_the_program_goes_on_with_them(older: Database) -> None:
    """Members are found by key, what waits can be taken, and without a digest the next sync compares everybody."""
    run_alembic(older, "up")

    with older.write() as connection:
        assert [member.profile_key for member in memberships.first(connection, 1, at_most=99)] == sorted(KEYS)
        found, more = outbox.page(connection, after="", limit=99)
        assert (found.profile_keys, more) == (sorted(KEYS), False)
        assert memberships.digest(connection, 1) is None
        assert memberships.next_staged(connection, 2, at_most=99) == max(KEYS)
        assert audiences.by_id(connection, 1).members == len(KEYS)


def test_an_open_batch_goes_on_both_ways(older: Database) -> None:
    """A batch of the older version is read and shown, and one of this version becomes one of the older again."""
    run_alembic(older, "up")
    change = make_open("u9", generation=5)
    with older.write() as connection:
        batches.add(connection, [BatchContents.of([make_event(change)])], holder="", claim_until=0, now_ms=1)
        text = connection.exec_driver_sql("SELECT events FROM batches").scalar_one()
        connection.execute(
            sa.text("UPDATE batches SET events = :e"), {"e": text.replace("null,null]", f"null,null,{shard_of('u9')}]")}
        )
        assert [event.profile_key for event in batches.open_events_of(connection, "u9")] == ["u9"]
        connection.execute(sa.text("UPDATE batches SET events = :e"), {"e": text})

    run_alembic(older, "down", "0009")

    with older.read() as connection:
        shown = connection.exec_driver_sql("SELECT shard, profile_key FROM open_values").all()
    assert [tuple(row) for row in shown] == [(shard_of("u9"), "u9")]


def test_there_and_back(older: Database) -> None:
    """Going back gives every row the shard that it had."""
    before, shown = named(older), dumped(older, *VIEWS)

    run_alembic(older, "up")
    run_alembic(older, "down", "0009")

    assert named(older) == before
    assert dumped(older, *VIEWS) == shown
