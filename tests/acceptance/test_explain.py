"""`explain` and `preview` as people and programs see them: why somebody is in, what runs, and how many there are."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place, until

QUERY = "event('Order Completed').sum(property('revenue')) >= 500 AND NOT trait('plan') = 'pro'"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS user_id FROM n"
MORE = f"""
[sources.shop.events]
table = "events"
properties = "properties"
[sources.shop.profiles]
table = "users"
[[audiences]]
name = "Big Spenders"
query = "{QUERY}"
[[audiences]]
name = "Endless"
sql = "{ENDLESS}"
[[traits]]
name = "Spend"
query = "event('Order Completed').sum(property('revenue'))"
[[traits]]
name = "Dearest"
query = "event('Order Completed').where(trait('big_spenders') = false).max(property('revenue'))"
"""
BOUGHT = "SELECT customer_id AS user_id FROM orders WHERE ordered_at <= :now -- all of them"
NOON = ("--now", "2026-03-31T12:00Z")
BIG = "big_spenders"


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """Yield a shop with orders, events and users, a query, two computed traits and SQL, and a membership database."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure(name="Buyers", sql=BOUGHT, company_keys={}, more=MORE)
        opened.shop.set_orders(["u1", "u1", "u2", None])
        opened.shop.execute("CREATE TABLE users (user_id TEXT, plan TEXT)")
        opened.shop.execute("INSERT INTO users VALUES ('u1', 'basic'), ('u2', 'pro')")
        opened.shop.execute("CREATE TABLE events (user_id TEXT, event TEXT, timestamp TEXT, properties TEXT)")
        buy(opened, "u1", 300, sku="a\x1b[31m\x9b\n")
        buy(opened, "u1", 250)
        buy(opened, "u2", 20)
        buy(opened, "ghost", 1)
        yield opened


def buy(place: Place, user: str, revenue: int, sku: str = "") -> None:
    """Put an event into the shop."""
    properties = json.dumps({"revenue": revenue, "sku": sku}, ensure_ascii=False).replace("'", "''")
    at = f"2026-03-0{1 + revenue % 7} 10:00:00"
    place.shop.execute(f"INSERT INTO events VALUES ('{user}', 'Order Completed', '{at}', '{properties}')")


def sync(place: Place, *words: str) -> None:
    """Sync some audiences without sending anything."""
    done = place.command("sync", *words, "--no-deliver")
    assert done.code == 0, done.err


@ON_ONE_DATABASE
def test_a_person_sees_each_condition_its_value_and_the_events(place: Place) -> None:
    """The tree has the query's own words, what each came to, the events behind it, and the verdict below."""
    shown = place.command("explain", "u1", "Big Spenders", *NOON)

    assert shown.code == 0, shown.err
    assert shown.out.splitlines() == [
        "big_spenders (audience 'Big Spenders'), user u1, as of 2026-03-31 12:00:00Z",
        "",
        "✓ holds  AND",
        "├── ✓ holds  event('Order Completed').sum(property('revenue')) >= 500",
        "│     is 550, asked for >= 500",
        "│     2 events:",
        '│       2026-03-07 10:00:00Z  {"revenue":300}',
        '│       2026-03-06 10:00:00Z  {"revenue":250}',
        "└── ✓ holds  NOT",
        "    └── ✗ does not hold  trait('plan') = 'pro'",
        "          is \"basic\", asked for = 'pro'",
        "",
        "u1 is in big_spenders",
        "in the membership database: big_spenders has never been synced",
    ]


@ON_ONE_DATABASE
def test_a_program_reads_one_object_a_line(place: Place) -> None:
    """JSON and CSV have the same lines: conditions by their place, events, the verdict, and what the database has."""
    said = place.command("explain", "u2", BIG, "--events", "1", "--format", "json", *NOON)
    table = place.command("explain", "u2", BIG, "--events", "1", "--format", "csv", *NOON)
    rows = list(csv.DictReader(io.StringIO(table.out)))

    assert [(one["node"], one["kind"], one["holds"], one["value"]) for one in said.records] == [
        ("1", "condition", False, None),
        ("1.1", "condition", False, 20),
        ("1.1", "event", None, None),
        ("1.2", "condition", False, None),
        ("1.2.1", "condition", True, "pro"),
        (None, "verdict", False, None),
        (None, "membership", None, None),
    ]
    assert {(one["audience"], one["user"], one["as_of"]) for one in said.records} == {
        (BIG, "u2", "2026-03-31T12:00:00.000Z")
    }
    assert said.records[2]["properties"] == {"revenue": 20}
    assert [row["kind"] for row in rows] == [one["kind"] for one in said.records]
    assert json.loads(rows[4]["value"]) == "pro"


