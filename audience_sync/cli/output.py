"""Data on stdout in three forms: a table for people, one JSON object a line, or CSV.

Rows are printed as they come. JSON and CSV hold none of them back, tables a block to align them. What is in them came
from other people's databases and servers: none of it steers a terminal, or is calculated by a spreadsheet.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Annotated, TypeAlias

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audience_sync.cli.context import console
from audience_sync.core.printable import printable

BLOCK = 1000  # rows of a table that are aligned together
COUNT_AT_MOST = 10_000  # rows beyond --limit are counted up to here
JSON_COLUMNS = frozenset({"value", "identifiers", "traits", "run_ids", "row", "open_value", "bodies"})
"""Columns that hold JSON text; they are nested in JSON and stay text elsewhere."""

_UNESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}Z")
_NUMBER = re.compile(r"-[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet calculates a cell that begins so, or what is left of it

Record: TypeAlias = Mapping[str, object]


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format, typer.Option("--format", help="A table, one JSON object a line, or CSV.", show_default=True)
]
LimitOption = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="Show the first N; 0 shows all.")]


class Sheet:
    """Prints records with the same columns; `shown` are the columns of the table, all by default."""

    def __init__(self, columns: Sequence[str], *, format: Format, shown: Sequence[str] | None = None) -> None:
        self._columns = columns
        self._format = format
        self._shown = shown or columns
        self._block: list[list[str]] = []
        # Text is always in quotes: a spreadsheet that splits lines at semicolons splits no text.
        self._csv = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self._is_seen = sys.stdout.isatty()
        if format is Format.CSV:
            self._csv.writerow(columns)

    def add(self, record: Record) -> None:
        """Print one record, or keep it until its block is whole."""
        match self._format:
            case Format.JSON:
                sys.stdout.write(json_line({name: record[name] for name in self._columns}))
            case Format.CSV:
                self._csv.writerow([self._csv_cell(record[name]) for name in self._columns])
            case Format.TABLE:
                self._block.append([_cell(record[name]) for name in self._shown])
                if len(self._block) == BLOCK:
                    self.close()

    def close(self) -> None:
        """Print what is left."""
        if self._block:
            _print_table(self._shown, self._block)
            self._block = []

    def _csv_cell(self, value: object) -> object:
        cell = spreadsheet_cell(value)
        return printable(cell) if self._is_seen and isinstance(cell, str) else cell


def print_records(
    records: Iterable[Record],
    columns: Sequence[str],
    *,
    format: Format,
    limit: int = 0,
    shown: Sequence[str] | None = None,
) -> None:
    """Print the first `limit` records, all for 0, and say on stderr how many there are beyond."""
    coming = iter(records)
    sheet = Sheet(columns, format=format, shown=shown)
    printed = 0
    for record in islice(coming, limit or None):
        sheet.add(record)
        printed += 1
    sheet.close()
    if not printed and format is Format.TABLE:
        console.print("nothing to show")
    more = sum(1 for _ in islice(coming, COUNT_AT_MOST)) if limit else 0
    if more:
        about = f"more than {more - 1:,}" if more == COUNT_AT_MOST else f"{more:,}"
        console.print(f"… {about} more; --limit 0 shows all")


def json_line(record: Record) -> str:
    """Return a record as one harmless line of JSON; columns that hold JSON text are nested, records in records too."""
    return harmless(orjson.dumps(_nested(record), option=orjson.OPT_APPEND_NEWLINE).decode())


def harmless(text: str) -> str:
    """Return the same JSON without the characters that it leaves as they are and that a terminal would obey."""
    return text if text.isascii() else _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _nested(value: object, name: str = "") -> object:
    if isinstance(value, Mapping):
        return {key: _nested(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nested(inner) for inner in value]
    return orjson.Fragment(value) if isinstance(value, str) and name in JSON_COLUMNS else value


def spreadsheet_cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one has a `'` in front.

    A negative number is none, in text neither.
    """
    if value is None or isinstance(value, int | float):
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) and _NUMBER.fullmatch(text) is None else text


def _cell(value: object) -> str:
    """Return the text of a cell: what came from a source or a server must not steer the terminal."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case _:
            text = printable(str(value))
            instant = _INSTANT.fullmatch(text)  # milliseconds are for programs
            return f"{instant[1]}Z" if instant else text


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    out = Console(file=sys.stdout, highlight=False)
    if not out.is_terminal:
        _print_plain(columns, rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned text without colour, as wide as it needs: another program reads it."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
