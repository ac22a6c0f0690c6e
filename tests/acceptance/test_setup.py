"""The commands that set it up: init, migrate and check on both databases, and the units as systemd judges them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from audience_sync.checks.check_permissions import holds_secret
from audience_sync.cli import main, setup_commands
from audience_sync.cli.context import MessageConsole
from audience_sync.cli.systemd_units import Unit, quoted
from audience_sync.clock import Clock, wall_clock
from audience_sync.config import Settings, load
from audience_sync.config.example_file import example
from audience_sync.core.model import Computation
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store import audiences, binding, migration, schema
from audience_sync.store import database as store_database
from audience_sync.store.database import Database, connect, migrations, revisions, verify
from audience_sync.store.migration import migrate
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, sync
from tests.factories import AUDIENCE_KEY, ORDERS_SQL, Shop, config_text
from tests.integration.test_migrations import run_alembic
from tests.support.faulty_sandbox import FaultySandbox

EXPOSURE = 2.0  # what `systemd-analyze security` may give at most; 10 is worst
PASSWORD = "s3cr3t-pass"


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def wrong(self) -> dict[tuple[str, str], str]:
        """Return the state of every check that is not well, by its kind and subject."""
        return {(one["check"], one["subject"]): one["state"] for one in self.records if one["state"] != "ok"}

    def about(self, check: str, subject: str, *, state: str = "error") -> str:
        """Return message and remedy of the one finding about something."""
        (found,) = [
            one for one in self.records if (one["check"], one["subject"], one["state"]) == (check, subject, state)
        ]
        return f"{found['message']} | {found['remedy']}"


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs a command line in `tmp_path`, with the key of the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCHEMATIC_API_KEY", DEVELOPMENT_KEY)

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["audience-sync", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Result(int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[FaultySandbox]:
    """A Schematic of one's own, serving."""
    with FaultySandbox(tmp_path / "sandbox.db") as serving:
        yield serving


@pytest.fixture
def configure(tmp_path: Path, sandbox: FaultySandbox, shop: Shop) -> Callable[..., Settings]:
    """Return a function that writes a configuration of shop, sandbox and a database, as only its owner can read it."""
    shop.set_orders([("u1", "acme"), ("u2", "acme")])

    def make(url: str, *, more: str = "", destination: str | None = None, **wanted: Any) -> Settings:
        there = json.dumps(destination or sandbox.url)
        tables = [
            f"[database]\nurl = {json.dumps(url)}",
            f"[schematic]\ncapture_url = {there}\napi_url = {there}\ntimeout = '5s'",
        ]
        path = tmp_path / "config.toml"
        path.write_text(config_text(more="\n".join([*tables, more]), **wanted), encoding="utf-8")
        path.chmod(0o600)
        return load(path, {})

    return make


