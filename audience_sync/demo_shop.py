"""A small example shop: customers, eight months of orders, and a configuration with three audiences.

The data is generated from a fixed seed: the same `now` gives the same shop. This module only creates files; the caller
syncs.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from audience_sync.core.model import ChangeKind
from audience_sync.core.text import counted

HISTORY: Final = timedelta(days=243)  # eight months
STEP: Final = timedelta(days=14)
"""How far `move_on` moves the shop's clock."""

ORDERED: Final = "order_completed_last_30days"
SPENDERS: Final = "big_spenders"
LAPSED: Final = "lapsed_customers"

_CUSTOMERS, _COMPANIES = 600, 180
_WORDS = """
Aisha Amara Anders Andrea Anna Arjun Bella Boris Bruno Camila Carla Chen Clara Daniel David Diego Elena Elif Emma Eric
Fatima Felix Freya Grace Hana Hugo Ingrid Isaac Ivan Jamal Jonas Julia Kofi Laila Lena Liam Lucia Marco Maria Maya Mei
Mina Nadia Nils Noah Nora Olga Omar Oscar Paula Priya Rania Ravi Rosa Samuel Sara Sofia Tariq Tessa Tom

Abbott Adeyemi Ahmed Almeida Baker Banerjee Berg Bianchi Carter Castro Chavez Dahl Diaz Dubois Eriksen Evans Farah
Fischer Flores Fontaine Gupta Haddad Hansen Hoffman Ito Jansen Kaya Keller Kim Kowalski Kruger Larsen Lopez Mbeki
Meyer Molina Moreau Nakamura Novak Okafor Olsen Park Patel Perez Petrov Quinn Reyes Rossi Sato Silva Singh Sousa
Tanaka Torres Tran Vega Weber Wong Yilmaz Zhang

Amber Birch Bright Cedar Clear Copper Delta Ember Fern Granite Harbor Juniper Kestrel Lantern Maple Meridian North
Orchard Pine Quarry River Summit Tidal Willow

Analytics Architects Books Clinic Dental Design Foods Labs Legal Logistics Studio Systems
"""
_FIRST, _LAST, _COMPANY_FIRST, _COMPANY_LAST = (words.split() for words in _WORDS.split("\n\n"))

_SCHEMA = """
CREATE TABLE companies (id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT NOT NULL,
                        company_id TEXT NOT NULL REFERENCES companies (id), joined_at TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers (id),
                     ordered_at TEXT NOT NULL, total_cents INTEGER NOT NULL);
CREATE INDEX orders_by_customer ON orders (customer_id, ordered_at);
"""
_CONFIG = """\
# A shop and a local Schematic. With real ones it is the same file: other URLs, another key, your SQL.
# `audience-sync init` elsewhere writes one that explains every setting.

[database]                                 # memberships
url = "sqlite:///audience_sync.db"

[schematic]                                # the sandbox: audience-sync sandbox --port {port} --database sandbox.db
api_key_file = "schematic.key"
capture_url = "{url}"
api_url = "{url}"

[sources.shop]
url = "sqlite:///shop.db"

[[audiences]]
name = "Order Completed Last 30days"       # trait: order_completed_last_30days
sql = \"\"\"
SELECT c.id AS user_id, c.company_id
FROM customers c JOIN orders o ON o.customer_id = c.id
WHERE o.ordered_at BETWEEN datetime(:now, '-30 days') AND :now
GROUP BY c.id
\"\"\"
company_keys = {{ groupId = "company_id" }}

[[audiences]]
name = "Big Spenders"                      # trait: big_spenders
sql = \"\"\"
SELECT c.id AS user_id, c.company_id
FROM customers c JOIN orders o ON o.customer_id = c.id
WHERE o.ordered_at BETWEEN datetime(:now, '-90 days') AND :now
GROUP BY c.id HAVING sum(o.total_cents) >= 50000
\"\"\"
company_keys = {{ groupId = "company_id" }}

[[audiences]]
name = "Lapsed Customers"                  # trait: lapsed_customers
sql = \"\"\"
SELECT c.id AS user_id, c.company_id
FROM customers c JOIN orders o ON o.customer_id = c.id
WHERE o.ordered_at <= :now
GROUP BY c.id HAVING max(o.ordered_at) < datetime(:now, '-60 days')
\"\"\"
company_keys = {{ groupId = "company_id" }}
"""


