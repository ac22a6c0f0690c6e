"""The dispatchers of hooks: a thread for each, so that no hook delays another or the destination."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from audience_sync.config import Settings, resolve_hook
from audience_sync.daemon.dispatcher import Dispatcher
from audience_sync.daemon.scheduler import Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.errors import ConfigError
from audience_sync.store.workspace import Workspace

log = structlog.get_logger()


class HookDispatchers:
    """Start, reload and stop the dispatcher of each hook in the configuration."""

    def __init__(self, workspace: Workspace, *, syncing: Syncing, troubles: Troubles) -> None:
        self._workspace = workspace
        self._syncing = syncing
        self._troubles = troubles
        self._running: dict[str, Dispatcher] = {}
        self._ending: list[Dispatcher] = []

    def follow(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Have each hook of a configuration delivered to, and no other.

        A hook without its secret is logged, and its messages stay pending; one that was running goes on as before.
        """
        names = {hook.name for hook in settings.hooks}
        for name in sorted(self._running.keys() - names):
            self._end(name)
        for hook in settings.hooks:
            try:
                secrets = resolve_hook(hook, environ)
            except ConfigError as error:
                log.error("hook_not_started", hook=hook.name, error=str(error), hint=error.hint)
                continue
            route = settings.hook_route(hook, secrets)
            running = self._running.get(hook.name)
            if running is not None and running.is_alive():
                running.reload(settings, secrets.first, route)
                continue
            started = Dispatcher(
                self._workspace,
                settings,
                secrets.first,
                syncing=self._syncing,
                troubles=self._troubles,
                route=route,
            )
            started.start()
            self._running[hook.name] = started

    def stop(self) -> None:
        """Start no more requests."""
        for name in list(self._running):
            self._end(name)

    def close(self, ends_at: float) -> bool:
        """Wait until a time on the monotonic clock for requests in progress; return whether all have ended."""
        for dispatcher in self._ending:
            dispatcher.join(max(0.0, ends_at - self._workspace.clock.monotonic()))
        return not any(dispatcher.is_alive() for dispatcher in self._ending)

    def _end(self, name: str) -> None:
        dispatcher = self._running.pop(name)
        dispatcher.stop()
        self._ending.append(dispatcher)
