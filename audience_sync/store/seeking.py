"""Who wants shards to deliver and has none, and in which units of shards something waits."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.shards import SHARDS, UNITS, unit_of

_WIDTH = SHARDS // UNITS
_NOT_PAUSED = "audience_id NOT IN (SELECT id FROM audiences WHERE state = 'paused')"


def seek(connection: Connection, holder: str, *, now_ms: int, expires_at: int) -> None:
    """Say, until a time, that a process wants shards; sayings whose time is over are cleared away."""
    connection.execute(sa.text("DELETE FROM seekers WHERE expires_at <= :now"), {"now": now_ms})
    connection.execute(
        sa.text(
            "INSERT INTO seekers (holder, expires_at) VALUES (:h, :e)"
            " ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at"
        ),
        {"h": holder, "e": expires_at},
    )


def stop_seeking(connection: Connection, holder: str) -> None:
    """Say that a process has shards, or wants none."""
    connection.execute(sa.text("DELETE FROM seekers WHERE holder = :h"), {"h": holder})


def seekers(connection: Connection, *, now_ms: int) -> dict[str, int]:
    """Return who wants shards and has none, and until when that holds unless it is said again."""
    rows = connection.execute(
        sa.text("SELECT holder, expires_at FROM seekers WHERE expires_at > :now"), {"now": now_ms}
    )
    return {row.holder: row.expires_at for row in rows}


def waiting_units(connection: Connection, *, forwarded: bool) -> set[int]:
    """Return in which units something waits that may be sent; with forwarded events or without.

    Of a batch that was tried, only the first and the last shard are looked at: whoever has one of them finds it.
    """
    found = _units(connection, "outbox", _NOT_PAUSED)
    if forwarded:
        found |= _units(connection, "events", "TRUE")
    tried = connection.execute(
        sa.text(f"SELECT low, high FROM attempts WHERE {'TRUE' if forwarded else 'NOT forwarded'}")
    )
    return found | {unit_of(shard) for extent in tried for shard in extent}


def _units(connection: Connection, table: str, condition: str) -> set[int]:
    """Return the units with open rows, by jumps along the primary key from each one found to the unit behind it."""
    open_row = f"FROM {table} o WHERE o.dead_reason IS NULL AND {condition}"
    behind = f"(w.shard / {_WIDTH} + 1) * {_WIDTH}"
    rows = connection.execute(
        sa.text(
            f"WITH RECURSIVE w (shard) AS (SELECT (SELECT o.shard {open_row} ORDER BY o.shard LIMIT 1) UNION ALL"
            f" SELECT (SELECT o.shard {open_row} AND o.shard >= {behind} ORDER BY o.shard LIMIT 1) FROM w"
            " WHERE w.shard IS NOT NULL) SELECT shard FROM w WHERE shard IS NOT NULL"
        )
    )
    return {unit_of(shard) for shard in rows.scalars()}
