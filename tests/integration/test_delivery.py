"""Delivery as it should go: one event a profile, full batches, the opening, the shared rate, no secrets kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from schematic.event_capture import _CaptureBatchPayload
from schematic.types import EventBodyIdentify

from audience_sync.core.model import Json
from audience_sync.delivery.rate_limit import RateLimiter
from audience_sync.errors import BindingRefused, DestinationAway, DestinationError, KeyRefused
from audience_sync.sandbox.http_server import Request
from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store import holders
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from tests.sending import Sending, assert_agreed, in_between, members_of, open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

EVERYBODY = [f"u{n}" for n in range(1, 251)]


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield three audiences: gold, silver and bronze."""
    with open_sending(tmp_path, database, sandbox, audiences=("gold", "silver", "bronze")) as opened:
        yield opened


def test_one_event_for_all_changes_of_a_profile(sending: Sending) -> None:
    """All open changes of a profile are one event, and what was delivered is recorded with its runs and its key."""
    runs = sending.sync(gold=["u1", "u2"], silver=["u1"], bronze=["u2"])
    report = sending.deliver()

    assert (report.events, report.open, report.dead, report.failure) == (2, 0, 0, None)
    (event,) = sending.events("u1")
    assert event.body == {"keys": {"userId": "u1"}, "traits": {"gold": True, "silver": True}}
    assert sorted(
        sending.rows("SELECT profile_key, traits, run_ids, status, idempotency_key FROM sent_deliveries")
    ) == [
        (
            "u1",
            '{"gold":true,"silver":true}',
            f"[{runs['gold'].id}, {runs['silver'].id}]",
            200,
            event.idempotency_key,
        ),
        (
            "u2",
            '{"bronze":true,"gold":true}',
            f"[{runs['gold'].id}, {runs['bronze'].id}]",
            200,
            sending.events("u2")[0].idempotency_key,
        ),
    ]
    assert sending.rows("SELECT audience, sent FROM sync_runs ORDER BY id") == [
        ("gold", 2),
        ("silver", 1),
        ("bronze", 1),
    ]
    assert_agreed(sending)


