"""A configuration in several files: every command reads it, a reload too, and the history of a definition is shown."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import ON_ONE_DATABASE, Place, customers, open_place, until
from tests.factories import AUDIENCE_KEY, ORDERS_SQL

EVERYBODY = ORDERS_SQL.replace(" WHERE", "\nWHERE")
BUT_ONE = f"{EVERYBODY}\n  AND customer_id <> 'u0'"


@pytest.fixture
def split(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of three customers; the audience is in an included file, and its SQL in a file next to that."""
    with open_place(tmp_path, database_url) as place:
        place.shop.set_orders(customers(range(3)).items())
        _split(place)
        yield place


def _split(place: Place) -> None:
    (place.folder / "audiences.d").mkdir()
    place.configure(top='include = ["audiences.d/*.toml"]', more='[schedule]\nevery = "1s"\njitter = "0s"')
    path = place.folder / "config.toml"
    head, _, tail = path.read_text().partition("[[audiences]]")
    table, _, rest = tail.partition("\n[")
    path.write_text(f"{head}[{rest}")
    sql_file = "\n".join('sql_file = "orders.sql"' if line.startswith("sql = ") else line for line in table.split("\n"))
    (place.folder / "audiences.d" / "orders.toml").write_text(f"[[audiences]]{sql_file}\n")
    write_sql(place, EVERYBODY)


def write_sql(place: Place, text: str) -> Path:
    """Write the file of the SQL."""
    path = place.folder / "audiences.d" / "orders.sql"
    path.write_text(f"{text}\n")
    return path


def test_every_command_reads_all_files(split: Place) -> None:
    """`check`, `plan`, `preview`, `explain` and `sync` work as with one file."""
    checked = split.command("check")
    assert checked.code == 0, checked.out
    assert "is valid: 1 audience, 1 source, 1 included file" in checked.out
    assert split.command("plan", "--format", "json").records
    assert split.command("preview", AUDIENCE_KEY).code == 0
    assert split.command("sync").code == 0
    assert split.command("explain", "u0", AUDIENCE_KEY).code == 0
    assert split.members(AUDIENCE_KEY).keys() == {"u0", "u1", "u2"}


@ON_ONE_DATABASE
def test_a_mistake_in_the_sql_names_its_file_and_line(split: Place) -> None:
    """`check` and `sync` say where, and the reason of the run does too."""
    path = write_sql(split, EVERYBODY.replace("customer_id AS", "custmer_id AS"))
    sentence = (
        f"The sqlite source {split.folder / 'shop.db'} refused the query: no such column: custmer_id,"
        f" at {path}, line 1, column 8: `custmer_id AS user_id, company_id FROM o…`."
    )
    checked, synced = split.command("check"), split.command("sync")

    assert f"audience {AUDIENCE_KEY}: {sentence}" in checked.out
    assert (checked.code, synced.code) == (1, 1)
    assert f"error: {AUDIENCE_KEY}: {sentence}" in synced.err
    assert [one["reason"] for one in split.command("runs", "--format", "json").records] == [sentence]

    write_sql(split, "SELECT 1\nFROM orders WHERE x > :since")
    assert f"error: {AUDIENCE_KEY}: {path}: Unknown parameter :since on line 2" in split.command("sync").err
    assert f"{path}: Unknown parameter :since on line 2" in split.command("explain", "--sql", AUDIENCE_KEY).err


@ON_ONE_DATABASE
def test_a_running_service_takes_over_changed_sql_and_new_files(split: Place) -> None:
    """SIGHUP reads the main file, the included ones and the files of definitions again."""
    with split.running("run") as daemon:
        until(lambda: split.members(AUDIENCE_KEY).keys() == {"u0", "u1", "u2"})
        write_sql(split, BUT_ONE)
        (split.folder / "audiences.d" / "second.toml").write_text(
            "[[audiences]]\nname = 'Second'\nsql_file = 'orders.sql'\n"
        )
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: split.members(AUDIENCE_KEY).keys() == split.members("second").keys() == {"u1", "u2"})
        write_sql(split, "")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("reload_failed")
        ended = daemon.end(signal.SIGTERM)

    (reloaded,) = [line for line in daemon.logged if line["event"] == "configuration_reloaded"]
    (failed,) = [line for line in daemon.logged if line["event"] == "reload_failed"]
    assert ended.code == 0
    assert (reloaded["added"], reloaded["changed"], reloaded["settings"]) == (["second"], [AUDIENCE_KEY], [])
    assert failed["problems"][0] == f"{split.folder / 'config.toml'} has 2 problems:"
    assert failed["problems"][1].endswith(f"audiences[0].sql_file: {split.folder}/audiences.d/orders.sql is empty")


def test_the_history_of_a_definition(split: Place) -> None:
    """Versions with their run, the members before and after, and the differences; of the file as well."""
    split.command("sync")
    write_sql(split, BUT_ONE)
    split.command("sync")
    write_sql(split, f"{BUT_ONE} -- a\tcomment")
    table = split.command("audiences", AUDIENCE_KEY, "--history")
    newest, second, first = split.command("audiences", AUDIENCE_KEY, "--history", "--format", "json").records
    one = split.command("audiences", AUDIENCE_KEY, "--history", "--limit", "1")
    as_csv = split.command("audiences", AUDIENCE_KEY, "--history", "--format", "csv")

    assert (table.code, table.err) == (0, "")
    lines = table.out.splitlines()
    assert lines[0] == "version 3, in the configuration, not synced yet"
    assert "+  AND customer_id <> 'u0' -- a\tcomment" in lines
    heading = next(line for line in lines if line.startswith("version 2, "))
    assert heading.endswith(", run 2: 3 → 2 members")
    assert lines[lines.index(heading) + 1 :][:3] == ["--- version 1", "+++ version 2", "@@ -4,3 +4,4 @@"]
    assert lines[-6:] == [
        'source = "shop"',
        'user_keys = { userId = "user_id" }',
        'company_keys = { groupId = "company_id" }',
        "",
        *EVERYBODY.splitlines(),
    ]
    assert (second["run_id"], second["members_before"], second["members_after"]) == (2, 3, 2)
    assert second["difference"].splitlines()[-1] == "+  AND customer_id <> 'u0'"
    assert first["text"].endswith(EVERYBODY)
    assert (newest["state"], newest["run_id"], newest["since"]) == ("new", None, None)
    assert one.out.startswith("version 3, ")
    assert one.err == "… 2 older versions more; --limit 0 shows all\n"
    assert as_csv.out.splitlines()[0].replace('"', "") == ",".join(newest)


def test_the_list_and_the_history_of_one_audience(split: Place) -> None:
    """AUDIENCE limits the list, also before the first sync; a history needs one that was synced."""
    path = split.folder / "audiences.d" / "second.toml"
    path.write_text("[[audiences]]\nname = 'Second'\nsql_file = 'orders.sql'\n")
    split.command("sync", AUDIENCE_KEY)

    assert [one["key"] for one in split.command("audiences", "Second", "--format", "json").records] == ["second"]
    never = split.command("audiences", "second", "--history")
    assert (never.code, never.err.splitlines()[0]) == (2, "error: audience 'second' has never been synced")
    assert split.command("audiences", "nobody").code == 2
    nameless = split.command("audiences", "--history")
    assert nameless.code == 2
    assert "--history needs AUDIENCE" in nameless.err
    path.unlink()
    (split.folder / "audiences.d" / "orders.toml").write_text("")
    orphan = split.command("audiences", AUDIENCE_KEY, "--history")
    assert next(line for line in orphan.out.splitlines() if line.startswith("version")).startswith("version 1, since ")
