"""A file of Segment events, read line by line: NDJSON, as it is or compressed with gzip.

A line that is not an event is a value, not an error: it is named by its number, and reading goes on. However long the
file or a line of it is, only the lines of one read (`_AT_ONCE` bytes) are held. `preview` shows what the mappings make
of an event; nothing is sent.

`forward` takes the events into the membership database. A thread reads, at most one piece ahead; each piece is taken in
one short transaction. After a window of them the caller delivers, and reading goes on. So the database stays small
however long the file is, and events that come slowly through a pipe are committed within half a second and delivered
some seconds later, whether or not anything follows. Nothing is remembered of the file: read again, it has events that
are known by their messageIds, and are not taken.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from audience_sync.destinations.actions import BodyRejection
from audience_sync.destinations.mappings import Mapping, judge
from audience_sync.errors import SourceError
from audience_sync.segment.segment_events import (
    MOST_BYTES,
    TOO_LONG,
    Arrival,
    EventFault,
    NotAnEvent,
    SegmentEvent,
    arrive,
    read_event,
)
from audience_sync.store import events
from audience_sync.store.workspace import Workspace

STDIN: Final = "-"

_AT_ONCE: Final = 64 * 1024  # bytes
_TOO_LONG: Final = MOST_BYTES + 8  # bytes of a line: up to 7 need not belong to its event, such as a byte order mark
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


class BadLine(NamedTuple):
    """A line that is not an event; the sentence begins where its number ends."""

    line: int
    fault: EventFault
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
        raise SourceError(f"{name_of(file)} is closed", hint="pass a file, or pipe events to standard input")
    try:
        return os.fdopen(sys.stdin.fileno(), "rb", closefd=False) if file == STDIN else Path(file).open("rb")
    except OSError as error:
        raise SourceError(_refused(name_of(file), error)) from error


def _refused(name: str, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return f"file not found: {name}"
        case IsADirectoryError():
            return f"{name} is a directory, not a file of events"
        case _:
            return f"{name} cannot be read: {(error.strerror or str(error)).lower()}"


def _broken(name: str, number: int, error: Exception) -> str:
    """Say how far a file could be read."""
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        why = (error.strerror or str(error)).lower()
    else:
        why = "its gzip data is truncated" if isinstance(error, EOFError) else "its gzip data is corrupt"
    return f"{name} cannot be read {f'beyond line {number}' if number else 'at all'}: {why}"


class EventPreview(NamedTuple):
    """The result of one event, if it were forwarded.

    `matched` are the names of the enabled mappings whose trigger it matches, in the order of the configuration;
    `bodies` are the JSON texts of what would be posted to ``/e``, each with the name of its mapping.
    """

    line: int
    type: str
    message_id: str | None  # None as well if it is not text
    matched: list[str]
    bodies: list[tuple[str, str]]
    rejections: list[tuple[str, BodyRejection]]
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


def preview(read: Read, mappings: Sequence[Mapping], *, destination: str, posted: Callable[[str], str]) -> EventPreview:
    """Return what the mappings make of an event; `posted` returns a body as the destination would get it."""
    event = read.event
    verdict = judge(event, mappings, destination=destination)
    bodies = [(mapping.name, posted(made.text.decode())) for mapping, made in verdict.bodies]
    answered = {mapping.name for mapping, _ in (*verdict.bodies, *verdict.rejections)}
    matched = [mapping.name for mapping in mappings if mapping.name in answered]
    message_id = event.get("messageId")
    return EventPreview(
        line=read.line,
        type=str(event["type"]),
        message_id=message_id if isinstance(message_id, str) else None,
        matched=matched,
        bodies=bodies,
        rejections=[(mapping.name, rejection) for mapping, rejection in verdict.rejections],
        kept_away=verdict.kept_away,
    )


WINDOW: Final = 24_000  # events that are taken between two deliveries
LONGEST: Final = 5.0  # seconds that a window takes, however few come
PAUSE: Final = 60.0  # seconds without deliveries after one that left something open
PIECE: Final = 8_000  # lines that are taken in one transaction
PIECE_TEXT: Final = 8 * 1024 * 1024  # characters of events, if that is reached first
PATIENCE: Final = 0.5  # seconds that a line waits for others of its piece


Line: TypeAlias = tuple[int, Arrival | BadLine]
"""The number of a line, and what it contains."""


@dataclass(frozen=True, kw_only=True)
class Forwarding:
    """The options of a forwarding."""

    file: str  # or `STDIN`
    deliver: Callable[[], bool]  # between windows; False: something is left open, so not again soon
    on_bad: Callable[[BadLine], None]
    on_progress: Callable[[int], None]  # lines read so far
    window: int = WINDOW
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass
class Tally:
    """The counts of the lines of a file."""

    lines: int = 0  # of the file so far, blank ones included
    read: int = 0  # lines that are events
    taken: int = 0  # of these new, and kept
    bad: int = 0
    failure: SourceError | None = None  # why the file was not read to its end

    @property
    def known(self) -> int:
        """Return how many events had arrived within the last seven days, and were not taken again."""
        return self.read - self.taken


class _Piece:
    """Lines that are taken together."""

    def __init__(self) -> None:
        self.line = 0  # the last one
        self.text = 0  # characters of its events
        self.arrivals: list[Arrival] = []
        self.bad: list[BadLine] = []

    def __len__(self) -> int:
        return len(self.arrivals) + len(self.bad)

    def is_full(self) -> bool:
        """Return whether it is to be taken before more is added."""
        return len(self) >= PIECE or self.text >= PIECE_TEXT

    def fill(self, lines: Sequence[Line]) -> int:
        """Add the first of some numbered lines until the piece is full; return how many."""
        count = 0
        for line, entry in lines[: PIECE - len(self)]:
            if self.text >= PIECE_TEXT:
                break
            self.line = line
            count += 1
            if isinstance(entry, BadLine):
                self.bad.append(entry)
            else:
                self.arrivals.append(entry)
                self.text += len(entry.payload)
        return count


def forward(workspace: Workspace, forwarding: Forwarding) -> Tally:
    """Take the events of a file, and deliver between windows; those of the last are left to be delivered.

    Ends with the file, where it cannot be read any further, or when told to stop.
    """
    tally = Tally()
    clock = workspace.clock.monotonic
    waiting, ends_at, not_before = 0, 0.0, 0.0  # events of the window; when it ends; when to deliver again
    with closing(_FileReader(forwarding.file)) as reader:
        while not forwarding.stop.is_set() and (piece := reader.next()) is not None:
            if not waiting:
                ends_at = clock() + LONGEST
            taken = _take(workspace, piece.arrivals)
            _count(tally, piece, taken)
            for bad in piece.bad:
                forwarding.on_bad(bad)
            forwarding.on_progress(tally.lines)
            waiting += taken
            is_over = waiting >= forwarding.window or (waiting and clock() >= ends_at)
            if is_over and clock() >= not_before:
                if forwarding.deliver():
                    waiting = 0
                else:
                    not_before = clock() + PAUSE
        tally.failure = reader.failure
    return tally


def _take(workspace: Workspace, arrivals: Sequence[Arrival]) -> int:
    """Keep the events that are new, and return how many are."""
    if not arrivals:
        return 0
    with workspace.database.write() as connection:
        taken = events.take(connection, arrivals, now_ms=workspace.clock.now_ms())
    workspace.reach("forward.taken")
    return taken


def _count(tally: Tally, piece: _Piece, taken: int) -> None:
    tally.lines = piece.line or tally.lines
    tally.read += len(piece.arrivals)
    tally.taken += taken
    tally.bad += len(piece.bad)


class _FileReader:
    """Reads a file in a thread of its own, at most one piece ahead.

    The thread is a daemon: whoever stops does not wait for a pipe in which nothing comes.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._piece = _Piece()
        self._is_over = False
        self._is_closed = False
        self._crash: BaseException | None = None
        self.failure: SourceError | None = None
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def next(self) -> _Piece | None:
        """Return the next lines: a whole piece, or what came soon enough, if anything; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._piece.is_full(), PATIENCE)
            if self._crash is not None:
                raise self._crash
            if self._is_over and not self._piece:
                return None
            piece, self._piece = self._piece, _Piece()
            self._changed.notify_all()
            return piece

    def close(self) -> None:
        """Read no further."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        """Read; whatever ends it is handed to the thread that takes."""
        try:
            self._read()
        except SourceError as error:
            self.failure = error
        except BaseException as error:  # noqa: BLE001 - handed over, and raised there
            self._crash = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _read(self) -> None:
        with open_events(self._file) as stream:
            for page in read_pages(stream, name=name_of(self._file)):
                lines: Sequence[Line] = [
                    (one.line, one if isinstance(one, BadLine) else arrive(one.event, one.text)) for one in page
                ]
                while lines and not self._is_closed:
                    lines = self._hand_over(lines)
                if self._is_closed:
                    return

    def _hand_over(self, lines: Sequence[Line]) -> Sequence[Line]:
        """Add lines to the piece once it is not full, and return those that are left."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._piece.is_full())
            count = self._piece.fill(lines)
            self._changed.notify_all()
            return lines[count:]
