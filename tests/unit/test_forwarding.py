"""Segment events read line by line: what is an event, what is not, how far a file goes, and what an event comes to."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import threading
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.destinations.mappings import make_mapping, presets
from audience_sync.destinations.schematic.schematic_actions import ACTIONS, TRACK_EVENT
from audience_sync.destinations.schematic.wire_format import with_key
from audience_sync.errors import SourceError
from audience_sync.segment.segment_events import MOST_BYTES, TYPES
from audience_sync.tracking_api.event_files import BadLine, EventPreview, Read, open_events, preview, read_events

MUST = "it must be one of identify, track, page, screen, group, alias"
TOO_LARGE = "has a number beyond the range of a float at"
TOO_LONG = "is longer than 32 KB, the maximum in Segment"


def read(content: bytes) -> list[Read | BadLine]:
    """Return what stands in a file with this content."""
    return list(read_events(io.BufferedReader(io.BytesIO(content)), name="events"))


def read_file(path: Path | str) -> list[Read | BadLine]:
    """Return what stands in a file."""
    with open_events(str(path)) as stream:
        return list(read_events(stream, name="events"))


def read_as(number: int, event: dict[str, Any]) -> Read:
    """Return an event as it is read from the line that json.dumps makes of it."""
    return Read(number, event, json.dumps(event).encode())


def event_of(length: int) -> bytes:
    """Return an event that is so long."""
    start, end = b'{"type":"page","name":"', b'"}'
    return start + b"x" * (length - len(start) - len(end)) + end


def show(event: dict[str, Any], *mappings: Any) -> EventPreview:
    """Return what mappings, or the presets, make of an event in line 7."""
    posted = partial(with_key, api_key="(key)")
    return preview(read_as(7, event), mappings or presets(ACTIONS.values()), destination="Schematic", posted=posted)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_segment_is_an_event(kind: str) -> None:
    """Identify, track, page, screen, group and alias are read as they are."""
    event: dict[str, Any] = {"type": kind, "messageId": "m1", "integrations": {"All": False}}

    assert read(json.dumps(event).encode()) == [read_as(1, event)]


@pytest.mark.parametrize(
    ("line", "fault", "sentence"),
    [
        (b"hello", "not_json", None),
        (b'{"type":"page"', "not_json", None),
        (b'{"type": "page"} {"type": "page"}', "not_json", None),
        (b'{"type":"page","n":NaN}', "not_json", None),
        (b"{'type': 'page'}", "not_json", None),
        (b'{"type":"page","name":"\xff"}', "not_utf8", "is not valid UTF-8"),
        ('{"type": "page"}'.encode("utf-16"), "not_utf8", "is not valid UTF-8"),
        (b'{"type":"page","p":{"n":1e400}}', "number_too_large", f"{TOO_LARGE} p.n; send it as text"),
        (b"[" * 2000, "too_deep", "is nested too deeply"),
        (b"[]", "not_an_object", "is valid JSON, but not an object"),
        (b'"page"', "not_an_object", "is valid JSON, but not an object"),
        (b"null", "not_an_object", "is valid JSON, but not an object"),
        (b"{}", "no_type", f"has no type: {MUST}"),
        (b'{"type":null}', "no_type", f"has no type: {MUST}"),
        (b'{"type":""}', "no_type", f"has no type: {MUST}"),
        (b'{"batch":[{"type": "page"}]}', "no_type", f"has no type: {MUST}"),
        (b'{"type":"Page"}', "unknown_type", f"has the type 'Page': {MUST}"),
        (b'{"type":"\\u001b[2J"}', "unknown_type", f"has the type '\\x1b[2J': {MUST}"),
        (b'{"type":"%s"}' % (b"p" * 999), "unknown_type", f"has the type '{'p' * 20}'…: {MUST}"),
        (b'{"type":["page"]}', "unknown_type", f"has a type that is not text: {MUST}"),
        (b'{"type":1}', "unknown_type", f"has a type that is not text: {MUST}"),
    ],
)
def test_a_bad_line_is_told_and_passed_over(line: bytes, fault: str, sentence: str | None) -> None:
    """A line that is no event has its number and one sentence, and the lines around it are read."""
    good = b'{"type": "page"}'
    before, bad, after = read(b"\n".join([good, line, good]))

    assert (before, after) == (read_as(1, {"type": "page"}), read_as(3, {"type": "page"}))
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.fault) == (2, fault)
    assert bad.sentence == sentence if sentence else re.fullmatch(r"is not valid JSON: .+, column \d+", bad.sentence)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"   \r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_an_event_has_at_most_32_kb(mark: bytes, ending: bytes) -> None:
    """The limit is that of the event: what surrounds it on its line does not count."""
    (longest,) = read(mark + event_of(MOST_BYTES) + ending)
    (longer,) = read(mark + event_of(MOST_BYTES + 1) + ending)

    assert isinstance(longest, Read)
    assert longer == BadLine(1, "too_long", TOO_LONG)  # type: ignore[arg-type]  # a StrEnum is its text


def test_what_follows_a_long_line_is_read() -> None:
    """A line that is far too long is one bad line, whatever its beginning looks like, and the next is the next."""
    good = b'{"type": "page"}'
    found = read(b"\n".join([event_of(1_000_000), good + b" " * MOST_BYTES + b"rubbish", good, event_of(300_000)]))

    assert found == [BadLine(1, "too_long", TOO_LONG), BadLine(2, "too_long", TOO_LONG),  # type: ignore[arg-type]
                     read_as(3, {"type": "page"}), BadLine(4, "too_long", TOO_LONG)]  # type: ignore[arg-type]  # fmt: skip


class Trickle(io.BytesIO):
    """A file of which a read returns a few bytes."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._most = most

    def read1(self, _size: int | None = -1, /) -> bytes:
        """Return a few bytes, or none at the end."""
        return super().read1(self._most)


