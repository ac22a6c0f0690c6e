"""What a request of Segment's Tracking API says: read without HTTP, clock or database."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from base64 import b64encode
from collections.abc import Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import orjson
import pytest

from audience_sync.segment.segment_events import MOST_BYTES
from audience_sync.tracking_api.http import Body, open_body
from audience_sync.tracking_api.requests import (
    ENDPOINTS,
    MOST_IN_BATCH,
    MOST_TOGETHER,
    EventsRead,
    Refusal,
    knows_sender,
    read,
)
from tests.factories import NOON

KEYS = (b"wk_1", b"wk_2")
RECEIVED = "2026-03-31T12:00:00.000Z"
TOO_LARGE = "has a number beyond the range of a float at"
TYPES = "it must be one of identify, track, page, screen, group, alias"


def read_body(path: str, body: object, *, keys: tuple[bytes, ...] | None = None) -> EventsRead | Refusal:
    """Return what a body, JSON unless it is bytes, says at a path; ids that are made are id1, id2, and so on."""
    numbers = count(1)
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return read(content, ENDPOINTS[path], keys=keys, now=NOON, new_id=lambda: f"id{next(numbers)}")


def events(path: str, body: object) -> list[dict[str, Any]]:
    """Return the events of a body of which all are taken."""
    found = read_body(path, body)
    assert isinstance(found, EventsRead), found
    assert not found.refused
    return [orjson.loads(arrival.payload) for arrival in found.arrivals]


def event(said: Mapping[str, object], path: str = "/v1/track") -> dict[str, Any]:
    """Return the one event of a body."""
    (found,) = events(path, said)
    return found


def message(path: str, body: object) -> str:
    """Return why a body is refused as a bad request: all of it, or everything in it."""
    found = read_body(path, body)
    refusal = found.refusal if isinstance(found, EventsRead) else found
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (400, "invalid_request")
    return refusal.message


# What is refused


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/track", b"", "the body is not valid JSON: …, column N"),
        ("/v1/track", b'{"a":\n?}', "the body is not valid JSON: …, line 2, column N"),
        ("/v1/track", b"\xff", "the body is not valid UTF-8"),
        ("/v1/track", b'{"properties":{"n":1e400}}', f"the body {TOO_LARGE} properties.n; send it as text"),
        ("/v1/track", b'{"a":' * 2000 + b"1" + b"}" * 2000, "the body is nested too deeply"),
        ("/v1/track", [], "the body is valid JSON, but not an object"),
        ("/v1/batch", "text", "the body is valid JSON, but not an object"),
        ("/v1/batch", b"[1, 2", "the body is not valid JSON: …, column N"),
        ("/v1/batch", b'{"batch":[{"type":"track"}', "the body is not valid JSON: …, column N"),
        ("/v1/batch", b'{"batch":[{"type":"track"}]}}', "the body is not valid JSON: …, column N"),
        ("/v1/batch", b'{"batch":[{"type":"track"}],"x":NaN}', "the body is not valid JSON: …, column N"),
        ("/v1/batch", {}, "`batch` must be a list of events"),
        ("/v1/batch", {"batch": {"type": "track"}}, "`batch` must be a list of events"),
        ("/v1/batch", {"batch": [7, {}]}, "batch[0] is valid JSON, but not an object"),
        ("/v1/batch", b'{"batch":[{"type":"track","n":NaN}]}', "batch[0] is not valid JSON: …, column N"),
        ("/v1/batch", {"batch": [{"userId": "u1"}]}, f"batch[0] has no type: {TYPES}"),
        ("/v1/import", {"batch": [{"type": 5}]}, f"batch[0] has a type that is not text: {TYPES}"),
        ("/v1/b", {"batch": [{"type": "Track"}]}, f"batch[0] has the type 'Track': {TYPES}"),
        (
            "/v1/batch",
            {"batch": [{"type": "secret of a very long kind"}]},
            f"batch[0] has the type 'secret of a very lon'…: {TYPES}",
        ),
        (
            "/v1/batch",
            {"batch": [{"type": "track", "properties": "x" * MOST_BYTES}]},
            "batch[0] is longer than 32 KB, the maximum in Segment",
        ),
        (
            "/v1/batch",
            {"context": {"x": "x" * MOST_BYTES}, "batch": [{"type": "track"}]},
            "batch[0] is longer than 32 KB, the maximum in Segment",
        ),
        (
            "/v1/batch",
            {"context": {"x": "x" * 30_000}, "batch": [{"type": "track"}] * (MOST_TOGETHER // 30_000 + 1)},
            "the events and the fields of the batch together exceed 4 MB",
        ),
        ("/v1/track", b'{"a":' * 300 + b"1" + b"}" * 300, "the event is nested too deeply"),
    ],
)
def test_what_is_wrong_in_itself_is_named(path: str, body: object, expected: str) -> None:
    """A sender's mistake is a 400 that says where it is, and repeats no more than the beginning of a type."""
    said = message(path, body)

    assert re.sub(r"(valid JSON: ).*?((?:, line \d+)?, column )\d+", r"\1…\2N", said) == expected  # orjson's own words


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ({"writeKey": "wk_1"}, True),
        ({"writeKey": "wk_2", "batch": []}, True),
        ({"batch": [{"type": "track", "writeKey": "wk_2"}]}, True),
        ({"batch": [{"type": "track"}, {"type": "track", "writeKey": "wk_2"}]}, False),
        ({"writeKey": "wk_3", "batch": [{"type": "track", "writeKey": "wk_2"}]}, False),
        ({"writeKey": ""}, False),
        ({"writeKey": ["wk_1"]}, False),
        ({"batch": []}, False),
        ({"batch": 5}, False),
        ([], False),
        ("wk_1", False),
        (None, False),
    ],
)
def test_sender_is_known_by_its_body(body: object, known: bool) -> None:
    """Without a header the write key is at the top, or in the first event of a batch."""
    found = read_body("/v1/batch", body, keys=KEYS)

    assert (found == Refusal(401, "the write key is missing or unknown")) is not known


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, None),
        ("", None),
        ("Bearer wk_1", None),
        (f"Basic {b64encode(b'wk_1:').decode()}", True),
        (f"basic   {b64encode(b'wk_2:password').decode()} ", True),
        (f"Basic {b64encode(b'wk_2').decode()}", True),
        (f"Basic {b64encode(b'wk_12:').decode()}", False),
        (f"Basic {b64encode(b':wk_1').decode()}", False),
        ("Basic", False),
        ("Basic wk_1", False),
        ("Basic é", False),
    ],
)
def test_sender_is_known_by_its_header(header: str | None, known: bool | None) -> None:
    """A Basic header decides, right or wrong; any other leaves it to the body."""
    assert knows_sender(header, KEYS) is known


