"""What the syncing commands say: before a first sync, of a plan, of runs and deliveries, and with which exit code."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import typer

from audience_sync.cli.context import console
from audience_sync.cli.output import Format, Sheet
from audience_sync.config import Settings
from audience_sync.core.model import Change, RunState
from audience_sync.core.rows import Reason
from audience_sync.db import Database, display_url
from audience_sync.delivery import DeliveryReport
from audience_sync.errors import AudienceSyncError, ConfigError, DestinationAway, KeyRefused
from audience_sync.store import audiences, outbox, runs
from audience_sync.store.runs import RunRow
from audience_sync.sync import Plan, RunReport

RUN_COLUMNS = (
    "id", "audience", "kind", "state", "read", "entered", "exited", "updated", "unchanged", "rejected", "duplicates",
    "sent", "open", "dead", "members", "reason",
)  # fmt: skip
CHANGE_COLUMNS = ("audience", "change", "profile_key", "value", "identifiers")


def using(database: Database) -> None:
    """Say which membership database a command works on."""
    console.print(f"membership database: {display_url(database.engine.url)}")


def first_sync(key: str, members: int, settings: Settings) -> None:
    """Say what a first sync is about to do to Schematic, before its first commit."""
    console.print(f"first sync of {key}: {_consequences(members, members, settings)}")


def failed(key: str, error: AudienceSyncError) -> None:
    """Say why one of several audiences was not synced."""
    console.print(f"[red]error:[/] {key}: {error}")
    if error.hint:
        console.print(f"try: {error.hint}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person before something that cannot be taken back.

    Raises:
        ConfigError: there is nobody to ask, and no --yes.
        typer.Abort: they said no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("this cannot be taken back, and there is no terminal to ask on", hint="add --yes")
    typer.confirm(question, abort=True, err=True)


def show_runs(database: Database, reports: Sequence[RunReport], *, format: Format) -> None:
    """Print one line for each run, and why rows were rejected or a run is blocked."""
    show_run_ids(database, [report.run.id for report in reports], format=format)
    for report in reports:
        if report.rejections:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.rejections.items()))
            console.print(
                f"{report.audience_key}: {reasons} (`audience-sync rejections --run {report.run.id}` shows which)"
            )


def show_run_ids(database: Database, run_ids: Sequence[int], *, format: Format) -> None:
    """Print one line for each run, as the database has it now."""
    sheet = Sheet(RUN_COLUMNS, format=format)
    with database.read() as connection:
        for run_id in run_ids:
            run = runs.get(connection, run_id)
            audience = audiences.by_id(connection, run.audience_id)
            open_rows, dead = outbox.count_of_run(connection, run_id)
            sheet.add(_run_record(run, audience.key, audience.members, open_rows, dead))
            if run.definition_changed:
                console.print(f"note: the definition of {audience.key} was edited since its last sync")
            if run.state is RunState.BLOCKED:
                console.print(f"[yellow]blocked:[/] {audience.key}: {run.reason}")
                console.print(
                    f"try: look at it with `audience-sync plan {audience.key}`, then `audience-sync approve {run.id}`"
                )
    sheet.close()


def exit_code(done: Sequence[RunRow], failures: Sequence[AudienceSyncError], delivery: DeliveryReport | None) -> int:
    """Say how the delivery ended and return the exit code of the whole command."""
    if delivery is not None:
        _say_delivery(delivery)
        if isinstance(delivery.failure, KeyRefused):
            return KeyRefused.exit_code
        if delivery.failure is not None and not isinstance(delivery.failure, DestinationAway):
            failures = [*failures, delivery.failure]
    codes = {error.exit_code for error in failures}
    if codes:
        return codes.pop() if len(codes) == 1 else 1
    if any(run.state is RunState.BLOCKED for run in done):
        return 4
    return 3 if delivery is not None and (delivery.open > delivery.paused or delivery.dead) else 0


class PlanSheet:
    """Prints plans: every change as a line of json or csv, or a summary and the first changes as tables."""

    def __init__(self, settings: Settings, *, format: Format, limit: int) -> None:
        self._settings = settings
        self._format = format
        self._limit = limit
        self._sheet = Sheet(CHANGE_COLUMNS, format=format)
        self._shown: Counter[str] = Counter()

    def changes_of(self, key: str) -> Callable[[Change], None]:
        """Return what is to be told each change of an audience."""

        def show(change: Change) -> None:
            if self._format is Format.TABLE and self._shown[key] >= self._limit:
                return
            self._shown[key] += 1
            self._sheet.add(
                {
                    "audience": key,
                    "change": change.kind.value,
                    "profile_key": change.profile_key,
                    "value": change.value,
                    "identifiers": change.identifiers,
                }
            )

        return show

    def show(self, plan: Plan) -> None:
        """Say what a plan amounts to."""
        c = plan.counts
        console.print(
            f"[bold]{plan.audience_key}[/] ({plan.kind}, as of {plan.as_of:%Y-%m-%d %H:%M:%S} UTC,"
            f" {plan.members_before:,} members): {c.read:,} read, {c.entered:,} would enter, {c.exited:,} exit,"
            f" {c.updated:,} be updated; {c.unchanged:,} unchanged, {c.rejected:,} rejected,"
            f" {c.duplicates:,} duplicates",
        )
        if plan.definition_changed:
            console.print("  its definition was edited since its last sync")
        for reason, count in sorted(plan.rejections.counts.items()):
            console.print(f"  {count:,} rows: {_explain(reason)}")
        if plan.identifies:
            console.print(f"  {_consequences(plan.identifies, plan.new_users, self._settings)}")
        for refusal in plan.refusals:
            console.print(f"  [yellow]a guard would block it:[/] {refusal}")

    def close(self) -> None:
        """Print what is left to print."""
        self._sheet.close()


def orphans(database: Database, settings: Settings) -> None:
    """Name the audiences that are in the database but not in the file; nothing touches them by itself."""
    known = {audience.key for audience in settings.audiences}
    with database.read() as connection:
        for row in audiences.every(connection):
            if row.key not in known and row.state != "retired":
                console.print(
                    f"[yellow]orphan:[/] {row.key} has {row.members:,} members but is not in {settings.path};"
                    f" its traits stay as they are (`audience-sync retract {row.key}` sends false to all)",
                )


def _consequences(identifies: int, new_users: int, settings: Settings) -> str:
    """Say what so many events do to Schematic."""
    requests = math.ceil(identifies / settings.delivery.batch_size)
    seconds = math.ceil(requests / settings.delivery.max_requests_per_second)
    return (
        f"up to {identifies:,} identifies in {requests:,} requests, at least {timedelta(seconds=seconds)} at"
        f" {settings.delivery.max_requests_per_second:g} requests a second; each moves the user's last_seen_at and may"
        f" fire a webhook; up to {new_users:,} users may be new to Schematic and are created there"
    )


def _say_delivery(delivery: DeliveryReport) -> None:
    console.print(f"{delivery.events:,} identifies accepted by Schematic")
    if delivery.failure is not None:
        console.print(f"[red]error:[/] {delivery.failure}")
        if delivery.failure.hint:
            console.print(f"try: {delivery.failure.hint}")
    waiting = delivery.open - delivery.paused
    if waiting or delivery.dead:
        console.print(
            f"[yellow]{waiting:,} deliveries are open, {delivery.dead:,} dead[/]"
            " (`audience-sync status` shows why; `audience-sync deliver` and `audience-sync dead retry` go on)"
        )
    if delivery.paused:
        console.print(f"{delivery.paused:,} deliveries are held back by paused audiences")


def _run_record(run: RunRow, key: str, members: int, open_rows: int, dead: int) -> Mapping[str, object]:
    c = run.counts
    values = (
        run.id, key, run.kind.value, run.state.value, c.read, c.entered, c.exited, c.updated, c.unchanged, c.rejected,
        c.duplicates, run.sent, open_rows, dead, members, run.reason,
    )  # fmt: skip
    return dict(zip(RUN_COLUMNS, values, strict=True))


def _explain(reason: Reason) -> str:
    return {
        Reason.NULL_KEY: "the identity is NULL",
        Reason.EMPTY_KEY: "the identity is empty",
        Reason.LONG_KEY: "the identity is longer than 255 characters",
        Reason.UNUSABLE_TEXT: "the identity has control characters or is no valid text",
        Reason.UNSUPPORTED_TYPE: "the identity is neither text, a whole number nor a UUID",
        Reason.DUPLICATE: "the identity came before; the row with the smallest canonical JSON counts",
        Reason.OMITTED_IDENTIFIER: "another identifier is unusable and is left out",
    }[reason]
