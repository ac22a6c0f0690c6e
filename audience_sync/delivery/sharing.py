"""Who delivers which shards, where several processes share a membership database.

A process that is alone takes all units of shards. One that finds work, but no unit in which it could do any, says so in
the table `seekers`. Those that hold units look around every second: who has more than its part of what waits, or less
and something lies free, ends its shift and takes its part anew; a shift that finds nothing gives its units back. So a
newcomer has its part within seconds, and who leaves or dies is replaced as soon: a dead holder is recognised at once,
one that sleeps when its lease is over.

A lease lasts `MARGIN` longer than a request may take, and is renewed three times within that: a request starts only
when its answer, or its timeout, comes before the lease can be somebody else's.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa

from audience_sync.core.shards import UNITS, shards_of_units
from audience_sync.core.sharing import is_fair, share
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts, leases, seeking
from audience_sync.store.attempts import Attempt

MARGIN = timedelta(seconds=10)
LOOK = 1.0  # seconds between two looks around
SHORTEST = 2.0  # seconds that a shift lasts before it is ended to share: taking shards anew has its price
SEEK = 5.0  # seconds that a process counts as one that wants shards after it last said so


class _Around(NamedTuple):
    """What a process sees: units that nobody else holds, units in which something waits, and the others alive."""

    free: set[int]
    waiting: set[int]
    others: set[str]  # that hold units or seek them
    seekers: set[str]  # of these, without us


class Sharing:
    """One process's part in the shards, from shift to shift."""

    def __init__(self, workspace: Workspace, *, forwarded: bool, timeout: timedelta) -> None:
        self._workspace = workspace
        self._forwarded = forwarded
        self._seconds = (timeout + MARGIN).total_seconds()
        self._looks_at = 0.0  # monotonic: not before
        self._seeks_until = 0.0  # monotonic

    def take(self) -> HeldLease | None:
        """Take our part of the shards that are free; None when there is nothing to do in any of them."""
        around = self._look()
        processes = 1 + len(around.others)
        lease = None
        if share(around.free, around.waiting, processes=processes):
            lease = self._workspace.hold(
                leases.SHARDS,
                range(UNITS),
                seconds=self._seconds,
                renewed=MARGIN.total_seconds() / 3,
                choose=lambda free: share(free, around.waiting, processes=processes),
            )
        if lease is None:
            self._seek()
            return None
        self.close()  # who has shards seeks no more
        self._looks_at = self._workspace.seams.monotonic() + SHORTEST
        return lease

    def is_fair(self, lease: HeldLease) -> bool:
        """Return whether to go on with these shards; a look is cheap but not free, so that it is taken now and then."""
        now = self._workspace.seams.monotonic()
        if now < self._looks_at:
            return True
        self._looks_at = now + LOOK
        around = self._look()
        mine = set(lease.lease.numbers)
        return is_fair(
            mine,
            around.free - mine,
            around.waiting,
            processes=1 + len(around.others),
            seekers=bool(around.seekers),
        )

    def parts(
        self, lease: HeldLease, workers: int, *, impatient: bool
    ) -> list[tuple[list[tuple[int, int]], list[Attempt]]]:
        """Return for each worker neighbouring shards, and the attempts that a predecessor left on them.

        With `impatient` these are tried at once, whatever was agreed when they last failed.
        """
        units = list(lease.lease.numbers)
        count = min(workers, len(units))
        parts = []
        with lease.claiming() as connection:
            for n in range(count):
                ranges = shards_of_units(units[len(units) * n // count : len(units) * (n + 1) // count])
                left = attempts.within(connection, ranges, now_ms=self._workspace.seams.now_ms())
                if not self._forwarded:  # whoever sends forwarded events finds those of its shards
                    left = [attempt for attempt in left if attempt.events[0].origin is None]
                if impatient:
                    left = [replace(attempt, not_before=0) for attempt in left]
                parts.append((ranges, left))
        return parts

    def close(self) -> None:
        """Say that we want no shards; where the database is away, that is forgotten by itself."""
        if self._seeks_until == 0.0:
            return
        self._seeks_until = 0.0
        with suppress(sa.exc.SQLAlchemyError), self._workspace.database.write() as connection:
            seeking.stop_seeking(connection, self._workspace.holder.name)

    def _look(self) -> _Around:
        workspace = self._workspace
        with workspace.database.read() as connection:
            now = workspace.now_ms(connection)
            owners = leases.owners(connection, leases.SHARDS, now_ms=now)
            seekers = set(seeking.seekers(connection, now_ms=now))
            waiting = seeking.waiting_units(connection, forwarded=self._forwarded)
        others = {*owners.values(), *seekers} - {workspace.holder.name}
        others -= workspace.dead(others)
        held = {unit for unit, owner in owners.items() if owner in others}
        return _Around(set(range(UNITS)) - held, waiting, others, seekers & others)

    def _seek(self) -> None:
        """Say that we want shards, and again before that is forgotten."""
        workspace = self._workspace
        now = workspace.seams.monotonic()
        if now < self._seeks_until - SEEK / 2:
            return
        with workspace.database.write() as connection:
            wall = workspace.now_ms(connection)
            expires_at = wall + int(SEEK * 1000)
            seeking.seek(connection, workspace.holder.name, now_ms=wall, expires_at=expires_at)
        self._seeks_until = now + SEEK
