"""Real purchases (the CDNOW sample, 2,357 customers in 1997 and 1998): every month's members, sent, agree with a count.

An audience is synced as of the first of each month against a sandbox. What should be the case is worked out in Python,
by brute force, from the same purchases.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
import sqlalchemy as sa

from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.store import audiences, history
from audience_sync.store.database import Database
from tests.sending import Sending, assert_agreed, assert_in_order, open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

SAMPLE = Path(__file__).parent.parent / "data" / "cdnow_sample.txt.gz"
NAME, KEY = "Order Completed Last 30days", "order_completed_last_30days"
MONTHS = [datetime(1997 + month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(1, 19)]
IN_SQLITE = """
SELECT customer_id AS user_id FROM purchases
WHERE ordered_at >= datetime(:now, '-30 days') AND ordered_at < :now -- one row a purchase
"""
IN_POSTGRES = """
SELECT customer_id AS user_id FROM purchases
WHERE ordered_at >= :now::timestamptz - interval '30 days' AND ordered_at < :now;
"""


class Purchase(NamedTuple):
    """One line of the sample."""

    customer_id: str
    ordered_at: datetime


@pytest.fixture(scope="module", params=[8, pytest.param(1, marks=pytest.mark.slow)], ids=["an eighth", "all"])
def purchases(request: pytest.FixtureRequest) -> list[Purchase]:
    """Return the purchases of every customer of the sample, or of every eighth one."""
    with gzip.open(SAMPLE, "rt") as lines:
        fields = [line.split() for line in lines if crc32(line.split()[0].encode()) % request.param == 0]
    return [Purchase(customer, datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)) for customer, _, day, *_ in fields]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[FaultySandbox]:
    """Yield a running sandbox."""
    with FaultySandbox(tmp_path / "sandbox.db") as running:
        yield running


@pytest.fixture
def sending(
    tmp_path: Path,
    database: Database,
    sandbox: FaultySandbox,
    purchases: list[Purchase],
    request: pytest.FixtureRequest,
) -> Iterator[Sending]:
    """Yield the audience on purchases in SQLite or in Postgres, like the membership database."""
    if database.is_sqlite:
        url, sql = f"sqlite:///{tmp_path / 'cdnow.db'}", IN_SQLITE
        load_sqlite(tmp_path / "cdnow.db", purchases)
    else:
        url, sql = request.getfixturevalue("postgres_url"), IN_POSTGRES
        load_postgres(url, purchases)
    with open_sending(tmp_path, database, sandbox, audiences={NAME: sql}, source_url=url) as opened:
        yield opened


def load_sqlite(path: Path, purchases: list[Purchase]) -> None:
    """Write purchases into a SQLite table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE purchases (customer_id TEXT, ordered_at TEXT)")
        rows = [(customer, f"{ordered_at:%Y-%m-%d %H:%M:%S}") for customer, ordered_at in purchases]
        connection.executemany("INSERT INTO purchases VALUES (?, ?)", rows)
        connection.commit()


