"""What is in a file: the columns of CSV, TSV, JSON and Parquet, and how DuckDB is to read each.

Types are guessed by DuckDB from the first rows. What it would then make of a later row that is different decides how
a column is read: a whole number is read as text and converted here, because DuckDB takes `007` for 7 and 1.5 for 2, and
identifiers must not change. Words and times of day stay text, for `yes` is not `true`; UUIDs stay as they are written.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from duckdb import (
    CaseExpression,
    ColumnExpression,
    ConstantExpression,
    DuckDBPyConnection,
    DuckDBPyRelation,
    Expression,
    FunctionExpression,
)

from audience_sync.errors import SourceError

_SAMPLE = 20_480  # rows of a file, what DuckDB itself looks at
_WHOLE = {"BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT"}
_CSV_TYPES = ["BIGINT", "HUGEINT", "DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "VARCHAR"]
_JSON_TYPES = {"BOOLEAN", "DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}
_NESTED = {"struct", "list", "map", "array"}
_JSON_ENDINGS = (".json", ".ndjson", ".jsonl")


def read_files(connection: DuckDBPyConnection, paths: list[str]) -> DuckDBPyRelation:
    """Return the rows of files of one kind, told by their ending, the columns matched by name; nothing is read yet.

    Raises:
        SourceError: the files have no columns.
        duckdb.Error: a file cannot be read.
    """
    name = paths[0].lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return connection.read_parquet(_literal(paths), union_by_name=len(paths) > 1)
    filled = [path for path in paths if Path(path).stat().st_size]
    if name.endswith(_JSON_ENDINGS):  # no object is a line less, but there is no CSV without its header
        return _json(connection, _literal(filled or paths))
    if filled != paths:
        raise _no_header(next(path for path in paths if path not in filled))
    guessed = _csv(connection, _literal(paths), {"sep": "\t"} if name.endswith(".tsv") else {})
    if "column0" in guessed.columns:  # DuckDB's name for what has none
        raise _no_header(paths[0])
    return guessed


def _literal(paths: list[str]) -> list[str]:
    """Return the names of files as patterns that fit nothing else: DuckDB takes every name for a pattern."""
    return [glob.escape(path) for path in paths]


def _no_header(path: str) -> SourceError:
    return SourceError(f"The file {path} is empty.", hint="its first line must name the columns")


def _csv(connection: DuckDBPyConnection, paths: Any, separator: dict[str, str]) -> DuckDBPyRelation:
    """Read with a header on the first line (DuckDB would look for one further down) and RFC 4180's quotes."""
    options: dict[str, Any] = {
        "header": True,
        "skiprows": 0,
        "quotechar": '"',
        "escapechar": '"',
        "auto_type_candidates": _CSV_TYPES,
        "union_by_name": len(paths) > 1,
        **separator,
    }
    guessed = connection.read_csv(paths, **options)
    whole = {name: str(kind) for name, kind in zip(guessed.columns, guessed.types, strict=True) if str(kind) in _WHOLE}
    if not whole:
        return guessed
    return _converted(connection.read_csv(paths, **options, dtype=dict.fromkeys(whole, "VARCHAR")), whole)


def _json(connection: DuckDBPyConnection, paths: list[str]) -> DuckDBPyRelation:
    """Read objects, one a line or in a list: what is in their objects and lists stays JSON."""
    found: dict[str, set[str]] = {}
    for path in paths:  # one by one: DuckDB would keep 32 MiB for each until it has looked at all
        for name, kind in _json_types(connection, path).items():
            found.setdefault(name, set()).update([kind] if kind else [])
    if not found:
        raise SourceError(f"There is nothing in the file {paths[0]}.", hint="its rows are what names the columns")
    kinds = {name: _common(several) for name, several in found.items()}
    whole = {name: kind for name, kind in kinds.items() if kind in _WHOLE}
    read_as: dict[str, Any] = {name: "VARCHAR" if name in whole else kind for name, kind in kinds.items()}
    names: Any = paths
    return _converted(connection.read_json(names, columns=read_as, records="true"), whole)


def _json_types(connection: DuckDBPyConnection, path: str) -> dict[str, str | None]:
    """Return how the columns of one file are to be read; None: only nulls were seen."""
    options: dict[str, Any] = {"maximum_depth": 2, "map_inference_threshold": -1, "sample_size": _SAMPLE}
    guessed = connection.read_json(path, **options)
    if guessed.columns == ["json"]:  # DuckDB's name for what has none; it may be the name of a key
        if not guessed.limit(1).fetchall():
            return {}
        guessed = connection.read_json(path, **options, records="true")
    kinds: dict[str, str | None] = {}
    mixed: dict[str, Any] = {}
    for name, kind in zip(guessed.columns, guessed.types, strict=True):
        text = str(kind)
        if text == "JSON":
            mixed[name] = text
        known = text if text in _JSON_TYPES | _WHOLE else "JSON" if kind.id in _NESTED else "VARCHAR"
        kinds[name] = None if kind.id == "null" else known
    if mixed:
        kinds |= _mixed_types(connection.read_json(path, columns=mixed, records="true"))
    return kinds


def _mixed_types(relation: DuckDBPyRelation) -> dict[str, str]:
    """Return JSON for the columns with an object or a list among the first rows, text for the others."""
    nested = [ConstantExpression(kind) for kind in ("OBJECT", "ARRAY")]
    tests = [
        FunctionExpression("bool_or", FunctionExpression("json_type", ColumnExpression(name)).isin(*nested)).alias(name)
        for name in relation.columns
    ]
    found = relation.limit(_SAMPLE).aggregate(tests).fetchall()[0]
    return {name: "JSON" if some else "VARCHAR" for name, some in zip(relation.columns, found, strict=True)}


def _common(kinds: set[str]) -> str:
    """Return the type that can hold what several files have in one column."""
    if len(kinds) < 2:
        return next(iter(kinds), "VARCHAR")
    if kinds <= _WHOLE | {"DOUBLE"}:
        return "DOUBLE" if "DOUBLE" in kinds else "HUGEINT"
    return "JSON" if "JSON" in kinds else "VARCHAR"


def _converted(relation: DuckDBPyRelation, whole: dict[str, str]) -> DuckDBPyRelation:
    """Make whole numbers of columns of text; one that is not written as a whole number is an error."""
    if not whole:
        return relation

    def read(name: str) -> Expression:
        column = ColumnExpression(name)
        if name not in whole:
            return column
        complaint = ConstantExpression(
            f"the column {name} has whole numbers in the first rows and something else later"
        )
        number = FunctionExpression("regexp_full_match", column, ConstantExpression("-?(0|[1-9][0-9]*)"))
        return (
            CaseExpression(column.isnull(), ConstantExpression(None))
            .when(number, column)
            .otherwise(FunctionExpression("error", complaint))
            .cast(whole[name])
            .alias(name)
        )

    return relation.select(*[read(name) for name in relation.columns])
