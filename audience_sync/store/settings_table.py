"""The table `settings`: what the whole database keeps under a name."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def get(connection: Connection, name: str) -> str | None:
    """Return a setting kept in the database, or None."""
    value: str | None = connection.execute(sa.text("SELECT value FROM settings WHERE name = :n"), {"n": name}).scalar()
    return value


def locked(connection: Connection, name: str) -> int:
    """Return a numeric setting that is always there; others who want it wait until this transaction ends."""
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE"  # a SQLite writer is alone anyway
    value = connection.execute(sa.text(f"SELECT value FROM settings WHERE name = :n{lock}"), {"n": name}).scalar_one()
    return int(value)


def count_on(connection: Connection, name: str, *, least: int, step: int) -> int:
    """Return `max(number, least)` of a numeric setting and keep that plus `step`; others wait their turn."""
    number = max(locked(connection, name), least)
    put(connection, name, str(number + step))
    return number


def put(connection: Connection, name: str, value: str) -> None:
    """Keep a setting."""
    connection.execute(
        sa.text(
            "INSERT INTO settings (name, value) VALUES (:n, :v) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"n": name, "v": value},
    )
