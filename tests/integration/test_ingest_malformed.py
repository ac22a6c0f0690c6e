"""Whatever is sent to the Tracking API gets its status, takes nothing with it, and leaves no memory behind.

AUDIENCE_SYNC_MALFORMED_REQUESTS says how many requests are tried.
"""

from __future__ import annotations

import functools
import gzip
import multiprocessing
import os
import random
import socket
import struct
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from audience_sync.clock import Clock
from audience_sync.config import Address
from audience_sync.segment.segment_events import MOST_BYTES
from audience_sync.store import holders
from audience_sync.store.database import Database, connect
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.requests import DEFAULT_LIMITS, ENDPOINTS, MOST_IN_BATCH
from tests.ingesting import TRACK, basic, kept, serving
from tests.profile import amount

REQUESTS = amount("AUDIENCE_SYNC_MALFORMED_REQUESTS", small=150, large=1000)
WARM_UP = 300  # requests after which the server has loaded and allocated what it needs
SENDERS = 8
GROWTH = 12 * 1024 * 1024  # bytes
SLOW = DEFAULT_LIMITS._replace(head=0.3, body=0.3)
BATCHES = ("/v1/batch", "/v1/b", "/v1/import")
SINGLES = [path for path, endpoint in ENDPOINTS.items() if endpoint.type]
GONE = 0  # the status that a sender sees who has hung up


class Bad(NamedTuple):
    """Bytes to send, the status that must come, and whether the sender then hangs up instead of waiting."""

    sent: bytes
    status: int
    hang_up: bool = False