def test_beside_the_verdict_stands_what_the_database_has(place: Place) -> None:
    """Who would enter, exit or stay is said, since when they are in, and that a pause comes before it."""

    def membership(user: str, key: str = BIG) -> tuple[bool, str]:
        *_, last = place.command("explain", user, key, "--format", "json").records
        return last["holds"], last["text"].removeprefix("in the membership database: ")

    sync(place, BIG, "spend")
    assert membership("u2") == (False, "not a member; the next sync would change nothing")
    assert membership("u1")[0] is True
    assert membership("u1")[1].startswith("a member since 20")
    assert membership("u1")[1].endswith(" (run 1); the next sync would change nothing")
    place.shop.execute("UPDATE users SET plan = CASE plan WHEN 'pro' THEN 'basic' ELSE 'pro' END")
    buy(place, "u2", 600)

    assert membership("u1")[1].endswith("; the next sync would remove them")
    assert membership("u2") == (False, "not a member; the next sync would add them")
    assert membership("u2", "spend")[1].startswith("the value 20 since 20")
    assert membership("u2", "spend")[1].endswith("; the next sync would change the value to 620")
    assert place.command("pause", BIG).code == 0
    assert "is paused; after `audience-sync resume big_spenders`, the next sync would add them" in (membership("u2")[1])


@ON_ONE_DATABASE
def test_somebody_unknown_is_told_why(place: Place) -> None:
    """Who is in no universe gets one sentence, no tree, and exit code 0; so does SQL that has no row of them."""
    ghost, nobody = place.command("explain", "ghost", BIG), place.command("explain", "nobody", "Buyers")
    buyer = place.command("explain", "u1", "Buyers")

    assert (ghost.code, nobody.code, buyer.code) == (0, 0, 0)
    assert "ghost is not in big_spenders: the user has events, but no row of [sources.shop.profiles] has" in ghost.out
    assert "holds" not in ghost.out
    assert "nobody is not in buyers: the SQL returns no row with this key" in nobody.out
    assert "u1 is in buyers\n" in buyer.out


@ON_ONE_DATABASE
def test_a_computed_trait_has_its_value_and_events(place: Place) -> None:
    """The value, its events, and nothing that steers a terminal, whatever the source has in it."""
    spend = place.command("explain", "u1", "spend", *NOON)
    count = place.command("explain", "u1", "buyers", *NOON)
    place.configure(
        name="Odd\x1b", sql=BOUGHT, company_keys={}, more=MORE.replace(QUERY, "event('Order Completed').count() > 0")
    )
    odd = place.command("explain", "u1", BIG, *NOON)

    assert "event('Order Completed').sum(property('revenue')) is 550\n2 events:\n" in spend.out
    assert "u1 has the value 550" in spend.out
    assert count.code == 0
    assert '"sku":"a\\u001b[31m\\u009b\\n"' in odd.out
    assert not {"\x1b", "\x9b"} & {*odd.out}


@ON_ONE_DATABASE
def test_the_sql_can_be_pasted(place: Place) -> None:
    """`--sql` prints what runs, its parameters as comments: of SQL the person's own, of a query the compiled one."""
    own = place.command("explain", "buyers", "--sql", *NOON)
    compiled = place.command("explain", BIG, "--sql")
    (record,) = place.command("explain", BIG, "--sql", "--format", "json").records

    assert own.out == f"{BOUGHT}\n-- :now = '2026-03-31 12:00:00'\n"
    assert compiled.out.startswith("SELECT ")
    assert " = 'Order Completed'\n" in compiled.out
    assert record["sql"] in compiled.out
    assert "'pro'" in record["parameters"].values()
    assert place.command("explain", "u1", BIG, "--sql").code == 2


