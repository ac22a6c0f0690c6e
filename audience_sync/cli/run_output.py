"""Print the outcome of runs and deliveries, and choose the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import typer
from rich.markup import escape
from rich.text import Text

from audience_sync.checks import check_permissions
from audience_sync.cli.console import Format, Sheet
from audience_sync.cli.context import console
from audience_sync.cli.text_table import TableView, wrap
from audience_sync.config import Audience, Route, Settings
from audience_sync.core.forecast import forecast
from audience_sync.core.model import RunState
from audience_sync.core.text import counted, short_duration
from audience_sync.delivery import DeliveryReport, SideDelivery
from audience_sync.errors import (
    DELIVERIES_OPEN,
    WAITS_FOR_A_PERSON,
    AudienceSyncError,
    ConfigError,
    DestinationAway,
    KeyRefused,
)
from audience_sync.store import audiences, backlog, identifiers, outbox, runs
from audience_sync.store.audiences import rename_warnings
from audience_sync.store.database import Database, display_url
from audience_sync.store.runs import RunRow
from audience_sync.sync import RunReport

RUN_COLUMNS = (
    "id", "audience", "kind", "state", "read", "entered", "exited", "updated", "unchanged", "rejected", "duplicates",
    "sent", "open", "dead", "members", "reason",
)  # fmt: skip
REPORT_SHOWN = TableView(
    RUN_COLUMNS,
    optional=("members", "updated", "dead", "open", "sent", "rejected", "read", "unchanged", "duplicates", "kind"),
)


def print_database(database: Database) -> None:
    """Print which membership database a command uses."""
    console.print(Text(f"membership database: {display_url(database.engine.url)}"))


def warn_exposed_files(settings: Settings) -> None:
    """Warn about files that other users can access; see `checks.check_permissions`."""
    for finding in check_permissions.look(settings):
        warn(f"{finding.subject} {finding.message}; hint: {finding.remedy}")


def first_sync(key: str, members: int, settings: Settings) -> None:
    """Print what a first sync will send to the destination, before its first commit."""
    events, requests, seconds = forecast(
        members * settings.coverage(settings.audience(key), environment="").events,
        batch_size=settings.delivery.batch_size,
        per_second=settings.delivery.max_requests_per_second,
    )
    rate = settings.delivery.max_requests_per_second
    console.print(
        f"first sync of {key}: up to {counted(events, 'event')} in {counted(requests, 'request')},"
        f" at least {short_duration(timedelta(seconds=seconds))}"
        f" at {rate:,g} requests per second; each event updates the user's last_seen_at and may trigger a webhook;"
        f" {settings.destination.display_name} creates users it does not know"
    )


def failed(key: str, error: AudienceSyncError) -> None:
    """Print why one of several audiences was not synced, naming it once."""
    complain(error, subject="" if repr(key) in str(error) else f"{key}: ")


def complain(error: AudienceSyncError, *, subject: str = "") -> None:
    """Print an error and its hint; the command continues."""
    console.print(f"[red]error:[/] {subject}{escape(str(error))}")
    if error.hint:
        console.print(f"[bold]hint:[/] {escape(error.hint)}")


def warn(sentence: str) -> None:
    """Print a warning; the command continues."""
    console.print(f"[yellow]warning:[/] {escape(sentence)}")


def waiting_for_lock() -> None:
    """Print that another program has locked the membership database."""
    console.print("waiting: another program has locked the membership database")


def note(sentence: str) -> None:
    """Print a note about something that is not wrong."""
    console.print(f"[yellow]note:[/] {escape(sentence)}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation before something that cannot be undone.

    Raises:
        ConfigError: standard input is not a terminal, and --yes is missing.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "confirmation is needed, but standard input is not a terminal",
            hint=f"add --yes to answer yes to: {question}",
        )
    lines = wrap(Text(question), console.line_width - len(" [y/N]: "))
    typer.confirm("\n".join(line.plain for line in lines), abort=True, err=True)


def show_runs(database: Database, reports: Sequence[RunReport], *, format: Format) -> int:
    """Print one line per run, and why rows were rejected or the run is blocked.

    Return the number of their changes that the destination has accepted.
    """
    sent = show_run_ids(database, [report.run.id for report in reports], format=format)
    for report in reports:
        if report.is_unread:
            console.print(f"{report.audience_key}: no rows read, because the sums of the source are unchanged")
        if report.rejections:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.rejections.items()))
            console.print(
                f"{report.audience_key}: {reasons} (`audience-sync rejections --run {report.run.id}` shows which)"
            )
    return sent


def show_run_ids(database: Database, run_ids: Sequence[int], *, format: Format) -> int:
    """Print one line per run, with its current state in the database.

    Return the number of their changes that the destination has accepted.
    """
    sent = 0
    sheet = Sheet(RUN_COLUMNS, format=format, shown=REPORT_SHOWN)
    with database.read() as connection:
        for run_id in run_ids:
            run = runs.get(connection, run_id)
            sent += run.sent
            audience = audiences.by_id(connection, run.audience_id)
            open_rows, dead = outbox.count_of_run(connection, run_id)
            sheet.add(_run_record(run, audience.key, audience.members, open_rows, dead))
            if run.definition_changed:
                console.print(
                    f"note: {audience.key}: its definition or something it uses has been edited since the previous run;"
                    f" see `audience-sync audiences {audience.key} --history`"
                )
            if run.state is RunState.HELD:
                console.print(f"[yellow]held:[/] {audience.key}: {escape(run.reason or '')}")
            if run.state is RunState.STALE:
                console.print(f"[yellow]stale:[/] {audience.key}: {escape(run.reason or '')}")
                console.print(
                    "hint: nothing was evaluated; load new data, or run `audience-sync sync"
                    f" {audience.key} --allow-stale`"
                )
            if run.state is RunState.BLOCKED:
                console.print(f"[yellow]blocked:[/] {audience.key}: {escape(run.reason or '')}")
                console.print(
                    f"hint: review it with `audience-sync plan {audience.key}`, then run `audience-sync"
                    f" approve {run.id}`"
                )
    sheet.close()
    return sent


def exit_code(
    done: Sequence[RunRow],
    failures: Sequence[AudienceSyncError],
    delivery: DeliveryReport | None,
    *,
    sent: int | None = None,
) -> int:
    """Print how the delivery ended and return the exit code of the whole command.

    `sent` is the number of changes of its runs that the destination has accepted; None for a command without runs.

    The first that applies: 6, the API key is refused; the code that all errors share, or 1; 4, a run is blocked or
    held; 3, some deliveries are open or dead, whichever run they are from (those that a paused audience holds back do
    not count); 0. A destination that does not answer leaves deliveries open, which is 3. `sync`, `approve` and
    `retract` count changes; `deliver` and `forward` also count forwarded events. Without a delivery (`--no-deliver`)
    there is no 3, and a signal ends in 130.
    """
    if delivery is not None:
        _say_delivery(delivery, sent)
        if isinstance(delivery.failure, KeyRefused):
            return KeyRefused.exit_code
        if delivery.failure is not None and not isinstance(delivery.failure, DestinationAway):
            failures = [*failures, delivery.failure]
        required = [one.failure for one in delivery.required if one.failure is not None]
        if any(isinstance(one, KeyRefused) for one in required):
            return KeyRefused.exit_code
        failures = [*failures, *(one for one in required if not isinstance(one, DestinationAway))]
    codes = {error.exit_code for error in failures}
    if codes:
        return codes.pop() if len(codes) == 1 else 1
    if any(run.state in (RunState.BLOCKED, RunState.HELD, RunState.STALE) for run in done):
        return WAITS_FOR_A_PERSON
    reports = [] if delivery is None else [delivery, *delivery.required]
    is_open = any(one.open > one.paused or one.dead for one in reports)
    return DELIVERIES_OPEN if is_open else 0


def say_crashes(ended: Iterable[SideDelivery]) -> None:
    """Warn of deliveries to hooks that ended with an exception, and log where, unless it says what is wrong."""
    for one in ended:
        name = one.route.destination.display_name
        match one.crash:
            case None:
                pass
            case AudienceSyncError():
                warn(f"{name}: {one.crash}")
            case _:
                from audience_sync import logs  # noqa: PLC0415 - structlog takes long to import, and few need it

                logs.configure()
                logs.log_crash(one, one.crash)
                warn(f"{name}: the delivery crashed; its messages stay pending")


def say_hooks(database: Database, ended: Iterable[tuple[Route, DeliveryReport | None]]) -> None:
    """Print what the hooks accepted, and what they leave open."""
    for route, report in ended:
        name = route.destination.display_name
        if report is None:
            with database.read() as connection:
                waiting, _, dead = backlog.count(connection, destination=route.name)
        else:
            waiting, dead = report.open, report.dead
            if report.events:
                console.print(f"{name}: {counted(report.events, 'message')} accepted")
            if report.failure is not None:
                warn(str(report.failure))
        if waiting or dead:
            console.print(
                f"[yellow]{name}: {waiting:,} waiting; dead: {dead:,}[/] (`audience-sync status` shows why;"
                " `audience-sync deliver` or a running service sends them)"
            )


def print_released(database: Database, run: RunRow) -> None:
    """Print the audiences that were held because of this run's audience, and that are due now."""
    if run.state is not RunState.SUCCEEDED or run.partial:
        return
    with database.read() as connection:
        used = audiences.by_id(connection, run.audience_id).key
        for waiting in runs.waiting_for(connection, run.audience_id):
            key = audiences.by_id(connection, waiting).key
            console.print(
                f"{key} was held because of {used} and is now due: the daemon will sync it, or run"
                f" `audience-sync sync {key}`"
            )


