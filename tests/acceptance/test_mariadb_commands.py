"""The commands on a source in MariaDB: check, plan, sync and explain, for SQL and for queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import mariadb_servers
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place

pytestmark = ON_ONE_DATABASE

MORE = """
[sources.shop.events]
table = "events"
properties = "properties"
[sources.shop.profiles]
table = "users"
[[audiences]]
name = "Big Spenders"
query = "event('Order').sum(property('revenue')) >= 500 AND trait('active') = true"
[[traits]]
name = "Spend"
query = "event('Order').sum(property('revenue'))"
"""
RECENT = "SELECT user_id FROM orders WHERE ordered_at > :now - INTERVAL 1 HOUR AND ordered_at <= :now"
NOON = ("--now", "2026-03-31T12:00Z")


@pytest.fixture
def place(tmp_path: Path, database_url: str, mariadb_url: str) -> Iterator[Place]:
    """A shop in MariaDB with orders, events and users."""
    mariadb_servers.administer(
        mariadb_url,
        "CREATE TABLE orders (user_id VARCHAR(20), ordered_at TIMESTAMP)",
        "INSERT INTO orders VALUES ('u1', '2026-03-31 11:30:00'), ('u2', '2026-03-31 08:30:00')",
        "CREATE TABLE users (user_id VARCHAR(20) PRIMARY KEY, active BOOLEAN)",
        "INSERT INTO users VALUES ('u1', true), ('u2', false)",
        "CREATE TABLE events (user_id VARCHAR(20), event VARCHAR(20), timestamp DATETIME, properties JSON)",
        """INSERT INTO events VALUES ('u1', 'Order', '2026-03-30 12:00:00', '{"revenue": 499.5}'),
           ('u1', 'Order', '2026-03-31 11:30:00', '{"revenue": 0.5}'),
           ('U1', 'Order', '2026-03-31 11:30:00', '{"revenue": 1000}'),
           ('u2', 'Order', '2026-03-31 11:30:00', '{"revenue": 600}')""",
    )
    with open_place(tmp_path, database_url) as opened:
        opened.configure(name="Recent", sql=RECENT, company_keys={}, source_url=mariadb_url, more=MORE)
        yield opened


def test_check_looks_at_the_source(place: Place) -> None:
    """The source is reachable, and every definition is accepted by it."""
    checked = place.command("check", "--format", "json")

    assert "error" not in {finding["state"] for finding in checked.records}, checked.out
    states = {finding["subject"]: finding["state"] for finding in checked.records}
    assert {states[name] for name in ("shop", "recent", "big_spenders", "spend")} == {"ok"}


def test_a_sync_and_what_it_found(place: Place) -> None:
    """Members and values are those of the hour and of the bytes of their keys; a second sync changes nothing."""
    planned = place.command("plan", *NOON)
    assert planned.code == 0, planned.err
    synced = place.command("sync", *NOON)

    assert synced.code == 0, synced.err
    assert set(place.members("recent")) == {"u1"}
    assert set(place.members("big_spenders")) == {"u1"}
    assert place.traits()["u1"] == {"recent": True, "big_spenders": True, "spend": 500}
    assert place.traits()["u2"] == {"spend": 600}
    received = place.received()
    assert place.command("sync", *NOON).code == 0
    assert place.received() == received


def test_a_user_is_explained(place: Place) -> None:
    """`explain` shows the conditions and the deciding events of one user, and the SQL that runs."""
    explained = place.command("explain", "u1", "big_spenders", *NOON)
    assert explained.code == 0, explained.err
    assert "500" in explained.out
    assert "2026-03-31 11:30:00" in explained.out

    by_sql = place.command("explain", "u2", "recent", *NOON)
    assert by_sql.code == 0, by_sql.err
    assert "u2" in by_sql.out
    shown = place.command("explain", "big_spenders", "--sql", *NOON)
    assert shown.code == 0, shown.err
    assert "JSON_EXTRACT" in shown.out
