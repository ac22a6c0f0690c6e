"""Examples in the README and the manual are executed: commands succeed, settings load, and definitions find members."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.cli import demo_commands
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.manual.manual_pages import FOLDER
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY, Sandbox
from audience_sync.store.database import Database
from tests import manual_shop
from tests.acceptance.test_written_commands import invocations
from tests.commands import Finished, call

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted(FOLDER.glob("*.md"))]
UNTIL_STOPPED = {"run", "sandbox"}  # tests/acceptance/test_daemon.py and test_sandbox_command.py run them
IN_ITS_OWN_FOLDER = {"demo"}  # below, and tests/acceptance/test_demo.py
ON_A_SERVER = {"database"}  # tests/acceptance/test_moved_databases.py runs it
ASK_FIRST = {"forget"}  # on a terminal; elsewhere they need --yes
BLOCKED_RUN = 12  # the run that the examples approve


class Environment(dict[str, str]):
    """An environment in which every reference of a configuration is set."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or one that is as good as any."""
        return super().get(name) or (default if name.isupper() and name.endswith("_DIRECTORY") else f"value-of-{name}")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the code blocks of a language in all documents: where each is, and its text."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            where = f"{path.name}:{text.count(chr(10), 0, block.start()) + 1}"
            yield where, re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE)


def run(words: list[str], folder: Path) -> Finished:
    """Run a command in a folder, with the sandbox's key; questions are answered with yes."""
    return call(words, {"SCHEMATIC_API_KEY": DEVELOPMENT_KEY, "SHOP_PASSWORD": "x"}, folder=folder, stdin=b"y\n")


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every example command makes sense: audiences, an orphan, a blocked run, events to forward."""
    folder = tmp_path_factory.mktemp("furnished")
    manual_shop.fill_database(f"sqlite:///{folder / 'shop.db'}")
    manual_shop.write_files(folder)
    config = folder / "config.toml"
    spenders = "event('Order Completed').within(90 days).sum(property('revenue')) >= 500"
    with Sandbox(folder / "sandbox.db") as sandbox:
        text = f"""
