"""Two audiences compared at the same time: in two threads of one process, which share DuckDB, and in two processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from audience_sync.config import Settings
from audience_sync.sync import Job, RunReport, sync
from tests.acceptance.running import Place, open_place
from tests.factories import ORDERS_SQL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PEOPLE = 150_000
EVEN, ODD = (f"{ORDERS_SQL} AND CAST(substr(customer_id, 2) AS INTEGER) % 2 = {rest}" for rest in (0, 1))
AUDIENCES = {"even": EVEN, "odd": ODD}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of many customers, every second one in each of two audiences."""
    with open_place(tmp_path, database_url) as opened:
        fill(opened, first=0)
        yield opened


def fill(place: Place, *, first: int) -> None:
    """Let the customers be those from a number on."""
    place.shop.set_orders([(f"u{n}", f"c{n % 999}") for n in range(first, first + PEOPLE)])


def configure(place: Place) -> Settings:
    """Write the configuration of both audiences."""
    second = f'[[audiences]]\nname = "odd"\nsql = "{ODD}"\ncompany_keys = {{ groupId = "company_id" }}'
    return place.configure(name="even", sql=EVEN, guard={"min_members": 1_000_000}, more=second)


def expected(first: int, rest: int) -> set[str]:
    """Return who should be in an audience."""
    return {f"u{n}" for n in range(first, first + PEOPLE) if n % 2 == rest}


def assert_right(place: Place, *, first: int) -> None:
    """Assert that both audiences have their members, and that the comparison left the digests behind."""
    for rest, key in enumerate(AUDIENCES):
        assert place.members(key).keys() == expected(first, rest)
    assert place.rows("SELECT members FROM digests WHERE run_id = 0") == [(PEOPLE // 2,)] * 2


def test_two_threads(place: Place) -> None:
    """Neither sees the other's rows, though both are in the one DuckDB, whose memory is for both."""
    settings = configure(place)
    with place.workspace(diff_memory_mb=40) as workspace, ThreadPoolExecutor(2) as pool:
        for first in (0, 500):
            fill(place, first=first)
            both = Barrier(2)

            def one(key: str, both: Barrier = both) -> RunReport:
                both.wait()
                return sync(workspace, Job(settings=settings, audience=settings.audience(key)))

            counts = [report.run.counts for report in pool.map(one, AUDIENCES)]
            assert [(c.entered, c.exited) for c in counts] == [(250, 250) if first else (PEOPLE // 2, 0)] * 2
            assert_right(place, first=first)


def test_two_processes(place: Place) -> None:
    """Neither takes what the other keeps in the same temporary folder for abandoned."""
    configure(place)
    folder = place.folder / "tmp"
    folder.mkdir()
    place.environment["TMPDIR"] = str(folder)
    for first in (0, 500):
        fill(place, first=first)
        with place.running("sync", "even", "--no-deliver") as even, place.running("sync", "odd", "--no-deliver") as odd:
            for ended in (even.end(), odd.end()):
                assert ended.code == 0, ended.err
        assert_right(place, first=first)
