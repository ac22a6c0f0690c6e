"""Pending events, first in, first out for each profile, never replaced or merged.

They are forwarded Segment events, and messages about changes for destinations with subscriptions (`subscriptions`).

A row leaves when a batch takes it, or when it sends nothing, which is counted. An event that its destination refuses
comes back as dead, with the keys of its accepted bodies. The messageId of a forwarded event is remembered for seven
days, so that a repeated event is not taken again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import chain

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.destinations.rendered_events import ForwardedEvent, Origin, RenderedEvent, UnsentEvent
from audience_sync.segment.segment_events import Arrival, RefusedEvent
from audience_sync.store import bulk, generations, schema, settings_table
from audience_sync.store.schema import PRIMARY_DESTINATION

KNOWN_DAYS = 7
DAY_MS = 24 * 60 * 60 * 1000
POSITION = "event_position"
ROWS_AT_ONCE = 64  # fetched
LONGEST_PAGE = 4 * 1024 * 1024  # characters of events that are read at once

_KEY = ("destination", "profile_key", "position")
_OF_MESSAGE = "destination = :d AND profile_key = :k AND message_id = :m"


def take(connection: Connection, arrivals: Iterable[Arrival], *, now_ms: int) -> int:
    """Keep the events whose messageId has not arrived within the last seven days, in their order; return how many.

    Raises:
        DatabaseOlder: the database comes from a backup.
        MarkUnusable: the mark next to it cannot be read.
    """
    generations.advance(connection, now_ms)
    position = settings_table.locked(connection, POSITION)  # whoever else takes events now waits here
    first_of = {arrival.message_id: arrival for arrival in reversed(list(arrivals))}
    fresh = _first_seen(connection, list(first_of), day=now_ms // DAY_MS)
    taken = [arrival for arrival in reversed(first_of.values()) if arrival.message_id in fresh]
    rows = sorted(  # as they lie in the table: neighbours share pages
        (a.profile_key, at, a.message_id, a.type, a.name, a.payload, now_ms, None, None, PRIMARY_DESTINATION)
        for at, a in enumerate(taken, position)
    )
    bulk.insert(connection, schema.events, rows)
    settings_table.put(connection, POSITION, str(position + len(taken)))
    return len(taken)


def page(
    connection: Connection,
    *,
    after: str,
    limit: int,
    held: Set[str] = frozenset(),
    destination: str = PRIMARY_DESTINATION,
) -> tuple[list[ForwardedEvent], str | None]:
    """Lock and return waiting events behind a profile, and the last profile looked at if there are more.

    At most `limit` rows are looked at, fewer where they are long: about `LONGEST_PAGE` characters. Of the last profile
    some may be missing, later than those returned. Dead ones, and those of `held` profiles, are left out: however many
    wait behind one that is under way, one page passes them.
    """
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE OF e"
    places = connection.execute(  # answered by the index of what waits: no payload is read
        sa.text(
            "SELECT profile_key, position FROM events"
            " WHERE destination = :d AND profile_key > :key AND dead_reason IS NULL"
            " ORDER BY profile_key, position LIMIT :limit"
        ),
        {"d": destination, "key": after, "limit": limit},
    ).all()
    wanted = [place for place in places if place.profile_key not in held]
    last = places[-1].profile_key if len(places) == limit else None
    if not wanted:
        return [], last
    rows = connection.execute(
        sa.text(
            "SELECT e.profile_key, e.position, e.message_id, e.type, e.payload, e.accepted, e.name,"
            " e.received_at FROM events e WHERE e.destination = :d AND e.dead_reason IS NULL"
            " AND (e.profile_key, e.position) >= (:k, :p) AND (e.profile_key, e.position) <= (:last_k, :last_p)"
            f" AND e.profile_key NOT IN ({bulk.each(connection, 'held')})"
            f" ORDER BY e.profile_key, e.position{lock}"
        ),
        {
            "d": destination,
            **dict(zip(("k", "p"), wanted[0], strict=True)),
            **dict(zip(("last_k", "last_p"), wanted[-1], strict=True)),
            "held": bulk.texts(connection, held),
        },
        execution_options={"stream_results": True},  # else Postgres sends all of them, however long
    )
    found: list[ForwardedEvent] = []
    text = 0
    for *row, accepted, name, received_at in chain.from_iterable(rows.partitions(ROWS_AT_ONCE)):
        keys = frozenset(orjson.loads(accepted)) if accepted else frozenset[str]()
        found.append(ForwardedEvent._make((*row, keys, name, received_at)))
        text += len(found[-1].payload)
        if text >= LONGEST_PAGE:
            last = found[-1].profile_key
            break
    rows.close()
    return found, last


def remove(connection: Connection, taken: Iterable[ForwardedEvent], *, destination: str = PRIMARY_DESTINATION) -> None:
    """Delete rows that `page` returned: a batch has them, or nothing more is to be sent of them."""
    rows = sorted((event.profile_key, event.position) for event in taken)
    if not rows:
        return
    if connection.dialect.name != "sqlite" or destination != PRIMARY_DESTINATION:  # several messages have one position
        bulk.delete(connection, schema.events, _KEY, [(destination, *row) for row in rows])
        return
    connection.execute(  # as in the outbox
        sa.text(
            "DELETE FROM events WHERE destination = :d AND (profile_key, position) >= (:k, :p)"
            " AND (profile_key, position) <= (:last_k, :last_p)"
            " AND position IN (SELECT value FROM json_each(:positions))"
        ),
        {
            "d": destination,
            **dict(zip(("k", "p"), rows[0], strict=True)),
            **dict(zip(("last_k", "last_p"), rows[-1], strict=True)),
            "positions": orjson.dumps([position for *_, position in rows]).decode(),
        },
    )


def put_back_dead(
    connection: Connection, origin: Origin, reason: str, *, destination: str = PRIMARY_DESTINATION
) -> None:
    """Put a taken event back as dead, with the keys of its accepted bodies, unless its row stayed.

    It may have, or be back, if several bodies were made of it. No other is looked for: of one profile very many may
    wait.
    """
    row, found = origin.row, None
    if origin.shared:
        query = sa.text(f"SELECT position FROM events WHERE {_OF_MESSAGE}")
        found = connection.execute(query, _message(row, destination)).first()
    if found is not None:
        if found.position == row.position:
            set_dead(connection, row.profile_key, row.position, reason=reason, destination=destination)
        return
    accepted = orjson.dumps(sorted(row.accepted)).decode() if row.accepted else None
    kept = (row.profile_key, row.position, row.message_id, row.type, row.name, row.payload, row.received_at)
    bulk.insert(connection, schema.events, [(*kept, reason, accepted, destination)])


def add_accepted(
    connection: Connection, accepted: Iterable[RenderedEvent], *, destination: str = PRIMARY_DESTINATION
) -> None:
    """Keep the keys of accepted bodies in the rows of their events, where those stayed as dead."""
    for event in accepted:
        if event.origin is None:
            continue
        row = event.origin.row
        found = connection.execute(
            sa.text(f"SELECT position, accepted FROM events WHERE {_OF_MESSAGE}"), _message(row, destination)
        ).first()
        if found is not None:
            keys = sorted({*orjson.loads(found.accepted or "[]"), *row.accepted, event.idempotency_key})
            where, parameters = _one(row.profile_key, found.position, destination)
            connection.execute(
                sa.text(f"UPDATE events SET accepted = :keys WHERE {where}"),
                {**parameters, "keys": orjson.dumps(keys).decode()},
            )


def close_unsent(
    connection: Connection, unsent: Sequence[UnsentEvent], *, now_ms: int, destination: str = PRIMARY_DESTINATION
) -> None:
    """Close rows that send nothing, and count them by their reasons."""
    remove(connection, [event for event, _ in unsent], destination=destination)
    _count_unsent(connection, [(reason, event.type, event.message_id) for event, reason in unsent], now_ms=now_ms)


def count_refused(connection: Connection, refused: Sequence[RefusedEvent], *, now_ms: int) -> None:
    """Count events that were not taken, by what is wrong with them."""
    _count_unsent(connection, [(one.why.fault.value, one.type, one.message_id) for one in refused], now_ms=now_ms)


def _count_unsent(connection: Connection, unsent: Sequence[tuple[str, str, str]], *, now_ms: int) -> None:
    """Count events that send nothing: the reason, type and messageId of each."""
    day = now_ms // DAY_MS
    counts = Counter((reason, kind) for reason, kind, _ in unsent)
    last = {(reason, kind): message_id for reason, kind, message_id in unsent}
    rows = ((day, *key, count, last[key], now_ms) for key, count in sorted(counts.items()))
    on_conflict = (
        "ON CONFLICT (day, reason, type) DO UPDATE SET count = event_counts.count + excluded.count,"
        " last_message_id = excluded.last_message_id, last_at = excluded.last_at"
    )
    bulk.insert(connection, schema.event_counts, rows, on_conflict=on_conflict)


def set_dead(
    connection: Connection, key: str, position: int, *, reason: str | None, destination: str = PRIMARY_DESTINATION
) -> None:
    """Give a row the reason for which it is dead, or take that away."""
    where, parameters = _one(key, position, destination)
    connection.execute(sa.text(f"UPDATE events SET dead_reason = :why WHERE {where}"), {**parameters, "why": reason})


def set_waiting_dead(connection: Connection, *, reason: str) -> int:
    """Give every forwarded event that waits a reason for which it is dead; return how many."""
    return connection.execute(
        sa.text("UPDATE events SET dead_reason = :why WHERE destination = :d AND dead_reason IS NULL"),
        {"why": reason, "d": PRIMARY_DESTINATION},
    ).rowcount


def count(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> tuple[int, int]:
    """Return how many events of a destination wait, in batches too, and how many are dead."""
    of = {"d": destination}
    waiting, dead = (
        connection.execute(
            sa.text(f"SELECT count(*) FROM events WHERE destination = :d AND dead_reason IS {state}"), of
        ).scalar_one()
        for state in ("NULL", "NOT NULL")
    )
    in_batches = sa.text("SELECT count(*) FROM batched_events WHERE destination = :d")
    return waiting + connection.execute(in_batches, of).scalar_one(), dead


def any_waiting(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> bool:
    """Return whether an event waits to be sent to a destination."""
    query = sa.text("SELECT 1 FROM events WHERE destination = :d AND dead_reason IS NULL LIMIT 1")
    return connection.execute(query, {"d": destination}).first() is not None


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


def _one(key: str, position: int, destination: str) -> tuple[str, dict[str, object]]:
    return "destination = :d AND profile_key = :k AND position = :p", {"d": destination, "k": key, "p": position}


def _message(row: ForwardedEvent, destination: str) -> dict[str, object]:
    return {"d": destination, "k": row.profile_key, "m": row.message_id}