# What is taken


def test_path_says_the_type() -> None:
    """Short and long paths mean the same types, whatever the body says of it."""
    for path, endpoint in ENDPOINTS.items():
        if endpoint.type is not None:
            assert event({"type": "nonsense", "userId": "u1"}, path)["type"] == endpoint.type

    assert {path for path in ENDPOINTS if len(path) == len("/v1/t")} == {f"/v1/{letter}" for letter in "itpsgab"}


def test_event_that_names_nobody_is_taken() -> None:
    """What Segment would take is taken: an event without anybody, or without a name, is for the mappings to judge."""
    assert event({}) == {"type": "track", "messageId": "id1", "receivedAt": RECEIVED, "timestamp": RECEIVED}
    assert events("/v1/batch", {"batch": []}) == []


def test_event_keeps_what_it_says_and_loses_the_key() -> None:
    """Everything of an event is kept as it came, but the write key; the keys it is kept under are those of a file."""
    said = {"userId": "u1", "messageId": "m1", "event": "Bought", "properties": {"n": 1.5, "ü": [None, True]}}

    found = read_body("/v1/track", {**said, "writeKey": "wk_1"})

    assert isinstance(found, EventsRead)
    (arrival,) = found.arrivals
    assert (arrival.profile_key, arrival.message_id, arrival.type, arrival.name) == ("u1", "m1", "track", "Bought")
    added = {"type": "track", "receivedAt": RECEIVED, "timestamp": RECEIVED}
    assert orjson.loads(arrival.payload) == {**said, **added}


