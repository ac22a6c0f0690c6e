"""The record of what Schematic accepted: a row of `deliveries` for every event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.events import Event, alike, traits
from audience_sync.store import jsonrows

MANY = 50  # events that say the same, from which on that is told to the database once for all of them

_INTO = (
    "INSERT INTO deliveries (shard, profile_key, idempotency_key, traits, run_ids, mapping, message_id, accepted_at,"
    " status)"
)
_SHARD, _KEY = 4, 32  # characters of a shard as it is packed, and of every idempotency key
_NAMED = Event._fields.index("body")  # the fields before it are the primary key


class Said(NamedTuple):
    """What events said, beside whom they were about."""

    traits: str  # canonical JSON
    run_ids: str  # JSON
    mapping: str  # the names of those that made it
    message_id: str | None


_Named: TypeAlias = tuple[Any, ...]  # shard, profile key, idempotency key


def record(connection: Connection, batches: Iterable[Sequence[Event]], *, now_ms: int, status: int) -> None:
    """Record accepted events; those that are recorded already stay as they are."""
    found: dict[Said, list[_Named]] = {}
    for batch in batches:
        for first, group in alike(batch):
            run_ids = sorted({carried.run_id for carried in first.carried})
            message_id = None if first.origin is None else first.origin.message_id
            said = Said(
                traits(first.carried), f"[{', '.join(map(str, run_ids))}]", ", ".join(first.mappings), message_id
            )
            found.setdefault(said, []).extend([event[:_NAMED] for event in group])
    when = {"now": now_ms, "status": status}
    for said, named in found.items():
        if len(named) >= MANY:
            _record_alike(connection, said, named, when)
    rest = [(*name, *said) for said, named in found.items() if len(named) < MANY for name in named]
    if rest:
        _record_each(connection, rest, when)


def _record_alike(connection: Connection, said: Said, named: Iterable[_Named], when: dict[str, int]) -> None:
    """Record events that said the same: each is one packed text, which the database takes apart in half the time."""
    packed = [f"{shard:0{_SHARD}}{key}{profile_key}" for shard, profile_key, key in named]
    shard = f"CAST(substr(item, 1, {_SHARD}) AS smallint)"
    names = f"{shard}, substr(item, {_SHARD + _KEY + 1}), substr(item, {_SHARD + 1}, {_KEY})"
    _insert(
        connection,
        f"SELECT {names}, :traits, :run_ids, :mapping, {_text(connection, 'message_id')}, :now, :status"
        f" FROM ({jsonrows.texts(connection, 'packed')}) AS accepted",
        {**said._asdict(), **when, "packed": jsonrows.given(packed)},
    )


def _record_each(connection: Connection, rows: Iterable[tuple[object, ...]], when: dict[str, int]) -> None:
    c = tables.deliveries.columns
    given = (c.shard, c.profile_key, c.idempotency_key, c.traits, c.run_ids, c.mapping, c.message_id)
    _insert(
        connection,
        f"SELECT accepted.*, :now, :status FROM ({jsonrows.table(connection, 'rows', given)}) AS accepted",
        {**when, "rows": jsonrows.given(rows)},
    )


def _insert(connection: Connection, query: str, parameters: dict[str, object]) -> None:
    conflict = "WHERE true ON CONFLICT (shard, profile_key, idempotency_key) DO NOTHING"
    connection.execute(sa.text(f"{_INTO} {query} {conflict}"), parameters)


def _text(connection: Connection, parameter: str) -> str:
    """Return a parameter that may be NULL, of which Postgres could not tell the type."""
    return f":{parameter}" if connection.dialect.name == "sqlite" else f"CAST(:{parameter} AS text)"
