"""The sandbox keeps Schematic's promises: the official client works against it, and faults happen on demand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import _SocketWriter  # type: ignore[attr-defined]
from typing import Any

import httpx
import pytest
from schematic.client import IdentifyOptions, Schematic, SchematicConfig
from schematic.core.api_error import ApiError
from schematic.types import CreateEventRequestBody, EventBodyIdentify, EventBodyIdentifyCompany

from audience_sync.clock import Clock
from audience_sync.core.model import Json
from audience_sync.errors import ConfigError
from audience_sync.sandbox.ledger import EventFilter, Ledger
from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY, Sandbox, SimulatedFailures
from tests.support.faulty_sandbox import FaultRule, FaultySandbox


class StillClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the instant it shows."""
        return self.now


@pytest.fixture
def clock() -> StillClock:
    """Return the sandbox's clock."""
    return StillClock()


@pytest.fixture
def sandbox(tmp_path: Path, clock: StillClock) -> Iterator[FaultySandbox]:
    """Yield a running sandbox."""
    with FaultySandbox(tmp_path / "schematic.db", clock=Clock(now=clock)) as running:
        yield running


@pytest.fixture
def http(sandbox: FaultySandbox) -> Iterator[httpx.Client]:
    """Yield a raw HTTP client with a good key."""
    with httpx.Client(
        verify=False, base_url=sandbox.url, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY}, timeout=10
    ) as client:
        yield client


@pytest.fixture
def official(sandbox: FaultySandbox) -> Iterator[Schematic]:
    """Yield Schematic's own client, pointed at the sandbox."""
    config = SchematicConfig(base_url=sandbox.url, event_capture_url=sandbox.url)
    client = Schematic(DEVELOPMENT_KEY, config)
    yield client
    client.shutdown()
    client._client_wrapper.httpx_client.httpx_client.close()


def identify(
    user: str, *, key: str | None = None, traits: Mapping[str, Json] | None = None, **more: Json
) -> dict[str, Json]:
    """Return an identify event of one user."""
    every = {**(traits or {}), **more}
    event: dict[str, Json] = {"type": "identify", "body": {"keys": {"userId": user}, "traits": every}}
    return event if key is None else {**event, "idempotency_key": key}


def post(http: httpx.Client, *events: Json) -> httpx.Response:
    """Post a batch."""
    return http.post("/batch", json={"events": list(events)})


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, ten seconds at most."""
    deadline = time.monotonic() + 10
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "the condition never held"
        pause.wait(0.005)


# --- Schematic's own client -------------------------------------------------------------------------------------------


def test_official_client_sends(sandbox: FaultySandbox, official: Schematic) -> None:
    """What Schematic's own client buffers and sends arrives as users, companies, traits and events."""
    company = EventBodyIdentifyCompany(keys={"groupId": "g1"}, name="Acme", traits={"seats": 3})
    options = IdentifyOptions(idempotency_key="once")
    official.identify({"userId": "u1"}, company=company, name="Ann", traits={"vip": True}, options=options)
    official.identify({"userId": "u1"}, traits={"vip": False}, options=options)
    official.track("order-completed", user={"userId": "u1"}, company={"groupId": "g1"}, traits={"revenue": 9.5})
    official.event_buffer.stop()

    assert sandbox.ledger.traits_of("userId", "u1") == {"vip": True}
    assert [event.status for event in sandbox.ledger.events()] == ["processed", "duplicate", "processed"]
    (tracked,) = sandbox.ledger.events(EventFilter(types=("track",)))
    assert (tracked.subtype, tracked.user_id, tracked.company_id) == ("order-completed", 1, 1)
    assert sandbox.ledger.read(
        "SELECT c.name, k.name, k.value FROM companies c JOIN company_keys k ON k.company_id = c.id"
    ) == [("Acme", "groupId", "g1")]


def test_official_client_sends_a_batch(sandbox: FaultySandbox, official: Schematic) -> None:
    """The official wire form of a batch, with every optional field, is accepted."""
    now = datetime(2026, 5, 1, tzinfo=UTC)
    official.event_capture_client.send_batch(
        [
            CreateEventRequestBody(
                event_type="identify",
                body=EventBodyIdentify(keys={"userId": f"u{number}"}, traits={"vip": True, "gone": None}),
                idempotency_key=f"k{number}",
                sent_at=now,
                trusted_client_clock=True,
                backfill=True,
            )
            for number in range(100)
        ]
    )

    everyone = dict(sandbox.ledger.all_traits("userId"))
    assert len(everyone) == 100
    assert everyone["u99"] == {"vip": True, "gone": None}
    assert sandbox.ledger.read("SELECT DISTINCT last_seen_at FROM users") == [(None,)]


