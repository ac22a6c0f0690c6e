"""Run a delivery: take rows into batches and post them until nothing is pending or no progress is possible."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa
from pydantic import SecretStr

from audience_sync.config import Audience, Route, Settings
from audience_sync.core.model import TraitType
from audience_sync.database_error import first_line, is_lock_timeout
from audience_sync.delivery.claims import BatchClaims, Pool
from audience_sync.delivery.rate_limit import RateLimiter
from audience_sync.delivery.reachability import Reachability
from audience_sync.delivery.settler import Settler
from audience_sync.delivery.take import Batching, Taker
from audience_sync.delivery.worker import Worker, WorkerGroup
from audience_sync.destinations.destination_protocol import DestinationClient
from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.destinations.outcomes import backoff, tries_until_stuck
from audience_sync.errors import DestinationAway, DestinationError, MarkUnusable
from audience_sync.store import audiences, backlog, backup_mark, binding
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.batches import Batch
from audience_sync.store.workspace import Workspace

# --- before the first event -------------------------------------------------------------------------------------------
# Before the first event: find out the environment of the key, and declare the type of every trait.


@dataclass
class KnownDestination:
    """Facts about the destination that a process keeps between deliveries, which may follow every second."""

    tls: ssl.SSLContext = field(default_factory=trusted_authorities)
    environment: str | None = None  # of the key, once it is known
    refused: set[int] = field(default_factory=set)  # audiences whose trait could not be declared, or need not be


def bind(workspace: Workspace, settings: Settings, client: DestinationClient) -> str:
    """Return the environment of this database, which the first delivery sets.

    Raises:
        BindingRefused: the key belongs to another environment, or the configuration has another identity.
        KeyRefused: the key is not accepted.
        DestinationAway: the destination does not respond.
        DestinationError: the address does not lead to the destination.
    """
    told = client.environment()
    with workspace.database.write() as connection:
        binding.bind_identity(connection, settings.identity)
        destination = settings.destination
        return binding.bind_environment(
            connection, told, label=destination.environment_label, destination=destination.display_name
        )


def declare_traits(
    workspace: Workspace,
    settings: Settings,
    client: DestinationClient,
    *,
    stop: threading.Event,
    refused: set[int],
    warn: Callable[[str], None],
) -> None:
    """Declare the types of traits that are to be sent for the first time, if a mapping sends them under their names.

    An audience is boolean; a computed trait has the type of the file, and without one the destination goes by its first
    value. Any failure, a refusal or a missing answer, is a warning, told once and remembered in `refused`: this process
    does not try again, and the trait is sent anyway.
    """
    with workspace.database.read() as connection:
        undeclared = audiences.undeclared(connection)
        environment = binding.environment(connection)
    configured = {one.key: one for one in settings.audiences} if undeclared else {}
    for audience in undeclared:
        if stop.is_set() or audience.id in refused:
            continue
        known = configured.get(audience.key)
        if known is not None and not settings.coverage(known, environment=environment).sets_trait:
            refused.add(audience.id)  # nothing sends the trait under this name, until the program is started anew
            continue
        trait_type = _type_of(audience, known)
        if trait_type is None:
            refused.add(audience.id)
            continue
        problem = client.declare(audience.key, trait_type, display_name=audience.name)
        if problem is None:
            with workspace.database.write() as connection:
                audiences.set_declared(connection, audience.id, workspace.clock.now_ms())
        else:
            refused.add(audience.id)
            warn(
                f"could not declare the type of trait {audience.key} as {trait_type}; the trait is sent anyway:"
                f" {problem}"
            )


def _type_of(row: AudienceRow, known: Audience | None) -> TraitType | None:
    """Return the type to declare, or None where nobody knows it: of a computed trait that is not in the file, too."""
    fixed = row.computation.fixed_type
    return known.declared_type if fixed is None and known is not None else fixed


# --- delivery ---------------------------------------------------------------------------------------------------------


def _ignore(_: object) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class DeliveryOptions:
    """The inputs of a delivery, and how it reports back."""

    settings: Settings
    key: SecretStr
    route: Route | None = None  # None: that of audiences and forwarded events
    forwarded: bool = True  # forwarded events too, not only changes
    wait: timedelta | None = timedelta(seconds=60)  # give up after this time without progress; None: never
    at_once: bool = False  # begin with every try: a person has acted, so waits of earlier tries do not count
    stop: threading.Event = field(default_factory=threading.Event)
    drain_seconds: float | None = None  # that answers under way are waited for at the end; None: as tuned
    known: KnownDestination = field(default_factory=KnownDestination)
    reachability: Reachability | None = None  # of a process that delivers again and again; None: of this delivery
    on_progress: Callable[[int], None] = _ignore  # events accepted so far
    warn: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class DeliveryReport:
    """The result of a delivery."""

    events: int  # accepted
    open: int  # pending rows, including those of paused audiences
    paused: int
    dead: int
    failure: DestinationError | MarkUnusable | None  # why it stopped early
    destination: str  # display name
    required: tuple[DeliveryReport, ...] = ()  # of other destinations that count as much


def deliver(workspace: Workspace, delivery: DeliveryOptions) -> DeliveryReport:
    """Deliver pending changes and forwarded events; after a failure, they stay pending.

    Raises:
        BindingRefused: the database belongs to another environment.
        DatabaseOlder: the database was replaced by a backup.
    """
    route = delivery.route or delivery.settings.route
    reachability = delivery.reachability or Reachability(workspace, destination=route.name)
    reachability.begin()
    session = _Session(workspace, delivery, reachability)
    failure: DestinationError | MarkUnusable | None = None
    try:
        session.run()
        if session.events:
            backup_mark.require_kept(workspace.database)  # what was settled last is known to it, too
    except (DestinationError, MarkUnusable) as error:
        failure = error
    with workspace.database.read() as connection:
        counts = backlog.count(connection, forwarded=delivery.forwarded, destination=route.name)
    report = DeliveryReport(session.events, *counts, failure, route.destination.display_name)
    if failure is not None and not delivery.stop.is_set():
        reachability.stopped(failure, again_in=route.delivery.max_backoff.total_seconds())
    elif report.open <= report.paused:
        reachability.accepted()
    return report


class _Session:
    def __init__(self, workspace: Workspace, delivery: DeliveryOptions, reachability: Reachability) -> None:
        self._workspace = workspace
        self._tuning = workspace.tuning
        self._delivery = delivery
        self._settings = delivery.settings
        self._route = delivery.route or delivery.settings.route
        self._reachability = reachability
        self._pool = Pool(workspace.clock)
        self._database_was_away = False
        self._last_progress = workspace.clock.monotonic()
        self._waited = 0  # how many rows waited when other processes were last looked at
        self._looks_at = self._counts_at = self._declares_at = self._takes_at = float("-inf")  # not before
        self._fruitless = 0  # looks for rows
        self.events = 0

    def run(self) -> None:
        if self._delivery.stop.is_set() or not self._deliverable():
            return
        route = self._route
        with closing(self._client()) as api:
            batching = Batching(
                renderer=route.renderer(self._environment(api)),
                batch_size=route.delivery.batch_size,
                stuck_tries=tries_until_stuck(route.delivery.max_backoff),
            )
            self._last_progress = self._workspace.clock.monotonic()
            forwarded, timeout = self._delivery.forwarded, route.destination.timeout
            claims = BatchClaims(
                self._workspace, self._pool, timeout=timeout, forwarded=forwarded, destination=route.name
            )
            group = self._group(claims, batching)
            workers = [Worker(group, self._client()) for _ in range(route.delivery.concurrency)]
            try:
                for worker in workers:
                    worker.start()
                taker = Taker(self._workspace, claims, batching, forwarded=forwarded, destination=route.name)
                self._watch(group, taker, api)
            finally:
                self._end(group, workers)
        if (crash := group.crash or group.settler.crash) is not None:
            raise crash
        if group.failure is not None:
            raise group.failure

    def _group(self, claims: BatchClaims, batching: Batching) -> WorkerGroup:
        delivery, destination = self._route.delivery, self._route.destination
        limiter = RateLimiter(
            self._workspace,
            per_second=delivery.max_requests_per_second,
            workers=delivery.concurrency,
            longest=delivery.max_backoff,
            destination=self._route.name,
        )
        return WorkerGroup(
            workspace=self._workspace,
            destination=destination,
            pool=self._pool,
            claims=claims,
            settler=Settler(self._workspace, destination=destination.display_name, warn=self._delivery.warn),
            limiter=limiter,
            reachability=self._reachability,
            batching=batching,
            max_backoff=delivery.max_backoff,
            timeout=destination.timeout,
        )

    def _end(self, group: WorkerGroup, workers: list[Worker]) -> None:
        """Wait for outstanding responses, settle them, and release all other claims."""
        group.stop.set()
        self._pool.wake()
        drain = self._delivery.drain_seconds
        drain = self._tuning.answer_drain_seconds if drain is None else drain
        deadline = self._workspace.clock.monotonic() + drain
        for worker in workers:
            if worker.is_alive():
                worker.join(max(0.0, deadline - self._workspace.clock.monotonic()))
        group.settler.close(self._tuning.settle_drain_seconds)
        group.claims.close(but=self._pool.posting())
        self.events = group.settler.events

    def _environment(self, api: DestinationClient) -> str:
        """Look up the environment of the key once per process, and retry while the destination is unreachable."""
        if not self._route.has_environment:
            return ""
        known, tries = self._delivery.known, 0
        while known.environment is None:
            try:
                known.environment = bind(self._workspace, self._settings, api)
            except DestinationAway as error:
                tries += 1
                longest = self._route.delivery.max_backoff
                wait = backoff(tries, jitter=self._workspace.clock.jitter(), longest=longest)
                self._reachability.failed(str(error), again_in=wait.total_seconds())
                if self._has_given_up() or self._delivery.stop.wait(wait.total_seconds()):
                    raise
        return known.environment

    def _watch(self, group: WorkerGroup, taker: Taker, api: DestinationClient) -> None:
        """Keep the workers supplied until nothing is left or the delivery ends."""
        clock, settler = self._workspace.clock, group.settler
        moves = 0
        while not (group.stop.is_set() or settler.is_over() or self._has_given_up() or self._delivery.stop.is_set()):
            self._delivery.on_progress(settler.events)
            if group.moves + settler.commits != moves:
                moves = group.moves + settler.commits
                self._last_progress = clock.monotonic()
                self._takes_at, self._fruitless = float("-inf"), 0  # who was held back may be free
            try:
                if clock.monotonic() > self._declares_at + self._tuning.declare_poll_seconds:
                    self._declare(api)
                took = self._supply(group, taker)
                self._database_was_away = False
                if not took and self._is_done(group):
                    return
            except sa.exc.OperationalError as error:
                if not self._database_was_away:
                    self._delivery.warn(f"the membership database is unavailable: {first_line(error)}")
                self._database_was_away = True
                self._delivery.stop.wait(self._tuning.read_retry_seconds)
                continue
            if not took:
                settler.wait_for_commit(self._tuning.worker_poll_seconds)

    def _supply(self, group: WorkerGroup, taker: Taker) -> bool:
        """Claim what others have left, and take rows where the workers will soon have nothing; say if that was so."""
        now = self._workspace.clock.monotonic()
        most = self._free(group)
        if now >= self._looks_at and most > 0:
            left = group.claims.take_over()
            self._looks_at = now + (self._tuning.takeover_poll_seconds if not left else 0.0)
            self._pool_add(group, left, now, is_new=False)
            most = self._free(group)
        if group.limiter.is_out():  # or a batch fails that is alone: one other tells which
            most = 0 if self._pool.load().untried else min(most, 1)
        if most == 0 or now < self._takes_at:
            return False
        try:
            taken = taker.take(most)
        except sa.exc.OperationalError as error:
            if is_lock_timeout(error):  # another process takes rows, or has died while it did
                return False
            raise
        group.nothing_to_take = not taken.progress
        if not taken.progress:
            pause = self._tuning.row_poll_seconds * float(2 ** min(self._fruitless, 10))
            pause = min(self._tuning.longest_row_poll_seconds, pause)
            self._takes_at = self._workspace.clock.monotonic() + pause
            self._fruitless += 1
            return False
        self._fruitless = 0
        group.moves += not taken.batches  # progress, too
        self._pool_add(group, taken.batches, now, is_new=True)
        return True

    def _pool_add(self, group: WorkerGroup, found: Sequence[Batch], now: float, *, is_new: bool) -> None:
        """Have batches posted. Those that another process left wait for their next try, unless a person acts."""
        until = now + group.claims.seconds
        impatient = self._delivery.wait is not None or self._delivery.at_once
        if is_new or impatient:
            self._pool.add(found, until=until)
            return
        wall, longest = self._workspace.clock.now_ms(), group.max_backoff.total_seconds()
        for batch in found:  # a clock that was ahead must not put them off for long
            self._pool.add([batch], until=until, due=now + min((batch.not_before - wall) / 1000, longest))

    def _free(self, group: WorkerGroup) -> int:
        """Return how many batches may be taken: none while the workers have half of those that may be open."""
        size = group.batching.batch_size
        most = max(self._tuning.open_batches, 2 * self._route.delivery.concurrency)
        load = self._pool.load()
        free = most - -(-(load.events + group.settler.unsettled) // size)
        is_free = load.text < self._tuning.open_characters and load.ready <= most * size // 2
        return max(0, free) if is_free else 0

    def _is_done(self, group: WorkerGroup) -> bool:
        """Return whether nothing that can be sent is pending, here or elsewhere."""
        if not group.nothing_to_take or self._pool.load().events:
            return False
        if not group.settler.flush(self._tuning.worker_poll_seconds):
            return False
        if not self._deliverable():
            return True
        self._notice_others()
        return self._delivery.stop.wait(self._tuning.row_poll_seconds)

    def _notice_others(self) -> None:
        """Count it as progress when another process sends pending rows."""
        now = self._workspace.clock.monotonic()
        if self._delivery.wait is None or now < self._counts_at:
            return
        self._counts_at = now + self._tuning.takeover_poll_seconds  # counting is work
        with self._workspace.database.read() as connection:
            waits, _, _ = backlog.count(connection, forwarded=self._delivery.forwarded, destination=self._route.name)
        if waits < self._waited:
            self._last_progress = now
        self._waited = waits

    def _declare(self, api: DestinationClient) -> None:
        self._declares_at = self._workspace.clock.monotonic()
        if not self._route.has_environment:
            return
        declare_traits(
            self._workspace,
            self._settings,
            api,
            stop=self._delivery.stop,
            refused=self._delivery.known.refused,
            warn=self._delivery.warn,
        )

    def _client(self) -> DestinationClient:
        tls, clock = self._delivery.known.tls, self._workspace.clock.now
        return self._route.destination.connect(self._delivery.key, tls=tls, clock=clock)

    def _deliverable(self) -> bool:
        with self._workspace.database.read() as connection:
            return backlog.any_deliverable(connection, forwarded=self._delivery.forwarded, destination=self._route.name)

    def _has_given_up(self) -> bool:
        wait = self._delivery.wait
        idle = self._workspace.clock.monotonic() - self._last_progress
        return wait is not None and idle > wait.total_seconds()
