"""The commands demo and sandbox, which need no configuration and no network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing, redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import orjson
import typer
from rich.text import Text

from audience_sync import demo_shop as shop
from audience_sync import runtime
from audience_sync.cli.console import Format, FormatOption, Sheet, json_line, print_records, print_result, print_table
from audience_sync.cli.context import clock, console, out
from audience_sync.cli.text_table import Record, TableView, wrap_command
from audience_sync.config import Settings, load, parse_duration, resolve_api_key
from audience_sync.config_path import CONFIG_VARIABLE
from audience_sync.core.model import ChangeKind, RunState
from audience_sync.core.text import counted
from audience_sync.delivery import DeliveryOptions, deliver
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.sandbox.ledger import EventFilter, Ledger
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY, Sandbox, SimulatedFailures
from audience_sync.segment.timestamps import iso
from audience_sync.signals import stoppable
from audience_sync.store import audiences, memberships, runs
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, sync

# --- the story --------------------------------------------------------------------------------------------------------
# The story of `demo`: a shop, a first sync, two weeks, a second sync, and the reasons why some people moved.

RUNS_SHOWN: Final = TableView(
    ("audience", "read", "entered", "exited", "updated", "unchanged", "sent"), ("unchanged", "read"), grouped=True
)
PEOPLE_SHOWN: Final = TableView(("change", "customer", "reason"))
BELIEFS_SHOWN: Final = TableView(("trait", "Schematic", "membership"))

_SQLITE3: Final = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute(sys.argv[2])); c.commit()"
"""A replacement for the program sqlite3 if it is not installed."""

Members: TypeAlias = dict[str, dict[str, str | None]]
"""Of each audience the members with their identifiers."""


def empty_folder(folder: Path | None) -> Path:
    """Return an empty folder, and create it if it is missing.

    Raises:
        ConfigError: the named folder cannot be created or is not empty.
    """
    candidates = (
        [folder] if folder else [Path(f"audience-sync-demo{n}") for n in ("", *(f"-{n}" for n in range(2, 1000)))]
    )
    try:
        for place in candidates:
            if not place.exists() or (place.is_dir() and not any(place.iterdir())):
                place.mkdir(parents=True, exist_ok=True)
                return place
    except OSError as error:
        raise ConfigError(
            f"cannot create the folder {place}: {error.strerror}", hint="choose another folder with --folder"
        ) from error
    raise ConfigError(f"{place} is not an empty folder", hint="choose another folder with --folder, or omit the option")


def tell(place: Path, summary: dict[str, object]) -> Generator[None, None, None]:
    """Tell the whole story and fill in its summary; yield wherever it can be interrupted."""
    real, database = clock(), place / "shop.db"
    now = real.now().replace(microsecond=0)
    with Sandbox(place / "sandbox.db") as server:
        settings = load(shop.write_config(place, url=server.url, key=DEVELOPMENT_KEY), {})
        customers, orders = shop.open_shop(database, now=now - shop.STEP)
        runtime.create(settings)
        _title("1. An example shop and a local Schematic")
        out.print(f"A fictional coffee shop: {customers:,} customers in offices, {orders:,} orders in eight months.")
        out.print("The sandbox stands in for Schematic: it has the same HTTP API, on this machine.")
        yield
        with runtime.working(settings, real) as workspace:
            _title(f"2. The first sync, as of {now - shop.STEP:%A, %d %B %Y}: every member enters")
            first = yield from _sync(workspace, settings, now - shop.STEP)
            before = _members(workspace)
            customers, orders = shop.move_on(database, now=now)
            _title(f"3. Two weeks later, {now:%d %B %Y}: only what changed is sent")
            out.print(f"Since then, {customers:,} customers have joined and {orders:,} orders have come in.\n")
            second = yield from _sync(workspace, settings, now)
            after = _members(workspace)
        _title("4. The changes, and the reasons")
        person = _explain(database, settings, before, after, now=now)
        _title("5. What Schematic received and stored")
        _show_person(server.ledger, shop.facts(database, person, at=now), after)
        compared = _compare(server.ledger, after)
    summary |= {"folder": str(place), "config": str(settings.path), "syncs": [first, second]}
    summary |= {"compared": compared, "person": person}
    lapsed = min(after[shop.LAPSED].keys() - after[shop.SPENDERS].keys())
    _suggest(place, port=server.url.rpartition(":")[2], person=person, lapsed=lapsed)


def _sync(workspace: Workspace, settings: Settings, as_of: datetime) -> Generator[None, None, Record]:
    """Sync every audience, deliver, print the result and return it; yield wherever this can be interrupted.

    Raises:
        AudienceSyncError: something unexpected happened.
    """
    reports = []
    for audience in settings.audiences:
        reports.append(sync(workspace, Job(settings=settings, audience=audience, as_of=as_of)))
        yield
    outcome = deliver(workspace, DeliveryOptions(settings=settings, key=resolve_api_key(settings.section, {})))
    yield
    if outcome.failure is not None:
        raise outcome.failure
    with workspace.database.read() as connection:
        done = [runs.get(connection, report.run.id) for report in reports]
    rows, records = [], []
    for audience, run in zip(settings.audiences, done, strict=True):
        if run.state is not RunState.SUCCEEDED:
            raise AudienceSyncError(f"the sync of {audience.key} has the state {run.state}: {run.reason}")
        counts = run.counts
        numbers = (counts.read, counts.entered, counts.exited, counts.updated, counts.unchanged, run.sent)
        rows.append(dict(zip(RUNS_SHOWN.columns, (audience.name, *numbers), strict=True)))
        records.append({**rows[-1], "audience": audience.key})
    print_table(rows, RUNS_SHOWN)
    sent = sum(run.sent for run in done)
    out.print(f"\n{sent:,} changes sent in {outcome.events:,} identify calls, one for each user.")
    return {"as_of": iso(as_of), "accepted": outcome.events, "runs": records}


def _members(workspace: Workspace) -> Members:
    with workspace.database.read() as connection:
        return {
            row.key: {
                member.profile_key: member.identifiers
                for member in memberships.first(connection, row.id, at_most=row.members)
            }
            for row in audiences.every(connection)
        }


def _explain(database: Path, settings: Settings, before: Members, after: Members, *, now: datetime) -> str:
    """Show some people with changes and the reasons; return one who had lapsed and came back."""
    changes: dict[tuple[str, ChangeKind], list[str]] = {}
    for key in after:
        was, present = before[key], after[key]
        changes[key, ChangeKind.ENTERED] = sorted(present.keys() - was.keys())
        changes[key, ChangeKind.EXITED] = sorted(was.keys() - present.keys())
        changes[key, ChangeKind.UPDATED] = sorted(p for p in was.keys() & present.keys() if was[p] != present[p])
    often = Counter(person for people in changes.values() for person in people)
    for audience in settings.audiences:
        out.print(f"[bold]{audience.name}[/]")
        rows = []
        for kind in ChangeKind:
            ranked = sorted(changes[audience.key, kind], key=lambda person: -often[person])
            for person in dict.fromkeys([*ranked[:1], *ranked[-1:]]):
                then, known = (shop.facts(database, person, at=at) for at in (now - shop.STEP, now))
                rows.append(
                    {
                        "change": kind.value,
                        "customer": known.name,
                        "reason": shop.reason(kind, audience.key, then, known),
                    }
                )
        print_table(rows, PEOPLE_SHOWN)
        out.print()
    return changes[shop.LAPSED, ChangeKind.EXITED][0]


def _show_person(ledger: Ledger, person: shop.Facts, members: Members) -> None:
    """Show the last identify call for a person in the sandbox, and the resulting traits."""
    (number,) = ledger.find_users({"userId": person.customer})
    (event,) = ledger.events(EventFilter(user_id=number), newest_first=True, limit=1)
    wire = {"type": event.type, "body": event.body, "idempotency_key": event.idempotency_key, "sent_at": event.sent_at}
    out.print(f"The identify call for {person.name}, without its API key:\n")
    out.print(Text(orjson.dumps(wire, option=orjson.OPT_INDENT_2).decode()), hang=2)
    traits = ledger.traits_of("userId", person.customer)
    out.print(f"\nThe traits of {person.name} in Schematic now, as flags and plans see them:\n")
    print_table(
        [
            {
                "trait": key,
                "Schematic": str(traits[key]).lower() if key in traits else "(never a member)",
                "membership": "member" if person.customer in inside else "not a member",
            }
            for key, inside in members.items()
        ],
        BELIEFS_SHOWN,
    )


def _compare(ledger: Ledger, members: Members) -> int:
    """Compare every trait in the sandbox with the memberships; return the number of people.

    Raises:
        AudienceSyncError: they differ.
    """
    believed = dict(ledger.all_traits("userId"))
    people = believed.keys() | {person for inside in members.values() for person in inside}
    wrong = [
        (p, key)
        for key, inside in members.items()
        for p in people
        if (believed.get(p, {}).get(key) is True) != (p in inside)
    ]
    if wrong:
        raise AudienceSyncError(f"{len(wrong)} traits differ from the memberships; the first is {wrong[0]}")
    out.print(f"\nCompared {len(people):,} people with {len(members)} traits each: all match the memberships.")
    return len(people)


def _suggest(place: Path, *, port: str, person: str, lapsed: str) -> None:
    """Print commands to continue with; each works as printed."""
    python = shlex.quote(sys.executable)
    program = "audience-sync" if shutil.which("audience-sync") else f"{python} -m audience_sync"
    sql = "sqlite3" if shutil.which("sqlite3") else f"{python} -c {shlex.quote(_SQLITE3)}"
    if os.environ.get(CONFIG_VARIABLE):  # it would take precedence over the file of the demo
        program += " --config config.toml"
    query = '"SELECT audience, count(*) FROM current_members GROUP BY audience"'
    # Only printed, for the user to run.
    order = f"\"INSERT INTO orders VALUES (NULL, '{lapsed}', datetime(), 64000)\""  # noqa: S608
    steps = [
        ("Go there:", f"cd {shlex.quote(str(place))}"),
        ("The state of every audience:", f"{program} status"),
        ("The members of an audience, and since when:", f"{program} members {shop.SPENDERS} --limit 5"),
        ("Who left, when, and in which run:", f"{program} changes {shop.ORDERED} --kind exited --limit 5"),
        ("Everything about one user:", f"{program} profile {person}"),
        ("Memberships are in plain tables:", f"{sql} audience_sync.db {query}"),
        (
            "Start the local Schematic again (in a second terminal, in the same folder):",
            f"{program} sandbox --port {port} --database sandbox.db",
        ),
        ("Add an order of $640 for a lapsed customer:", f"{sql} shop.db {order}"),
        ("Sync again; three changes for that customer are sent:", f"{program} sync"),
    ]
    _title("6. Next steps")
    out.print("shop.db is the source, audience_sync.db has the memberships, and sandbox.db has")
    out.print("everything Schematic received. config.toml and the sandbox's key are there too.\n")
    for why, command in steps:
        out.print(f"  {why}")
        lines = wrap_command(command, out.line_width, indent=4)
        out.print_lines([Text(line, style="bold") for line in lines])


def _title(text: str) -> None:
    out.print(f"\n[bold cyan]{text}[/]\n")


# --- commands ---------------------------------------------------------------------------------------------------------

POLL_INTERVAL = 0.1  # seconds between two reads of the sandbox's ledger

_REQUESTS: Final = "SELECT id, at, path, status, events, fault FROM requests WHERE id > ? ORDER BY id"
_EVENTS: Final = """
SELECT request_id, max(id), count(*), sum(status = 'duplicate'), sum(status = 'failed') FROM events
WHERE id > ? AND request_id <= ? GROUP BY request_id
"""
_LAST: Final = "SELECT coalesce((SELECT max(id) FROM requests), 0), coalesce((SELECT max(id) FROM events), 0)"


def moment(text: str) -> timedelta:
    """Return a duration such as 50ms, 2s or 1m."""
    if match := re.fullmatch(r"(\d{1,9})ms", text, re.ASCII):
        return timedelta(milliseconds=int(match[1]))
    try:
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r} is not a valid duration such as "50ms" or "2s"') from None


FailRate = Annotated[
    float | None, typer.Option(min=0, max=1, metavar="RATE", help="Fraction of event requests that fail (0–1).")
]
FailStatus = Annotated[
    int | None,
    typer.Option(
        min=300,
        max=599,
        metavar="STATUS",
        help="HTTP status of failing requests (default: 500). Without --fail-rate, all requests fail.",
    ),
]
Delay = Annotated[
    timedelta, typer.Option(parser=moment, metavar="DURATION", help="Delay before the response to an event request.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: audience-sync demo --folder /tmp/shop")(demo)
    app.command(epilog="Example: audience-sync sandbox --fail-rate 0.3 --delay 50ms")(sandbox)


def sandbox(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 picks a free one.")
    ] = 8480,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; the default accepts connections from this machine only."
        ),
    ] = "127.0.0.1",
    database: Annotated[Path, typer.Option(metavar="FILE", help="SQLite file for everything received.")] = Path(
        "sandbox.db"
    ),
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="KEY", help="An API key to accept; may be repeated.", show_default=DEVELOPMENT_KEY
        ),
    ] = None,
    fail_rate: FailRate = None,
    fail_status: FailStatus = None,
    delay: Delay = "0ms",  # type: ignore[assignment]  # Typer parses it
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print each request.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Run a local Schematic until Ctrl-C.

    Accepts events, enforces Schematic's limits, and fails when asked to. Needs no configuration. Stores everything it
    receives in --database. json has one line when the sandbox is ready, one for each request, and one with totals at
    the end; their `record` is `ready`, `request` or `total`. csv has only the requests.
    """
    accepted = keys or [DEVELOPMENT_KEY]
    failures = _failures(fail_rate, fail_status, delay.total_seconds())
    with (
        stoppable(_nothing) as stop,
        Sandbox(database, port=port, host=host, api_keys=accepted, failures=failures) as server,
    ):
        seen, totals = _Seen(*server.ledger.read(_LAST)[0]), Counter[str]()
        output = RequestSheet(format, quiet=quiet)
        output.announce(server.url, accepted, database)
        while not stop.wait(POLL_INTERVAL):
            seen = _show_new(server.ledger, seen, totals, output)
        _show_new(server.ledger, seen, totals, output)
    output.close(totals)
    console.print(Text(f"{_summary(totals)}; stored in {database}"))


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder to create; by default ./audience-sync-demo, or the next free name."
        ),
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Sync a small example shop into a local Schematic.

    Takes a few seconds and needs no network. Everything stays in one folder, with commands to continue from there. With
    --format json or csv, the story goes to stderr, and its numbers to stdout.
    """
    summary: dict[str, Any] = {}
    story_to = sys.stdout if format is Format.TABLE else sys.stderr
    with redirect_stdout(story_to), stoppable(_nothing) as stop, closing(tell(empty_folder(folder), summary)) as story:
        try:
            for _ in story:
                if stop.is_set():
                    break
        finally:  # an interrupted step may report that itself
            if stop.is_set():
                raise KeyboardInterrupt
    if format is Format.CSV:
        runs_of = [{"as_of": one["as_of"], **run} for one in summary["syncs"] for run in one["runs"]]
        print_records(runs_of, ("as_of", *RUNS_SHOWN.columns), format=format)
    else:
        print_result(summary, format=format)


def _nothing() -> None:
    """Print nothing on a signal, because the command ends immediately."""


class _Seen(NamedTuple):
    """The newest request and event read from the sandbox's ledger."""

    request: int
    event: int