def test_official_client_reads_back(official: Schematic) -> None:
    """Schematic's own models accept every answer of the API."""
    company = EventBodyIdentifyCompany(keys={"groupId": "g1"})
    official.identify(
        {"userId": "u1", "e mail[]": "a+b@c&d=é"}, company=company, name="Ann", traits={"vip": True, "n": 1}
    )
    official.identify({"userId": "u2"})
    official.event_buffer.stop()

    me = official.accounts.get_who_am_i().data
    assert (me.actor_type, me.environment_id, me.onboarding_complete) == ("api_key", "env_sandbox", True)
    (environment,) = official.accounts.list_environments().data
    assert (environment.id, environment.environment_type) == ("env_sandbox", "development")
    found = official.companies.lookup_user(keys={"e mail[]": "a+b@c&d=é"}).data
    assert (found.id, found.name, found.traits) == ("user_1", "Ann", {"vip": True, "n": 1})
    assert {key.key: key.value for key in found.keys} == {"userId": "u1", "e mail[]": "a+b@c&d=é"}
    assert [trait.value for trait in found.entity_traits] == ["1", "true"]
    assert [membership.company_id for membership in found.company_memberships] == ["comp_1"]
    with pytest.raises(ApiError, match="user not found"):
        official.companies.lookup_user(keys={"userId": "nobody"})
    assert [user.id for user in official.companies.list_users(limit=1, offset=1).data] == ["user_2"]


def test_official_client_reads_events(http: httpx.Client, official: Schematic) -> None:
    """Events are listed newest first, by key and type; what was dropped as a duplicate is not among them."""
    post(http, identify("u1", key="a"), identify("u1", key="b"), identify("u1", key="a"))
    post(http, {"type": "track", "body": {"event": "seen", "user": {"userId": "u1"}}})

    assert [event.subtype for event in official.events.list_events().data] == ["seen", None, None]
    (event,) = official.events.list_events(idempotency_key="a", event_types=["identify", "track"]).data
    assert (event.status, event.user_id, event.body["keys"]) == ("processed", "user_1", {"userId": "u1"})
    assert official.events.list_events(user_id="user_7").data == []
    assert http.get("/events", params={"flag_id": "flag_1"}).status_code == 400


def test_official_client_defines_traits(http: httpx.Client, official: Schematic) -> None:
    """A definition is made once and keeps its first type; unknown traits define themselves by their value."""
    define = official.companies.get_or_create_entity_trait_definition
    made = define(entity_type="user", hierarchy=["vip"], trait_type="boolean", display_name="VIP").data
    again = define(entity_type="user", hierarchy=["vip"], trait_type="string").data
    post(http, identify("u1", vip="yes", spend=2))

    assert ("boolean", "VIP", ["vip"], made.id) == (again.trait_type, again.display_name, again.hierarchy, again.id)
    listed = official.companies.list_entity_trait_definitions(entity_type="user").data
    assert [(one.hierarchy[0], one.trait_type) for one in listed] == [("vip", "boolean"), ("spend", "number")]


# --- keys, shapes, limits ---------------------------------------------------------------------------------------------


