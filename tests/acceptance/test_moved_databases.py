"""`database copy` on a database that is in use: nothing is sent twice or lost, wherever it is killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import KILLED, Ended, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY
from tests.killing import COMMIT, STATEMENT, Kill, perform
from tests.support.faulty_sandbox import FaultRule

POINTS = (
    "copy.frozen",
    "copy.filled",
    "copy.stored",
    "copy.verified",
    "copy.closed",
    "copy.released",
    "database.committed:1",
    "database.committed:2",
)
BEFORE, BETWEEN, AFTER = customers(range(60)), customers(range(20, 80)), customers(range(40, 100))
EVENTS = 300
TRAIT_KEY = "total_spend"
MORE = """
batch_size = 6
concurrency = 1
[[traits]]
name = "Total Spend"
source = "shop"
sql = "SELECT customer_id AS user_id, 10 * length(customer_id) AS value FROM orders"
company_keys = {}
"""
SEED = os.environ.get("AUDIENCE_SYNC_KILL_SEED", "20260331")
KILLS = 8
GUARD = {"min_members": 10_000}
KINDS = (
    "batches WHERE status = 'open'",
    "batches WHERE status <> 'open'",
    "outbox WHERE dead_reason IS NOT NULL",
    "events WHERE dead_reason IS NULL",
    "changes",
)
"""Rows that the copied database has."""

REFUSED = "u65"


@pytest.fixture(params=["sqlite", "postgres"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'moved 5%.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop with members, history, values of a trait, a dead letter, open batches, and events that wait."""
    with open_place(tmp_path, database_url) as opened:
        settings = opened.configure(more=MORE, guard=GUARD)
        opened.sync_here(settings, BEFORE)
        opened.deliver_here()
        opened.sync_here(settings, BETWEEN)
        opened.sandbox.faults.set([FaultRule(status=400, user_key=REFUSED)])
        assert opened.command("deliver").code == 3
        opened.sandbox.faults.clear()
        opened.sync_here(settings, AFTER)
        about = {"type": "track", "event": "Done", "timestamp": "2026-01-02T03:04:05Z"}
        lines = [{**about, "userId": f"u{n % 60}", "messageId": f"m {n}"} for n in range(EVENTS)]
        path = opened.folder / "events.ndjson"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert opened.command("forward", str(path), "--no-deliver").code == 0
        assert opened.command("deliver", kill="deliver.posted:12").code == KILLED
        assert [one for one in KINDS if not opened.rows(f"SELECT 1 FROM {one}")] == []
        yield opened


def keys_of_open_batches(place: Place) -> set[str]:
    """Return the idempotency keys in the open batches of the place's first database."""
    texts = [text for (text,) in place.rows("SELECT events FROM batches WHERE status = 'open'")]
    found = {key for text in texts for key in re.findall(r'\\?"idempotency_key\\?":\s*\\?"([^"\\]+)', text)}
    assert found
    return found


def copy_to(place: Place, url: str, kill: str | None = None) -> Ended:
    """Run the copy with the configuration of the old database."""
    return place.command("database", "copy", "--to", url, "--format", "json", kill=kill)


def usable(place: Place, url: str) -> bool:
    """Return whether commands accept the database at a URL, and leave the configuration with that URL."""
    place.configure(url=url, more=MORE, guard=GUARD)
    ended = place.command("status")
    assert ended.code in {0, 2}, ended.err
    assert "Traceback" not in ended.err
    return ended.code == 0


def assert_moved(place: Place, target_url: str, keys: set[str]) -> None:
    """Assert that the new database goes on where the old one was: open batches under their keys, and nothing else."""
    assert not usable(place, place.database_url)
    assert usable(place, target_url)
    delivered = place.command("deliver")
    assert delivered.code in {0, 3}, delivered.err
    taken = {str(event.idempotency_key) for event in place.sandbox.ledger.events()}
    assert keys <= taken
    assert place.command("dead", "retry").code == 0
    assert place.command("deliver").code == 0
    assert {user: traits[AUDIENCE_KEY] for user, traits in place.traits().items()} == {
        user: user in AFTER for user in BEFORE | BETWEEN | AFTER
    }
    events = [event for event in place.sandbox.ledger.events() if event.type == "track"]
    assert len({str(event.idempotency_key) for event in events}) == EVENTS
    received = place.received()
    synced = place.command("sync", "--format", "json")
    assert synced.code == 0, synced.err
    assert [run["sent"] for run in synced.records] == [0, 0]
    assert place.received() == received


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_copy_that_is_killed(place: Place, target_url: str, point: str) -> None:
    """Killed at any point, exactly one of the two databases can be used; repeated, the copy is complete."""
    keys, received = keys_of_open_batches(place), place.received()
    place.database.close()
    assert copy_to(place, target_url, kill=point).code == KILLED
    states = [usable(place, target_url), usable(place, place.database_url)]
    assert sum(states) == 1, states
    again = copy_to(place, target_url)

    assert again.code == 0, again.err
    assert place.received() == received
    assert_moved(place, target_url, keys)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_copy_that_is_killed_at_any_statement(place: Place, target_url: str, request: pytest.FixtureRequest) -> None:
    """Killed again and again, before statements and commits drawn by lot, a copy never leaves two databases or none."""
    dice = random.Random(f"{SEED} {request.node.name}")
    print(f"AUDIENCE_SYNC_KILL_SEED={SEED}")
    keys, kills = keys_of_open_batches(place), list[str]()
    place.database.close()
    environment = {**os.environ, "SCHEMATIC_API_KEY": place.key}
    code = KILLED
    while code == KILLED and len(kills) < KILLS:
        kill = dice.choice(
            [Kill(point=STATEMENT, turn=dice.randint(1, 250)), Kill(point=COMMIT, turn=dice.randint(1, 5))]
        )
        kills.append(str(kill))
        code = perform(["database", "copy", "--to", target_url], environment, folder=place.folder, kill=kill).code
        states = [usable(place, target_url), usable(place, place.database_url)]
        assert sum(states) == 1, (kills, states)
    print(*kills, code)
    again = copy_to(place, target_url)

    assert again.code == 0, again.err
    assert_moved(place, target_url, keys)


