"""`audience-sync demo` as a newcomer runs it: what it tells, and that every command it suggests works as printed."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from audience_sync import demo_shop as shop
from audience_sync.config import Settings, load
from audience_sync.core.model import ChangeKind
from audience_sync.sandbox.ledger import Ledger
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.commands import Command, call
from tests.conftest import SCRUBBED
from tests.waiting import wait_until

DEADLINE = 60.0  # seconds
SOME_DAY = datetime(2026, 3, 31, 12, 0, 5, tzinfo=UTC)
AUDIENCES = {shop.ORDERED, shop.SPENDERS, shop.LAPSED}


class Told(NamedTuple):
    """A demonstration that has ended well: where it was started, and what it printed."""

    folder: Path
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands it suggests, in order."""
        return re.findall(r"^    (\S.*)$", self.text.partition("6. Next steps")[2], re.MULTILINE)


def environment(**more: str) -> dict[str, str]:
    """The environment of a newcomer, whatever that of the test's is."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SCRUBBED)} | more


def run_demo(folder: Path, *options: str, **variables: str) -> Told:
    """Run the demonstration in a folder, not on a terminal."""
    ended = call(["demo", *options], environment(**variables), folder=folder)
    assert (ended.code, ended.err) == (0, "")
    return Told(folder, ended.out)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One demonstration for the tests that only read."""
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_it_tells_the_whole_story(told: Told) -> None:
    """It shows both syncs in numbers, people with reasons, one identify, and that both sides agree."""
    for sentence in (
        r"customers in offices",
        r"Order Completed Last 30days +(\d+) +\1 +0 +0 +0 +\1\b",
        r"\d+ changes sent in \d+ identify calls",
        r"exited +\w+ \w+ +last order 3\d days ago",
        r"entered +\w+ \w+ +last order 6\d days ago",
        r"entered +\w+ \w+ +\$[5-9]\d\d\.\d0 in 90 days, previously \$[0-4]?\d?\d\.\d0",
        r'"order_completed_last_30days": true,\n +"lapsed_customers": false',
        r"Compared \d+ people with 3 traits each: all match",
    ):
        assert re.search(sentence, told.text), sentence


def test_it_fits_a_narrow_terminal_and_a_pipe(told: Told) -> None:
    """No line but the commands to copy is wider than 80 columns, and a pipe gets no colour."""
    wide = [line for line in told.text.splitlines() if len(line) > 80 and line.strip() not in told.commands]

    assert wide == []
    assert "\x1b" not in told.text


def test_the_incremental_sync_sends_only_what_changed(told: Told) -> None:
    """In the second table every audience sent what entered, left or was updated, and nothing else."""
    rows = re.findall(
        r"^(?:Order Completed Last 30days|Big Spenders|Lapsed Customers) +([\d ]+)$", told.text, re.MULTILINE
    )
    assert len(rows) == 6

    for row in rows[3:]:
        read, entered, exited, updated, unchanged, sent = map(int, row.split())
        assert entered > 0
        assert exited > 0
        assert read == entered + updated + unchanged
        assert sent == entered + exited + updated


def test_the_key_lies_in_its_own_file_only(told: Told) -> None:
    """The sandbox's key is treated as any key: in one private file, and in no other and on no screen."""
    place = told.folder / "audience-sync-demo"
    holders = {
        path.name for path in place.rglob("*") if path.is_file() and DEVELOPMENT_KEY.encode() in path.read_bytes()
    }

    assert holders == {"schematic.key"}
    assert (place / "schematic.key").stat().st_mode & 0o077 == 0
    assert DEVELOPMENT_KEY not in told.text


