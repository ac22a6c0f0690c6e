"""The Tracking API over real HTTP: what is answered 200 is committed whole, and of anything else nothing is kept."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
import structlog
from segment.analytics.client import Client

from audience_sync.config import Address
from audience_sync.errors import AudienceSyncError
from audience_sync.segment.segment_events import MOST_BYTES
from audience_sync.segment.timestamps import to_utc
from audience_sync.store import event_reports
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.requests import DEFAULT_LIMITS, MOST_IN_BATCH
from audience_sync.tracking_api.server import Server
from tests.ingesting import (
    KEY,
    OTHER_KEY,
    SUCCESS,
    TRACK,
    Sender,
    answer,
    basic,
    closed_segment_connections,
    head,
    kept,
    sending,
    serving,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

IMPATIENT = DEFAULT_LIMITS._replace(wait=0.2)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database."""


@pytest.fixture
def sender(workspace: Workspace) -> Iterator[Sender]:
    """Who sends to a server that waits for the database for a moment only."""
    with sending(workspace, limits=IMPATIENT) as opened:
        yield opened


# What is taken


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/v1/identify", "identify"),
        ("/v1/track", "track"),
        ("/v1/page", "page"),
        ("/v1/screen", "screen"),
        ("/v1/group", "group"),
        ("/v1/alias", "alias"),
        ("/v1/t", "track"),
    ],
)
@ON_SQLITE
def test_each_path_takes_its_event(sender: Sender, database: Database, path: str, type: str) -> None:  # noqa: A002 - its name
    """The path says the type; what is answered 200 is in the database, with what Segment adds."""
    response = sender.post(path, {"userId": "u1", "type": "nonsense"})

    assert (response.status_code, response.json()) == (200, SUCCESS)
    (event,) = kept(database)
    assert (event["type"], event["userId"]) == (type, "u1")
    assert len(event["messageId"]) == 36
    assert event["receivedAt"] == event["timestamp"] == "2026-03-31T12:00:00.000Z"


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/b", "/v1/import"])
@pytest.mark.parametrize("packed", [False, True])
def test_batch_is_taken_in_its_order(sender: Sender, database: Database, path: str, packed: bool) -> None:
    """A batch is kept whole and in order, with what it says for all its events; gzip makes no difference."""
    events = [{**TRACK, "messageId": f"m{n}", "userId": f"u{n % 3}"} for n in range(100)]
    body = {"batch": events, "context": {"app": "shop"}, "integrations": {"All": False}}

    response = sender.post(path, body, packed=packed)

    assert (response.status_code, response.json()) == (200, SUCCESS)
    found = kept(database)
    assert [event["messageId"] for event in found] == [f"m{n}" for n in range(100)]
    assert all(event["context"] == {"app": "shop"} and event["integrations"] == {"All": False} for event in found)


def test_repeated_events_are_kept_once(sender: Sender, database: Database) -> None:
    """A sender that repeats a request because it saw no answer does no harm."""
    for _ in range(3):
        assert sender.post("/v1/batch", {"batch": [TRACK, {**TRACK, "messageId": "m2"}]}).status_code == 200

    assert [event["messageId"] for event in kept(database)] == ["m1", "m2"]


@ON_SQLITE
def test_write_key_is_taken_from_header_or_body(sender: Sender, database: Database) -> None:
    """Either key opens, in the header or in the body; none, or another, does not; no key is kept."""
    for headers, body, status in [
        (basic(), TRACK, 200),
        (basic(OTHER_KEY), {**TRACK, "messageId": "m2", "writeKey": "whatever"}, 200),
        ({}, {**TRACK, "messageId": "m3", "writeKey": KEY}, 200),
        ({"Authorization": "Bearer of.oauth"}, {**TRACK, "messageId": "m4", "writeKey": OTHER_KEY}, 200),
        (basic("wrong"), {**TRACK, "messageId": "m5", "writeKey": KEY}, 401),
        ({}, {**TRACK, "messageId": "m6"}, 401),
        ({}, {**TRACK, "messageId": "m7", "writeKey": "wrong"}, 401),
    ]:
        response = sender.post("/v1/track", body, headers=headers)
        assert response.status_code == status
        assert response.json()["success"] is (status == 200)

    assert [event["messageId"] for event in kept(database)] == ["m1", "m2", "m3", "m4"]
    assert not any("writeKey" in event for event in kept(database))


