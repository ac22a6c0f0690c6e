"""Forwarded events, end to end: each body arrives once and in the order of its profile, whatever goes wrong between."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response
from audience_sync.store import backlog, holders
from audience_sync.store import events as waiting_events
from audience_sync.store.database import Database
from tests.sending import Sending, in_between, open_sending, run_deliver
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

TIMESTAMP = "2026-11-23T12:00:00.000Z"
DAY_MS = 24 * 60 * 60 * 1000

TRACK = """
[[mappings]]
name = "Track"
trigger = 'type = "track"'
action = "trackEvent"
[mappings.fields]
event_name = { "@path" = "$.event" }
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" }, copy = "first" }
"""
AGAIN = TRACK.replace('"Track"', '"Again"').replace('"first"', '"second"')
TWIN = AGAIN.replace('"Again"', '"Twin"')
IDENTIFY = """
[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
user_keys = { userId = { "@path" = "$.userId" } }
user_traits = { "@path" = "$.traits" }
"""
PRICED = TRACK.replace('"Track"', '"Priced"').replace('"$.event"', '"$.properties.name"').replace('"first"', '"priced"')


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield a sandbox and a mapping that tracks messageIds."""
    with open_sending(tmp_path, database, sandbox) as opened:
        yield opened.with_mappings(TRACK)


def track(message_id: str, user: str = "u1", **more: Any) -> dict[str, Any]:
    """Return a track event."""
    return {
        "type": "track",
        "event": "Done",
        "messageId": message_id,
        "userId": user,
        "timestamp": TIMESTAMP,
        **more,
    }


def mixed(count: int, users: int) -> list[dict[str, Any]]:
    """Return events of some users, in an order of no meaning."""
    dice = random.Random(4)
    return [track(f"m{n}", f"u{dice.randrange(users)}") for n in range(count)]


def told(sending: Sending, *, repeated: bool = False) -> dict[str, list[tuple[str, str]]]:
    """Return which messageIds and copies the sandbox took of each user, in its order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for event in sending.sandbox.ledger.events():
        if event.type == "track" and (repeated or event.status != "duplicate"):
            body: Any = event.body
            found.setdefault(body["user"]["userId"], []).append((body["traits"]["message_id"], body["traits"]["copy"]))
    return found


def expected(events: Iterable[dict[str, Any]], *copies: str) -> dict[str, list[tuple[str, str]]]:
    """Return what the sandbox should be told, copies of one event beside each other."""
    found: dict[str, list[tuple[str, str]]] = {}
    for event in events:
        found.setdefault(event["userId"], []).extend((event["messageId"], copy) for copy in copies or ("first",))
    return found


def unsettled(sending: Sending) -> list[tuple[Any, ...]]:
    """Return what waits or is dead."""
    return sending.rows("SELECT message_id, state, reason FROM open_events ORDER BY position") + sending.rows(
        "SELECT size FROM batches WHERE status = 'open'"
    )


def refusing(message_ids: Iterable[str], status: int) -> Any:
    """Return what answers so to every batch that has one of these events."""
    marks = [f'"message_id":"{message_id}"'.encode() for message_id in message_ids]

    def look(request: Request) -> SandboxResponse | None:
        if request.path == "/batch" and any(mark in request.body for mark in marks):
            return error_response(status, "not this one")
        return None

    return look


@pytest.mark.parametrize("batch_size", [7, *(pytest.param(size, marks=pytest.mark.slow) for size in (100, 1))])
def test_each_event_arrives_once_in_the_order_of_its_user(sending: Sending, batch_size: int) -> None:
    """A few users with many events each, through errors and dropped answers: nothing twice, nothing overtaken."""
    sending = sending.with_settings(delivery={"batch_size": batch_size})
    events = mixed(150, 7)
    sending.sandbox.faults.set([FaultRule(rate=0.1, status=500), FaultRule(rate=0.1, drop=True, seed=1)])
    assert sending.forward(events) == 150
    report = sending.deliver()

    assert told(sending) == expected(events)
    assert (report.events, report.open, report.dead) == (150, 0, 0)
    assert unsettled(sending) == []
    assert sending.rows("SELECT count(*), count(DISTINCT message_id) FROM sent_deliveries") == [(150, 150)]


def test_repetitions_come_before_anything_newer(sending: Sending) -> None:
    """What was perhaps taken goes again before the next event of its user: the repetitions are in order, too."""
    events = mixed(300, 3)
    sending.sandbox.faults.set([FaultRule(rate=0.4, drop=True)])
    sending.forward(events)
    sending.deliver()

    for user, heard in told(sending, repeated=True).items():
        order = [message for message, _ in expected(events)[user]]
        newest = -1
        for message, _ in heard:
            assert order.index(message) <= newest + 100, f"{message} of {user} came too early"
            newest = max(newest, order.index(message))
    assert told(sending) == expected(events)


def test_a_messageid_is_taken_once_in_seven_days(sending: Sending) -> None:
    """The same event again is not taken, within one request or days later; after a week it is another."""
    start = 20_000 * DAY_MS
    first = sending.forward([track("m1"), track("m2"), track("m1", "u2")], now_ms=start + DAY_MS - 1)
    later = [sending.forward([track("m1"), track(f"n{day}")], now_ms=start + day * DAY_MS) for day in range(1, 8)]
    after = sending.forward([track("m1"), track("m2")], now_ms=start + 8 * DAY_MS)

    assert (first, later, after) == (2, [1] * 7, 2)
    assert sending.rows("SELECT profile_key FROM open_events WHERE message_id = 'm1'") == [("u1",), ("u1",)]


def test_order_is_by_the_first_id_there_is(sending: Sending) -> None:
    """The shard of an event is that of its userId, else its anonymousId, else its groupId, else its own."""
    sending.forward(
        [
            {"type": "track", "userId": "u", "anonymousId": "a", "groupId": "g", "messageId": "1"},
            {"type": "track", "anonymousId": "a", "groupId": "g", "messageId": "2"},
            {"type": "group", "groupId": "g", "messageId": "3"},
            {"type": "page", "messageId": "4"},
            {"type": "page", "userId": 7, "messageId": "5"},
            {"type": "page", "userId": "x" * 300, "messageId": "6"},
            {"type": "page", "userId": "nul\0", "name": "a\0b", "messageId": "7\0"},
        ]
    )

    keys = [key for (key,) in sending.rows("SELECT profile_key FROM open_events ORDER BY position")]
    assert keys[:5] == ["u", "a", "g", "4", "7"]
    assert [key[:5] for key in keys[5:]] == ["hash-", "hash-"]


def test_an_event_that_waits_holds_back_those_behind_it(sending: Sending) -> None:
    """While one event fails for now, later ones of its user wait; others go on."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("stuck"), track("behind"), track("other", "u2")])
    with in_between(sending.sandbox, refusing(["stuck"], 500)):
        sending.deliver_until(lambda: "u2" in told(sending) and sending.tried())

        assert told(sending) == {"u2": [("other", "first")]}
        states = dict(sending.rows("SELECT message_id, state FROM open_events"))
        assert states == {"stuck": "retrying", "behind": "waiting"}
    sending.deliver()
    assert told(sending)["u1"] == [("stuck", "first"), ("behind", "first")]


@pytest.mark.parametrize("batch_size", [100, 2, 1])
def test_a_dead_event_holds_nothing_back(sending: Sending, batch_size: int) -> None:
    """The refused event is found in its batch and told with its reason; the others of its user arrive in order."""
    sending = sending.with_settings(delivery={"batch_size": batch_size})
    events = [track(f"m{n}") for n in range(9)]
    sending.forward([*events[:4], track("bad"), *events[4:], track("also", "u2")])
    with in_between(sending.sandbox, refusing(["bad"], 400)):
        report = sending.deliver()

    assert told(sending) == expected([*events, track("also", "u2")])
    assert (report.open, report.dead) == (0, 1)
    ((message_id, state, reason),) = unsettled(sending)
    assert (message_id, state) == ("bad", "dead")
    assert "HTTP 400: not this one" in reason


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [100, 2, 1])
def test_every_mapping_gets_its_own(sending: Sending, batch_size: int) -> None:
    """One event that three mappings want is three bodies, two of them alike; all arrive once, also in small batches."""
    sending = sending.with_mappings(TRACK + AGAIN + TWIN).with_settings(delivery={"batch_size": batch_size})
    events = mixed(30, 2)
    sending.sandbox.faults.set([FaultRule(rate=0.2, drop=True)])
    sending.forward(events)
    sending.deliver()

    assert {user: sorted(heard) for user, heard in told(sending).items()} == {
        user: sorted(heard) for user, heard in expected(events, "first", "second", "second").items()
    }
    for user, heard in told(sending).items():
        arrived = [message for message, _ in heard]
        assert arrived == [message for message, _ in expected(events, "1", "2", "3")[user]]
    assert unsettled(sending) == []


