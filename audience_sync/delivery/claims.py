"""The open batches that this process has claimed, in memory: which can be posted now, and by which worker."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.clock import Clock
from audience_sync.store import backup_mark, batches
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace


@dataclass
class Held:
    """A claimed batch; times are on the monotonic clock."""

    batch: Batch
    until: float  # the claim lasts
    due: float  # the next attempt
    posting: bool = False  # a worker has it
    accepted_before: int | None = None  # the number of batches accepted before it first failed
    text: int = 0  # characters


class Load(NamedTuple):
    """The amount that a process has claimed."""

    events: int
    text: int  # characters
    ready: int  # events that do not wait for a retry
    untried: int  # batches that have not failed yet


class Pool:
    """Hand claimed batches to workers, longest due first; thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[int, Held] = {}

    def add(
        self,
        batches: Iterable[Batch],
        *,
        until: float,
        due: float | None = None,
        accepted_before: int | None = None,
    ) -> None:
        """Add claimed batches; their first attempt is due now unless specified."""
        with self._changed:
            when = self._clock.monotonic() if due is None else due
            for batch in batches:
                text = batch.contents.text_size
                self._held[batch.id] = Held(batch, until, when, accepted_before=accepted_before, text=text)
                self._changed.notify()  # one worker for each

    def next(self, timeout: float) -> Held | None:
        """Return a due batch for one worker; None if there is none within some seconds."""
        with self._changed:
            found = self._due()
            if found is None:
                self._changed.wait(max(0.0, min(timeout, self._next_due() - self._clock.monotonic())))
                found = self._due()
            if found is not None:
                found.posting = True
            return found

    def wake(self) -> None:
        """Make waiting workers return without a batch."""
        with self._changed:
            self._changed.notify_all()

    def put_back(self, held: Held, batch: Batch, *, due: float) -> None:
        """Return a batch that is to be retried."""
        with self._changed:
            held.batch, held.due, held.posting = batch, due, False
            self._changed.notify()

    def remove(self, held: Held) -> None:
        """Remove a batch that this process no longer handles."""
        with self._changed:
            self._held.pop(held.batch.id, None)

    def ids(self) -> list[int]:
        """Return the ids of all batches."""
        with self._changed:
            return list(self._held)

    def renewed(self, ids: Iterable[int], claims: Mapping[int, int], *, until: float) -> None:
        """Extend the batches with claims that are still ours; drop the others, unless a worker has them."""
        with self._changed:
            for held in [self._held[number] for number in ids if number in self._held]:
                if claims.get(held.batch.id) == held.batch.claim:
                    held.until = max(held.until, until)
                elif not held.posting:
                    del self._held[held.batch.id]

    def posting(self) -> list[int]:
        """Return the ids of the batches that workers have."""
        with self._changed:
            return [number for number, held in self._held.items() if held.posting]

    def load(self) -> Load:
        """Return the current amount."""
        now = self._clock.monotonic()
        with self._changed:
            held = [(one.batch, one.text, one.posting or one.due <= now) for one in self._held.values()]
        return Load(
            sum(batch.size for batch, *_ in held),
            sum(text for _, text, _ in held),
            sum(batch.size for batch, _, is_ready in held if is_ready),
            sum(batch.tries == 0 for batch, *_ in held),
        )

    def is_alone(self, held: Held, *, with_parts: bool) -> bool:
        """Return whether this is the only batch, or the only one besides others that were cut from the same."""
        with self._changed:
            others = [one.batch for one in self._held.values() if one is not held]
        return not others or (with_parts and {one.origin for one in others} == {held.batch.origin})

    def next_due(self) -> float:
        """Return the seconds until the next batch without a worker is due; 0 if there is none."""
        with self._changed:
            due = self._next_due()
            return 0.0 if due == float("inf") else max(0.0, due - self._clock.monotonic())

    def _next_due(self) -> float:
        return min((held.due for held in self._held.values() if not held.posting), default=float("inf"))

    def _due(self) -> Held | None:
        now = self._clock.monotonic()
        due = (held for held in self._held.values() if not held.posting and held.due <= now)
        return min(due, key=lambda held: held.due, default=None)


# --- claims -----------------------------------------------------------------------------------------------------------
# Claims of one process on open batches: taken over from the dead, renewed in the background, given up at the end.
#
# A claim lasts `Tuning.claim_margin_seconds` longer than a request may take, and is renewed three times within that. A
# request starts only when its answer, or its timeout, comes before the claim can be somebody else's.


class BatchClaims:
    """The claims of one process for one destination, and the thread that renews them."""

    def __init__(
        self, workspace: Workspace, pool: Pool, *, timeout: timedelta, forwarded: bool, destination: str
    ) -> None:
        self._destination = destination
        self._workspace = workspace
        self._pool = pool
        self._forwarded = forwarded
        self.seconds = timeout.total_seconds() + workspace.tuning.claim_margin_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claims", daemon=True)
        self._thread.start()

    def end(self, connection: Connection) -> int:
        """Return until when a claim of now lasts, by the clock of leases."""
        return self._workspace.now_ms(connection) + int(self.seconds * 1000)

    def take_over(self) -> list[Batch]:
        """Claim batches without a holder, or with a dead or frozen holder.

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
                destination=self._destination,
            )
        if found:
            backup_mark.require_kept(workspace.database)
            workspace.reach("deliver.claimed")
        return found

    def close(self, *, but: Iterable[int]) -> None:
        """Stop renewing and release the claims, except for batches that still wait for a response."""
        self._over.set()
        self._thread.join()
        with suppress(sa.exc.SQLAlchemyError), self._workspace.database.write() as connection:
            holder = self._workspace.holder.name
            batches.release(connection, holder, but=but, destination=self._destination)

    def _renew(self) -> None:
        workspace = self._workspace
        while not self._over.wait(workspace.tuning.claim_margin_seconds / 3):
            until = workspace.clock.monotonic() + self.seconds  # before anything that may take long
            ids = self._pool.ids()
            try:
                workspace.holder.keep_alive()
                with workspace.database.write() as connection:
                    claims = batches.renew(connection, workspace.holder.name, ids, claim_until=self.end(connection))
            except sa.exc.SQLAlchemyError:  # the database is unavailable: retry until the claims expire
                continue
            self._pool.renewed(ids, claims, until=until)
