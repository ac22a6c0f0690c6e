"""The high-water mark: a backup is known as one whenever it was taken, and nothing is sent before the mark knows."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from audience_sync.errors import DatabaseOlder, MarkUnusable
from audience_sync.store import backup_mark, dead_letters, generations, holders, restored_backup
from audience_sync.store.database import Database, connect, file_of, highwater_of
from audience_sync.store.workspace import Workspace
from tests.ingesting import TRACK, kept
from tests.ingesting import sending as sending_to
from tests.sending import SHORTEST, Sending, open_sending
from tests.support.faulty_sandbox import FaultySandbox

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
pytestmark = ON_SQLITE

MEMBERS = [f"u{n}" for n in range(30)]
LATER = [f"u{n}" for n in range(10, 40)]
EVENTS = [{**TRACK, "userId": f"u{n}", "messageId": f"m{n}", "timestamp": "2026-03-01T00:00:00Z"} for n in range(3)]


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """An audience, and events that are forwarded."""
    with open_sending(tmp_path, database, sandbox) as opened:
        yield opened


def path_of(sending: Sending) -> Path:
    """Return the file of the membership database."""
    file = file_of(sending.workspace.database.engine)
    assert file is not None
    return file


def mark_of(sending: Sending) -> Path:
    """Return the file of its mark."""
    return highwater_of(path_of(sending))


def back_up(sending: Sending, name: str = "backup.db") -> Path:
    """Make a backup of the database as it is now."""
    path = path_of(sending).with_name(name)
    with closing(sqlite3.connect(path_of(sending))) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def restore(sending: Sending, backup: Path) -> None:
    """Replace the database by a backup, under whoever has it open."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path_of(sending))) as target:
        source.backup(target)


def is_refused(sending: Sending, backup: Path) -> bool:
    """Return whether a backup is refused in the place of the database."""
    shutil.copy(mark_of(sending), highwater_of(backup))
    with closing(connect(f"sqlite:///{backup}")) as database:
        try:
            backup_mark.require_newest(database)
        except DatabaseOlder:
            return True
    return False


def reaching(sending: Sending, reach: Callable[[str], None]) -> Sending:
    """Return the same, with something that happens at every named point, the one behind each commit included."""
    database = Database(sending.workspace.database.engine, reach=reach)
    workspace = Workspace(database=database, holder=sending.workspace.holder, clock=SHORTEST, reach=reach)
    return Sending(**{**vars(sending), "workspace": workspace})


@contextmanager
def unwritable(sending: Sending) -> Iterator[None]:
    """Let the mark not be written, as on a full disk; root may write everywhere, but no file over a folder."""
    in_the_way = mark_of(sending).with_name(mark_of(sending).name + ".new")
    in_the_way.mkdir()
    try:
        yield
    finally:
        in_the_way.rmdir()


# A backup is known as one


@pytest.mark.parametrize(
    "point",
    [
        "sync.started",
        *(
            pytest.param(point, marks=pytest.mark.slow)
            for point in (
                "sync.read", "sync.staged", "sync.decided", "apply.committed", "deliver.taken", "deliver.posted",
            )
        ),
    ],
)  # fmt: skip
def test_a_backup_taken_within_a_run(sending: Sending, point: str) -> None:
    """A backup that was taken anywhere within a run or its delivery is refused once the rest of it has happened."""
    sending.sync(gold=MEMBERS)
    sending.deliver()
    taken: list[Path] = []

    def reach(reached: str) -> None:
        if reached == point and not taken:
            taken.append(back_up(sending))

    watched = reaching(sending, reach).with_settings(delivery={"concurrency": 1})
    watched.sync(gold=LATER)
    watched.deliver()

    assert taken
    assert is_refused(sending, taken[0])


