"""The commands that change memberships: sync, plan, approve, retract."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, TypeVar

import typer
from rich.markup import escape

from audience_sync import runtime
from audience_sync.audiences.data_age import DataAges
from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, Progress
from audience_sync.cli.context import console, settings_of
from audience_sync.cli.deliver_commands import WAIT, Wait, resolve_secrets, send, working
from audience_sync.cli.plan_output import PlanSheet, sample_count
from audience_sync.cli.status_commands import known_audience
from audience_sync.cli.time_options import Now, instant
from audience_sync.config import Audience, Settings
from audience_sync.core.model import RunState
from audience_sync.core.text import counted, instant_text
from audience_sync.errors import WAITS_FOR_A_PERSON, AudienceSyncError, BindingRefused, LeaseHeld, UnknownName
from audience_sync.store import audiences, restored_backup, runs, subscriptions
from audience_sync.store.reports import iso
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, Plan, Round, RunReport, make_round, newest_blocked, recover, uses_any
from audience_sync.sync import approve as approve_run
from audience_sync.sync import plan as make_plan
from audience_sync.sync import retract as retract_audience
from audience_sync.sync import sync as sync_audience

LEASE_POLL_INTERVAL = 0.5  # seconds between two attempts while another process holds an audience

T = TypeVar("T")


Names = Annotated[
    list[str] | None, typer.Argument(metavar="AUDIENCE", help="Keys or names of audiences (default: all).")
]
AllowStale = Annotated[
    bool, typer.Option("--allow-stale", help="Evaluate sources even if their newest data is older than max_age.")
]
NoDeliver = Annotated[bool, typer.Option("--no-deliver", help="Keep the changes in the outbox; send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command, example in (
        (sync, "audience-sync sync big_spenders --no-deliver"),
        (plan, "audience-sync plan big_spenders --samples 3"),
        (approve, "audience-sync approve 12"),
        (retract, "audience-sync retract old_audience --yes"),
    ):
        name = command.__name__
        app.command(name, epilog=f"Example: {example}")(command)


def sync(
    context: typer.Context,
    names: Names = None,
    at: Now = None,
    no_deliver: NoDeliver = False,
    resync: Annotated[bool, typer.Option("--resync", help="Resend every current value and every known exit.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Accept a --now before the last sync's; with --resync, also a database restored from a backup.",
        ),
    ] = False,
    allow_stale: AllowStale = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Apply at most N changes per audience.")] = None,
    only: Annotated[str | None, typer.Option(metavar="USER", help="Apply only this user's changes.")] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the membership database if it does not exist.")
    ] = False,
    wait: Wait = WAIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """Evaluate audiences and computed traits, and send what changed.

    The first sync of an audience sends every member; later syncs send only the changes. Audiences and computed traits
    that a query uses are synced first, as of the same time. Exit codes: 0 done, 1 failed, 3 done but some deliveries
    are open or dead, 4 blocked by a guard, held, or not evaluated because the data is stale, 5 another process is
    syncing, 6 API key refused.
    """
    settings = settings_of(context)
    now = instant(settings, at)
    key = None if no_deliver else resolve_secrets(settings)
    if create:
        if (older := runtime.older_schema(settings)) is not None:
            raise older
        runtime.create(settings)
    with working(settings, any_age=resync and force) as (workspace, stop):
        run_output.warn_exposed_files(settings)
        if resync and force and _accept_older(workspace, settings) and not settings.audiences:
            return  # the database only forwards events, so there is nothing to sync
        reports: list[RunReport] = []
        failures: list[AudienceSyncError] = []
        busy: set[str] = set()  # audiences that another process is syncing
        limited = limit is not None or only is not None
        data_ages = DataAges()
        for made, audience in _steps(workspace, settings, names, as_of=now, limited=limited):
            if stop.is_set():
                break
            job = Job(
                settings=settings,
                audience=audience,
                as_of=now,
                at_least=made.as_of,
                allow_stale=allow_stale,
                data_ages=data_ages,
                stop=stop,
            )
            if audience.key in made.chosen:  # others that must come first are synced without these options
                job = replace(job, resync=resync, force=force, limit=limit, only=only)
            try:
                _require_free(settings, audience, busy)
                reports.append(_sync_one(workspace, job, wait))
                _say_unknown(job, reports[-1])
            except BindingRefused:
                raise
            except AudienceSyncError as error:
                busy.update([audience.key] if isinstance(error, LeaseHeld) else [])
                failures.append(error)
                run_output.failed(audience.key, error)
        for report in reports:
            run_output.print_released(workspace.database, report.run)
        delivery = send(workspace, settings, key, wait=wait, stop=stop)
        sent = run_output.show_runs(workspace.database, reports, format=format)
        run_output.shared_identifiers(workspace.database, settings)
        raise typer.Exit(run_output.exit_code([r.run for r in reports], failures, delivery, sent=sent))


def _end_removed_hooks(workspace: Workspace, settings: Settings) -> None:
    """End the subscriptions of hooks that were removed from the configuration: no sync of the audience does."""
    with workspace.database.write() as connection:
        subscriptions.end_others(connection, settings.hook_names)


def _say_unknown(job: Job, report: RunReport) -> None:
    """Note that the user of `--only` is not in the result: the key may be misspelled."""
    counts, is_done = report.run.counts, report.run.state is RunState.SUCCEEDED
    if job.only is not None and is_done and not counts.changed + counts.unchanged:
        run_output.note(f"{job.only} is not in the result of {report.audience_key}, so nothing changed")


def plan(
    context: typer.Context,
    names: Names = None,
    at: Now = None,
    allow_stale: AllowStale = False,
    samples: Annotated[
        int,
        typer.Option(
            parser=sample_count,
            metavar="N|all",
            help="Show N changes of each kind per audience, with the request bodies.",
        ),
    ] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show what a sync would change and send.

    Changes nothing. Shows how many profiles enter, exit and are updated, and how many requests and how much time the
    delivery takes, for each audience and in total. json has one line per audience, preceded by its samples, and the
    total at the end; csv has the samples instead of the summary. Each sample is shown as if it were the only change to
    its profile; `all` shows every change. With a --now before the last sync's, shows what a sync with --force would
    do. Exits with 4 if the sync would be blocked by a guard, held, or not evaluated because the data is stale.
    """
    settings = settings_of(context)
    now = instant(settings, at)
    blocked = False
    failures: list[AudienceSyncError] = []
    with working(settings, any_age=True) as (workspace, stop):
        steps = list(_steps(workspace, settings, names, as_of=now, limited=False))
        sheet = PlanSheet(
            settings,
            workspace.database,
            planned=[audience for _, audience in steps],
            format=format,
            samples=samples,
            now=workspace.clock.now(),
        )
        plans: dict[str, Plan | None] = {}  # None: planning failed
        data_ages = DataAges()
        for in_round, audience in steps:
            if stop.is_set():
                break
            with Progress(audience.key) as progress:
                see = partial(sheet.see, audience, make_space=progress.hide)
                job = Job(settings=settings, audience=audience, as_of=now, on_progress=progress.show, stop=stop)
                job = replace(job, at_least=in_round.as_of, allow_stale=allow_stale, data_ages=data_ages)
                try:
                    made = make_plan(workspace, job, on_found=see, planned=plans)
                except BindingRefused:
                    raise
                except AudienceSyncError as error:
                    plans[audience.key] = None
                    failures.append(error)
                    run_output.failed(audience.key, error)
                    sheet.fail(audience, error)
                    continue
            plans[audience.key] = made
            sheet.show(audience, made)
            blocked = blocked or bool(made.refusals) or made.held is not None or made.stale is not None
        sheet.close()
        run_output.warn_orphans(workspace.database, settings)
    raise typer.Exit(run_output.exit_code([], failures, None) or (WAITS_FOR_A_PERSON if blocked else 0))


