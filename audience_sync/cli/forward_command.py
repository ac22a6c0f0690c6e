"""The command that passes the Segment events of a file through the mappings: to look at, or to be sent."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Annotated

import orjson
import typer
from pydantic import SecretStr
from rich.text import Text

from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, Progress, Sheet, json_line, print_records
from audience_sync.cli.context import console, settings_of
from audience_sync.cli.deliver_commands import WAIT, Wait, working
from audience_sync.cli.plan_output import REDACTED
from audience_sync.cli.text_table import Record
from audience_sync.config import Settings, resolve_api_key
from audience_sync.delivery import DeliveryOptions, DeliveryReport, KnownDestination, deliver
from audience_sync.destinations.mappings import Mapping
from audience_sync.errors import DestinationError, KeyRefused, MarkUnusable, SourceError
from audience_sync.segment.segment_events import TYPES
from audience_sync.store import backlog, event_reports
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.event_files import (
    BadLine,
    EventPreview,
    Forwarding,
    Tally,
    name_of,
    open_events,
    preview,
    read_events,
)
from audience_sync.tracking_api.event_files import forward as forward_events

PREVIEW_COLUMNS = ("line", "messageId", "matched", "bodies", "reasons")
SUMMARY_COLUMNS = ("what", "which", "count")
MOST_NAMED = 20
"""Bad lines that are named; the rest is counted by its reasons."""


class BadLines:
    """Names the lines that are not events on stderr, until there are too many of them."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Return how many there were."""
        return self.faults.total()

    def add(self, line: BadLine) -> None:
        """Count a line, and name it if not too many were before."""
        if self.count < MOST_NAMED:
            console.print(Text.assemble(("bad line", "yellow"), f" {line.line} {line.sentence}"))
        self.faults[line.fault] += 1

    def close(self) -> None:
        """Say how many were not named, and how many there are of each reason."""
        if self.count > MOST_NAMED:
            reasons = ", ".join(f"{count:,} {fault}" for fault, count in sorted(self.faults.items()))
            console.print(f"… {self.count - MOST_NAMED:,} more bad lines; in total: {reasons}")


class ForwardSheet:
    """Prints what events would come to: every one as a line of json or csv, or a summary of all."""

    def __init__(self, mappings: Sequence[Mapping], *, format: Format) -> None:
        self._format = format
        self._sheet = Sheet(PREVIEW_COLUMNS, format=format)
        self._types: Counter[str] = Counter()
        self._unsent: Counter[str] = Counter()  # reasons of events without any body
        self._partly: Counter[str] = Counter()  # reasons of events that other mappings make bodies of
        self._bodies = Counter({mapping.name: 0 for mapping in mappings if mapping.enabled})
        self.bad = BadLines()
        self._events_unsent = 0

    @property
    def events(self) -> int:
        """Return how many events there were."""
        return self._types.total()

    @property
    def lines(self) -> int:
        """Return how many lines there were, events or not."""
        return self.events + self.bad.count

    def add(self, seen: EventPreview) -> None:
        """Count an event, and print it unless a summary is wanted."""
        self._types[seen.type] += 1
        for mapping, _ in seen.bodies:
            self._bodies[mapping] += 1
        if not seen.bodies:
            self._events_unsent += 1
        if codes := seen.codes:
            (self._partly if seen.bodies else self._unsent).update(codes)
        if self._format is Format.TABLE:
            return
        record: Record = {
            "line": seen.line,
            "messageId": seen.message_id,
            "matched": seen.matched,
            "bodies": f"[{','.join([text for _, text in seen.bodies])}]",
            "reasons": seen.reasons,
        }
        if self._format is Format.JSON:
            sys.stdout.write(json_line(record))
        else:
            lists = {name: orjson.dumps(record[name]).decode() for name in ("matched", "reasons")}
            self._sheet.add({**record, **lists})

    def close(self) -> None:
        """Print the summary, and say on stderr what it all came to; nothing if there was nothing."""
        self.bad.close()
        if not self.lines:
            return
        if self._format is Format.TABLE:
            print_records(self._summary(), SUMMARY_COLUMNS, format=self._format)
        console.print(
            f"{self.events:,} events would become {self._bodies.total():,} bodies, {self._events_unsent:,} events would"
            f" send nothing; {self.bad.count:,} bad lines; nothing was sent"
        )

    def _summary(self) -> list[Record]:
        rows = [("events", kind, self._types[kind]) for kind in TYPES if self._types[kind]]
        for what, counts in (("sent to nobody", self._unsent), ("sent in part", self._partly)):
            rows += [(what, reason, count) for reason, count in sorted(counts.items())]
        rows += [("bodies", mapping, count) for mapping, count in self._bodies.items()]
        rows += [("bad lines", fault, count) for fault, count in sorted(self.bad.faults.items())]
        return [dict(zip(SUMMARY_COLUMNS, row, strict=True)) for row in rows]


