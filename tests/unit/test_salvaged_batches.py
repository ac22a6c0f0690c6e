"""One bad event of a batch costs only itself: a library drops the whole batch that is answered with 400."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.segment.segment_events import MOST_BYTES, EventFault, NotAnEvent, RefusedEvent
from audience_sync.tracking_api.requests import ENDPOINTS, EventsRead, Pieces, Refusal, cut, read
from tests.factories import NOON

TYPES = "it must be one of identify, track, page, screen, group, alias"
NOT_JSON = "is not valid JSON: …"
GOOD = b'{"type":"track","event":"A","userId":"%s","messageId":"%s"}'
FIRST, LAST = GOOD % (b"u1", b"m1"), GOOD % (b"u3", b"m3")


def read_body(body: bytes, *, path: str = "/v1/batch", keys: tuple[bytes, ...] | None = None) -> EventsRead | Refusal:
    """Return what a body brings."""
    numbers = count(1)
    return read(body, ENDPOINTS[path], keys=keys, now=NOON, new_id=lambda: f"id{next(numbers)}")


def around(bad: bytes, *, path: str = "/v1/batch") -> EventsRead:
    """Return what a batch brings in which something is between two good events."""
    found = read_body(
        b'{"sentAt":"2026-03-31T12:00:00Z","batch":[' + FIRST + b", " + bad + b"\n," + LAST + b"]}", path=path
    )
    assert isinstance(found, EventsRead), found
    assert found.refusal is None
    return found


@pytest.mark.parametrize(
    ("bad", "kind", "message_id", "fault", "sentence"),
    [
        (b"null", "unknown", "", EventFault.NOT_AN_OBJECT, "is valid JSON, but not an object"),
        (b"[1]", "unknown", "", EventFault.NOT_AN_OBJECT, "is valid JSON, but not an object"),
        (b'"\\"]}"', "unknown", "", EventFault.NOT_AN_OBJECT, "is valid JSON, but not an object"),
        (b"{}", "unknown", "", EventFault.NO_TYPE, f"has no type: {TYPES}"),
        (b'{"type":"foo","messageId":"m2"}', "unknown", "m2", EventFault.UNKNOWN_TYPE, f"has the type 'foo': {TYPES}"),
        (b'{"type":["track"]}', "unknown", "", EventFault.UNKNOWN_TYPE, f"has a type that is not text: {TYPES}"),
        (
            b'{"type":"track","messageId":"m2","properties":"' + b"x" * MOST_BYTES + b'"}',
            "track",
            "m2",
            EventFault.TOO_LONG,
            "is longer than 32 KB, the maximum in Segment",
        ),
        (
            b'{"type":"track","p":' + b"[" * 300 + b"]" * 300 + b"}",
            "track",
            "",
            EventFault.TOO_DEEP,
            "is nested too deeply",
        ),
        (b"[" * 9000 + b"]" * 9000, "unknown", "", EventFault.TOO_DEEP, "is nested too deeply"),
        (b'{"type":"track","userId":"u\xff"}', "unknown", "", EventFault.NOT_UTF8, "is not valid UTF-8"),
        (b'{"type":"track","p":"\xed\xa0\xbd"}', "unknown", "", EventFault.NOT_UTF8, "is not valid UTF-8"),
        (b'{"type":"track","n":NaN}', "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b'{"type":"track","n":-Infinity}', "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b'{"type":"track","n":01}', "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b'{"type":"track","p":"a\tb\nc"}', "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b'{"type":"track",}', "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b"{'type':'track'}", "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b"undefined", "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (b"", "unknown", "", EventFault.NOT_JSON, NOT_JSON),
        (
            b'{"type":"track","properties":{"a":[1,{"n":-1e400}]}}',
            "unknown",
            "",
            EventFault.NUMBER_TOO_LARGE,
            "has a number beyond the range of a float at properties.a[1].n; send it as text",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_bad_event_costs_only_itself(
    bad: bytes, kind: str, message_id: str, fault: EventFault, sentence: str
) -> None:
    """Its neighbours are taken, and it is counted with its reason, its type and its messageId, if those are known."""
    for path in ("/v1/batch", "/v1/import"):
        found = around(bad, path=path)

        assert [(arrival.profile_key, arrival.message_id) for arrival in found.arrivals] == [("u1", "m1"), ("u3", "m3")]
        ((place, found_kind, found_id, why),) = found.refused
        assert (place, found_kind, found_id, why.fault) == (1, kind, message_id, fault)
        assert (
            re.sub(r"(valid JSON: ).*, (line 1, )?column \d+", r"\1…", why.sentence) == sentence
        )  # orjson's own words


@pytest.mark.parametrize(
    ("bad", "properties"),
    [
        (rb"hi \ud83d", "hi \ufffd"),
        (rb"\ude00 hi", "\ufffd hi"),
        (rb"\uD83D\ud83d\uDE00", "\ufffd\U0001f600"),
        (rb"\ud83d\n\ude00", "\ufffd\n\ufffd"),
        (rb"\\ud83d \\\ud83d \"\uDBFF\"", '\\ud83d \\\ufffd "\ufffd"'),
        (rb"\u0000\ud83dA", "\0\ufffdA"),
    ],
)
def test_half_a_character_is_replaced(bad: bytes, properties: str) -> None:
    """Half an emoji, which JavaScript's slice() leaves, is U+FFFD; whole ones and other escapes stay as they are."""
    found = around(GOOD[:-1] % (b"u2", b"m2") + b',"properties":{"t":"' + bad + b'"}}')
    (single,) = _arrivals(read_body(b'{"t":"' + bad + b'"}', path="/v1/track"))

    assert found.refused == []
    assert orjson.loads(found.arrivals[1].payload)["properties"] == {"t": properties}
    assert orjson.loads(single)["t"] == properties


