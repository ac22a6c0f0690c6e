"""Missing rights and missing folders: one sentence with the place and the remedy, and `check` goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from audience_sync import runtime
from audience_sync.checks.check_all import check
from audience_sync.clock import Clock
from audience_sync.config import Settings, load
from audience_sync.database_error import explain, first_line
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.folders import require_temporary_folder, require_usable_temporary_folder
from audience_sync.store import binding
from audience_sync.store.database import connect
from audience_sync.store.migration import migrate

URL = make_url("sqlite:////srv/state/a.db")


def configured(folder: Path, url: str) -> Settings:
    """Return the settings of a file with a database, an audience that needs no source, and no Schematic."""
    path = folder / "config.toml"
    path.write_text(
        f'[database]\nurl = "{url}"\n[schematic]\napi_url = "http://127.0.0.1:9"\ncapture_url = "http://127.0.0.1:9"\n'
        '[sources.shop]\nurl = "sqlite:shop.db"\n[[audiences]]\nname = "VIP"\nsql = "SELECT 1 AS user_id"\n'
    )
    (folder / "shop.db").touch()
    return load(path, {})


def checked(settings: Settings, environ: dict[str, str] | None = None) -> dict[tuple[str, str], tuple[str, str, int]]:
    """Return what `check` finds: state, message and exit code by check and subject."""
    found = check(settings.path, environ or {}, Clock())
    return {(one.check, one.subject): (one.state, f"{one.message} | {one.remedy}", one.exit_code) for one in found}


@contextmanager
def role_without_rights(postgres_url: str, *grants: str) -> Iterator[str]:
    """Create a role that may connect, and what is granted; yield the database's URL for it."""
    name = f"clerk_{make_url(postgres_url).database}"
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE ROLE "{name}" LOGIN')
        for grant in grants:
            connection.exec_driver_sql(f'{grant} TO "{name}"')
    try:
        yield make_url(postgres_url).set(username=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'DROP OWNED BY "{name}"')
            connection.exec_driver_sql(f'DROP ROLE "{name}"')
        admin.dispose()


def test_a_role_that_cannot_create_tables(postgres_url: str, tmp_path: Path) -> None:
    """`init` with a role that may only connect: the place, what the server said, and the rights to grant."""
    with role_without_rights(postgres_url) as url:
        settings = configured(tmp_path, url)
        with pytest.raises(AudienceSyncError) as caught:
            runtime.create(settings)
        found = checked(settings)

    role = make_url(url).username
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"the membership database {settings.database.url} failed: permission denied for schema public"
    )
    assert (caught.value.hint or "").startswith(
        f'grant "{role}" its rights: GRANT USAGE, CREATE ON SCHEMA public TO "{role}";'
    )
    assert found["database", str(settings.database.url)][0] == "error"
    assert found["audience", "vip"][0] == "ok"


def test_a_role_that_cannot_write(postgres_url: str, tmp_path: Path) -> None:
    """A role that may only read: `check` says so and looks at everything else, a command ends with the sentence."""
    with closing(connect(postgres_url, create=True)) as database:
        migrate(database)
    with role_without_rights(postgres_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public") as url:
        settings = configured(tmp_path, url)
        found = checked(settings)
        with pytest.raises(AudienceSyncError) as caught, runtime.opened(settings) as database, database.write() as one:
            binding.bind_identity(one, "userId")

    state, said, code = found["database", str(settings.database.url)]
    assert (state, code) == ("error", 1)
    assert "failed: permission denied for table " in said
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO" in said
    assert found["audience", "vip"][0] == "ok"
    assert ("schematic", "api_key") in found
    assert "failed: permission denied for table " in str(caught.value)
    assert caught.value.exit_code == 1


def failing(path: Path, work: Callable[[sqlite3.Connection], object], *, mode: str = "rw") -> sa.exc.SQLAlchemyError:
    """Return what SQLAlchemy raises when work on a SQLite file fails."""
    with closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=0)) as connection:
        engine = sa.create_engine("sqlite://", creator=lambda: connection)
        work(connection)
        with pytest.raises(sa.exc.SQLAlchemyError) as caught, engine.begin() as opened:
            opened.exec_driver_sql("CREATE TABLE t (x)")
    return caught.value


def explained(error: sa.exc.SQLAlchemyError) -> str:
    """Return sentence and remedy."""
    known = explain(error, URL)
    assert known is not None
    return f"{known} | {known.hint}"


def test_a_sqlite_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A file of another user: the file and its folder are named, since SQLite writes both."""
    (tmp_path / "a.db").touch()

    assert explained(failing(tmp_path / "a.db", lambda _: None, mode="ro")) == (
        "the membership database sqlite:////srv/state/a.db failed: attempt to write a readonly database"
        " | make /srv/state/a.db and its folder writable by this user"
    )


def test_a_sqlite_file_that_another_program_holds(tmp_path: Path) -> None:
    """A lock that does not end is of another program, and nothing was lost."""
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")

        assert explained(failing(tmp_path / "a.db", lambda _: None)) == (
            "the membership database sqlite:////srv/state/a.db failed: database is locked"
            " | nothing was lost; another program has locked the file: close that program, then try again"
        )


def test_a_sqlite_file_that_is_full(tmp_path: Path) -> None:
    """A full disk is named with its folder."""
    full = failing(tmp_path / "a.db", lambda one: one.execute("PRAGMA max_page_count = 1"), mode="rwc")

    assert explained(full) == (
        "the membership database sqlite:////srv/state/a.db failed: database or disk is full"
        " | nothing was lost; free disk space in /srv/state"
    )


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("not a database" * 100)])
def test_what_is_no_sqlite_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A folder or another file in the place of the database: one sentence, and `check` goes on."""
    make(tmp_path / "a.db")
    settings = configured(tmp_path, "sqlite:a.db")
    with pytest.raises(AudienceSyncError) as caught, runtime.opened(settings):
        pass
    found = checked(settings)

    assert str(caught.value).startswith(f"cannot open sqlite:///{tmp_path}/a.db: ")
    assert caught.value.hint
    assert found["database", str(settings.database.url)] == ("error", f"{caught.value} | {caught.value.hint}", 1)
    assert found["audience", "vip"][0] == "ok"


