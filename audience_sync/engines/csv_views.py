r"""Read CSV as text: the first line names the columns, RFC 4180 separates them, and nothing is guessed from other rows.

DuckDB reads the rows in its strict mode, in which a row of another length or an open quotation mark is an error. Two
things it does not do, so they are done here:

- It takes one kind of line end only. A file that may have several is copied first, with `\n` for every line end
  outside quotation marks.
- It reads values of several lines only where it does not read in parallel, and then passes over a last row whose
  quotation mark is never closed. Such files are looked through before.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression, DuckDBPyConnection, DuckDBPyRelation

from audience_sync.engines.file_access import Fingerprint, fingerprint, is_packed, open_bytes, require_utf_8, unpacking
from audience_sync.errors import SourceError

SEPARATORS = (",", ";", "\t", "|")
_CHUNK = 1 << 20  # bytes
_LONGEST_HEADER = 1 << 20  # characters
LONGEST_LINE = 8_000_000  # bytes

csv.field_size_limit(2**31 - 1)  # of Python's reader, which would stop at 128 KB


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, and what its first line says; a column without a name is not read."""

    path: str
    separator: str
    columns: tuple[str, ...]
    has_long_values: bool  # values of several lines
    may_mix_line_ends: bool
    is_open: bool  # the quotation mark of a value is never closed


def look_at(path: str, separator: str | None) -> CsvFile:
    """Return what a CSV file is like.

    Raises:
        SourceError: it is empty, its first line does not name the columns, or it is not UTF-8.
        OSError: it cannot be read.
    """
    with unpacking(path):
        return _look_at(path, separator, fingerprint(path))


def read_csv(connection: DuckDBPyConnection, files: Sequence[CsvFile], folder: Path) -> DuckDBPyRelation:
    """Return the rows of files, the columns matched by name; `folder` is for copies. Nothing is read by DuckDB yet.

    Raises:
        SourceError: a file cannot be read.
    """
    groups: dict[_Group, list[str]] = {}
    names: dict[bytes, str] = {}
    for file in files:
        for name in filter(None, file.columns):
            names.setdefault(folded(name), name)
        path = _with_one_line_end(file, folder) if file.may_mix_line_ends else file.path
        kind = _Group(file.columns, file.separator, file.has_long_values, is_packed(path))
        groups.setdefault(kind, []).append(path)
    first, *others = (_rows(connection, paths, kind, names) for kind, paths in groups.items())
    for rows in others:
        first = first.union(rows)
    return first


class _Group(NamedTuple):
    """Properties that all files of one DuckDB read share."""

    columns: tuple[str, ...]
    separator: str
    has_long_values: bool
    is_packed: bool


def _rows(
    connection: DuckDBPyConnection, paths: Sequence[str], kind: _Group, names: Mapping[bytes, str]
) -> DuckDBPyRelation:
    """Return the rows of files of a kind, with the columns that all files have together."""
    literal: Any = [glob.escape(path) for path in paths]
    rows = connection.read_csv(
        literal,
        auto_detect=False,
        header=True,
        columns={str(place): "VARCHAR" for place in range(len(kind.columns))},
        sep=kind.separator,
        quotechar='"',
        escapechar='"',
        strict_mode=True,
        parallel=not kind.has_long_values,
        max_line_size=LONGEST_LINE,
        buffer_size=4 * LONGEST_LINE,  # as DuckDB 2 has it; 1.5 would take four times as much
        compression="gzip" if kind.is_packed else "none",
    )
    places = {folded(name): Column(str(place)) for place, name in enumerate(kind.columns) if name}
    missing = ConstantExpression(None).cast("VARCHAR")
    return rows.select(*(places.get(key, missing).alias(name) for key, name in names.items()))


@lru_cache(maxsize=4096)
def _look_at(path: str, separator: str | None, _: Fingerprint) -> CsvFile:
    record = _first_record(path)
    chosen = separator or (
        "\t" if Path(path.lower().removesuffix(".gz")).suffix == ".tsv" else _separator(path, record)
    )
    names = tuple(name.strip() for name in next(csv.reader([record], delimiter=chosen, skipinitialspace=True)))
    if not any(names):
        raise SourceError(f"The file {path} is empty.", hint="add a first line with the column names")
    if len(names) == 1 and (likely := _counted(record).most_common(1)[0])[1]:
        raise SourceError(
            f"The file {path} has a single column {names[0]!r}: its first line contains {likely[0]!r}, but"
            f" not the separator {chosen!r}.",
            hint=f"set separator = {json.dumps(likely[0])} for the source, or put the column name in quotes",
        )
    twice = [name for name, times in Counter(folded(name) for name in names if name).items() if times > 1]
    if twice:
        named = [name for name in names if folded(name) == twice[0]]
        raise SourceError(
            f"The file {path} has more than one column {' and '.join(dict.fromkeys(map(repr, named)))}.",
            hint="give each column in the first line a unique name",
        )
    lines = _lines(path)
    is_open = lines.has_long_values and _ends_in_value(path, chosen)
    return CsvFile(path, chosen, names, lines.has_long_values, lines.may_mix_ends, is_open)


