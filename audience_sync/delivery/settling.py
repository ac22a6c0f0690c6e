"""Settling accepted batches, many in one commit: a thread of its own, so that no connection waits for the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from audience_sync.database_error import first_line
from audience_sync.errors import LeaseLost, MarkUnusable
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.store import attempts, binding, outbox, waiting
from audience_sync.store.attempts import Attempt

COMMIT_EVERY = 0.02  # seconds; what came meanwhile is one commit
RETRY_AFTER = 0.5  # seconds, when the database is away


class Settler:
    """Takes accepted batches from the workers and commits them."""

    def __init__(self, workspace: Workspace, lease: HeldLease, *, warn: Callable[[str], None]) -> None:
        self._workspace = workspace
        self._lease = lease
        self._warn = warn
        self._warned = False
        self._changed = threading.Condition()
        self._waiting: list[tuple[Attempt, int]] = []
        self._committing = False
        self._closed = False
        self._over = False  # the thread has ended
        self.events = 0  # accepted and committed
        self.lease_lost = False
        self.crash: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._thread.start()

    def accept(self, attempt: Attempt, status: int) -> None:
        """Hand over a batch that Schematic accepted."""
        with self._changed:
            self._waiting.append((attempt, status))
            self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, until everything handed over is committed; False if it is not."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle() or self._over, timeout)
            return self._is_idle()

    def is_over(self) -> bool:
        """Return whether nothing more can be settled: the lease is lost, or the thread has crashed."""
        return self.lease_lost or self._over

    def close(self, timeout: float) -> None:
        """Commit what is left, for at most `timeout` seconds, and end the thread."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def _is_idle(self) -> bool:
        return not self._waiting and not self._committing

    def _run(self) -> None:
        """Work; whatever ends it unexpectedly is handed to the thread that waits."""
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
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if not self._waiting:
                    return
            time.sleep(COMMIT_EVERY)
            with self._changed:
                batches, self._waiting = self._waiting, []
                self._committing = True
            done = self._commit(batches)
            with self._changed:
                self._committing = False
                if not done:
                    self._waiting = batches + self._waiting
                self._changed.notify_all()
                if self._closed and not done and not self.lease_lost:
                    return  # the attempts are still there: the same events go again, under the same keys

    def _commit(self, batches: Sequence[tuple[Attempt, int]]) -> bool:
        """Settle batches in one commit, or open them again if our lease is lost; False if that did not succeed."""
        try:
            if self.lease_lost:
                self.reopen([attempt for attempt, _ in batches])
            else:
                self._settle(batches)
        except LeaseLost:
            self.lease_lost = True
            return False
        except (sa.exc.SQLAlchemyError, MarkUnusable) as error:
            self._say_once(first_line(error))
            time.sleep(RETRY_AFTER)
            return False
        self._warned = False
        self.events += sum(len(attempt.events) for attempt, _ in batches)
        self._workspace.seams.reach("deliver.settled")
        return True

    def _say_once(self, problem: str) -> None:
        if not self._warned:
            self._warn(f"the membership database does not take what Schematic accepted, trying again: {problem}")
            self._warned = True

    def _settle(self, batches: Sequence[tuple[Attempt, int]]) -> None:
        now = self._workspace.seams.now_ms()
        with self._workspace.database.write() as connection:
            self._lease.assert_held(connection)
            unsettled = attempts.carried_by_others(connection, [attempt for attempt, _ in batches])
            for status in {status for _, status in batches}:
                accepted = [attempt.events for attempt, its in batches if its == status]
                waiting.settle(connection, accepted, now_ms=now, status=status, unsettled=unsettled)
            attempts.remove(connection, [attempt for attempt, _ in batches])

    def reopen(self, posted: Sequence[Attempt]) -> None:
        """Have the current values sent again: our lease was over, so these events may have overtaken newer ones.

        Forwarded events have no other value: whoever has the lease now sends them again, under the same keys.
        """
        changes = (event for attempt in posted for event in attempt.events if event.origin is None)
        events = sorted(changes)  # by shard and profile
        with self._workspace.database.write() as connection:
            generation = binding.next_generation(connection, self._workspace.seams.now_ms())
            for event in events:
                outbox.reopen(connection, event, generation=generation)
