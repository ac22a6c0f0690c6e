"""Names, keys, values and cells that are SQL, through every command on both databases: all of it stays text."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from audience_sync.cli import main
from audience_sync.sandbox.rest_api import SandboxSettings
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store.database import Database
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

HOSTILE = (
    "x'; DROP TABLE memberships; --",
    'x"; DROP TABLE runs; --',
    "x') UNION SELECT key FROM audiences --",
    "%(k)s %s :k $1 ? {k} \\' \\",
    "$$; DELETE FROM outbox; $$ /*",
    "' OR '1'='1",
    "%_%",
)
NAME = "Gold'; DROP TABLE audiences; --"
KEY = "gold_drop_table_audiences"
TRAIT = 'Spend"; DELETE FROM changes; --'
TRAIT_KEY = "spend_delete_from_changes"
ENVIRONMENT = "env'; DROP TABLE settings; --"
IDENTITY = "user'Id\"; --"
EMAIL = "e\"mail'); --"
COMPANY = "group'Id; DROP TABLE shards"
COLUMN = "user'; DROP TABLE orders; --"
BYSTANDER = "bystander"


class Said(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def statements() -> Iterator[None]:
    """Assert in the end that no statement of ours had any of it in its text: it was bound, every time."""
    texts: set[str] = set()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        texts.add(statement)

    sa.event.listen(Engine, "before_cursor_execute", note)
    yield
    sa.event.remove(Engine, "before_cursor_execute", note)

    assert texts
    assert [text for text in texts if any(one in text for one in (*HOSTILE[:-1], NAME, TRAIT, ENVIRONMENT))] == []


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs a command in `tmp_path`, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCHEMATIC_API_KEY", DEVELOPMENT_KEY)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["audience-sync", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Said(int(left.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[FaultySandbox]:
    """A Schematic whose environment is SQL, too."""
    with FaultySandbox(tmp_path / "sandbox.db", settings=SandboxSettings(environment_id=ENVIRONMENT)) as serving:
        yield serving


def toml(**settings: object) -> str:
    """Return settings as lines of TOML: JSON texts are TOML texts, too."""
    return "\n".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in settings.items())


def configure(folder: Path, sandbox: FaultySandbox, *entries: str, url: str, sources: str) -> None:
    """Write a configuration whose names are SQL wherever somebody may choose them."""
    (folder / "config.toml").write_text(
        "\n".join(
            [
                toml(identity=IDENTITY),
                "[database]",
                toml(url=url),
                "[schematic]",
                toml(capture_url=sandbox.url, api_url=sandbox.url, environment=ENVIRONMENT),
                "[guard]\nmin_members = 1000",
                sources,
                *entries,
            ]
        )
    )


def keys(column: str = COLUMN) -> str:
    """Return the keys of an audience: their Schematic names and their columns."""

    def table(**names: str) -> str:
        return "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in names.items()) + " }"

    return f"user_keys = {table(**{IDENTITY: column, EMAIL: EMAIL})}\ncompany_keys = {table(**{COMPANY: COMPANY})}"


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def everything(database: Database) -> dict[str, int]:
    """Return the number of rows of every table and view there is."""
    with database.read() as connection:
        looked = sa.inspect(connection)
        names = [*looked.get_table_names(), *looked.get_view_names()]
        return {name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in names}


def members(database: Database, audience: str) -> dict[str, tuple[str | None, Any]]:
    """Return the members of an audience with their values and identifiers."""
    query = sa.text("SELECT profile_key, value, identifiers FROM current_members WHERE audience = :a")
    with database.read() as connection:
        found = connection.execute(query, {"a": audience}).all()
    return {row.profile_key: (row.value, json.loads(row.identifiers or "{}")) for row in found}


@pytest.mark.slow
def test_sql_in_names_keys_and_values_is_text_to_every_command(
    database: Database, database_url: str, tmp_path: Path, sandbox: FaultySandbox, command: Callable[..., Said]
) -> None:
    """Every command takes every name and key as it is: what is asked of one profile happens to that one alone."""
    people = [*HOSTILE, BYSTANDER]
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
        shop.execute(f"CREATE TABLE orders ({quoted(COLUMN)}, {quoted(EMAIL)}, {quoted(COMPANY)}, value)")
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", [(one, one, one, one) for one in people])
        shop.execute("INSERT INTO orders VALUES (?, '', '', '')", ("\x1b'; DROP TABLE rejections; --",))
    entry = f"{toml(sql='SELECT * FROM orders')}\n{keys()}"
    configure(
        tmp_path, sandbox, f"[[audiences]]\n{toml(name=NAME)}\n{entry}", f"[[traits]]\n{toml(name=TRAIT)}\n{entry}",
        url=database_url, sources="[sources.shop]\nurl = 'sqlite:///shop.db'",
    )  # fmt: skip
    tables_before = everything(database).keys()
    only = command("sync", NAME, "--only", HOSTILE[5])
    assert list(members(database, KEY)) == [HOSTILE[5]]
    synced = command("sync")

    expected = {one: {"user": {EMAIL: one}, "company": {COMPANY: one}} for one in people}
    assert (only.code, synced.code) == (0, 0), synced.err
    assert members(database, KEY) == {one: (None, found) for one, found in expected.items()}
    assert members(database, TRAIT_KEY) == {one: (json.dumps(one), found) for one, found in expected.items()}
    assert dict(sandbox.ledger.all_traits(IDENTITY)) == {one: {KEY: True, TRAIT_KEY: one} for one in people}

    for one in HOSTILE:
        (found,) = command("profile", one, "--format", "json").records
        assert [audience["member"] for audience in found["audiences"]] == [True, True]
        assert command("explain", one, NAME).code == 0
        assert command("profile", f"{one} ").code == 2
    assert {row["profile_key"] for row in command("members", NAME, "--format", "json", "--limit", "0").records} == {
        *people
    }
    for words in (
        ["check", "--deep"], ["plan", "--samples", "all"], ["preview", NAME], ["runs", NAME], ["changes", NAME],
        ["rejections", NAME],
        ["pause", NAME], ["resume", NAME], ["status"], ["audiences"], ["members", NAME, "--as-of", "2100-01-01"],
    ):  # fmt: skip
        assert command(*words).code == 0, words
    for words in (["members"], ["retract", "--yes"], ["preview"], ["pause"], ["changes"], ["dead", "list"]):
        assert command(*words, HOSTILE[0]).code == 2, words

    forgotten = command("forget", HOSTILE[5], "--yes")
    retracted = command("retract", TRAIT_KEY, "--yes")
    assert (forgotten.code, retracted.code) == (0, 0), retracted.err
    assert members(database, KEY).keys() == {*people} - {HOSTILE[5]}
    assert members(database, TRAIT_KEY) == {}
    assert everything(database).keys() == tables_before
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        assert shop.execute("SELECT count(*) FROM orders").fetchone() == (len(people) + 1,)


@pytest.mark.slow
def test_sql_in_forwarded_events_is_text(
    database: Database, database_url: str, tmp_path: Path, sandbox: FaultySandbox, command: Callable[..., Said]
) -> None:
    """Ids, names and values of events are kept, refused, retried, discarded and forgotten as the texts they are."""
    (tmp_path / "e.ndjson").write_text(
        "".join(
            json.dumps(
                {
                    "type": "track", "userId": one, "messageId": f"m{one}", "event": f"E {one}",
                    "timestamp": "2026-01-02T03:04:05Z", "properties": {one: one}, "context": {"groupId": one},
                }
            ) + "\n"
            for one in (*HOSTILE, BYSTANDER)
        )
    )  # fmt: skip
    configure(tmp_path, sandbox, url=database_url, sources="")
    sandbox.faults.set([FaultRule(status=400, body={"error": "'; DROP TABLE events; --"})])
    tables_before = everything(database).keys()
    refused = command("forward", "e.ndjson", "--wait", "5s")

    assert refused.code == 3, refused.err
    for one in HOSTILE:
        (dead,) = command("dead", "list", "--profile", one, "--format", "json").records
        assert (dead["profile_key"], dead["message_id"]) == (one, f"m{one}")
        (event,) = command("events", "--profile", one, "--format", "json").records
        assert event["payload"]["properties"] == {one: one}
    command("dead", "retry", "--profile", HOSTILE[0])
    command("dead", "discard", "--profile", HOSTILE[1], "--yes")
    assert command("forget", HOSTILE[5], "--yes").code == 0
    states = {row["profile_key"]: row["state"] for row in command("events", "--format", "json").records}
    assert states == {
        **dict.fromkeys((*HOSTILE[2:5], *HOSTILE[6:], BYSTANDER), "dead"),
        HOSTILE[0]: "waiting",
    }
    sandbox.faults.set([])
    assert command("dead", "retry").code == command("deliver").code == 0
    assert everything(database).keys() == tables_before
    names = {event.body["traits"]["raw_event_name"] for event in sandbox.ledger.events()}  # type: ignore[call-overload, index]
    assert names == {f"E {one}" for one in (*HOSTILE, BYSTANDER) if one not in (HOSTILE[1], HOSTILE[5])}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sql_in_files_is_text(
    ending: str,
    database: Database,
    database_url: str,
    tmp_path: Path,
    sandbox: FaultySandbox,
    command: Callable[..., Said],
) -> None:
    """The path, the header and the cells of a file are text, to SQL, to a query, and to the columns that it names."""
    people = [*HOSTILE, BYSTANDER]
    place = tmp_path / f"it's \"; DROP TABLE x; -- $1 :now.{ending}"
    plain = tmp_path / "plain.csv"
    with plain.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([(COLUMN, EMAIL, COMPANY, "plan'\"); --"), *((one, one, one, one) for one in people)])
    if ending == "csv":
        plain.rename(place)
    else:
        literal = str(place).replace("'", "''")
        duckdb.sql(f"COPY (FROM read_csv('{plain}', all_varchar=true)) TO '{literal}' (FORMAT parquet)")
    source = "shop'; --"
    name = json.dumps(source)
    profiles = f"[sources.{name}.profiles]\n{toml(user=COLUMN, company=COMPANY)}"
    query = "trait('plan\\'\"); --') = 'x\"; DROP TABLE runs; --' OR trait('plan\\'\"); --') = '\\' OR \\'1\\'=\\'1'"
    configure(
        tmp_path, sandbox,
        f"[[audiences]]\n{toml(name='All', sql=f'SELECT * FROM {quoted(source)}')}\n{keys()}",
        f"[[audiences]]\n{toml(name='Two', query=query)}\n{keys()}",
        url=database_url, sources=f"[sources.{name}]\n{toml(path=str(place))}\n{profiles}",
    )  # fmt: skip
    tables_before = everything(database).keys()
    synced = command("sync")

    assert synced.code == 0, synced.err
    assert members(database, "all").keys() == {*people}
    assert members(database, "two").keys() == {HOSTILE[1], HOSTILE[5]}
    assert command("explain", HOSTILE[1], "two").code == command("preview", "two").code == 0
    assert everything(database).keys() == tables_before