COLUMNS = ("read", "taken", "known", "bad", "accepted", "unsent", "open", "dead")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    example = "Example: audience-sync forward events.ndjson.gz --dry-run --format json | head"
    app.command(epilog=example)(forward)


def forward(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Segment events, one JSON object per line, optionally gzipped; - reads standard input."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; show what the events would become.")
    ] = False,
    no_deliver: Annotated[bool, typer.Option("--no-deliver", help="Store the events without sending them.")] = False,
    wait: Wait = WAIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """Send a file of Segment events through the mappings.

    With --dry-run, show the resulting requests and send nothing.

    Events are stored in the membership database and delivered from there, about 24,000 at a time, or every few seconds
    if they arrive slowly through a pipe. Each messageId is accepted once in seven days, so running the same file again,
    for example after Ctrl-C or a crash, continues and sends nothing twice. At the end, one record is printed: events
    read, stored, and already known; bad lines (listed on stderr); events that Schematic accepted and events that sent
    nothing during the run (`audience-sync events --reasons` shows why); open and dead events in the database.

    A dry run with --format json or csv prints one line per event: `matched` lists the mappings whose trigger matches,
    `bodies` lists the requests, and `reasons` says why others are missing. The table is a summary.

    Exit codes: 0 done, even with bad lines or an empty file; 1 the file cannot be read to its end (earlier events are
    sent), none of its lines is an event, or Schematic accepts none; 3 some deliveries are open or dead; 6 key refused.
    """
    settings = settings_of(context)
    if dry_run:
        _show(settings, file, format=format)
        return
    key = None if no_deliver else resolve_api_key(settings.section, os.environ)
    with working(settings) as (workspace, stop):
        started = workspace.clock.now_ms()
        unsent_before = _unsent(workspace.database, since_ms=started)
        with Progress(name_of(file)) as progress:
            sender = Sender(workspace=workspace, settings=settings, key=key, wait=wait, stop=stop, show=progress.show)
            tally = _send(sender, file)
        unsent = _unsent(workspace.database, since_ms=started) - unsent_before
        _print_tally(workspace.database, tally, accepted=sender.events, unsent=unsent, format=format)
        failure = None if stop.is_set() else _failure(tally, name_of(file))
        raise typer.Exit(_exit_code(tally, sender.report(), failure=failure))


@dataclass(kw_only=True)
class Sender:
    """Delivers again and again, and adds up how that went; without a key it leaves everything in the database."""

    workspace: Workspace
    settings: Settings
    key: SecretStr | None
    wait: timedelta
    stop: threading.Event
    show: Callable[[str, int], None]
    known: KnownDestination = field(default_factory=KnownDestination)
    events: int = 0  # accepted
    failure: DestinationError | MarkUnusable | None = None  # of the last delivery

    def deliver(self) -> bool:
        """Deliver what waits, but not with a key that was refused; False if something that may go is left open."""
        if self.key is None:
            return True
        if isinstance(self.failure, KeyRefused):
            return False
        before = self.events
        report = deliver(
            self.workspace,
            DeliveryOptions(
                settings=self.settings,
                key=self.key,
                wait=self.wait,
                stop=self.stop,
                known=self.known,
                on_progress=lambda events: self.show("delivering", before + events),
                warn=run_output.warn,
            ),
        )
        self.events += report.events
        self.failure = report.failure
        return report.failure is None and report.open <= report.paused

    def report(self) -> DeliveryReport | None:
        """Return how all deliveries together ended, as the database is now."""
        if self.key is None:
            return None
        with self.workspace.database.read() as connection:
            counts = backlog.count(connection)
        return DeliveryReport(self.events, *counts, self.failure, self.settings.destination.display_name)