def _first_record(path: str) -> str:
    """Return the first line, or several where a name in quotation marks has line ends."""
    require_utf_8(path)
    record = ""
    with open_bytes(path) as packed, io.TextIOWrapper(packed, "utf-8-sig", "surrogateescape", newline="") as lines:
        while line := lines.readline(_LONGEST_HEADER):
            record += line
            if record.count('"') % 2 == 0 or len(record) > _LONGEST_HEADER:
                break
    if not record.strip():
        raise SourceError(f"The file {path} is empty.", hint="add a first line with the column names")
    if "\0" in record or (not record.isascii() and re.search("[\ud800-\udfff]", record)):
        raise SourceError(f"The file {path}, line 1: not valid UTF-8.", hint="save it as UTF-8")
    return record


def _separator(path: str, record: str) -> str:
    """Return what separates the names of the first line."""
    (first, times), (second, as_often) = _counted(record).most_common(2)
    if times and times == as_often:
        raise SourceError(
            f"The separator of the file {path} is ambiguous: the first line has as many {first!r} as {second!r}.",
            hint='set `separator` for the source, as in separator = ";"',
        )
    return first if times else SEPARATORS[0]


def _counted(record: str) -> Counter[str]:
    """Return how often the first line has each separator outside quotation marks."""
    bare = re.sub(r'"(?:[^"]|"")*"', "", record)
    return Counter({separator: bare.count(separator) for separator in SEPARATORS})


def folded(name: str) -> bytes:
    """Return a name so that names that are one to DuckDB are equal."""
    return name.encode().lower()


class _Lines(NamedTuple):
    """Properties of the lines of a file."""

    has_long_values: bool
    may_mix_ends: bool


def _lines(path: str) -> _Lines:
    """Return what the lines of a file are like; line ends in quotation marks count as well."""
    feeds = returns = pairs = quotes = 0
    last = b""
    with open_bytes(path) as file:
        while chunk := file.read(_CHUNK):
            feeds += chunk.count(b"\n")
            returns += chunk.count(b"\r")
            pairs += (last + chunk).count(b"\r\n")
            quotes += chunk.count(b'"')
            last = chunk[-1:] if chunk.endswith(b"\r") else b""
    may_mix = returns > 0 and not feeds == returns == pairs
    if quotes == 0:
        return _Lines(has_long_values=False, may_mix_ends=may_mix)
    with open_bytes(path) as file:
        return _Lines(any(line.count(b'"') % 2 for line in file), may_mix)


def _with_one_line_end(file: CsvFile, folder: Path) -> str:
    r"""Write a copy of a file in which every line ends with `\n`, and return its path."""
    with (
        open_bytes(file.path) as lines,
        NamedTemporaryFile(dir=folder, prefix="lines-", suffix=".csv", delete=False) as target,
    ):
        target.writelines(text for text, _ in pieces(lines, file.separator.encode()))
    return target.name


def _ends_in_value(path: str, separator: str) -> bool:
    """Return whether a file ends in a value in quotation marks."""
    inside = False
    with open_bytes(path) as lines:
        for _, inside in pieces(lines, separator.encode()):  # noqa: B007 - the last one counts
            pass
    return inside


def pieces(lines: Iterable[bytes], separator: bytes) -> Iterator[tuple[bytes, bool]]:
    r"""Yield lines, given as they end with `\n`, with `\n` for every line end outside values in quotation marks.

    With each comes whether its end is inside of such a value. A quotation mark opens a value where a value begins,
    blanks aside; anywhere else outside of one it is text.
    """
    begins = (separator, b"\r", b"\n")
    inside = False
    for line in lines:
        if b'"' not in line:
            yield (line if inside else _ends(line)), inside
            continue
        parts = line.split(b'"')
        written = []
        at_start, has_closed = True, False
        for part in parts[:-1]:
            if inside:
                written.append(part)
                inside, has_closed = False, True
                continue
            before = part.rstrip(b" ")
            opens = (not before and at_start) or before.endswith(begins)
            written.append(_ends(part))
            inside = opens or (has_closed and not before)  # two are one that is text; DuckDB goes on after blanks, too
            at_start = has_closed = False
        written.append(parts[-1] if inside else _ends(parts[-1]))
        yield b'"'.join(written), inside


def _ends(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
