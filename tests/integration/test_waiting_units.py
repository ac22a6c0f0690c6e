"""In which units of shards something waits that may be sent: what the sharing of shards between processes goes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audience_sync.core.shards import shard_of, unit_of
from audience_sync.db import Database
from audience_sync.sandbox import Sandbox
from audience_sync.store import attempts, seeking
from tests.factories import make_event, make_open
from tests.sending import Sending, open_sending

PEOPLE = [f"u{n}" for n in range(20)]


@pytest.fixture
def sending(tmp_path: Path, database: Database) -> Iterator[Sending]:
    """Two audiences, and a Schematic that nothing is sent to."""
    with (
        Sandbox(tmp_path / "sandbox.db") as sandbox,
        open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened,
    ):
        yield opened


def units_of(*people: str) -> set[int]:
    """Return the units of some people."""
    return {unit_of(shard_of(person)) for person in people}


def waiting(sending: Sending, *, forwarded: bool = True) -> set[int]:
    """Return the units in which something waits."""
    with sending.workspace.database.read() as connection:
        return seeking.waiting_units(connection, forwarded=forwarded)


def test_nothing_waits_in_an_empty_database(sending: Sending) -> None:
    """Where nothing is to be sent, no unit has work."""
    assert waiting(sending) == set()


def test_every_open_change_counts(sending: Sending) -> None:
    """Each unit with an open change is found, those of paused audiences and dead rows are not."""
    sending.sync(gold=PEOPLE, silver=["s1", "s2"])

    assert waiting(sending) == units_of(*PEOPLE, "s1", "s2")
    sending.write("UPDATE audiences SET state = 'paused' WHERE key = 'silver'")
    sending.write("UPDATE outbox SET dead_reason = 'no' WHERE profile_key = 'u3'")
    assert waiting(sending) == units_of(*(set(PEOPLE) - {"u3"}))


def test_forwarded_events_count_where_they_are_sent(sending: Sending) -> None:
    """A unit with forwarded events has work for who sends those, and for no one else."""
    sending.forward([{"type": "track", "event": "Won", "userId": "e1", "messageId": "m1"}])

    assert waiting(sending) == units_of("e1")
    assert waiting(sending, forwarded=False) == set()


def test_what_was_tried_counts(sending: Sending) -> None:
    """A batch that waits for another try is work for whoever has its shards."""
    events = sorted(make_event(make_open(person)) for person in ("u1", "u2"))
    with sending.workspace.database.write() as connection:
        attempts.add(connection, events, now_ms=1)

    assert waiting(sending) == units_of("u1", "u2")
