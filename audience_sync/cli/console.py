"""Print data on stdout as a table, JSON lines or CSV.

JSON and CSV rows are printed as they arrive; tables are printed in blocks, to align them. A table on a terminal fits
its width (see `text_table`); elsewhere it has all columns and one line per record, whatever COLUMNS is. The data
comes from other people's databases and servers: control characters never reach a terminal, and
spreadsheets see no formulas.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from types import TracebackType
from typing import Annotated, Self

import orjson
import typer
from rich.cells import cell_len, set_cell_size
from rich.status import Status
from rich.text import Text

from audience_sync.cli.context import console, out
from audience_sync.cli.text_table import JSON_COLUMNS, Record, TableView, fact_lines, lay_out, plain_lines
from audience_sync.core.text import printable

BLOCK = 1000  # rows of a table that are aligned together
COUNT_AT_MOST = 10_000  # rows beyond --limit are counted up to here

_UNESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"-[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # spreadsheets evaluate cells that begin with one of these


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="Output format: a table, one JSON object per line, or CSV.", show_default=True),
]


def listed(words: Iterable[str]) -> str:
    """Return the values of an option as its help lists them: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}"


LimitOption = Annotated[
    int, typer.Option("--limit", min=0, metavar="N", help="Maximum number of rows to show; 0 shows all.")
]


class HiddenColumns:
    """The columns that the tables of a command omit on a narrow terminal, to be listed once."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, names: Iterable[str]) -> None:
        """Remember the columns that a table omits."""
        self._names.update(dict.fromkeys(names))

    def say(self) -> None:
        """Name them on stderr."""
        if self._names:
            names = ", ".join(self._names)
            console.print(f"columns hidden at this width: {names}; widen the terminal or use `--format json`")
        self._names = {}


class Sheet:
    """Print records with the same columns.

    `shown` are the columns of the table (default: all). Several tables of one command share their `hidden` columns,
    and the command lists them; otherwise `close` does.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        format: Format,
        shown: TableView | Sequence[str] | None = None,
        hidden: HiddenColumns | None = None,
    ) -> None:
        self._columns = columns
        self._format = format
        self._view = shown if isinstance(shown, TableView) else TableView(tuple(shown or columns))
        self._hidden = hidden or HiddenColumns()
        self._is_last = hidden is None
        self._block: list[Record] = []
        self._widths: dict[str, int] | None = None  # of the plain table so far
        # Text is always quoted, so that spreadsheets that split lines at semicolons do not split text.
        self._csv = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self._is_seen = sys.stdout.isatty()
        if format is Format.CSV:
            self._csv.writerow(columns)

    def add(self, record: Record) -> None:
        """Print one record, or keep it until its block is complete."""
        match self._format:
            case Format.JSON:
                sys.stdout.write(json_line({name: record[name] for name in self._columns}))
            case Format.CSV:
                self._csv.writerow([self._csv_cell(record[name]) for name in self._columns])
            case Format.TABLE:
                self._block.append(record)
                if len(self._block) == BLOCK:
                    self._print_block()

    def close(self) -> None:
        """Print what is left."""
        if self._block:
            self._print_block()
        if self._is_last:
            self._hidden.say()

    def _print_block(self) -> None:
        if self._is_seen:
            layout = lay_out(self._view, self._block, out.terminal_width)
            self._hidden.add(layout.hidden)
            out.print_lines(layout.lines)
        else:
            lines, widths = plain_lines(self._view, self._block, self._widths or {})
            for line in lines if self._widths is None else lines[1:]:
                sys.stdout.write(f"{line}\n")
            self._widths = widths
        self._block = []

    def _csv_cell(self, value: object) -> object:
        cell = spreadsheet_cell(_json_text(value) if isinstance(value, Mapping | list) else value)
        return printable(cell) if self._is_seen and isinstance(cell, str) else cell


def print_records(
    records: Iterable[Record],
    columns: Sequence[str],
    *,
    format: Format,
    limit: int = 0,
    shown: TableView | Sequence[str] | None = None,
    hidden: HiddenColumns | None = None,
) -> None:
    """Print the first `limit` records (0: all), and the number of further records on stderr; see `Sheet`."""
    coming = iter(records)
    sheet = Sheet(columns, format=format, shown=shown, hidden=hidden)
    printed = 0
    for record in islice(coming, limit or None):
        sheet.add(record)
        printed += 1
    sheet.close()
    if not printed and format is Format.TABLE:
        console.print("nothing to show")
    more = sum(1 for _ in islice(coming, COUNT_AT_MOST)) if limit else 0
    if more:
        about = f"at least {more:,}" if more == COUNT_AT_MOST else f"{more:,}"
        console.print(f"… {about} more; --limit 0 shows all")


