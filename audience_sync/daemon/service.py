"""The life of the daemon: start, notify systemd, sync and deliver, reload, and shut down.

With `[ingest] listen`, it also accepts events from Segment's libraries, from before the first sync until the end.

On shutdown, it takes no new work, waits a few seconds for requests in progress in both directions, and releases the
leases. Unsettled events are sent again later, under the same keys.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa
import structlog
from pydantic import BaseModel, SecretStr
from systemd_watchdog.systemd_watchdog import WatchDog

from audience_sync.config import Settings, load, resolve_api_key
from audience_sync.daemon.dispatcher import Dispatcher
from audience_sync.daemon.hook_dispatchers import HookDispatchers
from audience_sync.daemon.scheduler import Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.database_error import first_line, is_away
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.logs import crashes_logged
from audience_sync.segment.timestamps import iso
from audience_sync.store import backlog
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.listener import open_server

# --- systemd ----------------------------------------------------------------------------------------------------------
# Messages to systemd: ready, alive, reloading, stopping. Without systemd, nothing is sent.


class Notifier:
    """Sends messages to systemd; a context manager that closes its socket."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._watchdog = WatchDog(sock=self._socket)

    def ready(self) -> None:
        """Report that the start, or a reload, is complete."""
        self._watchdog.ready()

    def alive(self) -> None:
        """Report that the main thread is alive, at every call: the library's `ping` uses a wall clock that may jump."""
        self._watchdog.notify()

    def status(self, line: str) -> None:
        """Send the line that `systemctl status` shows."""
        self._watchdog.status(line)

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` ends it. The time makes it work with `Type=notify-reload`, too."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1_000_000)}\n")

    def stopping(self) -> None:
        """Report that the daemon is stopping."""
        self._send("STOPPING=1\n")

    def _send(self, message: str) -> None:
        self._watchdog._send(message)  # noqa: SLF001 - the library has no word for these

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


# --- reload -----------------------------------------------------------------------------------------------------------
# A configuration change in a running daemon: read completely, compared with the current one, and logged.
#
# Settings of the process as a whole stay as they were until a restart: the membership database, the address and the
# write keys for events, and the label of the destination's environment. Another `identity` is refused, because every
# audience's keys rest on it.


@dataclass(frozen=True, kw_only=True)
class Reload:
    """A new configuration, and its differences from the previous one."""

    settings: Settings
    key: SecretStr
    added: tuple[str, ...]  # audiences and computed traits, by key
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    other: tuple[str, ...]  # settings outside of them that hold from now on
    needs_restart: tuple[str, ...]  # settings that need a restart


def read_again(old: Settings, key: SecretStr, environ: Mapping[str, str]) -> Reload:
    """Read the configuration file again and compare it with the current settings and API key.

    Raises:
        ConfigError: it is invalid; the old one stays in effect.
    """
    if not old.path.is_file():  # a pipe was read to its end, and waiting for it could take forever
        raise ConfigError(f"{old.path} is not a file", hint="restore the file; a pipe can only be read at startup")
    new = load(old.path, environ)
    if old.audiences and not new.audiences:
        raise ConfigError(
            f"{old.path} no longer has any audiences or computed traits",
            hint="if this is intended, restart the daemon",
        )
    new_key = resolve_api_key(new.section, environ)
    if new.identity != old.identity:
        raise ConfigError(
            f"identity: the membership database uses {old.identity!r}, but the configuration has {new.identity!r}",
            hint=f'set identity = "{old.identity}"; for a new identity, set a new [database] url and restart',
        )
    kept = {"database": old.database, "ingest": old.ingest}
    settings = new.with_environment_label(old.destination.environment_label).model_copy(update=kept)
    before, after = ({one.key: one for one in of.audiences} for of in (old, new))
    apart: dict[str, object] = {"audiences": (), "included": ()}  # `added`, `removed` and `changed` say what they mean
    other = _differing(old.model_copy(update=apart), settings.model_copy(update=apart))
    return Reload(
        settings=settings,
        key=new_key,
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(one for one in before.keys() & after.keys() if before[one] != after[one])),
        other=(*other, *(["the API key"] if new_key != key else [])),
        needs_restart=tuple(_differing(settings, new)),
    )


def _differing(one: BaseModel, other: BaseModel, path: str = "") -> Iterator[str]:
    """Yield the names of settings that differ, such as `delivery.max_backoff` and `sources.shop`; never a value."""
    for name in type(one).model_fields:
        yield from _differing_in(getattr(one, name), getattr(other, name), f"{path}{name}")


def _differing_in(one: object, other: object, name: str) -> Iterator[str]:
    if one == other:
        return
    if isinstance(one, BaseModel) and isinstance(other, BaseModel):
        yield from _differing(one, other, f"{name}.")
    elif isinstance(one, dict) and isinstance(other, dict):
        yield from (f"{name}.{key}" for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key))
    else:
        yield "mappings" if name == "mapping_tables" else name


# --- service ----------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    from audience_sync.tracking_api.server import Server

log = structlog.get_logger()


def run(
    workspace: Workspace,
    settings: Settings,
    key: SecretStr,
    *,
    stop: threading.Event,
    reload: threading.Event | None = None,
) -> None:
    """Sync and deliver, and accept events if configured, until `stop` is set; `reload` requests a reload.

    While the destination refuses the key, retry every `max_backoff`.

    Raises:
        BindingRefused: the key belongs to another environment.
        ConfigError: a write key, or a library, is missing.
        AudienceSyncError: the address for events is not available, or a part of the daemon has crashed.
    """
    tuning, troubles = workspace.tuning, Troubles(workspace.clock.monotonic)
    syncing = Syncing(workspace, settings, stop=stop, troubles=troubles)
    dispatcher = Dispatcher(workspace, settings, key, syncing=syncing, troubles=troubles)
    hooks = HookDispatchers(workspace, syncing=syncing, troubles=troubles)
    crashed = None
    with ExitStack() as ending:
        ending.enter_context(crashes_logged())
        notifier = ending.enter_context(Notifier(workspace.clock.monotonic))
        ingest = _open_ingest(workspace, settings, ending)
        syncing.start()
        dispatcher.start()
        hooks.follow(settings, os.environ)
        notifier.ready()
        log.info("daemon_started", audiences=len(settings.audiences), next_sync_at=_iso(syncing.next_at()))
        reloader = _Reloader(syncing, dispatcher, hooks, notifier, settings, key)
        try:
            told_at = float("-inf")
            while not stop.wait(tuning.watch_seconds) and dispatcher.is_alive() and (crashed := _crash(ingest)) is None:
                notifier.alive()
                if reload is not None and reload.is_set():
                    reload.clear()  # before the file is read: one that comes meanwhile counts
                    if not reloader.reload():
                        reload.set()
                    told_at = float("-inf")
                hooks.watch()
                syncing.follow_clock()
                if workspace.clock.monotonic() - told_at > tuning.status_seconds:
                    notifier.status(_status(workspace, reloader.settings, syncing))
                    told_at = workspace.clock.monotonic()
        finally:
            log.info("daemon_stopping", requested=stop.is_set())
            stop.set()
            notifier.stopping()
            if not _end(workspace, syncing, dispatcher, hooks, ingest):
                _leave(sys.exception() or dispatcher.failure or crashed, settings.destination.display_name)
    if dispatcher.failure is not None:
        raise dispatcher.failure
    if crashed is not None:
        raise crashed


class _Reloader:
    """Apply a changed configuration to every part of the daemon."""

    def __init__(
        self,
        syncing: Syncing,
        dispatcher: Dispatcher,
        hooks: HookDispatchers,
        notifier: Notifier,
        settings: Settings,
        key: SecretStr,
    ) -> None:
        self._syncing = syncing
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._notifier = notifier
        self.settings = settings  # current
        self._key = key
        self._is_delayed = False

    def reload(self) -> bool:
        """Read the configuration again and apply it if it is valid; return False if it must be retried."""
        self._notifier.reloading()
        try:
            found = read_again(self.settings, self._key, os.environ)
            self._syncing.reload(found.settings)
        except ConfigError as error:
            self._is_delayed = False
            log.error("reload_failed", problems=str(error).splitlines(), hint=error.hint)
            return True
        except sa.exc.SQLAlchemyError as error:
            if not is_away(error):
                raise
            if not self._is_delayed:
                log.warning("reload_delayed", why=f"the membership database is unavailable: {first_line(error)}")
            self._is_delayed = True
            return False
        finally:
            self._notifier.ready()
        self._is_delayed = False
        self._dispatcher.reload(found.settings, found.key)
        self._hooks.follow(found.settings, os.environ)
        self.settings, self._key = found.settings, found.key
        self._log(found)
        return True

    def _log(self, found: Reload) -> None:
        log.info(
            "configuration_reloaded",
            audiences=len(found.settings.audiences),
            added=found.added,
            removed=found.removed,
            changed=found.changed,
            settings=found.other,
            next_sync_at=_iso(self._syncing.next_at()),
        )
        if found.needs_restart:
            log.warning("restart_required", settings=found.needs_restart)


def _open_ingest(workspace: Workspace, settings: Settings, ending: ExitStack) -> Server | None:
    ingest = open_server(workspace, settings, os.environ)
    if ingest is not None:
        ending.callback(
            ingest.close, workspace.tuning.watch_seconds
        )  # when the start fails; at the end it is closed already
        log.info("ingest_started", address=str(ingest.address))
    return ingest


def _crash(ingest: Server | None) -> AudienceSyncError | None:
    """Return why the daemon must end, if it should accept events but no longer does."""
    if ingest is None or ingest.is_alive():
        return None
    return AudienceSyncError("event ingestion has crashed; see `thread_crashed` in the log")


def _end(
    workspace: Workspace, syncing: Syncing, dispatcher: Dispatcher, hooks: HookDispatchers, ingest: Server | None
) -> bool:
    """End all work in parallel and in order; return whether everything ended in time."""
    ends_at = workspace.clock.monotonic() + workspace.tuning.drain_seconds
    dispatcher.stop()
    hooks.stop()
    if ingest is not None:
        ingest.stop()
    syncing.stop()
    closed = syncing.close(workspace.tuning.sync_drain_seconds)
    dispatcher.join(max(0.0, ends_at - workspace.clock.monotonic()))
    hooks_closed = hooks.close(ends_at)
    if ingest is not None:
        ingest.close(max(0.0, ends_at - workspace.clock.monotonic()))
    log.info("daemon_stopped")
    return closed and hooks_closed and not dispatcher.is_alive()


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def _leave(failure: BaseException | None, destination: str) -> None:
    """End the process although a source or the destination has not answered; the next start knows that it died."""
    log.info("work_abandoned", why=f"a source or {destination} did not respond in time; nothing was lost")
    if failure is None:
        os._exit(0)
    if isinstance(failure, AudienceSyncError):
        what, trace, code = str(failure), None, failure.exit_code
    else:
        what, trace, code = type(failure).__name__, failure, 1
    log.error("daemon_failed", error=what, exc_info=trace)
    os._exit(code)


def _status(workspace: Workspace, settings: Settings, syncing: Syncing) -> str:
    try:
        with workspace.database.read() as connection:
            rows, _, dead = backlog.count(connection)
    except sa.exc.SQLAlchemyError as error:
        return f"the membership database is unavailable: {first_line(error)}"
    at = syncing.next_at()
    due = f"next sync {at:%H:%M} UTC" if at else "no sync scheduled"
    return f"{settings.counts()}, {due}, {rows} open, {dead} dead"
