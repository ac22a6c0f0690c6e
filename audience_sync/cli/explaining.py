"""The commands explain and preview, which read the source and store nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

import typer

from audience_sync.audiences.definition import written_sql
from audience_sync.audiences.explanation import Explanation
from audience_sync.audiences.explanation import explain as explain_user
from audience_sync.cli import explanations, findings
from audience_sync.cli.context import console, seams, settings_of
from audience_sync.cli.output import Format, FormatOption, json_line, print_records
from audience_sync.cli.progress import Progress
from audience_sync.cli.standing import standing_of
from audience_sync.cli.syncing import Now
from audience_sync.config import Audience, Settings
from audience_sync.core.keys import KeyRules, Reason, stringify
from audience_sync.core.model import Computation, from_ms, to_ms
from audience_sync.errors import AudienceSyncError, ConfigError, UnknownName
from audience_sync.signals import stoppable
from audience_sync.sync.plan import preview as preview_audience

SQL_COLUMNS = ("audience", "source", "as_of", "sql", "parameters")
MOST_SHOWN = 10_000  # profiles of a sample, and events of a stream

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command, example in (
        (explain, "audience-sync explain user_42 big_spenders --events 20"),
        (preview, "audience-sync preview big_spenders --now 2026-03-01 --format json"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def explain(
    context: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="A profile key: the value of the identity.")],
    audience: Annotated[
        str | None, typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait.")
    ] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that a sync runs; of an audience, without a user.")
    ] = False,
    now: Now = None,
    events: Annotated[
        int, typer.Option(min=0, max=MOST_SHOWN, metavar="N", help="Maximum number of events to show per condition.")
    ] = 5,
    format: FormatOption = Format.TABLE,
) -> None:
    """Explain why a user is or is not in an audience.

    Shows each condition with its value, whether it holds, and the events behind it. Reads the source, as of now or
    --now, and compares with the membership database. The exit code is 0 for members and for others.

    As json or csv, each line has a `kind`. `condition`: its place in the query is `node` (1.2 is the second part of the
    whole), with `text`, `holds` and `value`. `value`: of a computed trait. `event`: of the condition at `node`, with
    `at` and `properties`. `verdict`: `holds` is whether the user is a member or has a value. `membership`: `holds` is
    what the database has, null if it has nothing, and `at` since when.
    """
    settings = settings_of(context)
    if sql:
        if audience is not None:
            raise ConfigError("--sql takes AUDIENCE without USER", hint=f"audience-sync explain {audience} --sql")
        _show_sql(settings, settings.audience(user), as_of=_instant(now), format=format)
        return
    chosen = _chosen(settings, user, audience)
    if isinstance(stringify(user, KeyRules(())), Reason):  # a placeholder has an answer of its own
        raise ConfigError("not a valid profile key: it is empty, too long, or has characters that keys cannot have")
    as_of = _instant(now)
    explanation = _interruptible(lambda: explain_user(settings, chosen, user, as_of=as_of, events=events))
    standing = standing_of(settings, explanation, sync="the next sync" if now is None else "a sync as of then")
    explanations.show(explanation, _verdict(settings, explanation), standing, format=format)


def preview(
    context: typer.Context,
    audience: Annotated[
        str, typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait.")
    ],
    now: Now = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, max=MOST_SHOWN, metavar="N", help="Maximum number of profiles to show.")
    ] = 10,
    format: FormatOption = Format.TABLE,
) -> None:
    """Count the members of an audience, show a sample, store nothing.

    Needs no membership database and no API key. The sample is the first profiles by key, as
    `members` lists them. As json this is one object with the sample; as csv, the sample.
    """
    settings = settings_of(context)
    chosen, as_of, clock = settings.audience(audience), _instant(now), seams().monotonic
    began = clock()
    with Progress(chosen.key) as progress:
        found = _interruptible(
            lambda: preview_audience(
                settings, chosen, as_of=as_of, sample=limit, on_page=lambda rows: progress.show("reading", rows)
            )
        )
    findings.show(chosen, found, as_of=as_of, seconds=clock() - began, format=format)
    console.print("nothing was stored")


def _instant(now: datetime | None) -> datetime:
    """Return the instant, in whole milliseconds as that of a run."""
    return from_ms(to_ms(now or seams().clock()))


def _chosen(settings: Settings, user: str, audience: str | None) -> Audience:
    """Return the named audience.

    Raises:
        ConfigError: it is missing, or is in the place of the user.
        UnknownName: no audience has this key or name.
    """
    if audience is None:
        hint = f"audience-sync explain USER {user}; its SQL: audience-sync explain {user} --sql"
        raise ConfigError("explain needs USER and AUDIENCE", hint=hint)
    try:
        return settings.audience(audience)
    except UnknownName:
        if any(user in (one.key, one.name) for one in settings.audiences):
            raise ConfigError(
                f"`{user}` is an audience and `{audience}` is not: USER comes before AUDIENCE",
                hint=f"audience-sync explain {audience} {user}",
            ) from None
        raise


def _verdict(settings: Settings, explanation: Explanation) -> str:
    """Return a sentence: whether the user is a member, and if the query does not read the user, why."""
    audience, user, found = explanation.audience, explanation.user, explanation.found
    is_trait = audience.computation is Computation.TRAIT
    reasons = [reason for reason in dict.fromkeys(found.reasons) if reason is not Reason.DUPLICATE]
    because = f" (one of their rows was rejected or changed: {', '.join(reasons)})" if reasons else ""
    if found.member is not None:
        has = f"has the value {found.member.value}" if is_trait else f"is in {audience.key}"
        return f"{user} {has}{because}"
    has = "has no value" if is_trait else f"is not in {audience.key}"
    if explanation.root is not None or because:
        return f"{user} {has}{because}"
    if audience.query is None:
        return f"{user} {has}: the SQL returns no row for them"
    source = settings.sources[audience.source]
    if source.profiles is None:
        return f"{user} {has}: they have no events, and without profiles a query reads only users with events"
    but = "though they have events, " if explanation.has_events else ""
    return (
        f"{user} {has}: {but}no row of [sources.{source.name}.profiles] has `{source.profiles.user}` = {user!r}, and a"
        " query reads only users with such a row"
    )


def _show_sql(settings: Settings, audience: Audience, *, as_of: datetime, format: Format) -> None:
    written = _interruptible(lambda: written_sql(settings, audience, as_of=as_of))
    if format is Format.TABLE:
        typer.echo(written.text)
        return
    parameters: object = dict(written.parameters) if format is Format.JSON else json_line(written.parameters).strip()
    values = (audience.key, audience.source, as_of.isoformat(), written.sql, parameters)
    print_records([dict(zip(SQL_COLUMNS, values, strict=True))], SQL_COLUMNS, format=format)


def _interruptible(work: Callable[[], T]) -> T:
    """Do work that only reads; a signal interrupts the query under way.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    with stoppable(lambda: None) as stop:
        try:
            found = work()
        except AudienceSyncError:
            if not stop.is_set():
                raise
        if stop.is_set():
            raise KeyboardInterrupt
    return found
