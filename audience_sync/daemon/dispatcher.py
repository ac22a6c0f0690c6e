"""The delivery side of the daemon: a thread that delivers whenever something is pending, through every outage."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

import sqlalchemy as sa
import structlog
from pydantic import SecretStr

from audience_sync.config import Route, Settings
from audience_sync.daemon.scheduler import Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.database_error import is_away
from audience_sync.delivery import DeliveryOptions, OutageChange, Reachability, deliver
from audience_sync.destinations.destination_protocol import Destination
from audience_sync.errors import AudienceSyncError, BindingRefused
from audience_sync.logs import log_crash
from audience_sync.store import backlog, erasure, outages, reports
from audience_sync.store.outages import OutageKind
from audience_sync.store.workspace import Workspace

log = structlog.get_logger()


class Dispatcher(threading.Thread):
    """Deliver to one destination whenever something is pending.

    `failure` is the reason why it ended, unless `stop` was called.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        key: SecretStr,
        *,
        syncing: Syncing,
        troubles: Troubles,
        route: Route | None = None,
    ) -> None:
        name = (route or settings.route).name
        super().__init__(name="dispatcher" if route is None else f"dispatcher {name}", daemon=True)
        self._destination = name  # of its rows
        self._is_primary = route is None
        self._facts = {} if route is None else {"hook": name}  # in the log
        self._workspace = workspace
        self._syncing = syncing
        self._troubles = troubles
        self._reachability = Reachability(workspace, goes_on=True, report=self._report, destination=name)
        self._over = threading.Event()
        self._was_reloaded = False
        self._tries_at_once = False  # the next delivery does
        self._delivery = self._make_delivery(settings, key, route)
        self.failure: AudienceSyncError | None = None

    def reload(self, settings: Settings, key: SecretStr, route: Route | None = None) -> None:
        """Continue with another configuration and retry at once; requests in progress are settled first."""
        self._was_reloaded = True
        before, self._delivery = self._delivery, self._make_delivery(settings, key, route)
        self._tries_at_once = True  # only now: the delivery before must not take it
        before.stop.set()

    def stop(self) -> None:
        """Start no more requests, and end when those in progress are settled."""
        self._over.set()
        self._delivery.stop.set()

    def run(self) -> None:
        """Work until stopped, or until the key is found to belong to another environment."""
        try:
            while not self._over.wait(self._workspace.tuning.outbox_poll_seconds):
                self._try_round()
        except AudienceSyncError as error:  # the key of another environment: somebody must act
            self.failure = error
        except Exception as error:  # noqa: BLE001 - the wrapper of the thread: the daemon must not go on without it
            log_crash(self, error)
            self.failure = AudienceSyncError("delivery has crashed; see `thread_crashed` in the log")
        self._note_end()

    def _try_round(self) -> None:
        try:
            self._round(self._delivery)
        except sa.exc.SQLAlchemyError as error:
            if not is_away(error):
                raise
            self._troubles.note_database_away(error)

    def _make_delivery(self, settings: Settings, key: SecretStr, route: Route | None) -> DeliveryOptions:
        return DeliveryOptions(
            settings=settings, key=key, route=route, wait=None, reachability=self._reachability, warn=self._warn
        )

    def _round(self, delivery: DeliveryOptions) -> None:
        with self._workspace.database.read() as connection:
            is_idle = not backlog.any_deliverable(connection, destination=self._destination)
        self._troubles.note_database_back()
        if is_idle:
            return
        route = delivery.route or delivery.settings.route
        if delivery.route is None:
            self._gather(delivery)
        pause = route.delivery.max_backoff.total_seconds()
        at_once = self._tries_at_once and delivery is self._delivery
        if at_once:
            self._tries_at_once = False
        try:
            report = deliver(self._workspace, replace(delivery, at_once=at_once))
        except BindingRefused as error:
            if not self._was_reloaded:
                raise
            self._reachability.stopped(error, again_in=pause)  # an error in a reload must not stop anything else
            delivery.stop.wait(pause)
            return
        if report.events:
            log.info("events_delivered", events=report.events, open=report.open, dead=report.dead, **self._facts)
        if report.open <= report.paused and not delivery.stop.is_set():
            erasure.tidy(self._workspace.database)
        if report.failure is not None:
            delivery.stop.wait(pause)

    def _gather(self, delivery: DeliveryOptions) -> None:
        tuning = self._workspace.tuning
        until = self._workspace.clock.monotonic() + tuning.gather_seconds
        while self._syncing.behind() and self._workspace.clock.monotonic() < until:
            if delivery.stop.wait(tuning.gather_poll_seconds):
                return

    def _report(self, change: OutageChange) -> None:
        """Log a new state of the destination (unreachable, key refused, wrong address, back) and the old one."""
        outage, before = change.outage, change.before
        destination = (self._delivery.route or self._delivery.settings.route).destination
        facts: dict[str, object] = {**self._facts, "pending": self._pending()}
        if before is not None and change.after is not None:
            facts |= {"was": before.kind.value, "after_seconds": round(change.after.total_seconds())}
        if outage is None:
            began_at = None if before is None else reports.iso(before.began_at)
            if self._is_primary:
                log.info("schematic_recovered", **facts, nothing_accepted_since=began_at)
            else:
                log.info("hook_recovered", **facts, nothing_accepted_since=began_at)
            return
        facts |= {"since": reports.iso(outage.since), "next_try_at": reports.iso(outage.next_try_at)}
        match outage.kind:
            case OutageKind.UNREACHABLE if self._is_primary:
                log.warning("schematic_unreachable", last_answer=outage.answer, **facts)
            case OutageKind.UNREACHABLE:
                log.warning("hook_unreachable", last_answer=outage.answer, **facts)
            case OutageKind.KEY_REFUSED:
                log.error("key_refused", error=outage.answer, **facts, hint=_key_hint(destination))
            case OutageKind.STOPPED:
                log.error("delivery_stopped", error=outage.answer, **facts)
            case _:
                assert_never(outage.kind)

    def _pending(self) -> int | None:
        try:
            with self._workspace.database.read() as connection:
                rows, paused, _ = backlog.count(connection, destination=self._destination)
        except sa.exc.SQLAlchemyError:
            return None
        return rows - paused

    def _note_end(self) -> None:
        """Remove the next attempt from `status` if there will be none."""
        with suppress(sa.exc.SQLAlchemyError):
            with self._workspace.database.read() as connection:
                outage = outages.find(connection, destination=self._destination)
            if outage is not None:
                with self._workspace.database.write() as connection:
                    outages.note_no_next_try(connection, destination=self._destination)

    def _warn(self, sentence: object) -> None:
        log.warning("delivery_warning", warning=str(sentence), **self._facts)


def _key_hint(destination: Destination) -> str:
    setting = destination.credential_setting
    return f"nothing was lost; correct {setting}, then reload (for a key file) or restart the service"
