"""A database of an older version in the middle of its work, upgraded: nothing is lost, nothing sent under another key.

The older versions are the real ones. Their deliveries are killed again and again, with answers lost, batches halved,
values and events dead, events sent in part, and newer values behind what is under way. The ledger of the sandbox is
the proof. AUDIENCE_SYNC_KILL_SEED is the seed of the instants; each test prints it.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response
from audience_sync.sandbox.ledger import EventFilter
from audience_sync.store import database
from tests.acceptance.running import KILLED, Ended, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY
from tests.killing import COMMIT, STATEMENT, Kill, perform
from tests.older import OlderProgram
from tests.sending import in_between
from tests.support.faulty_sandbox import FaultRule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SEED = os.environ.get("AUDIENCE_SYNC_KILL_SEED", "20260331")
BATCH_SIZE = 6
ROUNDS, MOST_ROUNDS = 5, 20
PATIENCE = 8.0  # seconds after which a delivery that does not reach its point is killed
KILLS = 3  # of the upgrade
LEASE = 90.0  # seconds; the claims of a killed process end before

TRAIT_KEY = "total_spend"
MORE = """
batch_size = {batch_size}
concurrency = {concurrency}
[[traits]]
name = "Total Spend"
source = "shop"
sql = "SELECT customer AS user_id, total AS value FROM spending"
[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
user_traits = {{ "@path" = "$.traits" }}
"""

COPY = """
[[mappings]]
name = "{name}"
trigger = 'type = "track"'
action = "trackEvent"
[mappings.fields]
event_name = {{ "@path" = "$.event" }}
user_keys = {{ userId = {{ "@path" = "$.userId" }} }}
traits = {{ message_id = {{ "@path" = "$.messageId" }}, copy = "{copy}" }}
"""

PEOPLE = list(customers(range(60)))
REFUSED = ["u3", "u31"]  # every identify of theirs gets a 400
SICK = "u17"  # 503, as long as the older version is at work
POISON, HALF = "poison", "half"  # of these events both copies are refused, or the second one
SENDERS = PEOPLE[10:22]


@dataclass
class Schematic:
    """The destination refuses batches with some events; it counts those that have other events, too."""

    refusing: bool = True
    is_sick: bool = True
    together: int = 0

    def look(self, request: Request) -> SandboxResponse | None:
        """Answer for the sandbox where something is refused."""
        if request.path != "/batch":
            return None
        events = json.loads(request.body)["events"]
        for event in events:
            if self.refusing and self._is_refused(event["type"], event["body"]):
                self.together += len(events) > 1
                return error_response(400, "not this one")
        if self.is_sick and any(event["body"].get("keys", {}).get("userId") == SICK for event in events):
            self.together += len(events) > 1
            return error_response(503, "not now")
        return None

    @staticmethod
    def _is_refused(kind: str, body: dict[str, Any]) -> bool:
        if kind == "identify":
            return body["keys"]["userId"] in REFUSED
        word = body["traits"]["message_id"].partition(" ")[0]
        return bool(word == POISON or (word == HALF and body["traits"]["copy"] == "second"))


@dataclass
class Busy:
    """A place with an older program at work in it, and what its people and events are."""

    place: Place
    older: OlderProgram
    schematic: Schematic
    dice: random.Random
    members: set[str] = field(default_factory=lambda: set(PEOPLE))
    spent: dict[str, int] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    forwarded: dict[str, str] = field(default_factory=dict)  # messageId to userId, in their order
    rounds: int = 0

    def configure(self, *, batch_size: int = BATCH_SIZE, concurrency: int = 3) -> None:
        """Write the configuration: small batches, quick timeouts."""
        copies = [COPY.format(name=name, copy=name.lower()) for name in ("First", "Second")]
        more = MORE.format(batch_size=batch_size, concurrency=concurrency) + "".join(copies)
        self.place.configure(more=more, guard={"min_members": 1000})
        path = self.place.folder / "config.toml"
        path.write_text(path.read_text().replace("[schematic]\n", '[schematic]\ntimeout = "3s"\n'))

    def old(self, *words: str, kill: str = "", seconds: float | None = None) -> int:
        """Run a command of the older version; return its exit code."""
        told = {"SCHEMATIC_API_KEY": self.place.key}
        code, said = self.older.run(words, told, folder=self.place.folder, kill=kill, seconds=seconds)
        assert code in {0, KILLED} or words[0] == "deliver", said
        return code

    def next_round(self, run: Callable[..., object]) -> None:
        """Let people leave and spend, each sum once; sync that and forward more events, with whichever program."""
        self.rounds += 1
        if self.rounds > 1:
            gone = set(self.dice.sample(sorted(self.members - {*REFUSED, SICK}), 2))
            self.members -= gone
            self.left |= gone
        for n, user in enumerate(PEOPLE):
            if self.rounds == 1 or n % 3 == self.rounds % 3:
                self.spent[user] = 1000 * self.rounds + n
        place = self.place
        place.shop.set_orders((user, "acme") for user in sorted(self.members))
        place.shop.execute("CREATE TABLE IF NOT EXISTS spending (customer, total)")
        place.shop.execute("DELETE FROM spending")
        rows = ", ".join(f"('{user}', {total})" for user, total in self.spent.items())
        place.shop.execute(f"INSERT INTO spending VALUES {rows}")
        run("sync", "--no-deliver")
        name = f"events-{self.rounds}.ndjson"
        events = [(user, f"m {self.rounds} {user} {n}") for n in range(3) for user in SENDERS]
        if self.rounds == 1:
            events[5:5] = [(SENDERS[1], f"{POISON} {n}") for n in range(2)]
            events[20:20] = [(SENDERS[2], f"{HALF} {n}") for n in range(3)]
        self.write_events(name, events)
        run("forward", str(place.folder / name), "--no-deliver")

    def write_events(self, name: str, events: list[tuple[str, str]]) -> None:
        """Write a file of track events: who, and under which messageId."""
        lines = [
            {"type": "track", "event": "Done", "userId": user, "messageId": one, "timestamp": "2026-01-02T03:04:05Z"}
            for user, one in events
        ]
        (self.place.folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.forwarded |= {one: user for user, one in events}

    def under_way(self) -> dict[str, dict[str, Any]]:
        """Return what attempts of the older version hold, by idempotency key."""
        texts = [text for (text,) in self.place.rows("SELECT events FROM attempts")]
        return {event[2]: json.loads(event[3]) for text in texts for event in json.loads(text)}

    def is_busy(self) -> bool:
        """Return whether there is one of everything that an upgrade has to carry over."""
        looks = [
            "SELECT 1 FROM attempts WHERE tries > 0 AND NOT forwarded",
            "SELECT 1 FROM attempts WHERE forwarded",
            "SELECT 1 FROM attempts WHERE NOT forwarded AND size > 1",
            "SELECT 1 FROM outbox WHERE dead_reason IS NOT NULL",
            "SELECT 1 FROM outbox WHERE dead_reason IS NULL",
            "SELECT 1 FROM events WHERE dead_reason IS NOT NULL AND partly_sent",
            "SELECT 1 FROM events WHERE dead_reason IS NULL",
        ]
        taken = {event.idempotency_key for event in self.place.sandbox.ledger.events()}
        return all(map(self.place.rows, looks)) and bool(taken & self.under_way().keys()) and self._has_newer()

    def _has_newer(self) -> bool:
        waits = {
            (key, audience): g
            for key, audience, g in self.place.rows("SELECT profile_key, audience_id, generation FROM outbox")
        }
        texts = [text for (text,) in self.place.rows("SELECT events FROM attempts")]
        carried = [(event[1], *one[:2]) for text in texts for event in json.loads(text) for one in event[4]]
        return any(waits.get((key, audience), generation) > generation for key, audience, generation in carried)

    def command(self, *words: str) -> Ended:
        """Run a command of this version."""
        return self.place.command(*words)


@contextmanager
def open_busy(folder: Path, url: str, version: str, name: str) -> Iterator[Busy]:
    """Make a database with an older version, and a sandbox that refuses some events."""
    print(f"AUDIENCE_SYNC_KILL_SEED={SEED}")
    with closing(database.connect(url, create=True)):
        pass
    schematic = Schematic()
    older = OlderProgram(version, folder / "older")
    with open_place(folder, url) as place, in_between(place.sandbox, schematic.look):
        busy = Busy(place, older, schematic, random.Random(f"{SEED} {name}"))
        busy.configure()
        assert busy.old("migrate") == 0
        yield busy


@pytest.fixture(params=["0.5.0", "0.6.0"])
def busy(request: pytest.FixtureRequest, tmp_path: Path, empty_url: str) -> Iterator[Busy]:
    """A database of an older version."""
    with open_busy(tmp_path, empty_url, request.param, request.node.name) as opened:
        yield opened


def work_and_die(busy: Busy) -> None:
    """Deliver with the older version, through faults, and die; again and again, until everything is half done."""
    faults = [FaultRule(drop=True, rate=0.25, seed=5), FaultRule(status=500, rate=0.1, seed=6), FaultRule(delay=0.05)]
    busy.place.sandbox.faults.set(faults)
    died = []
    while busy.rounds < ROUNDS or not busy.is_busy():
        assert busy.rounds < MOST_ROUNDS, "not busy"
        busy.next_round(busy.old)
        point = busy.dice.choice(["deliver.marked", "deliver.posted", "deliver.settled"])
        turn = busy.dice.randint(2, 25)
        died.append((f"{point}:{turn}", busy.old("deliver", kill=f"{point}:{turn}", seconds=PATIENCE)))
    print(*died)


def refuse_while_it_works(busy: Busy) -> None:
    """Try to migrate while a process of the older version waits for an answer, then kill it."""
    place = busy.place
    place.sandbox.faults.set([FaultRule(delay=2)])
    began = place.received()
    with busy.older.start(["deliver"], {"SCHEMATIC_API_KEY": place.key}, folder=place.folder) as process:
        until(lambda: process.poll() is not None or place.received() > began)
        before = place.rows("SELECT version_num FROM alembic_version"), place.rows("SELECT id, events FROM attempts")
        refused = busy.command("migrate")
        process.kill()
        process.communicate()
    assert process.returncode == KILLED
    assert refused.code == 5
    assert f":{process.pid}:" in refused.err
    assert "is at work on this database, and nothing was migrated" in refused.err
    after = place.rows("SELECT version_num FROM alembic_version")
    assert after == before[0]
    place.sandbox.faults.clear()


def upgrade(busy: Busy) -> None:
    """Migrate as soon as the claims of killed processes are over; the first tries are killed, at last in the middle."""
    began, kills = time.monotonic(), list[str]()
    environment = {**os.environ, "SCHEMATIC_API_KEY": busy.place.key}
    while True:
        turn = Kill(point=STATEMENT, turn=busy.dice.randint(8, 60)) if kills else Kill(point=COMMIT, turn=1)
        kill = turn if len(kills) < KILLS else None
        busy.place.database.close()
        ended = perform(["migrate"], environment, folder=busy.place.folder, kill=kill)
        if ended.code == 0:
            break
        assert ended.code == (5 if kill is None or ended.code == 5 else KILLED), ended.said
        kills += [f"{kill} after {time.monotonic() - began:.0f} s"] * (ended.code == KILLED)
        assert time.monotonic() - began < LEASE, ended.said
        time.sleep(1 if ended.code == 5 else 0)
    print(*kills)
    assert kills


def keys_of_values(busy: Busy) -> dict[tuple[str, str, str], set[str]]:
    """Return under which keys Schematic took each value of each person."""
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for event in busy.place.sandbox.ledger.events():
        body: Any = event.body
        for trait, value in body["traits"].items() if event.type == "identify" else ():
            found[body["keys"]["userId"], trait, json.dumps(value)].add(str(event.idempotency_key))
    return found


def keys_of_events(busy: Busy) -> dict[tuple[str, str], set[str]]:
    """Return under which keys Schematic took each copy of each forwarded event."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for event in busy.place.sandbox.ledger.events():
        body: Any = event.body
        if event.type == "track":
            found[body["traits"]["message_id"], body["traits"]["copy"]].add(str(event.idempotency_key))
    return found


def assert_in_order(busy: Busy) -> None:
    """Assert that no older value or event of a person came behind a newer one; what was dead comes last."""
    place_of = {one: n for n, one in enumerate(busy.forwarded)}
    newest: dict[tuple[str, str], float] = defaultdict(lambda: -1)
    for event in busy.place.sandbox.ledger.events(EventFilter(statuses=["processed"])):
        body: Any = event.body
        if event.type == "track":
            message = body["traits"]["message_id"]
            steps = {} if message.startswith((POISON, HALF)) else {(body["user"]["userId"], "event"): place_of[message]}
        else:
            user = body["keys"]["userId"]
            steps = {(user, trait): v if trait == TRAIT_KEY else not v for trait, v in body["traits"].items()}
        for key, step in steps.items():
            assert newest[key] <= step, f"{key} is older than the one before: {body}"
            newest[key] = step


def test_a_busy_database(busy: Busy) -> None:
    """Nothing is lost, and nothing is sent twice under another key, whatever was under way."""
    work_and_die(busy)
    assert busy.schematic.together > 0
    busy.next_round(busy.old)
    refuse_while_it_works(busy)
    under_way = busy.under_way()
    assert under_way
    upgrade(busy)
    busy.schematic.is_sick = False
    busy.place.sandbox.faults.set([FaultRule(drop=True, rate=0.2, seed=7), FaultRule(status=500, rate=0.1, seed=8)])
    busy.next_round(lambda *words: assert_done(busy.command(*words)))  # newer values wait behind the batches
    delivered = busy.command("deliver")
    assert delivered.code == 3, delivered.err  # nothing is left but what is dead
    dead = {key for (key,) in busy.place.rows("SELECT profile_key FROM open_deliveries WHERE state = 'dead'")}
    assert dead == set(REFUSED)
    busy.schematic.refusing = False
    for words in (["dead", "retry"], ["deliver"]):
        assert_done(busy.command(*words))

    place = busy.place
    for left in ("open_deliveries", "open_events"):
        assert place.rows(f"SELECT * FROM {left}") == []
    assert place.rows("SELECT * FROM batches WHERE status = 'open'") == []
    assert place.traits() == {
        user: {AUDIENCE_KEY: user in busy.members, TRAIT_KEY: busy.spent[user]} for user in PEOPLE
    }
    assert {of: keys for of, keys in keys_of_values(busy).items() if len(keys) > 1} == {}
    events = keys_of_events(busy)
    assert events.keys() == {(one, copy) for one in busy.forwarded for copy in ("first", "second")}
    assert {of: keys for of, keys in events.items() if len(keys) > 1} == {}
    taken = {event.idempotency_key: event.body for event in place.sandbox.ledger.events()}
    refused = {key for key, event in under_way.items() if Schematic._is_refused(event["type"], event["body"])}
    assert {key: event["body"] for key, event in under_way.items() if key not in refused} == {
        key: taken.get(key) for key in under_way if key not in refused
    }
    assert_in_order(busy)
    ((sent,),) = place.rows("SELECT count(*) FROM (SELECT idempotency_key FROM sent_deliveries GROUP BY 1) s")
    assert sent == len(taken)
    print(
        f"{busy.rounds} rounds, {len(under_way)} events under way, {len(taken)} keys taken, {place.received()} events"
    )


def assert_done(ended: Ended) -> None:
    """Assert that a command succeeded."""
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_batch_of_one_person_that_was_cut(busy: Busy, cuts: int) -> None:
    """Its parts, cut again or not, go on in the order of their events, as the older version would have sent them."""
    busy.configure(batch_size=16, concurrency=1)
    user = PEOPLE[0]
    names = [f"{POISON} 0", *(f"m {n}" for n in range(1, 8))]
    busy.write_events("one.ndjson", [(user, name) for name in names])
    assert busy.old("forward", str(busy.place.folder / "one.ndjson"), "--no-deliver") == 0
    assert busy.old("deliver", kill=f"deliver.posted:{cuts + 1}") == KILLED
    assert len(busy.place.rows("SELECT id FROM attempts")) == cuts + 1
    upgrade(busy)
    assert busy.command("deliver").code == 3  # the refused one is dead

    told = [
        event.body["traits"]["message_id"]  # type: ignore[call-overload, index]
        for event in busy.place.sandbox.ledger.events(EventFilter(statuses=["processed"]))
    ]
    assert told == [name for name in names[1:] for _ in range(2)]
