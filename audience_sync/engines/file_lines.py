"""Find the line of a file that cannot be read, and the line in which a value stands.

DuckDB reads files fast and says little of what is wrong with them. When it has failed, the file is read once more,
here.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final, NamedTuple

import orjson

from audience_sync.core.text import counted
from audience_sync.engines.csv_views import LONGEST_LINE, CsvFile
from audience_sync.engines.file_access import BYTE_ORDER_MARK, UNPACKING, open_bytes
from audience_sync.errors import SourceError

_LARGEST_WHOLE: Final = 64 << 20  # bytes of a JSON file that is looked into as a whole
_NO_BLANK: Final = re.compile(r"\S")
_NOT_UTF_8: Final = "not valid UTF-8"
_HALF_CHARACTER: Final = "it contains a lone surrogate such as \\ud83d, which is half of a character"
_NOT_WHOLE: Final = "invalid gzip data from here on"
_OPEN_QUOTE: Final = "a quoted value is never closed"
_AFTER_QUOTE: Final = "there is text after the closing quotation mark of a value"


class Fault(NamedTuple):
    """A fault in a line of a file. Lines are counted from 1, as an editor does; None: the line is not known."""

    line: int | None
    what: str


class Place(NamedTuple):
    """The place of a value."""

    line: int | None
    column: str


class _Unreadable(Exception):
    """Carries a fault out of the reading of rows."""

    def __init__(self, line: int | None, what: str) -> None:
        super().__init__(what)
        self.fault = Fault(line, what)


def refusal(path: str, fault: Fault) -> SourceError:
    """Return the error that says what is wrong with a file."""
    where = f"The file {path}" if fault.line is None else f"The file {path}, line {fault.line}"
    return SourceError(f"{where}: {fault.what}.", hint="correct the file; nothing was changed")


def fault_in_csv(file: CsvFile) -> Fault | None:
    """Return the first row of a CSV file that cannot be read; None: each can."""
    width = len(file.columns)
    try:
        for line, record in _csv_rows(file):
            if len(record) < width or any(record[width:]):  # separators at the end are taken
                return Fault(
                    line,
                    (
                        f"the row has {counted(len(record), 'field')} separated by {file.separator!r}, but"
                        f" the first line has {width}"
                    ),
                )
            text = "".join(record)
            if not _is_unicode(text):
                return Fault(line, _NOT_UTF_8)
            if len(text) > LONGEST_LINE // 4 and len(text.encode()) + width > LONGEST_LINE:
                return Fault(line, f"the row is longer than {LONGEST_LINE:,} bytes")
    except _Unreadable as error:
        return error.fault
    return None


def fault_in_json(path: str, *, keys_once: bool = False) -> Fault | None:
    """Return the first row of a JSON file that cannot be read; None: each can.

    With `keys_once` no key of a row may stand twice; DuckDB requires that of the keys that a query uses.

    A file of more than 64 MB without any object is not searched.
    """
    try:
        for _ in _json_rows(path, keys_once=keys_once):
            pass
    except _Unreadable as error:
        return error.fault
    return None


def place_in_csv(file: CsvFile, text: str, columns: Collection[str]) -> Place | None:
    """Return where a text first stands in a CSV file, in one of some columns, or in any if there are none."""
    try:
        for line, record in _csv_rows(file):
            if text in record:
                for name, value in zip(file.columns, record, strict=False):
                    if value == text and (not columns or name in columns):
                        return Place(line, name)
    except _Unreadable:
        return None
    return None


def place_in_json(path: str, text: str, columns: Collection[str]) -> Place | None:
    """Return where a text first stands in a JSON file, in one of some keys, or in any if there are none."""
    try:
        for line, row in _json_rows(path):
            for name, value in row.items():
                if (not columns or name in columns) and _holds(value, text):
                    return Place(line, name)
    except _Unreadable:
        return None
    return None


def _csv_rows(file: CsvFile) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file below its first line, blank ones left out, with the lines they begin in.

    Raises:
        _Unreadable: the file is not CSV from a line on.
    """
    begin = 1
    last = ""

    def noted(lines: Iterable[str]) -> Iterator[str]:
        nonlocal last
        for line in lines:
            last = line
            yield line

    with open_bytes(file.path) as packed, io.TextIOWrapper(packed, "utf-8-sig", "surrogateescape", newline="") as lines:
        rows = csv.reader(noted(lines), delimiter=file.separator, strict=True, skipinitialspace=True)
        try:
            for row in rows:
                extra = len(row) - len(file.columns)
                if extra > 0 and not any(row[-extra:]):  # to DuckDB, blanks are a value
                    row[-extra:] = last.replace('"', "").rstrip("\r\n").split(file.separator)[-extra:]
                if row and begin > 1:
                    yield begin, row
                begin = rows.line_num + 1
        except csv.Error as error:
            raise _Unreadable(begin, _OPEN_QUOTE if "end of data" in str(error) else _AFTER_QUOTE) from None
        except UNPACKING:
            raise _Unreadable(begin, _NOT_WHOLE) from None