def audience(name: str, *, sql: str = ORDERS_SQL, more: str = "") -> str:
    """Return one more audience of the shop, as TOML."""
    return f"[[audiences]]\nname = {json.dumps(name)}\nsource = 'shop'\nsql = {json.dumps(sql)}\n{more}\n"


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of every table."""
    with database.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in schema.metadata.sorted_tables
        }


def execute(database: Database, statement: str, **parameters: object) -> None:
    """Change the membership database behind the back of the program."""
    with database.write() as connection:
        connection.execute(sa.text(statement), parameters)


def test_init_leaves_a_newcomer_with_a_private_file_a_database_and_the_next_steps(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    """One command makes everything that the next ones need, readable by its owner alone, and names them."""
    done = command("init")

    path = tmp_path / "config.toml"
    assert done.code == 0
    assert path.read_text(encoding="utf-8") == example().read_text(encoding="utf-8")
    assert {stat.S_IMODE(one.stat().st_mode) for one in (path, tmp_path / "audience_sync.db")} == {0o600}
    assert all(step in done.err for step in ("edit ", "SCHEMATIC_API_KEY", " check", " plan", " sync"))


def test_init_twice_changes_nothing(command: Callable[..., Result], tmp_path: Path) -> None:
    """Whoever runs it again keeps the edited file and the database."""
    command("init")
    path = tmp_path / "config.toml"
    path.write_text(path.read_text(encoding="utf-8") + "\n# mine\n", encoding="utf-8")
    before = path.read_bytes()
    with closing(connect(f"sqlite:///{tmp_path / 'audience_sync.db'}")) as database:
        rows = everything(database)
        again = command("init")

        assert again.code == 0
        assert everything(database) == rows
    assert path.read_bytes() == before
    assert "kept" in again.err
    assert "up to date" in again.err


def test_init_writes_the_file_that_is_named(command: Callable[..., Result], tmp_path: Path) -> None:
    """--config decides where the file goes, its folder included, and the next steps name it."""
    path = tmp_path / "deep" / "er" / "mine.toml"

    done = command("--config", str(path), "init")

    assert done.code == 0
    assert path.is_file()
    assert (path.parent / "audience_sync.db").is_file()
    assert f"audience-sync --config {path} check" in done.err


def test_init_says_where_it_may_not_write(command: Callable[..., Result], tmp_path: Path) -> None:
    """A place that cannot be written to is a sentence with another way, and not a traceback."""
    (tmp_path / "file").touch()

    done = command("--config", str(tmp_path / "file" / "config.toml"), "init")

    assert done.code == 2
    assert "cannot write" in done.err
    assert "--config FILE" in done.err


def test_init_makes_no_database_of_a_file_with_problems(command: Callable[..., Result], tmp_path: Path) -> None:
    """A file that is wrong is kept and its problems are listed; nothing half-made is left."""
    (tmp_path / "config.toml").write_text("identitty = 'userId'\n", encoding="utf-8")

    done = command("init")

    assert done.code == 2
    assert "identitty: unknown setting (did you mean `identity`?)" in done.err
    assert not (tmp_path / "audience_sync.db").exists()


def test_init_and_migrate_create_the_tables(
    command: Callable[..., Result], configure: Callable[..., Settings], empty_url: str
) -> None:
    """Both make the schema in an empty database of each kind, and then say that nothing is to be done."""
    configure(empty_url)

    first, second, third = command("migrate"), command("migrate"), command("init")

    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert "created the membership database" in first.err
    assert "nothing to do" in second.err
    assert "up to date" in third.err
    with closing(connect(empty_url)) as database:
        verify(database)


def test_migrate_says_from_where_to_where_and_speaks_of_a_backup(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An upgrade that brings a migration is refused by `check`, applied by `migrate`, and then done."""
    configure(database_url)
    scripts = tmp_path / "migrations"
    shutil.copytree(migrations(), scripts)
    newest = revisions()[-1]
    (scripts / "versions" / "9998_more.py").write_text(
        f"revision, down_revision = '9998', '{newest}'\nbranch_labels = depends_on = None\ndef upgrade():\n    pass\n",
        encoding="utf-8",
    )

    for module in (store_database, migration):
        monkeypatch.setattr(module, "migrations", lambda: scripts)

    refused, done, again = command("check", "--format", "json"), command("migrate"), command("migrate")

    assert refused.code == 2
    assert "audience-sync migrate" in str([one["remedy"] for one in refused.records])
    assert done.code == 0
    assert f"from schema {newest} to 9998" in done.err
    assert "backup" in done.err
    assert "nothing to do" in again.err
    assert "backup" not in again.err


def test_migrate_says_how_to_go_back(
    command: Callable[..., Result], configure: Callable[..., Settings], tmp_path: Path, sqlite_template: Path
) -> None:
    """A SQLite file is backed up first, and the printed command brings it back as it was; --no-backup makes none."""
    file = tmp_path / "own folder" / "audience_sync.db"
    file.parent.mkdir()
    shutil.copy(sqlite_template, file)
    with closing(connect(f"sqlite:///{file}")) as database:
        run_alembic(database, "down", "0009")
        execute(database, "INSERT INTO settings (name, value) VALUES ('kept', 'yes')")
    configure(f"sqlite:///{file}")
    refused, done = command("check", "--format", "json"), command("migrate")
    (backup,) = file.parent.glob("*.backup")

    assert "stop the service, then run `audience-sync migrate`, which makes a backup first" in refused.out
    assert done.code == 0
    assert f"backup: {backup}" in done.err
    assert "to go back: stop the service, install audience-sync 0.7.0, then run `" in done.err
    subprocess.run(["/bin/sh", "-c", done.err.partition("then run `")[2].partition("`")[0]], check=True)
    with closing(connect(f"sqlite:///{file}")) as database, database.read() as connection:
        assert store_database.revision_in(connection) == "0009"
        assert connection.exec_driver_sql("SELECT value FROM settings WHERE name = 'kept'").scalar() == "yes"
    again = command("migrate", "--no-backup")
    assert again.code == 0
    assert "a migration cannot be undone" in again.err
    assert list(file.parent.glob("*.backup")) == [backup]


