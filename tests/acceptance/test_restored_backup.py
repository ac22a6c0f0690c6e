"""A SQLite database that comes back from a backup: it is told by the mark beside it, refused, and accepted on demand.

Postgres has no file beside it, so none of this is there.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience_sync.config import load
from audience_sync.errors import DatabaseOlder
from audience_sync.store import backup_mark, generations, runs, settings_table
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import (
    KILLED,
    ON_ONE_DATABASE,
    Customers,
    Place,
    assert_settled,
    customers,
    open_place,
    until,
)
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME, ORDERS_SQL

pytestmark = ON_ONE_DATABASE

BEFORE = customers(range(40))
AFTER = customers(range(10, 50))  # ten have left, ten are new
EVENTS = '{"type": "track", "event": "Signed Up", "userId": "u1", "timestamp": "2026-03-01T00:00:00Z"}\n'


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 40 customers, synced and delivered."""
    with open_place(tmp_path, database_url) as opened:
        settings = opened.configure(guard={"min_members": 1000})
        opened.sync_here(settings, BEFORE)
        opened.deliver_here()
        yield opened


@pytest.fixture
def backup(place: Place) -> Path:
    """A backup of then; since, ten customers have left and ten have come, and Schematic knows."""
    path = back_up(place)
    move_on(place, AFTER)
    return path


def file_of(place: Place) -> Path:
    """Return the file of the membership database."""
    return Path(str(place.database.engine.url.database))


def mark_of(place: Place) -> Path:
    """Return the file of its mark."""
    return file_of(place).with_name("audience_sync.db-highwater")


def back_up(place: Place, name: str = "backup.db") -> Path:
    """Make a backup of the database as it is now."""
    path = place.folder / name
    with closing(sqlite3.connect(file_of(place))) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return path


def restore(place: Place, backup: Path) -> None:
    """Put a backup in the place of the database, as a person does whose service is stopped."""
    place.database.close()
    for left in file_of(place).parent.glob("audience_sync.db-[ws]*"):
        left.unlink()
    shutil.copy(backup, file_of(place))


def move_on(place: Place, now: Customers) -> None:
    """Sync and deliver these customers."""
    place.sync_here(load(place.folder / "config.toml", {}), now)
    place.deliver_here()


def forwarded(place: Place) -> str:
    """Return the path of a file of events."""
    path = place.folder / "events.ndjson"
    path.write_text(EVENTS)
    return str(path)


# It is refused


def test_every_command_that_sends_refuses_an_older_database(place: Place, backup: Path) -> None:
    """No command syncs, sends or approves anything on a database that is older than the data sent from it."""
    newest = json.loads(mark_of(place).read_text())["generation"]
    restore(place, backup)
    kept, received = place.everything(), place.received()
    commands = [
        ("sync",),
        ("sync", "--resync"),
        ("sync", "--force"),
        ("run",),
        ("deliver",),
        ("forward", forwarded(place)),
        ("approve", "1"),
        ("retract", AUDIENCE_KEY, "--yes"),
    ]
    ended = {words: place.command(*words) for words in commands}

    for words, end in ended.items():
        assert end.code == 2, words
        assert f"{mark_of(place)} is older than the data sent from it: its last commit was at 20" in end.err, words
        assert "hint: restore the newer file, or accept this one with" in end.err, words
        assert "audience-sync sync --resync --force" in end.err, words
    assert place.everything() == kept
    assert place.received() == received
    assert json.loads(mark_of(place).read_text())["generation"] == newest


def test_check_says_that_the_database_is_older(place: Place, backup: Path) -> None:
    """`check` names the fault and the remedy, and leaves with 2; before the restore it finds nothing wrong."""
    well = place.command("check", "--format", "json")
    restore(place, backup)
    ill = place.command("check", "--format", "json")

    assert well.code == 0
    assert ill.code == 2
    (said,) = [record for record in ill.records if record["state"] == "error"]
    assert said["check"] == "database"
    assert "is older than the data sent from it" in said["message"]
    assert "audience-sync sync --resync --force" in said["remedy"]


def test_plan_and_forget_work_on_an_older_database(place: Place, backup: Path) -> None:
    """A person may look before going on, and may erase somebody from any database."""
    restore(place, backup)

    planned = place.command("plan", "--format", "json")
    assert planned.code == 0
    assert [planned.records[-1][change] for change in ("enter", "exit")] == [10, 10]
    assert place.command("forget", "u5", "--yes").code == 0
    assert place.command("sync").code == 2


