"""What each answer leads to, end to end: what goes again, what stops everything, what is cut, and what is dead."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from audience_sync.core.model import Json
from audience_sync.delivery import DeliveryReport
from audience_sync.errors import DestinationError, KeyRefused
from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response
from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store import batches
from audience_sync.store.database import Database, connect
from tests.sending import Sending, assert_agreed, in_between, open_sending, speaking
from tests.support.faulty_sandbox import FaultRule, FaultySandbox, Gate
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

EVERYBODY = [f"u{n}" for n in range(1, 251)]
REASON = "events[3].body.traits: not with me"
REFUSED: Json = {"error": REASON}


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield two audiences, gold and silver."""
    with open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened:
        yield opened


@pytest.fixture
def sqlite_sending(tmp_path: Path, sqlite_template: Path, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield the same on SQLite alone, for what the database has no part in."""
    path = tmp_path / "audience_sync.db"
    shutil.copy(sqlite_template, path)
    with (
        closing(connect(f"sqlite:///{path}")) as database,
        open_sending(tmp_path, database, sandbox, audiences=("gold", "silver")) as opened,
    ):
        yield opened


def dead(sending: Sending) -> list[tuple[Any, ...]]:
    """Return the dead rows."""
    return sorted(sending.rows("SELECT audience, profile_key, value, reason FROM open_deliveries WHERE state = 'dead'"))


def requests(sending: Sending) -> list[tuple[Any, ...]]:
    """Return when each batch came, in seconds, its status, and how many events it had."""
    rows = sending.sandbox.ledger.read("SELECT at, status, events FROM requests WHERE path = '/batch' ORDER BY id")
    return [(datetime.fromisoformat(at).timestamp(), status, events) for at, status, events in rows]


@contextmanager
def held_then_refused(sending: Sending, status: int) -> Iterator[Future[DeliveryReport]]:
    """Deliver, with the first batch held while the block runs, and then refused; the rest is accepted."""
    gate, held = Gate(), threading.Event()

    def hold(request: Request) -> SandboxResponse | None:
        if request.path != "/batch" or held.is_set():
            return None
        held.set()
        gate.wait()
        return error_response(status, "no")

    with in_between(sending.sandbox, hold), sending.delivering() as report:
        try:
            assert gate.wait_for(1)
            yield report
        finally:
            gate.release()
        report.result()


# --- again ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        *(FaultRule(status=status, times=3) for status in (408, 429, 500)),
        *(
            pytest.param(FaultRule(status=status, times=3), marks=pytest.mark.slow)
            for status in (423, 425, 502, 503, 504, 507, 520)
        ),
        FaultRule(status=503, body="<html>maintenance</html>", times=3),
        FaultRule(status=429, headers={"Retry-After": "0"}, times=3),
        FaultRule(refuse=True, times=3),
        FaultRule(drop=True, times=3),
    ],
    ids=lambda rule: f"{rule.name}{' html' if rule.body else ''}{' asked' if rule.headers else ''}",
)
def test_goes_again(sqlite_sending: Sending, rule: FaultRule) -> None:
    """What nobody knows, or what is not possible now, goes again under the same keys until it is accepted."""
    sending = sqlite_sending
    keys: list[str] = []

    def note(request: Request) -> None:
        if request.path == "/batch":
            keys.extend(event["idempotency_key"] for event in orjson.loads(request.body)["events"])

    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([rule])
    with in_between(sending.sandbox, note):
        report = sending.deliver()

    assert (report.events, report.open, report.dead, report.failure) == (250, 0, 0, None)
    assert len(set(keys)) == 250 < len(keys)
    assert sending.sandbox.ledger.stats()["events"]["processed"] == 250  # type: ignore[index,call-overload]
    assert_agreed(sending)


@pytest.mark.slow
def test_throttled_workers_all_pause(sending: Sending) -> None:
    """After a 429 no worker asks again before the time it was told."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(status=429, headers={"Retry-After": "1"}, times=1)])
    sending.with_settings(delivery={"batch_size": 1, "max_requests_per_second": 200}).deliver()

    sent = requests(sending)
    ((throttled, _, _),) = [request for request in sent if request[1] == 429]
    assert [at - throttled for at, _, _ in sent if 0.3 < at - throttled < 0.95] == []
    assert_agreed(sending)


def test_asked_wait_is_kept(sending: Sending) -> None:
    """`Retry-After` of any retryable answer is waited for by that batch, though our own wait would be over."""
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(status=503, headers={"Retry-After": "1"}, times=1)])
    sending.deliver()

    (failed, _, _), (taken, _, _) = requests(sending)
    assert taken - failed >= 1


