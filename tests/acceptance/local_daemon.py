"""The daemon in the process of the test: for all that needs neither a signal, nor a pipe, nor an exit code."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import structlog
from pydantic import SecretStr

from audience_sync import daemon
from audience_sync.clock import Clock
from audience_sync.config import load
from audience_sync.daemon import service
from audience_sync.kill_points import pass_by
from audience_sync.store import holders
from audience_sync.store.database import connect
from audience_sync.store.workspace import Workspace
from audience_sync.tuning import DEFAULT_TUNING, Tuning
from tests.acceptance.running import DEADLINE, Place, until

WATCHFUL = replace(DEFAULT_TUNING, watch_seconds=0.05, outbox_poll_seconds=0.05)


@dataclass
class LocalDaemon:
    """A daemon that runs in a thread of the test."""

    logged: list[dict[str, Any]] = field(default_factory=list)
    """Its log so far. Values are those that were logged, before they become JSON."""
    _failures: list[BaseException] = field(default_factory=list)

    def wait_for(self, event: str) -> None:
        """Wait until it has logged an event."""
        until(lambda: self._failures or any(line["event"] == event for line in self.logged))
        assert self._failures == []


@contextmanager
def local_daemon(
    place: Place, *, reach: Callable[[str], None] = pass_by, seconds: float = DEADLINE, tuning: Tuning = WATCHFUL
) -> Iterator[LocalDaemon]:
    """Run the daemon of a place for a block, then stop it; it must end in order within some seconds."""
    running = LocalDaemon()
    stop = threading.Event()
    settings = load(place.folder / "config.toml", {})

    def work() -> None:
        try:
            with (
                closing(connect(place.database_url, tuning=tuning)) as database,
                closing(holders.enter(database)) as holder,
            ):
                workspace = Workspace(database=database, holder=holder, clock=Clock(), reach=reach)
                daemon.run(workspace, settings, SecretStr(place.key), stop=stop)
        except BaseException as error:  # noqa: BLE001 - asserted below
            running._failures.append(error)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(service, "_leave", _refuse_to_leave))
        stack.enter_context(mock.patch.object(place, "has_daemon", new=True))
        stack.enter_context(mock.patch.dict(os.environ, place.environment))
        stack.enter_context(_captured(running.logged))
        thread = threading.Thread(target=work, name="local daemon")
        thread.start()
        try:
            yield running
        finally:
            stop.set()
            thread.join(seconds)
            ended_in_time = not thread.is_alive()
            thread.join()
    assert running._failures == []
    assert ended_in_time


def _refuse_to_leave(_failure: object) -> None:
    raise AssertionError("the daemon leaves work behind and ends its process")


@contextmanager
def _captured(lines: list[dict[str, Any]]) -> Iterator[None]:
    """Append what the product logs to a list, whatever the process configures for its logs."""

    def keep(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        lines.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.add_log_level, keep])
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("audience_sync.")]
    with ExitStack() as stack:
        for module in modules:
            if isinstance(getattr(module, "log", None), structlog._config.BoundLoggerLazyProxy):
                stack.enter_context(mock.patch.object(module, "log", log))
        yield