def _failures(rate: float | None, status: int | None, delay: float) -> SimulatedFailures:
    """Return the failures to simulate; the delay, in seconds, applies to all requests."""
    if rate is None:
        rate = 0.0 if status is None else 1.0
    return SimulatedFailures(rate=rate, status=status or 500, delay=delay)


REQUEST_COLUMNS: Final = ("at", "path", "status", "events", "duplicates", "failed", "fault")


class RequestSheet:
    """Print the address of a sandbox and each request that it gets, as they come."""

    def __init__(self, format: Format, *, quiet: bool) -> None:
        self._format = format
        self._quiet = quiet
        self._sheet = Sheet(REQUEST_COLUMNS, format=format) if format is Format.CSV else None

    def announce(self, url: str, keys: list[str], database: Path) -> None:
        """Print how to reach the sandbox."""
        if self._format is not Format.TABLE:
            self._print_json({"record": "ready", "url": url, "api_keys": keys, "database": str(database)})
            return
        out.print(
            Text(
                f"A local Schematic is running at {url} and stores everything it receives in {database}. Press"
                " Ctrl-C to stop."
            )
        )
        typer.echo(f"API key: {', '.join(keys)}")
        typer.echo("\nIn the configuration:\n\n[schematic]")
        typer.echo(f'api_key = "${{SCHEMATIC_API_KEY}}"  # export SCHEMATIC_API_KEY={keys[0]}')
        typer.echo(f'capture_url = "{url}"\napi_url = "{url}"\n')

    def show(self, request: Mapping[str, Any]) -> None:
        """Print a request, unless requests are not wanted."""
        if self._quiet:
            return
        if self._sheet is not None:
            self._sheet.add(request)
            sys.stdout.flush()
        elif self._format is Format.JSON:
            self._print_json({"record": "request", **request})
        else:
            typer.echo(_request_line(request), err=True)

    def close(self, totals: Counter[str]) -> None:
        """Print how many requests and events there were; for a table, a sentence on stderr does."""
        numbers = {name: totals[name] for name in ("requests", "processed", "duplicates", "failed")}
        self._print_json({"record": "total", **numbers})

    def _print_json(self, record: Record) -> None:
        if self._format is Format.JSON:
            sys.stdout.write(json_line(record))
            sys.stdout.flush()  # a program may wait for the line


