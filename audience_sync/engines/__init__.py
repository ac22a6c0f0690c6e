"""Reading a source: the user's own database or files, with the user's SQL or ours, and nothing but reading.

`query_run` runs queries. `registry` lists the engines, and `base` says what one provides: how to open a database read
only, take one snapshot, stream, stop a query that takes too long, and write queries in its SQL.
"""

from __future__ import annotations

from audience_sync.core.parameters import Statement
from audience_sync.engines.base import Column, Page, Sums
from audience_sync.engines.query_run import Rows, columns, open_rows, ping, probe, table_columns
from audience_sync.engines.registry import dialect_of, engine_of

__all__ = [
    "Column",
    "Page",
    "Rows",
    "Statement",
    "Sums",
    "columns",
    "dialect_of",
    "engine_of",
    "open_rows",
    "ping",
    "probe",
    "table_columns",
]
