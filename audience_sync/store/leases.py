"""Leases: who syncs an audience. The claim in the row of a batch says who delivers it.

A lease is a row with a holder, a term and an expiry. Whoever takes a lease over raises its term, in the transaction
that checks that the old holder is gone: its lease has run out, or it is known to have died. The row decides, not the
clock of the holder: every commit of leased work calls `assert_held`, which locks the row and compares the term. So a
holder that slept through its expiry cannot write once somebody else has taken over, and may go on when nobody has.
Giving a lease back is politeness; expiry is the net.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.errors import LeaseLost

LONGEST_MS = 3_600_000  # a longer lease or claim was made before a reboot, or before the clock was set back


@dataclass(frozen=True)
class Lease:
    """The right to work on audiences (their ids), under one term."""

    audience_ids: tuple[int, ...]
    holder: str
    term: int


def acquire(
    connection: Connection,
    audience_ids: Iterable[int],
    *,
    holder: str,
    now_ms: int,
    expires_at: int,
    dead: Container[str],
) -> Lease | None:
    """Take those of the leases of some audiences that are free, under one new term.

    None when there is nothing to be had. Free are those that have run out or seem to last for ever, those of the `dead`
    holders, and the holder's own: one process never works on one thing twice.
    """
    wanted = sorted(audience_ids)
    connection.execute(
        sa.text(
            "INSERT INTO leases (audience_id, holder, term, expires_at) VALUES (:a, '', 0, 0)"
            " ON CONFLICT (audience_id) DO NOTHING"
        ),
        [{"a": audience_id} for audience_id in wanted],
    )
    rows = connection.execute(
        sa.text(f"SELECT audience_id, holder, term, expires_at FROM leases WHERE {_among(wanted)}{_lock(connection)}")
    ).all()
    taken = tuple(
        audience_id
        for audience_id, owner, _, until in rows
        if not now_ms < until <= now_ms + LONGEST_MS or owner == holder or owner in dead
    )
    if not taken:
        return None
    term = 1 + max(term for audience_id, _, term, _ in rows if audience_id in taken)
    connection.execute(
        sa.text(f"UPDATE leases SET holder = :h, term = :t, expires_at = :e WHERE {_among(taken)}"),
        {"h": holder, "t": term, "e": expires_at},
    )
    return Lease(taken, holder, term)


def assert_held(connection: Connection, lease: Lease) -> None:
    """Refuse to commit under a lease that somebody else has taken over.

    Raises:
        LeaseLost: they have.
    """
    rows = connection.execute(
        sa.text(f"SELECT holder, term FROM leases WHERE {_among(lease.audience_ids)}{_lock(connection, 'SHARE')}")
    ).all()
    if [tuple(row) for row in rows] != [(lease.holder, lease.term)] * len(lease.audience_ids):
        raise LeaseLost


def renew(connection: Connection, lease: Lease, *, expires_at: int) -> bool:
    """Prolong a lease; False when somebody else has taken it, or part of it, over."""
    _lock_rows(connection, lease)
    result = connection.execute(
        sa.text(f"UPDATE leases SET expires_at = :e WHERE {_among(lease.audience_ids)} AND holder = :h AND term = :t"),
        {"e": expires_at, "h": lease.holder, "t": lease.term},
    )
    return result.rowcount == len(lease.audience_ids)


def release(connection: Connection, lease: Lease) -> None:
    """Give a lease back, if it is still ours."""
    _lock_rows(connection, lease)
    connection.execute(
        sa.text(
            f"UPDATE leases SET holder = '', expires_at = 0 WHERE {_among(lease.audience_ids)}"
            " AND holder = :h AND term = :t"
        ),
        {"h": lease.holder, "t": lease.term},
    )


def vacate(connection: Connection, dead: Iterable[str]) -> None:
    """Clear the names of holders that have died from what they held."""
    for holder in sorted(dead):
        connection.execute(sa.text("UPDATE leases SET holder = '', expires_at = 0 WHERE holder = :h"), {"h": holder})


def held(connection: Connection, *, now_ms: int) -> list[tuple[int, str, int]]:
    """Return the leases in force as `(audience_id, holder, expires_at)`."""
    rows = connection.execute(
        sa.text(
            "SELECT audience_id, holder, expires_at FROM leases"
            " WHERE holder <> '' AND expires_at > :now ORDER BY audience_id"
        ),
        {"now": now_ms},
    )
    return [(audience_id, holder, expires_at) for audience_id, holder, expires_at in rows]


def holders(connection: Connection) -> set[str]:
    """Return who holds leases, in force or not."""
    return set(connection.execute(sa.text("SELECT DISTINCT holder FROM leases WHERE holder <> ''")).scalars())


def clock_ms(connection: Connection, steady_ms: int) -> int:
    """Return the time that leases go by: Postgres' own, since the clocks of hosts may differ.

    On SQLite that of its one host: not the wall clock, which may jump, but the one since the host was started.
    """
    if connection.dialect.name == "sqlite":
        return steady_ms
    found = connection.execute(sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"))
    return int(found.scalar_one())


def _among(audience_ids: Iterable[int]) -> str:
    return f"audience_id IN ({', '.join(map(str, audience_ids))})"


def _lock(connection: Connection, strength: str = "UPDATE") -> str:
    """Return what locks rows until the commit, in one order so that two never deadlock; SQLite's writer is alone."""
    return "" if connection.dialect.name == "sqlite" else f" ORDER BY audience_id FOR {strength}"


def _lock_rows(connection: Connection, lease: Lease) -> None:
    """Lock the rows of a lease before they are written: an UPDATE alone locks them in any order."""
    connection.execute(sa.text(f"SELECT 1 FROM leases WHERE {_among(lease.audience_ids)}{_lock(connection)}"))