class Habit(NamedTuple):
    """How a kind of customer buys: `share` of all; days between orders and days until they stop, both on average."""

    share: float
    gap: float
    stays: float
    basket: float  # cents, the median


_HABITS: Final = (
    Habit(share=0.34, gap=10, stays=600, basket=5600),  # loyal
    Habit(share=0.31, gap=27, stays=350, basket=7400),  # now and then
    Habit(share=0.35, gap=45, stays=8, basket=4200),  # once, hardly ever twice
)


class Facts(NamedTuple):
    """The facts that the shop knows of a customer at an instant; money in cents."""

    customer: str
    name: str
    company: str
    at: datetime
    last_order_at: datetime | None
    spent: int  # in the 90 days before


def open_shop(path: Path, *, now: datetime) -> tuple[int, int]:
    """Make the shop's database as it is at `now`, in UTC; return how many customers and orders it has."""
    dice = random.Random(20)  # noqa: S311 - a repeatable shop, no secrets
    names = dice.sample(list(product(_COMPANY_FIRST, _COMPANY_LAST)), _COMPANIES)
    companies = [(f"com_{number}", f"{one} {other}") for number, (one, other) in enumerate(names, 101)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_SCHEMA)
        connection.executemany("INSERT INTO companies VALUES (?, ?)", companies)
        _insert(connection, [company for company, _ in companies], after=None, until=now, end=now + STEP)
        return _size(connection)


def move_on(path: Path, *, now: datetime) -> tuple[int, int]:
    """Let the two weeks after `now - STEP` happen in a shop opened then; return how many customers and orders are new.

    Customers join, order and stay away as they use to; five who had lapsed come back, and three change company.
    """
    dice = random.Random(21)  # noqa: S311 - as above
    before = now - STEP
    with closing(sqlite3.connect(path)) as connection, connection:
        companies = [one for (one,) in connection.execute("SELECT id FROM companies ORDER BY id")]
        last_orders = connection.execute("SELECT customer_id, max(ordered_at) FROM orders GROUP BY 1").fetchall()
        customers, orders = _size(connection)
        _insert(connection, companies, after=before, until=now, end=now)
        lapsed = [one for one, last in last_orders if last < _text(before - timedelta(days=60))]
        for customer in dice.sample(lapsed, 5):
            at = _text(now - STEP * dice.uniform(0.1, 0.9))
            connection.execute(
                "INSERT INTO orders VALUES (NULL, ?, ?, ?)", (customer, at, dice.randrange(2500, 9000, 10))
            )
        staying = [one for one, last in last_orders if last > _text(now - timedelta(days=29))]
        for customer in dice.sample(staying, 3):
            connection.execute("UPDATE customers SET company_id = ? WHERE id = ?", (dice.choice(companies), customer))
        customers_now, orders_now = _size(connection)
    return customers_now - customers, orders_now - orders


def write_config(folder: Path, *, url: str, key: str) -> Path:
    """Write the configuration for a sandbox at `url`, and the file of its key; return the configuration's path."""
    key_file = folder / "schematic.key"
    key_file.touch(mode=0o600)
    key_file.write_text(key + "\n", encoding="utf-8")
    path = folder / "config.toml"
    path.write_text(_CONFIG.format(url=url, port=url.rpartition(":")[2]), encoding="utf-8")
    return path


def facts(path: Path, customer: str, *, at: datetime) -> Facts:
    """Return what the shop knows of a customer at an instant."""
    with closing(sqlite3.connect(path)) as connection:
        name, company, last, spent = connection.execute(
            "SELECT c.name, m.name, max(o.ordered_at), coalesce(sum(o.total_cents) FILTER (WHERE o.ordered_at >= ?), 0)"
            " FROM customers c JOIN companies m ON m.id = c.company_id"
            " LEFT JOIN orders o ON o.customer_id = c.id AND o.ordered_at <= ? WHERE c.id = ?",
            (_text(at - timedelta(days=90)), _text(at), customer),
        ).fetchone()
    last_order_at = datetime.fromisoformat(last).replace(tzinfo=at.tzinfo) if last else None
    return Facts(customer, name, company, at, last_order_at, spent)


