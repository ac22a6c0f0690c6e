"""Bad configuration and bad rows through the real command: what it says, how it exits, and that nothing came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.running import ON_ONE_DATABASE, Ended, Place, open_place
from tests.factories import AUDIENCE_KEY, ORDERS_SQL

SOURCE = "[sources.shop]\nurl = 'sqlite:///shop.db'\n"
AUDIENCE = "[[audiences]]\nname = 'Gold'\nsql = 'SELECT 1 AS user_id'\n"


class Bad(NamedTuple):
    """A configuration file, and what is wrong with it; FILE stands for its path."""

    text: str
    complaint: str
    code: int = 2


EXPLAINED = "hint: for an example of every setting, run `audience-sync --config NEW.toml init`\n"

FILES = {
    "no_toml": Bad(
        "identity = userId\n",
        "error: FILE, line 1, column 12: invalid value\n"
        'hint: put text in straight quotes, as in name = "VIP", and write true and false in lowercase\n',
    ),
    "unknown_setting": Bad(
        SOURCE + AUDIENCE + "enabeld = true\n",
        "error: FILE has 1 problem:\n"
        '  line 6, "Gold": audiences[0].enabeld: unknown setting (did you mean `enabled`?)\n' + EXPLAINED,
    ),
    "everything_at_once": Bad(
        "identity = 7\n[schedule]\nevery = 'soon'\ncron = '0 0 * * 1'\n[delivery]\nbatch_size = 101\n"
        "[[audiences]]\nname = 'Gold'\n",
        "error: FILE has 7 problems:\n  line 1: identity: must be text in quotes\n  line 3:"
        ' schedule.every: must be a duration such as "30s", "15m", "2h" or "400d"\n  line 4:'
        " schedule.cron: must use weekday names, as in `mon-fri` or `sat,sun`, because cron"
        " implementations number them differently\n  line 4: schedule.cron: cannot be combined with"
        " `every`; remove one of them\n  line 6: delivery.batch_size: must be at most 100\n  line 7,"
        ' "Gold": audiences[0].sql: missing\n  line 7, "Gold": audiences[0].source: missing, and the'
        " file does not define any [sources.NAME]\n" + EXPLAINED,
    ),
    "key_in_the_file": Bad(
        "[schematic]\napi_key = 'sch_prod_secret'\n" + SOURCE + AUDIENCE,
        "error: FILE has 1 problem:\n  line 2: schematic.api_key: must not contain the key itself:"
        " write `${SCHEMATIC_API_KEY}` and keep the key in the environment or a systemd credential, or"
        " set `api_key_file` instead\n" + EXPLAINED,
    ),
    "same_key_twice": Bad(
        SOURCE + AUDIENCE + AUDIENCE.replace("Gold", "GOLD!"),
        "error: FILE has 1 problem:\n  line 6, \"GOLD!\": audiences[1].key: 'Gold' (audiences[0]) and"
        " 'GOLD!' have the same key `gold`; set a different `key` for one of them\n" + EXPLAINED,
    ),
    "no_such_source": Bad(
        SOURCE + AUDIENCE + "source = 'shpo'\n",
        "error: FILE has 1 problem:\n"
        '  line 6, "Gold": audiences[0].source: there is no [sources.shpo] (did you mean `shop`?)\n' + EXPLAINED,
    ),
    "another_kind_of_database": Bad(
        "[database]\nurl = 'mysql://root:hunter2@localhost/app'\n" + SOURCE + AUDIENCE,
        "error: FILE has 1 problem:\n"
        "  line 2: database.url: must begin with `sqlite:///` or `postgresql://`\n" + EXPLAINED,
    ),
    "unset_variable": Bad(
        "[sources.shop]\nurl = 'postgresql://reader:${SHOP_PASSWORD}@localhost/shop'\n" + AUDIENCE,
        "error: FILE has 1 problem:\n"
        "  line 2: sources.shop.url: `SHOP_PASSWORD` is not set as an environment variable or a systemd credential\n"
        + EXPLAINED,
    ),
    "no_membership_database": Bad(
        "[database]\nurl = 'sqlite:///elsewhere.db'\n" + SOURCE + AUDIENCE,
        "error: there is no membership database at FOLDER/elsewhere.db\nhint: create it with `audience-sync init`\n",
    ),
}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of three customers and a membership database."""
    with open_place(tmp_path, database_url) as opened:
        opened.shop.set_orders(["u1", "u2", "u3"])
        opened.configure()
        yield opened


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_explained(place: Place, name: str) -> None:
    """Everything wrong with a file is said at once, each with its place and the remedy; no value is repeated."""
    bad = FILES[name]
    path = place.folder / "config.toml"
    path.write_text(bad.text)
    ended = place.command("sync")

    assert ended == Ended(bad.code, "", bad.complaint.replace("FILE", str(path)).replace("FOLDER", str(place.folder)))