def test_nothing_good_is_refused_whole() -> None:
    """A batch without any event is answered with what is wrong with the first, and each is counted all the same."""
    found = read_body(b'{"batch":[{"type":"foo"},7]}')

    assert isinstance(found, EventsRead)
    assert found.arrivals == []
    assert found.refusal == Refusal(400, f"batch[0] has the type 'foo': {TYPES}")
    assert found.refused == [
        RefusedEvent(0, "unknown", "", NotAnEvent(EventFault.UNKNOWN_TYPE, f"has the type 'foo': {TYPES}")),
        RefusedEvent(1, "unknown", "", NotAnEvent(EventFault.NOT_AN_OBJECT, "is valid JSON, but not an object")),
    ]


def test_what_the_batch_says_for_all_is_kept() -> None:
    """Context, times and the write key are those of the batch, also where it had to be cut."""
    body = b'{"writeKey":"wk","context":{"b":[{"batch":[1]}]},"batch":[{"type":"track","n":NaN},' + LAST + b"]}"
    found = read_body(body, keys=(b"wk",))
    in_event = read_body(b'{"batch":[NaN,{"type":"track","writeKey":"wk"}]}', keys=(b"wk",))
    unknown = read_body(b'{"batch":[NaN,' + LAST + b"]}", keys=(b"wk",))

    assert [orjson.loads(one)["context"] for one in _arrivals(found)] == [{"b": [{"batch": [1]}]}]
    assert len(_arrivals(in_event)) == 1
    assert unknown == Refusal(401, "the write key is missing or unknown")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b'{"batch":[{"a":NaN}',
        b'{"batch":[{"a":NaN]}',
        b'{"batch":[{"a":NaN}}]',
        b'{"batch":[{"a":NaN}]}]',
        b'{"batch":[{"a":"NaN}]}',
        b'{"batch":[{"a":"\\"}]}',
        b'{"batch":[NaN],"batch":[NaN]}',
        b'{"events":[NaN]}',
        b'{"x":{"batch":[NaN]}}',
        b'{"x":"batch","y":[NaN]}',
        b'["batch",[NaN]]',
        b'{"batch":{"a":NaN}}',
        b'{"batch":[NaN],"x":NaN}',
        b'x{"batch":[NaN]}',
        b'{"batch":[NaN]}x',
    ],
)
def test_what_is_not_a_batch_is_refused(body: bytes) -> None:
    """A body that is not a batch of anything is 400, whatever can be read of it."""
    found = read_body(body)

    assert isinstance(found, Refusal)
    assert found.status == 400


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["batch", "a", "]", '"']), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "b]", '"']), JSON), st.lists(JSON), st.booleans())
def test_pieces_are_what_the_json_says(envelope: dict[str, Any], events: list[Any], first: bool) -> None:
    """A batch that is valid JSON is cut into exactly its events and the rest of its body."""
    body = {"batch": events, **envelope} if first else {**envelope, "batch": events}
    for option in (0, orjson.OPT_INDENT_2):
        pieces = cut(orjson.dumps(body, option=option))

        assert isinstance(pieces, Pieces)
        assert orjson.loads(pieces.envelope) == {**body, "batch": []}
        assert [orjson.loads(piece) for piece in pieces.events] == events


@given(st.binary(max_size=60) | st.text('{}[],:"\\ batch', max_size=60).map(str.encode))
def test_any_bytes_are_cut_or_not(body: bytes) -> None:
    """No body makes the cutting fail."""
    pieces = cut(body)

    assert pieces is None or sum(map(len, pieces.events)) <= len(body)


def test_an_endless_string_takes_no_longer_than_its_length() -> None:
    """A sender cannot keep the reader busy with quotes that never end."""
    assert cut(b'{"batch":["' + b'\\"' * 250_000) is None


def _arrivals(found: EventsRead | Refusal) -> list[str]:
    assert isinstance(found, EventsRead), found
    return [arrival.payload for arrival in found.arrivals]
