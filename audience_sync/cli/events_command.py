"""The command that lists forwarded events: those that wait or are dead, and why others sent nothing. It only looks."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from audience_sync import runtime
from audience_sync.cli.console import Format, FormatOption, LimitOption, harmless, listed, print_records
from audience_sync.cli.context import settings_of
from audience_sync.cli.text_table import TableView
from audience_sync.cli.time_options import TimeRange, time_option, time_range
from audience_sync.query.relative_times import WrittenTime
from audience_sync.segment.segment_events import stored_id
from audience_sync.store import event_reports
from audience_sync.store.database import Database
from audience_sync.store.event_reports import EVENT_COLUMNS, REASON_COLUMNS, UNSENT_COLUMNS, EventState
from audience_sync.store.reports import Record

EVENTS_SHOWN = TableView(
    tuple(column for column in EVENT_COLUMNS if column not in ("position", "payload")),
    optional=("name", "type", "since", "message_id", "tries", "next_try_at"),
)
EVENTS_OF_PROFILE_SHOWN = TableView(EVENTS_SHOWN.columns[1:], EVENTS_SHOWN.optional)
REASONS_SHOWN = TableView(REASON_COLUMNS, optional=("type", "last_at", "last_message_id"))


def stored(user: str | None) -> str | None:
    """Return the profile key that the database has for a user: an id that cannot be a key is stored as its hash."""
    return user and (stored_id(user) or user)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: audience-sync events --reasons --since '7 days ago'")(events)


def events(
    context: typer.Context,
    user: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="USER", help="Show only events with this profile_key (default: all).", callback=stored
        ),
    ] = None,
    state: Annotated[
        EventState | None,
        typer.Option("--state", metavar="STATE", help=f"Show only events in this state: {listed(EventState)}."),
    ] = None,
    *,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Show why events sent nothing, with counts; omit waiting events.")
    ] = False,
    since: Annotated[
        WrittenTime | None, time_option("--since", "With --reasons, show only days (UTC) from this time on.")
    ] = None,
    until: Annotated[
        WrittenTime | None, time_option("--until", "With --reasons, show only days (UTC) that begin before this time.")
    ] = None,
    limit: LimitOption = 50,
    format: FormatOption = Format.TABLE,
) -> None:
    """List forwarded events that Schematic has not accepted.

    They are `waiting`, `retrying` after a failure, or `dead`.

    The profile_key of an event is its userId; without one, its anonymousId; without either, its groupId. Events of one
    profile_key are listed in the order they are sent. With --reasons: why other events sent nothing, with a count for
    each reason, as far back as deliveries are kept. Table output combines all days; json and csv have a row for each
    day (UTC), and more fields than the tables.
    """
    if reasons and (user is not None or state is not None):
        raise typer.BadParameter("--reasons counts all users together; remove --profile and --state")
    for name, written in (("--since", since), ("--until", until)):
        if written is not None and not reasons:
            raise typer.BadParameter(f"{name} requires --reasons")
    settings = settings_of(context)
    days = time_range(settings, since, until)
    with runtime.opened(settings) as database:
        if reasons:
            _print_reasons(database, days, limit=limit, format=format)
            return
        found = event_reports.open_events(database, profile_key=user, state=state)
        if format is Format.JSON:
            found = map(with_payload, found)
        print_records(found, EVENT_COLUMNS, format=format, limit=limit, shown=EVENTS_SHOWN)


def with_payload(event: Record) -> dict[str, Any]:
    """Return an event with its payload as JSON within JSON, on one line whatever lines it came in."""
    payload = harmless(event["payload"].replace("\r", " ").replace("\n", " "))  # within its texts neither is possible
    return {**event, "payload": orjson.Fragment(payload)}


def _print_reasons(database: Database, days: TimeRange, *, limit: int, format: Format) -> None:
    if format is Format.TABLE:
        found = event_reports.reasons(database, **days._asdict())
        print_records(found, REASON_COLUMNS, format=format, limit=limit, shown=REASONS_SHOWN)
    else:
        print_records(event_reports.unsent(database, **days._asdict()), UNSENT_COLUMNS, format=format, limit=limit)