def test_outage_slows_all(sending: Sending) -> None:
    """While nothing passes, workers wait together: an outage is not answered with a hail of requests."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(refuse=True)])
    patient = sending.with_settings(delivery={"batch_size": 1, "max_backoff": timedelta(seconds=10)})
    report = patient.deliver(wait=1.5)

    assert (report.open, report.dead) == (250, 0)
    assert 8 <= len(requests(sending)) <= 80  # without it there would be 160 in the first second


@pytest.mark.slow
def test_gives_up_in_time(sending: Sending) -> None:
    """With the server gone in the middle, delivery ends after its wait and everything stays."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(refuse=True)])
    started = time.monotonic()
    report = sending.deliver(wait=0.5)

    assert (report.events, report.open, report.dead, report.failure) == (0, 250, 0, None)
    assert time.monotonic() - started >= 0.5
    sending.sandbox.faults.clear()
    sending.deliver()
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize("positions", [[0], [99], [17, 18, 80]], ids=["first", "last", "several"])
def test_bad_batch_is_halved_until_the_event_waits_alone(sending: Sending, positions: list[int]) -> None:
    """Wherever events stand that make their batch fail for ever, they end up alone, and wait; all others go."""
    ordered = sorted(EVERYBODY)
    bad = [ordered[position] for position in positions]  # the first batch is of the first hundred
    sending.sync(gold=EVERYBODY, silver=[bad[0], ordered[200]])
    sending.sandbox.faults.set([FaultRule(status=500, user_key=user) for user in bad])

    def are_alone() -> bool:
        waiting = sending.rows("SELECT DISTINCT profile_key, state FROM open_deliveries")
        sizes = sending.rows("SELECT size FROM batches WHERE status = 'open' AND tries > 0")
        return sorted(waiting) == sorted((user, "retrying") for user in bad) and sizes == [(1,)] * len(bad)

    report = sending.with_settings(delivery={"concurrency": 1}).deliver_until(are_alone)

    assert (report.events, report.open, report.dead) == (250 - len(bad), len(bad) + 1, 0)
    assert sending.rows("SELECT DISTINCT reason FROM open_deliveries") == [("HTTP 500: internal server error",)]
    sending.sandbox.faults.clear()
    sending.deliver()
    assert_agreed(sending)


def test_one_event_that_fails_is_no_outage(sending: Sending) -> None:
    """While the only batch fails for ever, what comes later is sent."""
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(status=500, user_key="u1")])
    stop = threading.Event()
    with sending.delivering(stop=stop):
        wait_until(lambda: sending.rows("SELECT 1 FROM batches WHERE tries >= 12"))
        sending.sync(gold=["u1", "u2"])
        wait_until(lambda: sending.traits().get("u2") == {"gold": True})
        stop.set()

    assert sending.rows("SELECT profile_key, state FROM open_deliveries") == [("u1", "retrying")]


@pytest.mark.slow
def test_wait_is_over_with_one_event_left(sending: Sending) -> None:
    """One event that fails for ever does not keep a delivery from ending after its wait."""
    sending.sync(gold=["u1"], silver=["u2"])
    sending.sandbox.faults.set([FaultRule(status=500, user_key="u1")])
    report = sending.with_settings(delivery={"batch_size": 1}).deliver(wait=2)

    assert (report.events, report.open, report.dead, report.failure) == (1, 1, 0, None)
    assert sending.tried()


