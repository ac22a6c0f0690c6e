"""A real Segment library sends to the daemon, which is killed while Schematic fails: all arrives, once and in order.

AUDIENCE_SYNC_FORWARDED_EVENTS says how many events are sent; 50,000 take some minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from segment.analytics.client import Client

from tests.acceptance.running import Place, Running, open_place, until
from tests.ingesting import closed_segment_connections
from tests.support.faulty_sandbox import FaultRule

pytestmark = pytest.mark.slow
EVENTS = int(os.environ.get("AUDIENCE_SYNC_FORWARDED_EVENTS", "3000"))
USERS = 300
WRITE_KEY = "wk_of_the_shop"
MOST_QUEUED = 5_000  # the library drops what comes when 10,000 wait

MAPPINGS = """
[[mappings]]
name = "Identify"
trigger = 'type = "identify"'
action = "identifyUser"
[mappings.fields]
user_keys = { userId = { "@path" = "$.userId" } }
user_traits = { "@merge" = { direction = "right", objects = [
    { "@path" = "$.traits" }, { message_id = { "@path" = "$.messageId" } }] } }

[[mappings]]
name = "Track"
trigger = 'type != "identify"'
action = "trackEvent"
[mappings.fields]
event_name = { "@template" = "{{type}} {{event}}" }
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" } }
"""


@pytest.fixture
def port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path, database_url: str, port: int) -> Iterator[Place]:
    """A daemon's configuration that listens at the port, and mappings that tell messageIds."""
    with open_place(tmp_path, database_url) as opened:
        opened.environment["SEGMENT_WRITE_KEY"] = WRITE_KEY
        ingest = f'[ingest]\nlisten = "127.0.0.1:{port}"\nwrite_keys = ["${{SEGMENT_WRITE_KEY}}"]'
        opened.configure(more=f'[schedule]\nevery = "9h"\n{ingest}\n{MAPPINGS}')
        yield opened


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the daemon, and remembers which messageIds were answered 200, in that order."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.accepted: list[str] = []
        self.refused = 0

    @property
    def url(self) -> str:
        """Where a library sends to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            with closing(HTTPConnection("127.0.0.1", self.server.port, timeout=30)) as daemon:
                daemon.request("POST", self.path, body, dict(self.headers.items()))
                answer = daemon.getresponse()
                status, text = answer.status, answer.read()
        except (OSError, HTTPException):
            status, text = 502, b"{}"
        if status == 200:
            self.server.accepted += [event["messageId"] for event in json.loads(body)["batch"]]
        else:
            self.server.refused += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def recording(port: int) -> Iterator[Proxy]:
    """Serve a proxy in front of a port."""
    with Proxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


def send(client: Client, count: int) -> dict[str, str]:
    """Send events of all types, slower than the library's queue fills; return the user of each messageId."""
    dice = random.Random(11)
    users = {}
    for number in range(count):
        while client.queue.qsize() > MOST_QUEUED:
            time.sleep(0.01)
        user = f"u{dice.randrange(USERS)}"
        match dice.randrange(8):
            case 0:
                accepted, event = client.identify(user, {"plan": "pro", "number": number})
            case 1:
                accepted, event = client.page(user, "docs", "Home")
            case 2:
                accepted, event = client.screen(user, "app", "Main")
            case 3:
                accepted, event = client.group(user, "g1", {"seats": number})
            case 4:
                accepted, event = client.alias(f"anonymous {number}", user)
            case _:
                accepted, event = client.track(user, "Order Completed", {"revenue": number / 8, "items": ["ä", None]})
        assert accepted
        users[event["messageId"]] = user
    return users


@pytest.mark.timeout(120 + EVENTS // 25)
def test_a_library_loses_nothing_though_the_daemon_dies_twice(place: Place, port: int) -> None:
    """What was answered 200 arrives exactly once and in order for each user, through kill -9 and 20 % failures."""
    place.sandbox.faults.set([FaultRule(rate=0.1, status=503), FaultRule(rate=0.1, drop=True, seed=1)])
    users: dict[str, str] = {}
    with recording(port) as proxy, closed_segment_connections():
        client = Client(WRITE_KEY, host=proxy.url)
        with place.running("run") as daemon:
            daemon.wait_for("ingest_started")
            producer = threading.Thread(target=lambda: users.update(send(client, EVENTS)))
            producer.start()
            until(lambda: place.received() > EVENTS // 5)
            assert daemon.end(signal.SIGKILL).code == -signal.SIGKILL
        with place.running("run") as daemon:
            daemon.wait_for("ingest_started")
            until(lambda: len(proxy.accepted) > EVENTS * 2 // 3 and place.received() > EVENTS // 2)
            assert daemon.end(signal.SIGKILL).code == -signal.SIGKILL
        with place.running("run") as daemon:
            finish(place, daemon, client, producer)

    expected: dict[str, list[str]] = {}
    for message_id in dict.fromkeys(proxy.accepted):
        expected.setdefault(users[message_id], []).append(message_id)
    assert set(proxy.accepted) == set(users)
    assert arrived(place) == expected
    assert place.rows("SELECT message_id, state, reason FROM open_events") == []
    assert place.rows("SELECT count(*), count(DISTINCT message_id) FROM sent_deliveries") == [(EVENTS, EVENTS)]


def finish(place: Place, daemon: Running, client: Client, producer: threading.Thread) -> None:
    """Wait until the library has sent all and the daemon has delivered it, and end both."""
    producer.join()
    client.flush()
    client.join()
    deadline = time.monotonic() + max(60.0, EVENTS / 100)
    while place.rows("SELECT 1 FROM events LIMIT 1") + place.rows(
        "SELECT 1 FROM batches WHERE status = 'open' LIMIT 1"
    ):
        assert time.monotonic() < deadline, daemon.said
        time.sleep(0.1)
    assert daemon.end(signal.SIGTERM).code == 0


def arrived(place: Place) -> dict[str, list[str]]:
    """Return the messageIds that the sandbox took of each user, in its order."""
    found: dict[str, list[str]] = {}
    for event in place.sandbox.ledger.events():
        if event.status != "duplicate":
            body: Any = event.body
            keys = body["user"] if event.type == "track" else body["keys"]
            found.setdefault(keys["userId"], []).append(body["traits"]["message_id"])
    return found
