"""What `demo` tells: a shop, a first sync, two weeks, a second sync, and for some people by name why they moved."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import orjson
from rich.text import Text

from audience_sync import app as engine
from audience_sync import demo_shop as shop
from audience_sync.cli.context import out, seams
from audience_sync.cli.output import print_table
from audience_sync.cli.paragraph import wrap_command
from audience_sync.cli.table import TableView
from audience_sync.config import Settings, load, resolve_api_key
from audience_sync.config.load import CONFIG_VARIABLE
from audience_sync.core.model import ChangeKind, RunState
from audience_sync.delivery import Delivery, deliver
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.sandbox import DEVELOPMENT_KEY, EventFilter, Ledger, Sandbox
from audience_sync.store import audiences, memberships, runs
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, sync

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
    """Return an empty folder, made if it is missing.

    Raises:
        ConfigError: the one that was named cannot be made, or has something in it.
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
            f"cannot make the folder {place}: {error.strerror}", hint="name another one with --folder"
        ) from error
    raise ConfigError(f"{place} is not an empty folder", hint="name another one with --folder, or none at all")


def tell(place: Path) -> Generator[None, None, None]:
    """Tell the whole story; yield wherever it may be left."""
    real, database = seams(), place / "shop.db"
    now = real.clock().replace(microsecond=0)
    with Sandbox(place / "sandbox.db") as server:
        settings = load(shop.write_config(place, url=server.url, key=DEVELOPMENT_KEY), {})
        customers, orders = shop.open_shop(database, now=now - shop.STEP)
        engine.create(settings)
        _title("1. A shop, and a Schematic of its own")
        out.print(f"A made-up coffee shop: {customers:,} customers in offices, {orders:,} orders in eight months.")
        out.print("A sandbox stands for Schematic: it speaks the same HTTP, on this machine.")
        yield
        with engine.working(settings, real) as workspace:
            _title(f"2. The first sync, as of {now - shop.STEP:%A, %d %B %Y}: everybody enters")
            yield from _sync(workspace, settings, now - shop.STEP)
            before = _members(workspace)
            customers, orders = shop.move_on(database, now=now)
            _title(f"3. Two weeks later, {now:%d %B %Y}: only what changed is sent")
            out.print(f"{customers:,} customers have joined and {orders:,} orders come in since.\n")
            yield from _sync(workspace, settings, now)
            after = _members(workspace)
        _title("4. Who, and why")
        person = _explain(database, settings, before, after, now=now)
        _title("5. What Schematic received, and believes")
        _show_person(server.ledger, shop.facts(database, person, at=now), after)
        _compare(server.ledger, after)
    lapsed = min(after[shop.LAPSED].keys() - after[shop.SPENDERS].keys())
    _suggest(place, port=server.url.rpartition(":")[2], person=person, lapsed=lapsed)


def _sync(workspace: Workspace, settings: Settings, as_of: datetime) -> Iterator[None]:
    """Sync every audience, deliver, and print what came of it; yield wherever that may be left.

    Raises:
        AudienceSyncError: something did not go as it does in a demonstration.
    """
    reports = []
    for audience in settings.audiences:
        reports.append(sync(workspace, Job(settings=settings, audience=audience, as_of=as_of)))
        yield
    outcome = deliver(workspace, Delivery(settings=settings, key=resolve_api_key(settings.schematic, {})))
    yield
    if outcome.failure is not None:
        raise outcome.failure
    with workspace.database.read() as connection:
        done = [runs.get(connection, report.run.id) for report in reports]
    rows = []
    for audience, run in zip(settings.audiences, done, strict=True):
        if run.state is not RunState.SUCCEEDED:
            raise AudienceSyncError(f"the sync of {audience.key} is {run.state}: {run.reason}")
        counts = run.counts
        numbers = (counts.read, counts.entered, counts.exited, counts.updated, counts.unchanged, run.sent)
        rows.append(dict(zip(RUNS_SHOWN.columns, (audience.name, *numbers), strict=True)))
    print_table(rows, RUNS_SHOWN)
    sent = sum(run.sent for run in done)
    out.print(f"\n{sent:,} changes in {outcome.events:,} identifies: one for each person, whatever changed.")


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
    """Show some people with changes, and the reasons; return one who had lapsed and came back."""
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
    """Show the last identify about a person as the sandbox has it, and the traits it has made of all of them."""
    (number,) = ledger.find_users({"userId": person.customer})
    (event,) = ledger.events(EventFilter(user_id=number), newest_first=True, limit=1)
    wire = {"type": event.type, "body": event.body, "idempotency_key": event.idempotency_key, "sent_at": event.sent_at}
    out.print(f"The identify of {person.name}, without the API key that travels in it:\n")
    out.print(Text(orjson.dumps(wire, option=orjson.OPT_INDENT_2).decode()), hang=2)
    traits = ledger.traits_of("userId", person.customer)
    out.print(f"\nWhat Schematic believes of {person.name} now, as flags and plans see it:\n")
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


def _compare(ledger: Ledger, members: Members) -> None:
    """Hold every trait of the sandbox against the memberships.

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
        raise AudienceSyncError(f"{len(wrong)} traits differ from the memberships, first {wrong[0]}")
    out.print(f"\nCompared: {len(people):,} people, {len(members)} traits each; all are equal to the memberships.")


def _suggest(place: Path, *, port: str, person: str, lapsed: str) -> None:
    """Print commands to go on with; each works as it is printed."""
    python = shlex.quote(sys.executable)
    program = "audience-sync" if shutil.which("audience-sync") else f"{python} -m audience_sync"
    sql = "sqlite3" if shutil.which("sqlite3") else f"{python} -c {shlex.quote(_SQLITE3)}"
    if os.environ.get(CONFIG_VARIABLE):  # it would go before the demonstration's own file
        program += " --config config.toml"
    query = '"SELECT audience, count(*) FROM current_members GROUP BY audience"'
    # Only printed, for a person to run.
    order = f"\"INSERT INTO orders VALUES (NULL, '{lapsed}', datetime(), 64000)\""  # noqa: S608
    steps = [
        ("Go there:", f"cd {shlex.quote(str(place))}"),
        ("Every audience, and how it stands:", f"{program} status"),
        ("Who is in, since when:", f"{program} members {shop.SPENDERS} --limit 5"),
        ("Who left, when, in which run:", f"{program} changes {shop.ORDERED} --kind exited --limit 5"),
        ("One person, and what was sent:", f"{program} profile {person}"),
        ("Memberships are plain tables:", f"{sql} audience_sync.db {query}"),
        (
            "The local Schematic again (in a second terminal, in the same folder):",
            f"{program} sandbox --port {port} --database sandbox.db",
        ),
        ("Let somebody who had lapsed order for $640:", f"{sql} shop.db {order}"),
        ("Sync again; three changes of that person are sent:", f"{program} sync"),
    ]
    _title("6. Go on")
    out.print("shop.db is the source, audience_sync.db has the memberships, sandbox.db what")
    out.print("Schematic received; config.toml and the sandbox's key are in the same folder.\n")
    for why, command in steps:
        out.print(f"  {why}")
        lines = wrap_command(command, out.line_width, indent=4)
        out.print_lines([Text(line, style="bold") for line in lines])


def _title(text: str) -> None:
    out.print(f"\n[bold cyan]{text}[/]\n")
