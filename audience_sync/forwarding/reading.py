"""A file of Segment events, read line by line: NDJSON, as it is or compressed with gzip.

A line that is not an event is a value, not an error: it is named by its number, and reading goes on. However long the
file or a line of it is, only the lines of one read (`_AT_ONCE` bytes) are held.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from audience_sync.errors import SourceError
from audience_sync.segment.segment_events import MOST_BYTES, TOO_LONG, Fault, NotAnEvent, SegmentEvent, read_event

STDIN: Final = "-"

_AT_ONCE: Final = 64 * 1024  # bytes
_TOO_LONG: Final = MOST_BYTES + 8  # bytes of a line: up to 7 need not belong to its event, such as a byte order mark
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
    """Yield what the lines of a file contain, in their order; blank lines are skipped, but counted.

    Raises:
        SourceError: the file cannot be read to its end; it says how far it could.
    """
    return chain.from_iterable(read_pages(stream, name=name))


def read_pages(stream: io.BufferedIOBase, *, name: str) -> Iterator[Iterator[Read | BadLine]]:
    """Yield what `read_events` does, each time what could be read without waiting; it must be consumed before the next.

    Raises:
        SourceError: as `read_events`.
    """
    number = 0
    rest = b""
    while True:
        try:
            piece = stream.read1(_AT_ONCE)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(_broken(name, number, error)) from error
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()[:_TOO_LONG] if piece else b""  # more of a line is not needed to refuse it
        # Lines are parsed one at a time as they are asked for: the memory of one event serves for the next.
        yield (found for at, line in enumerate(lines, number + 1) if (found := _read_line(at, line)))
        if not piece:
            return
        number += len(lines)


def _read_line(number: int, line: bytes) -> Read | BadLine | None:
    """Return what a line contains; None if it is blank."""
    text = (line.removeprefix(_BOM) if number == 1 else line).strip()
    if len(line) >= _TOO_LONG or len(text) > MOST_BYTES:
        return BadLine(number, *TOO_LONG)
    if not text:
        return None
    found = read_event(text)
    return BadLine(number, *found) if isinstance(found, NotAnEvent) else Read(number, *found)


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