[schematic]
api_key = "${{SCHEMATIC_API_KEY}}"
capture_url = "{sandbox.url}"
api_url = "{sandbox.url}"
[guard]
min_members = 1
[sources.shop]
url = "sqlite:///shop.db"
[sources.shop.events]
table = "events"
timestamp = "occurred_at"
properties = "properties"
[sources.shop.profiles]
table = "users"
company = "company_id"
[[audiences]]
name = "Order Completed Last 30days"
sql = "SELECT DISTINCT customer_id AS user_id FROM orders WHERE ordered_at >= datetime(:now, '-30 days')"
[[audiences]]
name = "Big Spenders"
query = "{spenders}"
"""
        old = f'[[audiences]]\nname = "Old Audience"\nquery = "{spenders}"\n'
        config.write_text(text + old, encoding="utf-8")
        assert run(["init"], folder).code == 0
        assert run(["sync", "--now", "2026-02-01"], folder).code == 0  # runs 1 to 3, without members
        assert run(["sync"], folder).code == 0  # runs 4 to 6
        config.write_text(text, encoding="utf-8")
        for _ in range(6, BLOCKED_RUN - 1):
            assert run(["sync", "order_completed_last_30days"], folder).code == 0
        engine = sa.create_engine(f"sqlite:///{folder / 'shop.db'}")
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE events RENAME TO all_events")
            connection.exec_driver_sql("CREATE TABLE events AS SELECT * FROM all_events WHERE user_id = 'u7'")
        blocked = run(["sync", "big_spenders"], folder)
        assert blocked.code == 4
        assert f"`audience-sync approve {BLOCKED_RUN}`" in blocked.err
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE events")
            connection.exec_driver_sql("ALTER TABLE all_events RENAME TO events")
        engine.dispose()
        yield folder


EXAMPLES = {
    " ".join(words): words
    for words in invocations()
    if not {*words[:1], *words[2:3]} & (UNTIL_STOPPED | IN_ITS_OWN_FOLDER | ON_A_SERVER)
}


@pytest.mark.parametrize("words", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_command_succeeds(words: list[str], furnished: Path, tmp_path: Path) -> None:
    """Each command of a shell example, run where the audiences and users that it names exist, exits with 0."""
    folder = tmp_path / "copy"
    shutil.copytree(furnished, folder)
    if words[0] == "resume":
        assert run(["pause", *words[1:]], folder).code == 0
    ended = run([*words, *(["--yes"] if words[0] in ASK_FIRST else [])], folder)

    assert (ended.code, [line for line in ended.err.splitlines() if line.startswith("error:")]) == (0, []), ended.err


# --- settings and definitions -----------------------------------------------------------------------------------------

SETTINGS = [
    pytest.param(text, id=where)
    for where, text in blocks("toml")
    if not where.startswith("tutorial.md")  # a console example: its commands use its settings
]


def complete(example: str, *, url: str = "sqlite:///shop.db") -> str:
    """Return a configuration that has an example, and the tables that a whole configuration needs."""
    tables = tomllib.loads(example)
    parts = [re.sub(r'url = "postgresql://[^"]*"', f'url = "{url}"', example)]
    shop = tables.get("sources", {}).get("shop")
    if "sources" not in tables or (shop is not None and not {"url", "path"} & shop.keys()):
        parts.append(f'[sources.shop]\nurl = "{url}"')
    is_shop = "shop" in tables.get("sources", {"shop": None})
    if is_shop and not {"events", "profiles", "path"} & (shop or {}).keys():
        parts.append('[sources.shop.events]\ntable = "events"\ntimestamp = "occurred_at"\nproperties = "properties"')
        parts.append('[sources.shop.profiles]\ntable = "users"')
    if not {"audiences", "traits", "ingest"} & tables.keys():
        parts.append('[[audiences]]\nname = "Big Spenders"\nsql = "SELECT user_id FROM users"')
    return "\n".join(parts)


@pytest.mark.parametrize("example", SETTINGS)
def test_an_example_of_settings_loads(example: str, tmp_path: Path) -> None:
    """Settings in the manual are accepted as they are, in a file that has what they do not show."""
    path = tmp_path / "config.toml"
    path.write_text(complete(example), encoding="utf-8")
    manual_shop.write_files(tmp_path)

    assert load(path, Environment()).path == path


@pytest.mark.parametrize(
    "example",
    [
        one
        for one in SETTINGS
        if re.search(r"^(sql|query)(_file)? = ", str(one.values[0]), re.MULTILINE)
        and "mariadb://" not in str(one.values[0])  # tests/acceptance/test_mariadb_commands.py runs it
    ],
)
def test_a_definition_in_an_example_finds_members(example: str, postgres_url: str, tmp_path: Path) -> None:
    """SQL and queries in the manual run on the database or the files that they are written for, and find somebody."""
    for url in (postgres_url, f"sqlite:///{tmp_path / 'shop.db'}"):
        manual_shop.fill_database(url)
    manual_shop.write_files(tmp_path)
    path = tmp_path / "config.toml"
    path.write_text(complete(example, url=postgres_url), encoding="utf-8")
    settings = load(path, Environment())

    for audience in settings.audiences:
        ended = run(["preview", audience.key, "--format", "json"], tmp_path)
        assert ended.code == 0, ended.err
        assert not re.search(r'"members":0\b', ended.out), ended.out


def test_the_first_sync_of_the_readme_runs(postgres_url: str, tmp_path: Path) -> None:
    """The configuration and the commands of "Your first sync", with a real PostgreSQL and the sandbox, succeed."""
    text = README.read_text(encoding="utf-8").partition("## Your first sync")[2]
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in re.findall(r"^audience-sync .*$", text.partition("## Manual")[0], re.MULTILINE)
    ]
    manual_shop.fill_database(postgres_url)
    with Sandbox(tmp_path / "sandbox.db") as sandbox:
        config = example.replace(
            "[sources.", f'capture_url = "{sandbox.url}"\napi_url = "{sandbox.url}"\n\n[sources.', 1
        )
        config = re.sub(r'url = "postgresql://[^"]*"', f'url = "{postgres_url}"', config)
        (tmp_path / "config.toml").write_text(config, encoding="utf-8")
        ended = {words[0]: run(words, tmp_path) for words in commands}

    assert [*ended] == ["init", "check", "plan", "sync", "service"]
    assert {name: one.err for name, one in ended.items() if one.code} == {}
    assert "3 events accepted by Schematic" in ended["sync"].err
    assert "ExecStart=" in ended["service"].out


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output in the README is that of a demo on the day that it names; `…` stands for lines left out."""
    (shown,) = re.findall(r"```text\n(2\. The first sync.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    noon = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    monkeypatch.setattr(demo_commands, "clock", lambda: Clock(now=lambda: noon))
    printed = iter(run(["demo"], tmp_path).out.splitlines())

    missing = [line for line in shown.splitlines() if line and line != "…" and line not in printed]
    assert missing == []


# --- SQL --------------------------------------------------------------------------------------------------------------

STATEMENTS = [
    statement.strip()
    for where, text in blocks("sql")
    if where.startswith("database.md")
    for statement in text.split(";\n")
    if statement.strip()
]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: text.splitlines()[0])
def test_a_query_of_the_membership_database_runs(statement: str, database: Database) -> None:
    """The queries in the manual run on both databases, unless they say for which one they are."""
    if "(SQLite)" in statement and database.engine.dialect.name != "sqlite":
        pytest.skip("this query is for SQLite")
    with database.read() as connection:
        assert list(connection.execute(sa.text(statement))) == []


def test_queries_of_the_membership_database_find_rows(furnished: Path) -> None:
    """In a database that was used, the queries about members, history, runs and deliveries return something."""
    engine = sa.create_engine(f"sqlite:///{furnished / 'audience_sync.db'}")
    with engine.connect() as connection:
        found = {text.splitlines()[0]: len(connection.exec_driver_sql(text).fetchall()) for text in STATEMENTS}
    engine.dispose()

    assert [name for name, count in found.items() if not count] == ["-- what is not delivered yet, and why"]


def test_the_role_for_a_source_can_be_created(postgres_url: str) -> None:
    """The statements that the page on security shows run on PostgreSQL, and the role can only read."""
    manual_shop.fill_database(postgres_url)
    (text,) = (text for where, text in blocks("sql") if where.startswith("security.md"))
    engine = sa.create_engine(postgres_url)
    with engine.connect() as connection:
        connection.exec_driver_sql(text)
        connection.exec_driver_sql("SET ROLE audience_reader")
        assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar_one() == len(manual_shop.ORDERS)
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql("DELETE FROM orders")
        connection.rollback()
    engine.dispose()