def _request_line(request: Mapping[str, Any]) -> str:
    at, path, status, events, duplicates, failed, fault = request.values()
    details = [counted(events, "event")] if events else []
    details += [counted(duplicates, "duplicate")] if duplicates else []
    details += [f"{failed:,} failed"] if failed else []
    details += [f"fault: {fault}"] if fault else []
    return f"{at[11:23]}  {status or '---'}  {path}  {', '.join(details)}".rstrip()


def _show_new(ledger: Ledger, seen: _Seen, totals: Counter[str], output: RequestSheet) -> _Seen:
    """Print and count the requests since `seen`; if the ledger was emptied since then, start from its beginning."""
    last = _Seen(*ledger.read(_LAST)[0])
    if last.request < seen.request:
        seen = _Seen(0, 0)
    requests = ledger.read(_REQUESTS, (seen.request,))
    if not requests:
        return seen
    newest = requests[-1][0]
    taken = {request: rest for request, *rest in ledger.read(_EVENTS, (seen.event, newest))}
    for request, at, path, status, events, fault in requests:
        _, count, duplicates, failed = taken.get(request, (0, 0, 0, 0))
        totals.update({"requests": 1, f"answered {status or 'nothing'}": 1})
        totals.update(processed=count - duplicates - failed, duplicates=duplicates, failed=failed)
        output.show(dict(zip(REQUEST_COLUMNS, (at, path, status, events, duplicates, failed, fault), strict=True)))
    return _Seen(newest, max([seen.event, *(found[0] for found in taken.values())]))


def _summary(totals: Counter[str]) -> str:
    answers = ", ".join(f"{n:,} {answer}" for answer, n in sorted(totals.items()) if answer.startswith("answered"))
    events = ", ".join(f"{totals[status]:,} {status}" for status in ("processed", "duplicates", "failed"))
    return f"received {counted(totals['requests'], 'request')}{answers and f' ({answers})'}; events: {events}"