@contextmanager
def serving(command: str, folder: Path) -> Iterator[None]:
    """Run a suggested sandbox in its terminal until the block ends; it must leave with 0 then."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert b"is running at" in process.stdout.readline()
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.communicate()


def run(command: str, folder: Path) -> str:
    """Run a command as printed and return its stdout; it must succeed."""
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 0, (command, ended.stderr)
    return ended.stdout


@pytest.mark.slow  # ten processes
def test_every_suggested_command_works_as_printed(tmp_path: Path) -> None:
    """In the printed order, copied as they are, all commands succeed, and the last sync sends what they changed."""
    told = run_demo(tmp_path)
    enter, *commands = told.commands
    folder = Path(run(f"{enter} && pwd", tmp_path).strip())
    (server,) = (command for command in commands if " sandbox " in command)
    (person,) = re.findall(r"VALUES \(NULL, '(\w+)'", told.text)
    *before, last = (command for command in commands if command != server)
    outputs = [run(command, folder) for command in before]
    with serving(server, folder):
        run(last, folder)

    assert all(outputs[:-1])  # the last one is silent: an INSERT
    with closing(Ledger(folder / "sandbox.db")) as ledger:
        assert ledger.traits_of("userId", person) == {shop.ORDERED: True, shop.SPENDERS: True, shop.LAPSED: False}


@pytest.mark.slow
def test_the_commands_suit_the_machine(tmp_path: Path) -> None:
    """Where no program is on the PATH, the commands do without; where AUDIENCE_SYNC_CONFIG is set, they ignore it."""
    (tmp_path / "taken").mkdir()
    told = run_demo(tmp_path, "--folder", "taken", AUDIENCE_SYNC_CONFIG="/etc/real.toml", PATH="")
    ours = [command for command in told.commands if " -m audience_sync " in command]
    in_sql = [command for command in told.commands if "sqlite3" in command]

    assert len(ours) == 6
    assert all(" --config config.toml " in command for command in ours)
    assert run(ours[0], tmp_path / "taken")
    assert [run(command, tmp_path / "taken").count("big_spenders") for command in in_sql] == [1, 0]


@pytest.mark.slow
def test_a_second_demonstration_takes_the_next_free_name(told: Told) -> None:
    """Nothing is written over: the next demonstration lies beside the first."""
    second = run_demo(told.folder)

    assert second.commands[0] == "cd audience-sync-demo-2"
    assert (told.folder / "audience-sync-demo-2" / "config.toml").exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """A folder that was named and is not empty is left alone, with exit code 2 and a remedy."""
    (tmp_path / "mine.txt").touch()
    ended = call(["demo", "--folder", str(tmp_path)], environment())

    assert ended.code == 2
    assert ended.err.splitlines()[0] == f"error: {tmp_path} is not an empty folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_ctrl_c_ends_it_with_one_line(tmp_path: Path) -> None:
    """Interrupted in the middle, it leaves quickly with 130 and one line: no traceback, no lock waited for."""
    out, err = (tmp_path / name for name in ("out.txt", "err.txt"))
    for path in (out, err):
        path.touch()
    process = Command(["demo"], environment(), out=out, err=err, folder=tmp_path)
    wait_until(lambda: "first sync" in out.read_text() or process.poll() is not None, seconds=DEADLINE)
    process.send_signal(signal.SIGINT)

    assert process.wait(DEADLINE) == 130
    assert err.read_text() == "interrupted\n"


def members(settings: Settings, database: Path, at: datetime) -> dict[str, dict[str, str]]:
    """Whom each audience's SQL finds in the shop, with their companies."""
    with closing(sqlite3.connect(database)) as connection:
        now = {"now": f"{at:%Y-%m-%d %H:%M:%S}"}
        return {one.key: dict(connection.execute(one.sql or "", now)) for one in settings.audiences}


@pytest.mark.slow
@pytest.mark.parametrize("days", range(0, 371, 53))
def test_the_shop_is_believable_on_any_day(tmp_path: Path, days: int) -> None:
    """Whenever it is run: no guard stops the second sync, every kind of change is there, and the shop grows."""
    now = SOME_DAY + timedelta(days=days, hours=days)
    settings = load(shop.write_config(tmp_path, url="http://127.0.0.1:1", key="k"), {})
    database = tmp_path / "shop.db"
    customers, orders = shop.open_shop(database, now=now - shop.STEP)
    before = members(settings, database, now - shop.STEP)
    new_customers, new_orders = shop.move_on(database, now=now)
    after = members(settings, database, now)

    assert 590 <= customers + new_customers <= 600
    assert new_orders > orders * 14 / 243  # more than the average of two weeks
    assert before.keys() == AUDIENCES
    for key, was in before.items():
        left = was.keys() - after[key].keys()
        assert 0 < len(left) < 0.3 * len(was)
        assert 0 < len(after[key].keys() - was.keys()) < len(was)
    moved = [one for one, company in before[shop.ORDERED].items() if after[shop.ORDERED].get(one, company) != company]
    assert 1 <= len(moved) <= 3


def test_offices_order_on_working_days(tmp_path: Path) -> None:
    """The week has a rhythm: a weekend day brings less than a third of a working day."""
    shop.open_shop(tmp_path / "shop.db", now=SOME_DAY)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        by_day = dict(connection.execute("SELECT strftime('%w', ordered_at), count(*) FROM orders GROUP BY 1"))
    weekend = by_day.pop("0") + by_day.pop("6")

    assert weekend / 2 < sum(by_day.values()) / 5 / 3


def test_the_same_day_has_the_same_shop(tmp_path: Path) -> None:
    """The dice are seeded: two shops of one instant are equal, row by row."""
    dumps = []
    for name in ("one.db", "two.db"):
        shop.open_shop(tmp_path / name, now=SOME_DAY)
        shop.move_on(tmp_path / name, now=SOME_DAY + shop.STEP)
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            dumps.append(list(connection.iterdump()))

    assert dumps[0] == dumps[1]


def test_reasons_never_contradict_the_definition() -> None:
    """A day that has begun counts: who left after 30 days and an hour has not ordered for 31 days."""

    def facts(at: datetime, last: datetime | None, *, spent: int = 0) -> shop.Facts:
        return shop.Facts("cus_1", "Mei Berg", "Amber Labs", at, last, spent)

    last = SOME_DAY - timedelta(days=30, hours=1)
    then = facts(SOME_DAY - shop.STEP, last, spent=61240)
    never = facts(SOME_DAY - shop.STEP, None)
    now = facts(SOME_DAY, last, spent=48000)
    back = facts(SOME_DAY, SOME_DAY - timedelta(hours=3))

    assert shop.reason(ChangeKind.EXITED, shop.ORDERED, then, now) == "last order 31 days ago"
    assert (
        shop.reason(ChangeKind.ENTERED, shop.ORDERED, then, back)
        == "ordered 1 day ago, 30 days after the previous order"
    )
    assert shop.reason(ChangeKind.ENTERED, shop.ORDERED, never, back) == "first order 1 day ago"
    assert shop.reason(ChangeKind.EXITED, shop.SPENDERS, then, now) == "$480.00 in 90 days, previously $612.40"
    assert shop.reason(ChangeKind.UPDATED, shop.LAPSED, then, now) == "now works for Amber Labs"