# --- servers that do not answer as they should ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", *[b"x"] * 1000],
        [
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000000\r\n\r\n\x1f\x8b\x08\x08",
            *[b"n"] * 1000,
        ],
        [b"HTTP/1.1 200 OK\r\n", *[bytes([65 + n % 26]) for n in range(1000)]],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal"],
        [b"HTTP/1.1 200 OK\r\nContent-"],
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b""],
    ],
    ids=["drip", "drip of gzip", "drip of headers", "half a body", "half a header", "another protocol", "nothing"],
)
def test_broken_answers(sqlite_sending: Sending, pieces: list[bytes]) -> None:
    """An answer that does not come whole within the timeout, byte by byte or at all, is none: the batch waits."""
    sending = sqlite_sending
    sending.sync(gold=["u1"])
    with speaking(pieces, pause=0.05) as url:
        broken = sending.with_settings(schematic={"capture_url": url, "timeout": timedelta(seconds=0.4)})
        report = broken.deliver_until(sending.tried)

    assert (report.open, report.dead, report.failure) == (1, 0, None)
    ((error,),) = sending.rows("SELECT error FROM batches")
    assert error.startswith(f"no response from {url}/batch")
    sending.deliver()
    assert_agreed(sending)


def test_answer_of_any_2xx_is_accepted(sqlite_sending: Sending) -> None:
    """A 2xx is an acceptance, whatever its body."""
    sending = sqlite_sending
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(status=202, body="<html>thanks</html>")])
    report = sending.deliver()

    assert (report.events, report.open) == (1, 0)
    assert sending.rows("SELECT status FROM sent_deliveries") == [(202,)]


# --- stop -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_key_revoked_half_way(sending: Sending, status: int) -> None:
    """A key that is refused in the middle stops everything and loses nothing; delivery goes on when it is back."""
    sending.sync(gold=EVERYBODY)

    def revoke(accepted: int) -> None:
        if accepted >= 20:
            sending.sandbox.keys.revoke(DEVELOPMENT_KEY)
            sending.sandbox.faults.set([] if status == 401 else [FaultRule(status=403)])

    slow = sending.with_settings(delivery={"batch_size": 5, "max_requests_per_second": 50})
    report = slow.deliver(on_progress=revoke)

    assert type(report.failure) is KeyRefused
    assert report.failure.exit_code == 6
    assert f"HTTP {status}" in str(report.failure)
    assert 20 <= report.events < 250
    assert (report.open, report.dead) == (250 - report.events, 0)
    sending.sandbox.keys.restore(DEVELOPMENT_KEY)
    sending.sandbox.faults.clear()
    assert sending.deliver().events == 250 - report.events
    assert sending.sandbox.ledger.stats()["events"] == {"processed": 250, "duplicate": 0, "failed": 0}
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (FaultRule(status=404), "HTTP 404: not found"),
        (FaultRule(status=404, body="<!doctype html>"), "HTTP 404: an HTML page"),
        (FaultRule(status=405), "HTTP 405"),
        (FaultRule(status=501), "HTTP 501"),
        (
            FaultRule(status=301, headers={"Location": "https://elsewhere.example/batch"}),
            "HTTP 301 to https://elsewhere",
        ),
        (FaultRule(status=302, headers={"Location": "/elsewhere"}), "HTTP 302 to /elsewhere"),
        (FaultRule(status=307, headers={"Location": "/batch"}), "HTTP 307 to /batch"),
        (FaultRule(status=304), "HTTP 304"),
        (FaultRule(status=400, body="<html>bad request"), "HTTP 400: an HTML page"),
        (FaultRule(status=409, body="<html>"), "HTTP 409: an HTML page"),
    ],
    ids=["404", "404 html", "405", "501", "301", "302", "307", "304", "400 html", "409 html"],
)
def test_wrong_destination_stops(sqlite_sending: Sending, rule: FaultRule, says: str) -> None:
    """What answers like something else than Schematic stops everything: nothing is dead, nothing followed elsewhere."""
    sending = sqlite_sending
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([rule])
    report = sending.deliver()

    assert type(report.failure) is DestinationError
    assert says in str(report.failure)
    assert (report.events, report.open, report.dead) == (0, 250, 0)
    assert sending.attempts() > 0
    assert (
        sending.sandbox.ledger.read(
            "SELECT * FROM requests WHERE path NOT IN ('/batch', '/whoami', ?)", ("/entity-trait-definitions",)
        )
        == []
    )
    sending.sandbox.faults.clear()
    sending.deliver()
    assert_agreed(sending)