def test_a_backup_of_an_initial_run(sending: Sending) -> None:
    """A first sync commits as it compares: a backup in the middle of it is as old as any other."""
    taken: list[Path] = []

    def reach(reached: str) -> None:
        if reached == "sync.committed" and not taken:
            taken.append(back_up(sending))

    reaching(sending, reach).sync(gold=MEMBERS)

    assert is_refused(sending, taken[0])


@pytest.mark.slow
def test_a_backup_taken_after_everything(sending: Sending) -> None:
    """A backup since which nothing has happened is as good as the database, whatever is looked at meanwhile."""
    sending.sync(gold=MEMBERS)
    sending.deliver()
    backup = back_up(sending)
    sending.deliver()

    assert not is_refused(sending, backup)


def test_a_backup_of_a_database_that_only_forwards(sending: Sending) -> None:
    """Without any run, what is taken and what is sent are told apart from what was there before."""
    before = back_up(sending, "before.db")
    sending.forward(EVENTS)
    taken = back_up(sending, "taken.db")
    sending.deliver()
    delivered = back_up(sending, "delivered.db")

    assert [is_refused(sending, backup) for backup in (before, taken, delivered)] == [True, True, False]


def test_two_databases_that_only_forward(sending: Sending, sqlite_template: Path) -> None:
    """The mark of one database says nothing about another one that never synced either."""
    sending.forward(EVENTS)
    other = shutil.copy(sqlite_template, path_of(sending).with_name("other.db"))
    with closing(connect(f"sqlite:///{other}")) as database, database.write() as connection:
        generations.advance(connection, 1_000)

    assert not is_refused(sending, Path(other))


def test_a_database_of_before_began_at(sending: Sending) -> None:
    """Version 0.5 kept no `began_at`: its databases, and backups of them, belong to the marks that it wrote."""
    sending.sync(gold=MEMBERS)
    sending.deliver()
    sending.write("DELETE FROM settings WHERE name = 'began_at'")
    backup = back_up(sending)
    ((began_at,),) = sending.rows("SELECT started_at FROM runs")
    mark_of(sending).write_text(json.dumps({"generation": 9_000_000_000_000, "began_at": began_at}))

    assert is_refused(sending, backup)


# Between a commit and the mark


@pytest.mark.slow
def test_a_death_behind_every_commit_of_a_sync(sending: Sending) -> None:
    """A process that dies between a commit and the mark leaves a database that is believed, and an older one is not."""
    sending.sync(gold=MEMBERS)
    backup = back_up(sending)
    deaths = 0
    while True:
        left = deaths + 1

        def reach(reached: str) -> None:
            nonlocal left
            left -= reached == "database.committed" and threading.current_thread() is threading.main_thread()
            if left == 0 and reached == "database.committed":
                raise Killed

        with closing(holders.enter(sending.workspace.database)) as holder:  # nobody works twice in one process
            dying = reaching(sending, reach)
            dying.workspace = replace(dying.workspace, holder=holder)
            try:
                dying.sync(gold=LATER if deaths % 2 else MEMBERS)
            except Killed:
                deaths += 1
            else:
                break
        backup_mark.require_newest(sending.workspace.database)
        assert deaths < 100
        if deaths > 3:  # the first commits take the lease
            assert is_refused(sending, backup)

    assert deaths > 6