def request(path: str, body: bytes, *, method: str = "POST", **headers: str) -> bytes:
    """Return a request; headers that are empty are left out."""
    said = {"Host": "here", "Content-Length": str(len(body)), "Connection": "close", **basic(), **headers}
    lines = [
        f"{method} {path} HTTP/1.1",
        *(f"{name.replace('_', '-')}: {value}" for name, value in said.items() if value),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(pieces: list[bytes]) -> bytes:
    """Return a body in the chunks of HTTP/1.1."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def batch(rng: random.Random, *, events: int | None = None) -> dict[str, Any]:
    """Return a good batch."""
    count = rng.randrange(1, 40) if events is None else events
    return {"batch": [{**TRACK, "messageId": f"bad-{n}", "n": rng.random()} for n in range(count)]}


def broken_json(rng: random.Random) -> Bad:
    """A body that breaks off, has something behind it, or is no text."""
    whole = orjson.dumps(batch(rng))
    spoiled = rng.choice(
        [
            whole[: rng.randrange(len(whole))],
            whole + b"}",
            b"\xff" + whole,
            rng.randbytes(rng.randrange(1, 3000)) + b"\0",
        ]
    )
    return Bad(request(rng.choice([*BATCHES, *SINGLES]), spoiled), 400)


def no_object(rng: random.Random) -> Bad:
    """JSON that is no object."""
    return Bad(request(rng.choice([*BATCHES, *SINGLES]), rng.choice([b"[]", b"1", b"null", b'"x"', b"[{}]"])), 400)


def no_batch(rng: random.Random) -> Bad:
    """A batch that is no list."""
    bodies: list[object] = [{}, {"batch": {}}, {"batch": "x"}, {"batch": None}, TRACK]
    return Bad(request(rng.choice(BATCHES), orjson.dumps(rng.choice(bodies))), 400)


def bad_event(rng: random.Random) -> Bad:
    """Bad events and no good one."""
    worst: list[object] = [None, [], "track", {}, {"type": "foo"}, {"type": None}, {"type": ["track"]}]
    worst += [{**TRACK, "x": "x" * MOST_BYTES}, {"type": "x" * 1000}]
    content = orjson.dumps({"batch": rng.sample(worst, rng.randrange(1, 4))})
    if rng.random() < 0.5:
        content = content.replace(b"]}", rng.choice([b',{"n":NaN}]}', b',"\xff"]}', b',{"n":1e400}]}', b",]}"]))
    if rng.random() < 0.3:
        return Bad(request(rng.choice(BATCHES), gzip.compress(content), Content_Encoding="gzip"), 400)
    return Bad(request(rng.choice(BATCHES), content), 400)


def too_deep(rng: random.Random) -> Bad:
    """JSON in JSON in JSON."""
    depth = rng.randrange(260, 5000)
    return Bad(request(rng.choice(SINGLES), b'{"a":' * depth + b"1" + b"}" * depth), 400)


def too_long(rng: random.Random) -> Bad:
    """More than there may be, said before or seen on the way; some of it huge."""
    if rng.random() < 0.7:
        path, limit = rng.choice(SINGLES), MOST_BYTES
    else:
        path, limit = rng.choice(BATCHES), MOST_IN_BATCH
    body = b" " * (limit + rng.randrange(1, limit))
    if rng.random() < 0.5:
        return Bad(request(path, body), 400)
    cut = rng.randrange(1, len(body))
    return Bad(
        request(path, b"", Content_Length="", Transfer_Encoding="chunked") + chunked([body[:cut], body[cut:]]), 400
    )


def too_long_to_be_read(rng: random.Random) -> Bad:
    """A length beyond all reason, refused as it is said."""
    length = str(rng.randrange(10**8, 10**15))
    return Bad(request(rng.choice([*BATCHES, *SINGLES]), b"", Content_Length=length), 400)


def bad_gzip(rng: random.Random) -> Bad:
    """A gzip that is none, breaks off, is damaged, goes on, or is a bomb."""
    packed = gzip.compress(orjson.dumps(batch(rng)))
    damaged = bytearray(packed)
    damaged[-5] ^= 0xFF  # of its checksum
    spoiled = [
        packed[:-1],
        packed[: rng.randrange(len(packed))],
        bytes(damaged),
        packed + b"x",
        b"{}",
        rng.randbytes(99),
    ]
    body = bomb() if rng.random() < 0.1 else rng.choice(spoiled)
    return Bad(request(rng.choice(BATCHES), body, Content_Encoding="gzip"), 400)


def bad_encoding(rng: random.Random) -> Bad:
    """An encoding that is not spoken."""
    word = rng.choice(["br", "deflate", "zstd", "gzip, gzip", "x" * 100])
    return Bad(request(rng.choice(SINGLES), orjson.dumps(TRACK), Content_Encoding=word), 415)


def bad_key(rng: random.Random) -> Bad:
    """A wrong write key, a header that is none, or no key at all."""
    wrong = b64encode(rng.randbytes(rng.randrange(30)) + b":").decode()
    header = rng.choice(
        ["", f"Basic {wrong}", "Basic", "Basic !", "Basic d2s", "Bearer wk_of_the_shop", "wk_of_the_shop"]
    )
    body = orjson.dumps({**TRACK, **rng.choice([{}, {"writeKey": "x"}, {"writeKey": 1}])})
    if rng.random() < 0.2 and header.startswith("Basic "):
        body = b" " * rng.randrange(1, 3 * MOST_IN_BATCH)  # nobody reads it
    return Bad(request(rng.choice(SINGLES), body, Authorization=header), 401)


def bad_place(rng: random.Random) -> Bad:
    """A path or a method that is not served."""
    body = orjson.dumps(TRACK)
    if rng.random() < 0.5:
        path = rng.choice(["/", "/v1", "/v1/track/", "/v1/Track", "/v2/track", "/v1/track%2f", "/../v1", "/v1/m", "*"])
        return Bad(request(path, body), 404)
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])
    return Bad(request(rng.choice(list(ENDPOINTS)), body, method=method), 405)


def bad_http(rng: random.Random) -> Bad:
    """What is no HTTP."""
    good = request("/v1/track", b"{}")
    return Bad(
        rng.choice(
            [
                rng.randbytes(rng.randrange(1, 200)) + b"\r\n\r\n",
                b"POST /v1/track HTTP/1.1\r\n\r\n",  # no host
                b"POST /v1/track HTTP/9.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                good.replace(b"Host: here", b"Host : here"),
                good.replace(b"Host: here", b"Host: here\r\nX: \x00"),
                request("/v1/track", b"{}", Content_Length=rng.choice(["x", "-1", "1e3", "9" * 30])),
                request("/v1/track", b"{}", X="x" * 200_000),
                request("/v1/track", b"", Content_Length="", Transfer_Encoding="chunked") + b"zz\r\n",
                request("/v1/track", b"", Transfer_Encoding="br"),
            ]
        ),
        400,
    )


def hung_up(rng: random.Random) -> Bad:
    """A sender that is gone before its request is whole."""
    whole = request("/v1/batch", orjson.dumps(batch(rng, events=200)))
    return Bad(whole[: rng.randrange(1, len(whole))], GONE, hang_up=True)


def slow(rng: random.Random) -> Bad:
    """A head or a body that stops coming."""
    whole = request("/v1/batch", orjson.dumps(batch(rng)))
    begun = whole.index(b"\r\n\r\n") + 4
    cut = rng.choice([rng.randrange(1, begun - 1), rng.randrange(begun, len(whole))])
    return Bad(whole[:cut], 408)


@functools.cache
def bomb() -> bytes:
    """Return 300 MB of zeros, packed: 300 KB."""
    return gzip.compress(bytes(300_000_000), 9)


KINDS: list[Callable[[random.Random], Bad]] = [
    *[broken_json, no_object, no_batch, bad_event, too_deep, bad_gzip, bad_encoding, bad_key, bad_place, bad_http] * 4,
    *[too_long, too_long_to_be_read, hung_up] * 2,
    slow,
]


def send(address: Address, bad: Bad) -> int:
    """Send what is bad and return the status that comes."""
    with closing(socket.create_connection(address, timeout=60.0)) as connection:
        connection.sendall(bad.sent)
        if bad.hang_up:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # with a reset
            return GONE
        said = connection.makefile("rb").readline()  # behind the answer the server may hang up on what it has not read
    assert said.startswith(b"HTTP/1.1 "), said
    return int(said[9:12])


def serve(url: str, pipe: Connection) -> None:
    """Serve, in a process of its own, until something comes through the pipe."""
    with (
        closing(connect(url)) as database,
        closing(holders.enter(database)) as holder,
        serving(Workspace(database=database, holder=holder, clock=Clock()), limits=SLOW) as server,
    ):
        pipe.send(tuple(server.address))
        pipe.recv()


@pytest.fixture
def served(database_url: str) -> Iterator[tuple[Address, int]]:
    """The address of a server in a process of its own, and its process id."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(database_url, its))
    process.start()
    assert process.pid is not None
    assert ours.poll(60.0)
    yield Address(*ours.recv()), process.pid
    ours.send("end")
    process.join(30.0)

    assert process.exitcode == 0


def memory(process: int) -> int:
    """Return how many bytes of memory a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.generated
@pytest.mark.timeout(120 + REQUESTS / 5)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whatever_comes_has_its_answer(served: tuple[Address, int], database: Database) -> None:
    """Each of many malformed requests gets the status it must, nothing is kept or grows, and good ones are served."""
    address, process = served
    rng = random.Random(20260331)
    wanted: Counter[tuple[str, int, int]] = Counter()

    def attempt(number: int) -> tuple[str, int, int]:
        own = random.Random(number)
        kind = own.choice(KINDS)
        bad = kind(own)
        return kind.__name__, bad.status, send(address, bad)

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(attempt, [rng.getrandbits(32) for _ in range(WARM_UP)]))
        before = memory(process)
        wanted.update(pool.map(attempt, [rng.getrandbits(32) for _ in range(REQUESTS)]))
    after = memory(process)

    assert {found: count for found, count in wanted.items() if found[1] != found[2]} == {}
    assert {name for name, _, _ in wanted} == {kind.__name__ for kind in KINDS}
    assert kept(database) == []
    assert send(address, Bad(request("/v1/track", orjson.dumps(TRACK)), 200)) == 200
    assert [event["messageId"] for event in kept(database)] == ["m1"]
    assert after - before < GROWTH
