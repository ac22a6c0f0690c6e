"""A membership database copied to each kind of database: every row is the same, and the source is closed for good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from audience_sync.clock import Clock
from audience_sync.database_error import explain
from audience_sync.errors import AudienceSyncError, CopyRefused, CopyUnfinished, DatabaseMoved, DatabaseOlder, LeaseHeld
from audience_sync.store import (
    backup_mark,
    batches,
    database_copy,
    generations,
    holders,
    migration,
    relocation,
    schema,
    table_copy,
)
from audience_sync.store.database import Database, connect, file_of
from audience_sync.store.database_copy import DatabaseCopy
from tests import large_database
from tests.integration.test_database_rights import role_without_rights
from tests.integration.test_migrations import run_alembic

ODD = [
    "o'brien",
    'say "hi"',
    "a\\b",
    r"\N",
    "tab\there",
    "line\nfeed",
    "山田太郎",
    "🦉",
    " ",
    "é",
    "e\u0301",
    "%s",
    ":x",
]
"""Keys that one of the two databases, or their text formats, could take for something else."""

Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "postgres"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'target.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def filled(database: Database, database_url: str, tmp_path: Path) -> Database:
    """A database with rows in every table that keeps some, odd ones among them, and nobody at work in it."""
    large_database.fill(tmp_path, database_url, large_database.USUAL)
    with database.write() as connection:
        for number, key in enumerate(ODD):
            member = {"audience_id": 1, "profile_key": key, "entered_run_id": 1201, "run_id": 1201}
            value = f'{{"text":"\\u0000{number}"}}'
            connection.execute(schema.memberships.insert().values(**member, identifiers=key, value=value))
            waiting = {
                "profile_key": key,
                "position": 100 + number,
                "type": "track",
                "name": key,
                "received_at": number,
            }
            connection.execute(schema.events.insert().values(**waiting, message_id=key, payload=value))
        connection.execute(sa.text("UPDATE leases SET expires_at = 0"))
        connection.execute(sa.text("UPDATE batches SET claim_until = 0"))
        connection.execute(schema.user_identifiers.insert().values(profile_key="é", name="e", value="x", sent=True))
        connection.execute(
            schema.outage.insert().values(destination="schematic", kind="stopped", began_at=1, since=2, answer="gone")
        )
    return database


def copy(source: Database, url: str, **options: Any) -> list[table_copy.TableSum]:
    """Copy a database to the one at a URL, as the command does."""
    return DatabaseCopy(target=make_url(url), clock=Clock(), **options).run(source).tables


def rows_of(database: Database) -> Rows:
    """Return every row by table, without what only one of the two databases has."""
    with database.read() as connection:
        found = {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in table_copy.copied_tables()
        }
        batches_now = connection.execute(schema.batches.select()).mappings()
        found["batches"] = [tuple((row | {"holder": "", "claim_until": 0}).items()) for row in map(dict, batches_now)]
    found["settings"] = [row for row in found["settings"] if row[0] not in relocation.MARKS]
    return found


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Open the database at a URL."""
    with closing(connect(url)) as database:
        yield database


def test_every_row_is_the_same(filled: Database, target_url: str) -> None:
    """Members, history, the outbox, events and batches are equal, the ids continue, and the views work."""
    before = rows_of(filled)
    copied = copy(filled, target_url)

    with opened(target_url) as target:
        relocation.require_current(target)
        after = rows_of(target)
        assert {name: len(rows) for name, rows in after.items()} == {table.table: table.rows for table in copied}
        assert sum(table.rows > 0 for table in copied) >= 12
        generation = [row for row in before["settings"] if row[0] not in {"generation", "began_at"}]
        assert [row for row in after["settings"] if row[0] not in {"generation", "began_at"}] == generation
        assert {**after, "settings": []} == {**before, "settings": []}
        with target.read() as connection:
            assert not connection.execute(schema.leases.select()).all()
            assert set(connection.execute(sa.select(schema.batches.c.holder, schema.batches.c.claim_until))) == {
                ("", 0)
            }
            members = connection.exec_driver_sql("SELECT profile_key FROM current_members").scalars()
            assert set(ODD) <= set(members)
        with target.write() as connection:
            inserted = connection.execute(
                schema.batches.insert()
                .values(forwarded=False, created_at=1, shards="", size=1, keys="[]", events="[]")
                .returning(schema.batches.c.id)
            )
            assert inserted.scalar_one() == max(dict(row)["id"] for row in before["batches"]) + 1


