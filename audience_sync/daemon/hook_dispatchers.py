"""The dispatchers of hooks: a thread for each, so that no hook delays another or the destination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from audience_sync.config import HookTable, Settings, WebhookSecrets, resolve_hook
from audience_sync.daemon.dispatcher import Dispatcher
from audience_sync.daemon.scheduler import Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.errors import ConfigError
from audience_sync.segment.timestamps import iso
from audience_sync.store.workspace import Workspace

log = structlog.get_logger()


@dataclass
class _Running:
    """The dispatcher of a hook, and what it follows."""

    settings: Settings
    hook: HookTable
    secrets: WebhookSecrets
    dispatcher: Dispatcher
    started_at: float  # monotonic
    starts_again_at: float | None = None  # it has ended by itself
    reason: str | None = None  # why it ended the last time


class HookDispatchers:
    """Start, reload, watch and stop the dispatcher of each hook in the configuration."""

    def __init__(self, workspace: Workspace, *, syncing: Syncing, troubles: Troubles) -> None:
        self._workspace = workspace
        self._syncing = syncing
        self._troubles = troubles
        self._running: dict[str, _Running] = {}
        self._ending: list[Dispatcher] = []

    def follow(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Have each hook of a configuration delivered to, and no other.

        A hook without its secret is logged, and its messages stay pending. One that was running goes on as before if
        its table is the same; otherwise it ends, because its messages must not go where the file no longer says.
        """
        self._ending = [dispatcher for dispatcher in self._ending if dispatcher.is_alive()]
        names = settings.hook_names
        for name in sorted(self._running.keys() - names):
            self._end(name)
        for hook in settings.hooks:
            running = self._running.get(hook.name)
            try:
                secrets = resolve_hook(hook, environ)
            except ConfigError as error:
                log.error("hook_not_started", hook=hook.name, error=str(error), hint=error.hint)
                if running is not None and running.hook != hook:
                    self._end(hook.name)
                continue
            if running is not None and running.dispatcher.is_alive():
                running.settings, running.hook, running.secrets = settings, hook, secrets
                running.dispatcher.reload(settings, secrets.first, settings.hook_route(hook, secrets))
                continue
            started = self._start(settings, hook, secrets)
            self._running[hook.name] = _Running(settings, hook, secrets, started, self._workspace.clock.monotonic())

    def watch(self) -> None:
        """Log each dispatcher that has ended by itself, and start it again after the longest wait of its hook."""
        now = self._workspace.clock.monotonic()
        for running in self._running.values():
            if running.dispatcher.is_alive():
                continue
            if running.starts_again_at is None:
                self._note_end(running, now)
            elif now >= running.starts_again_at:
                running.dispatcher = self._start(running.settings, running.hook, running.secrets)
                running.started_at, running.starts_again_at = now, None

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
        dispatcher = self._running.pop(name).dispatcher
        dispatcher.stop()
        self._ending.append(dispatcher)

    def _start(self, settings: Settings, hook: HookTable, secrets: WebhookSecrets) -> Dispatcher:
        started = Dispatcher(
            self._workspace,
            settings,
            secrets.first,
            syncing=self._syncing,
            troubles=self._troubles,
            route=settings.hook_route(hook, secrets),
        )
        started.start()
        return started

    def _note_end(self, running: _Running, now: float) -> None:
        """Log why a dispatcher ended: as an error, unless it was started again and soon ended for the same reason."""
        pause, failure = running.hook.max_backoff, running.dispatcher.failure
        running.starts_again_at = now + pause.total_seconds()
        before, running.reason = running.reason, "unknown" if failure is None else str(failure)
        is_known = running.reason == before and now < running.started_at + self._workspace.tuning.hook_repeat_seconds
        tell = log.info if is_known else log.error
        tell(
            "hook_stopped",
            hook=running.hook.name,
            error=running.reason,
            hint=None if failure is None else failure.hint,
            starts_again_at=iso(self._workspace.clock.now() + pause),
        )