def test_keys(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A key is accepted in the header, as bearer or in every event; a wrong, missing or revoked one gets 401."""
    event, anonymous = identify("u1"), httpx.Client(verify=False, base_url=sandbox.url)
    with anonymous:
        assert post(anonymous, event).status_code == 401
        assert post(anonymous, {**event, "api_key": DEVELOPMENT_KEY}, event).status_code == 401
        assert post(anonymous, {**event, "api_key": DEVELOPMENT_KEY}).status_code == 200
        bearer = {"Authorization": f"Bearer {DEVELOPMENT_KEY}"}
        assert anonymous.post("/e", json=event, headers=bearer).status_code == 200
        assert anonymous.get("/environments").status_code == 401
    assert post(http, {**event, "api_key": "sch_dev_other"}).status_code == 401

    sandbox.keys.revoke(DEVELOPMENT_KEY)
    sandbox.keys.restore("sch_dev_new")

    assert [post(http, event).status_code, http.get("/whoami").status_code] == [401, 401]
    assert http.get("/whoami", headers={"X-Schematic-Api-Key": "sch_dev_new"}).status_code == 200


def test_the_key_is_nowhere_on_disk(http: httpx.Client, tmp_path: Path) -> None:
    """The API key inside events never reaches the ledger's files."""
    event = identify("u1", vip=True)
    body: Json = {"keys": {"userId": "u1"}, "api_key": DEVELOPMENT_KEY}
    post(http, {**event, "api_key": DEVELOPMENT_KEY}, {**event, "api_key": DEVELOPMENT_KEY, "body": body})

    for file in tmp_path.iterdir():
        assert DEVELOPMENT_KEY.encode() not in file.read_bytes()


def test_batch_limit(sandbox: FaultySandbox, http: httpx.Client, tmp_path: Path) -> None:
    """More than 100 events in one batch are refused whole, with the limit in the answer; the limit can be another."""
    too_many = post(http, *[identify(f"u{number}") for number in range(101)])

    assert (too_many.status_code, too_many.json()) == (400, {"error": "batch too large", "max_size": 100})
    assert sandbox.ledger.events() == []
    with (
        FaultySandbox(tmp_path / "small.db", settings=SandboxSettings(batch_limit=2)) as small,
        httpx.Client(verify=False) as client,
    ):
        client.headers["X-Schematic-Api-Key"] = DEVELOPMENT_KEY
        events = [identify("u1")] * 3
        assert client.post(f"{small.url}/batch", json={"events": events}).json()["max_size"] == 2


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("x", "events[1]: must be an object"),
        ({"type": "other", "body": {}}, "events[1].type: must be one of identify, track, flag_check, inference"),
        ({"type": "identify"}, "events[1].body: must be an object"),
        ({"type": "identify", "body": {"keys": {}}}, "events[1].body.keys: must have at least one key"),
        (
            {"type": "identify", "body": {"keys": {"userId": 7}}},
            "events[1].body.keys.userId: must be a non-empty string",
        ),
        (
            {"type": "identify", "body": {"keys": {"userId": "u"}, "company": {"keys": {}}}},
            "events[1].body.company.keys: must have at least one key",
        ),
        (
            identify("u", traits={"t" * 256: True}),
            f"events[1].body.traits.{'t' * 256}: trait names must be at most 255 characters",
        ),
        (identify("u", t="x" * 1025), "events[1].body.traits.t: trait values must be at most 1024 characters"),
        (
            {"type": "track", "body": {"event": "Order Done"}},
            "events[1].body.event: must be a string of letters, digits, - and _",
        ),
        (identify("u", key="k" * 256), "events[1].idempotency_key: must be a string of 1 to 255 characters"),
        (
            {**identify("u"), "sent_at": "2026-05-01T00:00:00"},
            "events[1].sent_at: must be an ISO 8601 time with a UTC offset",
        ),
        ({**identify("u"), "trusted_client_clock": True}, "events[1].trusted_client_clock: needs sent_at"),
    ],
)
def test_one_bad_event_refuses_the_batch(sandbox: FaultySandbox, http: httpx.Client, event: Json, message: str) -> None:
    """A wrong shape refuses the whole batch, names the place, and leaves nothing behind."""
    answer = post(http, identify("good"), event)

    assert (400, message) == (answer.status_code, answer.json()["error"])
    assert sandbox.ledger.stats()["events"] == {"processed": 0, "duplicate": 0, "failed": 0}
    assert sandbox.ledger.traits_of("userId", "good") == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"events": 1}', b'{"events": [NaN]}', b"\xff"])
def test_not_a_batch(http: httpx.Client, body: bytes) -> None:
    """What is no batch at all gets 400 and a sentence, and the connection stays usable."""
    answer = http.post("/batch", content=body)

    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)
    assert post(http).status_code == 200