@ON_ONE_DATABASE
@pytest.mark.parametrize(
    ("words", "sentence", "remedy"),
    [
        (("explain", BIG, "u1"), "put USER before AUDIENCE", f"audience-sync explain u1 {BIG}"),
        (("explain", BIG), "explain needs USER and AUDIENCE", f"audience-sync explain {BIG} --sql"),
        (("explain", "u1", "big_spendrs"), "did you mean `big_spenders`", "audience-sync audiences"),
        (("explain", "", BIG), "not a valid profile key", ""),
        (("preview", "big_spendrs"), "did you mean `big_spenders`", "audience-sync audiences"),
    ],
    ids=["swapped", "no user", "misspelt", "empty", "misspelt in preview"],
)
def test_a_wrong_word_has_its_remedy(place: Place, words: tuple[str, ...], sentence: str, remedy: str) -> None:
    """What was meant is said, with exit code 2 and nothing on stdout."""
    refused = place.command(*words)

    assert (refused.code, refused.out) == (2, "")
    assert sentence in refused.err
    assert remedy in refused.err


@ON_ONE_DATABASE
def test_a_source_that_is_gone_is_named(place: Place) -> None:
    """A missing file is one sentence and exit code 1, in both commands."""
    place.configure(source_url="sqlite:///gone.db", company_keys={}, more=MORE)
    for words in (("explain", "u1", BIG), ("preview", BIG), ("preview", "Endless")):
        failed = place.command(*words)

        assert (failed.code, failed.out) == (1, "")
        assert "gone.db does not exist" in failed.err


@ON_ONE_DATABASE
def test_a_preview_counts_and_stores_nothing(place: Place) -> None:
    """Size, rejections and a sample, the same every time, without a membership database and without a key."""
    missing = place.folder / "none" / "missing.db"
    place.configure(name="Buyers", sql=BOUGHT, company_keys={}, url=f"sqlite:///{missing}", more=MORE)
    place.environment["SCHEMATIC_API_KEY"] = ""
    before = sorted(place.folder.glob("*.db*"))
    first, again = (place.command("preview", "Buyers", "--format", "json") for _ in range(2))
    (found,), (repeated,) = first.records, again.records
    table = place.command("preview", "Buyers", "--limit", "1")
    spend = place.command("preview", "spend")
    lines = list(csv.DictReader(io.StringIO(place.command("preview", "spend", "--format", "csv").out)))

    assert (found["size"], found["read"], found["rejected"]) == (2, 4, 1)
    assert found["reasons"] == {"duplicate": 1, "null_key": 1}
    assert {one["profile_key"] for one in found["sample"]} == {"u1", "u2"}
    assert {**found, "seconds": 0, "as_of": 0} == {**repeated, "seconds": 0, "as_of": 0}
    assert "size      2 members\n" in table.out
    assert "rejected  1 row: 1 null_key\n" in table.out
    assert "numbers  min 20, median 285, max 550\n" in spend.out
    assert {row["profile_key"]: row["value"] for row in lines} == {"u1": "550", "u2": "20"}
    assert "nothing was stored" in first.err
    assert sorted(place.folder.glob("*.db*")) == before
    assert not missing.parent.exists()


@ON_ONE_DATABASE
@pytest.mark.parametrize("words", [("preview", "Endless"), ("explain", "u1", "Endless")], ids=["preview", "explain"])
def test_ctrl_c_ends_a_query_at_once(place: Place, words: tuple[str, ...]) -> None:
    """Nobody waits for a query that will not end: exit code 130, and no traceback."""
    with place.running(*words) as running:
        until(lambda: place.shop.path in opened_files(running.process.pid))
        code, out, err = running.end(signal.SIGINT)

    assert (code, out) == (130, "")
    assert err.splitlines() == ["interrupted"]


def opened_files(pid: int | None) -> list[Path]:
    """Return the files that a process has open."""
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(one.readlink())
    return found
