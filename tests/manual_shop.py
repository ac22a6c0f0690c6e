"""The shop that the examples of the manual speak of: orders, events and users, in a database or in files."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

NOW: Final = datetime.now(UTC).replace(microsecond=0)
USERS: Final[list[dict[str, str | None]]] = [
    {"user_id": "user_42", "company_id": "acme", "plan": "pro", "email": "ada@example.com"},
    {"user_id": "u42", "company_id": "acme", "plan": "pro", "email": "ben@example.com"},
    {"user_id": "u7", "company_id": None, "plan": "trial", "email": "eva@example.com"},
    {"user_id": "u8", "company_id": "blue", "plan": "free", "email": "kim@example.com"},
]
ORDERS: Final = [  # user, days ago, revenue; u8 is a big spender who has lapsed
    ("user_42", 3, 310.0),
    ("user_42", 20, 250.0),
    ("u42", 9, 520.5),
    ("u7", 5, 900.0),
    ("u8", 45, 700.0),
]


def fill_database(url: str) -> None:
    """Create and fill the tables `orders`, `events` and `users` in an empty database."""
    engine = sa.create_engine(url)
    is_sqlite = engine.dialect.name == "sqlite"
    at, doc = ("TEXT", "TEXT") if is_sqlite else ("timestamptz", "jsonb")
    with engine.begin() as connection:
        for statement in (
            f"CREATE TABLE orders (customer_id text, company_id text, ordered_at {at}, loaded_at {at})",
            f"CREATE TABLE payments (user_id text, paid_at {at}, loaded_at {at})",
            f"CREATE TABLE events (user_id text, event text, occurred_at {at}, properties {doc})",
            "CREATE TABLE users (user_id text, company_id text, plan text, email text)",
        ):
            connection.exec_driver_sql(statement)
        companies = {user["user_id"]: user["company_id"] for user in USERS}
        at, doc = ("", "") if is_sqlite else ("::timestamptz", "::jsonb")
        for user, days, revenue in ORDERS:
            row = {
                "user": user,
                "company": companies[user],
                "at": f"{NOW - timedelta(days=days):%Y-%m-%d %H:%M:%S}{'' if is_sqlite else '+00'}",
                "now": f"{NOW:%Y-%m-%d %H:%M:%S}{'' if is_sqlite else '+00'}",
                "properties": json.dumps({"revenue": revenue, "brand": "Acme"}),
            }
            connection.execute(sa.text(f"INSERT INTO orders VALUES (:user, :company, (:at){at}, (:now){at})"), row)
            connection.execute(
                sa.text(f"INSERT INTO events VALUES (:user, 'Order Completed', (:at){at}, (:properties){doc})"), row
            )
        connection.execute(sa.text(f"INSERT INTO payments VALUES (:user, (:now){at}, (:now){at})"), row)
        connection.execute(sa.text("INSERT INTO users VALUES (:user_id, :company_id, :plan, :email)"), USERS)
    engine.dispose()


def write_files(folder: Path) -> None:
    """Write `exports/members-1.csv`, `users.csv`, Segment events in `events.ndjson.gz`, and files of definitions."""
    (folder / "audiences.d").mkdir()
    (folder / "order_completed.sql").write_text(
        "SELECT DISTINCT customer_id AS user_id FROM orders\n", encoding="utf-8"
    )
    (folder / "big_spenders.txt").write_text("event('Order Completed').count() >= 1\n", encoding="utf-8")
    (folder / "exports").mkdir()
    times = {user: NOW - timedelta(days=days) for user, days, _ in reversed(ORDERS)}
    members = [(user, sum(spent for who, _, spent in ORDERS if who == user), at) for user, at in times.items()]
    lines = ["user_id,spend,last_seen", *(f"{user},{spend},{at.isoformat()}" for user, spend, at in members)]
    (folder / "exports" / "members-1.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "users.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, USERS[0].keys())
        writer.writeheader()
        writer.writerows(USERS)
    events = [
        {
            "type": "track",
            "event": "Order Completed",
            "userId": user,
            "messageId": f"m{number}",
            "timestamp": (NOW - timedelta(days=days)).isoformat(),
            "properties": {"revenue": revenue},
        }
        for number, (user, days, revenue) in enumerate(ORDERS)
    ]
    with gzip.open(folder / "events.ndjson.gz", "wt", encoding="utf-8") as packed:
        packed.writelines(f"{json.dumps(event)}\n" for event in events)