def test_the_id_of_a_batch_that_is_gone_is_not_used_again(database: Database, target_url: str) -> None:
    """The ids of batches continue after the highest one that there ever was."""
    fresh = {"forwarded": False, "created_at": 1, "shards": "", "size": 1, "keys": "[]", "events": "[]"}
    with database.write() as connection:
        for _ in range(3):
            connection.execute(schema.batches.insert().values(**fresh))
        connection.execute(schema.batches.delete())
    copy(database, target_url)

    with opened(target_url) as target, target.write() as connection:
        query = schema.batches.insert().values(**fresh).returning(schema.batches.c.id)
        assert connection.execute(query).scalar_one() == 4


def test_the_source_is_closed(filled: Database, target_url: str) -> None:
    """Every write fails with the name of the new database, also in a process that was started before."""
    statements = [
        "INSERT INTO settings (name, value) VALUES ('x', 'y')",
        "UPDATE audiences SET members = 0",
        "DELETE FROM outbox",
        "UPDATE batches SET claim_until = 1",
    ]
    copy(filled, target_url)

    with pytest.raises(DatabaseMoved, match="was moved to") as refused:
        relocation.require_current(filled)
    assert refused.value.exit_code == 2
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError) as raised, filled.write() as connection:
            connection.exec_driver_sql(statement)
        said = explain(raised.value, filled.engine.url)
        assert said is not None
        assert f"failed: this database was moved to {make_url(target_url).drivername}" in str(said), statement
        assert said.hint == "set database.url to the new database, then start the service again"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_marks_of_backups(database: Database, target_url: str) -> None:
    """A backup of the old file is older than what was sent; the new database is not, and neither is a copy of it."""
    with database.write() as connection:
        generations.next_generation(connection, 1_000)
    with database.read() as connection:
        before = backup_mark._of(connection)
    copy(database, target_url)

    path = backup_mark.path_of(database.engine)
    assert path is not None
    kept = backup_mark.read(path)
    assert kept is not None
    assert kept.generation > before.generation
    with opened(target_url) as target:
        backup_mark.require_newest(target)
        assert not backup_mark.is_missing(target)
        with target.write() as connection:
            assert generations.next_generation(connection, 0) > kept.generation


def test_a_target_with_rows_is_refused(filled: Database, target_url: str) -> None:
    """Nothing is ever written over, and the source stays as it was."""
    with closing(connect(target_url, create=True)) as target:
        migration.migrate(target)
        with target.write() as connection:
            audience = {"key": "a", "name": "a", "state": "active", "created_at": 1}
            connection.execute(schema.audiences.insert().values(**audience))
        with pytest.raises(CopyRefused, match="is not empty: it has rows in the table audiences"):
            copy(filled, target_url)
        with target.write() as connection:
            connection.execute(schema.audiences.delete())
            connection.execute(schema.settings.insert().values(name="identity", value="userId"))
        with pytest.raises(CopyRefused, match="is not empty: it has rows in the table settings"):
            copy(filled, target_url)
        with target.write() as connection:
            connection.execute(sa.text("DELETE FROM settings WHERE name = 'identity'"))
    relocation.require_current(filled)

    assert copy(filled, target_url)


def test_a_target_with_another_schema_is_refused(database: Database, target_url: str) -> None:
    """A target that needs a migration, or belongs to another program, is refused."""
    with closing(connect(target_url, create=True)) as target:
        run_alembic(target, "up", "0008")
        with pytest.raises(CopyRefused, match="has schema 0008, but this version of audience-sync needs"):
            copy(database, target_url)
        run_alembic(target, "down")
        with target.write() as connection:
            connection.exec_driver_sql("DROP TABLE alembic_version")
            connection.exec_driver_sql("CREATE TABLE runs (miles integer)")
        with pytest.raises(CopyRefused, match=r"has tables of another program \(runs\)"):
            copy(database, target_url)
    relocation.require_current(database)


def test_the_source_itself_is_refused(database: Database, database_url: str, tmp_path: Path) -> None:
    """A database is not copied to itself, under whichever name."""
    with pytest.raises(CopyRefused, match="is the membership database itself"):
        copy(database, database_url)
    if (file := file_of(database.engine)) is not None:
        (tmp_path / "other.db").symlink_to(file)
        with pytest.raises(CopyRefused, match="is the membership database itself"):
            copy(database, f"sqlite:///{tmp_path / 'other.db'}")
    relocation.require_current(database)


def test_a_process_at_work_is_named(database: Database, target_url: str) -> None:
    """A living process, also an idle one, stops the copy; it may go on once that process has ended."""
    with closing(holders.enter(database)) as holder:
        with pytest.raises(LeaseHeld, match="other processes work on") as refused:
            copy(database, target_url)
        assert holder.name.rpartition(":")[0] in str(refused.value)
        assert "stop the service" in str(refused.value.hint)
        assert refused.value.exit_code == 5

    assert copy(database, target_url)


