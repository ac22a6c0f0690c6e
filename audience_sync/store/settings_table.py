"""The table `settings`: what the whole database keeps under a name."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.store.schema import PRIMARY_DESTINATION


def name_of(setting: str, destination: str) -> str:
    """Return the name under which a setting is kept for a destination."""
    return setting if destination == PRIMARY_DESTINATION else f"{setting}:{destination}"


def get(connection: Connection, name: str) -> str | None:
    """Return a setting kept in the database, or None."""
    value: str | None = connection.execute(sa.text("SELECT value FROM settings WHERE name = :n"), {"n": name}).scalar()
    return value


def locked(connection: Connection, name: str) -> int:
    """Return a numeric setting, 0 if it is new; others who want it wait until this transaction ends."""
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE"  # a SQLite writer is alone anyway
    query = sa.text(f"SELECT value FROM settings WHERE name = :n{lock}")
    value = connection.execute(query, {"n": name}).scalar()
    if value is None:  # the first of several processes inserts it; the others wait, and find it
        connection.execute(
            sa.text("INSERT INTO settings (name, value) VALUES (:n, '0') ON CONFLICT (name) DO NOTHING"), {"n": name}
        )
        value = connection.execute(query, {"n": name}).scalar_one()
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