@pytest.mark.parametrize("batch_size", [100, 1])
def test_what_a_mapping_cannot_make_is_dead_and_the_rest_arrives(sending: Sending, batch_size: int) -> None:
    """A mistake of one mapping keeps the event; sent again, Schematic gets only what it had not."""
    sending = sending.with_mappings(TRACK + PRICED).with_settings(delivery={"batch_size": batch_size})
    sending.forward([track("m1"), track("m2", properties={"name": "Paid"})])
    report = sending.deliver()

    assert told(sending) == {"u1": [("m1", "first"), ("m2", "first"), ("m2", "priced")]}
    assert (report.open, report.dead) == (0, 1)
    ((message_id, state, reason),) = unsettled(sending)
    assert (message_id, state) == ("m1", "dead")
    assert reason.startswith("mapping 'Priced': ")
    sending = sending.with_mappings(TRACK + PRICED.replace("properties.name", "event"))
    revive(sending)
    sending.deliver()
    assert told(sending)["u1"][3:] == [("m1", "priced")]
    assert unsettled(sending) == []


def test_a_body_beside_a_mistake_survives_the_cutting_of_its_batch(sending: Sending) -> None:
    """A batch with a refused event is halved; a body in it of an event that is dead already is sent all the same."""
    sending = sending.with_mappings(TRACK + PRICED)
    paid = {"name": "Paid"}
    sending.forward(
        [track("bad", properties=paid), *(track(f"m{n}", properties=paid) for n in range(4)), track("half")]
    )
    with in_between(sending.sandbox, refusing(["bad"], 400)):
        sending.deliver()

    assert told(sending)["u1"][-1] == ("half", "first")
    assert [(message_id, state) for message_id, state, _ in unsettled(sending)] == [("bad", "dead"), ("half", "dead")]