def load_postgres(url: str, purchases: list[Purchase]) -> None:
    """Write purchases into a Postgres table."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE purchases (customer_id text, ordered_at timestamptz)")
        customers, moments = zip(*purchases, strict=True)
        connection.exec_driver_sql(
            "INSERT INTO purchases SELECT * FROM unnest(%s::text[], %s::timestamptz[])",
            (list(customers), list(moments)),
        )


def rows_as_of(purchases: list[Purchase], moment: datetime) -> list[str]:
    """Return who ordered in the thirty days before a moment, once for each purchase."""
    return [one.customer_id for one in purchases if moment - timedelta(days=30) <= one.ordered_at < moment]


def sync_month(sending: Sending, purchases: list[Purchase], moment: datetime, before: set[str]) -> set[str]:
    """Sync as of a moment; check the run and the members against brute force, and return them."""
    rows = rows_as_of(purchases, moment)
    now = set(rows)
    run = sending.sync_again(KEY, as_of=moment)

    assert run.counts == Counts(
        read=len(rows),
        entered=len(now - before),
        exited=len(before - now),
        unchanged=len(now & before),
        duplicates=len(rows) - len(now),
    )
    assert (run.kind, run.state) == (RunKind.INCREMENTAL if before else RunKind.INITIAL, RunState.SUCCEEDED)
    assert run.members_before == len(before)
    assert now == {customer for (customer,) in sending.rows("SELECT profile_key FROM current_members")}
    return now


def check_sandbox(sending: Sending, now: set[str], ever: set[str]) -> None:
    """Check that Schematic knows exactly this: true for the members now, false for who was one before."""
    assert sending.traits() == {customer: {KEY: customer in now} for customer in ever}


def check_runs_and_history(sending: Sending, purchases: list[Purchase]) -> None:
    """Check that every run sent what it changed, and that history tells the members of every month."""
    unsent = (
        "SELECT id FROM sync_runs WHERE sent <> entered + exited + updated OR read <> entered + unchanged + duplicates"
    )
    assert sending.rows(unsent) == []
    replayed: set[str] = set()
    with sending.workspace.database.read() as connection:
        audience = audiences.by_key(connection, KEY)
    for month in MONTHS:
        at = f"{month:%Y-%m-%dT%H:%M:%S}.000Z"
        changes = sending.rows("SELECT kind, profile_key FROM membership_changes WHERE as_of = :at", at=at)
        replayed |= {customer for kind, customer in changes if kind == "entered"}
        replayed -= {customer for kind, customer in changes if kind == "exited"}
        recalled = history.members_as_of(sending.workspace.database, audience, int(month.timestamp() * 1000))
        assert set(rows_as_of(purchases, month)) == replayed == {member["profile_key"] for member in recalled}


@pytest.mark.slow
def test_every_month_agrees(sending: Sending, purchases: list[Purchase]) -> None:
    """After each month members, traits and brute force agree, and exactly the transitions were sent."""
    now, ever, transitions = set[str](), set[str](), 0
    for month in MONTHS:
        before = now
        now = sync_month(sending, purchases, month, before)
        ever |= now
        transitions += len(before ^ now)
        report = sending.deliver()

        assert (report.events, report.open, report.dead, report.failure) == (len(before ^ now), 0, 0, None)
        check_sandbox(sending, now, ever)
        assert sending.sandbox.ledger.stats()["events"] == {"processed": transitions, "duplicate": 0, "failed": 0}

    check_runs_and_history(sending, purchases)
    assert_agreed(sending)


@pytest.mark.slow
@pytest.mark.parametrize("purchases", [1], indirect=True, ids=["all"])
def test_every_month_agrees_through_faults(sending: Sending, purchases: list[Purchase]) -> None:
    """With 30 % of requests failing in every way the end is the same: nothing is applied twice, nothing is dead."""
    sending.sandbox.faults.set(
        [
            FaultRule(status=429, headers={"Retry-After": "1"}, rate=0.02, times=2, seed=1),
            FaultRule(status=500, rate=0.10, seed=2),
            FaultRule(status=429, headers={"Retry-After": "0"}, rate=0.10, seed=3),
            FaultRule(drop=True, rate=0.12, seed=4),
        ]
    )
    now, ever, transitions = set[str](), set[str](), 0
    for month in MONTHS:
        before = now
        now = sync_month(sending, purchases, month, before)
        ever |= now
        transitions += len(before ^ now)
        report = sending.deliver()

        assert (report.open, report.dead, report.failure) == (0, 0, None)
        check_sandbox(sending, now, ever)

    check_runs_and_history(sending, purchases)
    assert_agreed(sending)
    assert_in_order(sending)
    ((processed, applied_twice),) = sending.sandbox.ledger.read(
        "SELECT count(*), count(*) - count(DISTINCT idempotency_key) FROM events WHERE status = 'processed'"
    )
    assert (processed, applied_twice) == (transitions, 0)
    ((requests, failed),) = sending.sandbox.ledger.read(
        "SELECT count(*), count(fault) FROM requests WHERE path = '/batch'"
    )
    assert 0.2 < failed / requests < 0.4
