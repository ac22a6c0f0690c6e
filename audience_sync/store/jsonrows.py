"""Many rows through one statement: the database makes rows of a JSON text, and a JSON text of rows.

Under SQLite a statement that takes or yields rows one by one gives up Python's lock at every one of them, and beside
other busy threads it has to wait each time until it has the lock back: a hundred times as long as the row itself takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection


def fetch(
    connection: Connection, query: str, *, columns: Sequence[str], key: int, parameters: Mapping[str, object]
) -> list[list[Any]]:
    """Return the columns of a query, its rows sorted by the first `key` of them."""
    if connection.dialect.name == "sqlite":
        arrays = ", ".join(f"json_group_array({column})" for column in columns)
        whole = f"SELECT json_array({arrays}) FROM ({query})"
    else:
        arrays = ", ".join(f"COALESCE(json_agg({column}), '[]')" for column in columns)
        whole = f"SELECT CAST(json_build_array({arrays}) AS text) FROM ({query}) AS found"
    found: list[list[Any]] = orjson.loads(connection.execute(sa.text(whole), parameters).scalar_one())
    places = list(zip(*found[:key], strict=True))
    if places != sorted(places):  # no database promises the order of what it puts together
        order = sorted(range(len(places)), key=places.__getitem__)
        found = [[column[n] for n in order] for column in found]
    return found


def given(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as the parameter that `table` reads."""
    return orjson.dumps(list(rows)).decode()


def table(connection: Connection, parameter: str, columns: Iterable[sa.Column[Any]]) -> str:
    """Return the query of the rows in a parameter, whose values are those of some columns in their order."""
    if connection.dialect.name == "sqlite":
        fields = (f"json_extract(value, '$[{n}]') AS {column.name}" for n, column in enumerate(columns))
        return f"SELECT {', '.join(fields)} FROM json_each(:{parameter})"
    fields = (f"CAST(value->>{n} AS {_kind(connection, column)}) AS {column.name}" for n, column in enumerate(columns))
    return f"SELECT {', '.join(fields)} FROM json_array_elements(CAST(:{parameter} AS json)) AS given(value)"


def _kind(connection: Connection, column: sa.Column[Any]) -> str:
    kind = column.type.dialect_impl(connection.dialect)
    return "text" if isinstance(kind, sa.String) else kind.compile(connection.dialect)