def test_what_was_perhaps_taken_goes_again_word_for_word(sending: Sending) -> None:
    """Answers are lost, the batch is halved, the mapping is edited: nothing arrives a second time under another key."""
    sending = sending.with_settings(delivery={"batch_size": 4, "concurrency": 1})
    events = [track(f"m{n}") for n in range(4)]
    sending.forward(events)
    take = sending.sandbox._server.answerer
    posts: list[int] = []

    def lose(request: Request) -> SandboxResponse | None:
        if request.path != "/batch" or b'"userId":"u1"' not in request.body:
            return None
        take(request)
        posts.append(len(posts))
        if len(posts) in (3, 4):  # others pass meanwhile, so the batch is halved
            sending.forward([track(f"o{len(posts)} {n}", f"v{n}") for n in range(20)])
        return error_response(500, "lost")

    with in_between(sending.sandbox, lose):
        sending.deliver_until(lambda: bool(sending.rows("SELECT 1 FROM batches WHERE status = 'open' AND size = 2")))
    sending = sending.with_mappings(TRACK.replace('copy = "first"', 'copy = "edited"'))
    sending.deliver()

    assert told(sending)["u1"] == expected(events)["u1"]


def test_a_sync_does_not_wait_for_events_that_fail(sending: Sending) -> None:
    """What sends changes alone ends when they are sent, though forwarded events are tried in vain."""
    sending = sending.with_mappings(TRACK + IDENTIFY)
    sending.forward([track("stuck", "x")])
    with in_between(sending.sandbox, refusing(["stuck"], 500)):
        sending.deliver_until(sending.tried)
        sending.sync(gold=["u1"])
        report = sending.deliver(forwarded=False, wait=3600.0)

        assert (report.events, report.open) == (1, 0)