def reason(kind: ChangeKind, audience: str, before: Facts, now: Facts) -> str:
    """Return why an audience of the demo changed for a customer, in terms of its definition."""
    if kind is ChangeKind.UPDATED:
        return f"now works for {now.company}"
    if audience == SPENDERS:
        return f"${now.spent / 100:,.2f} in 90 days, previously ${before.spent / 100:,.2f}"
    if now.last_order_at == before.last_order_at:
        return f"last order {_days_ago(now)} ago"
    if before.last_order_at is None:
        return f"first order {_days_ago(now)} ago"
    gap = _days(now.last_order_at or now.at, before.last_order_at)
    return f"ordered {_days_ago(now)} ago, {gap} after the previous order"


def _days_ago(known: Facts) -> str:
    return _days(known.at, known.last_order_at or known.at)


def _days(later: datetime, earlier: datetime) -> str:
    """Return how many days lie between; a day that has begun counts, so that 30 days and an hour are more than 30."""
    days = max(1, math.ceil((later - earlier) / timedelta(days=1)))
    return counted(days, "day")


def _size(connection: sqlite3.Connection) -> tuple[int, int]:
    (customers, orders), *_ = connection.execute(
        "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders)"
    )
    return customers, orders


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def _insert(
    connection: sqlite3.Connection,
    companies: list[str],
    *,
    after: datetime | None,
    until: datetime,
    end: datetime,
) -> None:
    """Insert who joined and what was ordered later than `after`, up to `until`, of the history that ends at `end`."""

    def belongs(at: datetime) -> bool:
        return at <= until and (after is None or at > after)

    dice = random.Random(22)  # noqa: S311 - as above; the same dice for both parts of one history
    names = dice.sample(list(product(_FIRST, _LAST)), _CUSTOMERS)
    # Growth: a tenth was there before, and each month brings more than the one before.
    joined = sorted(_working_time(dice, end - HISTORY * 1.25 * (1 - dice.random() ** 0.7)) for _ in names)
    orders: list[tuple[str, str, int]] = []
    for number, ((first, last), joined_at) in enumerate(zip(names, joined, strict=True), 1001):
        company = dice.choice(companies)
        habit = dice.choices(_HABITS, [habit.share for habit in _HABITS])[0]
        if belongs(joined_at):
            row = (f"cus_{number}", f"{first} {last}", company, _text(joined_at))
            connection.execute("INSERT INTO customers VALUES (?, ?, ?, ?)", row)
        bought = _orders(dice, habit, joined_at, end)
        orders += [
            (f"cus_{number}", _text(at), round(cents / 10) * 10)
            for at, cents in bought
            if belongs(at) and at > end - HISTORY
        ]
    orders.sort(key=lambda order: order[1])
    connection.executemany("INSERT INTO orders (customer_id, ordered_at, total_cents) VALUES (?, ?, ?)", orders)


def _orders(dice: random.Random, habit: Habit, joined_at: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """Yield when a customer orders, and for how many cents, until they lose interest or the history ends."""
    stops_at = joined_at + timedelta(days=dice.expovariate(1 / habit.stays))
    at = joined_at + timedelta(minutes=dice.randrange(5, 240))
    while at <= end:
        yield at, dice.lognormvariate(math.log(habit.basket), 0.45)
        at = _working_time(dice, at + timedelta(days=dice.gammavariate(5, habit.gap / 5)))
        if at > stops_at:
            return


def _working_time(dice: random.Random, at: datetime) -> datetime:
    """Return a time near `at` when offices order: by day, and seldom at a weekend."""
    if at.weekday() >= 5 and dice.random() < 0.8:
        at += timedelta(days=7 - at.weekday() + dice.choice((0, 0, 1, 2)))  # Monday to Wednesday
    return at.replace(hour=0, minute=0, second=0) + timedelta(hours=dice.triangular(7, 19, 10.5))
