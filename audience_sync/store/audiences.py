"""The audiences this database knows: one row for each key ever used, kept for ever."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.errors import UnknownName


class AudienceRow(NamedTuple):
    """One row of `audiences`."""

    id: int
    key: str
    name: str
    state: str  # active, paused or retired
    definition_hash: str | None
    members: int
    completed: bool
    applied_as_of: int | None
    next_due_at: int | None
    declared_at: int | None
    created_at: int


_COLUMNS = ", ".join(AudienceRow._fields)


def register(connection: Connection, *, key: str, name: str, now_ms: int) -> AudienceRow:
    """Return the row of an audience, made at its first sync; its key is frozen from then on."""
    connection.execute(
        sa.text(
            "INSERT INTO audiences (key, name, state, created_at) VALUES (:k, :n, 'active', :now)"
            " ON CONFLICT (key) DO UPDATE SET name = excluded.name"
        ),
        {"k": key, "n": name, "now": now_ms},
    )
    return by_key(connection, key)


def find(connection: Connection, key: str) -> AudienceRow | None:
    """Return the row of an audience, or None if it was never synced."""
    row = connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences WHERE key = :k"), {"k": key}).one_or_none()
    return AudienceRow(*row) if row else None


def by_key(connection: Connection, key: str) -> AudienceRow:
    """Return the row of an audience.

    Raises:
        UnknownName: no audience of this key was ever synced.
    """
    row = find(connection, key)
    if row is None:
        raise UnknownName(
            f"the database knows no audience {key!r}",
            hint="`audience-sync audiences` lists them; a first sync adds one",
        )
    return row


def by_id(connection: Connection, audience_id: int) -> AudienceRow:
    """Return the row of an audience by its id."""
    row = connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences WHERE id = :i"), {"i": audience_id}).one()
    return AudienceRow(*row)


def every(connection: Connection) -> list[AudienceRow]:
    """Return all audiences, by key."""
    return [AudienceRow(*row) for row in connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences ORDER BY key"))]


def set_state(connection: Connection, audience_id: int, state: str) -> None:
    """Make an audience active, paused or retired; a retired one stays so."""
    connection.execute(
        sa.text("UPDATE audiences SET state = :s WHERE id = :i AND state <> 'retired'"),
        {"s": state, "i": audience_id},
    )


def add_members(connection: Connection, audience_id: int, difference: int) -> None:
    """Keep the count of members, in the transaction that changes them."""
    connection.execute(
        sa.text("UPDATE audiences SET members = members + :d WHERE id = :i"), {"d": difference, "i": audience_id}
    )


def set_next_due(connection: Connection, audience_id: int, due_ms: int | None) -> None:
    """Keep when the daemon syncs an audience next."""
    connection.execute(sa.text("UPDATE audiences SET next_due_at = :d WHERE id = :i"), {"d": due_ms, "i": audience_id})


def set_declared(connection: Connection, audience_id: int, now_ms: int) -> None:
    """Keep that Schematic knows the type of this audience's trait."""
    connection.execute(sa.text("UPDATE audiences SET declared_at = :d WHERE id = :i"), {"d": now_ms, "i": audience_id})


def undeclared(connection: Connection) -> list[AudienceRow]:
    """Return the audiences with open rows whose trait was never declared."""
    return [
        AudienceRow(*row)
        for row in connection.execute(
            sa.text(
                f"SELECT {_COLUMNS} FROM audiences a WHERE declared_at IS NULL"
                " AND EXISTS (SELECT 1 FROM outbox o WHERE o.audience_id = a.id AND o.dead_reason IS NULL) ORDER BY key"
            )
        )
    ]
