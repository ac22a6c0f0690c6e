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
    quiet_seconds: float = 2.0  # of such a wait before a command says what it waits for
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

    # delivery: batches taken
    batches_per_take: int = 20  # more would lock their rows for longer than others should wait
    build_seconds: float = 0.1  # that events are built in one take: others wait for its rows
    open_batches: int = 20  # the open events of a process are at most this many times `batch_size`
    open_characters: int = 8 * 1024 * 1024  # of open events at which a process takes no more: some events are long

    # delivery: its loop
    worker_poll_seconds: float = 0.02  # between two looks at the workers
    row_poll_seconds: float = 0.1  # between two looks for rows when there were none
    longest_row_poll_seconds: float = 2.0  # after many looks without rows: they are held back, and looking is work
    takeover_poll_seconds: float = 1.0  # between two looks for batches of dead processes, and at the rows of others
    declare_poll_seconds: float = 1.0  # between two looks for audiences that are new to the destination
    read_retry_seconds: float = 0.2  # when the membership database is away
    answer_drain_seconds: float = 5.0  # that answers under way are waited for when everything stops
    settle_drain_seconds: float = 1.5  # for the last commit after that

    # delivery: side deliveries, which a command does not wait for
    side_seconds: float = 3.0  # after the command's own delivery, while the destination answers
    side_quiet_seconds: float = 3.0  # without an acceptance: it does not answer
    side_poll_seconds: float = 0.02
    side_drain_seconds: float = 0.3  # for answers under way when it is ended

    # delivery: workers
    batch_poll_seconds: float = 0.1  # between two looks for a batch that is due
    write_retry_seconds: float = 0.5  # when the membership database is away
    tries_before_halving: int = 3  # of a batch that fails while others pass
    rejections_before_stop: int = 20  # in a row with nothing accepted: the events are not the cause

    # delivery: claims
    claim_margin_seconds: float = 9.0  # that a claim lasts longer than a request may: time to renew it three times

    # delivery: settling
    settle_seconds: float = 0.02  # everything that was accepted meanwhile is one commit
    batches_per_commit: int = 8  # committed at once: until then no others can be taken in their place

    # delivery: rate and outages
    rate_reservation_seconds: float = 0.1  # moments for requests are reserved in the database for this long at once
    lowest_requests_per_second: float = 1.0  # requests a second after the longest outage, unless the limit is below
    probe_poll_seconds: float = 0.1  # between two looks whether the lone request was answered
    longest_probe_seconds: float = 60.0  # its sender has reported by then, or never will
    outage_report_seconds: float = 10.0  # a restart of a load balancer is not an outage

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
    hook_repeat_seconds: float = 3_600.0  # in which a hook that stops again for the same reason is logged as info
    first_purge_seconds: float = 600.0  # after the start
    purge_seconds: float = 86_400.0
    sync_drain_seconds: float = 5.0  # syncs get for their last commit
    drain_seconds: float = 8.0  # until all must be over: a delivery waits 6.5 for its last answers and their commit


DEFAULT_TUNING: Final = Tuning()