LINES = [
    b'{"type":"page"}',
    b"nope",
    b"",
    b" \r",
    b'{"type":"track"}\r',
    event_of(MOST_BYTES),
    event_of(70_000),
    b" " * 33_000,
]


@given(st.lists(st.sampled_from(LINES), max_size=6), st.booleans(), st.sampled_from([997, 16_384, MOST_BYTES + 8]))
def test_lines_do_not_depend_on_how_they_arrive(lines: list[bytes], ends: bool, most: int) -> None:
    """Whatever a pipe returns at once, the lines and their numbers are the same."""
    content = b"\n".join(lines) + b"\n" * ends

    assert list(read_events(Trickle(content, most), name="pipe")) == read(content)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n \r\n\t\n\n", b"\xef\xbb\xbf\n"])
def test_blank_lines_are_nothing(content: bytes) -> None:
    """An empty file, and one of blank lines, has no events and no bad lines."""
    assert read(content) == []


def test_blank_lines_are_counted() -> None:
    """A number is that of the line in the file, as an editor shows it."""
    found = read(b'\n\r\n{"type": "page"}\r\n   \n\nnope\n')

    assert [one.line for one in found] == [3, 6]


@pytest.mark.parametrize(
    "compress",
    [
        bytes,
        gzip.compress,
        lambda content: b"".join(gzip.compress(line) for line in content.splitlines(keepends=True)),
    ],
    ids=["plain", "gzip", "gzip in pieces"],
)
def test_gzip_is_recognised(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """What is compressed is known by its first bytes, not by its name."""
    events = [{"type": "track", "event": f"e{n}"} for n in range(500)]
    path = tmp_path / "events"
    path.write_bytes(compress("".join(json.dumps(event) + "\n" for event in events).encode()))

    assert read_file(path) == [read_as(number, event) for number, event in enumerate(events, 1)]


@pytest.mark.parametrize("first", [1, 2, 10])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_standard_input_in_pieces(
    monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes], first: int
) -> None:
    """Gzip is recognised on standard input, too, even if the pipe has only one byte at first."""
    content = compress(b'{"type": "page"}\n')
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", stdin)
        pipe.write(content[:first])
        with open_events("-") as stream:
            pipe.write(content[first:])
            pipe.close()
            found = list(read_events(stream, name="-"))

        assert found == [read_as(1, {"type": "page"})]
        assert not stdin.closed


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started without standard input says so."""
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(SourceError, match=r"^standard input is closed$"):
        read_file("-")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, is a directory or refuses to be read is one sentence."""
    for path, said in [
        (tmp_path / "none", f"file not found: {tmp_path / 'none'}"),
        (tmp_path, f"{tmp_path} is a directory, not a file of events"),
        (Path("/proc/self/mem"), "/proc/self/mem cannot be read: input/output error"),
    ]:
        with pytest.raises(SourceError) as caught:
            read_file(path)

        assert str(caught.value) == said


