"""Claims of one process on open batches: taken over from the dead, renewed in the background, given up at the end.

A claim lasts `MARGIN` longer than a request may take, and is renewed three times within that. A request starts only
when its answer, or its timeout, comes before the claim can be somebody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.delivery.pool import Pool
from audience_sync.store import batches, highwater
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace

MARGIN: Final = timedelta(seconds=9)


class Claims:
    """The claims of one process, with the thread that renews them."""

    def __init__(self, workspace: Workspace, pool: Pool, *, timeout: timedelta, forwarded: bool) -> None:
        self._workspace = workspace
        self._pool = pool
        self._forwarded = forwarded
        self.seconds = (timeout + MARGIN).total_seconds()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claims", daemon=True)
        self._thread.start()

    def end(self, connection: Connection) -> int:
        """Return until when a claim of now lasts, by the clock of leases."""
        return self._workspace.now_ms(connection) + int(self.seconds * 1000)

    def take_over(self) -> list[Batch]:
        """Claim batches that nobody has, or whose holder has died or frozen.

        Raises:
            MarkUnusable: they are claimed, but the mark cannot be raised to what their holder committed.
        """
        workspace = self._workspace
        with workspace.database.read() as connection:
            holders = batches.holders(connection)
        dead = workspace.dead(holders)  # asked before any row is locked
        with workspace.database.write() as connection:
            found = batches.claim_free(
                connection,
                holder=workspace.holder.name,
                dead=dead,
                now_ms=workspace.now_ms(connection),
                claim_until=self.end(connection),
                forwarded=self._forwarded,
            )
        if found:
            highwater.require_kept(workspace.database)
            workspace.seams.reach("deliver.claimed")
        return found

    def close(self, *, but: Iterable[int]) -> None:
        """Stop renewing and give the claims up, except for batches whose answer is still to come."""
        self._over.set()
        self._thread.join()
        with suppress(sa.exc.SQLAlchemyError), self._workspace.database.write() as connection:
            batches.release(connection, self._workspace.holder.name, but=but)

    def _renew(self) -> None:
        workspace = self._workspace
        while not self._over.wait(MARGIN.total_seconds() / 3):
            until = workspace.seams.monotonic() + self.seconds  # before all that may take long
            ids = self._pool.ids()
            try:
                workspace.holder.stay()
                with workspace.database.write() as connection:
                    claims = batches.renew(connection, workspace.holder.name, ids, claim_until=self.end(connection))
            except sa.exc.SQLAlchemyError:  # the database is away: try again until the claims have run out
                continue
            self._pool.renewed(ids, claims, until=until)
