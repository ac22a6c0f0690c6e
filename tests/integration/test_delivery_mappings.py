"""Several mappings of one change, end to end: each of their events arrives once, and the change is done last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from audience_sync.errors import ConfigError
from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response
from audience_sync.sandbox.ledger import StoredEvent
from audience_sync.store.database import Database
from audience_sync.sync import Job, plan, sync
from tests.sending import Sending, in_between, open_sending, run_deliver
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

pytestmark = pytest.mark.slow_on_postgres

PEOPLE = [f"u{n}" for n in range(1, 121)]

IDENTIFY = """
[[mappings]]
name = "Identify"
action = "identifyUser"
[mappings.fields]
user_keys = { userId = { "@path" = "$.userId" } }
user_traits = { "@path" = "$.traits" }
"""
BY_EMAIL = """
[[mappings]]
name = "By email"
action = "identifyUser"
[mappings.fields]
user_keys = { email = { "@template" = "{{userId}}@x.io" } }
user_traits = { "@path" = "$.traits" }
"""
TRACK = """
[[mappings]]
name = "Track"
trigger = 'type = "identify"'
action = "trackEvent"
[mappings.fields]
event_name = "Audience Changed"
user_keys = { userId = { "@path" = "$.userId" } }
traits = { audience = { "@path" = "$.context.personas.computation_key" } }
"""
ALL = IDENTIFY + BY_EMAIL + TRACK


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield two audiences, gold and silver."""
    with open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened:
        yield opened


def processed(sending: Sending) -> list[StoredEvent]:
    """Return the events that the sandbox took for new."""
    return [event for event in sending.events() if event.status != "duplicate"]


def told(events: list[StoredEvent]) -> Counter[tuple[str, str]]:
    """Return what was sent to whom, counted."""
    return Counter((event.type, orjson.dumps(event.body, option=orjson.OPT_SORT_KEYS).decode()) for event in events)


def settled(sending: Sending) -> bool:
    """Return whether nothing waits and nothing is dead."""
    return sending.rows("SELECT 1 FROM open_deliveries") == [] and sending.attempts() == 0


@pytest.mark.parametrize("batch_size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (100, 2, 1))])
def test_each_mapping_arrives_once(sending: Sending, batch_size: int) -> None:
    """Two changes of one person are an identify by each key, and a track event for each audience, under own keys."""
    sending = sending.with_mappings(ALL).with_settings(delivery={"batch_size": batch_size})
    sending.sync(gold=PEOPLE, silver=PEOPLE[:20])
    report = sending.deliver()

    events = processed(sending)
    assert (report.events, report.open, report.dead, report.failure) == (120 + 120 + 140, 0, 0, None)
    assert set(told(events).values()) == {1}
    assert Counter(event.type for event in events) == {"identify": 240, "track": 140}
    assert len({event.idempotency_key for event in events}) == len(events) == len(sending.events())
    assert settled(sending)
    assert sending.rows("SELECT mapping, count(*) FROM sent_deliveries GROUP BY 1 ORDER BY 1") == [
        ("By email", 120),
        ("Identify", 120),
        ("Track", 140),
    ]
    assert sending.rows("SELECT entered, sent FROM runs ORDER BY id") == [(120, 120), (20, 20)]


@pytest.mark.slow
def test_through_faults(sending: Sending) -> None:
    """Errors, dropped answers and halved batches repeat events under their keys, and lose none."""
    sending = sending.with_mappings(ALL)
    sending.sandbox.faults.set([FaultRule(status=503, rate=0.2, seed=1), FaultRule(drop=True, rate=0.2, seed=2)])
    sending = sending.with_settings(delivery={"batch_size": 7})
    sending.sync(gold=PEOPLE, silver=PEOPLE[:20])
    report = sending.deliver()

    events = processed(sending)
    assert (report.open, report.dead) == (0, 0)
    assert len(events) == 380
    assert set(told(events).values()) == {1}
    assert settled(sending)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["deliver.taken", "deliver.posted", "deliver.settled"])
