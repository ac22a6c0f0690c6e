"""Read JSON as text: an object a line, or a list of objects; every key of every object is a column.

A string is its text, a number its digits, `true`, `false`, an object and a list their JSON, and null is NULL.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final, Literal, TypeAlias

import orjson
from duckdb import (
    CaseExpression,
    ConstantExpression,
    DuckDBPyConnection,
    DuckDBPyRelation,
    Expression,
    FunctionExpression,
)
from duckdb import ColumnExpression as Column

from audience_sync.engines.csv_views import folded
from audience_sync.engines.file_access import (
    BYTE_ORDER_MARK,
    Fingerprint,
    fingerprint,
    open_bytes,
    require_utf_8,
    require_whole,
    unpacking,
)
from audience_sync.engines.file_lines import Fault, fault_in_json, refusal
from audience_sync.errors import SourceError

_Format: TypeAlias = Literal["newline_delimited", "array", "unstructured"]  # DuckDB's words
_LINES: Final = "newline_delimited"
_LIST: Final = "array"
_MANY_LINES: Final = "unstructured"
_LONGEST_LINE = 16 << 20  # bytes, as long as DuckDB takes
_KEYS = """
SELECT DISTINCT unnest(CASE WHEN json_type(json) = 'OBJECT' THEN json_keys(json) ELSE [NULL] END)
FROM read_json_objects($path, format = $format)
"""
_MOST_KNOWN = 4096
_known: dict[tuple[str, Fingerprint], frozenset[str | None]] = {}  # the keys of files, while these stay as they are


def read_json(connection: DuckDBPyConnection, paths: Sequence[str], go_on: Callable[[], None]) -> DuckDBPyRelation:
    """Return the rows of JSON files; all of each is read for its keys, once while it stays as it is.

    `go_on` is called before each file. Keys that differ in case alone are one column to SQL: it is an error to use it.

    Raises:
        SourceError: they have no rows, or a row is not an object.
        duckdb.Error: they are not JSON.
    """
    formats = {path: _format(path) for path in paths}
    alike: dict[bytes, list[str]] = defaultdict(list)
    for path in paths:  # one by one: DuckDB keeps 32 MiB for each file of a list
        go_on()
        for key in _keys(connection, path, formats[path]):
            if key and key not in alike[folded(key)]:
                alike[folded(key)].append(key)
    columns = {min(keys): keys for keys in alike.values()}
    if not columns:
        raise SourceError(
            f"The file {paths[0]} has no rows.", hint="add at least one row; columns come from the keys of the rows"
        )
    groups = groupby(sorted(paths, key=formats.__getitem__), key=formats.__getitem__)
    first, *others = (_rows(connection, list(group), columns, form) for form, group in groups)
    for rows in others:
        first = first.union(rows)
    return first.select(*(_column(name, keys) for name, keys in sorted(columns.items())))


def _keys(connection: DuckDBPyConnection, path: str, form: _Format) -> frozenset[str | None]:
    known = (path, fingerprint(path))
    found = _known.get(known)
    if found is None:
        require_whole(path)
        parameters = {"path": glob.escape(path), "format": form}
        found = frozenset(key for (key,) in connection.execute(_KEYS, parameters).fetchall())
        if None in found:
            raise refusal(path, fault_in_json(path) or Fault(None, "a row is not a JSON object"))
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[known] = found
    return found


def _rows(connection: DuckDBPyConnection, paths: list[str], columns: Iterable[str], form: _Format) -> DuckDBPyRelation:
    names: Any = [glob.escape(path) for path in paths]
    return connection.read_json(names, columns=dict.fromkeys(columns, "VARCHAR"), records="true", format=form)


def _column(name: str, keys: Sequence[str]) -> Expression:
    if len(keys) == 1:
        return Column(name)
    complaint = ConstantExpression(
        f"the keys {' and '.join(sorted(keys))} differ only in case, and SQL treats them as one column"
    )
    beginning = FunctionExpression("left", Column(name), ConstantExpression(0))  # of the row: a constant fails unused
    said = CaseExpression(Column(name).isnull(), complaint).otherwise(
        FunctionExpression("concat", complaint, beginning)
    )
    return FunctionExpression("error", said).cast("VARCHAR").alias(name)


def _format(path: str) -> _Format:
    """Return how the objects of a file are put together, as its first line shows."""
    with unpacking(path):
        require_utf_8(path)
        with open_bytes(path) as file:
            line = file.readline(_LONGEST_LINE)
            has_mark = line.startswith(BYTE_ORDER_MARK)
            line = line.removeprefix(BYTE_ORDER_MARK)
            while line and not line.strip():
                line = file.readline(_LONGEST_LINE)
    if line.lstrip().startswith(b"["):
        return _LIST
    try:
        orjson.loads(line or b"{}")
    except orjson.JSONDecodeError:
        return _MANY_LINES
    return _MANY_LINES if has_mark else _LINES  # as lines DuckDB would not take the byte order mark
