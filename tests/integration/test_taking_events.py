"""A file of events taken in pieces and delivered in windows, into each kind of database, and a pipe that never ends."""

from __future__ import annotations

import gzip
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import orjson
import pytest

from audience_sync.errors import SourceError
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api import event_files
from audience_sync.tracking_api.event_files import STDIN, BadLine, Forwarding, Tally, forward
from tests.factories import FrozenClock
from tests.sending import open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

MAPPING = """
[[mappings]]
name = "Track"
trigger = 'type = "track"'
action = "trackEvent"
[mappings.fields]
event_name = "done"
timestamp = "2026-11-23T12:00:00.000Z"
user_keys = { userId = { "@path" = "$.userId" } }
traits = { message_id = { "@path" = "$.messageId" } }
"""


@pytest.fixture(autouse=True)
def pieces_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take ten lines in a transaction, so that small files have many."""
    monkeypatch.setattr(event_files, "PIECE", 10)


def tracks(count: int, *, users: int = 7) -> list[dict[str, Any]]:
    """Return track events of some users."""
    return [{"type": "track", "messageId": f"m{n}", "userId": f"u{n % users}"} for n in range(count)]


def write(path: Path, events: Sequence[object]) -> str:
    """Write a file of events and return its path."""
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    return str(path)


class Took:
    """Runs a forwarding, and remembers how many events were kept at each delivery."""

    def __init__(self, workspace: Workspace, *, deliver: Callable[[], bool] = lambda: True) -> None:
        self.kept: list[int] = []
        self.bad: list[BadLine] = []
        self.lines: list[int] = []
        self.stop = threading.Event()
        self._workspace = workspace
        self._deliver = deliver

    def run(self, file: str, *, window: int = event_files.WINDOW) -> Tally:
        """Take a file."""
        told = Forwarding(
            file=file,
            deliver=self.deliver,
            on_bad=self.bad.append,
            on_progress=self.lines.append,
            window=window,
            stop=self.stop,
        )
        return forward(self._workspace, told)

    def deliver(self) -> bool:
        """Note how much is kept, and do what was asked for."""
        self.kept.append(kept(self._workspace))
        return self._deliver()


def kept(workspace: Workspace) -> int:
    """Return how many events are in the database."""
    with workspace.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM events").scalar_one())


@pytest.mark.slow
def test_windows_keep_the_database_small(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """However long the file is, no more than a window waits in the database; all arrives once, in order."""
    events = tracks(405)
    with open_sending(tmp_path, database, sandbox) as opened:
        sending = opened.with_mappings(MAPPING)
        took = Took(sending.workspace, deliver=lambda: sending.deliver().open == 0)
        sandbox.faults.set([FaultRule(rate=0.2, drop=True)])
        tally = took.run(write(tmp_path / "events", events), window=100)
        sending.deliver()

        told: dict[str, list[str]] = {}
        for event in sandbox.ledger.events():
            if event.status != "duplicate":
                body: Any = event.body
                told.setdefault(body["user"]["userId"], []).append(body["traits"]["message_id"])
    assert took.kept == [100, 100, 100, 100]
    assert (tally.lines, tally.read, tally.taken, tally.known, tally.bad) == (405, 405, 405, 0, 0)
    assert told == {f"u{u}": [e["messageId"] for e in events if e["userId"] == f"u{u}"] for u in range(7)}


def test_a_known_event_is_not_taken_again(tmp_path: Path, workspace: Workspace) -> None:
    """The same file again has nothing new; a longer one has what was added, and there is no window to deliver."""
    file = write(tmp_path / "events", [*tracks(30), *tracks(5)])
    first, again = Took(workspace).run(file), Took(workspace)
    second = again.run(file, window=1)
    third = Took(workspace).run(write(tmp_path / "events", tracks(40)))

    assert [(one.read, one.taken, one.known) for one in (first, second, third)] == [
        (35, 30, 5),
        (35, 0, 35),
        (40, 10, 30),
    ]
    assert again.kept == []
    assert kept(workspace) == 40


def test_after_a_delivery_in_vain_there_is_none_for_a_while(tmp_path: Path, workspace: Workspace) -> None:
    """While Schematic is away the rest of the file is read, and nobody waits after each window."""
    took = Took(workspace, deliver=lambda: False)
    tally = took.run(write(tmp_path / "events", tracks(100)), window=20)

    assert took.kept == [20]
    assert tally.taken == kept(workspace) == 100


def test_bad_lines_are_handed_over(tmp_path: Path, workspace: Workspace) -> None:
    """What is no event is told by its number, and what surrounds it is taken."""
    (tmp_path / "events").write_bytes(b'{"type":"page"}\nnope\n\n[]\n{"type":"track","userId":"u1"}')
    took = Took(workspace)
    tally = took.run(str(tmp_path / "events"))

    assert [one.line for one in took.bad] == [2, 4]
    assert (tally.lines, tally.read, tally.taken, tally.bad) == (5, 2, 2, 2)


def test_a_file_that_breaks_off(tmp_path: Path, workspace: Workspace) -> None:
    """What came before is taken, and the failure is told; a file that is not there has nothing."""
    (tmp_path / "events").write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, tracks(500))))[:-9])
    tally = Took(workspace).run(str(tmp_path / "events"))
    missing = Took(workspace).run(str(tmp_path / "none"))

    assert 0 < tally.taken == kept(workspace)
    assert isinstance(tally.failure, SourceError)
    assert (missing.lines, str(missing.failure)) == (0, f"file not found: {tmp_path / 'none'}")


@contextmanager
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Be who writes into standard input; in the end nobody reads there any more."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with os.fdopen(writing, "w", buffering=1) as writer:
            yield writer
        for thread in threading.enumerate():
            if thread.name == "reader":
                thread.join(10)


def test_what_comes_slowly_is_taken_and_delivered(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace, clock: FrozenClock
) -> None:
    """A pipe that stays open and is silent holds nothing back: neither the commit nor the delivery waits for more."""
    took = Took(workspace)
    with pipe(monkeypatch) as writer, ThreadPoolExecutor(1) as pool:
        tally = pool.submit(took.run, STDIN)
        try:
            for count in (1, 2):
                writer.write(f'{{"type":"track","userId":"u1","messageId":"m{count}"}}\n')
                wait_until(lambda count=count: kept(workspace) == count)  # type: ignore[misc]
                clock.advance(timedelta(seconds=event_files.LONGEST))
                wait_until(lambda count=count: took.kept[-1:] == [count])  # type: ignore[misc]
        finally:
            took.stop.set()
        assert tally.result(10).taken == 2


def test_delivery_is_tried_again_though_nothing_comes(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace, clock: FrozenClock
) -> None:
    """What an outage left open is tried again after a while, even if no other event ever comes."""
    took = Took(workspace, deliver=lambda: False)
    with pipe(monkeypatch) as writer, ThreadPoolExecutor(1) as pool:
        tally = pool.submit(took.run, STDIN, window=1)
        try:
            writer.write('{"type":"track"}\n')
            wait_until(lambda: took.kept == [1])

            def is_tried_again() -> bool:
                clock.advance(timedelta(seconds=event_files.PAUSE))
                return len(took.kept) > 1

            wait_until(is_tried_again)
        finally:
            took.stop.set()
        assert tally.result(10).taken == 1
        assert set(took.kept) == {1}