@pytest.mark.slow
def test_one_senders_mistakes_do_not_stop_everybody(sending: Sending) -> None:
    """Refused events of one user are dead, however many; of twenty users, it is not the events."""
    sending.forward([*(track(f"bad{n}", "x") for n in range(25)), track("good", "x")])

    def refuse(request: Request) -> SandboxResponse | None:
        return error_response(400, "no") if request.path == "/batch" and b'"message_id":"bad' in request.body else None

    with in_between(sending.sandbox, refuse):
        report = sending.deliver()
        sending.forward([track(f"bad of {n}", f"v{n}") for n in range(20)])
        stopped = sending.deliver()

    assert (report.failure, report.open, report.dead) == (None, 0, 25)
    assert told(sending) == {"x": [("good", "first")]}
    assert "rejected 20 events in a row" in str(stopped.failure)
    assert (stopped.open, stopped.dead) == (20, 25)


def test_one_refused_body_of_several(sending: Sending) -> None:
    """Of an event with two bodies one is refused: it is dead, and a retry sends that body alone."""
    sending = sending.with_mappings(TRACK + AGAIN).with_settings(delivery={"batch_size": 1})
    sending.forward([track("m1"), track("m2")])

    def second_only(request: Request) -> SandboxResponse | None:
        wanted = b'"message_id":"m1"' in request.body and b'"copy":"second"' in request.body
        return error_response(400, "no second") if wanted else None

    with in_between(sending.sandbox, second_only):
        sending.deliver()
    assert told(sending) == {"u1": [("m1", "first"), ("m2", "first"), ("m2", "second")]}
    revive(sending)
    sending.deliver()

    assert told(sending, repeated=True) == {
        "u1": [("m1", "first"), ("m2", "first"), ("m2", "second"), ("m1", "second")]
    }
    assert unsettled(sending) == []


def test_what_nobody_asks_for_is_counted(sending: Sending) -> None:
    """No mapping, an integrations object that says no, an identify of nobody: counted by reason, and gone."""
    sending = sending.with_mappings(TRACK + IDENTIFY)
    page = {"type": "page", "userId": "u1", "timestamp": TIMESTAMP}
    sending.forward(
        [
            {**page, "messageId": "p1"},
            {**page, "messageId": "p2"},
            track("off", integrations={"All": False}),
            {"type": "identify", "anonymousId": "a1", "messageId": "nobody", "timestamp": TIMESTAMP},
            track("on", integrations={"All": False, "Schematic": True}),
        ]
    )
    report = sending.deliver()

    assert (report.events, report.open, report.dead) == (1, 0, 0)
    assert sending.rows("SELECT reason, type, count, last_message_id FROM unsent_events ORDER BY reason") == [
        ("Identify: empty_user_keys", "identify", 1, "nobody"),
        ("filtered_by_integrations_object", "track", 1, "off"),
        ("no_matching_mapping", "page", 2, "p2"),
    ]
    assert sending.forward([{**page, "messageId": "p1"}]) == 0


def test_a_thousand_that_nobody_wants_of_one_user(sending: Sending) -> None:
    """A long row of unmapped events ends, and what is behind it arrives."""
    sending.forward([{"type": "page", "userId": "u1", "messageId": f"p{n}"} for n in range(2500)] + [track("last")])
    sending.deliver()

    assert told(sending) == {"u1": [("last", "first")]}
    assert sending.rows("SELECT count FROM unsent_events") == [(2500,)]