def test_wrong_capture_url(sqlite_sending: Sending) -> None:
    """A capture_url with a wrong path stops with what answered there."""
    sending = sqlite_sending
    sending.sync(gold=["u1"])
    wrong = {"capture_url": f"{sending.sandbox.url}/v2"}
    report = sending.with_settings(schematic=wrong).deliver()

    assert type(report.failure) is DestinationError
    assert "schematic.capture_url is not Schematic: HTTP 404: not found" in str(report.failure)
    assert (report.open, report.dead, sending.attempts()) == (1, 0, 1)


@pytest.mark.slow
def test_everything_rejected_stops(sending: Sending) -> None:
    """Twenty events rejected in a row with nothing accepted are no bad events: delivery stops, and none is dead."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(status=422, body=REFUSED)])
    report = sending.deliver()

    assert type(report.failure) is DestinationError
    assert "rejected 20 events in a row" in str(report.failure)
    assert "not with me" in str(report.failure)
    assert (report.events, report.open, report.dead) == (0, 250, 0)
    sending.sandbox.faults.clear()
    sending.deliver()
    assert_agreed(sending)


# --- cut --------------------------------------------------------------------------------------------------------------


def test_smaller_batches_as_told(tmp_path: Path, database: Database) -> None:
    """A server that takes fewer events at once gets as many as it says, and nothing is dead."""
    with (
        FaultySandbox(tmp_path / "strict.db", settings=SandboxSettings(batch_limit=7)) as strict,
        open_sending(tmp_path, database, strict) as sending,
    ):
        sending.sync(gold=EVERYBODY)
        report = sending.deliver()

        assert (report.events, report.open, report.dead) == (250, 0, 0)
        assert max(events for _, status, events in requests(sending) if status == 200) == 7
        assert strict.ledger.stats()["events"] == {"processed": 250, "duplicate": 0, "failed": 0}
        assert_agreed(sending)


@pytest.mark.slow
def test_smaller_batches_by_halves(sending: Sending) -> None:
    """A 413 without a number halves the batch until it passes."""

    def refuse(request: Request) -> SandboxResponse | None:
        return error_response(413, "too much") if request.body.count(b"idempotency_key") > 13 else None

    sending.sync(gold=EVERYBODY)
    with in_between(sending.sandbox, refuse):
        report = sending.deliver()

    assert (report.events, report.open, report.dead) == (250, 0, 0)
    assert max(events for _, _, events in requests(sending)) <= 13
    assert_agreed(sending)


@pytest.mark.slow
def test_event_too_large_is_dead(sending: Sending) -> None:
    """A single event that is still too large is dead, with that reason."""
    sending.sync(gold=["u1", "u2"])
    sending.sandbox.faults.set([FaultRule(status=413, user_key="u1")])
    report = sending.deliver()

    assert (report.events, report.open, report.dead) == (1, 0, 1)
    assert dead(sending) == [("gold", "u1", "true", "too large")]


# --- dead -------------------------------------------------------------------------------------------------------------


def test_bad_event_is_found(sending: Sending) -> None:
    """Of 250 events the one that is rejected is dead, with the reason, and all others are delivered."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.faults.set([FaultRule(status=400, body=REFUSED, user_key="u123")])
    report = sending.deliver()

    assert (report.events, report.open, report.dead, report.failure) == (249, 0, 1, None)
    assert dead(sending) == [("gold", "u123", "true", f"HTTP 400: {REASON}")]
    assert sending.attempts() == 0
    assert sending.sandbox.ledger.stats()["events"] == {"processed": 249, "duplicate": 0, "failed": 0}
    assert sending.deliver().events == 0  # it is not tried again


