"""Say in one sentence what is wrong with a file or with a query on text: which line, which column, and what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

import duckdb

from audience_sync.config import Source
from audience_sync.core.model import ColumnType, DateOrder
from audience_sync.core.text import printable
from audience_sync.engines.csv_views import look_at
from audience_sync.engines.duckdb_engine import MORE_MEMORY
from audience_sync.engines.file_access import is_json, is_parquet
from audience_sync.engines.file_lines import Place, fault_in_csv, fault_in_json, place_in_csv, place_in_json, refusal
from audience_sync.engines.text_conversions import Doubt, Doubted, doubted
from audience_sync.errors import SourceError

_MALFORMED: Final = re.compile("CSV|JSON in file|JSON transform error|GZIP stream")
_UNDERLINED: Final = re.compile(r"^(LINE \d+: .*)\n( *)(\^+)", re.MULTILINE)
_OF_TIMES: Final = re.compile("TIMESTAMP|DATE|INTERVAL|TIME|date_")
_SHOWN: Final = 40  # characters of a value
_FIRST: Final = {DateOrder.DMY: "day", DateOrder.MDY: "month"}


def sentence_of(error: duckdb.Error, source: Source, paths: Sequence[str]) -> SourceError | None:
    """Return what is wrong with one of some files; None: the error is about something else, or nothing is found."""
    message = str(error)
    if (found := doubted(message)) is not None:
        return _not_converted(found, source, paths)
    if _MALFORMED.search(message):
        return _malformed(source, paths, keys_once="duplicate key" in message)
    return None


def remedy_of(error: Exception, source: Source, texts: Collection[str]) -> str | None:
    """Return what to do about an error with files whose columns of text are `texts`, where that is known."""
    match error:
        case duckdb.OutOfMemoryException():
            return MORE_MEMORY
        case duckdb.BinderException() if "VARCHAR" in str(error):
            return _declare(str(error), source, texts)
        case duckdb.ConversionException():
            return "convert text with parse_number(…) and parse_time(…), or declare it in the source's `types`"
        case duckdb.IOException():
            return "check that the file exists and is complete"
        case _:
            return None


def _malformed(source: Source, paths: Sequence[str], *, keys_once: bool) -> SourceError | None:
    for path in paths:
        if is_parquet(path):
            continue
        fault = (
            fault_in_json(path, keys_once=keys_once) if is_json(path) else fault_in_csv(look_at(path, source.separator))
        )
        if fault is not None:
            return refusal(path, fault)
    return None


def _not_converted(found: Doubted, source: Source, paths: Sequence[str]) -> SourceError:
    kind = ColumnType.NUMBER if found.doubt in {Doubt.NUMBER, Doubt.DIGITS} else ColumnType.TIME
    declared = [name for name, one in source.types.items() if one is kind]
    for columns in (declared, []):
        for path in paths:
            place = _place(path, source, found.text, columns)
            if place is not None:
                line = "" if place.line is None else f", line {place.line}"
                return _told(f"The file {path}{line}, column {place.column}: ", found, source)
    return _told("The query: ", found, source)


def _place(path: str, source: Source, text: str, columns: Collection[str]) -> Place | None:
    if is_parquet(path):
        return None
    if is_json(path):
        return place_in_json(path, text, columns)
    return place_in_csv(look_at(path, source.separator), text, columns)


def _told(where: str, found: Doubted, source: Source) -> SourceError:
    text = printable(found.text if len(found.text) <= _SHOWN else f"{found.text[:_SHOWN]}…")
    settings = f"[sources.{source.name}]"
    match found.doubt:
        case Doubt.ORDER:
            what = "is an ambiguous date: day or month may come first"
            hint = f'set date_order = "dmy" or date_order = "mdy" in {settings}'
        case Doubt.DATE:
            first = _FIRST[source.date_order] if source.date_order else "day"
            what = f"is not a date with the {first} first"
            hint = f"correct the file, or change date_order in {settings}"
        case Doubt.TIME:
            what = "is not a time: it must be ISO 8601, a date or a Unix time"
            hint = "correct the file, or convert the column in the SQL instead of in `types`"
        case Doubt.NUMBER:
            what = "is not a JSON number such as 12.5"
            hint = "correct the file, or convert the column in the SQL instead of in `types`"
        case Doubt.DIGITS:
            what = "has too many digits to be stored exactly"
            hint = "keep the column as text"
    return SourceError(f'{where}"{text}" {what}.', hint=hint)


def _declare(message: str, source: Source, texts: Collection[str]) -> str:
    """Return which column of text to declare, as the place shows that DuckDB underlines."""
    found = _UNDERLINED.search(message)
    line, start, end = "", 0, 0
    if found is not None:
        line, start = found[1], len(found[2])
        end = start + len(found[3])
    known = {name.lower(): name for name in texts}
    words = [
        (match.start(), known[match[0].lower()]) for match in re.finditer(r"\w+", line) if match[0].lower() in known
    ]
    within = [name for at, name in words if start <= at < end]
    before = [name for at, name in words if at < start]  # DuckDB 1.5 marks only the operator behind a column
    name = [*within, *before[-1:], *(name for _, name in words), "COLUMN"][0]
    kind = ColumnType.TIME if _OF_TIMES.search(message.partition("\n")[0] + line[start:end]) else ColumnType.NUMBER
    return (
        f'columns of CSV and JSON files are text; set types = {{ {name} = "{kind}" }} in'
        f" [sources.{source.name}], or use parse_{kind}({name}) in the SQL"
    )