def test_long_events_are_read_a_few_at_a_time(sending: Sending) -> None:
    """However long events are, no more than some megabytes of them are held at once, and all arrive."""
    events = [track(f"m{n}", f"u{n % 7}", properties={"text": "x" * 30_000}) for n in range(400)]
    sending.forward(events)
    with sending.workspace.database.read() as connection:
        found, more = waiting_events.page(connection, after="", limit=1000)
    sending.deliver()

    assert more
    assert sum(len(event.payload) for event in found) < waiting_events.LONGEST_PAGE + 32 * 1024
    assert told(sending) == expected(events)


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_delivery_waits_as_long_as_another_one_gets_on(sending: Sending) -> None:
    """Next to a daemon that has all batches, patience counts from the last event that it sent, not from the start."""
    sending.forward(mixed(100, 1))  # of one person: one batch at a time
    sending.sandbox.faults.set([FaultRule(delay=0.2)])
    others = sending.with_settings(delivery={"batch_size": 5, "concurrency": 1})
    with (
        closing(holders.enter(sending.workspace.database)) as holder,
        others.delivering() as theirs,
    ):
        wait_until(lambda: others.attempts() > 0)
        beside = Sending(**{**vars(sending), "workspace": replace(sending.workspace, holder=holder)})
        report = beside.deliver(wait=2)

        assert report.open == 0
        assert theirs.result().events + report.events == 100
    assert told(sending) == expected(mixed(100, 1))


@pytest.mark.slow
def test_changes_and_events_go_side_by_side(sending: Sending) -> None:
    """A sync sends changes alone; a delivery sends both, in turns."""
    people = [f"u{n}" for n in range(50)]
    sending = sending.with_mappings(TRACK + IDENTIFY)
    events = mixed(200, 50)
    sending.forward(events)
    sending.sync(gold=people)
    changes_only = sending.deliver(forwarded=False)
    before = told(sending)
    sending.sync(gold=people[:25])
    everything = sending.deliver()

    assert (changes_only.events, changes_only.open, before) == (50, 0, {})
    assert (everything.events, everything.open) == (225, 0)
    assert told(sending) == expected(events)
    assert sending.traits() == {user: {"gold": user in people[:25]} for user in people}


@pytest.mark.slow
@pytest.mark.parametrize("point", ["deliver.taken", "deliver.posted", "deliver.settled"])
def test_killed_and_gone_on_with(sending: Sending, point: str) -> None:
    """A delivery that dies anywhere is gone on with: each body once, in order."""
    sending = sending.with_mappings(TRACK + AGAIN)
    events = mixed(300, 5)
    sending.forward(events)
    killed = [run_deliver(sending, kill=f"{point}:{times}").returncode for times in (1, 2, 3)]
    last = run_deliver(sending)

    assert killed == [-9, -9, -9]
    assert last.returncode == 0, last.stderr
    assert told(sending) == expected(events, "first", "second")
    assert unsettled(sending) == []


def test_a_flood_of_one_user_holds_up_nobody(sending: Sending) -> None:
    """While thousands of events of a user wait behind one that fails, the events of others arrive."""
    sending.forward([track(f"m{n}") for n in range(3000)] + [track(f"x{n}", f"v{n}") for n in range(50)])
    with in_between(sending.sandbox, refusing(["m0"], 500)):
        sending.deliver_until(lambda: len(told(sending)) >= 50)

        assert set(told(sending)) == {f"v{n}" for n in range(50)}


def test_dead_events_are_not_deliverable(sending: Sending) -> None:
    """A delivery that finds nothing but dead events ends at once."""
    sending.forward([track("m1")])
    sending.write("UPDATE events SET dead_reason = 'refused'")
    with sending.workspace.database.read() as connection:
        assert backlog.count(connection) == (0, 0, 1)
        assert not backlog.any_deliverable(connection)


def revive(sending: Sending) -> None:
    """Open dead events again, as `dead retry` does."""
    sending.write("UPDATE events SET dead_reason = NULL WHERE dead_reason IS NOT NULL")