def warn_orphans(database: Database, settings: Settings) -> None:
    """Print the audiences that are in the database but not in the configuration; nothing changes them automatically."""
    known = {audience.key for audience in settings.audiences}
    with database.read() as connection:
        for row in audiences.every(connection):
            if row.key not in known and row.state != "retired":
                console.print(
                    f"[yellow]orphan:[/] {row.key} has {row.members:,} {row.computation.members_noun} but"
                    f" is not in {escape(str(settings.path))}; its traits stay as they are (to send"
                    f" {row.computation.exit_value} for all of them, run `audience-sync retract {row.key}`)",
                )


def shared_identifiers(database: Database, settings: Settings) -> None:
    """Warn about user identifiers that several profiles share."""
    with database.read() as connection:
        shared = identifiers.count_shared(connection)
    if shared:
        sentence = identifiers.shared_sentence(shared, destination=settings.destination.display_name)
        warn(f"{sentence}; hint: {identifiers.SHARED_HINT}")


def warn_renames(database: Database, settings: Settings, chosen: Sequence[Audience]) -> None:
    """Warn about audiences that were synced under another key before: a sync would send all their members again."""
    with database.read() as connection:
        known = audiences.every(connection)
    for audience, sentence, remedy in rename_warnings(settings, chosen, known):
        warn(f"{audience.key} {sentence}")
        console.print(f"[bold]hint:[/] {escape(remedy)}")


