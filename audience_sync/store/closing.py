"""The end of rows of the outbox: Schematic has accepted what they say.

The rows of a batch lie side by side, as they were read, so that most are closed from the first to the last in one
statement, which makes sure that nobody else's are between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.events import Carried, Event, Value, alike
from audience_sync.store import bulk, runs

MANY = 5  # rows of one value in a batch are looked for together


def settle(connection: Connection, batches: Iterable[Sequence[Event]], *, unsettled: Set[Value] = frozenset()) -> None:
    """Close the rows that still have the generation that was accepted.

    A row stays while `unsettled` events carry it too (see `attempts.carried_by_others`), and if it is dead.
    """
    sent: Counter[int] = Counter()
    apart: dict[tuple[int, str, int, int], int] = {}  # rows that are closed one by one, and their runs
    for batch in batches:
        alone: dict[tuple[int, int, int], list[Event]] = {}
        for first, group in alike(batch):
            for carried in first.carried:
                value = carried.audience_id, carried.generation
                if carried.shared:
                    free = [event for event in group if not _is_held(connection, event, carried, unsettled)]
                    apart |= {(event.shard, event.profile_key, *value): carried.run_id for event in free}
                else:
                    alone.setdefault((*value, carried.run_id), []).extend(group)
        for (audience_id, generation, run_id), events in alone.items():
            if len(events) >= MANY and _close_neighbours(connection, events, audience_id, generation):
                sent[run_id] += len(events)
            else:
                apart |= {(event.shard, event.profile_key, audience_id, generation): run_id for event in events}
    _close(connection, list(apart))
    runs.add_sent(connection, sent + Counter(apart.values()))


def _close_neighbours(connection: Connection, events: Sequence[Event], audience_id: int, generation: int) -> bool:
    """Close the rows of events from the first to the last at once; False, and nothing closed, if others are there."""
    closed = connection.execute(
        _close_range(connection.dialect.name),
        {
            "low": events[0].shard,
            "first": events[0].profile_key,
            "high": events[-1].shard,
            "last": events[-1].profile_key,
            "a": audience_id,
            "g": generation,
            "keys": "\n".join([event.profile_key for event in events]),
        },
    )
    return closed.rowcount == len(events)


@cache  # SQLAlchemy takes longer to make the statement than the database to execute it
def _close_range(dialect: str) -> sa.TextClause:
    which = (
        "(shard, profile_key) >= (:low, :first) AND (shard, profile_key) <= (:high, :last)"
        " AND audience_id = :a AND generation = :g AND dead_reason IS NULL"
    )
    if dialect == "sqlite":
        keys = (
            "SELECT group_concat(profile_key, char(10))"
            f" FROM (SELECT profile_key FROM outbox WHERE {which} ORDER BY shard, profile_key)"
        )
    else:
        keys = (
            "SELECT string_agg(profile_key, chr(10) ORDER BY shard, profile_key)"
            f" FROM (SELECT shard, profile_key FROM outbox WHERE {which} ORDER BY shard, profile_key FOR UPDATE) AS o"
        )
    return sa.text(f"DELETE FROM outbox WHERE {which} AND ({keys}) = :keys")


def _is_held(connection: Connection, event: Event, carried: Carried, unsettled: Set[Value]) -> bool:
    """Return whether another event has still to be settled, or whether the row is dead or gone already."""
    if (event.profile_key, carried.audience_id, carried.generation) in unsettled:
        return True
    found = connection.execute(
        sa.text(
            "SELECT dead_reason FROM outbox"
            " WHERE shard = :s AND profile_key = :k AND audience_id = :a AND generation = :g"
        ),
        {"s": event.shard, "k": event.profile_key, "a": carried.audience_id, "g": carried.generation},
    ).first()
    return found is None or found[0] is not None


def _close(connection: Connection, rows: Sequence[tuple[int, str, int, int]]) -> None:
    columns = ("shard", "profile_key", "audience_id", "generation")
    # A sync's commit locks rows of the outbox too, in the same order.
    bulk.lock(connection, tables.outbox, columns, rows)
    bulk.delete(connection, tables.outbox, columns, rows)
