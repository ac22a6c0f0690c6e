"""Settle accepted batches, many in one commit, in a separate thread, so that connections do not wait for the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from audience_sync.database_error import first_line, is_lock_timeout
from audience_sync.errors import MarkUnusable
from audience_sync.store import batches, generations
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace


class Settler:
    """Commit the accepted batches of all workers."""

    def __init__(self, workspace: Workspace, *, destination: str, warn: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._tuning = workspace.tuning
        self._destination = destination  # display name
        self._warn = warn
        self._warned = False
        self._changed = threading.Condition()
        self._waiting: list[tuple[Batch, int]] = []
        self._lost: list[Batch] = []  # posted without a claim
        self._unsettled = 0
        self._committing = False
        self._closed = False
        self._over = False  # the thread has ended
        self.events = 0  # accepted and committed
        self.commits = 0
        self.crash: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._thread.start()

    def accept(self, batch: Batch, status: int) -> None:
        """Hand over a batch that the destination accepted."""
        with self._changed:
            self._waiting.append((batch, status))
            self._unsettled += batch.size
            self._changed.notify_all()

    @property
    def unsettled(self) -> int:
        """Return the number of events handed over but not committed."""
        return self._unsettled

    def flush(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, until everything handed over is committed; False if it is not."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle() or self._over, timeout)
            return self._is_idle()

    def wait_for_commit(self, timeout: float) -> None:
        """Wait, at most `timeout` seconds, until something more is committed."""
        with self._changed:
            before = self.commits
            self._changed.wait_for(lambda: self.commits > before or self._over, timeout)

    def is_over(self) -> bool:
        """Return whether nothing more can be settled: the thread has crashed."""
        return self._over

    def close(self, timeout: float) -> None:
        """Commit what is left, for at most `timeout` seconds, and end the thread."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _is_idle(self) -> bool:
        return not self._waiting and not self._lost and not self._committing

    def _has_enough(self) -> bool:
        return len(self._waiting) >= self._tuning.batches_per_commit or self._closed

    def _run(self) -> None:
        """Run the thread; pass an unexpected exception to the thread that waits."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - handed over, and raised there
            self.crash = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting or self._lost) or self._closed)
                if not self._waiting and not self._lost:
                    return
                self._changed.wait_for(self._has_enough, self._tuning.settle_seconds)
                accepted, self._waiting = self._waiting, []
                self._committing = True
            lost = self._commit(accepted)
            with self._changed:
                if lost is None:
                    self._waiting = accepted + self._waiting
                else:
                    self._lost += lost
                    self._unsettled -= sum(batch.size for batch, _ in accepted)
                    self.commits += bool(accepted)
            done = self._reopen() and lost is not None
            with self._changed:
                self._committing = False
                self._changed.notify_all()
                if self._closed and not done:
                    return  # the batches are still open: the same events go again, under the same keys

    def _commit(self, accepted: Sequence[tuple[Batch, int]]) -> list[Batch] | None:
        """Settle batches in one commit; return those that were posted without a claim, or None if it failed."""
        if not accepted:
            return []
        try:
            now_ms = self._workspace.clock.now_ms()
            with self._workspace.database.write() as connection:
                lost = batches.settle(connection, accepted, now_ms=now_ms)
                generations.advance(connection, now_ms)
        except (sa.exc.SQLAlchemyError, MarkUnusable) as error:
            self._failed(error)
            return None
        self._warned = False
        gone = {batch.id for batch in lost}
        self.events += sum(batch.size for batch, _ in accepted if batch.id not in gone)
        self._workspace.reach("deliver.settled")
        return lost

    def _reopen(self) -> bool:
        """Mark batches posted without a claim to be sent again; return False if that failed."""
        lost = self._lost
        if not lost:
            return True
        try:
            with self._workspace.database.write() as connection:
                batches.reopen(connection, lost, now_ms=self._workspace.clock.now_ms())
        except (sa.exc.SQLAlchemyError, MarkUnusable) as error:
            self._failed(error)
            return False
        with self._changed:
            self._lost = self._lost[len(lost) :]
        return True

    def _failed(self, error: sa.exc.SQLAlchemyError | MarkUnusable) -> None:
        if not (isinstance(error, sa.exc.DBAPIError) and is_lock_timeout(error)):  # else it only yields to a sync
            self._say_once(first_line(error))
        time.sleep(self._tuning.write_retry_seconds)

    def _say_once(self, problem: str) -> None:
        if not self._warned:
            sentence = (
                f"cannot record in the membership database that {self._destination} accepted events:"
                f" {problem}; retrying"
            )
            self._warn(sentence)
            self._warned = True

    def reopen(self, posted: Batch) -> None:
        """Have the current values sent again: this batch was posted without a claim; see `store.batches`."""
        with self._changed:
            self._lost = [*self._lost, posted]
            self._changed.notify_all()
