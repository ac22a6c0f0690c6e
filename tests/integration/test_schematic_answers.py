"""Servers that answer badly: not always, by halves, too much, not in HTTP, or with an order to go elsewhere."""

from __future__ import annotations

import gzip
import random
import shutil
import socket
import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import orjson
import pytest
from pydantic import SecretStr

from audience_sync.clock import wall_clock
from audience_sync.config import SchematicTable
from audience_sync.destinations.http_client import MOST_TEXT
from audience_sync.destinations.outcomes import HttpAnswer
from audience_sync.destinations.schematic.schematic_client import SchematicClient
from audience_sync.errors import DestinationError
from audience_sync.sandbox.http_server import Request
from audience_sync.store.database import Database, connect
from tests.sending import Sending, assert_agreed, assert_in_order, in_between, open_sending, speaking
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

pytestmark = pytest.mark.slow_on_postgres

EVERYBODY = [f"u{n}" for n in range(120)]
MEGABYTE = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"
DAY = timedelta(days=1)
KEY = "sch_dev_sandbox"


class Counted:
    """The same piece again and again, counting what was taken of it."""

    def __init__(self, head: bytes, piece: bytes, *, times: int) -> None:
        self.head, self.piece, self.times = head, piece, times
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(self.times):
            self.sent += len(self.piece)
            yield self.piece


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


@pytest.fixture(scope="module")
def packed() -> bytes:
    """Return 32 MB of nothing in 32 KB."""
    return gzip.compress(bytes(32 * MEGABYTE))


def post_to(url: str, *, timeout: float = 30) -> HttpAnswer:
    """Post an empty batch there and return what came of it."""
    settings = SchematicTable(capture_url=url, api_url=url, timeout=timedelta(seconds=timeout))
    with closing(
        SchematicClient(settings, SecretStr(KEY), tls=httpx.create_ssl_context(), clock=wall_clock)
    ) as schematic:
        return schematic.post_batch(b'{"events":[]}')


# --- answers that are lost --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_third_of_errors(sending: Sending) -> None:
    """Through lost and late answers all arrives, in the order of each profile, an event always under its key."""
    bodies: dict[str, set[bytes]] = defaultdict(set)
    dice = random.Random(7)

    def note(request: Request) -> None:
        for event in orjson.loads(request.body)["events"] if request.path == "/batch" else []:
            bodies[event["idempotency_key"]].add(orjson.dumps(event))

    kinds = [
        FaultRule(drop=True, rate=0.07, seed=1),
        FaultRule(cut=9, rate=0.07, seed=2),
        FaultRule(cut=150, rate=0.07, seed=3),
        FaultRule(status=500, after=True, rate=0.07, seed=4),
        FaultRule(status=503, rate=0.07, seed=5),
    ]
    sending.sandbox.faults.set(kinds)
    small = sending.with_settings(delivery={"batch_size": 3})
    with in_between(sending.sandbox, note):
        small.sync(gold=EVERYBODY)
        for _ in range(5):
            with small.delivering() as report:
                small.sync(gold=dice.sample(EVERYBODY, 90), silver=dice.sample(EVERYBODY, 30))
                report.result()
    last = sending.deliver()

    assert (last.open, last.dead, last.failure) == (0, 0, None)
    faults = {fault for (fault,) in sending.sandbox.ledger.read("SELECT DISTINCT fault FROM requests")}
    assert faults == {None, *(rule.name for rule in kinds)}
    assert {len(of_one_key) for of_one_key in bodies.values()} == {1}
    assert "duplicate" in {event.status for event in sending.events()}
    assert_in_order(sending)
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("86400", DAY, DAY),
        ("31536000", DAY, DAY),
        ("in three days", DAY - timedelta(minutes=1), DAY),
        ("in an hour", timedelta(minutes=59), timedelta(minutes=61)),
        ("soon, ä \x00", timedelta(0), timedelta(seconds=1)),
    ],
    ids=["a day", "a year", "a date", "an hour", "nonsense"],
)
def test_asked_to_wait(sqlite_sending: Sending, status: int, asked: str, least: timedelta, most: timedelta) -> None:
    """A wait that is asked for is kept, but none is longer than a day; a person who says `deliver` need not wait."""
    sending = sqlite_sending
    hours = {"in three days": 72, "in an hour": 1}.get(asked)
    header = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True) if hours else asked
    answer = f"HTTP/1.1 {status} No\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n".encode()
    sending.sync(gold=["u1"])
    with speaking([answer]) as url:
        before = sending.workspace.clock.now_ms()
        busy = sending.with_settings(schematic={"capture_url": url})
        assert busy.deliver_until(sending.tried).open == 1

    ((not_before,),) = sending.rows("SELECT min(not_before) FROM batches WHERE status = 'open'")
    waits = timedelta(milliseconds=not_before - before)
    assert least <= waits <= most + timedelta(minutes=1)
    assert sending.deliver().open == 0
    assert_agreed(sending)


# --- answers that are no answers --------------------------------------------------------------------------------------


def test_no_answer_at_all() -> None:
    """A server that takes the request and then says nothing is waited for as long as the timeout says."""
    with speaking([b""], pause=60) as url:
        answer = post_to(url, timeout=0.3)

    assert answer == HttpAnswer(0, {}, f"no response from {url}/batch within 0.3s")


