"""Print a dry run of forward, and name bad lines."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import orjson
from rich.text import Text

from audience_sync.cli.context import console
from audience_sync.cli.output import Format, Sheet, json_line, print_records
from audience_sync.cli.table import Record
from audience_sync.destinations.schematic.mapping_rules import Mapping
from audience_sync.segment.segment_events import TYPES
from audience_sync.tracking_api.event_files import BadLine, Preview

COLUMNS = ("line", "messageId", "matched", "bodies", "reasons")
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
            console.print(f"… {self.count - MOST_NAMED:,} more bad lines, in all {reasons}")


class ForwardSheet:
    """Prints what events would come to: every one as a line of json or csv, or a summary of all."""

    def __init__(self, mappings: Sequence[Mapping], *, format: Format) -> None:
        self._format = format
        self._sheet = Sheet(COLUMNS, format=format)
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