def _json_rows(path: str, *, keys_once: bool = False) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the rows of a JSON file with the lines they stand in, where each has one of its own.

    Raises:
        _Unreadable: a row is not a JSON object.
    """
    number = 0
    try:
        with open_bytes(path) as lines:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(BYTE_ORDER_MARK)
                if not text.strip():
                    continue
                try:
                    row = orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    if number > 1:
                        what = _NOT_UTF_8 if "UTF-8" in str(error) else f"not valid JSON: {error.msg}"
                        raise _Unreadable(number, what) from None
                    yield from _of_whole_file(path, json.JSONDecoder(object_pairs_hook=_Pairs if keys_once else None))
                    return
                if keys_once:
                    row = json.loads(text, object_pairs_hook=_Pairs)
                if number == 1 and isinstance(row, list):
                    yield from ((None, _object(one, None)) for one in row)
                    continue
                yield number, _object(row, number)
    except UNPACKING:
        raise _Unreadable(number + 1, _NOT_WHOLE) from None


def _of_whole_file(path: str, decoder: json.JSONDecoder) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the rows of a JSON file in which they take several lines."""
    with open_bytes(path) as file:
        content = file.read(_LARGEST_WHOLE + 1)
    if len(content) > _LARGEST_WHOLE:
        return
    try:
        text = content.decode("utf-8-sig")
        start, end = _after_blanks(text, 0), len(text)
        while start < end:
            row, behind = decoder.raw_decode(text, start)
            if not _is_unicode(json.dumps(row, ensure_ascii=False)):
                raise _Unreadable(text.count("\n", 0, start) + 1, _HALF_CHARACTER)
            start = _after_blanks(text, behind)
            yield from ((None, _object(one, None)) for one in (row if isinstance(row, list) else [row]))
    except UnicodeDecodeError as error:
        raise _Unreadable(content.count(b"\n", 0, error.start) + 1, _NOT_UTF_8) from None
    except json.JSONDecodeError as error:
        raise _Unreadable(error.lineno, f"not valid JSON: {error.msg}") from None
    except RecursionError:
        raise _Unreadable(None, "an object is nested too deeply") from None


def _after_blanks(text: str, start: int) -> int:
    """Return where the next object begins, or the end of the text."""
    found = _NO_BLANK.search(text, start)
    return len(text) if found is None else found.start()


def _object(row: object, line: int | None) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise _Unreadable(line, "not a JSON object")
    if isinstance(row, _Pairs) and row.twice is not None:
        raise _Unreadable(line, f"an object has the key {row.twice!r} twice")
    return row


class _Pairs(dict[str, Any]):
    """A JSON object, with a key that occurs in it twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        times = Counter(name for name, _ in pairs)
        self.twice = next((name for name, count in times.items() if count > 1), None)


def _holds(value: object, text: str) -> bool:
    """Return whether a value of JSON is a text or number, or has one in it."""
    match value:
        case str():
            return value == text
        case dict():
            return any(_holds(one, text) for one in value.values())
        case list():
            return any(_holds(one, text) for one in value)
        case _:
            return json.dumps(value) == text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
