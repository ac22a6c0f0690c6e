"""The read-only commands that list the contents of the database: members, profile, runs, changes, rejections."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from audience_sync import runtime
from audience_sync.cli.console import (
    Format,
    FormatOption,
    HiddenColumns,
    LimitOption,
    json_line,
    listed,
    print_records,
)
from audience_sync.cli.context import settings_of
from audience_sync.cli.events_command import EVENTS_OF_PROFILE_SHOWN, stored, with_payload
from audience_sync.cli.status_commands import chosen_audience, known_audience
from audience_sync.cli.text_table import TableView
from audience_sync.cli.time_options import instant, time_option, time_range
from audience_sync.core.model import ChangeKind, RunState, to_ms
from audience_sync.query.relative_times import WrittenTime
from audience_sync.store import erasure, event_reports, history, profile_report, reports
from audience_sync.store import runs as stored_runs
from audience_sync.store.database import Database

LIMIT = 50

MEMBERS_SHOWN = TableView(
    ("profile_key", "value", "identifiers", "since", "run_id"), optional=("run_id", "identifiers")
)
RUNS_SHOWN = TableView(
    (
        "id", "audience", "kind", "state", "as_of", "read", "entered", "exited", "updated", "rejected", "sent",
        "reason",
    ),
    optional=("updated", "as_of", "sent", "rejected", "read", "kind"),
)  # fmt: skip
CHANGES_SHOWN = TableView(
    ("as_of", "audience", "computation", "profile_key", "kind", "value", "identifiers", "run_id"),
    optional=("as_of", "run_id", "identifiers", "computation"),
)
PROFILE_COLUMNS = (
    "audience", "computation", "member", "since", "run_id", "value", "identifiers", "open_value", "open_state", "tries",
    "next_try_at", "reason",
)  # fmt: skip
PROFILE_SHOWN = TableView(
    PROFILE_COLUMNS,
    optional=("run_id", "tries", "next_try_at", "open_value", "computation", "identifiers"),
    under=("open_state",),
)
DELIVERY_SHOWN = TableView(
    ("accepted_at", "traits", "run_ids", "status", "mapping", "idempotency_key", "message_id"),
    optional=("status", "message_id", "mapping", "run_ids", "idempotency_key"),
)
HISTORY_SHOWN = TableView(
    ("as_of", "audience", "computation", "kind", "value", "identifiers", "run_id"),
    optional=("run_id", "identifiers", "computation"),
)
REJECTIONS_SHOWN = TableView(reports.REJECTION_COLUMNS, optional=("run_id", "audience"))


USER_HELP = "The user's profile key: the value of the configured identity, such as their userId."
StoredUserArgument = Annotated[str, typer.Argument(metavar="USER", help=USER_HELP, callback=stored)]
AudienceArgument = Annotated[
    str, typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait.")
]
OptionalAudience = Annotated[
    str | None,
    typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait (default: all)."),
]
SinceOption = Annotated[
    WrittenTime | None, time_option("--since", "Show only runs as of this time or later, such as `yesterday`.")
]
UntilOption = Annotated[WrittenTime | None, time_option("--until", "Show only runs as of an earlier time than this.")]
RunOption = Annotated[int | None, typer.Option("--run", min=1, metavar="N", help="Show only rows from this run.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command, example in (
        (members, "audience-sync members big_spenders --as-of 2026-03-01 --limit 0 --format csv > march.csv"),
        (profile, "audience-sync profile user_42"),
        (runs, "audience-sync runs big_spenders --state failed"),
        (changes, "audience-sync changes big_spenders --kind exited --since yesterday"),
        (rejections, "audience-sync rejections --run 12"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def members(
    context: typer.Context,
    audience: AudienceArgument,
    as_of: Annotated[
        WrittenTime | None, time_option("--as-of", "Show the members at this time (default: the current time).")
    ] = None,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the members of an audience, now or at an earlier time.

    For a computed trait, list the profiles that have a value.

    `since` is the time of the sync that added the profile. For an earlier time, the list of profiles is exact, but
    other fields are empty where the history has been purged. json and csv have more fields than the table.
    """
    settings = settings_of(context)
    with runtime.opened(settings) as database:
        with database.read() as connection:
            row = known_audience(connection, settings, audience)
        at = instant(settings, as_of)
        found = reports.members(database, row) if at is None else history.members_as_of(database, row, to_ms(at))
        print_records(found, reports.MEMBER_COLUMNS, format=format, limit=limit, shown=MEMBERS_SHOWN)


