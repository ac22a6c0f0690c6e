"""Whether the numbers of several Parquet files fit one type: DuckDB takes one that may round them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

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