def test_claims_of_another_host_are_waited_for(filled: Database, target_url: str) -> None:
    """A claim in force of a process that cannot be seen from here stops the copy; a claim that ran out does not."""
    with filled.write() as connection:
        far = Clock().steady_ms() + 60_000 if filled.is_sqlite else Clock().now_ms() + 60_000
        connection.execute(sa.text("UPDATE batches SET claim_until = :far WHERE status = 'open'"), {"far": far})
    with pytest.raises(LeaseHeld, match="worker-1"):
        copy(filled, target_url)
    with filled.write() as connection:
        connection.execute(sa.text("UPDATE batches SET claim_until = 1"))

    assert copy(filled, target_url)


def test_nothing_is_written_to_the_source_meanwhile(filled: Database, target_url: str) -> None:
    """The source is locked from the first row that is read to the commit that closes it; reading it works."""
    tried: list[str] = []

    def reach(point: str) -> None:
        if point in {"copy.frozen", "copy.filled", "copy.verified"}:
            with opened(filled.engine.url.render_as_string(hide_password=False)) as other:
                assert relocation.marks_of(other).moved_to is None
                with pytest.raises(sa.exc.DBAPIError), other.write(wait=0.2) as connection:
                    connection.exec_driver_sql("UPDATE audiences SET members = 0")
            tried.append(point)

    copy(filled, target_url, reach=reach)

    assert tried == ["copy.frozen", "copy.filled", "copy.verified"]