def print_result(record: Record, sentence: str | None = None, *, format: Format) -> None:
    """Print the result of a command on stdout: one JSON object or CSV row, or else the sentence."""
    if format is not Format.TABLE:
        print_records([record], tuple(record), format=format)
    elif sentence is not None:
        out.print(Text(sentence))


def print_table(records: Iterable[Record], shown: TableView, *, hidden: HiddenColumns | None = None) -> None:
    """Print records as a table; a command with several tables lists their `hidden` columns itself."""
    print_records(records, shown.columns, format=Format.TABLE, shown=shown, hidden=hidden)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print named values as aligned `name  value` lines, wrapped at words on a terminal."""
    harmless_facts = [(name, printable(value)) for name, value in facts]
    if sys.stdout.isatty():
        out.print_lines(fact_lines(harmless_facts, out.terminal_width))
    else:
        label = max((len(name) for name, _ in harmless_facts), default=0)
        for name, value in harmless_facts:
            sys.stdout.write(f"{name:<{label}}  {value}\n")


def json_line(record: Record) -> str:
    """Return a record as one line of JSON that is safe to print; JSON text in columns and inner records are nested."""
    return harmless(orjson.dumps(_nested(record), option=orjson.OPT_APPEND_NEWLINE).decode())


def _json_text(value: object) -> str:
    return harmless(orjson.dumps(_nested(value)).decode())


def harmless(text: str) -> str:
    """Return equivalent JSON in which control characters that JSON does not require to be escaped are escaped, too."""
    return text if text.isascii() else _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _nested(value: object, name: str = "") -> object:
    if isinstance(value, Mapping):
        return {key: _nested(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nested(inner) for inner in value]
    return orjson.Fragment(value) if isinstance(value, str) and name in JSON_COLUMNS else value


def spreadsheet_cell(value: object) -> object:
    """Return a cell that no spreadsheet treats as a formula: text that begins like one gets a leading `'`.

    Negative numbers are not formulas, even as text.
    """
    if value is None or isinstance(value, int | float):
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and _NUMBER.fullmatch(text) is None else text


# --- progress ---------------------------------------------------------------------------------------------------------
# Progress of long work: an updated line on a terminal, a new line every few seconds elsewhere.

REDRAW = 0.1  # seconds
LOG_EVERY = 10.0  # seconds
UNITS = {
    "reading": "rows",
    "comparing": "members",
    "writing": "changes",
    "delivering": "events",
    "forwarding": "lines",
    "copying": "rows",
    "verifying": "rows",
}
SPINNER_WIDTH = 3  # cells: the spinner, a space, and the last column, which stays empty


def fitted(subject: str, state: str, width: int) -> str:
    """Return `subject: state` on one line, because a progress line that wraps leaves traces on the terminal.

    Shortens the subject. Without space for a subject, returns only the state; without space for that, nothing.
    """
    space = width - cell_len(f": {state}")
    if cell_len(subject) <= space:
        return f"{subject}: {state}"
    if space > 4:
        return f"{set_cell_size(subject, space - 1).rstrip()}…: {state}"
    return state if cell_len(state) <= width else ""


class Progress:
    """Show the progress of one piece of work; a context manager."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        is_live = console.is_seen and not console.is_dumb_terminal
        self._status = Status("", console=console) if is_live else None
        self._shown_at = time.monotonic()

    def show(self, stage: str, done: int) -> None:
        """Show a stage and how much of it is done."""
        now = time.monotonic()
        if now - self._shown_at < (REDRAW if self._status else LOG_EVERY):
            return
        self._shown_at = now
        units = UNITS[stage]
        if self._status:
            width = console.terminal_width - SPINNER_WIDTH
            self._status.update(Text(fitted(self._subject, f"{stage}, {done:,} {units}", width)))
            self._status.start()  # again, if it was hidden
        else:
            console.print(Text(f"{self._subject}: {stage}, {done:,} {units}"))

    def hide(self) -> None:
        """Remove the line of the terminal until more is shown, so that something else can be printed."""
        if self._status:
            self._status.stop()

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