@pytest.mark.parametrize("batch_size", [2, 10])
def test_killed(sending: Sending, point: str, batch_size: int) -> None:
    """A process that dies between the events of one person leaves the rest to the next, and none is done too early."""
    path = sending.settings.path
    path.write_text(path.read_text().replace("batch_size = 10", f"batch_size = {batch_size}"))
    sending = sending.with_mappings(ALL)
    sending.sync(gold=PEOPLE[:20], silver=PEOPLE[:5])
    killed = run_deliver(sending, kill=point)
    ended = run_deliver(sending)

    assert (killed.returncode, ended.returncode) == (-9, 0), ended.stderr
    assert Counter(event.type for event in processed(sending)) == {"identify": 40, "track": 25}
    assert set(told(processed(sending)).values()) == {1}
    assert settled(sending)


def test_more_events_of_one_person_than_a_batch_holds(sending: Sending) -> None:
    """They go in several batches, one accepted after the other, though one has to wait."""
    sending = sending.with_mappings(ALL).with_settings(delivery={"batch_size": 2, "concurrency": 2})
    sending.sandbox.faults.set([FaultRule(status=503, times=2)])
    sending.sync(gold=["u1"], silver=["u1"])
    sending.deliver()

    assert [(event.type, sorted(event.body)) for event in processed(sending)] == [
        ("identify", ["keys", "traits"]),
        ("identify", ["keys", "traits"]),
        ("track", ["event", "traits", "user"]),
        ("track", ["event", "traits", "user"]),
    ]
    assert settled(sending)


def test_one_mapping_refused_by_schematic(sending: Sending) -> None:
    """What Schematic refuses of one mapping is dead and stays so, while the others arrive; a retry sends all again."""
    sending = sending.with_mappings(ALL)
    sending.sync(gold=["u1", "u2"])

    def refuse(request: Request) -> SandboxResponse | None:
        wrong = b"u1@x.io" in request.body
        return error_response(400, "events[0].body.keys: no such key") if wrong and request.path == "/batch" else None

    with in_between(sending.sandbox, refuse):
        report = sending.deliver()

    assert (report.open, report.dead) == (0, 1)
    assert sending.rows("SELECT profile_key, state FROM open_deliveries") == [("u1", "dead")]
    assert Counter(event.type for event in processed(sending)) == {"identify": 3, "track": 2}

    with sending.workspace.database.write() as connection:
        connection.exec_driver_sql("UPDATE outbox SET dead_reason = NULL, generation = generation + 1")
    sending.deliver()
    assert settled(sending)
    assert [event.body["keys"] for event in processed(sending) if event.type == "identify"][-1] == {"email": "u1@x.io"}


def test_a_refused_audience_is_taken_out_of_its_event(sending: Sending) -> None:
    """Of an identify that two audiences share, the one that Schematic refuses dies alone, in each mapping's way."""
    sending = sending.with_mappings(IDENTIFY + BY_EMAIL)
    sending.sync(gold=["u1"], silver=["u1"])

    def refuse(request: Request) -> SandboxResponse | None:
        wrong = b'"silver"' in request.body and request.path == "/batch"
        return error_response(400, "events[0].body.traits.silver: refused") if wrong else None

    with in_between(sending.sandbox, refuse):
        report = sending.deliver()

    assert (report.open, report.dead) == (0, 1)
    assert sending.rows("SELECT audience, state FROM open_deliveries") == [("silver", "dead")]
    assert [event.body["traits"] for event in processed(sending)] == [{"gold": True}, {"gold": True}]


