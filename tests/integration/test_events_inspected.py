"""Forwarded events in the commands that look and operate, on both databases: what waits, is dead, or sent nothing."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from audience_sync.cli import main
from audience_sync.config import RetentionTable
from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response
from audience_sync.store import dead_letters, erasure, event_reports, schema
from audience_sync.store.database import Database
from audience_sync.store.dead_letters import Which
from tests.sending import Sending, in_between, open_sending
from tests.support.faulty_sandbox import FaultySandbox
from tests.tuned import tune_commands, tuned_database

pytestmark = pytest.mark.slow_on_postgres

TIMESTAMP = "2026-11-23T12:00:00.000Z"
DAY_MS = 24 * 60 * 60 * 1000

MAPPINGS = """
[[mappings]]
name = "Track"
trigger = 'type = "track"'
action = "trackEvent"
[mappings.fields]
event_name = { "@path" = "$.event" }
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" }, note = { "@path" = "$.properties.note" } }

[[mappings]]
name = "Again"
trigger = 'type = "track" and event = "Twice"'
action = "trackEvent"
[mappings.fields]
event_name = "again"
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" } }

[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
user_keys = { userId = { "@path" = "$.userId" } }
user_traits = { "@path" = "$.traits" }
"""


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield a sandbox, an audience `gold` and mappings for track and identify events."""
    with open_sending(tmp_path, database, sandbox) as opened:
        yield opened.with_mappings(MAPPINGS)


@pytest.fixture
def command(
    sending: Sending, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs a command line on the configuration of `sending`."""

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["audience-sync", "--config", str(sending.settings.path), *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Result(int(left.value.code or 0), said.out, said.err)

    return run


def track(message_id: str, user: str = "u1", **more: Any) -> dict[str, Any]:
    """Return a track event."""
    event = {"type": "track", "event": "Done", "messageId": message_id, "userId": user, "timestamp": TIMESTAMP}
    return {**event, **more}


def page(message_id: str, user: str = "u1") -> dict[str, Any]:
    """Return an event that no mapping wants."""
    return {"type": "page", "name": "Home", "messageId": message_id, "userId": user}


def failing(status: int, *marks: str) -> Callable[[Request], SandboxResponse | None]:
    """Return what answers so to every batch in which all of these words occur."""

    def look(request: Request) -> SandboxResponse | None:
        has_all = all(mark.encode() in request.body for mark in marks)
        return error_response(status, "not this one") if request.path == "/batch" and has_all else None

    return look


def fail(sending: Sending, *marks: str) -> None:
    """Deliver until something was tried in vain; it is not tried again before the delivery stops."""
    patient = sending.with_settings(delivery={"max_backoff": timedelta(minutes=1)})
    with in_between(sending.sandbox, failing(500, *marks)):
        patient.deliver_until(sending.tried)


def refuse(sending: Sending, *marks: str) -> None:
    """Deliver everything but what has these words, which is dead then."""
    with in_between(sending.sandbox, failing(400, *marks)):
        sending.deliver()


def heard(sending: Sending) -> list[tuple[str, str]]:
    """Return the messageIds that the sandbox took with the name of each event, duplicates included."""
    bodies: list[Any] = [event.body for event in sending.sandbox.ledger.events() if event.type == "track"]
    return [(body["traits"]["message_id"], body["event"]) for body in bodies]


def test_events_are_listed_as_the_view_has_them(sending: Sending, command: Callable[..., Result]) -> None:
    """Waiting, retrying and dead events have the columns and values of `open_events`; states and profiles narrow."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("bad"), track("stuck"), track("behind"), track("other", "u2"), page("p", "u3")])
    refuse(sending, '"bad"')
    sending.forward([track("stuck2"), track("behind2"), track("x", "u2", properties={"a": [1]})])
    fail(sending, '"stuck2"')
    sending.forward([track("new", "u9")])

    found = command("events", "--format", "json").records
    view = [dict(zip(event_reports.EVENT_COLUMNS, row, strict=True)) for row in _view(sending)]
    states = {record["message_id"]: record["state"] for record in found}

    assert sorted(view, key=_position) == sorted(
        ({**one, "payload": json.dumps(one["payload"], separators=(",", ":"))} for one in found), key=_position
    )
    assert states.items() >= {"bad": "dead", "stuck2": "retrying", "behind2": "waiting", "new": "waiting"}.items()
    for state in event_reports.EventState:
        records = command("events", "--state", state, "--format", "json").records
        assert [one for one in found if one["state"] == state] == records
    assert {"u9"} == {one["profile_key"] for one in command("events", "--profile", "u9", "--format", "json").records}
    listed = list(csv.DictReader(io.StringIO(command("events", "--state", "dead", "--format", "csv").out)))
    assert [json.loads(one["payload"])["messageId"] for one in listed] == ["bad"]
    table = command("events")
    assert "payload" not in table.out
    assert "HTTP 500: not this one" in table.out


def test_lists_are_read_page_by_page(
    sending: Sending, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages join without gaps or repetition, in the order of each profile, and a cut list says what it leaves out."""
    tune_commands(monkeypatch, rows_per_page=7)
    sending.forward([track(f"m{n:03}", f"u{n % 5}") for n in range(100)])
    sending.write("UPDATE events SET dead_reason = 'refused' WHERE profile_key = 'u3'")

    whole = command("events", "--limit", "0", "--format", "json").records
    cut = command("events", "--limit", "3", "--state", "waiting", "--format", "json")

    assert [f"m{n:03}" for n in range(100)] == sorted(one["message_id"] for one in whole)
    for user in {one["profile_key"] for one in whole}:
        order = [one["position"] for one in whole if one["profile_key"] == user]
        assert order == sorted(order)
    assert len(cut.records) == 3
    assert "77 more" in cut.err
    assert len(command("events", "--state", "dead", "--limit", "0", "--format", "json").records) == 20
    assert len(command("dead", "list", "--limit", "0", "--format", "json").records) == 20


def test_reasons_are_summed_and_told_by_day(sending: Sending, command: Callable[..., Result]) -> None:
    """Why events sent nothing: all days together as a table, most first; each day as json; since a day if asked for."""
    sending.forward([page("p1"), page("p2"), track("off", integrations={"All": False})])
    sending.deliver()
    today = datetime.now(UTC).date()
    sending.write("UPDATE event_counts SET day = day - 3, last_at = last_at - 259200000")
    sending.forward([page("p3"), {"type": "identify", "anonymousId": "a", "messageId": "nobody"}])
    sending.deliver()

    table = command("events", "--reasons").out.splitlines()
    by_day = command("events", "--reasons", "--format", "json").records
    recent = command("events", "--reasons", "--since", str(today), "--format", "json").records

    assert [line.split()[:4] for line in table[1:]] == [
        ["no_matching_mapping", "page", "3", "p3"],
        ["Identify:", "empty_user_keys", "identify", "1"],
        ["filtered_by_integrations_object", "track", "1", "off"],
    ]
    assert [(one["reason"], one["count"], one["last_message_id"]) for one in by_day] == [
        ("Identify: empty_user_keys", 1, "nobody"),
        ("no_matching_mapping", 1, "p3"),
        ("no_matching_mapping", 2, "p2"),
        ("filtered_by_integrations_object", 1, "off"),
    ]
    assert sorted(map(str, by_day)) == sorted(str(dict(row)) for row in _mappings(sending, "unsent_events"))
    assert recent == by_day[:2]
    assert command("events", "--reasons", "--since", "today", "--format", "json").records == recent
    assert command("events", "--reasons", "--until", "today", "--format", "json").records == by_day[2:]
    assert command("events", "--reasons", "--until", "2 days ago", "--format", "json").records == by_day[2:]
    assert command("events", "--reasons", "--since", "2 days ago", "--until", "today").out == ""
    assert len(command("events", "--reasons", "--since", str(today)).out.splitlines()) == 3


@pytest.mark.parametrize("words", ["events", "events --reasons", "events --state retrying", "dead list --events"])
def test_nothing_is_one_sentence(command: Callable[..., Result], words: str) -> None:
    """An empty database has nothing to show, and says so."""
    assert command(*words.split()) == (0, "", "nothing to show\n")


@pytest.mark.parametrize(
    "words",
    [
        "events --reasons --profile u1",
        "events --reasons --state dead",
        "events --since 2026-01-01",
        "events --until today",
        "dead list gold --events",
    ],
)
def test_options_that_contradict_each_other_are_refused(
    sending: Sending, command: Callable[..., Result], words: str
) -> None:
    """What could only give a wrong answer is a usage error."""
    sending.sync(gold=["u1"])

    result = command(*words.split())

    assert (result.code, result.out) == (2, "")


def test_status_counts_events_beside_changes(sending: Sending, command: Callable[..., Result]) -> None:
    """How many events wait and since when, are dead, and sent nothing by which reason; nothing before the first."""
    sending.sync(gold=["u1"])
    before = command("status")
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("bad"), page("p1"), page("p2"), track("off", integrations={"All": False})])
    refuse(sending, '"bad"')
    sending.forward([track("stuck"), track("behind")], now_ms=20_000 * DAY_MS)
    fail(sending, '"stuck"')
    sending.write("UPDATE batches SET tries = 20 WHERE status = 'open'")

    (whole,) = command("status", "--format", "json").records
    table = command("status")

    assert "events:" not in before.out
    assert whole["events"] == {
        "open": 2,
        "dead": 1,
        "oldest": "2024-10-04T00:00:00.000Z",
        "unsent": 3,
        "reasons": {"no_matching_mapping": 2, "filtered_by_integrations_object": 1},
        "stuck": 1,
    }
    assert list(whole["events"]["reasons"]) == ["no_matching_mapping", "filtered_by_integrations_object"]
    assert (whole["deliveries"]["open"], whole["deliveries"]["dead"], whole["deliveries"]["stuck"]) == (0, 0, 0)
    assert [(one["of"], one["events"]) for one in whole["attempts"]] == [("events", 1)]
    assert (
        "events: 2 waiting (oldest since 2024-10-04 00:00:00Z), 1 dead, 1 stuck, 3 sent nothing"
        " (`audience-sync events --reasons` shows why)"
    ) in table.out
    assert "audience-sync dead retry" in table.err


def test_a_profile_shows_its_events(sending: Sending, command: Callable[..., Result]) -> None:
    """A user known from events alone is known; what waits and what was sent of them is there."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("sent"), track("bad")])
    refuse(sending, '"bad"')
    sending.forward([track("new"), track("foreign", "u2")])

    (whole,) = command("profile", "u1", "--format", "json").records
    table = command("profile", "u1")

    assert [(one["message_id"], one["state"], one["payload"]["userId"]) for one in whole["events"]] == [
        ("bad", "dead", "u1"),
        ("new", "waiting", "u1"),
    ]
    assert [one["message_id"] for one in whole["deliveries"]] == ["sent"]
    assert "not this one" in table.out
    assert command("profile", "u2").code == 0
    assert command("profile", "u3").code == 2


def test_dead_events_are_listed_beside_dead_changes(sending: Sending, command: Callable[..., Result]) -> None:
    """One list for both; an audience means its changes only, --events only events, --profile is for both."""
    _kill_both(sending)

    both = command("dead", "list", "--format", "json").records
    narrowed = {
        words: [one["message_id"] for one in command("dead", "list", *words.split(), "--format", "json").records]
        for words in ("gold", "--events", "--profile u2", "--profile u2 --events")
    }

    change, event = both[0], both[2]
    assert [*change] == list(dead_letters.COLUMNS)
    assert (change["audience"], change["value"], change["message_id"], change["type"]) == ("gold", True, None, None)
    assert (event["audience"], event["value"], event["run_id"], event["state"]) == (None, None, None, "dead")
    assert (event["type"], event["name"], event["reason"]) == ("track", "Done", "mine")
    assert sorted(one["message_id"] or "" for one in both) == ["", "", "m1", "m2"]
    assert {words: sorted(map(str, found)) for words, found in narrowed.items()} == {
        "gold": ["None", "None"],
        "--events": ["m1", "m2"],
        "--profile u2": ["None", "m2"],
        "--profile u2 --events": ["m2"],
    }


def test_dead_events_are_discarded_with_a_yes(sending: Sending, command: Callable[..., Result]) -> None:
    """Both kinds are counted together; what is not meant stays."""
    _kill_both(sending)
    sending.forward([track("waits")])

    asked = command("dead", "discard")
    of_audience = command("dead", "discard", "gold", "--profile", "u1", "--yes")
    events = command("dead", "discard", "--events", "--profile", "u1", "--yes")
    rest = command("dead", "discard", "--yes")

    assert (asked.code, "--yes" in asked.err) == (2, True)
    assert [one.out for one in (of_audience, events, rest)] == [
        "dead letters discarded: 1\n",
        "dead letters discarded: 1\n",
        "dead letters discarded: 2\n",
    ]
    assert ("--resync" in of_audience.err, "--resync" in events.err) == (True, False)
    assert sending.rows("SELECT message_id FROM events") == [("waits",)]
    assert sending.rows("SELECT 1 FROM open_deliveries") == []


def test_a_retry_sends_what_is_missing_in_the_old_order(sending: Sending, command: Callable[..., Result]) -> None:
    """Retried events go behind those that wait, in their order; a body that Schematic has is not sent again."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("m1", event="Twice"), track("m2"), track("m3", event="Twice")])
    refuse(sending, '"userId":"u1"', '"event":"again"')
    first = heard(sending)
    sending.forward([track("m4")])

    retried = command("dead", "retry", "--profile", "u1")
    sending.forward([track("m5")])
    positions = [position for (position,) in sending.rows("SELECT position FROM events ORDER BY position")]
    sending.deliver()

    assert first == [("m1", "twice"), ("m2", "done"), ("m3", "twice")]
    assert retried.out == "dead letters reopened: 2\n"
    assert positions == [3, 4, 6, 7]
    assert [message for message, _ in heard(sending)[3:]] == ["m4", "m1", "m3", "m5"]
    assert {name for _, name in heard(sending)[4:6]} == {"again"}
    assert sending.rows("SELECT 1 FROM open_events") == []


def test_a_retry_does_not_disturb_what_is_under_way(sending: Sending, command: Callable[..., Result]) -> None:
    """A body of the event that is accepted only after the retry is not lost and not sent twice."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("m1", event="Twice"), track("m2")])
    refused, waits = failing(400, '"event":"twice"'), failing(500, '"event":"again"')
    with in_between(sending.sandbox, lambda request: waits(request) or refused(request)):
        sending.deliver_until(lambda: bool(sending.rows("SELECT 1 FROM events WHERE dead_reason IS NOT NULL")))

    assert sending.attempts() == 1
    assert command("dead", "retry").out == "dead letters reopened: 1\n"
    sending.deliver()

    assert sorted(heard(sending)) == [("m1", "again"), ("m1", "twice"), ("m2", "done")]
    assert sending.rows("SELECT 1 FROM open_events") == []
    assert sending.attempts() == 0


def test_forget_erases_a_user_known_from_events(sending: Sending, command: Callable[..., Result]) -> None:
    """What waits, is under way, is dead or was sent of a user goes; others keep theirs, in the same batch too."""
    sending = sending.with_settings(delivery={"concurrency": 1})
    sending.forward([track("sent", "target"), track("sent2", "other")])
    sending.deliver()
    sending.forward([track("dead", "target")])
    sending.write("UPDATE events SET dead_reason = 'mine' WHERE message_id = 'dead'")
    sending.forward([track("stuck", "target"), track("stuck2", "other")])
    fail(sending, '"stuck"')

    done = command("forget", "target", "--yes")

    assert done.code == 0
    assert "events 1, batches 2" in done.out
    assert [place for place, values in _texts(sending) if any("target" in value for value in values)] == []
    assert sending.rows("SELECT sum(size) FROM batches WHERE status = 'open' AND forwarded") == [(1,)]
    assert command("profile", "target").code == 2
    sending.deliver()
    assert [message for message, _ in heard(sending) if message.startswith("stuck")] == ["stuck2"]


@pytest.mark.parametrize("user", ["x" * 300, "tab\tbed", "  padded "], ids=["long", "unprintable", "padded"])
def test_forget_finds_ids_that_are_stored_in_another_form(
    sending: Sending, command: Callable[..., Result], user: str
) -> None:
    """An id that cannot be a key is stored as its hash; it is still erased, and listed, by the id itself."""
    sending.forward([track("theirs", user), track("others", "other")])
    assert '"theirs"' in command("events", "--profile", user, "--format", "json").out
    assert '"theirs"' in command("profile", user, "--format", "json").out

    done = command("forget", user, "--yes")

    assert done.code == 0
    assert sending.rows("SELECT message_id FROM events") == [("others",)]


def test_purge_forgets_message_ids_after_seven_whole_days(sending: Sending) -> None:
    """In many short transactions; a messageId of the last seven days and today is still known, an older one is not."""
    database = tuned_database(sending.workspace.database, purged_rows_per_commit=3)
    start = 20_000 * DAY_MS
    for day in range(10):
        sending.forward([track(f"m{day}-{n}") for n in range(10)], now_ms=start + day * DAY_MS)
    now = start + 9 * DAY_MS + 5

    purged = erasure.purge(database, RetentionTable(), now_ms=now)
    known = sending.forward([track(f"m{day}-0") for day in range(10)], now_ms=now)

    assert purged["message_ids"] == 20
    assert sending.rows("SELECT min(day), count(*) FROM message_ids") == [(20_002, 82)]
    assert known == 2


@pytest.mark.slow
def test_purge_keeps_dead_events_and_what_their_retry_needs(sending: Sending) -> None:
    """Counts go with the deliveries; a dead event stays, and which of its bodies were accepted is still known."""
    sending = sending.with_settings(delivery={"batch_size": 1})
    sending.forward([track("m1", event="Twice"), track("m2"), page("p")])
    refuse(sending, '"event":"again"')
    later = sending.workspace.clock.now_ms() + 500 * DAY_MS

    purged = erasure.purge(sending.workspace.database, RetentionTable(), now_ms=later)
    with sending.workspace.database.write() as connection:
        assert dead_letters.retry(connection, Which(), now_ms=later) == {"outbox": 0, "events": 1}
    sending.deliver()

    assert (purged["batches"], purged["event_counts"]) == (2, 1)
    assert sorted(heard(sending)) == [("m1", "again"), ("m1", "twice"), ("m2", "done")]
    assert sending.rows("SELECT 1 FROM events") == []
    assert erasure.purge(sending.workspace.database, RetentionTable(), now_ms=later)["batches"] == 1


def test_the_views_bear_a_nul_in_an_event(sending: Sending, command: Callable[..., Result]) -> None:
    """A forwarded event may have a NUL in its texts: changes and events that wait beside it are still shown."""
    sending.sync(gold=["u1", "u2"])
    sending.forward([track("nul", properties={"note": "a\0b"}), track("plain", "u2")])
    fail(sending, '"nul"')
    sending.sync(gold=["u1", "u2", "u3"])

    changes = sending.rows("SELECT profile_key, state FROM open_deliveries")
    events = dict(sending.rows("SELECT message_id, state FROM open_events"))
    ((listed),) = [one for one in command("events", "--format", "json").records if one["message_id"] == "nul"]

    assert ("u3", "waiting") in changes
    assert events["nul"] == listed["state"] == "retrying"
    assert listed["payload"]["properties"]["note"] == "a\0b"
    sending.deliver()
    assert sending.rows("SELECT 1 FROM open_events") == []


def test_a_payload_stays_on_its_line(sending: Sending, command: Callable[..., Result]) -> None:
    """An event that came on several lines, with characters that a terminal would obey, is one harmless line of JSON."""
    sending.forward([track("m1", properties={"note": "a\x9bb"})])
    sending.write("UPDATE events SET payload = replace(payload, ',', :comma)", comma=",\r\n  ")

    result = command("events", "--format", "json")

    assert len(result.out.splitlines()) == 1
    assert "\x9b" not in result.out
    assert result.records[0]["payload"]["properties"]["note"] == "a\x9bb"


def _kill_both(sending: Sending) -> None:
    """Have two dead changes and two dead events of two users."""
    sending.sync(gold=["u1", "u2"])
    sending.forward([track("m1"), track("m2", "u2")])
    sending.write("UPDATE outbox SET dead_reason = 'mine'")
    sending.write("UPDATE events SET dead_reason = 'mine'")


def _mappings(sending: Sending, view: str) -> list[dict[str, Any]]:
    with sending.workspace.database.read() as connection:
        return [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {view}")).mappings()]


def _view(sending: Sending) -> list[tuple[Any, ...]]:
    return sending.rows(f"SELECT {', '.join(event_reports.EVENT_COLUMNS)} FROM open_events")


def _position(record: dict[str, Any]) -> int:
    return int(record["position"])


def _texts(sending: Sending) -> Iterator[tuple[str, list[str]]]:
    """Yield the texts of every row of every table."""
    with sending.workspace.database.read() as connection:
        for table in schema.metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                yield table.name, [value for value in row if isinstance(value, str)]