def approve(
    context: typer.Context,
    which: Annotated[
        str,
        typer.Argument(metavar="RUN|AUDIENCE", help="ID of a blocked run, or an audience (its newest blocked run)."),
    ],
    yes: Yes = False,
    no_deliver: NoDeliver = False,
    wait: Wait = WAIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """Apply the plan of a blocked run and send its changes.

    Applies exactly the plan that the guard blocked, and fails if a later run has changed the audience. A newly blocked
    run replaces the previous one. With AUDIENCE, shows the newest blocked run and asks for confirmation;
    `audience-sync runs --state blocked` lists all blocked runs. Audiences held by this run become due immediately: the
    daemon syncs them, or run `audience-sync sync`.
    """
    settings = settings_of(context)
    key = None if no_deliver else resolve_secrets(settings)
    with working(settings) as (workspace, stop):
        _end_removed_hooks(workspace, settings)
        before = _run_to_approve(workspace, settings, which, yes=yes)
        is_applied = before.approved_at is not None and before.state is RunState.SUCCEEDED
        approved = _patiently(partial(approve_run, workspace, before.id), wait, stop)
        if is_applied:
            at = instant_text(iso(before.approved_at))
            console.print(f"run {before.id} was already approved at {at}, and its changes were applied")
        else:
            run_output.print_released(workspace.database, approved)
        delivery = send(workspace, settings, key, wait=wait, stop=stop)
        shown = [] if is_applied and format is Format.TABLE else [approved.id]
        sent = run_output.show_run_ids(workspace.database, shown, format=format)
        raise typer.Exit(run_output.exit_code([approved], [], delivery, sent=None if is_applied else sent))


def retract(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="AUDIENCE", help="Key of an audience or computed trait in the membership database.")
    ],
    yes: Yes = False,
    no_deliver: NoDeliver = False,
    wait: Wait = WAIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """End an audience or computed trait and retire its key.

    Sends false for every member of an audience, or null for every profile with a value for a computed trait.
    """
    settings = settings_of(context)
    key = None if no_deliver else resolve_secrets(settings)
    with runtime.opened(settings) as database, database.read() as connection:
        audience = audiences.by_key(connection, name)
    values = (
        f"null for {counted(audience.members, 'profile')} with a value for {audience.key}"
        if audience.computation.has_values
        else f"false for {counted(audience.members, 'member')} of {audience.key}"
    )
    run_output.confirm(f"Send {values}, and never use this key again?", yes=yes)
    with working(settings) as (workspace, stop):
        _end_removed_hooks(workspace, settings)
        retracted = _patiently(partial(retract_audience, workspace, audience.key), wait, stop)
        delivery = send(workspace, settings, key, wait=wait, stop=stop)
        sent = run_output.show_run_ids(workspace.database, [retracted.id], format=format)
        if any(one.key == audience.key and one.enabled for one in settings.audiences):
            run_output.note(f"{audience.key} is still in {settings.path}; syncs will skip it from now on")
        raise typer.Exit(run_output.exit_code([retracted], [], delivery, sent=sent))