def test_a_bug_is_not_explained_away() -> None:
    """A constraint that this program violates is not the database's fault: it is raised as it is."""
    assert explain(sa.exc.IntegrityError("INSERT", None, sqlite3.IntegrityError("UNIQUE")), URL) is None


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """The address, what the driver says, and that nothing was lost."""
    settings = configured(tmp_path, "postgres://me:secret@127.0.0.1:9/members")
    with pytest.raises(AudienceSyncError) as caught, runtime.opened(settings):
        pass

    assert str(caught.value).startswith(
        "cannot open postgresql+psycopg://me:***@127.0.0.1:9/members: connection failed"
    )
    assert "\n" not in str(caught.value)
    assert caught.value.hint == "nothing was lost; try again"


@pytest.mark.parametrize("wrong", [{"username": "nobody"}, {"database": "nowhere"}])
def test_a_user_or_a_database_that_is_not_there(tmp_path: Path, postgres_url: str, wrong: dict[str, Any]) -> None:
    """The hint is not to try again: it names the setting that is wrong."""
    url = sa.make_url(postgres_url).set(**wrong).render_as_string(hide_password=False)
    with pytest.raises(AudienceSyncError, match="does not exist") as caught, runtime.opened(configured(tmp_path, url)):
        pass

    assert caught.value.hint == "check the user and the database name in database.url"


def test_a_server_that_ends_without_a_word() -> None:
    """A connection that ends with the server is said in plain words, without the guesses of the driver."""
    said = "consuming input failed: server closed the connection unexpectedly\n\tThis probably means the server ..."

    assert first_line(sa.exc.OperationalError("SELECT 1", None, Exception(said))) == "the server closed the connection"


@pytest.mark.parametrize("work", [runtime.create, lambda settings: runtime.opened(settings).__enter__()])
def test_a_database_in_a_missing_folder_is_refused(tmp_path: Path, work: Callable[[Settings], object]) -> None:
    """A misspelled folder does not become a new, empty database: neither `init` nor any other command makes it."""
    settings = configured(tmp_path, "sqlite:stat/a.db")
    with pytest.raises(ConfigError) as caught:
        work(settings)

    assert str(caught.value) == f"the folder {tmp_path}/stat of the membership database a.db does not exist"
    assert caught.value.hint == f"create it with `mkdir -p {tmp_path}/stat`, or correct the path"
    assert not (tmp_path / "stat").exists()
    assert checked(settings)["audience", "vip"][0] == "ok"


def test_a_missing_state_directory_is_refused(tmp_path: Path) -> None:
    """Systemd's state directory is where a relative database lies: one that is missing is named."""
    path = configured(tmp_path, "sqlite:a.db").path
    state = tmp_path / "state"
    with pytest.raises(ConfigError) as caught, runtime.opened(load(path, {"STATE_DIRECTORY": str(state)})):
        pass

    assert str(caught.value) == f"the folder {state} of the membership database a.db does not exist"


def test_a_missing_temporary_folder_is_refused(tmp_path: Path) -> None:
    """Python would silently take another folder than TMPDIR names; `check` says so and goes on."""
    missing = tmp_path / "tmp"
    with pytest.raises(ConfigError) as caught:
        require_temporary_folder({"TMPDIR": str(missing)})
    found = checked(configured(tmp_path, "sqlite:a.db"), {"TMPDIR": str(missing)})

    assert str(caught.value) == f"the folder {missing} from TMPDIR does not exist"
    assert found["configuration", "TMPDIR"][0] == "error"
    assert found["audience", "vip"][0] == "ok"
    require_temporary_folder({})
    require_temporary_folder({"TMPDIR": str(tmp_path)})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="from TMPDIR is not a folder"):
        require_temporary_folder({"TMPDIR": str(tmp_path / "file")})


@pytest.mark.parametrize("table", ["digests", "staged", "leases", "runs"])
def test_a_missing_table_is_named(tmp_path: Path, table: str) -> None:
    """`check` looks whether every table is there, and a sync says what a person can do."""
    settings = configured(tmp_path, "sqlite:a.db")
    runtime.create(settings)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(f"DROP TABLE {table}")
    state, said, _ = checked(settings)["database", f"sqlite:///{tmp_path}/a.db"]

    assert state == "error"
    assert said == (
        f"sqlite:///{tmp_path}/a.db has no table {table} | restore the database from a backup: something other than"
        " audience-sync removed what is missing"
    )


def test_a_temporary_folder_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    """The same where it is there but read-only: whatever writes temporary files says so, and `status` does not mind."""
    found = checked(configured(tmp_path, "sqlite:a.db"), {"TMPDIR": "/proc"})
    with pytest.raises(ConfigError) as caught:
        require_usable_temporary_folder({"TMPDIR": "/proc"})

    assert str(caught.value).startswith("the folder /proc from TMPDIR is not writable: ")
    assert caught.value.hint == "set TMPDIR to a folder that is writable by this user"
    assert found["configuration", "TMPDIR"][0] == "error"
    require_temporary_folder({"TMPDIR": "/proc"})
    require_usable_temporary_folder({"TMPDIR": str(tmp_path)})