@pytest.mark.slow
def test_a_part_that_is_refused_late_is_not_lost(sending: Sending) -> None:
    """What dies of one mapping's event when that of the other was accepted already is dead, not done."""
    sending = sending.with_mappings(IDENTIFY + BY_EMAIL)
    sending.sync(gold=["u1"], silver=["u1"])

    def refuse(request: Request) -> SandboxResponse | None:
        wrong = request.path == "/batch" and any(
            "userId" in event["body"]["keys"] and "silver" in event["body"]["traits"]
            for event in orjson.loads(request.body)["events"]
        )
        return error_response(400, "events[0].body.traits.silver: refused") if wrong else None

    with in_between(sending.sandbox, refuse):
        report = sending.deliver()

    assert (report.open, report.dead) == (0, 1)
    assert sending.rows("SELECT audience, state FROM open_deliveries") == [("silver", "dead")]
    assert sending.rows("SELECT sent FROM runs ORDER BY id") == [(1,), (0,)]


@pytest.mark.slow
def test_twenty_refusals_lose_no_event(sending: Sending) -> None:
    """When everything was refused and nothing is given up, every event of everybody goes again, each once."""
    sending = sending.with_mappings(IDENTIFY + BY_EMAIL)
    people = PEOPLE[:15]
    sending.sync(gold=people)

    def refuse(request: Request) -> SandboxResponse | None:
        return error_response(400, "events[0]: refused") if request.path == "/batch" else None

    with in_between(sending.sandbox, refuse):
        assert sending.deliver().failure is not None
    report = sending.deliver()

    assert (report.open, report.dead, report.failure) == (0, 0, None)
    assert len(told(processed(sending))) == len(processed(sending)) == 30
    assert settled(sending)


def test_a_value_of_many_events_is_one_open_delivery(sending: Sending) -> None:
    """The view has a line for each value that waits, however many mappings make events of it."""
    sending = sending.with_mappings(ALL).with_settings(delivery={"batch_size": 1})
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(status=503)])
    sending.deliver_until(sending.tried)

    assert sending.attempts() > 1
    assert sending.rows("SELECT profile_key, state FROM open_deliveries") == [("u1", "retrying")]


@pytest.mark.slow
def test_a_resync_tracks_no_entry_again(sending: Sending) -> None:
    """A mapping that asks for entries is silent when everything is only sent again."""
    narrowed = TRACK.replace('type = "identify"', 'context.change = "entered"')
    sending = sending.with_mappings(IDENTIFY + narrowed)
    sending.sync(gold=["u1", "u2"])
    sending.deliver()
    job = Job(settings=sending.settings, audience=sending.settings.audience("gold"), resync=True)
    sync(sending.workspace, job)
    sending.deliver()

    assert Counter(event.type for event in processed(sending)) == {"identify": 4, "track": 2}
    assert settled(sending)


def test_an_audience_that_no_mapping_carries_is_not_synced(sending: Sending) -> None:
    """`sync` and `plan` refuse it before anything is read."""
    sending = sending.with_mappings(TRACK.replace('type = "identify"', "traits.gold = true"))
    job = Job(settings=sending.settings, audience=sending.settings.audience("gold"))

    with pytest.raises(ConfigError, match="users who exit keep the trait"):
        sending.sync(gold=["u1"])
    with pytest.raises(ConfigError, match="audience 'gold' would not reach Schematic"):
        plan(sending.workspace, job, on_found=lambda _: None)

    assert sending.rows("SELECT * FROM runs") == []


def test_changes_that_no_mapping_takes_any_more(sending: Sending) -> None:
    """What waited when the mappings were edited is dead with its reason, not lost, and can be sent again."""
    sending.sync(gold=PEOPLE, silver=["u1"])
    narrowed = IDENTIFY.replace("action =", "trigger = 'context.personas.computation_key = \"silver\"'\naction =")
    report = sending.with_mappings(narrowed).deliver()

    assert (report.events, report.open, report.dead) == (1, 0, 120)
    assert sending.rows("SELECT DISTINCT audience, state, reason FROM open_deliveries") == [
        ("gold", "dead", "no enabled mapping makes an event from it")
    ]