def test_migrate_refuses_a_database_of_a_newer_program(
    command: Callable[..., Result], configure: Callable[..., Settings], database: Database, database_url: str
) -> None:
    """An old program never touches tables that it does not know."""
    configure(database_url)
    execute(database, "UPDATE alembic_version SET version_num = '9999'")

    done, looked = command("migrate"), command("check", "--format", "json")

    assert (done.code, looked.code) == (2, 2)
    assert "from a newer version of audience-sync" in done.err
    assert any("from a newer version of audience-sync" in one["message"] for one in looked.records)


def test_check_tells_a_newcomer_what_the_example_still_needs(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after `init` everything that is missing is named at once: the shop, its audience, and the key."""
    command("init")
    monkeypatch.delenv("SCHEMATIC_API_KEY")
    path = tmp_path / "config.toml"
    away = example().read_text(encoding="utf-8").replace("https://c.schematichq.com", "http://127.0.0.1:1")

    fresh = command("check", "--format", "json")
    path.write_text(away, encoding="utf-8")
    edited = command("check", "--format", "json")

    assert fresh.code == 2
    assert "is still the example" in fresh.about("configuration", str(path), state="warning")
    assert f"The source file {tmp_path / 'shop.db'} does not exist" in fresh.about("source", "shop")
    assert "its source shop cannot be read" in fresh.about("audience", AUDIENCE_KEY, state="warning")
    assert "export SCHEMATIC_API_KEY" in fresh.about("schematic", "api_key")
    assert ("configuration", str(path)) not in edited.wrong()


def test_check_finds_everything_well_and_changes_nothing(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    workspace: Workspace,
    database_url: str,
    sandbox: FaultySandbox,
) -> None:
    """A set-up that works is told so with 0; no row is written and no event is sent."""
    settings = configure(database_url)
    sync(workspace, Job(settings=settings, audience=settings.audiences[0]))
    before = everything(workspace.database)

    looked = command("check", "--deep", "--format", "json")

    assert (looked.code, looked.wrong()) == (0, {})
    assert {one["check"] for one in looked.records} == {
        "configuration", "database", "source", "audience", "mapping", "memberships", "schematic",
    }  # fmt: skip
    assert "2 members verified" in str(looked.records)
    assert everything(workspace.database) == before
    assert sandbox.ledger.read("SELECT count(*) FROM events")[0][0] == 0


def test_check_names_all_that_is_wrong_at_once(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    database: Database,
    database_url: str,
) -> None:
    """One look shows the broken query, the dead source, and every audience whose state needs a person."""
    more = [
        audience("No Column", sql="SELECT customer_id FROM orders"),
        audience("No Table", sql="SELECT user_id FROM nowhere"),
        audience("Closed"),
        audience("Halted"),
        audience("Fresh", more="key = 'fresh_2'"),
        audience("Off", sql="nonsense", more="enabled = false"),
        "[sources.gone]\nurl = 'sqlite:///gone.db'",
        "[[audiences]]\nname = 'Elsewhere'\nsource = 'gone'\nsql = 'SELECT user_id FROM orders'",
    ]
    configure(database_url, more="\n".join(more), audience={"source": "shop"})
    with database.write() as connection:
        for key, name, state in (
            ("closed", "Closed", "retired"),
            ("halted", "Halted", "paused"),
            ("fresh", "Fresh", "active"),
            ("long_gone", "Long Gone", "retired"),
        ):
            row = audiences.register(connection, key=key, name=name, now_ms=1, computation=Computation.AUDIENCE)
            audiences.set_state(connection, row.id, state)

    looked = command("check", "--format", "json")

    assert looked.code == 1
    assert looked.wrong() == {
        ("source", "gone"): "error",
        ("audience", "no_column"): "error",
        ("audience", "no_table"): "error",
        ("audience", "closed"): "warning",
        ("audience", "halted"): "warning",
        ("audience", "fresh_2"): "warning",
        ("audience", "fresh"): "warning",
        ("audience", "elsewhere"): "warning",
    }
    assert "no column 'user_id'" in looked.about("audience", "no_column")
    assert "nowhere" in looked.about("audience", "no_table")
    assert "is retired" in looked.about("audience", "closed", state="warning")
    assert "audience-sync resume halted" in looked.about("audience", "halted", state="warning")
    assert 'key = "fresh"' in looked.about("audience", "fresh_2", state="warning")
    assert "audience-sync retract fresh" in looked.about("audience", "fresh", state="warning")


def test_check_without_a_file_or_with_a_wrong_one_is_one_finding(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    """A monitor that reads JSON learns of a missing or broken configuration too."""
    named = tmp_path / "mine.toml"

    missing = command("--config", str(named), "check", "--format", "json")
    named.write_text("[sources.shop]\nurll = 'x'\n[guard]\nmin_members = 'many'\n", encoding="utf-8")
    broken = command("--config", str(named), "check", "--format", "json")

    assert (missing.code, broken.code) == (2, 2)
    assert "audience-sync init" in missing.about("configuration", str(named))
    said = broken.about("configuration", str(named))
    assert "sources.shop.urll: unknown setting (did you mean `url`?)" in said
    assert "guard.min_members: must be a whole number" in said


def test_check_says_how_a_missing_database_is_made(
    command: Callable[..., Result], configure: Callable[..., Settings], empty_url: str
) -> None:
    """Without tables the rest is looked at all the same, and `init` is the remedy."""
    configure(empty_url)

    looked = command("check", "--format", "json")

    assert looked.code == 2
    assert [check for check, _ in looked.wrong()] == ["database"]
    assert "audience-sync init" in str(looked.records)


def test_check_sees_a_database_that_cannot_be_written_to(
    command: Callable[..., Result], configure: Callable[..., Settings], postgres_url: str
) -> None:
    """A replica is found before the first sync meets it; Postgres alone: to root every file can be written."""
    with closing(connect(postgres_url, create=True)) as database:
        migrate(database)
        name = database.engine.url.database
        execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    configure(postgres_url)

    looked = command("check", "--format", "json")

    assert looked.code == 1
    assert "read-only" in str([one["message"] for one in looked.records if one["check"] == "database"])


def test_check_refuses_another_identity_and_another_environment(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    database: Database,
    database_url: str,
    sandbox: FaultySandbox,
) -> None:
    """A database that belongs to somebody else is named before anything is sent."""
    configure(database_url)
    with database.write() as connection:
        binding.bind_environment(connection, "env_production", label="", destination="Schematic")
    other = command("check", "--format", "json")
    with database.write() as connection:
        binding.bind_identity(connection, "email")
    both = command("check", "--format", "json")

    assert (other.code, both.code) == (2, 2)
    assert "'env_production'" in other.about("schematic", sandbox.url)
    assert 'set identity = "email"' in str(both.records)


def test_check_leaves_with_6_for_a_refused_key(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    database_url: str,
    sandbox: FaultySandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script can tell a key that must be replaced from everything else."""
    configure(database_url)
    monkeypatch.setenv("SCHEMATIC_API_KEY", "sch_prod_revoked")

    looked = command("check", "--format", "json")

    assert looked.code == 6
    assert "refused the API key" in looked.about("schematic", sandbox.url)
    assert "sch_prod_revoked" not in looked.out + looked.err


def test_check_says_that_schematic_is_away(
    command: Callable[..., Result], configure: Callable[..., Settings], database_url: str
) -> None:
    """A host that does not answer is a failure of its own, neither configuration nor key."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    configure(database_url, destination=url)

    looked = command("check", "--format", "json")

    assert looked.code == 1
    assert [one["state"] for one in looked.records if one["check"] == "schematic"] == ["error", "error"]


def test_check_warns_of_a_trait_that_is_not_boolean(
    command: Callable[..., Result], configure: Callable[..., Settings], database_url: str, sandbox: FaultySandbox
) -> None:
    """Who wants to know why a rule never sees true is told that the trait has another type."""
    configure(database_url, more=audience("Gold"))
    for trait, kind in ((AUDIENCE_KEY, "string"), ("gold", "boolean"), ("foreign", "number")):
        wanted = {"entity_type": "user", "hierarchy": [trait], "trait_type": kind, "display_name": trait}
        headers = {"X-Schematic-Api-Key": DEVELOPMENT_KEY}
        httpx.post(
            f"{sandbox.url}/entity-trait-definitions", json=wanted, headers=headers, verify=False
        ).raise_for_status()

    looked = command("check", "--format", "json")

    assert (looked.code, looked.wrong()) == (0, {("trait", AUDIENCE_KEY): "warning"})
    assert "the type string in Schematic, not boolean" in looked.about("trait", AUDIENCE_KEY, state="warning")


@pytest.mark.parametrize(("minutes", "said"), [(20, "20m ahead"), (-20, "20m behind"), (2, None)])
def test_check_warns_of_a_wrong_clock(
    minutes: int,
    said: str | None,
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    empty_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that is off by more than five minutes is found: audiences are computed with it."""
    url = configure(empty_url).schematic.api_url
    command("migrate")
    wrong = Clock(now=lambda: wall_clock() + timedelta(minutes=minutes))
    monkeypatch.setattr(setup_commands, "clock", lambda: wrong)

    looked = command("check", "--format", "json")

    assert looked.code == 0
    if said is None:
        assert looked.wrong() == {}
    else:
        assert said in looked.about("schematic", url, state="warning")


def test_check_warns_of_files_that_others_can_open(
    command: Callable[..., Result], configure: Callable[..., Settings], tmp_path: Path, sqlite_template: Path
) -> None:
    """Memberships and passwords are the owner's alone, and nobody else may point the key elsewhere."""
    database = tmp_path / "own.db"
    shutil.copy(sqlite_template, database)
    database.chmod(0o644)
    configure(
        f"sqlite:///{database}",
        more=f"[sources.other]\nurl = 'sqlite:///shop.db'\n# u:{PASSWORD}@h",
        audience={"source": "shop"},
    )
    path = tmp_path / "config.toml"
    path.chmod(0o666)

    looked = command("check", "--format", "json")
    path.write_text(
        path.read_text(encoding="utf-8") + f"\n[sources.pg]\nurl = 'postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/d'\n"
    )
    path.chmod(0o644)
    secret = command("check", "--format", "json")

    assert looked.code == 0
    assert f"chmod go-w {path}" in looked.about("configuration", str(path), state="warning")
    assert f"chmod 600 {database}" in looked.about("database", str(database), state="warning")
    assert "contains a password" in secret.about("configuration", str(path), state="warning")
    assert PASSWORD not in secret.out + secret.err


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ("url = 'postgresql+psycopg://reader:hunter2@db/shop'", True),
        ("url = 'postgresql+psycopg://reader:hun${X}ter@db/shop'", True),
        ("url = 'snowflake://reader@account/db?token=abc'", True),
        ("url = 'postgresql+psycopg://reader:${PASSWORD}@db/shop'", False),
        ("url = 'snowflake://reader@account/db?token=${TOKEN}'", False),
        ("url = 'postgresql+psycopg://reader@db:5432/shop?sslmode=require'", False),
        ("capture_url = 'http://127.0.0.1:8080'", False),
        ("# url = 'postgresql+psycopg://reader:hunter2@db/shop'", False),
    ],
)
def test_a_secret_in_a_file_is_told_from_a_reference(line: str, held: bool) -> None:
    """A file that only refers to its secrets may be read by the user of the service."""
    assert holds_secret(line) is held


