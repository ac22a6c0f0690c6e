"""List active claims: the processes that sync an audience or deliver batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy.engine import Connection

from audience_sync.cli.table import TableView
from audience_sync.clock import Seams
from audience_sync.store import batches, holders, leases
from audience_sync.store.database import Database
from audience_sync.store.reports import Record, iso

COLUMNS: Final = ("work", "audience", "batches", "holder", "until")
SHOWN: Final = TableView(COLUMNS, optional=("until",), under=("holder",))


def at_work(database: Database, connection: Connection, keys: Mapping[int, str], *, seams: Seams) -> list[Record]:
    """Return each claim with its holder and when it ends unless it is prolonged; `keys` has the audiences' keys by id.

    `work` is `sync` of an `audience`, or `delivery` of open `batches`. What a dead process held is left out.
    """
    now = leases.clock_ms(connection, seams.steady_ms())
    ahead = seams.now_ms() - now  # of the wall clock people go by
    syncs = [
        _record("sync", holder, until + ahead, audience=keys.get(audience_id))
        for audience_id, holder, until in leases.held(connection, now_ms=now)
    ]
    deliveries = [
        _record("delivery", holder, until + ahead, count=n)
        for holder, (n, until) in batches.holders(connection).items()
        if until > now
    ]
    found = [*sorted(syncs, key=lambda record: str(record["audience"])), *deliveries]
    dead = holders.dead(database, {record["holder"] for record in found})
    return [record for record in found if record["holder"] not in dead]


def _record(work: str, holder: str, until: int, *, audience: str | None = None, count: int | None = None) -> Record:
    return {"work": work, "audience": audience, "batches": count, "holder": holder, "until": iso(until)}