def test_a_backup_still_knows_who_was_forgotten(place: Place) -> None:
    """A backup of before a person was forgotten is refused, so that they do not come back unnoticed."""
    older = back_up(place)
    assert place.command("forget", "u5", "--yes").code == 0
    restore(place, older)

    assert place.command("deliver").code == 2


@pytest.mark.slow
def test_a_running_service_notices_a_restore_under_it(place: Place, backup: Path) -> None:
    """A database that is restored while a process has it open issues no generation either."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(file_of(place))) as target:
        source.backup(target)

    with pytest.raises(DatabaseOlder, match="older than the data sent"), place.database.write() as connection:
        generations.next_generation(connection, 0)


# The remedies


@pytest.mark.slow
def test_the_newer_file_put_back(place: Place, backup: Path) -> None:
    """With the newer file back in its place all goes on as if nothing had happened."""
    newest = back_up(place, "newest.db")
    restore(place, backup)
    assert place.command("sync").code == 2
    restore(place, newest)

    assert place.command("sync").code == 0
    assert_settled(place, AFTER, before=BEFORE)


def came_back_while_forgotten(place: Place) -> Path:
    """Return a backup since which u0 left and u1, who had left before it, came: Schematic knows of both.

    The source says of both the opposite now, which is what the backup says.
    """
    without_u1 = {user: "acme" for user in BEFORE if user != "u1"}
    move_on(place, without_u1)
    backup = back_up(place)
    move_on(place, {user: "acme" for user in BEFORE if user != "u0"})
    assert place.traits()["u0"] == {AUDIENCE_KEY: False}
    assert place.traits()["u1"] == {AUDIENCE_KEY: True}
    place.shop.set_orders(without_u1.items())
    return backup


@pytest.mark.slow
def test_an_older_database_is_accepted(place: Place) -> None:
    """After `sync --resync --force` Schematic agrees, also where the diff alone could not see that it did not."""
    backup = came_back_while_forgotten(place)
    newest = json.loads(mark_of(place).read_text())["generation"]
    restore(place, backup)
    ended = place.command("sync", "--resync", "--force")

    assert ended.code == 0, ended.err
    assert f"continuing with an older database: sending all its values again ({AUDIENCE_KEY})" in ended.err
    now = {user: "acme" for user in BEFORE if user != "u1"}
    assert place.traits() == {user: {AUDIENCE_KEY: user in now} for user in BEFORE}
    assert place.rows("SELECT * FROM open_deliveries") == []
    ((least,),) = place.rows("SELECT min(generation) FROM runs WHERE id > 2")
    assert least > newest
    assert place.command("sync").code == 0
    assert place.command("check").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("point", ["sync.decided", "deliver.posted"])
def test_an_acceptance_that_was_killed_is_finished(place: Place, point: str) -> None:
    """Killed anywhere behind the decision, it is finished by whatever sync comes next, without being asked again."""
    backup = came_back_while_forgotten(place)
    restore(place, backup)
    assert place.command("sync", "--resync", "--force", kill=point).code == KILLED

    assert place.command("sync").code == 0
    now = {user: "acme" for user in BEFORE if user != "u1"}
    assert place.traits() == {user: {AUDIENCE_KEY: user in now} for user in BEFORE}
    assert (
        place.rows("SELECT * FROM open_deliveries") == place.rows("SELECT * FROM batches WHERE status = 'open'") == []
    )


@pytest.mark.slow
def test_acceptance_is_for_all_audiences_of_the_file(place: Place) -> None:
    """One audience is named: the others are sent again too, from what is remembered; an orphan is not touched."""
    other = '[[audiences]]\nname = "Other"\nsource = "shop"\nsql = "' + ORDERS_SQL + '"'
    orphan = other.replace("Other", "Orphan")
    guard = {"min_members": 1000}
    place.configure(guard=guard, more=f"{other}\n{orphan}")
    move_on(place, BEFORE)
    backup = back_up(place)
    move_on(place, AFTER)
    restore(place, backup)
    place.configure(guard=guard, more=other, name=AUDIENCE_NAME)
    place.shop.set_orders(BEFORE.items())
    ended = place.command("sync", AUDIENCE_KEY, "--resync", "--force")

    assert ended.code == 0, ended.err
    traits = place.traits()
    assert [traits["u0"][key] for key in (AUDIENCE_KEY, "other", "orphan")] == [True, True, False]


@pytest.mark.slow
def test_force_without_need_accepts_nothing(place: Place) -> None:
    """On a database that is as new as can be, `sync --resync --force` is a resync."""
    ended = place.command("sync", "--resync", "--force", "--format", "json")

    assert ended.code == 0
    assert "older" not in ended.err
    assert [run["kind"] for run in ended.records] == ["resync"]
    assert place.rows("SELECT count(*) FROM runs") == [(2,)]


@pytest.mark.slow
def test_a_database_that_only_forwards(place: Place) -> None:
    """Without audiences, too, a backup is refused and accepted; its events wait for a person."""
    url, destination = json.dumps(f"sqlite:///{place.folder / 'events.db'}"), json.dumps(place.sandbox.url)
    schematic = f"[schematic]\ncapture_url = {destination}\napi_url = {destination}"
    (place.folder / "config.toml").write_text(f"[database]\nurl = {url}\n{schematic}\n")
    database = place.folder / "events.db"
    assert place.command("init").code == 0
    assert place.command("forward", forwarded(place), "--no-deliver").code == 0
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(place.folder / "events.bak")) as target:
        source.backup(target)
    assert place.command("deliver").code == 0
    received = place.received()
    shutil.copy(place.folder / "events.bak", database)
    for left in place.folder.glob("events.db-[ws]*"):
        left.unlink()

    refused = place.command("deliver")
    accepted = place.command("sync", "--resync", "--force")
    quiet = place.command("deliver")
    assert [refused.code, accepted.code, quiet.code] == [2, 0, 3]
    assert "audience-sync sync --resync --force" in refused.err
    assert "forwarded events that may have been sent since the backup was made are now dead letters (1)" in accepted.err
    assert place.received() == received
    assert place.command("dead", "retry", "--events").code == 0
    assert place.command("deliver").code == 0
    assert place.received() == received + 1


# A mark that cannot be written


@pytest.mark.slow
def test_a_mark_that_cannot_be_written(place: Place) -> None:
    """`check` and `sync` say so in one sentence, and nothing is sent; later `deliver` goes on where they stopped."""
    received = place.received()
    in_the_way = mark_of(place).with_name(mark_of(place).name + ".new")
    in_the_way.mkdir()
    checked = place.command("check", "--format", "json")
    place.shop.set_orders(AFTER.items())
    synced = place.command("sync")
    in_the_way.rmdir()

    sentence = f"delivery is stopped because the high-water mark {mark_of(place)} cannot be written: Is a directory"
    assert [checked.code, synced.code] == [1, 1]
    assert sentence in [record["message"] for record in checked.records if record["state"] == "error"]
    assert f"error: {sentence}\nhint: nothing was lost" in synced.err
    assert place.received() == received
    assert place.command("deliver").code == 0
    assert_settled(place, AFTER, before=BEFORE)


@pytest.mark.slow
def test_the_service_goes_on_when_the_mark_can_be_written(place: Place) -> None:
    """The daemon starts, syncs and sends nothing until then; it does not have to be started again."""
    received = place.received()
    in_the_way = mark_of(place).with_name(mark_of(place).name + ".new")
    in_the_way.mkdir()
    place.shop.set_orders(AFTER.items())
    with place.database.write() as connection:
        connection.execute(sa.text("UPDATE audiences SET next_due_at = NULL"))
    with local_daemon(place) as daemon:
        daemon.wait_for("delivery_stopped")
        until(lambda: place.members().keys() == AFTER.keys())
        assert place.received() == received
        in_the_way.rmdir()
        until(lambda: place.rows("SELECT 1 FROM runs WHERE id = 2 AND sent = 20"))
    (stopped,) = [line for line in daemon.logged if line["event"] == "delivery_stopped"]
    assert "delivery is stopped because the high-water mark" in stopped["error"]
    assert_settled(place, AFTER, before=BEFORE)


# No false alarm


@pytest.mark.slow
def test_a_crash_before_the_mark_is_written_is_no_restore(place: Place) -> None:
    """A mark that is behind the database, for its writer died, is raised by the next command and alarms nobody."""
    older = mark_of(place).read_text()
    backup = back_up(place)
    move_on(place, AFTER)
    newest = mark_of(place).read_text()
    mark_of(place).write_text(older)
    mark_of(place).with_name("audience_sync.db-highwater.new").write_text('{"generation": 99')

    assert place.command("deliver").code == 0
    assert mark_of(place).read_text() == newest > older
    restore(place, backup)
    assert place.command("deliver").code == 2


@pytest.mark.slow
def test_a_killed_run_is_no_restore(place: Place) -> None:
    """A run that was killed leaves a database and a mark that belong together."""
    place.shop.set_orders(AFTER.items())
    assert place.command("sync", kill="sync.decided").code == KILLED

    assert place.command("sync").code == 0
    assert_settled(place, AFTER, before=BEFORE)


@pytest.mark.slow
def test_a_copy_elsewhere_works(place: Place, backup: Path) -> None:
    """An old copy in another place has no mark beside it, gets one of its own, and is believed."""
    copy = place.folder / "elsewhere" / "copy.db"
    copy.parent.mkdir()
    shutil.copy(backup, copy)
    place.configure(url=f"sqlite:///{copy}", guard={"min_members": 1000})

    checked = place.command("check")
    synced = place.command("sync")
    assert [checked.code, synced.code] == [0, 0]
    for end in (checked, synced):
        assert "the high-water mark next to the membership database is missing" in end.err + end.out
        assert "audience-sync sync --resync" in end.err + end.out
    assert copy.with_name("copy.db-highwater").exists()
    again = place.command("check")
    assert again.code == 0
    assert "high-water mark" not in again.err + again.out


@pytest.mark.slow
def test_another_database_in_its_place_works(place: Place, backup: Path, sqlite_template: Path) -> None:
    """The mark of one database says nothing of another one: of one made anew, or of one that came from elsewhere."""
    del backup
    kept = mark_of(place).read_text()
    restore(place, sqlite_template)
    file_of(place).unlink()
    assert place.command("init").code == 0
    assert not mark_of(place).exists()
    assert place.command("sync").code == 0
    mark_of(place).write_text(kept.replace('"generation": 1', '"generation": 2'))  # of decades later

    assert place.command("sync").code == 0
    assert json.loads(mark_of(place).read_text())["began_at"] != json.loads(kept)["began_at"]


@pytest.mark.slow
def test_a_backup_of_an_unused_database_is_older_too(place: Place, sqlite_template: Path) -> None:
    """A database without any run, where one had synced, has forgotten everything."""
    restore(place, sqlite_template)
    ended = place.command("sync")

    assert ended.code == 2
    assert "it has no syncs and no forwarded events, but data committed up to 20" in ended.err


# The file


def test_the_mark_is_private_and_says_no_more_than_it_must(place: Place) -> None:
    """Only its owner can read it, and it names nobody."""
    assert mark_of(place).stat().st_mode & 0o777 == 0o600
    with place.database.read() as connection:
        run = runs.get(connection, 1)
        issued = int(settings_table.get(connection, "generation") or 0) - 1
    mark = json.loads(mark_of(place).read_text())
    assert mark == {"generation": issued, "began_at": mark["began_at"]}
    assert 0 <= mark["began_at"] - run.started_at < 60_000  # two readings of the clock


def test_what_is_rolled_back_does_not_raise_the_mark(place: Place) -> None:
    """A generation that nobody committed was never issued: `check` tries whether one could be."""
    before = mark_of(place).read_text()
    with place.database.write() as connection:
        generations.next_generation(connection, 0)
        connection.rollback()
    with suppress(ZeroDivisionError), place.database.write() as connection:
        raise ZeroDivisionError(generations.next_generation(connection, 0))
    with place.database.write() as connection:  # the same connection of the pool: it owes nothing any more
        connection.execute(sa.text("UPDATE audiences SET name = name"))

    assert mark_of(place).read_text() == before


@pytest.mark.slow
def test_of_many_writers_the_highest_mark_stays(place: Place) -> None:
    """Processes that issue generations at one moment do not lower the mark for each other."""
    with ThreadPoolExecutor(8) as pool:

        def issue(_: int) -> int:
            with place.database.write() as connection:
                return generations.next_generation(connection, 0)

        issued = list(pool.map(issue, range(64)))

    mark = backup_mark.read(mark_of(place))
    assert mark is not None
    assert mark.generation == max(issued)


def test_a_mark_that_cannot_be_read_is_named(place: Place) -> None:
    """A damaged mark is neither believed nor ignored."""
    mark_of(place).write_text("{}")
    ended = place.command("sync")

    assert ended.code == 1
    assert f"cannot read {mark_of(place)}: it was not written by audience-sync" in ended.err
    assert "delete only this file" in ended.err