def _say_delivery(delivery: DeliveryReport, sent: int | None) -> None:
    """Print what was sent: everything pending, including changes of other runs."""
    waiting = delivery.open - delivery.paused
    if not (delivery.events or waiting or sent or delivery.failure):
        console.print("nothing to deliver")
    elif sent is None or sent == delivery.events:
        console.print(f"{counted(delivery.events, 'event')} accepted by {delivery.destination}")
    else:
        earlier = ", including earlier ones" if delivery.events > sent else ""  # one event can carry several changes
        console.print(
            f"{counted(delivery.events, 'event')} accepted by {delivery.destination}{earlier};"
            f" {counted(sent, 'change')} from these runs"
        )
    if delivery.failure is not None:
        complain(delivery.failure)
    if waiting or delivery.dead:
        hints = []
        if waiting:
            hints.append("`audience-sync status` shows why; run `audience-sync deliver` to continue")
        if delivery.dead:
            hints.append("`audience-sync dead list` shows why; run `audience-sync dead retry` to send them again")
        console.print(f"[yellow]open deliveries: {waiting:,}; dead: {delivery.dead:,}[/] ({'; '.join(hints)})")
    if delivery.paused:
        console.print(f"held back by paused audiences: {delivery.paused:,}")


def _run_record(run: RunRow, key: str, members: int, open_rows: int, dead: int) -> Mapping[str, object]:
    c = run.counts
    values = (
        run.id, key, run.kind.value, run.state.value, c.read, c.entered, c.exited, c.updated, c.unchanged, c.rejected,
        c.duplicates, run.sent, open_rows, dead, members, run.reason,
    )  # fmt: skip
    return dict(zip(RUN_COLUMNS, values, strict=True))