def test_accepted_is_not_applied(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """Keys that match two users fail the event, though the answer was 200, and change neither of them."""
    post(http, identify("u1"), {"type": "identify", "body": {"keys": {"email": "e"}, "traits": {}}})
    clash: Json = {"type": "identify", "body": {"keys": {"userId": "u1", "email": "e"}, "traits": {"vip": True}}}

    assert post(http, clash).status_code == 200
    (failed,) = sandbox.ledger.events(EventFilter(statuses=("failed",)))
    assert failed.error_message == "the keys email, userId match 2 users"
    assert sandbox.ledger.traits_of("userId", "u1") == {}
    assert http.get("/users/lookup", params={"keys[userId]": "u1", "keys[email]": "e"}).status_code == 400


def test_traits_are_merged_and_keys_are_added(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A user is found by any key, gets new keys and changed ones, and keeps the traits an event does not name."""
    post(http, identify("u1", a=1, b=True), identify("u1", a="two"))
    post(http, {"type": "identify", "body": {"keys": {"userId": "u1", "email": "e1"}}})
    post(http, {"type": "identify", "body": {"keys": {"userId": "u1", "email": "e2"}, "name": "Ann"}})

    assert sandbox.ledger.traits_of("email", "e2") == {"a": "two", "b": True}
    assert sandbox.ledger.traits_of("email", "e1") == {}
    assert sandbox.ledger.stats()["users"] == 1


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_idempotency_for_24_hours(sandbox: FaultySandbox, http: httpx.Client, clock: StillClock) -> None:
    """A repeated key is dropped within 24 hours of its first event, counted from that one, and served again after."""
    post(http, identify("u1", key="k", n=1))
    clock.now += timedelta(hours=23, minutes=59)
    post(http, identify("u1", key="k", n=2))
    assert sandbox.ledger.traits_of("userId", "u1") == {"n": 1}
    clock.now += timedelta(minutes=1)
    post(http, identify("u1", key="k", n=3))

    assert sandbox.ledger.traits_of("userId", "u1") == {"n": 3}
    assert [event.status for event in sandbox.ledger.events()] == ["processed", "duplicate", "processed"]


def test_idempotency_is_per_type_and_outlives_a_restart(tmp_path: Path, clock: StillClock) -> None:
    """The same key on another event type is another event; keys are remembered across restarts of the sandbox."""
    path, frozen = tmp_path / "schematic.db", Clock(now=clock)
    track: Json = {"type": "track", "body": {"event": "e"}, "idempotency_key": "k"}
    for _ in range(2):
        with FaultySandbox(path, clock=frozen) as sandbox, httpx.Client(verify=False, base_url=sandbox.url) as http:
            http.headers["X-Schematic-Api-Key"] = DEVELOPMENT_KEY
            post(http, identify("u1", key="k"), track)
    ledger = Ledger(path)
    statuses = [event.status for event in ledger.events()]
    ledger.close()

    assert statuses == ["processed", "processed", "duplicate", "duplicate"]


# --- connections and threads ------------------------------------------------------------------------------------------


def test_keep_alive_without_stalls(sandbox: FaultySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection carries many requests; each answer is one write, which waits for no acknowledgement of another."""
    writes: list[int] = []
    write = _SocketWriter.write

    def note(self: _SocketWriter, data: bytes) -> int:
        writes.append(len(data))
        return int(write(self, data))

    monkeypatch.setattr(_SocketWriter, "write", note)
    body = b'{"events":[]}'
    head = f"POST /batch HTTP/1.1\r\nHost: x\r\nX-Schematic-Api-Key: {DEVELOPMENT_KEY}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    host, _, port = sandbox.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for _ in range(100):
            connection.sendall(request)
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")

    assert len(writes) == 100


def test_concurrent_posts_count_exactly(sandbox: FaultySandbox) -> None:
    """Sixteen threads posting at once lose nothing and count nothing twice, duplicates included."""

    def send(worker: int) -> None:
        with httpx.Client(
            verify=False, base_url=sandbox.url, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY}, timeout=30
        ) as http:
            for batch in range(5):
                own = [identify(f"{worker}-{batch}-{n}", key=f"{worker}-{batch}-{n}") for n in range(19)]
                assert post(http, *own, identify("all", key=f"shared-{batch}")).status_code == 200

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send, range(16)))

    stats = sandbox.ledger.stats()
    assert stats["events"] == {"processed": 16 * 5 * 19 + 5, "duplicate": 15 * 5, "failed": 0}
    assert (stats["users"], stats["requests"]) == (16 * 5 * 19 + 1, {"/batch": {"200": 80}})


# --- faults -----------------------------------------------------------------------------------------------------------