@ON_SQLITE
def test_browsers_may_send_from_any_site(sender: Sender, database: Database) -> None:
    """The preflight is answered, text/plain is JSON too, and the answer may be read."""
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}

    preflight = sender.request("OPTIONS", "/v1/t", **asked, **{"Access-Control-Request-Headers": "content-type"})
    sent = sender.post(
        "/v1/t", TRACK, headers={**basic(), "Origin": "https://shop.example", "Content-Type": "text/plain"}
    )

    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "content-type" in preflight.headers["Access-Control-Allow-Headers"]
    assert (sent.status_code, sent.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert len(kept(database)) == 1


def test_segments_own_client_is_served(workspace: Workspace, database: Database) -> None:
    """Segment's library for Python, with nothing set but its host, has every event taken, complete and in order."""
    with serving(workspace) as server, closed_segment_connections():
        failures: list[object] = []
        client = Client(KEY, host=f"http://{server.address}", on_error=lambda error, _: failures.append(error))
        client.identify("u1", {"plan": "pro"})
        for n in range(250):
            client.track("u1", "Order Completed", {"n": n})
        client.page("u1", "docs", "Start")
        client.screen("u1", "main")
        client.group("u1", "acme", {"seats": 3})
        client.alias("anonymous", "u1")
        client.flush()
        client.join()

    assert failures == []
    found = kept(database)
    assert [event["type"] for event in found] == ["identify", *["track"] * 250, "page", "screen", "group", "alias"]
    assert [event["properties"]["n"] for event in found if event["type"] == "track"] == list(range(250))
    assert all(to_utc(event["timestamp"]) for event in found)


@pytest.mark.slow
def test_many_senders_at_once(workspace: Workspace, database: Database) -> None:
    """Requests that come together are committed together; each has its own answer, and none of its events is lost."""
    with serving(workspace) as server:

        def send(number: int) -> list[int]:
            with closing(Sender(server)) as own:
                return [
                    own.post("/v1/track", {**TRACK, "userId": f"u{number}", "messageId": f"{number}-{n}"}).status_code
                    for n in range(20)
                ]

        with ThreadPoolExecutor(16) as pool:
            statuses = [status for answers in pool.map(send, range(16)) for status in answers]

    assert statuses == [200] * 320
    by_user: dict[str, list[str]] = {}
    for event in kept(database):
        by_user.setdefault(event["userId"], []).append(event["messageId"])
    assert by_user == {f"u{number}": [f"{number}-{n}" for n in range(20)] for number in range(16)}


# What is not taken


BAD = [
    (b'{"type":"track","messageId":"a\\u0000b","properties":"' + b"x" * MOST_BYTES + b'"}', "too_long", "track"),
    (b'{"type":"track","userId":"\xff"}', "not_utf8", "unknown"),
    (b'{"type":"track","n":NaN}', "not_json", "unknown"),
    (b'{"type":"track","n":1e400}', "number_too_large", "unknown"),
    (b'{"type":"track","p":' + b"[" * 2000 + b"]" * 2000 + b"}", "too_deep", "unknown"),
    (b'{"userId":"u9"}', "no_type", "unknown"),
    (b'{"type":"foo"}', "unknown_type", "unknown"),
    (b"7", "not_an_object", "unknown"),
]


def test_a_bad_event_costs_only_itself(sender: Sender, database: Database) -> None:
    """A batch with bad events is answered 200; the others are kept, and each bad one is counted by its reason."""
    good = [orjson.dumps({**TRACK, "messageId": f"m{n}", "userId": f"u{n}"}) for n in range(len(BAD))]
    events = [part for pair in zip(good, [bad for bad, *_ in BAD], strict=True) for part in pair]
    with structlog.testing.capture_logs() as logged:
        response = sender.post("/v1/batch", b'{"batch":[' + b",".join(events) + b"]}")

    assert (response.status_code, response.json()) == (200, SUCCESS)
    assert [event["messageId"] for event in kept(database)] == [f"m{n}" for n in range(len(BAD))]
    counted = event_reports.unsent(database)
    assert sorted((row["reason"], row["type"], row["count"]) for row in counted) == sorted(
        (reason, kind, 1) for _, reason, kind in BAD
    )
    assert [row["last_message_id"][:5] for row in counted if row["type"] == "track"] == ["hash-"]
    assert [(line["event"], line["fault"], line["events"]) for line in logged] == [
        ("events_rejected", reason, 1) for _, reason, _ in BAD
    ]


def test_half_a_character_is_taken(sender: Sender, database: Database) -> None:
    """An event with half an emoji is kept with U+FFFD in its place, and its neighbours with it."""
    body = b'{"batch":[%s,%s]}' % (
        orjson.dumps(TRACK),
        orjson.dumps({**TRACK, "messageId": "m2", "t": "hi HALF"}).replace(b"HALF", rb"\ud83d"),
    )

    assert sender.post("/v1/batch", body).json() == SUCCESS
    assert [event.get("t") for event in kept(database)] == [None, "hi \ufffd"]
    assert event_reports.unsent(database) == []


def test_bad_events_of_several_requests_add_up(sender: Sender, database: Database) -> None:
    """A batch without a good event is answered with what is wrong with the first; all are counted, day by day."""
    for _ in range(3):
        response = sender.post("/v1/batch", {"batch": [{"type": "foo"}, {"type": "foo", "messageId": "m7"}]})

        assert response.status_code == 400
        assert response.json() == {
            "success": False,
            "message": "batch[0] has the type 'foo': it must be one of identify, track, page, screen, group, alias",
            "code": "invalid_request",
        }
    assert kept(database) == []
    (row,) = event_reports.reasons(database)
    assert (row["reason"], row["type"], row["count"], row["last_message_id"]) == ("unknown_type", "unknown", 6, "m7")


@ON_SQLITE
def test_what_is_no_post_to_a_path_of_the_api(sender: Sender) -> None:
    """Other paths and methods have their own answers, in the same words."""
    assert sender.post("/v1/other", TRACK).json()["code"] == "not_found"
    assert sender.post("/v1/track/", TRACK).status_code == 404
    response = sender.request("GET", "/v1/track")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


@ON_SQLITE
def test_long_body_is_refused_before_it_is_read(workspace: Workspace) -> None:
    """A body is refused for the length that it announces, or for what has come; the rest is awaited for a time only."""
    chunked = ["POST /v1/batch HTTP/1.1", "Host: here", "Transfer-Encoding: chunked", "Connection: close"]
    chunked += [f"Authorization: {basic()['Authorization']}", "", ""]
    with sending(workspace, limits=IMPATIENT._replace(body=0.2)) as sender:
        with closing(sender.connect()) as connection:
            connection.sendall(head("/v1/batch", length=MOST_IN_BATCH + 1, Connection="close"))
            assert b" 400 " in answer(connection)
        with closing(sender.connect()) as connection:
            connection.sendall("\r\n".join(chunked).encode() + b"80000\r\n" + b"x" * 0x80000)
            assert b"is longer than 500 KB" in answer(connection)


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Have somebody else hold what a writer needs."""
    with database.write() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("LOCK TABLE events, message_ids IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def full(database: Database) -> Iterator[None]:
    """Have no room for another page, or, on Postgres, a table that refuses rows as a full disk does."""
    if database.is_sqlite:
        # The limit is one of each connection: those of the pool are used by the server's thread.
        def limit(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute("PRAGMA max_page_count = 1")

        def free(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute("PRAGMA max_page_count = 4294967294")

        sa.event.listen(database.engine, "checkout", limit)
        yield
        sa.event.remove(database.engine, "checkout", limit)
        sa.event.listen(database.engine, "checkout", free)
        return
    with database.write() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER fail BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION fail()"
        )
    yield
    with database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER fail ON events")


@pytest.mark.parametrize("trouble", [locked, full])
def test_database_that_does_not_take_events(sender: Sender, database: Database, trouble: Any) -> None:
    """While the database is locked or full every sender is told to come again, nothing is kept; then all goes on."""
    batch = {"batch": [{**TRACK, "messageId": f"m{n}", "properties": {"long": "x" * 5000}} for n in range(50)]}

    with structlog.testing.capture_logs() as logged:
        with trouble(database):
            refused = [sender.post("/v1/batch", batch) for _ in range(2)]
        between = kept(database)
        taken = sender.post("/v1/batch", batch)

    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert response.json()["code"] == "unavailable"
    assert between == []
    assert taken.status_code == 200
    assert len(kept(database)) == 50
    assert [line["event"] for line in logged] == ["ingest_suspended", "ingest_resumed"]


def test_short_wait_is_of_one_transaction(database: Database) -> None:
    """A connection that once waited shortly for the database waits as long as ever for whoever has it next."""
    with pytest.raises(sa.exc.OperationalError), locked(database), database.write(wait=0.05) as connection:
        connection.exec_driver_sql("DELETE FROM events")

    setting = "PRAGMA busy_timeout" if database.is_sqlite else "SHOW lock_timeout"
    for wait in (None, 1.0):
        with database.write(wait=wait):
            pass
        with database.write() as connection:
            assert connection.exec_driver_sql(setting).scalar() == (
                database.tuning.busy_seconds * 1000 if database.is_sqlite else "0"
            )


# Slow, and too many


@ON_SQLITE
def test_slow_senders_are_let_go(workspace: Workspace) -> None:
    """Who does not finish a head or a body in time is told so and closed, and nobody else waits for it."""
    with sending(workspace, limits=DEFAULT_LIMITS._replace(head=0.2, body=0.2)) as sender:
        beginnings = [
            (b"POST /v1/track HT", b" 408 "),
            (head(length=100) + b'{"userId"', b" 408 "),
            (b"", b""),
            (head(length=MOST_IN_BATCH + 1), b" 400 "),
        ]
        for begun, status in beginnings:
            with closing(sender.connect()) as connection:
                connection.sendall(begun)
                assert sender.post("/v1/track", TRACK).status_code == 200
                assert status in answer(connection)


@ON_SQLITE
def test_connections_are_bounded(workspace: Workspace) -> None:
    """One connection too many is told to come again; when another has gone there is room."""
    with sending(workspace, limits=DEFAULT_LIMITS._replace(connections=2)) as sender:
        with closing(sender.connect()) as first, closing(sender.connect()):
            with closing(sender.connect()) as third:
                assert b" 503 " in (said := answer(third))
                assert b"retry-after: 5" in said.lower()
            first.sendall(head(length=2, Connection="close") + b"{}")
            assert b" 200 " in answer(first)

        def is_served() -> bool:
            with closing(sender.connect()) as later:
                later.sendall(head(length=2, Connection="close") + b"{}")
                return b" 200 " in answer(later)

        wait_until(is_served)


@ON_SQLITE
def test_bodies_held_are_bounded(workspace: Workspace, database: Database) -> None:
    """Bodies that would fill the memory are not all held: who comes too late comes again."""
    with sending(workspace, limits=DEFAULT_LIMITS._replace(held=100_000)) as sender:
        with closing(sender.connect()) as half:
            half.sendall(head("/v1/batch", length=400_000) + b" " * 90_000)
            wait_until(lambda: sender.post("/v1/batch", b" " * 60_000).status_code == 503)
        wait_until(lambda: sender.post("/v1/batch", b'{"batch": []}' + b" " * 60_000).status_code == 200)

    assert kept(database) == []


# Beginning and end


@ON_SQLITE
def test_address_that_is_taken(workspace: Workspace) -> None:
    """A port that somebody has is a clear error, and leaves no thread behind."""
    with serving(workspace) as server, pytest.raises(AudienceSyncError) as caught:
        Server(workspace, server.address, [])

    assert str(caught.value) == f"cannot listen for events on {server.address}: Address already in use"
    assert not [thread for thread in threading.enumerate() if thread.name in {"ingest", "intake"}]


@ON_SQLITE
def test_name_is_listened_on_at_each_of_its_addresses(workspace: Workspace) -> None:
    """`localhost` is one port on whatever the system calls so."""
    server = Server(workspace, Address("localhost", 0), [])
    try:
        with closing(Sender(server)) as sender:
            assert sender.post("/v1/track", TRACK).status_code == 401
    finally:
        server.close(5.0)


def test_request_under_way_is_answered_at_the_end(workspace: Workspace, database: Database) -> None:
    """A request whose commit waits when the server is stopped is committed and answered; nobody new is let in."""
    with serving(workspace) as server, closing(Sender(server)) as sender, ThreadPoolExecutor(1) as pool:
        with locked(database):
            under_way = pool.submit(sender.post, "/v1/track", TRACK)
            wait_until(lambda: server._intake._size)
            server.stop()

            def is_closed() -> bool:
                try:
                    sender.connect().close()
                except ConnectionRefusedError:
                    return True
                return False

            wait_until(is_closed)
        assert under_way.result().status_code == 200

    assert len(kept(database)) == 1
    assert not server.is_alive()


def test_no_key_and_no_payload_is_logged(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither good nor bad requests leave a key or anything of a body in the log."""
    with structlog.testing.capture_logs() as logged, sending(workspace) as sender:
        sender.post("/v1/track", {**TRACK, "writeKey": "wk_secret"})
        sender.post("/v1/track", b"wk_secret", headers=basic("wk_secret"))
        sender.post("/v1/batch?writeKey=wk_secret", b"{wk_secret")
        with closing(sender.connect()) as connection:
            connection.sendall(b"wk_secret\r\n\r\n")
            assert b" 400 " in answer(connection)

    printed = capfd.readouterr()
    assert [line["event"] for line in logged] == ["requests_rejected", "requests_rejected"]
    assert "wk_secret" not in str(logged)
    assert "wk_" not in printed.out + printed.err