@ON_ONE_DATABASE
def test_no_file(place: Place) -> None:
    """Without a configuration the command says where it looked."""
    (place.folder / "config.toml").unlink()

    assert place.command("sync") == Ended(
        2,
        "",
        f"error: configuration file not found; looked for {place.folder / 'config.toml'}\n"
        "hint: create one with `audience-sync init`\n",
    )


@ON_ONE_DATABASE
def test_no_key(place: Place) -> None:
    """Without an API key nothing is begun that could not be sent."""
    place.key = ""

    assert place.command("sync") == Ended(
        2,
        "",
        "error: the Schematic API key is missing: `SCHEMATIC_API_KEY` is not set as an environment"
        " variable or a systemd credential\nhint: export SCHEMATIC_API_KEY, or set"
        " LoadCredential=SCHEMATIC_API_KEY:/path/of/the/key for the service\n",
    )
    assert place.rows("SELECT * FROM runs") == []


@ON_ONE_DATABASE
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["sync", "order_completed"],
            f"error: there is no audience `order_completed` in FILE (did you mean `{AUDIENCE_KEY}`?)\nhint: ",
        ),
        (["approve", "7"], "error: there is no run 7\nhint: list them with `audience-sync runs`\n"),
        (
            ["retract", "gold", "--yes"],
            (
                "error: there is no audience 'gold' in the database\nhint: list them with `audience-sync"
                " audiences`; an audience is added by its first sync"
            ),
        ),
        (["sync", "--now", "yestreday"], "`yestreday` is not a time, such as `yesterday`, `2 days ago`"),
        (
            ["changes", "--since", "today", "--until", "2 days ago"],
            ") must be later than --since (",
        ),
        (["sync", "--wait", "long"], "must be a duration such as"),
        (["sync", "--limit", "0"], "--limit"),
        (["snyc"], "No such command 'snyc'."),
        (["profile", "\udcff"], "Invalid value for 'USER': is not valid UTF-8 text"),
        (["members", "\udcff"], "Invalid value for 'AUDIENCE': is not valid UTF-8 text"),
        (["events", "--profile", "\udcff"], "Invalid value for '--profile': is not valid UTF-8 text"),
        (["dead", "list", "\udcff"], "Invalid value for 'AUDIENCE': is not valid UTF-8 text"),
    ],
    ids=lambda words: ascii(" ".join(words)) if isinstance(words, list) else "",
)
def test_a_wrong_word_on_the_command_line(place: Place, words: list[str], complaint: str) -> None:
    """A name, number or option that cannot be is exit code 2, and the message names it."""
    ended = place.command(*words)

    assert ended.code == 2
    assert complaint.replace("FILE", str(place.folder / "config.toml")) in ended.err
    assert ended.out == ""
    assert place.rows("SELECT * FROM runs") == []


class Unreadable(NamedTuple):
    """A source that cannot be read, and what is said: SHOP stands for the file of the shop."""

    complaint: str
    sql: str = ORDERS_SQL
    url: str = "sqlite:///shop.db"
    code: int = 1


ENDLESS_SQL = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS user_id FROM n"
NO_QUERY = "The SQL is not a query: it starts with 'VERB'.\nhint: write a SELECT; a source is only read\n"

