"""The commands deliver and run, and the delivery at the end of other commands."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

import typer
from pydantic import SecretStr

from audience_sync import runtime
from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, Progress, print_result
from audience_sync.cli.context import clock, console, settings_of
from audience_sync.cli.text_table import Record
from audience_sync.config import Route, Settings, parse_duration, resolve_api_key, resolve_hook
from audience_sync.delivery import DeliveryOptions, DeliveryReport, SideDeliveries, deliver
from audience_sync.errors import ConfigError
from audience_sync.signals import stoppable
from audience_sync.store import backlog, erasure
from audience_sync.store.workspace import Workspace


def duration(text: str) -> timedelta:
    """Return a duration such as 30s, 15m or 2h."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Wait = Annotated[
    timedelta,
    typer.Option(
        parser=duration,
        metavar="DURATION",
        help="Give up after waiting this long for the destination or another process.",
    ),
]
WAIT: Final[Any] = "1m"
"""The default of --wait, as help shows it; Typer parses it."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for name, command, example in (
        ("deliver", deliver_command, "audience-sync deliver --wait 10m"),
        ("run", run, "audience-sync --config /etc/audience-sync/config.toml run"),
    ):
        app.command(name, epilog=f"Example: {example}")(command)


def deliver_command(context: typer.Context, wait: Wait = WAIT, format: FormatOption = Format.TABLE) -> None:
    """Deliver everything pending, then exit.

    Delivers changes and forwarded events, with retries, until nothing is pending or no further progress is possible.
    """
    settings = settings_of(context)
    key = resolve_secrets(settings)
    with working(settings) as (workspace, stop):
        with workspace.database.read() as connection:
            is_idle = not backlog.any_deliverable(connection)  # hooks do not use the key
        delivery = send(workspace, settings, key, wait=wait, stop=stop, forwarded=True)
        if delivery is not None:
            print_result(_record(delivery), format=format)
        code = run_output.exit_code([], [], delivery)
        if is_idle:
            console.print("the API key was not used; `audience-sync check` verifies it")
        raise typer.Exit(code)


def _record(delivery: DeliveryReport) -> Record:
    return {
        "accepted": delivery.events,
        "open": delivery.open,
        "paused": delivery.paused,
        "dead": delivery.dead,
        "error": None if delivery.failure is None else str(delivery.failure),
    }


def run(context: typer.Context) -> None:
    """Run as a service: sync on schedule and deliver continuously.

    Stops within ten seconds of SIGTERM, Ctrl-C or the closing of its terminal; a second signal stops it immediately.
    SIGHUP reloads the configuration; an invalid configuration changes nothing.
    """
    reload = threading.Event()
    was_on_terminal = _is_on_terminal()

    def hung_up() -> bool:
        if was_on_terminal and not _is_on_terminal():
            return True
        reload.set()
        return False

    # First, because from now on a SIGHUP must not end the process.
    with stoppable(lambda: None, on_hangup=hung_up) as stop:
        from audience_sync import daemon, logs  # noqa: PLC0415 - only this command needs the scheduler, and structlog

        settings = settings_of(context)
        key = resolve_api_key(settings.section, os.environ)
        logs.configure()
        with runtime.working(settings, clock(), warn=run_output.warn) as workspace:
            run_output.print_database(workspace.database)
            run_output.warn_exposed_files(settings)
            daemon.run(workspace, settings, key, stop=stop, reload=reload)


def _is_on_terminal() -> bool:
    """Return whether a standard stream is an open terminal."""
    return any(os.isatty(number) for number in range(3))


@contextmanager
def working(settings: Settings, *, any_age: bool = False) -> Iterator[tuple[Workspace, threading.Event]]:
    """Open the membership database for a command that works on it; a signal ends the command after its current step.

    `any_age` allows a database that comes from a backup.

    Raises:
        DatabaseOlder: it is older than the data sent from it.
        KeyboardInterrupt: a signal came.
    """
    with stoppable(_say_stopping) as stop:
        try:
            opened = runtime.working(
                settings, clock(), any_age=any_age, warn=run_output.warn, on_wait=run_output.waiting_for_lock
            )
            with opened as workspace:
                run_output.print_database(workspace.database)
                try:
                    yield workspace, stop
                finally:
                    if not stop.is_set():
                        erasure.tidy(workspace.database)
        finally:
            if stop.is_set():
                raise KeyboardInterrupt


def _say_stopping() -> None:
    console.print("stopping after the current step (press Ctrl-C again to quit now; nothing is lost)")


def resolve_secrets(settings: Settings) -> SecretStr:
    """Return the API key, if each required hook has its secrets, too: nothing may begin that cannot be delivered.

    Raises:
        ConfigError: the key, or a secret of a required hook, is missing or unusable.
    """
    key = resolve_api_key(settings.section, os.environ)
    for hook in settings.hooks:
        if hook.required:
            resolve_hook(hook, os.environ)
    return key


def send(
    workspace: Workspace,
    settings: Settings,
    key: SecretStr | None,
    *,
    wait: timedelta,
    stop: threading.Event,
    forwarded: bool = False,
) -> DeliveryReport | None:
    """Deliver changes, and with `forwarded` also events, showing progress. Without a key, deliver nothing.

    Raises:
        BaseException: what made the delivery, or else that of a required hook, crash.
    """
    if key is None:
        return None
    delivery = DeliveryOptions(
        settings=settings, key=key, forwarded=forwarded, wait=wait, stop=stop, warn=run_output.warn
    )
    others = SideDeliveries(workspace, list(_hook_deliveries(workspace, settings, delivery)))
    with Progress("delivery") as progress:
        on_progress = partial(progress.show, "delivering")
        try:
            report = deliver(workspace, replace(delivery, on_progress=on_progress))
        except BaseException:
            run_output.say_crashes(others.finish(stop=stop))
            raise
        ended = others.finish(stop=stop, patiently=forwarded)  # else the command syncs, which must not wait
    fatal = next((one for one in ended if one.route.is_required and one.crash is not None), None)
    run_output.say_crashes(one for one in ended if one is not fatal)
    run_output.say_hooks(workspace.database, [(one.route, one.report) for one in ended])
    if fatal is not None and fatal.crash is not None:
        raise fatal.crash
    return replace(report, required=tuple(one.report for one in ended if one.route.is_required and one.report))


def _hook_deliveries(
    workspace: Workspace, settings: Settings, delivery: DeliveryOptions
) -> Iterator[tuple[Route, DeliveryOptions]]:
    """Yield a delivery for each hook that has something pending.

    Raises:
        ConfigError: a required hook has no secret. Without that of another hook, its messages stay pending.
    """
    for hook in settings.hooks:
        with workspace.database.read() as connection:
            if not backlog.any_deliverable(connection, destination=hook.name):
                continue
        try:
            secrets = resolve_hook(hook, os.environ)
        except ConfigError as error:
            if hook.required:
                raise
            run_output.warn(f"{error}; its messages stay pending")
            continue
        yield settings.hook_route(hook, secrets), replace(delivery, key=secrets.first, forwarded=True)
