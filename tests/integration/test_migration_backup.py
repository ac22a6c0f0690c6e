"""The backup that a migration of a SQLite file makes first: whole, private, and enough to go back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from audience_sync.clock import Clock
from audience_sync.errors import AudienceSyncError, LeaseHeld
from audience_sync.store import database as database_module
from audience_sync.store import migration, migration_backup
from audience_sync.store.database import Database, connect, migrations, revision_of, revisions
from audience_sync.store.migration import VERSIONS, migrate
from tests.integration.test_migrations import run_alembic

AT = datetime(2026, 3, 31, 12, 0, 5, tzinfo=UTC)
NEWEST = revisions()[-1]
OLDER = "0010"


class Space(NamedTuple):
    """The free space of a disk, as `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Path of a database of an older schema, in a folder of its own."""
    folder = tmp_path / "state"
    folder.mkdir()
    path = folder / "audience_sync.db"
    with closing(connect(f"sqlite:///{path}", create=True)) as database:
        run_alembic(database, "up", OLDER)
        with database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO audiences (key, name, state, created_at) VALUES ('gold', 'Gold', 'active', 0)"
            )
    path.chmod(0o640)
    return path


@pytest.fixture
def older(file: Path) -> Iterator[Database]:
    """The same database, open."""
    with closing(connect(f"sqlite:///{file}")) as database:
        yield database


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Add a migration that deletes everything, then fails; return its revision."""
    scripts = tmp_path / "migrations"
    shutil.copytree(migrations(), scripts)
    (scripts / "versions" / "9998_failing.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9998', '{NEWEST}'\nbranch_labels = depends_on = None\n"
        "def upgrade():\n    op.execute('DELETE FROM audiences')\n    op.execute('SELECT wrong')\n",
        encoding="utf-8",
    )
    for module in (database_module, migration):
        monkeypatch.setattr(module, "migrations", lambda: scripts)
    return "9998"


def left_in(file: Path) -> set[str]:
    """Return the names of what is next to a database, its log aside."""
    return {path.name for path in file.parent.iterdir()} - {f"{file.name}-wal", f"{file.name}-shm"}


def test_the_backup_is_the_file_as_it_was(older: Database, file: Path) -> None:
    """It has everything that was committed, the old schema and the old permissions, and a name that says which."""
    migrated = migrate(older, backup_at=AT)

    assert migrated.before == OLDER
    assert migrated.after == NEWEST
    assert migrated.backup is not None
    assert migrated.backup == file.with_name(f"audience_sync.db.{OLDER}-20260331T120005Z.backup")
    assert migrated.backup.stat().st_mode & 0o777 == 0o640
    with closing(connect(f"sqlite:///{migrated.backup}")) as backup:
        assert revision_of(backup) == OLDER
        with backup.read() as connection:
            assert connection.exec_driver_sql("SELECT key FROM audiences").scalars().all() == ["gold"]
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert revision_of(older) == NEWEST


def test_no_backup_is_made_when_nothing_is_migrated(older: Database, file: Path) -> None:
    """Repeating `migrate` makes no second backup, and an earlier one is kept."""
    migrate(older, backup_at=AT)
    before = left_in(file)

    assert migrate(older, backup_at=AT).backup is None
    assert left_in(file) == before


def test_nothing_that_is_committed_is_missing(older: Database, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is locked while the backup is made: no change comes between it and the migration."""
    tried: list[str] = []
    back_up = migration_backup.back_up

    def late(source: Path, target: Path) -> None:
        back_up(source, target)
        with closing(sqlite3.connect(source, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("UPDATE audiences SET name = 'Late'")
            tried.append("locked")

    monkeypatch.setattr(migration, "back_up", late)
    migrate(older, backup_at=AT)

    assert tried == ["locked"]
    assert revision_of(older) == NEWEST
    assert len(left_in(file)) == 2


def test_a_failed_migration_changes_nothing(older: Database, file: Path, failing: str) -> None:
    """The file keeps its rows and its schema, the message names the version that can use it, and no backup is left."""
    with pytest.raises(AudienceSyncError) as raised:
        migrate(older, backup_at=AT)

    assert revision_of(older) == OLDER != failing
    with older.read() as connection:
        assert connection.exec_driver_sql("SELECT key FROM audiences").scalars().all() == ["gold"]
    assert "failed and changed nothing; the version that created it can still use it with schema 0010" in str(
        raised.value
    )
    assert "no such column: wrong" in str(raised.value)
    assert left_in(file) == {file.name}


def test_a_migration_that_refuses_leaves_no_backup(file: Path) -> None:
    """A migration that another process stops leaves the folder as it was."""
    with closing(connect(f"sqlite:///{file}")) as database:
        run_alembic(database, "down", "0008")
        with database.write() as connection:
            names = "kind, number, holder, term, expires_at"
            lease = sa.text(f"INSERT INTO leases ({names}) VALUES ('audience', 1, 'far:1:x', 1, :until)")
            connection.execute(lease, {"until": Clock().steady_ms() + 600_000})
        with pytest.raises(LeaseHeld, match="nothing was migrated"):
            migrate(database, backup_at=AT)

    assert left_in(file) == {file.name}


def test_an_existing_name_is_kept(older: Database, file: Path) -> None:
    """A file with the name of the backup is never overwritten."""
    taken = migration_backup.backup_path(file, OLDER, AT)
    taken.write_text("mine")

    migrated = migrate(older, backup_at=AT)

    assert taken.read_text() == "mine"
    assert migrated[-1] == file.with_name(taken.name.replace(".backup", "-2.backup"))
    assert revision_of(older) != OLDER


def test_a_folder_that_cannot_be_written_to(older: Database, file: Path) -> None:
    """Nothing is migrated without the backup, and the remedy names another way."""
    (file.parent / f"{migration_backup.backup_path(file, OLDER, AT).name}.partial").mkdir()

    with pytest.raises(AudienceSyncError, match="nothing was migrated: cannot write the backup") as raised:
        migrate(older, backup_at=AT)
    assert "--no-backup" in str(raised.value.hint)
    assert revision_of(older) == OLDER
    assert migrate(older) == (OLDER, NEWEST, None)


def test_a_half_written_backup_is_removed(older: Database, file: Path) -> None:
    """A killed process leaves a file under another name, and the next migration removes it."""
    (file.parent / f"{file.name}.0009-20260101T000000Z.backup.partial").write_text("half")
    kept = file.parent / f"{file.name}.0009-20260101T000000Z.backup"
    kept.write_text("whole")
    migrated = migrate(older, backup_at=AT)

    assert migrated.backup is not None
    assert left_in(file) == {file.name, kept.name, migrated.backup.name}


@pytest.mark.parametrize(
    ("revision", "with_backup", "needed"),
    [("0010", True, 1.1), ("0010", False, 0.1), ("0008", True, 3), ("0008", False, 2)],
)
def test_a_disk_that_is_too_small(
    file: Path, monkeypatch: pytest.MonkeyPatch, revision: str, *, with_backup: bool, needed: float
) -> None:
    """The message says how much is needed for what, and how much is missing; one byte more, and it is enough."""
    with closing(connect(f"sqlite:///{file}")) as database:
        run_alembic(database, "down", revision)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.stat().st_size
    wanted = (size if with_backup else 0) + (2 * size if needed >= 2 else size // 10)
    backup_at = AT if with_backup else None
    with closing(connect(f"sqlite:///{file}")) as database:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(0, 0, wanted - 1))
        with pytest.raises(AudienceSyncError, match=r"nothing was migrated: .* but needs") as raised:
            migrate(database, backup_at=backup_at)
        assert ("for the backup" in str(raised.value)) == with_backup
        assert str(raised.value.hint).startswith("free 1 B there")
        assert ("--no-backup" in str(raised.value.hint)) == with_backup
        assert revision_of(database) == revision
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(0, 0, wanted))
        assert migrate(database, backup_at=backup_at).before == revision


def test_the_space_is_enough(file: Path, peak: Callable[[Path], int]) -> None:
    """A migration that writes the tables anew needs no more space than it asks for."""
    with closing(connect(f"sqlite:///{file}")) as database:
        run_alembic(database, "down", "0009")
        with database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO runs (audience_id, kind, state, as_of, started_at, generation, definition_hash,"
                " members_before) VALUES (1, 'initial', 'running', 0, 0, 1, '', 0)"
            )
            connection.exec_driver_sql(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
                " INSERT INTO memberships (audience_id, shard, profile_key, entered_run_id, generation)"
                " SELECT 1, i % 1024, 'user_' || i, 1, 1 FROM n"
            )
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = file.stat().st_size
    needed = migration_backup.NeededSpace.of(file, ["0010"], with_backup=True)

    assert peak(file) <= before + needed.backup + needed.migration


@pytest.fixture
def peak() -> Callable[[Path], int]:
    """Return a function that migrates a file and returns the bytes in its folder before SQLite shortens the log."""

    def measure(file: Path) -> int:
        with closing(connect(f"sqlite:///{file}")) as database, closing(sqlite3.connect(file)) as reader:
            reader.execute("SELECT count(*) FROM audiences").fetchall()
            migrate(database, backup_at=AT)
            return sum(path.stat().st_size for path in file.parent.iterdir())

    return measure


def test_every_release_with_a_schema_is_known() -> None:
    """The way back names a release for the schema of every release before this one."""
    assert set(VERSIONS) <= set(revisions())
    assert list(VERSIONS) == sorted(VERSIONS)
    assert "0011" in VERSIONS
