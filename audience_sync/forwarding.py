"""Segment events in a file: reading them line by line, and what the mappings make of each.

A file has one JSON object a line (NDJSON), as it is or compressed with gzip. A line that is no event is a value, not an
error: it is told by its number, and reading goes on. However long the file or a line of it is, no more than one event
is held. Nothing is sent from here.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple, cast

import orjson

from audience_sync.core.arrivals import MOST_BYTES, TOO_LONG, Fault, NotAnEvent, read_event
from audience_sync.core.destination.actions import Rejection
from audience_sync.core.destination.mappings import Mapping, SegmentEvent, judge
from audience_sync.core.events import with_key
from audience_sync.errors import SourceError

STDIN: Final = "-"

_SKIPPED: Final = 128 * 1024  # bytes of a line that is far too long, at once
_MOST_KEPT: Final = MOST_BYTES + 8  # of a line: room for what is not of its event, a line ending and a mark in front
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


class BadLine(NamedTuple):
    """A line that is no event; the sentence begins where its number ends."""

    line: int
    fault: Fault
    sentence: str


class Read(NamedTuple):
    """An event, the line it stands in, counted from 1, and its JSON."""

    line: int
    event: SegmentEvent
    text: bytes


class Preview(NamedTuple):
    """What one event would come to.

    `matched` are the names of the enabled mappings whose trigger it matches, in the order of the configuration;
    `bodies` are the JSON texts of what would be posted to ``/e``, each with the name of its mapping.
    """

    line: int
    type: str
    message_id: str | None  # None as well if it is no text
    matched: list[str]
    bodies: list[tuple[str, str]]
    rejections: list[tuple[str, Rejection]]
    kept_away: str | None

    @property
    def codes(self) -> list[str]:
        """Return why nothing, or nothing more, is sent: `reasons` without their sentences."""
        return [self.kept_away] if self.kept_away else [f"{name}: {one.reason}" for name, one in self.rejections]

    @property
    def reasons(self) -> list[str]:
        """Return why nothing, or nothing more, is sent.

        ``no_matching_mapping``, ``filtered_by_integrations_object`` and ``unknown_integration`` speak of the event and
        stand alone. A mapping that matches and can make no body is ``name: code: sentence``, where the code is one of
        `RejectionReason`.
        """
        if self.kept_away:
            return [self.kept_away]
        return [f"{name}: {one.reason}: {one.sentence}" for name, one in self.rejections]


@contextmanager
def open_events(file: str) -> Iterator[io.BufferedIOBase]:
    """Open a file, or standard input for ``-``; what begins as gzip does is decompressed as it is read.

    Raises:
        SourceError: there is no such file, or it cannot be read.
    """
    with _opened(file) as raw:
        try:
            first = raw.peek(len(_GZIP))[: len(_GZIP)]
        except OSError as error:
            raise SourceError(_refused(name_of(file), error)) from error
        # One byte may be all that a pipe has yet; no JSON begins with this one.
        if first and _GZIP.startswith(first):
            yield gzip.GzipFile(fileobj=raw)
        else:
            yield raw


def name_of(file: str) -> str:
    """Return what sentences call a file."""
    return "standard input" if file == STDIN else file


def read_events(stream: io.BufferedIOBase, *, name: str) -> Iterator[Read | BadLine]:
    """Yield what stands in the lines of a file, in their order; blank lines are passed over, and counted as lines.

    Raises:
        SourceError: the file cannot be read to its end; it says how far it could.
    """
    for number, line in _lines(stream, name=name):
        text = line and (line.removeprefix(_BOM) if number == 1 else line).strip()
        if text is None or len(text) > MOST_BYTES:
            yield BadLine(number, *TOO_LONG)
        elif text:
            found = read_event(text)
            yield BadLine(number, *found) if isinstance(found, NotAnEvent) else Read(number, found, text)


def preview(read: Read, mappings: Sequence[Mapping], *, api_key: str) -> Preview:
    """Return what the mappings make of an event; `api_key` is what the bodies have in the place of the key."""
    event = read.event
    verdict = judge(event, mappings)
    bodies = [
        (mapping.name, with_key(orjson.dumps(body).decode(), api_key=api_key)) for mapping, body in verdict.bodies
    ]
    answered = {mapping.name for mapping, _ in (*verdict.bodies, *verdict.rejections)}
    matched = [mapping.name for mapping in mappings if mapping.name in answered]
    message_id = event.get("messageId")
    return Preview(
        line=read.line,
        type=str(event["type"]),
        message_id=message_id if isinstance(message_id, str) else None,
        matched=matched,
        bodies=bodies,
        rejections=[(mapping.name, rejection) for mapping, rejection in verdict.rejections],
        kept_away=verdict.kept_away,
    )


def _opened(file: str) -> AbstractContextManager[io.BufferedReader]:
    """Open a file; standard input is open, and stays so."""
    if file == STDIN:
        if sys.stdin is None:
            raise SourceError(f"{name_of(file)} is closed", hint="name a file, or pipe one in")
        return nullcontext(cast("io.BufferedReader", sys.stdin.buffer))
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise SourceError(_refused(file, error)) from error


def _lines(stream: io.BufferedIOBase, *, name: str) -> Iterator[tuple[int, bytes | None]]:
    """Yield lines with their numbers; None for one that is far too long."""
    number = 0
    while True:
        try:
            line: bytes | None = stream.readline(_MOST_KEPT)
            if line and len(line) == _MOST_KEPT and not line.endswith(b"\n"):
                line = None
                while (rest := stream.readline(_SKIPPED)) and not rest.endswith(b"\n"):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(_broken(name, number, error)) from error
        if line == b"":
            return
        number += 1
        yield number, line


def _refused(name: str, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return f"there is no file {name}"
        case IsADirectoryError():
            return f"{name} is a directory, not a file of events"
        case _:
            return f"{name} cannot be read: {(error.strerror or str(error)).lower()}"


def _broken(name: str, number: int, error: Exception) -> str:
    """Say how far a file could be read."""
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        why = (error.strerror or str(error)).lower()
    else:
        why = "its gzip data end too early" if isinstance(error, EOFError) else "its gzip data are damaged"
    return f"{name} cannot be read {f'beyond line {number}' if number else 'at all'}: {why}"
