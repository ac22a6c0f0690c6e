"""Tunable numbers: how long something waits, how many rows go at once, how much memory a comparison gets.

They are not settings: nobody should have to change them. Each belongs to one package, and reaches its code with the
database (`Database.tuning`), so that a test can make amounts small and waits short. Limits of a protocol and formats
are constants of their modules instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Every tunable number, with its unit in its name."""

    # store
    connect_seconds: int = 10  # to reach PostgreSQL
    busy_seconds: float = 60.0  # a writer of SQLite waits for the one before it, then gives up
    frozen_seconds: float = 20.0  # PostgreSQL ends the transaction of a process that does nothing in it: it holds locks
    take_lock_ms: int = 5_000  # PostgreSQL: for the lock on taking batches, and to do nothing while it is held
    sharers_lock_ms: int = 900  # less than PostgreSQL's deadlock_timeout: it must not be a sync that is ended
    members_per_read: int = 10_000  # one text of joined lines
    history_members_per_read: int = 5_000  # worked out in memory
    rows_per_page: int = 1_000  # of a list that people ask for
    purged_rows_per_commit: int = 20_000  # others wait for a commit to end
    purged_groups_per_read: int = 4_096
    vacuum_pages: int = 2_000  # given back in one step: a writer of SQLite waits for it
    vacuum_steps: int = 25  # at most after a delivery: 200 MB
    small_log_bytes: int = 4 * MIB  # SQLite begins a write-ahead log anew by itself at about this size
    vacuum_wait_ms: int = 1_000  # for writers, and for readers of the write-ahead log

    # sync
    lease_seconds: float = 30.0  # renewed three times as often
    changes_per_commit: int = 50_000  # on SQLite everybody else waits for a commit to end
    diff_memory_mb: int = 56  # of DuckDB, for all comparisons of this process
    diff_max_memory_mb: int = 1_024  # where long rows need it
    diff_lines_per_load: int = 122_880  # loaded while the next ones are read
    diff_rows_per_part: int = 250_000  # joined or grouped at once: within a join DuckDB keeps to no limit
    diff_bytes_per_part: int = 16 * MIB  # of their texts
    diff_hashes_per_part: int = 500_000  # where only hashes are joined
    diff_rows_per_page: int = 2_000  # more at once are slower in Python

    # daemon
    watch_seconds: float = 1.0  # between two looks of the main thread: stop, reload, clock
    status_seconds: float = 60.0  # between two status lines for systemd: counting a large outbox is work
    outbox_poll_seconds: float = 1.0  # between two looks for something to deliver
    gather_seconds: float = 30.0  # a delivery waits for syncs under way: their changes may share events
    gather_poll_seconds: float = 0.1
    syncs_at_once: int = 2
    lease_retry_seconds: float = 5.0  # when another process is at work on the audience
    clock_jump_seconds: float = 30.0  # clocks that are set by less are corrected, not moved
    due_write_seconds: float = 5.0  # the main thread, which tells systemd that it is alive, waits for the database
    first_purge_seconds: float = 600.0  # after the start
    purge_seconds: float = 86_400.0
    sync_drain_seconds: float = 5.0  # syncs get for their last commit
    drain_seconds: float = 8.0  # until all must be over: a delivery waits 6.5 for its last answers and their commit


DEFAULT_TUNING: Final = Tuning()
