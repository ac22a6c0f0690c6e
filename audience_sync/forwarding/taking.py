"""Taking the events of a file into the membership database, and having them delivered before too many wait there.

A thread reads, at most one piece ahead; each piece is taken in one short transaction. After a window of them the caller
delivers, and reading goes on. So the database stays small however long the file is, and what comes slowly through a
pipe is committed within half a second and delivered within some more, whether or not anything follows.

Nothing is remembered of the file: read again, it has events that are known by their messageIds, and are not taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from audience_sync.errors import SourceError
from audience_sync.forwarding.reading import BadLine, name_of, open_events, read_pages
from audience_sync.segment.segment_events import Arrival, arrive
from audience_sync.store import events
from audience_sync.store.workspace import Workspace

WINDOW: Final = 24_000  # events that are taken between two deliveries
LONGEST: Final = 5.0  # seconds that a window takes, however few come
PAUSE: Final = 60.0  # seconds without deliveries after one that left something open
PIECE: Final = 8_000  # lines that are taken in one transaction
PIECE_TEXT: Final = 8 * 1024 * 1024  # or so many characters of events
PATIENCE: Final = 0.5  # seconds that a line waits for others of its piece


Line: TypeAlias = tuple[int, Arrival | BadLine]
"""The number of a line, and what it contains."""


@dataclass(frozen=True, kw_only=True)
class Forwarding:
    """What a forwarding is told."""

    file: str  # or `reading.STDIN`
    deliver: Callable[[], bool]  # between windows; False: something is left open, so not again soon
    on_bad: Callable[[BadLine], None]
    on_progress: Callable[[int], None]  # lines read so far
    window: int = WINDOW
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass
class Tally:
    """What became of the lines of a file."""

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
    clock = workspace.seams.monotonic
    waiting, ends_at, not_before = 0, 0.0, 0.0  # events of the window; when it ends; when to deliver again
    with closing(_Reader(forwarding.file)) as reader:
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
        taken = events.take(connection, arrivals, now_ms=workspace.seams.now_ms())
    workspace.seams.reach("forward.taken")
    return taken


def _count(tally: Tally, piece: _Piece, taken: int) -> None:
    tally.lines = piece.line or tally.lines
    tally.read += len(piece.arrivals)
    tally.taken += taken
    tally.bad += len(piece.bad)


class _Reader:
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
