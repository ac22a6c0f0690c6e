"""The upgrade to batches: what was under way goes on word for word, and nothing is lost or sent under another key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.clock import Clock
from audience_sync.core.keys import shard_of
from audience_sync.errors import LeaseHeld
from audience_sync.store import backlog, batches, leases, outbox
from audience_sync.store.batches import Batch
from audience_sync.store.database import Database, connect, revision_of
from tests.integration.test_migrations import run_alembic

AT = 1_774_958_400_000


@pytest.fixture
def older(empty_url: str) -> Iterator[Database]:
    """A database of version 0.6, with an audience and a run."""
    with closing(connect(empty_url, create=True)) as database:
        run_alembic(database, "up", "0008")
        insert(database, "audiences", key="gold", name="Gold", state="active", created_at=0)
        insert(
            database, "runs", audience_id=1, kind="initial", state="succeeded", as_of=AT, started_at=AT,
            finished_at=AT, generation=7, definition_hash="", members_before=0,
        )  # fmt: skip
        yield database


def insert(database: Database, table: str, **values: object) -> None:
    """Insert a row as an older version did."""
    names = ", ".join(values)
    with database.write() as connection:
        connection.execute(
            sa.text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values
        )


def row_of(key: str, generation: int, *, dead: str | None = None) -> dict[str, Any]:
    """Return a row of the outbox: an entry."""
    return {
        "shard": shard_of(key), "profile_key": key, "audience_id": 1, "value": "true", "generation": generation,
        "run_id": 1, "dead_reason": dead, "kind": "entered",
    }  # fmt: skip


def event_of(key: str, idempotency_key: str, *, generation: int = 7) -> list[Any]:
    """Return an event of a change as version 0.6 kept it."""
    body = f'{{"type":"identify","body":{{"keys":{{"userId":"{key}"}}}},"idempotency_key":"{idempotency_key}"}}'
    carried = [[1, generation, 1, "gold", "true", False]]
    return [shard_of(key), key, idempotency_key, body, carried, ["Identify User"], None, None]


def forwarded_of(key: str, idempotency_key: str, position: int, *, shared: bool) -> list[Any]:
    """Return a forwarded event as version 0.6 kept it."""
    origin = [position, f"m{position}", shared]
    return [shard_of(key), key, idempotency_key, '{"type":"track"}', [], ["Send Event"], None, origin]


def attempt(database: Database, *events: list[Any], **facts: object) -> None:
    """Insert an attempt of some events."""
    shards = [event[0] for event in events]
    values = {"low": min(shards), "high": max(shards), "size": len(events), "created_at": AT, **facts}
    insert(database, "attempts", events=json.dumps(events), **values)


def claimed(database: Database) -> list[Batch]:
    """Return all open batches, claimed."""
    with database.write() as connection:
        return batches.claim_free(
            connection, holder="me", dead=(), now_ms=1_000_000, claim_until=2_000_000, forwarded=True
        )


def test_attempts_become_open_batches(older: Database) -> None:
    """Each keeps its events, keys and tries; the rows that it carries leave, newer and dead ones stay."""
    for key, generation in (("taken", 7), ("newer", 9), ("waits", 7)):
        insert(older, "outbox", **row_of(key, generation))
    insert(older, "outbox", **row_of("dead", 7, dead="HTTP 400"))
    attempt(
        older,
        *(event_of(key, f"key of {key}") for key in ("taken", "newer", "dead")),
        tries=2,
        not_before=AT + 5,
        error="HTTP 503",
    )
    run_alembic(older, "up")

    (batch,) = claimed(older)
    assert [(one.profile_key, one.idempotency_key) for one in batch.events] == [
        (key, f"key of {key}") for key in ("taken", "newer", "dead")
    ]
    assert [one.carried[0].kind for one in batch.events] == ["entered", "resent", "entered"]
    assert (batch.tries, batch.not_before, batch.error) == (2, AT + 5, "HTTP 503")
    with older.read() as connection:
        left = {row.profile_key for row in connection.execute(sa.text("SELECT profile_key FROM outbox"))}
        assert left == {"newer", "waits", "dead"}
        # `dead` stays dead though a part of it is under way.
        assert outbox.count(connection) == (4, 0, 1)


def test_attempts_with_a_common_profile_become_parts(older: Database) -> None:
    """Of a batch that was cut, the lower part of a profile goes first; an unrelated attempt waits for nobody."""
    attempt(older, event_of("u1", "a"), event_of("u2", "b"))
    attempt(older, event_of("u2", "c"))
    attempt(older, event_of("u3", "d"))
    run_alembic(older, "up")

    first, second, other = claimed(older)
    with older.write() as connection:
        assert [batches.is_behind(connection, one) for one in (first, second, other)] == [False, True, False]
        assert batches.settle(connection, [(first, 200)], now_ms=AT) == []
        assert not batches.is_behind(connection, second)


def test_attempts_are_parts_of_all_that_they_share_a_profile_with(older: Database) -> None:
    """A later attempt that shares profiles with two earlier ones, which share none, waits for both."""
    attempt(older, event_of("u1", "a"))
    attempt(older, event_of("u2", "b"))
    attempt(older, event_of("u1", "c"), event_of("u2", "d"))
    run_alembic(older, "up")

    first, second, both = claimed(older)
    with older.write() as connection:
        assert batches.settle(connection, [(first, 200)], now_ms=AT) == []
        assert batches.is_behind(connection, both)
        assert batches.settle(connection, [(second, 200)], now_ms=AT) == []
        assert not batches.is_behind(connection, both)


def test_parts_of_one_profile_go_on_in_the_order_of_their_events(older: Database) -> None:
    """Older versions cut the first half again behind the second: ids of attempts are not the order of their events."""
    for position in range(1, 9):
        insert(
            older, "events", shard=shard_of("u1"), profile_key="u1", position=position, message_id=f"m{position}",
            type="track", name="Won", payload="{}", received_at=AT,
        )  # fmt: skip
    for positions in ((5, 6, 7, 8), (1, 2), (3, 4)):
        attempt(older, *(forwarded_of("u1", f"key {n}", n, shared=False) for n in positions), forwarded=True)
    run_alembic(older, "up")

    posted = []
    left = claimed(older)
    with older.write() as connection:
        while free := [one for one in left if not batches.is_behind(connection, one)]:
            assert batches.settle(connection, [(one, 200) for one in free], now_ms=AT) == []
            posted += [[event.idempotency_key for event in one.events] for one in free]
            left = [one for one in left if one not in free]
    assert posted == [["key 1", "key 2"], ["key 3", "key 4"], ["key 5", "key 6", "key 7", "key 8"]]


def test_half_sent_events_keep_what_was_accepted(older: Database) -> None:
    """A forwarded event with an accepted body sends only the others, under way or dead."""
    for position, key in ((1, "u1"), (2, "u2")):
        insert(
            older, "events", shard=shard_of(key), profile_key=key, position=position, message_id=f"m{position}",
            type="track", name="Won", payload="{}", received_at=AT, partly_sent=True,
            dead_reason=None if position == 1 else "refused",
        )  # fmt: skip
        insert(
            older, "deliveries", shard=shard_of(key), profile_key=key, idempotency_key=f"sent {position}", traits="{}",
            run_ids="[]", accepted_at=AT, status=200, message_id=f"m{position}",
        )  # fmt: skip
    attempt(older, forwarded_of("u1", "open 1", 1, shared=True), forwarded=True)
    run_alembic(older, "up")

    (batch,) = claimed(older)
    ((event),) = batch.events
    assert event.origin is not None
    assert (event.origin.row.message_id, event.origin.row.payload, event.origin.row.name) == ("m1", "{}", "Won")
    assert event.origin.row.accepted == {"sent 1"}
    with older.write() as connection:
        rows = connection.execute(sa.text("SELECT message_id, accepted FROM events")).all()
        assert [(row.message_id, json.loads(row.accepted)) for row in rows] == [("m2", ["sent 2"])]
        assert backlog.count(connection) == (1, 0, 1)
        batches.refuse(connection, batch, "refused", now_ms=AT)
        rows = connection.execute(sa.text("SELECT message_id, accepted FROM events ORDER BY position")).all()
        assert [(row.message_id, json.loads(row.accepted)) for row in rows] == [("m1", ["sent 1"]), ("m2", ["sent 2"])]
        assert len(connection.execute(sa.text("SELECT * FROM sent_deliveries")).all()) == 2


def test_a_database_in_use_is_not_migrated(older: Database) -> None:
    """While a process of an older version has a lease, nothing is changed, and the message names it."""
    with older.read() as connection:
        now = leases.clock_ms(connection, Clock().steady_ms())
    insert(older, "leases", kind="audience", number=1, holder="host:1:x", term=1, expires_at=now + 60_000)
    with pytest.raises(LeaseHeld, match="host:1:x is at work on this database, and nothing was migrated"):
        run_alembic(older, "up")

    assert revision_of(older) == "0008"


def test_going_back_puts_everything_back(older: Database) -> None:
    """A downgrade loses nothing that waits: what is in open batches is in its tables again."""
    insert(older, "outbox", **row_of("u1", 7))
    insert(
        older, "events", shard=shard_of("u2"), profile_key="u2", position=1, message_id="m1", type="track", name=None,
        payload="{}", received_at=AT, dead_reason=None,
    )  # fmt: skip
    attempt(older, event_of("u1", "a"))
    attempt(older, forwarded_of("u2", "b", 1, shared=False), forwarded=True)
    run_alembic(older, "up")
    with older.read() as connection:
        assert backlog.count(connection) == (2, 0, 0)
    run_alembic(older, "down", "0008")

    with older.read() as connection:
        assert connection.execute(sa.text("SELECT profile_key, kind FROM outbox")).all() == [("u1", "entered")]
        assert connection.execute(sa.text("SELECT message_id FROM events")).scalars().all() == ["m1"]
        assert len(connection.execute(sa.text("SELECT * FROM open_deliveries")).all()) == 1