def test_32_kb_are_what_was_sent() -> None:
    """An event of exactly 32 KB is taken, though what is added makes it longer; one byte more is not."""
    frame = len(orjson.dumps({"type": "track", "p": ""}))

    fits = {"type": "track", "p": "x" * (MOST_BYTES - frame)}

    assert len(events("/v1/batch", {"batch": [fits]})) == 1
    assert "longer than 32 KB" in message("/v1/batch", {"batch": [{**fits, "p": fits["p"] + "x"}]})


@pytest.mark.parametrize("name", ["context", "integrations"])
@pytest.mark.parametrize(
    ("batch", "own", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": 1}, None, {"a": 1}),
        ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"y": 2}}),
        ({"a": 1}, "nonsense", "nonsense"),
        ("nonsense", {"a": 1}, {"a": 1}),
        (None, {"a": 1}, {"a": 1}),
    ],
)
def test_batch_speaks_for_its_events(name: str, batch: object, own: object, expected: object) -> None:
    """What a batch says for all goes under what an event says itself, key by key."""
    (found,) = events("/v1/batch", {name: batch, "batch": [{"type": "track", name: own}]})

    assert found[name] == expected


@pytest.mark.parametrize("own", [{}, {"sentAt": None}, {"sentAt": ""}])
def test_a_batch_is_sent_at_one_time(own: dict[str, Any]) -> None:
    """Where an event does not say when it was sent, the batch does, and the sender's clock is corrected by that."""
    batch = [{"type": "track", "timestamp": "2026-03-31T12:59:00Z", **own}]
    (found,) = events("/v1/batch", {"batch": batch, "sentAt": "2026-03-31T13:00:00Z"})

    assert found["timestamp"] == "2026-03-31T11:59:00.000Z"


def test_missing_ids_are_made() -> None:
    """Each event without a messageId gets its own; what is given stays, be it a number."""
    batch = [{"type": "track", **id_} for id_ in ({}, {"messageId": ""}, {"messageId": "m"}, {"messageId": 7})]

    assert [one["messageId"] for one in events("/v1/batch", {"batch": batch})] == ["id1", "id2", "m", 7]


AHEAD = "2026-03-31T13:00:00Z"  # an hour: what such a clock says when the request comes


@pytest.mark.parametrize(
    ("said", "timestamp", "original"),
    [
        ({}, RECEIVED, None),
        ({"timestamp": "2026-03-31T11:59:00Z"}, "2026-03-31T11:59:00Z", None),
        (
            {"timestamp": "2026-03-31T12:58:30.250Z", "sentAt": AHEAD},
            "2026-03-31T11:58:30.250Z",
            "2026-03-31T12:58:30.250Z",
        ),
        (
            {"timestamp": "2026-03-31T14:58:00+02:00", "sentAt": AHEAD},
            "2026-03-31T11:58:00.000Z",
            "2026-03-31T14:58:00+02:00",
        ),
        (
            {"originalTimestamp": "2026-03-31T12:59:00Z", "sentAt": AHEAD},
            "2026-03-31T11:59:00.000Z",
            "2026-03-31T12:59:00Z",
        ),
        ({"originalTimestamp": "2026-03-31T11:00:00Z"}, "2026-03-31T11:00:00Z", "2026-03-31T11:00:00Z"),
        ({"timestamp": 1774961940, "sentAt": 1774962000}, "2026-03-31T11:59:00.000Z", 1774961940),
        ({"timestamp": "yesterday", "sentAt": AHEAD}, "yesterday", None),
        ({"timestamp": "2026-03-31T11:59:00Z", "sentAt": "now"}, "2026-03-31T11:59:00Z", None),
        ({"timestamp": "", "sentAt": AHEAD}, RECEIVED, None),
        ({"timestamp": "0001-01-01T00:00:00Z", "sentAt": "9999-12-31T00:00:00Z"}, "0001-01-01T00:00:00Z", None),
    ],
)
def test_clock_of_the_sender_is_corrected(said: Mapping[str, object], timestamp: object, original: object) -> None:
    """An event happened as long before it came as it was old by its sender's clock; what is no time stays."""
    single = event(said)
    (in_batch,) = events("/v1/batch", {"batch": [{"type": "track", **said}], "sentAt": said.get("sentAt")})

    for found in (single, in_batch):
        assert (found["timestamp"], found.get("originalTimestamp")) == (timestamp, original)
        assert found["receivedAt"] == RECEIVED


