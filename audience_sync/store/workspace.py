"""Workspaces and the leases they hold.

A `Workspace` has everything that work on a membership database needs: the database, the name of this process as a
holder, the clock and the named points. A lease lasts as long as a piece of work: it is taken, renewed in the background
and released at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.clock import Clock
from audience_sync.kill_points import pass_by
from audience_sync.store import batches, generations, leases
from audience_sync.store.database import Database
from audience_sync.store.holders import Holder
from audience_sync.store.leases import Lease
from audience_sync.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The tools of work on a membership database: the database, our holder in it, the clock, and tuning."""

    database: Database
    holder: Holder
    clock: Clock
    reach: Callable[[str], None] = pass_by  # called at named points: see `kill_points`

    @property
    def tuning(self) -> Tuning:
        """Return the tunable numbers of this work."""
        return self.database.tuning

    def hold(self, audience_ids: Iterable[int], *, seconds: float) -> HeldLease | None:
        """Take those of the leases of some audiences that are free; None when that is nothing."""
        self.holder.keep_alive()
        with self.database.read() as connection:
            owners = leases.holders(connection)
        dead = self.dead(owners)  # asked before any row is locked
        with self.database.write() as connection:
            now = self.now_ms(connection)
            lease = leases.acquire(
                connection,
                audience_ids,
                holder=self.holder.name,
                now_ms=now,
                expires_at=now + int(seconds * 1000),
                dead=dead,
            )
        return None if lease is None else HeldLease(self, lease, seconds=seconds)

    def release_dead_holders(self) -> None:
        """Clear away what dead processes held, so that nobody takes them for being at work."""
        with self.database.read() as connection:
            dead = self.dead({*leases.holders(connection), *batches.holders(connection)})
        if dead:
            with self.database.write() as connection:
                leases.vacate(connection, dead)
                batches.vacate(connection, dead)

    def dead(self, holders: Iterable[str]) -> set[str]:
        """Return which holders are known to have died; nobody comes to life again."""
        return {holder for holder in holders if self.holder.is_dead(holder)}

    def now_ms(self, connection: Connection) -> int:
        """Return the time that leases go by, in milliseconds; see `leases.clock_ms`."""
        return leases.clock_ms(connection, self.clock.steady_ms())


class HeldLease:
    """A lease with the thread that renews it; a context manager that gives it back."""

    def __init__(self, workspace: Workspace, lease: Lease, *, seconds: float) -> None:
        self.lease = lease
        self._workspace = workspace
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def assert_held(self, connection: Connection) -> None:
        """Refuse to commit if another holder took over (`store.leases`), and advance the mark (`store.backup_mark`)."""
        leases.assert_held(connection, self.lease)
        generations.advance(connection, self._workspace.clock.now_ms())

    def close(self) -> None:
        """Stop renewing, and give the lease back; where the database is away, it runs out by itself."""
        self._over.set()
        self._thread.join()
        with suppress(sa.exc.SQLAlchemyError), self._workspace.database.write() as connection:
            leases.release(connection, self.lease)

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 3):
            try:
                self._workspace.holder.keep_alive()
                with self._workspace.database.write() as connection:
                    expires_at = self._workspace.now_ms(connection) + int(self._seconds * 1000)
                    if not leases.renew(connection, self.lease, expires_at=expires_at):
                        return  # taken over: every commit says so
            except sa.exc.SQLAlchemyError:  # the database is away: try again until the lease has run out
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
