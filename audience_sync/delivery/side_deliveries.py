"""Deliveries to other destinations next to that of a command: each has a thread, and none of them delays it.

A delivery that the command does not wait for goes on after the command's own is over only while its destination
answers, and for a few seconds at most, unless delivering is all that the command does. The next delivery sends the
rest.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from audience_sync.clock import Clock
from audience_sync.config import Route
from audience_sync.delivery.delivery_loop import DeliveryOptions, DeliveryReport, deliver
from audience_sync.store.workspace import Workspace


class SideDelivery(threading.Thread):
    """One delivery along a route; `report` is set when it is over, unless it has crashed."""

    def __init__(self, workspace: Workspace, route: Route, delivery: DeliveryOptions) -> None:
        super().__init__(name=f"delivery to {route.name}", daemon=True)
        self.route = route
        self.report: DeliveryReport | None = None
        self.crash: BaseException | None = None
        self.halt = threading.Event()
        self.answered_at = workspace.clock.monotonic()  # something was accepted last
        self._workspace = workspace
        self._events = 0
        tuning = workspace.tuning
        self._delivery = replace(
            delivery,
            route=route,
            stop=delivery.stop if route.is_required else self.halt,
            drain_seconds=None if route.is_required else tuning.side_drain_seconds,
            on_progress=self._note,
        )

    def run(self) -> None:
        """Deliver; an unexpected exception is kept for the thread that waits."""
        try:
            self.report = deliver(self._workspace, self._delivery)
        except BaseException as error:  # noqa: BLE001 - handed over, and told there
            self.crash = error

    def _note(self, events: int) -> None:
        if events > self._events:
            self._events, self.answered_at = events, self._workspace.clock.monotonic()


class SideDeliveries:
    """The deliveries along other routes while a command delivers along its own."""

    def __init__(self, workspace: Workspace, deliveries: Sequence[tuple[Route, DeliveryOptions]]) -> None:
        self._workspace = workspace
        self._threads = [SideDelivery(workspace, route, delivery) for route, delivery in deliveries]
        for thread in self._threads:
            thread.start()

    def finish(self, *, stop: threading.Event, patiently: bool = False) -> list[SideDelivery]:
        """Wait for what is required, and a little for the rest; return all, each with how it ended.

        `patiently`: wait for the rest for as long as it answers.
        The report of one that is not over, or has crashed, is None.
        """
        clock, tuning = self._workspace.clock, self._workspace.tuning
        optional = [thread for thread in self._threads if not thread.route.is_required]
        ends_at = float("inf") if patiently else clock.monotonic() + tuning.side_seconds
        while any(self._may_go_on(one, clock, ends_at) for one in optional) and not stop.wait(tuning.side_poll_seconds):
            pass
        for thread in optional:
            thread.halt.set()
        for thread in self._threads:
            thread.join(2 * tuning.side_drain_seconds if thread in optional else None)
        return self._threads

    def _may_go_on(self, thread: SideDelivery, clock: Clock, ends_at: float) -> bool:
        now = clock.monotonic()
        return thread.is_alive() and now < min(ends_at, thread.answered_at + self._workspace.tuning.side_quiet_seconds)