SOURCES = {
    "missing_column": Unreadable(
        "the result has no column 'user_id', which user_keys.userId names\n"
        "hint: it has the columns customer_id, company_id\n",
        sql="SELECT customer_id, company_id FROM orders",
    ),
    "column_twice": Unreadable(
        "the result has more than one column 'user_id', which user_keys.userId names\n"
        "hint: it has the columns user_id, user_id, company_id\n",
        sql="SELECT customer_id AS user_id, company_id AS user_id, company_id FROM orders",
    ),
    "syntax_error": Unreadable(
        'The sqlite source SHOP refused the query: near "FORM": syntax error, at line 1, column 31:'
        " `FORM orders WHERE true`.\n",
        sql="SELECT customer_id AS user_id FORM orders WHERE true",
    ),
    "no_query": Unreadable(NO_QUERY.replace("VERB", "SELEC"), sql="SELEC customer_id FROM orders", code=2),
    "writes": Unreadable(NO_QUERY.replace("VERB", "DELETE"), sql="DELETE FROM orders RETURNING customer_id", code=2),
    "missing_file": Unreadable(
        "The source file FOLDER/shpo.db does not exist.\nhint: check the url of the source\n",
        url="sqlite:///shpo.db",
    ),
    "no_database": Unreadable(
        "Cannot connect to the sqlite source FOLDER/config.toml: file is not a database.\n"
        "hint: check the url of the source\n",
        url="sqlite:///config.toml",
    ),
    "no_server": Unreadable(
        "Cannot connect to the postgresql source shop on 127.0.0.1: connection failed: ",
        url="postgresql://reader:hunter2@127.0.0.1:9/shop",
    ),
    "too_slow": Unreadable(
        "The query on the sqlite source SHOP did not finish within 1s.\n"
        "hint: make the query cheaper, or raise statement_timeout\n",
        sql=ENDLESS_SQL,
    ),
}


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_cannot_be_read(place: Place, name: str) -> None:
    """A source that refuses is one sentence that names it, and a failed run that changed nothing."""
    bad = SOURCES[name]
    place.configure(sql=bad.sql, source_url=bad.url)
    path = place.folder / "config.toml"
    path.write_text(path.read_text().replace("[[audiences]]", 'statement_timeout = "1s"\n[[audiences]]', 1))
    ended = place.command("sync")
    said = bad.complaint.replace("SHOP", str(place.folder / "shop.db")).replace("FOLDER", str(place.folder))
    (reason,) = place.rows("SELECT reason FROM runs WHERE state = 'failed'")

    assert ended.code == bad.code
    assert f"error: {AUDIENCE_KEY}: {said}" in ended.err
    assert ended.err.startswith("membership database: ")
    assert reason[0].startswith(said.partition("\n")[0])
    assert "hunter2" not in ended.err + reason[0]
    assert "Traceback" not in ended.err
    assert place.members() == place.traits() == {}


def test_bad_rows_are_counted_and_shown(place: Place) -> None:
    """Rows that name nobody are rejected with a reason while the run goes on, and every row read is accounted for."""
    place.shop.set_orders(
        [
            ("u1", "acme"),
            ("u1", "globex"),
            (None, "acme"),
            ("", "acme"),
            ("  ", "acme"),
            ("x" * 256, "acme"),
            ("tab\there", "acme"),
            (1.5, "acme"),
            (b"\x00\x01", "acme"),
            (42, "acme"),
            (43.0, 44),
            ("u2", "y" * 256),
            ("u3", None),
            ("ü/4 ✓", ""),
        ]
    )
    ended = place.command("sync", "--format", "json")
    (record,) = ended.records
    shown = place.command("rejections", "--run", "1", "--format", "json").records

    assert ended.code == 0
    assert {name: record[name] for name in ("read", "entered", "unchanged", "rejected", "duplicates", "sent")} == {
        "read": 14, "entered": 6, "unchanged": 0, "rejected": 7, "duplicates": 1, "sent": 6,
    }  # fmt: skip
    assert (
        f"{AUDIENCE_KEY}: 1 duplicate, 2 empty_key, 1 long_key, 1 null_key, 1 omitted_identifier, 2 unsupported_type,"
        " 1 unusable_text (`audience-sync rejections --run 1` shows which)\n"
    ) in ended.err
    assert sorted(one["reason"] for one in shown) == [
        "duplicate", "empty_key", "empty_key", "long_key", "null_key", "omitted_identifier", "unsupported_type",
        "unsupported_type", "unusable_text",
    ]  # fmt: skip
    assert place.members() == {
        "u1": '{"company":{"groupId":"acme"}}',
        "42": '{"company":{"groupId":"acme"}}',
        "43": '{"company":{"groupId":"44"}}',
        "u2": None,
        "u3": None,
        "ü/4 ✓": None,
    }
    assert place.traits() == {user: {AUDIENCE_KEY: True} for user in place.members()}


def test_another_identity_is_refused(place: Place) -> None:
    """A database that knows people by one key is not used with another."""
    assert place.command("sync").code == 0
    place.configure(identity="email")
    ended = place.command("sync")

    assert ended.code == 2
    assert ended.err.endswith(
        "error: this database uses the identity 'userId', but the configuration has 'email'\n"
        'hint: set identity = "userId"; for a new identity, set a new [database] url\n'
    )
    assert place.command("plan").code == 2
    assert len(place.traits()) == 3