def _send(sender: Sender, file: str) -> Tally:
    """Take the events of a file and deliver them.

    Raises:
        SourceError: not one line of the file can be read.
    """
    bad = BadLines()
    told = Forwarding(
        file=file,
        deliver=sender.deliver,
        on_bad=bad.add,
        on_progress=partial(sender.show, "forwarding"),
        stop=sender.stop,
    )
    tally = forward_events(sender.workspace, told)
    if tally.failure is not None and not tally.lines:
        raise tally.failure
    if tally.read:
        sender.deliver()
    bad.close()
    if sender.stop.is_set():
        console.print(
            f"stopped after line {tally.lines:,}: run the same command again to continue; nothing is sent twice"
        )
    return tally


def _unsent(database: Database, *, since_ms: int) -> int:
    """Return how many events have sent nothing since the day of an instant began."""
    return sum(record["count"] for record in event_reports.unsent(database, since_ms=since_ms))


def _print_tally(database: Database, tally: Tally, *, accepted: int, unsent: int, format: Format) -> None:
    with database.read() as connection:
        still_open, _, dead = backlog.count(connection)
    values = (tally.read, tally.taken, tally.known, tally.bad, accepted, unsent, still_open, dead)
    print_records([dict(zip(COLUMNS, values, strict=True))], COLUMNS, format=format)


def _exit_code(tally: Tally, report: DeliveryReport | None, *, failure: SourceError | None) -> int:
    """Say how all ended and return the exit code of the command."""
    code = run_output.exit_code([], [failure] if failure else [], report if tally.read else None)
    if failure is not None:
        run_output.complain(failure)
    return code


def _failure(tally: Tally, name: str) -> SourceError | None:
    """Return what was wrong with the file, if anything."""
    if tally.failure is not None:
        hint = "earlier events are stored: run the same command again to continue; nothing is sent twice"
        return SourceError(str(tally.failure), hint=hint)
    if not tally.lines:
        console.print(Text(_nothing(name)))
    return None if tally.read or not tally.lines else _no_event(name)


def _show(settings: Settings, file: str, *, format: Format) -> None:
    """Show what the events of a file would become.

    Raises:
        SourceError: the file cannot be read to its end, or has lines but no event.
    """
    name = name_of(file)
    sheet = ForwardSheet(settings.mappings, format=format)
    destination = settings.destination
    shown = partial(preview, destination=destination.display_name, posted=partial(destination.posted, key=REDACTED))
    try:
        with open_events(file) as stream, _progress(name, format) as show:
            for found in read_events(stream, name=name):
                if isinstance(found, BadLine):
                    sheet.bad.add(found)
                else:
                    sheet.add(shown(found, settings.mappings))
                show("forwarding", found.line)
    except SourceError:
        sheet.close()
        raise
    sheet.close()
    if not sheet.lines:
        console.print(Text(_nothing(name)))
    elif not sheet.events:
        raise _no_event(name)


@contextmanager
def _progress(name: str, format: Format) -> Iterator[Callable[[str, int], None]]:
    """Show progress, unless the events themselves pass by on the terminal: it would cut through their lines."""
    if format is not Format.TABLE and sys.stdout.isatty():
        yield lambda _stage, _done: None
    else:
        with Progress(name) as progress:
            yield progress.show


def _nothing(name: str) -> str:
    return f"{name} has no events: it is empty, or all its lines are blank"


def _no_event(name: str) -> SourceError:
    return SourceError(
        f"no line of {name} is a Segment event",
        hint='each line must be one JSON object, such as {"type": "identify", …}; `jq -c .[]` splits a JSON array',
    )