def profile(
    context: typer.Context,
    user: StoredUserArgument,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show everything about one user.

    Shows audiences and computed traits, pending and accepted deliveries, and history.

    json is one object with audiences, events, deliveries and changes; csv has only the audiences. --limit applies to
    deliveries and to changes (newest first), and to forwarded events not yet accepted (oldest first).
    """
    settings = settings_of(context)
    with runtime.opened(settings) as database:
        whole = _profile(database, user, limit=limit)
    if format is Format.JSON:
        typer.echo(json_line({**whole, "events": [*map(with_payload, whole["events"])]}), nl=False)
        return
    hidden = HiddenColumns()
    print_records(whole["audiences"], PROFILE_COLUMNS, format=format, shown=PROFILE_SHOWN, hidden=hidden)
    if format is Format.TABLE:
        for title, view in (
            ("events", EVENTS_OF_PROFILE_SHOWN), ("deliveries", DELIVERY_SHOWN), ("changes", HISTORY_SHOWN)
        ):  # fmt: skip
            if whole[title]:
                typer.echo(f"\n{title}:")
                print_records(whole[title], view.columns, format=format, limit=limit, shown=view, hidden=hidden)
        hidden.say()


def _profile(database: Database, user: str, *, limit: int) -> dict[str, Any]:
    with database.read() as connection:
        erasure.known_traces(connection, user)
        at_most = limit + 1 if limit else None
        return {
            "profile_key": user,
            "audiences": profile_report.audiences(connection, user),
            "events": event_reports.of_profile(connection, user, at_most=at_most),
            "deliveries": profile_report.deliveries(connection, user, at_most=at_most),
            "changes": profile_report.changes(connection, user, at_most=at_most),
        }


def runs(
    context: typer.Context,
    audience: OptionalAudience = None,
    state: Annotated[
        RunState | None,
        typer.Option("--state", metavar="STATE", help=f"Show only runs in this state: {listed(RunState)}."),
    ] = None,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """List runs, newest first.

    json and csv have more fields than the table.
    """
    settings = settings_of(context)
    period = time_range(settings, since, until)
    with runtime.opened(settings) as database:
        with database.read() as connection:
            chosen = chosen_audience(connection, settings, audience)
        found = reports.runs(database, audience_id=chosen, state=state, **period._asdict())
        print_records(
            found, reports.RUN_COLUMNS, format=format, limit=limit, shown=RUNS_SHOWN.narrowed_to("audience", chosen)
        )


def changes(
    context: typer.Context,
    audience: OptionalAudience = None,
    *,
    run: RunOption = None,
    kind: Annotated[
        ChangeKind | None,
        typer.Option("--kind", metavar="KIND", help=f"Show only changes of this kind: {listed(ChangeKind)}."),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """List who entered, exited or was updated, newest runs first.

    For a computed trait, list who got, lost or changed a value; `value` is the new value, or the last one for an exit.
    """
    settings = settings_of(context)
    period = time_range(settings, since, until)
    with runtime.opened(settings) as database:
        with database.read() as connection:
            chosen = chosen_audience(connection, settings, audience)
            if run is not None:
                stored_runs.get(connection, run)
        found = reports.changes(database, audience_id=chosen, run_id=run, kind=kind, **period._asdict())
        print_records(
            found,
            reports.CHANGE_COLUMNS,
            format=format,
            limit=limit,
            shown=CHANGES_SHOWN.narrowed_to("audience", chosen),
        )


def rejections(
    context: typer.Context,
    audience: OptionalAudience = None,
    run: RunOption = None,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """List source rows that were rejected or changed, and why.

    Lists the newest runs first. A run keeps only samples; `sync` prints the number per reason, and `runs` the total.
    """
    settings = settings_of(context)
    with runtime.opened(settings) as database:
        with database.read() as connection:
            chosen = chosen_audience(connection, settings, audience)
            if run is not None:
                stored_runs.get(connection, run)
        found = reports.rejections(database, audience_id=chosen, run_id=run)
        print_records(found, reports.REJECTION_COLUMNS, format=format, limit=limit, shown=REJECTIONS_SHOWN)
