"""List active claims: the processes that sync an audience or deliver units of shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy.engine import Connection

from audience_sync.cli.table import TableView
from audience_sync.seams import Seams
from audience_sync.store import leases, seeking
from audience_sync.store.reports import Record, iso

COLUMNS: Final = ("work", "audience", "units", "holder", "until")
SHOWN: Final = TableView(COLUMNS, optional=("until",), under=("holder",))


def at_work(connection: Connection, keys: Mapping[int, str], *, seams: Seams) -> list[Record]:
    """Return each claim with its holder and when it ends unless it is prolonged; `keys` has the audiences' keys by id.

    `work` is `sync` of an `audience`, `delivery` of a number of `units` of shards, or `seeking`, a process that waits
    for units.
    """
    now = leases.clock_ms(connection, seams.steady_ms())
    ahead = seams.now_ms() - now  # of the wall clock people go by
    syncs: list[Record] = []
    units: dict[str, list[int]] = {}
    for kind, number, holder, until in leases.held(connection, now_ms=now):
        if kind == leases.AUDIENCE:
            syncs.append(_record("sync", holder, until + ahead, audience=keys.get(number)))
        else:
            units.setdefault(holder, []).append(until)
    seekers = seeking.seekers(connection, now_ms=now)
    return [
        *sorted(syncs, key=lambda record: str(record["audience"])),
        *(_record("delivery", holder, max(ends) + ahead, units=len(ends)) for holder, ends in sorted(units.items())),
        *(_record("seeking", holder, until + ahead, units=0) for holder, until in sorted(seekers.items())),
    ]


def _record(work: str, holder: str, until: int, *, audience: str | None = None, units: int | None = None) -> Record:
    return {"work": work, "audience": audience, "units": units, "holder": holder, "until": iso(until)}
