"""Times in options are in the time zone of the configuration."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.commands import Finished, call

BERLIN = ZoneInfo("Europe/Berlin")
CONFIG = """
[schedule]
timezone = "Europe/Berlin"
[sources.shop]
url = "sqlite:///shop.db"
[[audiences]]
name = "Everybody"
sql = "SELECT id AS user_id FROM customers WHERE joined_at < :now"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop in Berlin with one customer who joined at noon of 1 July 2026, 10:00 UTC."""
    (tmp_path / "config.toml").write_text(CONFIG)
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE customers (id, joined_at)")
        connection.execute("INSERT INTO customers VALUES ('u1', '2026-07-01 10:00:00')")
    connection.close()
    return tmp_path


def preview(folder: Path, now: str) -> Finished:
    """Run `preview` as of a time."""
    return call(["preview", "everybody", "--now", now, "--format", "json"], dict(os.environ), folder=folder)


@pytest.mark.parametrize(
    ("now", "as_of", "size"),
    [
        ("2026-07-01 12:00", "2026-07-01T10:00:00.000Z", 0),
        ("2026-07-01 12:01", "2026-07-01T10:01:00.000Z", 1),
        ("2026-07-01T12:00Z", "2026-07-01T12:00:00.000Z", 1),
        ("2026-07-01", "2026-06-30T22:00:00.000Z", 0),
        ("2026-07-02", "2026-07-01T22:00:00.000Z", 1),
    ],
)
def test_a_time_without_an_offset_is_local(shop: Path, now: str, as_of: str, size: int) -> None:
    """`[schedule] timezone` is the time zone of dates and times without one of their own."""
    shown = json.loads(preview(shop, now).out)

    assert (shown["as_of"], shown["size"]) == (as_of, size)


def test_calendar_words_are_local_days(shop: Path) -> None:
    """`yesterday` begins at midnight in Berlin, on a day with a change of the clocks, too."""
    before = datetime.now(BERLIN)
    shown = json.loads(preview(shop, "yesterday").out)["as_of"]
    after = datetime.now(BERLIN)

    midnights = {datetime(one.year, one.month, one.day, tzinfo=BERLIN) for one in (before, after)}
    days = {(one - timedelta(days=1)).astimezone(UTC).isoformat(timespec="milliseconds") for one in midnights}
    assert shown.replace("Z", "+00:00") in days


def test_a_wrong_time_is_one_sentence(shop: Path) -> None:
    """A misspelled word is a usage error with the right word."""
    wrong = preview(shop, "last wek")

    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.splitlines()[-1] == (
        "Error: Invalid value for '--now': `last wek` is not a time, such as `yesterday`, `2 days ago`, `2026-11-01` or"
        " `2026-11-01 10:00`; did you mean `week`?"
    )
