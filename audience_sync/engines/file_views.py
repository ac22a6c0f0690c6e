"""Make views of files: CSV and JSON are read as text, Parquet keeps its types."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from duckdb import ColumnExpression, DuckDBPyConnection, DuckDBPyRelation, Expression, FunctionExpression

from audience_sync.config import Source
from audience_sync.core.model import ColumnType
from audience_sync.engines.csv_views import CsvFile, folded, look_at, read_csv
from audience_sync.engines.file_access import is_json, is_parquet
from audience_sync.engines.file_lines import Fault, fault_in_csv, refusal
from audience_sync.engines.json_views import read_json
from audience_sync.engines.text_conversions import PARSERS
from audience_sync.errors import SourceError

# --- types in Parquet files -------------------------------------------------------------------------------------------
# Whether the numbers of several Parquet files fit one type: DuckDB takes one that may round them.

_DECIMAL: Final = re.compile(r"DECIMAL\((\d+),(\d+)\)")  # digits, and how many of them are behind the point
_MOST_DIGITS: Final = 38  # of a decimal
_DIGITS: Final = {  # that the largest number has
    "TINYINT": 3, "UTINYINT": 3, "SMALLINT": 5, "USMALLINT": 5, "INTEGER": 10, "UINTEGER": 10, "BIGINT": 19,
    "UBIGINT": 20, "HUGEINT": 39, "UHUGEINT": 39,
}  # fmt: skip
_EXACT_DIGITS: Final = {"FLOAT": 7, "DOUBLE": 15}  # up to which every whole number is exact


def holds_all(kinds: Iterable[str]) -> bool:
    """Return whether the type that DuckDB takes for a column of these types holds all of their numbers exactly."""
    names = set(kinds)
    if "VARCHAR" in names:  # then all become texts
        return True
    decimals = [tuple(map(int, found.groups())) for found in map(_DECIMAL.fullmatch, names) if found]
    whole = max((digits for name, digits in _DIGITS.items() if name in names), default=0)
    exact = max((digits for name, digits in _EXACT_DIGITS.items() if name in names), default=None)
    if exact is not None:
        return not decimals and whole <= exact
    if not decimals:
        return True
    scale = max(behind for _, behind in decimals)
    return max(whole, *(digits - behind for digits, behind in decimals)) + scale <= _MOST_DIGITS


# --- views ------------------------------------------------------------------------------------------------------------


def make_view(
    connection: DuckDBPyConnection,
    view: str,
    paths: Sequence[str],
    source: Source,
    *,
    folder: Path,
    go_on: Callable[[], None],
) -> frozenset[str]:
    """Make the view of files of one kind, and return its columns.

    `folder` is for copies of files; `go_on` is called before each file is looked at, and raises when there is no time.

    Raises:
        SourceError: a file cannot be used, and it is known why.
        duckdb.Error: a file cannot be read.
        OSError: a file cannot be opened.
    """
    if is_parquet(paths[0]):
        relation = _parquet(connection, paths)
    elif is_json(paths[0]):
        relation = read_json(connection, [path for path in paths if Path(path).stat().st_size] or paths, go_on)
    else:
        relation = read_csv(connection, list(_csv(paths, source, go_on)), folder)
    types = {folded(name): kind for name, kind in source.types.items()}
    texts = {name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "VARCHAR"}
    columns = [_column(name, types if name in texts else {}) for name in relation.columns]
    relation.select(*columns).create_view(view)
    return frozenset(relation.columns)


def _csv(paths: Sequence[str], source: Source, go_on: Callable[[], None]) -> Iterator[CsvFile]:
    for path in paths:
        go_on()
        file = look_at(path, source.separator)
        if file.is_open:
            raise refusal(path, fault_in_csv(file) or Fault(None, "a quotation mark is never closed"))
        yield file


def _column(name: str, types: Mapping[bytes, ColumnType]) -> Expression:
    column = ColumnExpression(name)
    kind = types.get(folded(name))
    return column if kind is None else FunctionExpression(PARSERS[kind], column).alias(name)


def _parquet(connection: DuckDBPyConnection, paths: Sequence[str]) -> DuckDBPyRelation:
    """Read Parquet, unless two columns of a file have one name, or the files have numbers that one type cannot hold.

    DuckDB would give the second column another name, and round the numbers.
    """
    names = [glob.escape(path) for path in paths]
    kinds: dict[bytes, set[str]] = {}
    for path, name in zip(paths, names, strict=True):
        nodes = connection.execute("SELECT name, num_children, duckdb_type FROM parquet_schema($1)", [name]).fetchall()
        columns = [(folded(column), kind) for column, kind in _top(nodes)]
        twice = [one for one, times in Counter(column for column, _ in columns).items() if times > 1]
        if twice:
            raise SourceError(
                f"The file {path} has more than one column {twice[0].decode()!r}.",
                hint="give each column a unique name",
            )
        for column, kind in columns:
            kinds.setdefault(column, set()).add(kind)
    for column, found in kinds.items():
        if len(found) > 1 and not holds_all(found):
            raise SourceError(
                f"{paths[0]} and other files have the column {column.decode()!r} with the types"
                f" {', '.join(sorted(found))}, which have no common exact type.",
                hint="use the same type for the column in every file",
            )
    return connection.read_parquet(names, union_by_name=len(names) > 1)


def _top(nodes: Sequence[tuple[str, int | None, str]]) -> list[tuple[str, str]]:
    """Return the columns of a schema, which is given as a tree, and their types.

    Every node comes before its children, the root first.
    """
    found = []
    inside = 0  # nodes to come that lie in a column
    for name, children, kind in nodes[1:]:
        if inside == 0:
            found.append((name, kind))
            inside = children or 0
        else:
            inside += (children or 0) - 1
    return found