def test_two_copies_at_once(filled: Database, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second copy from a source, or into a target, is refused while the first one works; the first is complete."""
    monkeypatch.setattr(database_copy, "LOCK_SECONDS", 1)
    refused: list[str] = []

    def reach(point: str) -> None:
        if point == "copy.filled":
            url = f"sqlite:///{tmp_path / 'second.db'}"
            with opened(filled.engine.url.render_as_string(hide_password=False)) as source:
                with pytest.raises(LeaseHeld) as raised:
                    copy(source, url)
                refused.append(str(raised.value))
            with closing(connect(f"sqlite:///{tmp_path / 'third.db'}", create=True)) as third:
                migration.migrate(third)
                with pytest.raises(AudienceSyncError) as locked:
                    copy(third, target_url)
                refused.append(str(locked.value))
                relocation.require_current(third)

    assert copy(filled, target_url, reach=reach)
    print(refused)
    assert all("lock" in sentence for sentence in refused)


def test_a_target_that_is_being_migrated(filled: Database, target_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target in which another program creates the tables is refused until that is done, and then used."""
    monkeypatch.setattr(database_copy, "LOCK_SECONDS", 1)
    with closing(connect(target_url, create=True)) as other:
        with other.write() as connection:
            migration.upgrade(connection)
            with pytest.raises(AudienceSyncError, match="lock"):
                copy(filled, target_url)
        relocation.require_current(filled)

        assert copy(filled, target_url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_source_from_a_backup_is_refused(database: Database, target_url: str) -> None:
    """A database that has forgotten what was sent from it is not copied before it is accepted."""
    path = backup_mark.path_of(database.engine)
    assert path is not None
    with database.write() as connection:
        generations.next_generation(connection, 1_000)
    mark = json.loads(path.read_text())
    path.write_text(json.dumps({**mark, "generation": mark["generation"] + 1}))
    with pytest.raises(DatabaseOlder):
        copy(database, target_url)


def test_a_copy_that_differs_is_not_used(filled: Database, target_url: str) -> None:
    """A row that does not arrive as it was stops the move: the source goes on, and the target is refused."""

    def reach(point: str) -> None:
        if point == "copy.stored":
            with opened(target_url) as target, target.write() as connection:
                connection.exec_driver_sql("UPDATE memberships SET identifiers = 'other' WHERE audience_id = 3")

    with pytest.raises(AudienceSyncError, match="the copy differs: table memberships has"):
        copy(filled, target_url, reach=reach)

    relocation.require_current(filled)
    with opened(target_url) as target, pytest.raises(CopyUnfinished, match="is an unfinished copy of"):
        relocation.require_current(target)
    assert copy(filled, target_url)


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("point", ["copy.filled", "copy.stored", "copy.verified"])
def test_an_interrupted_copy_begins_again(filled: Database, target_url: str, point: str) -> None:
    """Until the source is closed it goes on, with changes of its own, and a later copy has those."""
    with pytest.raises(Killed):
        copy(filled, target_url, reach=killer(point))
    relocation.require_current(filled)
    with filled.write() as connection:
        connection.exec_driver_sql("UPDATE audiences SET name = 'Renamed' WHERE id = 1")
    copy(filled, target_url)

    with opened(target_url) as target:
        relocation.require_current(target)
        with target.read() as connection:
            assert connection.exec_driver_sql("SELECT name FROM audiences WHERE id = 1").scalar() == "Renamed"


def test_an_interrupted_copy_of_another_database_is_not_overwritten(
    filled: Database, target_url: str, tmp_path: Path
) -> None:
    """Only the source of an interrupted copy may begin it again."""
    with pytest.raises(Killed):
        copy(filled, target_url, reach=killer("copy.stored"))
    with closing(connect(f"sqlite:///{tmp_path / 'another.db'}", create=True)) as another:
        migration.migrate(another)
        with pytest.raises(CopyRefused, match="is an unfinished copy of"):
            copy(another, target_url)


def killer(point: str) -> Callable[[str], None]:
    """Return what ends the copy at a point."""

    def reach(reached: str) -> None:
        if reached == point:
            raise Killed

    return reach


def test_a_copy_whose_source_is_closed_is_released_by_the_next_command(filled: Database, target_url: str) -> None:
    """If the copy dies after its last commit on the source, the target can be used at once."""
    with pytest.raises(Killed):
        copy(filled, target_url, reach=killer("copy.closed"))
    with pytest.raises(DatabaseMoved):
        relocation.require_current(filled)

    with opened(target_url) as target:
        assert relocation.marks_of(target).copied_from is not None
        relocation.require_current(target)
        assert relocation.marks_of(target).copied_from is None


def test_a_copy_is_finished_by_repeating_it(filled: Database, target_url: str, tmp_path: Path) -> None:
    """The same command finishes what another one left, says so, and may be run again; no other target is accepted."""
    with pytest.raises(Killed):
        copy(filled, target_url, reach=killer("copy.closed"))

    assert copy(filled, target_url) == []
    with opened(target_url) as target:
        assert relocation.marks_of(target).copied_from is None
    assert copy(filled, target_url) == []
    with pytest.raises(DatabaseMoved, match="was moved to"):
        copy(filled, f"sqlite:///{tmp_path / 'elsewhere.db'}")


def test_an_earlier_target_is_not_released(filled: Database, target_url: str, tmp_path: Path) -> None:
    """Of two targets, the one of the interrupted copy stays refused when the source was moved to the other one."""
    with pytest.raises(Killed):
        copy(filled, target_url, reach=killer("copy.stored"))
    copy(filled, f"sqlite:///{tmp_path / 'elsewhere.db'}")

    with opened(target_url) as target, pytest.raises(CopyUnfinished):
        relocation.require_current(target)
    with opened(f"sqlite:///{tmp_path / 'elsewhere.db'}") as moved:
        relocation.require_current(moved)


def test_a_role_that_cannot_close_its_database(postgres_url: str, tmp_path: Path) -> None:
    """A role without the right to create triggers is refused with the right to grant, and nothing is copied."""
    with closing(connect(postgres_url)) as owner:
        migration.migrate(owner)
    grants = [
        "GRANT USAGE, CREATE ON SCHEMA public",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public",
    ]
    target = f"sqlite:///{tmp_path / 'new.db'}"
    with role_without_rights(postgres_url, *grants) as url, opened(url) as source:
        with pytest.raises(AudienceSyncError, match="lacks the TRIGGER right") as raised:
            copy(source, target)
        assert "GRANT TRIGGER ON ALL TABLES IN SCHEMA public TO" in str(raised.value.hint)
        relocation.require_current(source)


def test_every_column_has_a_type_that_is_the_same_in_both_databases() -> None:
    """A column of another type may be read as something else by the other database: test it before it is added."""
    known = (sa.Text, sa.Integer, sa.Boolean)
    odd = [str(one) for table in table_copy.copied_tables() for one in table.columns if not isinstance(one.type, known)]

    assert odd == []


def test_open_batches_keep_their_events(filled: Database, target_url: str) -> None:
    """The text of an open batch, with the idempotency keys in it, is the same character by character."""
    texts = sa.text("SELECT events FROM batches WHERE status = 'open' ORDER BY id")
    with filled.read() as connection:
        before = connection.execute(texts).all()
    copy(filled, target_url)

    with opened(target_url) as target, target.read() as connection:
        assert (
            connection.execute(sa.text("SELECT events FROM batches WHERE status = 'open' ORDER BY id")).all() == before
        )
        assert before
        assert batches.holders(connection) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_that_root_makes_belongs_to_the_owner_of_its_folder(database: Database, tmp_path: Path) -> None:
    """The service runs as another user than the administrator who moves its database."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 12_345, 12_346)
    with database.write() as connection:
        generations.next_generation(connection, 1_000)
    copy(database, f"sqlite:///{folder / 'new.db'}")

    with opened(f"sqlite:///{folder / 'new.db'}") as target, target.read() as connection:
        connection.execute(schema.settings.select()).all()
        owners = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert owners.keys() >= {"new.db", "new.db-highwater"}
    assert set(owners.values()) == {(12_345, 0o600)}
