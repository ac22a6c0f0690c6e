"""A delivery: shifts, one after the other, until nothing waits or nothing more can be done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa
from pydantic import SecretStr

from audience_sync.config import Settings
from audience_sync.core.outcomes import backoff
from audience_sync.database_error import first_line
from audience_sync.delivery.batches import Batches
from audience_sync.delivery.lanes import Batching
from audience_sync.delivery.opening import Acquaintance, bind, declare_traits
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.reachability import Reachability
from audience_sync.delivery.settling import Settler
from audience_sync.delivery.sharing import Sharing
from audience_sync.delivery.shift import Shift
from audience_sync.delivery.worker import Worker
from audience_sync.errors import DestinationAway, DestinationError, LeaseLost, MarkUnusable
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.schematic import Schematic
from audience_sync.store import highwater, waiting

LOOK = 0.02  # seconds between two looks at the workers
PAUSE = 0.2  # seconds between two tries to get shards, or to find something in them
LOOK_AT_OTHERS = 1.0  # seconds between two looks at what others have left: counting is work
DECLARE_EVERY = 1.0  # seconds between two looks for audiences that are new to Schematic
DRAIN = 5.0  # seconds that answers under way are waited for when all stops
SETTLE = 1.5  # seconds for the last commit then


def _ignore(_: object) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a delivery is told."""

    settings: Settings
    key: SecretStr
    forwarded: bool = True  # forwarded events too, not only changes
    wait: timedelta | None = timedelta(seconds=60)  # give up after so long without progress; None: never
    at_once: bool = False  # begin with every try: a person has acted, so waits of earlier tries do not count
    stop: threading.Event = field(default_factory=threading.Event)
    acquaintance: Acquaintance = field(default_factory=Acquaintance)
    reachability: Reachability | None = None  # of a process that delivers again and again; None: of this delivery
    on_progress: Callable[[int], None] = _ignore  # events accepted so far
    warn: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class DeliveryReport:
    """How a delivery ended."""

    events: int  # accepted
    open: int  # rows that wait, those of paused audiences included
    paused: int
    dead: int
    failure: DestinationError | MarkUnusable | None  # why it stopped before its time


def deliver(workspace: Workspace, delivery: Delivery) -> DeliveryReport:
    """Deliver what waits in the outbox and of forwarded events; every failure leaves it there.

    Raises:
        BindingRefused: the database belongs to another environment.
        DatabaseOlder: the database was replaced by a backup.
    """
    reachability = delivery.reachability or Reachability(workspace)
    reachability.begin()
    session = _Session(workspace, delivery, reachability)
    failure: DestinationError | MarkUnusable | None = None
    try:
        session.run()
        if session.events:
            highwater.require_kept(workspace.database)  # what was settled last is known to it, too
    except (DestinationError, MarkUnusable) as error:
        failure = error
    with workspace.database.read() as connection:
        report = DeliveryReport(session.events, *waiting.count(connection, forwarded=delivery.forwarded), failure)
    if failure is not None and not delivery.stop.is_set():
        reachability.stopped(failure, again_in=delivery.settings.delivery.max_backoff.total_seconds())
    elif report.open <= report.paused:
        reachability.accepted()
    return report


