"""Whether the numbers of several Parquet files fit one type: DuckDB takes one that may round them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from duckdb.sqltypes import DuckDBPyType

_MOST_DIGITS: Final = 38  # of a decimal
_DIGITS: Final = {  # that the largest number has
    "tinyint": 3, "utinyint": 3, "smallint": 5, "usmallint": 5, "integer": 10, "uinteger": 10, "bigint": 19,
    "ubigint": 20, "hugeint": 39, "uhugeint": 39,
}  # fmt: skip
_EXACT_DIGITS: Final = {"float": 7, "double": 15}  # up to which every whole number is exact


def holds_all(kinds: Iterable[DuckDBPyType]) -> bool:
    """Return whether the type that DuckDB takes for a column of these types holds all of their numbers exactly."""
    by_id: dict[str, list[DuckDBPyType]] = {}
    for kind in kinds:
        by_id.setdefault(kind.id, []).append(kind)
    whole = max((digits for name, digits in _DIGITS.items() if name in by_id), default=0)
    decimals = [{name: int(str(size)) for name, size in kind.children} for kind in by_id.get("decimal", [])]
    exact = max((digits for name, digits in _EXACT_DIGITS.items() if name in by_id), default=None)
    if "varchar" in by_id:  # then all become texts
        return True
    if exact is not None:
        return not decimals and whole <= exact
    if not decimals:
        return True
    scale = max(one["scale"] for one in decimals)
    return max(whole, *(one["precision"] - one["scale"] for one in decimals)) + scale <= _MOST_DIGITS
