"""A delivery: shifts, one after the other, until the outbox is empty or nothing more can be done."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import httpx
from pydantic import SecretStr

from audience_sync.config import Settings
from audience_sync.core.outcomes import backoff
from audience_sync.core.shards import UNITS, shards_of_units
from audience_sync.delivery.batches import Batches, Batching
from audience_sync.delivery.opening import bind, declare_traits
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.settling import Settler
from audience_sync.delivery.shift import Shift
from audience_sync.delivery.worker import Worker
from audience_sync.errors import DestinationAway, DestinationError
from audience_sync.leasing import HeldLease, Workspace
from audience_sync.schematic import Schematic
from audience_sync.store import attempts, leases, outbox

LOOK = 0.02  # seconds between two looks at the workers
LEASE_MARGIN = timedelta(seconds=30)  # a lease is this much longer than a request may take
DRAIN = 5.0  # seconds that answers under way are waited for when all stops
SETTLE = 1.5  # seconds for the last commit then


def _ignore(_: object) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a delivery is told."""

    settings: Settings
    key: SecretStr
    wait: timedelta | None = timedelta(seconds=60)  # give up after so long without progress; None: never
    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[int], None] = _ignore  # events accepted so far
    warn: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class DeliveryReport:
    """How a delivery ended."""

    events: int  # accepted
    open: int  # rows that wait, those of paused audiences included
    paused: int
    dead: int
    failure: DestinationError | None  # why it stopped before its time


def deliver(workspace: Workspace, delivery: Delivery) -> DeliveryReport:
    """Deliver what lies in the outbox; every failure leaves it there.

    Raises:
        BindingRefused: the database belongs to another environment.
    """
    session = _Session(workspace, delivery)
    failure: DestinationError | None = None
    try:
        session.run()
    except DestinationError as error:
        failure = error
    with workspace.database.read() as connection:
        return DeliveryReport(session.events, *outbox.count(connection), failure)


class _Session:
    def __init__(self, workspace: Workspace, delivery: Delivery) -> None:
        self._workspace = workspace
        self._delivery = delivery
        self._settings = delivery.settings
        self._tls: ssl.SSLContext = httpx.create_ssl_context()
        self.events = 0
        self._last_progress = workspace.seams.monotonic()

    def run(self) -> None:
        if not self._deliverable():
            return
        batching = Batching(
            identity=self._settings.identity,
            environment=self._open(),
            batch_size=self._settings.delivery.batch_size,
        )
        while not self._delivery.stop.is_set() and self._deliverable() and not self._given_up():
            seconds = (self._settings.schematic.timeout + LEASE_MARGIN).total_seconds()
            lease = self._workspace.hold(leases.SHARDS, range(UNITS), seconds=seconds)
            if lease is None:  # others deliver
                self._delivery.stop.wait(LOOK * 10)
                continue
            with lease:
                self._shift(lease, batching)

    def _open(self) -> str:
        """Ask whose key this is, again and again while Schematic is away, and declare the traits."""
        schematic = self._schematic()
        tries = 0
        try:
            while True:
                try:
                    environment = bind(self._workspace, self._settings, schematic)
                    declare_traits(self._workspace, schematic, warn=self._delivery.warn)
                except DestinationAway:
                    tries += 1
                    longest = self._settings.delivery.max_backoff
                    wait = backoff(tries, jitter=self._workspace.seams.jitter(), longest=longest)
                    if self._given_up() or self._delivery.stop.wait(wait.total_seconds()):
                        raise
                else:
                    return environment
        finally:
            schematic.close()

    def _shift(self, lease: HeldLease, batching: Batching) -> None:
        """Put workers to work on the leased shards until they find no more, or something stops them."""
        settings, workspace = self._settings, self._workspace
        settler = Settler(workspace, lease, identity=settings.identity)
        shift = Shift(
            workspace=workspace,
            lease=lease,
            settler=settler,
            pace=Pace(
                workspace,
                per_second=settings.delivery.max_requests_per_second,
                workers=settings.delivery.concurrency,
                longest=settings.delivery.max_backoff,
            ),
            batching=batching,
            max_backoff=settings.delivery.max_backoff,
            timeout=settings.schematic.timeout,
        )
        workers = self._workers(shift)
        for worker in workers:
            worker.start()
        try:
            self._watch(shift, workers)
        finally:
            shift.stop.set()
            deadline = workspace.seams.monotonic() + DRAIN
            for worker in workers:
                worker.join(max(0.0, deadline - workspace.seams.monotonic()))
            settler.close(SETTLE)
            self.events += settler.events
        if (crash := shift.crash or settler.crash) is not None:
            raise crash
        if shift.failure is not None:
            raise shift.failure

    def _workers(self, shift: Shift) -> list[Worker]:
        """Give each worker neighbouring units, and the attempts that a predecessor left on them."""
        units = list(shift.lease.lease.numbers)
        count = min(self._settings.delivery.concurrency, len(units))
        workers = []
        for n in range(count):
            ranges = shards_of_units(units[len(units) * n // count : len(units) * (n + 1) // count])
            with self._workspace.database.write() as connection:
                shift.lease.assert_held(connection)
                left = attempts.within(connection, ranges, now_ms=self._workspace.seams.now_ms())
            batches = Batches(self._workspace, shift.lease, ranges, shift.batching)
            workers.append(Worker(shift, self._schematic(), batches, left))
        return workers

    def _watch(self, shift: Shift, workers: list[Worker]) -> None:
        before, moves = self.events, 0
        while not (shift.stop.is_set() or shift.settler.is_over() or self._delivery.stop.wait(LOOK)):
            self._delivery.on_progress(before + shift.settler.events)
            if shift.moves != moves:
                moves = shift.moves
                self._last_progress = self._workspace.seams.monotonic()
            if all(worker.idle for worker in workers) and shift.settler.flush(LOOK):
                return
            if self._given_up() or shift.lease.left() <= 0:
                return

    def _schematic(self) -> Schematic:
        return Schematic(self._settings.schematic, self._delivery.key, tls=self._tls)

    def _deliverable(self) -> bool:
        with self._workspace.database.read() as connection:
            return outbox.any_deliverable(connection)

    def _given_up(self) -> bool:
        wait = self._delivery.wait
        idle = self._workspace.seams.monotonic() - self._last_progress
        return wait is not None and idle > wait.total_seconds()