def test_scripted_answers(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A status rule answers instead of the real work, so many times, with its headers and body; then all is well."""
    busy = FaultRule(status=429, times=1, headers={"Retry-After": "7"})
    proxy = FaultRule(status=502, times=1, body="<html>bad gateway</html>")
    odd = FaultRule(status=400, times=1, body={"odd": 1}, content_type="text/plain", path="/batch")
    sandbox.faults.set([busy, proxy, odd])

    first, second, third, last = (post(http, identify("u1")) for _ in range(4))

    assert (first.status_code, first.headers["retry-after"], first.json()) == (429, "7", {"error": "too many requests"})
    assert (502, "text/html", proxy.body) == (second.status_code, second.headers["content-type"], second.text)
    assert (third.status_code, third.headers["content-type"], third.json()) == (400, "text/plain", {"odd": 1})
    assert last.status_code == 200
    assert len(sandbox.ledger.events()) == 1
    assert [rule["applied"] for rule in sandbox.faults.described()] == [1, 1, 1]
    assert sandbox.ledger.read("SELECT fault, events FROM requests WHERE status = 429") == [("status 429", 1)]


def test_dice_are_repeatable(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A rate is met about as often as it says, the same way each time for one seed, and only on its path."""

    def statuses() -> list[int]:
        sandbox.faults.set([FaultRule(status=500, rate=0.3, seed=4)])
        return [post(http).status_code for _ in range(100)]

    once = statuses()

    assert once == statuses()
    assert 15 < once.count(500) < 45
    sandbox.faults.set([FaultRule(status=503, path="/whoami")])
    assert [post(http).status_code, http.get("/whoami").status_code] == [200, 503]
    sandbox.faults.clear()
    assert http.get("/whoami").status_code == 200


def test_a_user_can_poison_a_batch(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A rule with a user key refuses every request that carries an event of that user, and no other."""
    sandbox.faults.set([FaultRule(user_key="bad", status=400)])
    track: Json = {"type": "track", "body": {"event": "e", "user": {"userId": "bad"}}}

    assert post(http, identify("good"), identify("bad")).status_code == 400
    assert [post(http, track).status_code, http.post("/e", json=identify("bad")).status_code] == [400, 400]
    assert post(http, identify("good")).status_code == 200


@pytest.mark.parametrize(("rule", "taken"), [(FaultRule(drop=True), 1), (FaultRule(refuse=True), 0)])
def test_dropped_connections(sandbox: FaultySandbox, http: httpx.Client, rule: FaultRule, taken: int) -> None:
    """A dropped answer leaves the events taken, a refused connection leaves them untaken; neither is answered."""
    sandbox.faults.set([rule])

    with pytest.raises(httpx.RemoteProtocolError):
        post(http, identify("u1"))

    assert taken == len(sandbox.ledger.events())
    assert [(rule.name, 1)] == sandbox.ledger.read("SELECT fault, events FROM requests")


def test_delay(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """A delayed answer comes late, longer than a client may be willing to wait."""
    sandbox.faults.set([FaultRule(delay=30, times=1), FaultRule(delay=0.05, times=1)])

    with pytest.raises(httpx.ReadTimeout):
        http.post("/batch", json={"events": []}, timeout=0.2)
    begun = time.monotonic()
    assert post(http).status_code == 200
    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize(("rule", "taken"), [(FaultRule(hold=True), 1), (FaultRule(hold_before=True), 0)])
def test_held_answers_are_released(sandbox: FaultySandbox, http: httpx.Client, rule: FaultRule, taken: int) -> None:
    """A held request is processed before or after the gate, as the rule says, and answered once it is released."""
    sandbox.faults.set([rule])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, http, identify("u1"))
        assert sandbox.gate.wait_for(1)
        held = len(sandbox.ledger.events())

        assert (taken, 1, 1) == (held, sandbox.gate.held, sandbox.gate.release())
        assert answer.result(10).status_code == 200
    assert len(sandbox.ledger.events()) == 1


def test_close_while_held(tmp_path: Path) -> None:
    """Closing does not wait for an answer that is held, another that is delayed, nor for an idle connection."""
    sandbox = FaultySandbox(tmp_path / "schematic.db")
    sandbox.start()
    sandbox.faults.set([FaultRule(hold=True, times=1), FaultRule(delay=60, times=1)])
    with (
        httpx.Client(
            verify=False, base_url=sandbox.url, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY}, timeout=30
        ) as http,
        ThreadPoolExecutor(2) as pool,
    ):
        assert http.get("/whoami").status_code == 200
        stuck = [pool.submit(post, http, identify("u1")) for _ in range(2)]
        until(lambda: sandbox.gate.held == 1 and all(rule["applied"] for rule in sandbox.faults.described()))
        sandbox.close()

        for request in stuck:
            assert isinstance(request.exception(10), httpx.RemoteProtocolError | httpx.ReadError)
    sandbox.close()  # once more does nothing


@pytest.mark.parametrize(
    "rule",
    [{}, {"status": 500, "drop": True}, {"status": 99}, {"drop": True, "rate": 2}, {"drop": True, "after": True}],
)
def test_bad_rules_are_refused(rule: dict[str, Any]) -> None:
    """A rule that means nothing is refused with a sentence."""
    with pytest.raises(ValueError, match=r"^fault"):
        FaultRule(**rule)


def test_failures_of_the_command(tmp_path: Path) -> None:
    """A part of the capture requests fails with the chosen status, late, the same part each time; others never fail."""
    failures = SimulatedFailures(rate=0.3, status=503, delay=0.001)

    def statuses(name: str) -> list[int]:
        with (
            Sandbox(tmp_path / name, failures=failures) as failing,
            httpx.Client(
                verify=False, base_url=failing.url, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY}
            ) as client,
        ):
            assert client.get("/whoami").status_code == 200
            found = [post(client).status_code for _ in range(50)]
            kinds = failing.ledger.read("SELECT DISTINCT status, fault FROM requests WHERE path = '/batch' ORDER BY 1")
            assert kinds == [(200, "delay"), (503, "status 503")]
            return found

    once = statuses("one.db")

    assert once == statuses("two.db")
    assert 5 < once.count(503) < 25


# --- the sandbox itself -----------------------------------------------------------------------------------------------


def test_reset_and_stats(http: httpx.Client) -> None:
    """Statistics count by path and status; a reset forgets everything."""
    post(http, identify("u1", key="k"), identify("u1", key="k"))
    http.get("/nowhere")

    stats: Any = http.get("/sandbox/stats").json()
    assert stats["requests"] == {"/batch": {"200": 1}, "/nowhere": {"404": 1}}
    assert stats["events"] == {"processed": 1, "duplicate": 1, "failed": 0}
    assert http.post("/sandbox/reset").status_code == 200
    emptied: Any = http.get("/sandbox/stats").json()
    assert (emptied["requests"], emptied["users"]) == ({}, 0)
    assert http.post("/sandbox/nothing").status_code == 404


def test_all_traits_reads_page_by_page(sandbox: FaultySandbox, http: httpx.Client) -> None:
    """Every user comes out once, in order, with or without traits, however many there are."""
    for batch in range(25):
        post(http, *[identify(f"u{batch * 100 + n:05}", traits={"vip": True} if n % 2 else {}) for n in range(100)])

    everyone = list(sandbox.ledger.all_traits("userId"))

    assert [f"u{number:05}" for number in range(2500)] == [key for key, _ in everyone]
    assert sum(traits == {"vip": True} for _, traits in everyone) == 1250


def test_what_cannot_be_had_is_named(sandbox: FaultySandbox, tmp_path: Path) -> None:
    """A taken port and a file that is no ledger are configuration errors with a remedy."""
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look like one" * 20)
    port = int(sandbox.url.rpartition(":")[2])

    with pytest.raises(ConfigError, match="cannot listen on") as taken:
        FaultySandbox(tmp_path / "other.db", port=port)
    with pytest.raises(ConfigError, match="cannot be used as the sandbox's database"):
        FaultySandbox(tmp_path / "notes.txt")
    assert taken.value.hint is not None


def test_serving_in_the_foreground_ends_with_close(tmp_path: Path) -> None:
    """`serve_forever` serves until somebody closes the sandbox."""
    sandbox = FaultySandbox(tmp_path / "schematic.db", port=0)
    server = threading.Thread(target=sandbox.serve_forever)
    server.start()
    assert httpx.get(f"{sandbox.url}/sandbox/stats", verify=False).status_code == 200
    sandbox.close()
    server.join(5)

    assert not server.is_alive()