def test_bad_trait_is_found(sending: Sending) -> None:
    """Of an event that carries two audiences only the one that is rejected is dead."""

    def refuse(request: Request) -> SandboxResponse | None:
        return error_response(400, "gold is reserved") if b'"gold":' in request.body else None

    sending.sync(gold=["u1"], silver=["u1", "u2"])
    with in_between(sending.sandbox, refuse):
        report = sending.deliver()

    assert (report.events, report.open, report.dead) == (2, 0, 1)
    assert dead(sending) == [("gold", "u1", "true", "HTTP 400: gold is reserved")]
    assert sending.traits() == {"u1": {"silver": True}, "u2": {"silver": True}}


def test_newer_change_replaces_a_dead_one(sending: Sending) -> None:
    """A dead row is replaced by a newer change of that profile, which is sent."""
    sending.sync(gold=["u1", "u2"])
    sending.sandbox.faults.set([FaultRule(status=400, body=REFUSED, user_key="u1", times=2)])
    sending.with_settings(delivery={"batch_size": 1}).deliver()
    sending.sandbox.faults.clear()
    assert sending.rows("SELECT profile_key, state FROM open_deliveries") == [("u1", "dead")]
    sending.sync(gold=["u2"])
    sending.deliver()

    assert sending.traits() == {"u1": {"gold": False}, "u2": {"gold": True}}
    assert_agreed(sending)


def test_newer_change_while_the_older_is_rejected(sending: Sending) -> None:
    """A rejection of what was replaced meanwhile does not bury the newer value."""
    sending.sync(gold=["u1"])
    with held_then_refused(sending, 400) as report:
        sending.sync(gold=[])

    assert (report.result().events, report.result().dead) == (1, 0)
    assert sending.traits() == {"u1": {"gold": False}}
    assert_agreed(sending)


# --- the database fails -----------------------------------------------------------------------------------------------


def once(function: Any, error: Exception) -> Any:
    """Return a function that raises an error the first time."""
    failed = threading.Event()

    def call(*args: Any, **kwargs: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise error
        return function(*args, **kwargs)

    return call


def test_failed_try_that_could_not_be_written_down(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database is away as a failed try is noted, the batch still goes again before anything newer."""
    locked = sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))
    monkeypatch.setattr(batches, "postpone", once(batches.postpone, locked))
    sending.sync(gold=["u1"])
    with held_then_refused(sending, 500) as report:
        sending.sync(gold=[])

    assert report.result().open == 0
    assert [event.body["traits"] for event in sending.events("u1")] == [{"gold": True}, {"gold": False}]
    assert_agreed(sending)


def test_settling_is_tried_again(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Schematic accepted while the database is away is settled when it is back, without another request."""
    error = sa.exc.OperationalError("DELETE", {}, Exception("gone away"))
    monkeypatch.setattr(batches, "settle", once(batches.settle, error))
    sending.sync(gold=["u1"])
    report = sending.deliver()

    assert (report.events, report.open) == (1, 0)
    assert len(requests(sending)) == 1
    assert_agreed(sending)


def test_a_repair_is_tried_again(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch was posted without a claim while the database is away, its values go again once it is back."""
    error = sa.exc.OperationalError("INSERT", {}, Exception("gone away"))
    monkeypatch.setattr(batches, "reopen", once(batches.reopen, error))
    sending.sync(gold=["u1"])
    sending.sandbox.faults.set([FaultRule(hold=True, times=1)])
    with sending.delivering() as report:
        assert sending.sandbox.gate.wait_for(1)
        sending.write("UPDATE batches SET claim = claim + 1, holder = '', claim_until = 0")
        sending.sandbox.gate.release()
        assert report.result().open == 0

    assert [event.status for event in sending.events("u1")].count("processed") == 2
    assert_agreed(sending)


def test_broken_settling_is_told(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of our own in settling ends the delivery with that error, and does not hang; nothing is lost."""
    with monkeypatch.context() as patched:
        patched.setattr(batches, "settle", once(batches.settle, ZeroDivisionError("our fault")))
        sending.sync(gold=["u1"])
        with pytest.raises(ZeroDivisionError, match="our fault"):
            sending.deliver()

    sending.deliver()
    assert [event.status for event in sending.events()] == ["processed", "duplicate"]
    assert_agreed(sending)
