"""A file of Segment events, read line by line: NDJSON, as it is or compressed with gzip.

A line that is not an event is a value, not an error: it is named by its number, and reading goes on. However long the
file or a line of it is, no more than one event is held.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from audience_sync.core.arrivals import MOST_BYTES, TOO_LONG, Fault, NotAnEvent, read_event
from audience_sync.core.destination.mappings import SegmentEvent
from audience_sync.errors import SourceError

STDIN: Final = "-"

_SKIPPED: Final = 128 * 1024  # bytes of a line that is far too long, at once
_MOST_KEPT: Final = MOST_BYTES + 8  # of a line: room for what is not of its event, a line ending and a mark in front
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


class BadLine(NamedTuple):
    """A line that is not an event; the sentence begins where its number ends."""

    line: int
    fault: Fault
    sentence: str


class Read(NamedTuple):
    """An event, the line it stands in, counted from 1, and its JSON without halves of characters."""

    line: int
    event: SegmentEvent
    text: bytes


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
            yield BadLine(number, *found) if isinstance(found, NotAnEvent) else Read(number, *found)


def _opened(file: str) -> io.BufferedReader:
    """Open a file; standard input gets a reader of its own, and stays open when that is closed.

    A thread may still be reading when the process ends, and then Python dies over the reader of `sys.stdin`.
    """
    if file == STDIN and sys.stdin is None:
        raise SourceError(f"{name_of(file)} is closed", hint="name a file, or pipe one in")
    try:
        return os.fdopen(sys.stdin.fileno(), "rb", closefd=False) if file == STDIN else Path(file).open("rb")
    except OSError as error:
        raise SourceError(_refused(name_of(file), error)) from error


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
