"""Leases: who syncs an audience. Who delivers a batch is said by the claim in its row.

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

AUDIENCE = "audience"
LONGEST_MS = 3_600_000  # a longer lease or claim was made before a reboot, or before the clock was set back


@dataclass(frozen=True)
class Lease:
    """The right to work on audiences (their ids), under one term."""

    kind: str
    numbers: tuple[int, ...]
    holder: str
    term: int


def acquire(
    connection: Connection,
    kind: str,
    numbers: Iterable[int],
    *,
    holder: str,
    now_ms: int,
    expires_at: int,
    dead: Container[str],
) -> Lease | None:
    """Take those of the wanted leases that are free, under one new term.

    None when there is nothing to be had. Free are those that have run out or seem to last for ever, those of the `dead`
    holders, and the holder's own: one process never works on one thing twice.
    """
    wanted = sorted(numbers)
    marks = ", ".join(map(str, wanted))
    connection.execute(
        sa.text(
            "INSERT INTO leases (kind, number, holder, term, expires_at) VALUES (:k, :n, '', 0, 0)"
            " ON CONFLICT (kind, number) DO NOTHING"
        ),
        [{"k": kind, "n": number} for number in wanted],
    )
    rows = connection.execute(
        sa.text(
            f"SELECT number, holder, term, expires_at FROM leases WHERE kind = :k AND number IN ({marks})"
            + _lock(connection)
        ),
        {"k": kind},
    ).all()
    taken = tuple(
        number
        for number, owner, _, until in rows
        if not now_ms < until <= now_ms + LONGEST_MS or owner == holder or owner in dead
    )
    if not taken:
        return None
    term = 1 + max(term for number, _, term, _ in rows if number in taken)
    connection.execute(
        sa.text(
            "UPDATE leases SET holder = :h, term = :t, expires_at = :e"
            f" WHERE kind = :k AND number IN ({', '.join(map(str, taken))})"
        ),
        {"h": holder, "t": term, "e": expires_at, "k": kind},
    )
    return Lease(kind, taken, holder, term)


def assert_held(connection: Connection, lease: Lease) -> None:
    """Refuse to commit under a lease that somebody else has taken over.

    Raises:
        LeaseLost: they have.
    """
    rows = connection.execute(
        sa.text(f"SELECT holder, term FROM leases WHERE {_of(lease)}{_lock(connection, 'SHARE')}"), {"k": lease.kind}
    ).all()
    if [tuple(row) for row in rows] != [(lease.holder, lease.term)] * len(lease.numbers):
        raise LeaseLost


def renew(connection: Connection, lease: Lease, *, expires_at: int) -> bool:
    """Prolong a lease; False when somebody else has taken it, or part of it, over."""
    _lock_rows(connection, lease)
    result = connection.execute(
        sa.text(f"UPDATE leases SET expires_at = :e WHERE {_of(lease)} AND holder = :h AND term = :t"),
        {"e": expires_at, "k": lease.kind, "h": lease.holder, "t": lease.term},
    )
    return result.rowcount == len(lease.numbers)


def release(connection: Connection, lease: Lease) -> None:
    """Give a lease back, if it is still ours."""
    _lock_rows(connection, lease)
    connection.execute(
        sa.text(f"UPDATE leases SET holder = '', expires_at = 0 WHERE {_of(lease)} AND holder = :h AND term = :t"),
        {"k": lease.kind, "h": lease.holder, "t": lease.term},
    )


def vacate(connection: Connection, dead: Iterable[str]) -> None:
    """Clear the names of holders that have died from what they held."""
    for holder in sorted(dead):
        connection.execute(sa.text("UPDATE leases SET holder = '', expires_at = 0 WHERE holder = :h"), {"h": holder})


def held(connection: Connection, *, now_ms: int) -> list[tuple[str, int, str, int]]:
    """Return the leases in force as `(kind, number, holder, expires_at)`."""
    rows = connection.execute(
        sa.text(
            "SELECT kind, number, holder, expires_at FROM leases"
            " WHERE holder <> '' AND expires_at > :now ORDER BY kind, number"
        ),
        {"now": now_ms},
    )
    return [(kind, number, holder, expires_at) for kind, number, holder, expires_at in rows]


def holders(connection: Connection, *kinds: str) -> set[str]:
    """Return who holds leases of some kinds, in force or not."""
    rows = connection.execute(sa.text("SELECT DISTINCT kind, holder FROM leases WHERE holder <> ''"))
    return {row.holder for row in rows if row.kind in kinds}


def clock_ms(connection: Connection, steady_ms: int) -> int:
    """Return the time that leases go by: Postgres' own, lest hosts differ.

    On SQLite that of its one host: not the wall clock, which may jump, but the one since the host was started.
    """
    if connection.dialect.name == "sqlite":
        return steady_ms
    found = connection.execute(sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"))
    return int(found.scalar_one())


def _of(lease: Lease) -> str:
    return f"kind = :k AND number IN ({', '.join(map(str, lease.numbers))})"


def _lock(connection: Connection, strength: str = "UPDATE") -> str:
    """Return what locks rows until the commit, in one order lest two deadlock; SQLite's writer is alone."""
    return "" if connection.dialect.name == "sqlite" else f" ORDER BY number FOR {strength}"


def _lock_rows(connection: Connection, lease: Lease) -> None:
    """Lock the rows of a lease before they are written: an UPDATE alone locks them in any order."""
    connection.execute(sa.text(f"SELECT 1 FROM leases WHERE {_of(lease)}{_lock(connection)}"), {"k": lease.kind})