def test_history_stays_as_it_is() -> None:
    """Imported events happened when they say, however long they waited to be sent."""
    said = {"type": "track", "timestamp": "2020-01-01T00:00:00Z"}

    (found,) = events("/v1/import", {"batch": [said], "sentAt": AHEAD})

    assert found["timestamp"] == "2020-01-01T00:00:00Z"
    assert "originalTimestamp" not in found


def test_sent_at_is_that_of_the_batch_unless_an_event_has_its_own() -> None:
    """Each event of a batch is corrected by when it was sent."""
    own = (NOON + timedelta(minutes=10)).isoformat()
    batch = [{"type": "track", "timestamp": AHEAD}, {"type": "track", "timestamp": AHEAD, "sentAt": own}]

    found = events("/v1/batch", {"batch": batch, "sentAt": AHEAD})

    assert [one["timestamp"] for one in found] == [RECEIVED, "2026-03-31T12:50:00.000Z"]
    assert [one["sentAt"] for one in found] == [AHEAD, own]


# The body as it comes


def collect(content: bytes, encoding: str | None, *, limit: int = MOST_IN_BATCH, step: int = 1000) -> bytes | Refusal:
    """Return a body that comes in pieces."""
    body = open_body(encoding, limit=limit)
    if isinstance(body, Refusal):
        return body
    for start in range(0, len(content), step):
        refusal = body.add(content[start : start + step])
        if refusal is not None:
            return refusal
    return body.whole()


@pytest.mark.parametrize("encoding", [None, "", "identity", "gzip", " GZIP ", "x-gzip"])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_body_is_put_together(encoding: str | None, step: int) -> None:
    """A body is the same however it is cut and packed."""
    content = bytes(range(256)) * 4
    sent = gzip.compress(content, mtime=0) if encoding and "gzip" in encoding.lower() else content

    assert collect(sent, encoding, step=step) == content


@pytest.mark.parametrize("packed", [False, True])
def test_limit_is_on_what_is_unpacked(packed: bool) -> None:
    """A body of exactly the limit fits, even if gzip makes it longer; one byte more does not."""
    encoding = "gzip" if packed else None
    for length, fits in ((1024, True), (1025, False)):
        content = bytes(length)
        for level in (0, 9):
            sent = gzip.compress(content, level, mtime=0) if packed else content
            assert (collect(sent, encoding, limit=1024, step=10) == content) is fits


@pytest.mark.parametrize(
    ("content", "encoding", "status", "expected"),
    [
        (b"{}", "br", 415, "unsupported Content-Encoding"),
        (b"{}", "gzip, gzip", 415, "unsupported Content-Encoding"),
        (b"{}", "gzip", 400, "the body is not valid gzip"),
        (b"", "gzip", 400, "the gzip body is truncated"),
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip", 400, "the gzip body is truncated"),
        (gzip.compress(b"{}", mtime=0)[:-8] + bytes(8), "gzip", 400, "the body is not valid gzip"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", 400, "data after the end of the gzip stream"),
        (gzip.compress(b"{}", mtime=0) * 2, "gzip", 400, "data after the end of the gzip stream"),
        (b"x" * (MOST_IN_BATCH + 1), None, 400, "the body is longer than 500 KB"),
    ],
)
def test_body_that_cannot_be_read(content: bytes, encoding: str | None, status: int, expected: str) -> None:
    """Each way in which a body can be wrong before it is JSON has its status and its words."""
    for step in (1, 5, 1_000_000) if len(content) < 100 else (1_000_000,):
        refusal = collect(content, encoding, step=step)
        assert isinstance(refusal, Refusal)
        assert refusal.status == status
        assert expected in refusal.message


@pytest.mark.slow
def test_bomb_costs_no_more_than_the_limit() -> None:
    """A gigabyte packed into a megabyte is refused when the limit is reached, and never unpacked."""
    packed = gzip.compress(bytes(200_000_000), 9)[:400_000]
    body = Body(MOST_IN_BATCH, packed=True)
    tracemalloc.start()
    try:
        refusal = body.add(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert refusal is not None
    assert "longer than 500 KB" in refusal.message
    assert len(body) == MOST_IN_BATCH + 1
    assert peak < 4 * MOST_IN_BATCH
