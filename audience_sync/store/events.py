"""Forwarded Segment events that wait for Schematic: first in, first out for each profile, none replaced or merged.

A row leaves when everything that was made of it is accepted, or when nothing is to be sent of it, which is counted. Its
messageId stays known for seven days, so that the same event again is not taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.arrivals import Arrival, RefusedEvent
from audience_sync.core.destination.forwarding import Unsent
from audience_sync.core.events import Event, Forwarded, Value
from audience_sync.store import binding, bulk

KNOWN_DAYS = 7
DAY_MS = 24 * 60 * 60 * 1000
POSITION = "event_position"
MOST_TEXT = 4 * 1024 * 1024  # characters of events that are read at once

_KEY = ("shard", "profile_key", "position")


def take(connection: Connection, arrivals: Iterable[Arrival], *, now_ms: int) -> int:
    """Keep the events whose messageId has not arrived within the last seven days, in their order; return how many.

    Raises:
        DatabaseOlder: the database comes from a backup.
        MarkUnusable: the mark next to it cannot be read.
    """
    binding.advance(connection, now_ms)
    position = binding.locked(connection, POSITION)  # whoever else takes events now waits here
    first_of = {arrival.message_id: arrival for arrival in reversed(list(arrivals))}
    fresh = _first_seen(connection, list(first_of), day=now_ms // DAY_MS)
    taken = [arrival for arrival in reversed(first_of.values()) if arrival.message_id in fresh]
    rows = sorted(  # as they lie in the table: neighbours share pages
        (a.shard, a.profile_key, at, a.message_id, a.type, a.name, a.payload, now_ms, None, False)
        for at, a in enumerate(taken, position)
    )
    bulk.insert(connection, tables.events, rows)
    binding.put(connection, POSITION, str(position + len(taken)))
    return len(taken)


def page(
    connection: Connection, *, after: tuple[int, str], high: int, limit: int, held_back: Set[str] = frozenset()
) -> tuple[list[Forwarded], bool]:
    """Return at most `limit` waiting events behind a shard and profile, up to shard `high`, and if there are more.

    Fewer come where they are long: about `MOST_TEXT` characters. Of the last profile some may be missing, later than
    those returned. Dead ones, and those of profiles that are `held_back`, are left out.
    """
    rows = connection.execute(
        # The inner query is answered by the index of what waits: no payload is read of what is dead or held back.
        sa.text(
            "SELECT e.shard, e.profile_key, e.position, e.message_id, e.type, e.payload, e.partly_sent FROM"
            " (SELECT shard, profile_key, position FROM events"
            "  WHERE (shard, profile_key) > (:shard, :key) AND shard <= :high AND dead_reason IS NULL"
            f" AND profile_key NOT IN ({bulk.each(connection, 'held')})"
            "  ORDER BY shard, profile_key, position LIMIT :limit) w"
            " JOIN events e ON e.shard = w.shard AND e.profile_key = w.profile_key AND e.position = w.position"
            " ORDER BY w.shard, w.profile_key, w.position"
        ),
        {
            "shard": after[0],
            "key": after[1],
            "high": high,
            "limit": limit,
            "held": bulk.texts(connection, held_back),
        },
        execution_options={"stream_results": True},  # else Postgres sends all of them, however long
    )
    found: list[Forwarded] = []
    partly_sent: list[Forwarded] = []
    text = 0
    for *row, is_partly_sent in rows:
        found.append(Forwarded(*row))
        if is_partly_sent:
            partly_sent.append(found[-1])
        text += len(found[-1].payload)
        if text >= MOST_TEXT:
            break
    rows.close()
    return _with_accepted(connection, found, partly_sent), len(found) == limit or text >= MOST_TEXT


def _with_accepted(connection: Connection, found: list[Forwarded], partly: Sequence[Forwarded]) -> list[Forwarded]:
    """Return events with the keys of those of their bodies that Schematic has."""
    accepted: dict[tuple[str, str], set[str]] = {}
    for profile, of_profile in groupby(partly, key=lambda event: (event.shard, event.profile_key)):
        rows = connection.execute(
            sa.text(
                "SELECT message_id, idempotency_key FROM deliveries WHERE shard = :s AND profile_key = :k"
                f" AND message_id IN ({bulk.each(connection, 'm')})"
            ),
            {"s": profile[0], "k": profile[1], "m": bulk.texts(connection, [event.message_id for event in of_profile])},
        )
        for message_id, key in rows:
            accepted.setdefault((profile[1], message_id), set()).add(key)
    if not accepted:
        return found
    return [e._replace(accepted=frozenset(accepted.get((e.profile_key, e.message_id), ()))) for e in found]


def settle(connection: Connection, events: Sequence[Event], *, unsettled: Set[Value] = frozenset()) -> None:
    """Close the rows of accepted events; one stays while more that was made of it is unsettled, and if it is dead."""
    rows: dict[tuple[int, str, int], bool] = {}  # and whether it is shared
    for event in events:
        if event.origin is not None:
            rows[event.shard, event.profile_key, event.origin.position] = event.origin.shared
    held = [
        (shard, key, position)
        for (shard, key, position), shared in rows.items()
        if shared and ((key, 0, position) in unsettled or _is_dead(connection, shard, key, position))
    ]
    for shard, key, position in held:
        where, parameters = _one(shard, key, position)
        connection.execute(sa.text(f"UPDATE events SET partly_sent = :yes WHERE {where}"), {**parameters, "yes": True})
    _delete(connection, rows.keys() - set(held))


def close(connection: Connection, events: Iterable[Forwarded]) -> None:
    """Close rows of which nothing more is to be sent."""
    _delete(connection, {(event.shard, event.profile_key, event.position) for event in events})


def close_unsent(connection: Connection, unsent: Sequence[Unsent], *, now_ms: int) -> None:
    """Close rows of which nothing is sent, and count them by their reasons."""
    close(connection, [event for event, _ in unsent])
    _count_unsent(connection, [(reason, event.type, event.message_id) for event, reason in unsent], now_ms=now_ms)


def count_refused(connection: Connection, refused: Sequence[RefusedEvent], *, now_ms: int) -> None:
    """Count events that were not taken, by what is wrong with them."""
    _count_unsent(connection, [(one.why.fault.value, one.type, one.message_id) for one in refused], now_ms=now_ms)


def _count_unsent(connection: Connection, unsent: Sequence[tuple[str, str, str]], *, now_ms: int) -> None:
    """Count events of which nothing is sent: the reason, type and messageId of each."""
    day = now_ms // DAY_MS
    counts = Counter((reason, kind) for reason, kind, _ in unsent)
    last = {(reason, kind): message_id for reason, kind, message_id in unsent}
    rows = ((day, *key, count, last[key], now_ms) for key, count in sorted(counts.items()))
    on_conflict = (
        "ON CONFLICT (day, reason, type) DO UPDATE SET count = event_counts.count + excluded.count,"
        " last_message_id = excluded.last_message_id, last_at = excluded.last_at"
    )
    bulk.insert(connection, tables.event_counts, rows, on_conflict=on_conflict)


def set_dead(connection: Connection, shard: int, key: str, position: int, *, reason: str | None) -> None:
    """Give a row the reason for which it is dead, or take that away."""
    where, parameters = _one(shard, key, position)
    connection.execute(sa.text(f"UPDATE events SET dead_reason = :why WHERE {where}"), {**parameters, "why": reason})


def set_waiting_dead(connection: Connection, *, reason: str) -> int:
    """Give every row that waits a reason for which it is dead; return how many."""
    return connection.execute(
        sa.text("UPDATE events SET dead_reason = :why WHERE dead_reason IS NULL"), {"why": reason}
    ).rowcount


def count(connection: Connection) -> tuple[int, int]:
    """Return how many rows wait, and how many are dead."""
    waiting, dead = (
        connection.execute(sa.text(f"SELECT count(*) FROM events WHERE dead_reason IS {state}")).scalar_one()
        for state in ("NULL", "NOT NULL")
    )
    return waiting, dead


def any_waiting(connection: Connection) -> bool:
    """Return whether an event waits to be sent."""
    return connection.execute(sa.text("SELECT 1 FROM events WHERE dead_reason IS NULL LIMIT 1")).first() is not None


def _first_seen(connection: Connection, message_ids: Sequence[str], *, day: int) -> set[str]:
    """Note messageIds as arrived, and return those that had not within the last seven days."""
    days = ", ".join(str(day - back) for back in range(1, KNOWN_DAYS + 1))
    rows = connection.execute(
        sa.text(
            f"INSERT INTO message_ids (day, message_id) SELECT {day:d}, c.item FROM ({bulk.each(connection, 'ids')}) c"
            f" WHERE NOT EXISTS (SELECT 1 FROM message_ids m WHERE m.day IN ({days}) AND m.message_id = c.item)"
            " ON CONFLICT DO NOTHING RETURNING message_id"
        ),
        {"ids": bulk.texts(connection, message_ids)},
    )
    return set(rows.scalars())


def _is_dead(connection: Connection, shard: int, key: str, position: int) -> bool:
    where, parameters = _one(shard, key, position)
    return connection.execute(sa.text(f"SELECT dead_reason FROM events WHERE {where}"), parameters).scalar() is not None


def _one(shard: int, key: str, position: int) -> tuple[str, dict[str, object]]:
    return "shard = :s AND profile_key = :k AND position = :p", {"s": shard, "k": key, "p": position}


def _delete(connection: Connection, rows: Set[tuple[int, str, int]]) -> None:
    ordered = sorted(rows)
    bulk.lock(connection, tables.events, _KEY, ordered)  # `dead retry` locks rows too, in the same order
    bulk.delete(connection, tables.events, _KEY, ordered)