def _run_to_approve(workspace: Workspace, settings: Settings, which: str, *, yes: bool) -> RunRow:
    """Return the run with this number, or the newest blocked run of an audience after showing why it is blocked.

    Raises:
        UnknownName: the number of the run, or the key or name of the audience, is unknown.
        ApprovalRefused: no run of the audience is blocked.
        ConfigError: standard input is not a terminal.
    """
    with workspace.database.read() as connection:
        if which.isdecimal():
            return runs.get(connection, int(which))
        audience = known_audience(connection, settings, which)
        run = newest_blocked(connection, audience)
    console.print(f"run {run.id} of {audience.key}, as of {instant_text(iso(run.as_of))}: {escape(run.reason or '')}")
    run_output.confirm(f"Apply the plan of run {run.id}?", yes=yes)
    return run


def _steps(
    workspace: Workspace, settings: Settings, names: list[str] | None, *, as_of: datetime | None, limited: bool
) -> Iterator[tuple[Round, Audience]]:
    """Yield the audiences that a command syncs or plans, in order; those that use one another share a round."""
    chosen = _chosen(workspace, settings, names)
    for family in settings.families(chosen):
        made = make_round(workspace, settings, family, as_of=as_of, limited=limited)
        for audience in made.audiences:
            if audience.key not in made.chosen:
                console.print(f"syncing {audience.key} first: it is used by {_users(settings, made, audience.key)}")
            yield made, audience