def test_wire_form(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """A batch is what Schematic's own client sends: its models read it, key, company and time included."""
    seen: list[Request] = []
    companies = {"groupId": "company_id"}
    with (
        open_sending(tmp_path, database, sandbox, company_keys=companies) as sending,
        in_between(sandbox, seen.append),
    ):
        sending.sync(gold=["u1", 'ü"2'])
        sending.deliver()

    posts = [request for request in seen if request.path == "/batch"]
    assert {(post.method, post.headers["x-schematic-api-key"]) for post in posts} == {("POST", DEVELOPMENT_KEY)}
    assert {post.headers["content-type"] for post in posts} == {"application/json"}
    events = [event for post in posts for event in _CaptureBatchPayload.model_validate_json(post.body).events]
    raw = [event for post in posts for event in orjson.loads(post.body)["events"]]
    assert sorted(raw[0]) == ["api_key", "body", "idempotency_key", "sent_at", "type"]
    assert {(event.api_key, event.type) for event in events} == {(DEVELOPMENT_KEY, "identify")}
    bodies = [EventBodyIdentify.model_validate(one["body"]) for one in raw]
    assert sorted(body.keys["userId"] for body in bodies) == ["u1", 'ü"2']
    assert all(body.traits == {"gold": True} for body in bodies)
    assert all(body.company is not None and body.company.keys == {"groupId": "gold"} for body in bodies)
    assert all(event.sent_at is not None and event.sent_at.tzinfo is not None for event in events)


def test_exits_carry_the_last_identifiers(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """An exit is sent with the company the profile was last seen with, though its row is gone."""
    with open_sending(tmp_path, database, sandbox, company_keys={"groupId": "company_id"}) as sending:
        sending.sync(gold=["u1"])
        sending.deliver()
        sending.sync(gold=[])
        sending.deliver()

        assert sending.events("u1")[-1].body == {
            "keys": {"userId": "u1"},
            "traits": {"gold": False},
            "company": {"keys": {"groupId": "gold"}},
        }


@pytest.mark.slow
@pytest.mark.parametrize("users", [150, *(pytest.param(users, marks=pytest.mark.slow) for users in (1000, 5000))])
def test_twenty_audiences_one_identify(tmp_path: Path, database: Database, sandbox: FaultySandbox, users: int) -> None:
    """Twenty audiences over the same users are one identify for each of them."""
    names = {f"a{n}": members_of("acme") for n in range(20)}
    with open_sending(tmp_path, database, sandbox, audiences=names) as sending:
        sending.shop.set_orders([(f"u{n}", "acme") for n in range(users)])
        for name in names:
            sending.sync_again(name)
        report = sending.deliver()

        assert report.events == users
        assert sandbox.ledger.stats()["events"] == {"processed": users, "duplicate": 0, "failed": 0}
        assert sending.rows("SELECT count(*), sum(sent) FROM sync_runs") == [(20, 20 * users)]
        assert sending.posts() <= users // 100 + 10
        assert_agreed(sending)


@pytest.mark.slow
def test_scattered_changes_fill_batches(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """10,000 changes scattered over all shards are at most 110 requests with eight workers."""
    users = [f"customer-{n * 7919}" for n in range(10_000)]
    with open_sending(tmp_path, database, sandbox) as sending:
        assert sending.settings.delivery.concurrency == 8
        sending.sync(gold=users)
        sending.deliver()

        assert sending.posts() <= 110
        assert sandbox.ledger.stats()["events"] == {"processed": 10_000, "duplicate": 0, "failed": 0}


def test_batch_size(sending: Sending) -> None:
    """No batch holds more than batch_size events."""
    sending.sync(gold=EVERYBODY)
    sending.with_settings(delivery={"batch_size": 7}).deliver()

    sizes = sending.sandbox.ledger.read("SELECT max(events), sum(events) FROM requests WHERE path = '/batch'")
    assert sizes == [(7, 250)]


def test_nothing_to_deliver_asks_nobody(sending: Sending) -> None:
    """With an empty outbox nothing is asked of Schematic, so that an outage or a bad key is no concern."""
    sending.sandbox.close()
    report = sending.deliver()

    assert (report.events, report.open, report.failure) == (0, 0, None)


def test_paused_audience_is_held_back(sending: Sending) -> None:
    """What is open of a paused audience waits; other changes of the same profile go."""
    sending.sync(gold=["u1"], silver=["u1"])
    sending.write("UPDATE audiences SET state = 'paused' WHERE key = 'gold'")
    report = sending.deliver()

    assert (report.events, report.open, report.paused) == (1, 1, 1)
    assert sending.traits() == {"u1": {"silver": True}}
    assert sending.rows("SELECT audience, state FROM open_deliveries") == [("gold", "paused")]
    sending.write("UPDATE audiences SET state = 'active' WHERE key = 'gold'")
    sending.deliver()
    assert_agreed(sending)


def test_progress_is_told(sending: Sending) -> None:
    """Whoever waits is told how many events were accepted, never fewer than before."""
    told: list[int] = []
    sending.sync(gold=EVERYBODY)
    slow = sending.with_settings(delivery={"max_requests_per_second": 50, "batch_size": 10, "concurrency": 1})
    slow.deliver(on_progress=told.append)

    assert told == sorted(told)
    assert 0 < len(set(told)) - 1 <= 25
    assert told[-1] <= 250


@pytest.mark.slow
def test_stop_is_obeyed(sending: Sending) -> None:
    """Asked to stop in the middle, delivery ends soon, and what is left goes later without a repetition."""
    sending.sync(gold=EVERYBODY)
    slow = sending.with_settings(delivery={"max_requests_per_second": 20, "batch_size": 1})
    report = slow.deliver_until(lambda: sending.posts() >= 3)

    assert report.failure is None
    assert 3 <= report.events < 250
    assert report.open == 250 - report.events
    sending.deliver()
    assert sending.sandbox.ledger.stats()["events"] == {"processed": 250, "duplicate": 0, "failed": 0}
    assert_agreed(sending)


# --- the rate ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rate_is_kept(sending: Sending) -> None:
    """Thirty requests at fifty a second take about 0.6 s, however many workers there are."""
    sending.sync(gold=EVERYBODY[:30])
    sending.with_settings(delivery={"max_requests_per_second": 50, "batch_size": 1}).deliver()

    ((seconds,),) = sending.sandbox.ledger.read(
        "SELECT (julianday(max(at)) - julianday(min(at))) * 86400 FROM requests WHERE path = '/batch'"
    )
    assert sending.posts() == 30
    assert seconds >= 0.45


def test_rate_is_shared(sending: Sending) -> None:
    """Two holders on one database together keep to the rate of one."""
    started = time.monotonic()
    moments: list[float] = []

    def draw(workspace: Workspace) -> None:
        limiter = RateLimiter(workspace, per_second=50, workers=1, longest=timedelta(seconds=1))
        for _ in range(15):
            assert limiter.wait(threading.Event())
            moments.append(time.monotonic() - started)

    database = sending.workspace.database
    with closing(holders.enter(database)) as holder:
        other = Workspace(database=database, holder=holder, clock=sending.workspace.clock)
        threads = [threading.Thread(target=draw, args=(one,)) for one in (sending.workspace, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(moments) == 30
    assert max(moments) >= 29 / 50 - 0.05


def test_absurd_wait_is_not_believed(workspace: Workspace) -> None:
    """A server that asks for ten thousand days, once or by several answers at once, is waited for one day at most."""
    limiter = RateLimiter(workspace, per_second=50, workers=8, longest=timedelta(minutes=15))
    for number in range(3):
        limiter.failed(number, asked=timedelta(days=10_000), throttled=True)

    assert limiter._resume_at - workspace.clock.monotonic() == timedelta(days=1).total_seconds()


# --- opening: the environment, the traits, and who is there -----------------------------------------------------------


def test_other_environment_is_refused(tmp_path: Path, sending: Sending) -> None:
    """A key of another environment than the first is refused before anything is sent."""
    sending.sync(gold=["u1"])
    sending.deliver()
    sending.sync(gold=[])
    with FaultySandbox(tmp_path / "other.db", settings=SandboxSettings(environment_id="env_other")) as other_sandbox:
        there = {"capture_url": other_sandbox.url, "api_url": other_sandbox.url}
        with pytest.raises(BindingRefused, match=r"'env_sandbox'.*'env_other'"):
            sending.with_settings(schematic=there).deliver()
        assert other_sandbox.ledger.events() == []

    assert sending.deliver().events == 1
    assert_agreed(sending)


def test_key_that_may_not_ask(sending: Sending) -> None:
    """With a key that may only capture, the label of the file is the environment, and another label is refused."""
    sending.sandbox.faults.set([FaultRule(path="/whoami", status=403)])
    sending.sync(gold=["u1"])
    assert sending.with_settings(schematic={"environment": "production"}).deliver().events == 1
    assert sending.rows("SELECT value FROM settings WHERE name = 'environment'") == [("production",)]

    sending.sync(gold=[])
    with pytest.raises(BindingRefused, match=r"'production'.*'staging'"):
        sending.with_settings(schematic={"environment": "staging"}).deliver()
    assert sending.deliver().events == 1  # without a label there is nothing to compare
    assert_agreed(sending)


def test_environment_by_list(sending: Sending) -> None:
    """Where `/whoami` is unknown, the one environment in the list is that of the key."""
    sending.sandbox.faults.set([FaultRule(path="/whoami", status=404)])
    sending.sync(gold=["u1"])
    sending.deliver()

    assert sending.rows("SELECT value FROM settings WHERE name = 'environment'") == [("env_sandbox",)]


def test_traits_are_declared_once(sending: Sending) -> None:
    """Before its first event a trait is declared boolean, once, with the audience's name."""
    for members in (["u1"], [], ["u1"]):
        sending.sync(gold=members)
        sending.deliver()

    asked = sending.sandbox.ledger.read("SELECT status FROM requests WHERE path = '/entity-trait-definitions'")
    assert asked == [(200,)]
    assert sending.sandbox.ledger.read(
        "SELECT entity_type, hierarchy, trait_type, display_name FROM trait_definitions"
    ) == [("user", '["gold"]', "boolean", "gold")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (FaultRule(path="/entity-trait-definitions", status=403), "HTTP 403: forbidden"),
        (FaultRule(path="/entity-trait-definitions", status=500), "HTTP 500"),
        (FaultRule(path="/entity-trait-definitions", refuse=True), "no response from"),
        (FaultRule(path="/entity-trait-definitions", status=200, body="<html>"), "an HTML page"),
        (
            FaultRule(path="/entity-trait-definitions", status=200, body={"data": {"trait_type": "string"}}),
            "its type in Schematic is string, not boolean",
        ),
    ],
    ids=["forbidden", "broken", "no answer", "html", "another type"],
)
def test_refused_declaration_warns(sending: Sending, rule: FaultRule, says: str) -> None:
    """A declaration that is refused is a warning that says why; the events go all the same, and it is asked again."""
    warnings: list[str] = []
    sending.sandbox.faults.set([rule])
    sending.sync(gold=["u1"])
    report = sending.deliver(warn=warnings.append)

    (warning,) = warnings
    assert warning.startswith("could not declare the type of trait gold as boolean")
    assert says in warning
    assert report.failure is None
    assert_agreed(sending)
    sending.sandbox.faults.clear()
    sending.sync(gold=[])
    sending.deliver(warn=warnings.append)
    assert len(warnings) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "kind", "says"),
    [
        (FaultRule(path="/whoami", status=401), KeyRefused, "refused the API key"),
        (FaultRule(path="/whoami", status=503), DestinationAway, "is unavailable: HTTP 503"),
        (FaultRule(path="/whoami", refuse=True), DestinationAway, "no response from"),
        (FaultRule(path="/whoami", status=405), DestinationError, "is not Schematic's API: HTTP 405"),
        (FaultRule(path="/whoami", status=200, body="<html>hello"), DestinationError, "an HTML page"),
        (
            FaultRule(path="/whoami", status=302, headers={"Location": "/login"}),
            DestinationError,
            "HTTP 302 to /login",
        ),
    ],
    ids=["refused", "broken", "no answer", "405", "html", "redirect"],
)
def test_api_that_does_not_serve(sending: Sending, rule: FaultRule, kind: type[DestinationError], says: str) -> None:
    """When it cannot be asked whose key this is, nothing is sent, nothing lost, and the report says why."""
    sending.sandbox.faults.set([rule])
    sending.sync(gold=["u1"])
    report = sending.deliver(wait=0.05)

    assert type(report.failure) is kind
    assert says in str(report.failure)
    assert (report.events, report.open, report.dead) == (0, 1, 0)
    assert sending.events() == []
    sending.sandbox.faults.clear()
    sending.deliver()
    assert_agreed(sending)


def test_schematic_away_at_first(sending: Sending) -> None:
    """While Schematic is away at the start, delivery asks again and goes on when it is back."""
    sending.sandbox.faults.set([FaultRule(path="/whoami", status=503, times=2)])
    sending.sync(gold=["u1"])
    report = sending.deliver()

    assert (report.events, report.failure) == (1, None)
    assert_agreed(sending)


def test_nobody_listens(sending: Sending) -> None:
    """Where nobody listens, delivery gives up in time and keeps everything."""
    sending.sync(gold=EVERYBODY)
    sending.sandbox.close()
    report = sending.deliver(wait=0.1)

    assert type(report.failure) is DestinationAway
    assert (report.open, report.dead) == (250, 0)


# --- secrets ----------------------------------------------------------------------------------------------------------


def kept_text(sending: Sending) -> str:
    """Return everything the membership database keeps, as text."""
    database = sending.workspace.database
    if database.is_sqlite:
        path = Path(str(database.engine.url.database))
        return "".join(
            part.read_bytes().decode("latin-1") for part in path.parent.glob(f"{path.name}*") if part.is_file()
        )
    tables = sending.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    return "".join(str(sending.rows(f"SELECT t::text FROM {table} t")) for (table,) in tables)


@pytest.mark.slow
def test_key_is_kept_nowhere(sending: Sending, capfd: pytest.CaptureFixture[str]) -> None:
    """The key is in no row, report, warning or repr, even when Schematic says it back in every answer."""
    told: list[str] = []
    echo: Json = {"error": f"cannot take this: {DEVELOPMENT_KEY}"}
    sending.sync(gold=EVERYBODY, silver=["s1"])
    rules = [
        FaultRule(path="/entity-trait-definitions", status=400, body=echo),
        FaultRule(status=500, body=echo, user_key="u1"),
        FaultRule(status=400, body=echo, user_key="s1"),
    ]
    sending.sandbox.faults.set(rules)
    stop = threading.Event()
    with sending.delivering(stop=stop, warn=told.append) as delivered:
        wait_until(lambda: sending.tried() and sending.rows("SELECT 1 FROM outbox WHERE dead_reason IS NOT NULL"))
        stop.set()
        told.append(repr(delivered.result()))
    assert "cannot take this" in kept_text(sending)
    for rule in (
        FaultRule(status=401, body=echo),
        FaultRule(status=404, body=echo),
        FaultRule(status=302, headers={"Location": f"/{DEVELOPMENT_KEY}"}),
    ):
        sending.sandbox.faults.set([rule])
        failure = sending.deliver().failure
        assert failure is not None
        told += [str(failure), repr(failure), str(failure.hint), repr(failure.__cause__), repr(failure.__context__)]

    assert DEVELOPMENT_KEY not in kept_text(sending)
    assert DEVELOPMENT_KEY not in "".join(told)
    assert DEVELOPMENT_KEY not in "".join(capfd.readouterr())
    assert sum("cannot take this" in one for one in told) >= 4