def test_slow_to_the_last_byte() -> None:
    """An answer that comes whole within the timeout counts, though byte by byte."""
    whole = OK + b"Content-Length: 15\r\n\r\n" + b'{"accepted": 1}'
    with speaking([bytes([byte]) for byte in whole], pause=0.001) as url:
        answer = post_to(url)

    assert (answer.status, answer.text) == (200, '{"accepted": 1}')


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01\x02\x03" * 100,
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"X: " + b"x" * MEGABYTE,
        OK + b"X: x\r\n" * 100_000,
    ],
    ids=[
        "bytes",
        "mail",
        "no status",
        "long status",
        "no chunk",
        "half a chunk",
        "a header without end",
        "headers without end",
    ],
)
def test_no_http(answer: bytes) -> None:
    """What is no whole HTTP answer is none: nobody knows what became of the events, so they go again."""
    with speaking([answer]) as url:
        found = post_to(url, timeout=10)

    assert (found.status, found.lasting) == (0, False)
    assert found.text.startswith(f"no response from {url}/batch: ")


def test_answers_before_the_answer() -> None:
    """A server that says "wait a moment" for ever is left at the timeout."""
    with speaking(Counted(b"", b"HTTP/1.1 100 Continue\r\n\r\n", times=10_000), pause=0.01) as url:
        answer = post_to(url, timeout=0.5)

    assert answer.text == f"no response from {url}/batch within 0.5s"


@pytest.mark.parametrize("status", [200, 401, 503])
@pytest.mark.parametrize("head", [b"Connection: close\r\nContent-Length: 16\r\n\r\n", b"\r\n"], ids=["told", "untold"])
def test_last_answer_of_a_connection(status: int, head: bytes) -> None:
    """An answer with which the server ends the connection is one, though it comes in pieces."""
    pieces = [b"HTTP/1.1 %d Well\r\n" % status, head, *[b"piece by"] * 2]
    with speaking(pieces, pause=0.05) as url:
        answer = post_to(url)

    assert (answer.status, answer.text) == (status, "piece bypiece by")


# --- answers that are too much ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "head"),
    [(200, b"Content-Length: 104857600\r\n\r\n"), (503, b"\r\n")],
    ids=["with a length", "until the connection ends"],
)
def test_a_hundred_megabytes(status: int, head: bytes) -> None:
    """Of a long answer the beginning is read; the connection is ended before the rest has come."""
    whole = Counted(b"HTTP/1.1 %d Well\r\n" % status + head, b"x" * MEGABYTE, times=100)
    with speaking(whole) as url:
        answer = post_to(url)

    assert answer.status == status
    assert MOST_TEXT // 2 <= len(answer.text) <= MOST_TEXT
    assert whole.sent <= 20 * MEGABYTE  # what lies in the buffers of the machine


@pytest.mark.parametrize(
    ("status", "encoding"),
    [(200, b"gzip"), (503, b"gzip"), (200, b"deflate"), (200, b"gzip, gzip"), (200, b"br"), (200, b"nonsense")],
)
def test_a_bomb(status: int, encoding: bytes, packed: bytes) -> None:
    """A small answer that unpacks to a great one, unasked, takes no memory, and its status counts."""
    bomb = gzip.compress(packed) if encoding == b"gzip, gzip" else packed
    head = b"HTTP/1.1 %d Well\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (status, encoding, len(bomb))
    with speaking([head, bomb]) as url:
        tracemalloc.start()
        try:
            answer = post_to(url)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert answer.status == status
    assert len(answer.text) <= MOST_TEXT
    assert most < 8 * MEGABYTE


def test_packed_refusal_is_read(sqlite_sending: Sending) -> None:
    """A proxy that packs what nobody asked it to pack does not hide how large a batch may be."""
    sending = sqlite_sending
    packed = gzip.compress(b'{"error":"batch too large","max_size":9}')
    head = b"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    sending.sync(gold=EVERYBODY[:90])  # ten batches of nine: none of one person, who would be refused alone
    with speaking([head, packed]) as url:
        refusing = sending.with_settings(schematic={"capture_url": url}, delivery={"concurrency": 1})
        refusing.deliver_until(lambda: sending.rows("SELECT max(size) FROM batches WHERE status = 'open'") == [(9,)])
    sending.deliver()

    assert_agreed(sending)


# --- answers that lead elsewhere --------------------------------------------------------------------------------------


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """Listen, and yield the address with what everybody who came has said."""
    said: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                said.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/batch", said
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "path"),
    [(301, "/batch"), (302, "/batch"), (303, "/batch"), (307, "/batch"), (308, "/batch"), (307, "/whoami")],
)
def test_redirect_is_not_followed(sqlite_sending: Sending, status: int, path: str) -> None:
    """An order to go to another host stops everything, keeps everything and is told; the key does not go there."""
    sending = sqlite_sending
    sending.sync(gold=EVERYBODY)
    with listening() as (elsewhere, said):
        sending.sandbox.faults.set([FaultRule(path=path, status=status, headers={"Location": elsewhere})])
        report = sending.deliver()
        sending.sandbox.faults.clear()
        assert said == []

    assert type(report.failure) is DestinationError
    assert f"HTTP {status} to {elsewhere}" in str(report.failure)
    assert report.failure.exit_code == 1
    assert (report.events, report.open, report.dead) == (0, 120, 0)
    assert sending.deliver().failure is None
    assert_agreed(sending)


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://\x01", "//", "http://a:99999/", "http://" + "a" * 60_000], ids=range(5)
)
def test_redirect_to_nowhere(sqlite_sending: Sending, location: str) -> None:
    """A redirect stops everything, too, where its address is none: no later try would go better."""
    sending = sqlite_sending
    sending.sync(gold=["u1"])
    with speaking([f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()]) as url:
        report = sending.with_settings(schematic={"capture_url": url}).deliver()

    assert type(report.failure) is DestinationError
    assert "is not Schematic: HTTP 302 to " in str(report.failure)
    assert len(str(report.failure)) < 400
    assert (report.open, report.dead) == (1, 0)
