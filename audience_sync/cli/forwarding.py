"""The command that passes Segment events through the mappings, and what it shows of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import orjson
import typer
from rich.text import Text

from audience_sync.cli.context import console, settings_of
from audience_sync.cli.delivering import PANEL
from audience_sync.cli.output import Format, FormatOption, Record, Sheet, harmless, json_line, print_records
from audience_sync.cli.plans import REDACTED
from audience_sync.cli.progress import Progress
from audience_sync.core.arrivals import TYPES
from audience_sync.core.destination.mappings import Mapping
from audience_sync.errors import ConfigError, SourceError
from audience_sync.forwarding import BadLine, Preview, name_of, open_events, preview, read_events

COLUMNS = ("line", "messageId", "matched", "bodies", "reasons")
SUMMARY_COLUMNS = ("what", "which", "count")
MOST_NAMED = 20
"""So many bad lines are named; the rest is counted."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    example = "Example: audience-sync forward events.ndjson.gz --dry-run --format json | head"
    app.command(rich_help_panel=PANEL, epilog=example)(forward)


def forward(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Segment events, one JSON object a line, gzip too; - is standard input."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; show what the events would become.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Pass Segment events through the mappings; today only --dry-run, which shows what they would become.

    As json or csv every event is one line: matched are the mappings whose trigger it matches, bodies what would be
    posted to Schematic, reasons why nothing, or nothing more, would be. A table is a summary. Lines that are no event
    are named on stderr, and the rest goes on. Exit codes: 0 done, bad lines or not, and for an empty file; 1 the file
    cannot be read to its end, or none of its lines is an event.
    """
    if not dry_run:
        raise ConfigError("sending forwarded events is not built yet: `--dry-run` shows what they would become")
    mappings = settings_of(context).mappings
    name = name_of(file)
    sheet = ForwardSheet(mappings, format=format)
    try:
        with open_events(file) as stream, _progress(name, format) as show:
            for found in read_events(stream, name=name):
                if isinstance(found, BadLine):
                    sheet.add_bad(found)
                else:
                    sheet.add(preview(found, mappings, api_key=REDACTED))
                show("forwarding", found.line)
    except SourceError:
        sheet.close()
        raise
    sheet.close()
    if not sheet.lines:
        console.print(Text(f"{name} has no events: it is empty, or all its lines are blank"))
    elif not sheet.events:
        raise SourceError(
            f"no line of {name} is a Segment event",
            hint='each line is one JSON object, such as {"type": "identify", …}',
        )


@contextmanager
def _progress(name: str, format: Format) -> Iterator[Callable[[str, int], None]]:
    """Show progress, unless the events themselves pass by on the terminal: it would cut through their lines."""
    if format is not Format.TABLE and sys.stdout.isatty():
        yield lambda _stage, _done: None
    else:
        with Progress(name) as progress:
            yield progress.show


class ForwardSheet:
    """Prints what events would come to: every one as a line of json or csv, or a summary of all."""

    def __init__(self, mappings: Sequence[Mapping], *, format: Format) -> None:
        self._format = format
        self._sheet = Sheet(COLUMNS, format=format)
        self._types: Counter[str] = Counter()
        self._unsent: Counter[str] = Counter()  # reasons of events without any body
        self._partly: Counter[str] = Counter()  # reasons of events that other mappings make bodies of
        self._bodies = Counter({mapping.name: 0 for mapping in mappings if mapping.enabled})
        self._bad: Counter[str] = Counter()
        self._events_unsent = 0

    @property
    def events(self) -> int:
        """Return how many events there were."""
        return self._types.total()

    @property
    def lines(self) -> int:
        """Return how many lines there were, events or not."""
        return self.events + self._bad.total()

    def add(self, seen: Preview) -> None:
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
            sys.stdout.write(harmless(json_line(record)))
        else:
            lists = {name: orjson.dumps(record[name]).decode() for name in ("matched", "reasons")}
            self._sheet.add({**record, **lists})

    def add_bad(self, line: BadLine) -> None:
        """Count a line that is no event, and name it if not too many were before."""
        if self._bad.total() < MOST_NAMED:
            console.print(Text.assemble(("bad line", "yellow"), f" {line.line} {line.sentence}"))
        self._bad[line.fault] += 1

    def close(self) -> None:
        """Print the summary, and say on stderr what it all came to; nothing if there was nothing."""
        bad = self._bad.total()
        if bad > MOST_NAMED:
            console.print(f"… {bad - MOST_NAMED:,} more bad lines")
        if not self.lines:
            return
        if self._format is Format.TABLE:
            print_records(self._summary(), SUMMARY_COLUMNS, format=self._format)
        console.print(
            f"{self.events:,} events would become {self._bodies.total():,} bodies, {self._events_unsent:,} of them"
            f" none; {bad:,} bad lines; nothing was sent"
        )

    def _summary(self) -> list[Record]:
        rows = [("events", kind, self._types[kind]) for kind in TYPES if self._types[kind]]
        for what, counts in (("sent to nobody", self._unsent), ("sent in part", self._partly)):
            rows += [(what, reason, count) for reason, count in sorted(counts.items())]
        rows += [("bodies", mapping, count) for mapping, count in self._bodies.items()]
        rows += [("bad lines", fault, count) for fault, count in sorted(self._bad.items())]
        return [dict(zip(SUMMARY_COLUMNS, row, strict=True)) for row in rows]
