"""Attempts: batches that were, or are about to be, posted, kept word for word until the answer is settled.

After a crash or a lost answer nobody knows whether Schematic took a batch. The same events, with the same idempotency
keys, go again before anything newer of their profiles, so an attempt holds the events themselves: rows of the outbox
may meanwhile be replaced by newer values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.events import Event, Value, alike, dump, parse
from audience_sync.store import outages

_INSERT = sa.text(
    "INSERT INTO attempts (low, high, size, events, created_at, forwarded)"
    " VALUES (:low, :high, :n, :events, :now, :forwarded) RETURNING id"
)


@dataclass(frozen=True)
class Attempt:
    """One batch; times in milliseconds since 1970."""

    id: int
    events: tuple[Event, ...]
    tries: int  # answers that asked for another try, or were lost
    not_before: int
    error: str | None


def add(connection: Connection, events: Sequence[Event], *, now_ms: int) -> Attempt:
    """Keep a batch before its first POST: of events that carry changes, or of forwarded ones."""
    attempt_id = connection.execute(
        _INSERT,
        {
            **_extent(events),
            "events": dump(events),
            "now": now_ms,
            "forwarded": events[0].origin is not None,
        },
    ).scalar_one()
    return Attempt(attempt_id, tuple(events), 0, 0, None)


def within(connection: Connection, ranges: Iterable[tuple[int, int]], *, now_ms: int) -> list[Attempt]:
    """Return the attempts of some shards, oldest first.

    An attempt that reaches beyond these shards (others were leased together when it was made) is cut in two first, and
    only the events of these shards are returned. The events keep their idempotency keys.
    """
    ranges = list(ranges)
    mine: list[Attempt] = []
    reaching = " OR ".join(f"(low <= {last:d} AND high >= {first:d})" for first, last in ranges)
    rows = connection.execute(
        sa.text(f"SELECT id, events, tries, not_before, error FROM attempts WHERE {reaching} ORDER BY id")
    ).all()
    for attempt_id, text, *rest in rows:
        attempt = Attempt(attempt_id, tuple(parse(text)), *rest)
        inside = [e for e in attempt.events if any(first <= e.shard <= last for first, last in ranges)]
        outside = [e for e in attempt.events if e not in inside] if len(inside) < len(attempt.events) else []
        if inside and outside:
            mine.append(split(connection, attempt, [inside, outside], now_ms=now_ms)[0])
        elif inside:
            mine.append(attempt)
    return mine


def split(connection: Connection, attempt: Attempt, parts: Iterable[Sequence[Event]], *, now_ms: int) -> list[Attempt]:
    """Put several attempts in the place of one; they begin to count their tries anew."""
    remove(connection, [attempt])
    return [add(connection, part, now_ms=now_ms) for part in parts]


def postpone(connection: Connection, attempt: Attempt, *, not_before: int, error: str) -> Attempt:
    """Keep that a try failed, and when the next one is due."""
    connection.execute(
        sa.text("UPDATE attempts SET tries = tries + 1, not_before = :t, error = :e WHERE id = :i"),
        {"t": not_before, "e": error, "i": attempt.id},
    )
    return Attempt(attempt.id, attempt.events, attempt.tries + 1, not_before, error)


def next_due(connection: Connection) -> int | None:
    """Return when the first attempt may be tried, in milliseconds since 1970; 0 for at once, None without attempts."""
    due: int | None = connection.execute(sa.text("SELECT min(not_before) FROM attempts")).scalar()
    return due


def remove(connection: Connection, attempts: Iterable[Attempt]) -> None:
    """Drop attempts whose outcome is settled."""
    ids = ", ".join(str(attempt.id) for attempt in attempts)
    if ids:
        connection.exec_driver_sql(f"DELETE FROM attempts WHERE id IN ({ids})")


def carried_by_others(connection: Connection, attempts: Sequence[Attempt]) -> Set[Value]:
    """Return what other attempts still carry of the values that these attempts share with events outside of them."""
    shared = {
        event.shard
        for attempt in attempts
        for first, group in alike(attempt.events)
        if any(is_shared for _, is_shared in first.values())
        for event in group
    }
    if not shared:
        return frozenset()
    mine = {attempt.id for attempt in attempts}
    rows = connection.execute(
        sa.text("SELECT id, events FROM attempts WHERE low <= :last AND high >= :first"),
        {"first": min(shared), "last": max(shared)},
    )
    return {
        value
        for attempt_id, text in rows
        if attempt_id not in mine
        for event in parse(text)
        if event.shard in shared
        for value, _ in event.values()
    }


class Tried(NamedTuple):
    """How the batch stands that has a value; `next_try` in milliseconds since 1970."""

    tries: int = 0
    next_try: int | None = None
    error: str | None = None


def tried(connection: Connection, *, low: int, high: int, forwarded: bool) -> dict[Value, Tried]:
    """Return how the values stand that were tried in vain, of some shards, of forwarded events or of changes."""
    rows = connection.execute(
        sa.text(  # of several that have a value the one that was tried most often counts, so it comes last
            "SELECT events, tries, not_before, error FROM attempts"
            " WHERE forwarded = :f AND tries > 0 AND low <= :high AND high >= :low ORDER BY tries, id DESC"
        ),
        {"f": forwarded, "low": low, "high": high},
    )
    earliest = outages.next_try(connection)
    return {
        value: Tried(tries, max(not_before, earliest) or None, error)
        for text, tries, not_before, error in rows
        for event in parse(text)
        for value, _ in event.values()
    }


def any_of(connection: Connection, *, forwarded: bool) -> bool:
    """Return whether there are attempts, of forwarded events or of changes."""
    found = connection.execute(sa.text("SELECT 1 FROM attempts WHERE forwarded = :f LIMIT 1"), {"f": forwarded})
    return found.first() is not None


def drop_forwarded(connection: Connection) -> None:
    """Drop every batch of forwarded events; their rows are still there."""
    connection.execute(sa.text("DELETE FROM attempts WHERE forwarded = :yes"), {"yes": True})


def forget(connection: Connection, profile_key: str, *, shard: int) -> None:
    """Take a person's events out of every attempt."""
    rows = connection.execute(
        sa.text("SELECT id, events FROM attempts WHERE :s BETWEEN low AND high"), {"s": shard}
    ).all()
    for attempt_id, text in rows:
        events = parse(text)
        others = [event for event in events if event.profile_key != profile_key]
        if not others:
            connection.execute(sa.text("DELETE FROM attempts WHERE id = :i"), {"i": attempt_id})
        elif len(others) < len(events):
            connection.execute(
                sa.text("UPDATE attempts SET events = :events, low = :low, high = :high, size = :n WHERE id = :i"),
                {**_extent(others), "events": dump(others), "i": attempt_id},
            )


def _extent(events: Sequence[Event]) -> dict[str, int]:
    shards = [event.shard for event in events]
    return {"low": min(shards), "high": max(shards), "n": len(events)}
