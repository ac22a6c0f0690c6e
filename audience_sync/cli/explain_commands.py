"""The commands explain and preview, which read the source and store nothing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeVar

import orjson
import typer
from rich.text import Text

from audience_sync import runtime
from audience_sync.audiences.data_age import DataAges
from audience_sync.audiences.explanation import Clause, Explanation, Fact, asked_for
from audience_sync.audiences.explanation import explain as explain_user
from audience_sync.audiences.shown_sql import written_sql
from audience_sync.cli import preview_output
from audience_sync.cli.console import Format, FormatOption, Progress, Sheet, harmless, json_line, print_records
from audience_sync.cli.context import clock, console, out, settings_of
from audience_sync.cli.inspect_commands import USER_HELP
from audience_sync.cli.text_table import Record, wrap
from audience_sync.cli.time_options import Now, instant
from audience_sync.config import Audience, Settings
from audience_sync.core.keys import KeyRules, RowFault, stringify
from audience_sync.core.model import Member, OnMissing, from_ms, to_ms
from audience_sync.core.text import counted, instant_text, printable
from audience_sync.errors import AudienceSyncError, ConfigError, UnknownName
from audience_sync.query.printer import to_text
from audience_sync.query.relative_times import WrittenTime
from audience_sync.query.syntax_tree import And, Not, Or, Reduction
from audience_sync.segment.timestamps import iso
from audience_sync.signals import stoppable
from audience_sync.store import audiences, profile_report
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.reports import Record as StoredRecord
from audience_sync.sync import standing_hold
from audience_sync.sync.preview import preview as preview_audience

# --- output -----------------------------------------------------------------------------------------------------------
# The output of `explain`: a tree of conditions with their values and events for people, records for programs.

COLUMNS: Final = (
    "audience", "user", "as_of", "node", "kind", "text", "holds", "value", "at", "properties", "identifiers", "run_id",
)  # fmt: skip
_AS_JSON: Final = ("value", "properties", "identifiers")  # hold JSON text, nested in JSON
_EMPTY: Final[Record] = dict.fromkeys(COLUMNS)


def show(explanation: Explanation, verdict: str, standing: Standing, *, format: Format) -> None:
    """Print an explanation: the conditions, the verdict, and the state in the membership database."""
    if format is Format.TABLE:
        _show_tree(explanation, verdict, standing)
        return
    sheet = Sheet(COLUMNS, format=Format.CSV) if format is Format.CSV else None
    about = {"audience": explanation.audience.key, "user": explanation.user, "as_of": iso(explanation.as_of)}
    for record in _records(explanation, verdict, standing):
        whole: Record = {**_EMPTY, **about, **record}
        if sheet is not None:
            sheet.add(whole)
        else:
            nested = {n: orjson.Fragment(v) if n in _AS_JSON and isinstance(v, str) else v for n, v in whole.items()}
            sys.stdout.write(json_line(nested))


def _records(explanation: Explanation, verdict: str, standing: Standing) -> Iterator[Record]:
    match explanation.root:
        case Clause() as clause:
            yield from _clause_records(clause)
        case Fact() as fact:
            yield {"node": "1", "kind": "value", "text": to_text(fact.scalar), "value": fact.value}
            yield from _event_records(fact, "1")
        case None:
            pass
    member = explanation.found.member
    yield {
        "kind": "verdict",
        "text": verdict,
        "holds": member is not None,
        "value": member and member.value,
        "identifiers": member and member.identifiers,
    }
    yield {
        "kind": "membership",
        "text": standing.sentence,
        "holds": standing.is_member,
        "value": standing.value,
        "at": standing.since,
        "identifiers": standing.identifiers,
        "run_id": standing.run_id,
    }


def _clause_records(clause: Clause) -> Iterator[Record]:
    values = [fact.value for fact in clause.facts]
    yield {
        "node": clause.node,
        "kind": "condition",
        "text": to_text(clause.condition),
        "holds": clause.holds,
        "value": values[0] if len(values) == 1 else f"[{','.join(values)}]" if values else None,
    }
    for fact in clause.facts:
        yield from _event_records(fact, clause.node)
    for operand in clause.operands:
        yield from _clause_records(operand)


def _event_records(fact: Fact, node: str) -> Iterator[Record]:
    if isinstance(fact.scalar, Reduction):
        for event in fact.events:
            name = fact.scalar.stream.event
            yield {"node": node, "kind": "event", "text": name, "at": event.at, "properties": event.properties}


def _show_tree(explanation: Explanation, verdict: str, standing: Standing) -> None:
    audience = explanation.audience
    as_of = instant_text(iso(explanation.as_of))
    heading = f"{audience.key} ({audience.computation.noun} {audience.name!r}), user {explanation.user}, as of {as_of}"
    out.print(Text(heading, style="bold"), end="\n\n")
    match explanation.root:
        case Clause() as clause:
            out.print_lines(_tree_lines(clause, explanation.user, width=out.line_width))
            out.print()
        case Fact() as fact:
            for line in _fact_lines(fact, explanation.user):
                out.print_lines(wrap(line, out.line_width, hang=2, is_json=True))
            out.print()
        case None:
            pass
    member = explanation.found.member
    out.print(Text(verdict, style="bold green" if member is not None else "bold yellow"))
    if member is not None and member.identifiers is not None:
        line = Text(f"identifiers: {harmless(member.identifiers)}")
        out.print_lines(wrap(line, out.line_width, hang=2, is_json=True))
    out.print(Text(standing.sentence))


def _tree_lines(clause: Clause, user: str, *, width: int, first: str = "", rest: str = "") -> Iterator[Text]:
    """Yield a condition, its facts and its parts; `first` and `rest` are drawn to the left of its lines."""
    word = {And: "AND", Or: "OR", Not: "NOT"}.get(type(clause.condition))
    mark, color, holds = ("✓", "green", "holds") if clause.holds else ("✗", "red", "does not hold")
    title = Text.assemble(
        (f"{mark} {holds}", color), "  ", (word, "bold") if word else printable(to_text(clause.condition))
    )
    asked = asked_for(clause)
    facts = [Text("  ").append_text(line) for fact in clause.facts for line in _fact_lines(fact, user, asked=asked)]
    for line, is_json in [(title, False), *((fact, True) for fact in facts)]:
        for part in wrap(line, width - len(rest), hang=4, is_json=is_json):
            yield Text(first).append_text(part)
            first = rest
    for operand in clause.operands:
        corner, bar = ("└── ", "    ") if operand is clause.operands[-1] else ("├── ", "│   ")
        yield from _tree_lines(operand, user, width=width, first=rest + corner, rest=rest + bar)


def _fact_lines(fact: Fact, user: str, *, asked: str | None = None) -> Iterator[Text]:
    """Yield the facts about a value: the value, its origin and its events."""
    value = f"is {harmless(fact.value)}"
    yield Text(printable(f"{to_text(fact.scalar)} {value}" if asked is None else f"{value}, asked for {asked}"))
    if fact.known is not None:
        command = shlex.join(["audience-sync", "explain", user, fact.known.key])
        yield Text(
            printable(f"{fact.known.computation.one} in the configuration; `{command}` explains it"), style="dim"
        )
    if fact.events_in_all is None:
        return
    shown, in_all = len(fact.events), fact.events_in_all
    count = counted(in_all, "event")
    yield Text(f"{count}, {shown:,} of them:" if shown < in_all else f"{count}:" if in_all else "no event")
    for event in fact.events:
        yield Text(f"  {instant_text(event.at)}  {harmless(event.properties)}")


# --- comparison with the database -------------------------------------------------------------------------------------
# The state of one user in the membership database, compared with the current result of the definition.


@dataclass(frozen=True)
class Standing:
    """The state of a user in an audience in the database, and a sentence on what a sync would change.

    `is_member` is None if it is unknown.
    """

    sentence: str
    is_member: bool | None = None
    value: str | None = None
    since: str | None = None
    identifiers: str | None = None
    run_id: int | None = None


def standing_of(settings: Settings, explanation: Explanation, *, sync: str, obstacle: str | None) -> Standing:
    """Return the state in the database; `sync` names the sync that would change it, `obstacle` why it would not.

    The sentence says if the database cannot be used.
    """
    audience = explanation.audience
    try:
        with runtime.opened(settings) as database, database.read() as connection:
            row = audiences.find(connection, audience.key)
            if row is None:
                return Standing(f"in the membership database: {audience.key} has never been synced")
            every = profile_report.audiences(connection, explanation.user)
            hold = standing_hold(connection, settings, audience)
    except AudienceSyncError as error:
        return Standing(f"in the membership database: unknown ({error})")
    record = next(one for one in every if one["audience"] == audience.key)
    waits = f"{audience.key} is held: {hold.reason}; after that" if hold is not None else obstacle
    then = _next(row, explanation, record, waits, sync=sync)
    sentence = f"in the membership database: {_has(row, record)}; {then}"
    return Standing(
        sentence,
        is_member=record["member"],
        value=record["value"],
        since=record["since"],
        identifiers=record["identifiers"],
        run_id=record["run_id"],
    )


def _has(row: AudienceRow, record: StoredRecord) -> str:
    is_trait = row.computation.has_values
    if not record["member"]:
        return "no value" if is_trait else "not a member"
    what = f"the value {record['value']}" if is_trait else "a member"
    return f"{what} since {instant_text(record['since'])} (run {record['run_id']})"


def data_obstacle(settings: Settings, audience: Audience, *, as_of: datetime | None) -> str | None:
    """Return why a sync would not evaluate the data of an audience, and when it would; None: nothing prevents it."""
    try:
        age = DataAges().of_audience(settings, audience, as_of=as_of, now=clock().now())
    except AudienceSyncError as error:
        return f"a sync would fail: {error}; with --allow-stale"
    if age is None or not age.is_stale:
        return None
    return f"a sync would not evaluate stale data: {age.sentence}; with --allow-stale"


def _next(row: AudienceRow, explanation: Explanation, record: StoredRecord, waits: str | None, *, sync: str) -> str:
    """Return what a sync would do; `waits` says why it would not, and when it would."""
    audience, member = explanation.audience, explanation.found.member
    if row.state == "retired":
        return f"{audience.key} is retired and will not be synced again"
    if row.computation is not audience.computation:
        return f"{audience.key} was synced as {row.computation} before, and cannot be synced as another kind"
    would = f"{sync} would {_would(explanation, member, record)}"
    if row.state == "paused":
        return f"{audience.key} is paused; after `audience-sync resume {audience.key}`, {would}"
    if not audience.enabled:
        return f"{audience.key} is disabled in the configuration; if it were enabled, {would}"
    return would if waits is None else f"{waits}, {would}"


def _would(explanation: Explanation, member: Member | None, record: StoredRecord) -> str:
    is_trait = explanation.audience.computation.has_values
    was = bool(record["member"])
    if member is None:
        if not was:
            return "change nothing"
        if explanation.audience.on_missing is OnMissing.KEEP and is_trait:
            return "keep the last value (on_missing)"
        return "remove the value" if is_trait else "remove them"
    if not was:
        return f"set the value {member.value}" if is_trait else "add them"
    if is_trait and member.value != record["value"]:
        return f"change the value to {member.value}"
    return "change nothing" if member.identifiers == record["identifiers"] else "update their identifiers"


# --- commands ---------------------------------------------------------------------------------------------------------

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
    user: Annotated[str, typer.Argument(metavar="USER", help=USER_HELP)],
    audience: Annotated[
        str | None, typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait.")
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that a sync runs (needs AUDIENCE only).")] = False,
    now: Now = None,
    events: Annotated[
        int, typer.Option(min=0, max=MOST_SHOWN, metavar="N", help="Maximum number of events to show per condition.")
    ] = 5,
    format: FormatOption = Format.TABLE,
) -> None:
    """Explain why a user is or is not in an audience.

    Shows each condition with its value, whether it holds, and the matching events. Reads the source as of now (or
    --now) and compares the result with the membership database. Exits with 0 for members and non-members.

    With json and csv, every row has a `kind`. `condition`: `node` is its position in the query (1.2 is the second part
    of the whole query), with `text`, `holds` and `value`. `value`: the value of a computed trait. `event`: an event of
    the condition at `node`, with `at` and `properties`. `verdict`: `holds` tells whether the user is a member or has a
    value. `membership`: `holds` is the state in the membership database (null if unknown), and `at` is its start.
    """
    settings = settings_of(context)
    if sql:
        if audience is not None:
            raise ConfigError("--sql takes AUDIENCE without USER", hint=f"audience-sync explain {audience} --sql")
        _show_sql(settings, settings.audience(user), as_of=_as_of(settings, now), format=format)
        return
    chosen = _chosen(settings, user, audience)
    if isinstance(stringify(user, KeyRules(())), RowFault):  # a placeholder has a separate answer
        raise ConfigError(
            "not a valid profile key: it is empty, too long, or has characters that are not allowed in keys"
        )
    as_of = _as_of(settings, now)
    explanation = _interruptible(lambda: explain_user(settings, chosen, user, as_of=as_of, events=events))
    obstacle = _interruptible(lambda: data_obstacle(settings, chosen, as_of=instant(settings, now)))
    sync = "the next sync" if now is None else "a sync as of that time"
    standing = standing_of(settings, explanation, sync=sync, obstacle=obstacle)
    show(explanation, _verdict(settings, explanation), standing, format=format)


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
    """Count the members of an audience and show a sample.

    Stores nothing, and needs no membership database or API key. The sample has the first profiles by key, in the
    order that `members` uses. json is one object that includes the sample; csv has only the sample.
    """
    settings = settings_of(context)
    chosen, as_of, monotonic = settings.audience(audience), _as_of(settings, now), clock().monotonic
    began = monotonic()
    with Progress(chosen.key) as progress:
        found = _interruptible(
            lambda: preview_audience(
                settings,
                chosen,
                as_of=as_of,
                sample=limit,
                on_page=lambda rows: progress.show("reading", rows),
                tuning=runtime.TUNING,
            )
        )
    preview_output.show(chosen, found, as_of=as_of, seconds=monotonic() - began, format=format)
    console.print("nothing was stored")


def _as_of(settings: Settings, now: WrittenTime | None) -> datetime:
    """Return the instant of --now, or the current one, in whole milliseconds, like that of a run."""
    return from_ms(to_ms(instant(settings, now) or clock().now()))


def _chosen(settings: Settings, user: str, audience: str | None) -> Audience:
    """Return the named audience.

    Raises:
        ConfigError: it is missing, or user and audience are swapped.
        UnknownName: no audience has this key or name.
    """
    if audience is None:
        hint = f"audience-sync explain USER {user}; for the SQL: audience-sync explain {user} --sql"
        raise ConfigError("explain needs USER and AUDIENCE", hint=hint)
    try:
        return settings.audience(audience)
    except UnknownName:
        if any(user in (one.key, one.name) for one in settings.audiences):
            raise ConfigError(
                f"`{user}` is an audience and `{audience}` is not: put USER before AUDIENCE",
                hint=f"audience-sync explain {audience} {user}",
            ) from None
        raise


def _verdict(settings: Settings, explanation: Explanation) -> str:
    """Return whether the user is a member, as a sentence, with the reason if the query does not read the user."""
    audience, user, found = explanation.audience, explanation.user, explanation.found
    is_trait = audience.computation.has_values
    reasons = [reason for reason in dict.fromkeys(found.reasons) if reason is not RowFault.DUPLICATE]
    because = f" (one of the user's rows was rejected or changed: {', '.join(reasons)})" if reasons else ""
    if found.member is not None:
        has = f"has the value {found.member.value}" if is_trait else f"is in {audience.key}"
        return f"{user} {has}{because}"
    has = "has no value" if is_trait else f"is not in {audience.key}"
    if explanation.root is not None or because:
        return f"{user} {has}{because}"
    if audience.query is None:
        return f"{user} {has}: the SQL returns no row with this key"
    source = settings.sources[audience.source]
    if source.profiles is None:
        return f"{user} {has}: this user has no events, and without profiles a query reads only users with events"
    but = "the user has events, but " if explanation.has_events else ""
    return (
        f"{user} {has}: {but}no row of [sources.{source.name}.profiles] has `{source.profiles.user}` ="
        f" {user!r}, and a query reads only users with a profile"
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
    """Do read-only work; a signal interrupts the current query.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    with stoppable(lambda: None) as stop:
        try:
            return work()
        except AudienceSyncError:
            if stop.is_set():
                raise KeyboardInterrupt from None
            raise