def test_check_deep_finds_damage(
    command: Callable[..., Result], configure: Callable[..., Settings], workspace: Workspace, database_url: str
) -> None:
    """A membership that somebody changed by hand, or lost, is found, with a way to repair it."""
    settings = configure(database_url)
    sync(workspace, Job(settings=settings, audience=settings.audiences[0]))
    execute(workspace.database, "DELETE FROM memberships WHERE profile_key = :k", k="u1")

    shallow, deep = command("check", "--format", "json"), command("check", "--deep", "--format", "json")

    errors = [one for one in deep.records if one["state"] == "error"]
    assert (shallow.code, deep.code) == (0, 1)
    assert {(one["check"], one["subject"]) for one in errors} == {("memberships", AUDIENCE_KEY)}
    assert "its members differ from what the last sync wrote" in errors[0]["message"]
    assert f"audience-sync sync {AUDIENCE_KEY} --resync" in errors[0]["remedy"]
    assert "has 1 member, but the stored count is 2" in errors[1]["message"]
    assert "check again" in errors[1]["remedy"]


@pytest.mark.slow
def test_the_remedies_of_check_deep_repair_the_damage(
    command: Callable[..., Result], configure: Callable[..., Settings], workspace: Workspace, database_url: str
) -> None:
    """Whoever does what is said is told that all is well afterwards."""
    settings = configure(database_url)
    sync(workspace, Job(settings=settings, audience=settings.audiences[0]))
    execute(workspace.database, "DELETE FROM memberships WHERE profile_key = :k", k="u1")

    sync(workspace, Job(settings=settings, audience=settings.audiences[0], resync=True))
    done = command("check", "--deep", "--format", "json")

    assert (done.code, done.wrong()) == (0, {})