def _users(settings: Settings, made: Round, key: str) -> str:
    """Return the audiences of a round that use the given one."""
    return ", ".join(one.key for one in made.audiences if uses_any(settings, one, {key}) is not None)


def _require_free(settings: Settings, audience: Audience, busy: Set[str]) -> None:
    """Refuse to sync an audience that uses one that another process is syncing.

    Raises:
        LeaseHeld: it does.
    """
    used = uses_any(settings, audience, busy)
    if used is not None:
        raise LeaseHeld(
            f"it uses {used!r}, which another process is syncing", hint="`audience-sync status` shows the process"
        )


def _sync_one(workspace: Workspace, job: Job, wait: timedelta) -> RunReport:
    """Sync one audience with progress; wait if another process is working on it."""
    key = job.audience.key
    with Progress(key) as progress:
        job = replace(
            job,
            on_progress=progress.show,
            on_first=lambda found: run_output.first_sync(key, job.at_most(found), job.settings),
        )
        return _patiently(partial(sync_audience, workspace, job), wait, job.stop)


def _chosen(workspace: Workspace, settings: Settings, names: list[str] | None) -> list[Audience]:
    """Return the named audiences, or all that are enabled and neither paused nor retired.

    Prints which are skipped, and which were renamed and therefore start over.
    """
    chosen = [settings.audience(name) for name in names] if names else _active(workspace, settings)
    run_output.warn_renames(workspace.database, settings, chosen)
    return chosen


def _active(workspace: Workspace, settings: Settings) -> list[Audience]:
    """Return the audiences that are enabled and neither paused nor retired."""
    if not settings.audiences:
        raise UnknownName(
            f"{settings.path} has no [[audiences]] and no [[traits]]",
            hint="`audience-sync --config NEW.toml init` writes a file with an example",
        )
    with workspace.database.read() as connection:
        states = {row.key: row.state for row in audiences.every(connection)}
    chosen = []
    for audience in settings.audiences:
        state = states.get(audience.key, "active") if audience.enabled else "disabled in the configuration"
        if state == "active":
            chosen.append(audience)
        else:
            console.print(f"[yellow]skipped:[/] {audience.key} is {state}; {_remedy_of(audience, state)}")
    return chosen


def _remedy_of(audience: Audience, state: str) -> str:
    """Return what to do about an audience that is not synced."""
    if state == "paused":
        return f"to continue, run `audience-sync resume {audience.key}`"
    if state == "retired":
        return "remove it from the configuration, or give it a new name or key"
    return "to sync it, remove `enabled = false`"


def _accept_older(workspace: Workspace, settings: Settings) -> bool:
    """Accept a database that is older than the data sent from it; return False if it is not older.

    All values of its audiences are sent again, and its pending forwarded events become dead letters.
    """
    keys = {audience.key for audience in settings.audiences}
    with workspace.database.write() as connection:
        accepted = restored_backup.accept(connection, keys, now_ms=workspace.clock.now_ms())
    if accepted is None:
        return False
    named = ", ".join(audience.key for audience in accepted.audiences) or "no audiences"
    console.print(f"continuing with an older database: sending all its values again ({named})")
    if accepted.events:
        console.print(
            "forwarded events that may have been sent since the backup was made are now dead letters"
            f" ({accepted.events:,}); to send them, run `audience-sync dead retry --events`"
            f" ({settings.destination.display_name} ignores repetitions of what it received in the last 24 hours);"
            " to delete them, run `audience-sync dead discard --events`"
        )
    for audience in accepted.audiences:
        recover(workspace, audience)
    return True


def _patiently(work: Callable[[], T], wait: timedelta, stop: threading.Event) -> T:
    """Work on an audience; if another process works on it, wait and print that once.

    Raises:
        LeaseHeld: the other process took longer than `wait`, or a signal arrived.
    """
    began, is_said = time.monotonic(), False
    while True:
        try:
            return work()
        except LeaseHeld as held:
            waited = time.monotonic() - began
            if waited > wait.total_seconds() or stop.wait(LEASE_POLL_INTERVAL):
                raise
            if waited > runtime.TUNING.quiet_seconds and not is_said:
                console.print(f"waiting: {escape(str(held))}")
                is_said = True