def test_a_copy_says_what_it_did(place: Place, target_url: str) -> None:
    """Each table has a line with its rows and digest; the next steps are named; repeated, it says that it is done."""
    members = place.rows("SELECT count(*) FROM memberships")[0][0]
    place.database.close()
    done, again = copy_to(place, target_url), copy_to(place, target_url)

    assert (done.code, again.code) == (0, 0)
    records = {record["table"]: record for record in done.records}
    assert records["memberships"]["rows"] == members == 120
    assert all(len(record["digest"]) == 32 for record in records.values())
    assert "leases" not in records
    assert "both databases have the same rows" in done.err
    assert "next: set [database] url in" in done.err
    assert again.records == []
    assert "this copy was complete already" in again.err


def test_every_command_refuses_the_old_database(place: Place, target_url: str) -> None:
    """One sentence names the new database, whatever is asked of the old one; the exit code is 2."""
    place.database.close()
    assert copy_to(place, target_url).code == 0
    commands = [
        ("sync",), ("plan",), ("deliver",), ("run",), ("status",), ("runs",), ("dead", "list"), ("pause", AUDIENCE_KEY),
        ("forget", "u1", "--yes"), ("retract", AUDIENCE_KEY, "--yes"), ("migrate",), ("init",), ("check",),
        ("members", AUDIENCE_KEY), ("approve", "1"), ("forward", str(place.folder / "events.ndjson")),
    ]  # fmt: skip
    for words in commands:
        ended = place.command(*words)
        assert ended.code == 2, (words, ended.err)
        assert "was moved to" in ended.err + ended.out, words
        assert "hint: set database.url to" in ended.err + ended.out, words


@pytest.mark.slow
def test_a_running_service_is_named(place: Place, target_url: str) -> None:
    """While the service runs, nothing is copied, and the remedy is to stop it; afterwards the copy works."""
    with place.running("run") as service:
        until(lambda: "daemon_started" in service.said or "started" in service.said)
        refused = copy_to(place, target_url)
        assert refused.code == 5, refused.err
        assert f":{service.process.pid})" in refused.err
        assert "hint: stop the service" in refused.err
        assert service.end(signal.SIGTERM).code == 0
    place.database.close()

    assert copy_to(place, target_url).code == 0


def test_words_that_are_wrong(place: Place, tmp_path: Path) -> None:
    """A URL that cannot be one, a variable that is not set and a missing folder are each one sentence."""
    said = {
        "mysql://db/x": "must begin with `sqlite:///` or `postgresql://`",
        "postgresql://u:${NOT_SET}@db/x": "`NOT_SET` is not set",
        f"sqlite:///{tmp_path}/missing/new.db": "does not exist",
        "sqlite:////proc/new.db": "or set --to to another location",
        "postgresql://u:sesame@127.0.0.1:1/x": "cannot open postgresql+psycopg://u:***@127.0.0.1:1/x",
    }
    for url, sentence in said.items():
        ended = copy_to(place, url)
        assert ended.code in {1, 2}, url
        assert sentence in " ".join(ended.err.split()), ended.err
        assert "sesame" not in ended.err
        assert "Traceback" not in ended.err
    assert place.command("status").code == 0


def test_a_password_is_not_shown_or_kept(place: Place, postgres_url: str) -> None:
    """The password comes from a reference, and is in no output and in neither database."""
    place.environment["NEW_PASSWORD"] = "open-sesame"
    url = postgres_url.replace("postgres:@", "postgres:${NEW_PASSWORD}@")
    place.database.close()
    assert "NEW_PASSWORD" in url
    ended = copy_to(place, url)
    refused = place.command("status")

    assert ended.code == 0, ended.err
    for text in (ended.out, ended.err, refused.err, repr(place.rows("SELECT * FROM settings"))):
        assert "sesame" not in text


@pytest.mark.slow
def test_a_delivery_under_way_is_waited_for(place: Place, target_url: str) -> None:
    """A command that delivers is named, too; its events are not sent by both databases."""
    place.sandbox.faults.set([FaultRule(delay=1)])
    with place.running("deliver") as delivering:
        until(lambda: place.rows("SELECT 1 FROM batches WHERE status = 'open' AND holder <> ''"))
        assert copy_to(place, target_url).code == 5
        place.sandbox.faults.clear()
        assert delivering.end().code in {0, 3}