def test_check_reads_well_on_a_pipe_and_on_a_terminal(
    command: Callable[..., Result],
    configure: Callable[..., Settings],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line is a word, what was looked at, and a sentence, with the remedy under it; a terminal shows marks."""
    configure(database_url, sql='SELECT 1 AS "bad\x1b[31m"')

    piped = command("check")
    monkeypatch.setattr(MessageConsole, "is_seen", True)
    shown = command("check")

    lines = piped.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error"))
    assert re.match(rf"error    audience {AUDIENCE_KEY}: the result has no column 'user_id'", lines[at])
    assert lines[at + 1].startswith("         hint: ")
    assert "\x1b" not in piped.out
    assert "1 of " in piped.err
    assert {"✓", "✗"} < set(shown.out)
    assert "\x1b[31mbad" not in shown.out


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--once",), ("--user", "daemon"), ("--once", "--user", "daemon")])
def test_systemd_accepts_the_units_and_finds_them_hardened(
    words: tuple[str, ...], command: Callable[..., Result], tmp_path: Path
) -> None:
    """The printed unit is valid as it is, and exposes little: judged by systemd's own tools."""
    config = tmp_path / "config.toml"
    config.write_text('[sources.shop]\nurl = "postgresql://reader:${SHOP_PASSWORD}@db/shop"\n')
    printed = command("--config", str(config), "service", *words)
    unit = tmp_path / f"audience-sync{'-once' if '--once' in words else ''}.service"
    unit.write_text(printed.out, encoding="utf-8")

    verified = analyze("verify", str(unit))
    judged = analyze("security", "--offline=true", str(unit))

    found = re.search(r"Overall exposure level for .*: ([\d.]+)", judged.stdout)
    assert printed.code == 0
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert found is not None
    assert float(found[1]) < EXPOSURE


def test_the_service_is_what_the_daemon_promises(command: Callable[..., Result]) -> None:
    """The unit says how the daemon is started, watched and stopped, and where key and database are."""
    printed = command("--config", "/srv/my conf/50%.toml", "service")
    lines = printed.out.splitlines()

    for setting in (
        "Type=notify", "NotifyAccess=main", "WatchdogSec=60", "TimeoutStopSec=15", "Restart=on-failure",
        "RestartSec=10", "RestartPreventExitStatus=2", "KillMode=mixed", "DynamicUser=yes", "ProtectSystem=strict",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "StateDirectory=audience-sync", "Environment=TMPDIR=/var/cache/audience-sync",
        "LoadCredential=SCHEMATIC_API_KEY:/etc/audience-sync/schematic_api_key",
    ):  # fmt: skip
        assert setting in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert re.fullmatch(r'ExecStart=/\S+ .*--config "/srv/my conf/50%%\.toml" run', start)
    assert DEVELOPMENT_KEY not in printed.out + printed.err


@pytest.mark.parametrize("once", [(), ("--once",)])
def test_the_unit_loads_every_secret_that_the_configuration_refers_to(
    once: tuple[str, ...], command: Callable[..., Result], tmp_path: Path
) -> None:
    """Nobody finds out at the start of the service which credential is missing; other commands get the same ones."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[database]\nurl = "postgresql://sync:${DB_PASSWORD}@db/x"\n'
        '[ingest]\nlisten = "127.0.0.1:0"\nwrite_keys = ["${WRITE_KEY}"]\n'
        '[sources.shop]\nurl = "postgresql://reader:${SHOP_PASSWORD}@db/shop"\n'
    )
    printed = command("--config", str(config), "service", *once)

    files = [
        f"{name}:/etc/audience-sync/{name.lower()}"
        for name in ("DB_PASSWORD", "SCHEMATIC_API_KEY", "WRITE_KEY", "SHOP_PASSWORD")
    ]
    assert re.findall(r"^LoadCredential=(.*)$", printed.out, re.MULTILINE) == files
    assert re.findall(r"^#     -p LoadCredential=(.*) \\$", printed.out, re.MULTILINE) == files
    made = re.findall(r"^#   install -m 600 /dev/null (.*)$", printed.out, re.MULTILINE)
    assert made == ([] if once else [file.partition(":")[2] for file in files])
    assert "does not exist" not in printed.err


def test_service_without_a_configuration_says_what_is_missing(command: Callable[..., Result], tmp_path: Path) -> None:
    """The unit can be printed first; a file that is not TOML is an error, and nothing is printed."""
    config = tmp_path / "config.toml"
    before = command("--config", str(config), "service")
    config.write_text("[sources.shop\n")
    broken = command("--config", str(config), "service")
    config.write_text('[schematic]\napi_key_file = "key"\n')
    without = command("--config", str(config), "service")

    assert re.findall(r"^LoadCredential=(\w+)", before.out, re.MULTILINE) == ["SCHEMATIC_API_KEY"]
    assert f"note: {config} does not exist, so the unit has only the API key's credential" in before.err
    assert (broken.code, broken.out) == (2, "")
    assert f"{config}, line 1, column 14: " in broken.err
    assert "LoadCredential=" not in without.out.replace("(see\n# LoadCredential below)", "")
    assert f"# {config} refers to no secrets." in without.out


def test_the_one_off_sync_shares_user_database_key_and_walls_with_the_service(command: Callable[..., Result]) -> None:
    """What the two units may see and do differs in nothing, so that they work on one database."""
    own = {
        "Type",
        "ExecStart",
        "ExecReload",
        "NotifyAccess",
        "Restart",
        "RestartSec",
        "RestartPreventExitStatus",
        "TimeoutStartSec",
        "WatchdogSec",
    }
    service, once = (
        [line for line in settings_of(command(*words).out) if line.partition("=")[0] not in own]
        for words in (("service",), ("service", "--once"))
    )

    assert once == service
    assert "User=audience-sync" in once


def test_service_runs_as_the_user_that_is_named(command: Callable[..., Result]) -> None:
    """--user takes the place of the dynamic user, and what is no name of a user never gets into a unit."""
    printed, refused = command("service", "--user", "sync"), command("service", "--user", "x\nExecStartPre=/bin/evil")

    lines = settings_of(printed.out)
    assert "User=sync" in lines
    assert not any(line.startswith("DynamicUser") for line in lines)
    assert "-g sync -m 640" in printed.out
    assert (refused.code, refused.out) == (2, "")


def test_service_says_when_it_could_not_be_seen(command: Callable[..., Result]) -> None:
    """A configuration or a program in a home directory is named before the service fails to start."""
    printed = command("--config", "/home/me/config.toml", "service")

    assert printed.code == 0
    assert "the service cannot read /home/me/config.toml" in printed.err


@pytest.mark.parametrize(
    ("word", "written"),
    [("/usr/bin/x", "/usr/bin/x"), ("a b", '"a b"'), ("50%$", "50%%$$"), ('say "hi"', '"say \\"hi\\""'), ("", '""')],
)
def test_words_of_a_command_survive_systemd(word: str, written: str) -> None:
    """A path with a blank or a percent sign starts the same program."""
    assert quoted(word) == written


def test_a_unit_of_a_module_starts_python() -> None:
    """Where no script is installed the module is started."""
    unit = Unit(("/opt/x/bin/python", "-m", "audience_sync"), Path("/etc/audience-sync/config.toml"), None)

    line = "ExecStart=/opt/x/bin/python -m audience_sync --config /etc/audience-sync/config.toml sync"
    assert line in unit.once().splitlines()


@pytest.mark.parametrize("name", ["init", "check", "migrate", "service"])
def test_help_has_an_example(name: str, command: Callable[..., Result]) -> None:
    """Every command of set-up shows how it is called."""
    shown = command(name, "--help")

    assert shown.code == 0
    assert f"Example: audience-sync {name}" in " ".join(shown.out.split())


def settings_of(unit: str) -> list[str]:
    """Return the lines of the [Service] section that set something."""
    body = unit.partition("[Service]\n")[2].partition("[Install]")[0]
    return [line for line in body.splitlines() if line and not line.startswith("#")]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd's own judge of units."""
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
