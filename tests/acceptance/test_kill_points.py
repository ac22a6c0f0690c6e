"""Commands killed, as by `kill -9`, five times at each point of a delivery, of forgetting, and of the upgrade.

The turn at which a point kills is drawn by lot; AUDIENCE_SYNC_KILL_SEED is the seed, and each test prints it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience_sync.clock import Clock
from audience_sync.core.keys import shard_of
from audience_sync.store import erasure, leases
from tests.acceptance.running import KILLED, Place, assert_settled, customers, open_place
from tests.factories import AUDIENCE_KEY
from tests.integration.test_batches_migration import attempt
from tests.integration.test_migrations import run_alembic
from tests.killing import STATEMENT, Ended, Kill, perform
from tests.sending import user_of
from tests.support.faulty_sandbox import FaultRule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SEED = os.environ.get("AUDIENCE_SYNC_KILL_SEED", "20260331")
TIMES = 5
EVERYBODY = customers(range(60))
TURNS = {"deliver.taken": 1, "deliver.claimed": 1, "deliver.posted": 8, "deliver.settled": 2, "deliver.cut": 2}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop whose changes are sent in ten batches, over two connections."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure(more="batch_size = 6\nconcurrency = 2", guard={"min_members": 10_000})
        yield opened


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Return a source of chance of this test."""
    print(f"AUDIENCE_SYNC_KILL_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


def run(place: Place, *words: str, kill: Kill | None = None) -> Ended:
    """Run a command at a place."""
    return perform(words, {**os.environ, "SCHEMATIC_API_KEY": place.key}, folder=place.folder, kill=kill)


@pytest.mark.parametrize("point", TURNS)
def test_deliveries_killed(place: Place, dice: random.Random, point: str) -> None:
    """Killed again and again at one point, while people come and go: in the end Schematic knows the last word."""
    settings = place.configure(more="batch_size = 6\nconcurrency = 2", guard={"min_members": 10_000})
    now, before, kills = dict[str, str | None](), dict[str, str | None](), list[str]()
    while len(kills) < TIMES:
        before, now = before | now, dict(dice.sample(sorted(EVERYBODY.items()), 40))
        place.sync_here(settings, now)
        if point == "deliver.claimed":
            run(place, "deliver", kill=Kill(point="deliver.taken", turn=1))
        if point == "deliver.cut":
            place.sandbox.faults.set([FaultRule(status=400, user_key=dice.choice(sorted(now)))])
        kill = Kill(point=point, turn=dice.randint(1, TURNS[point]))
        ended = run(place, "deliver", kill=kill)
        assert ended.code in {0, 3, KILLED}, ended.said
        kills += [str(kill)] * (ended.code == KILLED)
    print(kills)
    place.sandbox.faults.clear()
    assert run(place, "dead", "retry").code == 0
    ended = run(place, "deliver")

    assert ended.code == 0, ended.said
    assert_settled(place, now, before=before)


@pytest.mark.parametrize("point", ["forget.seized", "forget.erased"])
def test_forgetting_killed(place: Place, dice: random.Random, point: str) -> None:
    """Somebody whose events are in a batch under way is forgotten after all; the batch is sent without them."""
    settings = place.configure(more="batch_size = 6\nconcurrency = 2", guard={"min_members": 10_000})
    place.sync_here(settings, EVERYBODY)
    assert run(place, "deliver", kill=Kill(point="deliver.taken", turn=1)).code == KILLED
    gone = dice.sample(sorted(EVERYBODY), TIMES)
    for user in gone:
        if point == "forget.seized":
            hold_batches(place, seconds=60)
        killed = run(place, "forget", user, "--yes", kill=Kill(point=point, turn=1))
        again = run(place, "forget", user, "--yes")
        assert (killed.code, again.code) == (KILLED, 0 if point == "forget.seized" else 2), again.said
        with place.database.read() as connection:
            assert not any(erasure.traces(connection, user).values())
    hold_batches(place, seconds=0)
    ended = run(place, "deliver")

    assert ended.code == 0, ended.said
    assert place.traits() == {user: {AUDIENCE_KEY: True} for user in EVERYBODY if user not in gone}


def hold_batches(place: Place, *, seconds: int) -> None:
    """Have another host claim what is open, for some seconds."""
    with place.database.write() as connection:
        until = leases.clock_ms(connection, Clock().steady_ms()) + 1000 * seconds
        connection.execute(
            sa.text("UPDATE batches SET holder = 'elsewhere:1:x', claim_until = :until WHERE status = 'open'"),
            {"until": until},
        )


def test_upgrades_killed(place: Place, dice: random.Random) -> None:
    """An upgrade that is killed has changed nothing; batches under way go on under their keys, and all else is sent."""
    settings = place.configure(more="batch_size = 6\nconcurrency = 2", guard={"min_members": 10_000})
    place.sync_here(settings, EVERYBODY)
    run_alembic(place.database, "down", "0008")
    under_way = sorted(EVERYBODY)[:10]
    for users in (under_way[:6], under_way[6:]):
        attempt(place.database, *(event_of_old(place, user) for user in users))
    kills = [Kill(point=STATEMENT, turn=dice.randint(5, 40)) for _ in range(TIMES)]
    print(*kills)
    place.database.close()
    assert [run(place, "migrate", kill=kill).code for kill in kills] == [KILLED] * TIMES
    for words in (["migrate"], ["deliver"]):
        ended = run(place, *words)
        assert ended.code == 0, ended.said

    told = [(user_of(event), str(event.idempotency_key)) for event in place.sandbox.ledger.events()]
    assert sorted(user for user, _ in told) == sorted(EVERYBODY)
    assert {user: key for user, key in told if user in under_way} == {user: f"key of {user}" for user in under_way}
    assert place.traits() == {user: {AUDIENCE_KEY: True} for user in EVERYBODY}


def event_of_old(place: Place, user: str) -> list[object]:
    """Return the event of an entry as version 0.6 kept it in `attempts`."""
    ((audience, generation, run_id),) = place.rows(
        "SELECT audience_id, generation, run_id FROM outbox WHERE profile_key = :k", k=user
    )
    key, traits = f"key of {user}", {AUDIENCE_KEY: True}
    body = {"type": "identify", "body": {"keys": {"userId": user}, "traits": traits}, "idempotency_key": key}
    carried = [[audience, generation, run_id, AUDIENCE_KEY, "true", False]]
    return [shard_of(user), user, key, json.dumps(body), carried, ["Identify User"], None, None]