def test_gzip_that_breaks_off(tmp_path: Path) -> None:
    """Every line before the break is read, and the error says which was the last."""
    whole = gzip.compress(b"".join(event_of(100 + n % 7) + b"\n" for n in range(20_000)), compresslevel=0)
    path = tmp_path / "events.gz"
    path.write_bytes(whole[: len(whole) // 2])
    seen: list[Read | BadLine] = []
    with pytest.raises(SourceError) as caught, open_events(str(path)) as stream:
        seen.extend(read_events(stream, name="events.gz"))

    assert len(seen) > 9_000
    assert str(caught.value) == f"events.gz cannot be read beyond line {len(seen)}: its gzip data is truncated"


@pytest.mark.parametrize(
    "content",
    [b"\x1f", b"\x1f\x8b", b"\x1f\x8brubbish and more", gzip.compress(b"", mtime=0)[:-3]],
    ids=["one byte", "the mark alone", "rubbish", "cut off"],
)
def test_gzip_without_a_line(tmp_path: Path, content: bytes) -> None:
    """Gzip in which no line can be read is an error, not an empty file."""
    (tmp_path / "events.gz").write_bytes(content)

    with pytest.raises(SourceError, match=r"^events cannot be read at all: its gzip data is (truncated|corrupt)$"):
        read_file(tmp_path / "events.gz")


def test_gzip_with_rubbish_behind(tmp_path: Path) -> None:
    """What is no gzip behind gzip is damage, told after the lines before it; zeros that fill a block are none."""
    good = gzip.compress(b'{"type": "page"}\n')
    (tmp_path / "padded").write_bytes(good + bytes(512))
    (tmp_path / "odd").write_bytes(good + b"rubbish")

    assert read_file(tmp_path / "padded") == [read_as(1, {"type": "page"})]
    with pytest.raises(SourceError, match=r"^events cannot be read beyond line 1: its gzip data is corrupt$"):
        read_file(tmp_path / "odd")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file() -> None:
    """One event is held at a time, and of a line without end only a piece, compressed or not."""

    def write(pipe: io.FileIO) -> None:
        with pipe, gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=1) as packed:
            for _ in range(20):
                packed.write(b"".join(event_of(1000) + b"\n" for _ in range(1000)))
            for _ in range(20):
                packed.write(b" " * 1_000_000)

    reading, writing = os.pipe()
    writer = threading.Thread(target=write, args=[io.FileIO(writing, "wb")])
    writer.start()
    with open_events(f"/dev/fd/{reading}") as stream:
        os.close(reading)
        tracemalloc.start()
        lines = sum(1 for _ in read_events(stream, name="pipe"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    writer.join()

    assert lines == 20_001
    assert peak < 8_000_000


def test_a_preview_has_all_that_would_be_sent_and_why_there_is_no_more() -> None:
    """Mappings that match are named in the order of the configuration, with a body or the reason for none."""
    event = {"type": "track", "event": "Signed Up", "messageId": "m1", "userId": "u1", "timestamp": 0}
    track = TRACK_EVENT
    fields: dict[str, Any] = {"timestamp": {"@path": "$.timestamp"}, "user_keys": {"id": {"@path": "$.userId"}}}
    nameless = make_mapping("Nameless", trigger='type = "track"', action=track, fields=fields)
    whole = make_mapping("Whole", trigger='type = "track"', action=track, fields={**fields, "event_name": "up"})
    other = make_mapping("Other", trigger='type = "page"', action=track, fields=fields)
    off = make_mapping("Off", trigger='type = "track"', action=track, fields=fields, enabled=False)
    seen = show(event, other, nameless, off, whole)

    assert (seen.line, seen.type, seen.message_id) == (7, "track", "m1")
    assert seen.matched == ["Nameless", "Whole"]
    assert [(name, json.loads(text)) for name, text in seen.bodies] == [
        ("Whole", {"api_key": "(key)", "type": "track", "sent_at": "1970-01-01T00:00:00.000Z",
                   "body": {"user": {"id": "u1"}, "event": "up"}}),
    ]  # fmt: skip
    assert seen.codes == ["Nameless: missing_field"]
    assert seen.reasons == ["Nameless: missing_field: the field event_name is missing, but trackEvent requires it"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"type": "alias", "userId": "u1"}, "no_matching_mapping"),
        ({"type": "identify", "integrations": {"All": False}}, "filtered_by_integrations_object"),
        ({"type": "identify", "integrations": {"All": False, "schematic": True}}, "unknown_integration"),
    ],
)
def test_an_event_that_is_sent_to_nobody_has_one_reason(event: dict[str, Any], reason: str) -> None:
    """What no mapping takes, or the event itself forbids, is told by its code alone."""
    seen = show(event)

    assert (seen.matched, seen.bodies, seen.codes, seen.reasons) == ([], [], [reason], [reason])


@pytest.mark.parametrize("message_id", [None, 7, {"a": 1}, ["m"]])
def test_a_message_id_is_text_or_nothing(message_id: object) -> None:
    """An event whose messageId is no text is shown without one."""
    assert show({"type": "alias", "messageId": message_id}).message_id is None


def test_an_event_that_nests_deep_is_no_trouble() -> None:
    """As deep as JSON may nest at all, an event has its preview: a body, or the reason for none."""
    line = b'{"type":"identify","userId":"u1","timestamp":0,"traits":%s1%s}' % (b'{"a":' * 1000, b"}" * 1000)
    (found,) = read(line)

    assert isinstance(found, Read)
    shown = preview(found, presets(ACTIONS.values()), destination="Schematic", posted=str)
    assert [reason.split(":")[1] for reason in shown.reasons] == [" unencodable"]
