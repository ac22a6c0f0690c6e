"""The commands status and audiences, and the lookup of audiences by key or name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer
from sqlalchemy.engine import Connection

from audience_sync import runtime
from audience_sync.cli.console import (
    Format,
    FormatOption,
    HiddenColumns,
    LimitOption,
    json_line,
    print_facts,
    print_records,
    print_table,
)
from audience_sync.cli.context import clock, console, out, settings_of
from audience_sync.cli.definition_history import print_versions
from audience_sync.cli.text_table import TableView
from audience_sync.clock import Clock
from audience_sync.config import Audience, Settings
from audience_sync.core.model import RunState
from audience_sync.core.text import instant_text
from audience_sync.errors import UnknownName
from audience_sync.store import audiences as known
from audience_sync.store import (
    backlog,
    batches,
    definition_texts,
    event_reports,
    holders,
    identifiers,
    leases,
    outbox,
    settings_table,
    status_report,
    subscriptions,
)
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database, display_url
from audience_sync.store.outages import OutageKind
from audience_sync.store.reports import Record, iso
from audience_sync.sync import standing_hold

# --- active claims ----------------------------------------------------------------------------------------------------
# List active claims: the processes that sync an audience or deliver batches.

COLUMNS: Final = ("work", "audience", "batches", "holder", "until")
SHOWN: Final = TableView(COLUMNS, optional=("until",), under=("holder",))


def at_work(database: Database, connection: Connection, keys: Mapping[int, str], *, clock: Clock) -> list[Record]:
    """Return each claim with its holder and its expiry unless renewed; `keys` has the audiences' keys by id.

    `work` is `sync` of an `audience` or `delivery` of open `batches`. Claims of dead processes are left out.
    """
    now = leases.clock_ms(connection, clock.steady_ms())
    ahead = clock.now_ms() - now  # of the wall clock
    syncs = [
        _record("sync", holder, until + ahead, audience=keys.get(audience_id))
        for audience_id, holder, until in leases.held(connection, now_ms=now)
    ]
    deliveries = [
        _record("delivery", holder, until + ahead, count=n)
        for holder, (n, until) in batches.holders(connection).items()
        if until > now
    ]
    found = [*sorted(syncs, key=lambda record: str(record["audience"])), *deliveries]
    dead = holders.dead(database, {record["holder"] for record in found})
    return [record for record in found if record["holder"] not in dead]


def _record(work: str, holder: str, until: int, *, audience: str | None = None, count: int | None = None) -> Record:
    return {"work": work, "audience": audience, "batches": count, "holder": holder, "until": iso(until)}


# --- commands ---------------------------------------------------------------------------------------------------------

STATUS_SHOWN = TableView(
    ("key", "computation", "state", "members", "last_run", "last_success", "next_due", "open", "dead"),
    optional=("dead", "open", "last_success", "next_due", "computation"),
)
STATUS_COLUMNS = (
    "key", "computation", "state", "members", "last_run", "next_due", "open", "dead", "syncing", "last_success",
)  # fmt: skip
ATTEMPTS_SHOWN = TableView(("of", "events", "tries", "next_try_at", "error"), optional=("of",))
BLOCKED_SHOWN = TableView(("id", "audience", "started_at", "reason"), optional=("started_at",))
SYNCED = frozenset({"active", "new", "held"})  # states of audiences that are synced
HELD_SHOWN = TableView(("audience", "reason"))
HOOKS_SHOWN = TableView(
    ("hook", "url", "open", "dead", "state", "since", "last_answer", "next_try_at"),
    optional=("url", "since", "next_try_at", "dead"),
)
STOPPED = frozenset({OutageKind.KEY_REFUSED.value, OutageKind.STOPPED.value})
REACHABLE = "reachable"
SENTENCES = {
    OutageKind.UNREACHABLE.value: "unreachable",
    OutageKind.KEY_REFUSED.value: "API key refused",
    OutageKind.STOPPED.value: "delivery stopped",
}
HoldersOption = Annotated[bool, typer.Option("--holders", help="Show active claims only.")]
AUDIENCE_COLUMNS = (
    "key", "name", "computation", "state", "members", "trait", "last_success", "next_due", "definition_changed",
    "definition",
)  # fmt: skip
AUDIENCES_SHOWN = TableView(
    AUDIENCE_COLUMNS,
    optional=("definition_changed", "computation", "last_success", "name", "next_due", "trait"),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: audience-sync status --format json | jq .deliveries")(status)
    app.command(epilog="Example: audience-sync audiences big_spenders --history")(audiences)


def status(context: typer.Context, holders: HoldersOption = False, format: FormatOption = Format.TABLE) -> None:
    """Show audiences, pending deliveries, blocked runs and processes.

    json is one object for the whole database; csv has only the audiences.

    States of an audience: `active`, `paused`, `retired`, `disabled` (enabled = false), `orphan` (in the database but
    not in the configuration), `new` (never synced) and `held` (it uses an audience that was not accepted; the list
    `held` shows the next step). The list `failed` has the audiences whose last run failed, and the reason; the list
    `stale` those that were not evaluated because the newest data of the source was too old. Members of a computed trait
    are the profiles that have a value. `syncing` is the process that is syncing the audience.

    --holders lists active claims with the process that has them: `sync` (it syncs one audience) or `delivery` (it
    delivers batches; `batches` is their number). A claim expires at `until` unless it is renewed.
    """
    settings = settings_of(context)
    with runtime.opened(settings) as database:
        whole = _whole(database, settings)
        with database.read() as connection:
            forwarded = event_reports.any_ever(connection)
    if holders:
        print_records(whole["leases"], COLUMNS, format=format, shown=SHOWN)
    elif format is Format.JSON:
        typer.echo(json_line(whole), nl=False)
    elif format is Format.CSV:
        print_records(map(_flat, whole["audiences"]), STATUS_COLUMNS, format=format)
    else:
        _print_status(whole, forwarded=forwarded, name=settings.destination.display_name)


def audiences(
    context: typer.Context,
    audience: Annotated[
        str | None,
        typer.Argument(metavar="AUDIENCE", help="The key or name of an audience or computed trait (default: all)."),
    ] = None,
    *,
    history: Annotated[
        bool, typer.Option("--history", help="Show the versions of the definition of AUDIENCE, newest first.")
    ] = False,
    limit: LimitOption = 50,
    format: FormatOption = Format.TABLE,
) -> None:
    """List audiences and computed traits with their state.

    Includes those in the configuration and those only in the database. `audience-sync status --help` explains the
    states.

    `definition` is the query in canonical form, or `sql`. `definition_changed` is true if the definition, or something
    it uses, has been edited since the last completed sync.

    --history shows each version of a definition: the run that put it into effect, the members before and after that
    run, and the differences from the version before. json and csv also have the full `text`.
    """
    if history and audience is None:
        raise typer.BadParameter("--history needs AUDIENCE")
    settings = settings_of(context)
    with runtime.opened(settings) as database, database.read() as connection:
        if history and audience is not None:
            row = known_audience(connection, settings, audience)
            now = next((one for one in settings.audiences if one.key == row.key and row.state != "retired"), None)
            configured = (now.definition_hash, now.definition_text) if now is not None else None
            versions = definition_texts.versions(connection, row.id, configured=configured)
            print_versions(versions, format=format, limit=limit)
            return
        found = _audiences(connection, settings)
        if audience is not None:
            chosen = _chosen_key(connection, settings, audience)
            found = [one for one in found if one["key"] == chosen]
    definitions = {one.key: one.definition for one in settings.audiences}
    records = ({**one, "trait": one["key"], "definition": definitions.get(one["key"])} for one in found)
    print_records(records, AUDIENCE_COLUMNS, format=format, limit=limit, shown=AUDIENCES_SHOWN)


def _chosen_key(connection: Connection, settings: Settings, word: str) -> str:
    """Return the key of an audience in the configuration or in the database.

    Raises:
        UnknownName: no audience has this key or name.
    """
    try:
        return known_audience(connection, settings, word).key
    except UnknownName:
        return settings.audience(word).key


def known_audience(connection: Connection, settings: Settings, word: str) -> AudienceRow:
    """Return the audience in the database with this key or, if there is none, with this name.

    Raises:
        UnknownName: the audience is unknown, or was never synced.
    """
    by_key = known.find(connection, word)
    if by_key is not None:
        return by_key
    try:
        configured = settings.audience(word)
    except UnknownName:
        named = [row for row in known.every(connection) if row.name == word]
        if len(named) != 1:
            raise
        return named[0]
    row = known.find(connection, configured.key)
    if row is None:
        raise UnknownName(
            f"audience {configured.key!r} has never been synced",
            hint=f"run `audience-sync sync {configured.key}`",
        )
    return row


def chosen_audience(connection: Connection, settings: Settings, word: str | None) -> int | None:
    """Return the id of the audience in an option, or None without the option.

    Raises:
        UnknownName: no audience has this key or name.
    """
    return None if word is None else known_audience(connection, settings, word).id


def _whole(database: Database, settings: Settings) -> dict[str, Any]:
    with database.read() as connection:
        keys = {row.id: row.key for row in known.every(connection)}
        working = at_work(database, connection, keys, clock=clock())
        syncing = {record["audience"]: record["holder"] for record in working}
        found = [{**one, "syncing": syncing.get(one["key"])} for one in _audiences(connection, settings)]
        waiting = backlog.waiting_batches(connection, max_backoff=settings.delivery.max_backoff)
        open_rows, paused, dead = outbox.count(connection)
        destination = status_report.destination(connection, now_ms=clock().now_ms())
        synced = {one["key"] for one in found if one["state"] in SYNCED}
        return {
            "database": display_url(database.engine.url),
            "identity": settings_table.get(connection, "identity"),
            "environment": settings_table.get(connection, "environment"),
            "audiences": found,
            "deliveries": {
                "open": open_rows,
                "paused": paused,
                "dead": dead,
                "stuck": _stuck(waiting, of="changes"),
                "oldest": backlog.oldest_open(connection),
            },
            "events": {**event_reports.summary(connection), "stuck": _stuck(waiting, of="events")},
            "destination": destination,
            "hooks": _hooks(connection, settings),
            "delivery_stopped": destination["last_answer"] if destination["state"] in STOPPED else None,
            "attempts": waiting,
            "shared_identifiers": identifiers.count_shared(connection),
            "blocked": status_report.blocked_runs(connection),
            **{
                state.value: [run for run in status_report.newest_runs(connection, state) if run["audience"] in synced]
                for state in (RunState.FAILED, RunState.STALE)
            },
            "held": [{"audience": one["key"], "reason": one["held"]} for one in found if one["held"] is not None],
            "leases": working,
        }


def _hooks(connection: Connection, settings: Settings) -> list[Record]:
    """Return a record for every hook in the configuration, and for every removed one that has something pending."""
    configured = {hook.name: hook for hook in settings.hooks}
    names = [*configured, *(set(subscriptions.destinations(connection)) - configured.keys())]
    found = []
    for name in sorted(names):
        hook = configured.get(name)
        route = None if hook is None else settings.hook_route(hook)
        longest = settings.delivery.max_backoff if hook is None else hook.max_backoff
        attempts = backlog.waiting_batches(connection, max_backoff=longest, destination=name)
        facts = status_report.subscriber(connection, name, now_ms=clock().now_ms())
        if attempts and facts["state"] == REACHABLE:  # it failed, but not for long enough to be an outage
            facts |= {"state": "retrying", "last_answer": attempts[-1]["error"]}
        found.append(
            {
                "hook": name,
                "url": None if route is None else route.destination.api_url,
                "configured": hook is not None,
                "required": hook is not None and hook.required,
                **facts,
                "stuck": _stuck(attempts, of="events"),
            }
        )
    return found


def _stuck(attempts: Iterable[Record], *, of: str) -> int:
    return sum(attempt["stuck"] for attempt in attempts if attempt["of"] == of)


def _audiences(connection: Connection, settings: Settings) -> list[dict[str, Any]]:
    """Return a record for every audience in the configuration or the database, by key."""
    configured = {one.key: one for one in settings.audiences}
    rows = {row.key: row for row in known.every(connection)}
    facts = status_report.facts(connection)
    found = []
    for key in sorted(configured.keys() | rows.keys()):
        row, one = rows.get(key), configured.get(key)
        fact = status_report.AudienceFacts() if row is None else facts[row.id]
        state = _state(row, one)
        hold = standing_hold(connection, settings, one) if one is not None and state in {"active", "new"} else None
        changed = row is not None and one is not None and row.is_edited(one.definition_hash)
        found.append(
            {
                "key": key,
                "name": one.name if one else row.name if row else key,
                "computation": (row or configured[key]).computation.value,
                "state": state if hold is None else "held",
                "members": row.members if row else 0,
                "last_run": fact.last_run,
                "last_success": fact.last_success,
                "next_due": iso(row.next_due_at) if row and state in SYNCED else None,
                "definition_changed": changed,
                "open": fact.open,
                "dead": fact.dead,
                "held": None if hold is None else hold.reason,
            }
        )
    return found


def _state(row: AudienceRow | None, configured: Audience | None) -> str:
    if row is not None and row.state == "retired":
        return "retired"
    if configured is None:
        return "orphan"
    if row is not None and row.state == "paused":
        return "paused"
    if not configured.enabled:
        return "disabled"
    return "new" if row is None else row.state


def _flat(audience: Record) -> Record:
    last = audience["last_run"]
    said = last and f"{last['id']} {last['kind']} {last['state']} {last['started_at']}"
    return {**audience, "last_run": said}


def _short(audience: Record) -> Record:
    """Return an audience for the table, with the state of its last run."""
    last = audience["last_run"]
    return {**audience, "last_run": last and last["state"]}


def _print_status(whole: Record, *, forwarded: bool, name: str) -> None:
    print_facts(
        [
            ("database", whole["database"]),
            ("identity", whole["identity"] or "not set yet: the first sync sets it"),
            ("environment", whole["environment"] or "not set yet: the first delivery sets it"),
        ]
    )
    typer.echo()
    hidden = HiddenColumns()
    print_table(map(_short, whole["audiences"]), STATUS_SHOWN, hidden=hidden)
    _print_waiting(whole["deliveries"], whole["events"] if forwarded else None)
    _print_destination(whole["destination"], name)
    _print_hooks(whole["hooks"], hidden)
    if whole["shared_identifiers"]:
        shared = identifiers.shared_sentence(whole["shared_identifiers"], destination=name)
        out.print(f"identifiers: {shared}")
    for title, records, shown in (
        ("waiting for a retry", whole["attempts"], ATTEMPTS_SHOWN),
        ("at work", whole["leases"], SHOWN),
        ("blocked", whole["blocked"], BLOCKED_SHOWN),
        ("failed", whole["failed"], BLOCKED_SHOWN),
        ("stale", whole["stale"], BLOCKED_SHOWN),
        ("held", whole["held"], HELD_SHOWN),
    ):
        if records:
            typer.echo(f"\n{title}:")
            print_table(records, shown, hidden=hidden)
    for run in whole["blocked"]:
        look, approve = f"audience-sync plan {run['audience']}", f"audience-sync approve {run['audience']}"
        console.print(f"hint: review it with `{look}`, then run `{approve}`")
    if whole["stale"]:
        console.print("hint: load new data; `audience-sync sync AUDIENCE --allow-stale` evaluates the old data")
    if whole["deliveries"]["dead"] or whole["events"]["dead"]:
        hint = "hint: `audience-sync dead list` shows why; run `audience-sync dead retry` to send them again"
        console.print(hint)
    hidden.say()


def _print_waiting(sent: Record, events: Record | None) -> None:
    """Print the number of pending changes and, if there ever were any, of forwarded events."""
    out.print(
        f"\ndeliveries: {sent['open'] - sent['paused']:,} waiting{_oldest(sent)}, {sent['paused']:,} held back by a"
        f" pause, {sent['dead']:,} dead, {sent['stuck']:,} stuck"
    )
    if events is not None:
        why = " (`audience-sync events --reasons` shows why)" if events["unsent"] else ""
        out.print(
            f"events: {events['open']:,} waiting{_oldest(events)}, {events['dead']:,} dead, {events['stuck']:,} stuck,"
            f" {events['unsent']:,} sent nothing{why}"
        )


def _print_destination(destination: Record, name: str) -> None:
    """Print the start of the current outage of the destination and the time of the next attempt."""
    if destination["state"] in SENTENCES:
        next_try = destination["next_try_at"]
        again = instant_text(next_try) if next_try else "when the daemon or `audience-sync deliver` runs"
        since = instant_text(destination["since"])
        out.print(f"{name}: {SENTENCES[destination['state']]} since {since}, next attempt {again}", markup=False)
        out.print(f"last answer: {destination['last_answer']}", markup=False)


def _print_hooks(hooks: list[Record], hidden: HiddenColumns) -> None:
    if not hooks:
        return
    typer.echo("\nhooks:")
    print_table(hooks, HOOKS_SHOWN, hidden=hidden)
    for hook in hooks:
        if hook["dead"]:
            console.print(f"hint: `audience-sync dead list --hook {hook['hook']}` shows why messages are dead")
        if not hook["configured"]:
            console.print(
                f"hint: {hook['hook']} is not in the configuration;"
                f" `audience-sync dead discard --hook {hook['hook']}` drops its messages"
            )


def _oldest(waiting: Record) -> str:
    return f" (oldest since {instant_text(waiting['oldest'])})" if waiting["oldest"] else ""