class _Session:
    def __init__(self, workspace: Workspace, delivery: Delivery, reachability: Reachability) -> None:
        self._workspace = workspace
        self._delivery = delivery
        self._settings = delivery.settings
        self._sharing = Sharing(workspace, forwarded=delivery.forwarded, timeout=delivery.settings.schematic.timeout)
        self._pace = Pace(  # from shift to shift: an outage does not end with one
            workspace,
            per_second=self._settings.delivery.max_requests_per_second,
            workers=self._settings.delivery.concurrency,
            longest=self._settings.delivery.max_backoff,
        )
        self._reachability = reachability
        self._database_was_away = False
        self._last_progress = workspace.seams.monotonic()
        # A person who runs `deliver`, or reloads, wants every try now: earlier waits do not hold for the first shift.
        self._impatient = delivery.wait is not None or delivery.at_once
        self._waited = 0  # how many rows waited when another process was last looked at
        self._looked_at = float("-inf")
        self.events = 0

    def run(self) -> None:
        if self._delivery.stop.is_set() or not self._deliverable():
            return
        with closing(self._sharing), closing(self._schematic()) as api:
            batching = Batching(
                destination=self._settings.destination(self._environment(api)),
                batch_size=self._settings.delivery.batch_size,
            )
            self._last_progress = self._workspace.seams.monotonic()
            while not self._delivery.stop.is_set() and not self._is_over():
                if not self._try_shift(api, batching):
                    self._notice_others()
                    self._delivery.stop.wait(PAUSE)

    def _environment(self, api: Schematic) -> str:
        """Ask whose key this is, once in a process, and again and again while Schematic is away."""
        known, tries = self._delivery.acquaintance, 0
        while known.environment is None:
            try:
                known.environment = bind(self._workspace, self._settings, api)
            except DestinationAway as error:
                tries += 1
                longest = self._settings.delivery.max_backoff
                wait = backoff(tries, jitter=self._workspace.seams.jitter(), longest=longest)
                self._reachability.failed(str(error), again_in=wait.total_seconds())
                if self._has_given_up() or self._delivery.stop.wait(wait.total_seconds()):
                    raise
        return known.environment

    def _notice_others(self) -> None:
        """Take it for progress when another process, which has the shards, sends what waits."""
        now = self._workspace.seams.monotonic()
        if self._delivery.wait is None or now < self._looked_at + LOOK_AT_OTHERS:
            return
        self._looked_at = now
        with suppress(sa.exc.OperationalError), self._workspace.database.read() as connection:
            waits, _, _ = waiting.count(connection, forwarded=self._delivery.forwarded)
            if waits < self._waited:
                self._last_progress = now
            self._waited = waits

    def _try_shift(self, api: Schematic, batching: Batching) -> bool:
        """Work on our part of the shards; False when others have them, nothing is in them, or the database is away."""
        try:
            lease = self._sharing.take()
            if lease is None:
                return False
            self._database_was_away = False
            with lease:
                return self._shift(lease, api, batching)
        except LeaseLost:
            return False
        except sa.exc.OperationalError as error:
            if not self._database_was_away:
                self._delivery.warn(f"the membership database is away: {first_line(error)}")
            self._database_was_away = True
            return False

    def _shift(self, lease: HeldLease, api: Schematic, batching: Batching) -> bool:
        """Put workers to work on the leased shards until something ends that; return whether anything came of it."""
        settings, workspace = self._settings, self._workspace
        parts = self._sharing.parts(lease, settings.delivery.concurrency, impatient=self._impatient)
        self._impatient = False
        settler = Settler(workspace, lease, warn=self._delivery.warn)
        shift = Shift(
            workspace=workspace,
            lease=lease,
            settler=settler,
            pace=self._pace,
            reachability=self._reachability,
            batching=batching,
            max_backoff=settings.delivery.max_backoff,
            timeout=settings.schematic.timeout,
        )
        workers = [
            Worker(
                shift,
                self._schematic(),
                Batches(workspace, lease, ranges, batching, forwarded=self._delivery.forwarded),
                left,
            )
            for ranges, left in parts
        ]
        try:
            self._declare(api)
            for worker in workers:
                worker.start()
            self._watch(shift, api, workers)
        finally:
            shift.stop.set()
            deadline = workspace.seams.monotonic() + DRAIN
            for worker in workers:
                if worker.is_alive():
                    worker.join(max(0.0, deadline - workspace.seams.monotonic()))
            settler.close(SETTLE)
            self.events += settler.events
        if (crash := shift.crash or settler.crash) is not None:
            raise crash
        if shift.failure is not None:
            raise shift.failure
        return shift.moves > 0

    def _watch(self, shift: Shift, api: Schematic, workers: list[Worker]) -> None:
        """Wait until the workers find no more, or something ends the shift."""
        seams, settler = self._workspace.seams, shift.settler
        before, moves, declared_at = self.events, 0, seams.monotonic()
        while not (shift.is_over() or self._has_given_up() or self._delivery.stop.wait(LOOK)):
            self._delivery.on_progress(before + settler.events)
            if shift.moves != moves:
                moves = shift.moves
                self._last_progress = seams.monotonic()
            if all(worker.idle for worker in workers) and settler.flush(LOOK):
                return
            if not self._sharing.is_fair(shift.lease):
                return
            if seams.monotonic() > declared_at + DECLARE_EVERY:
                self._declare(api)
                declared_at = seams.monotonic()

    def _declare(self, api: Schematic) -> None:
        declare_traits(
            self._workspace,
            self._settings,
            api,
            stop=self._delivery.stop,
            refused=self._delivery.acquaintance.refused,
            warn=self._delivery.warn,
        )

    def _schematic(self) -> Schematic:
        return Schematic(self._settings.schematic, self._delivery.key, tls=self._delivery.acquaintance.tls)

    def _deliverable(self) -> bool:
        with self._workspace.database.read() as connection:
            return waiting.any_deliverable(connection, forwarded=self._delivery.forwarded)

    def _is_over(self) -> bool:
        try:
            return self._has_given_up() or not self._deliverable()
        except sa.exc.OperationalError:
            return False

    def _has_given_up(self) -> bool:
        wait = self._delivery.wait
        idle = self._workspace.seams.monotonic() - self._last_progress
        return wait is not None and idle > wait.total_seconds()