def test_nothing_is_sent_before_the_mark_is_written(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between the commit of a batch and the mark has posted nothing of it."""
    sending.sync(gold=MEMBERS)

    def die(_: object) -> None:
        raise Killed

    monkeypatch.setattr(backup_mark, "keep", die)
    with suppress(Killed):
        sending.deliver()
    posted = len(sending.events())
    monkeypatch.undo()
    backup_mark.require_newest(sending.workspace.database)
    with closing(holders.enter(sending.workspace.database)) as holder:
        sending.workspace = replace(sending.workspace, holder=holder)
        report = sending.deliver()

    assert posted == 0
    assert [report.events, report.open] == [30, 0]


# A mark that cannot be written


def test_nothing_is_sent_while_the_mark_cannot_be_written(sending: Sending) -> None:
    """A sync goes on, a delivery stops in one sentence and loses nothing; once the mark can be written, it goes on."""
    with unwritable(sending):
        sending.sync(gold=MEMBERS)
        stopped = sending.deliver()
        posted = len(sending.events())
    resumed = sending.deliver()

    assert isinstance(stopped.failure, MarkUnusable)
    assert str(stopped.failure) == (
        f"delivery is stopped because the high-water mark {mark_of(sending)} cannot be written: Is a directory"
    )
    assert [stopped.events, stopped.open, posted] == [0, 30, 0]
    assert [resumed.events, resumed.open, resumed.failure] == [30, 0, None]
    assert len(sending.events()) == 30


def test_a_sync_needs_to_read_the_mark_but_not_to_write_it(sending: Sending) -> None:
    """A mark that cannot be written stops what is sent alone; of one that cannot be read nobody knows what it says."""
    sending.sync(gold=MEMBERS)
    written = mark_of(sending).read_text()
    in_the_way = mark_of(sending).with_name(mark_of(sending).name + ".new")
    in_the_way.mkdir()
    assert sending.sync(gold=LATER)["gold"].state == "succeeded"
    in_the_way.rmdir()
    members = sending.rows("SELECT * FROM current_members ORDER BY profile_key")
    mark_of(sending).write_text("{}")
    with pytest.raises(MarkUnusable, match="it was not written by audience-sync"):
        sending.sync(gold=MEMBERS)

    assert sending.rows("SELECT * FROM current_members ORDER BY profile_key") == members
    mark_of(sending).write_text(written)
    assert sending.sync(gold=MEMBERS)["gold"].state == "succeeded"


def test_the_mark_of_the_last_settlement(sending: Sending) -> None:
    """When the mark fails behind the last answer, what was accepted is settled, and the delivery says so."""
    sending.sync(gold=MEMBERS)
    blocking = unwritable(sending)

    def reach(reached: str) -> None:
        if reached == "deliver.posted":
            blocking.__enter__()

    watched = reaching(sending, reach).with_settings(delivery={"concurrency": 1})
    report = watched.deliver()
    blocking.__exit__(None, None, None)

    assert isinstance(report.failure, MarkUnusable)
    assert [report.events, report.open] == [30, 0]
    assert sending.deliver().failure is None


def test_events_are_taken_while_the_mark_cannot_be_written(sending: Sending) -> None:
    """A library loses nothing: what it sends is taken, and waits for the mark."""
    with unwritable(sending), sending_to(sending.workspace) as sender:
        answer = sender.post("/v1/track", TRACK)
        report = sending.deliver()

    assert answer.status_code == 200
    waiting = sending.rows("SELECT state FROM open_events")
    assert (waiting, report.open, len(sending.events())) == ([("waiting",)], 1, 0)


def test_a_mark_that_cannot_be_written_is_found_before(sending: Sending) -> None:
    """`check` can try the mark without writing it."""
    backup_mark.require_writable(sending.workspace.database)
    assert not mark_of(sending).exists()
    with unwritable(sending), pytest.raises(MarkUnusable, match="cannot be written: Is a directory"):
        backup_mark.require_writable(sending.workspace.database)


# A restore under a running process


def test_a_database_replaced_by_a_backup_takes_and_sends_nothing(sending: Sending) -> None:
    """A process notices the restore at its next commit: a delivery ends, and a library keeps its events."""
    sending.sync(gold=MEMBERS)
    backup = back_up(sending)
    sending.deliver()
    posted = len(sending.events())
    restore(sending, backup)
    with sending_to(sending.workspace) as sender:
        answer = sender.post("/v1/track", TRACK)

    assert answer.status_code == 503
    assert kept(sending.workspace.database) == []
    with pytest.raises(DatabaseOlder, match="older than the data sent from it"):
        sending.deliver()
    assert len(sending.events()) == posted


# Accepting


def test_forwarded_events_of_a_backup_wait_for_a_person(sending: Sending) -> None:
    """Nobody knows whether they were sent: they are dead letters, and `dead retry` sends them under their old keys."""
    sending.forward(EVENTS)
    backup = back_up(sending)
    sending.deliver()
    sent = [event.idempotency_key for event in sending.events()]
    restore(sending, backup)
    with sending.workspace.database.write() as connection:
        accepted = restored_backup.accept(connection, [], now_ms=1_000)
    quiet = sending.deliver()
    with sending.workspace.database.write() as connection:
        again = restored_backup.accept(connection, [], now_ms=1_000)

    assert accepted == ([], 3)
    assert again is None
    assert [quiet.events, quiet.dead, len(sending.events())] == [0, 3, 3]
    assert {reason for (reason,) in sending.rows("SELECT dead_reason FROM events")} == {restored_backup.EVENT_REASON}

    with sending.workspace.database.write() as connection:
        dead_letters.retry(connection, dead_letters.Which(forwarded_only=True), now_ms=1_000)
    assert sending.deliver().open == 0
    assert sorted(str(event.idempotency_key) for event in sending.events()) == sorted(map(str, sent * 2))
    assert is_refused(sending, backup)


def test_a_batch_of_forwarded_events_in_a_backup(sending: Sending) -> None:
    """A batch that was being sent when the backup was taken does not go again by itself."""
    taken: list[Path] = []

    def reach(reached: str) -> None:
        if reached == "deliver.taken" and not taken:
            taken.append(back_up(sending))

    sending.forward(EVENTS)
    reaching(sending, reach).with_settings(delivery={"concurrency": 1}).deliver()
    restore(sending, taken[0])
    with sending.workspace.database.write() as connection:
        restored_backup.accept(connection, [], now_ms=1_000)

    assert sending.attempts() == 0
    assert sending.deliver().events == 0


# Where the mark is


def test_a_database_under_two_names(sending: Sending, tmp_path: Path) -> None:
    """A symbolic link leads to the same mark and the same holders: two processes know of each other."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "linked.db"
    link.symlink_to(path_of(sending))
    sending.sync(gold=MEMBERS)
    with closing(connect(f"sqlite:///{link}")) as database:
        with closing(holders.enter(database)) as holder:
            assert not sending.workspace.holder.is_dead(holder.name)
            assert not holder.is_dead(sending.workspace.holder.name)
        with database.write() as connection:
            issued = generations.next_generation(connection, 0)

    mark = backup_mark.read(mark_of(sending))
    assert mark is not None
    assert mark.generation == issued
    assert [path.name for path in folder.iterdir()] == ["linked.db"]


def test_two_databases_in_one_folder(sending: Sending, sqlite_template: Path) -> None:
    """Each has its own mark."""
    sending.sync(gold=MEMBERS)
    other = Path(shutil.copy(sqlite_template, path_of(sending).with_name("other.db")))
    with closing(connect(f"sqlite:///{other}")) as database:
        backup_mark.require_newest(database)
        with database.write() as connection:
            generations.advance(connection, 1_000)

    assert backup_mark.read(highwater_of(other)) == (1_000, 1_000)
    assert not is_refused(sending, back_up(sending))


def test_a_mark_that_is_missing(sending: Sending) -> None:
    """A database that had a mark and has none is told apart from one that never had any."""
    new = backup_mark.is_missing(sending.workspace.database)
    sending.sync(gold=MEMBERS)
    kept_mark = backup_mark.is_missing(sending.workspace.database)
    mark_of(sending).unlink()
    removed = backup_mark.is_missing(sending.workspace.database)
    backup_mark.require_newest(sending.workspace.database)

    assert [new, kept_mark, removed] == [False, False, True]
    assert not backup_mark.is_missing(sending.workspace.database)
