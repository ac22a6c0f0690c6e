"""Reading a source: the user's own database or files, with the user's SQL or ours, and nothing but reading.

`query_run` is the way in; one module per database knows how to open it read only, take one snapshot, stream, and
stop a query that takes too long.
"""

from __future__ import annotations

from audience_sync.core.parameters import Statement
from audience_sync.engines.connect import backend
from audience_sync.engines.query_run import Rows, columns, open_rows, ping, probe, table_columns
from audience_sync.engines.session import Column, Page, Sums

__all__ = [
    "Column",
    "Page",
    "Rows",
    "Statement",
    "Sums",
    "backend",
    "columns",
    "open_rows",
    "ping",
    "probe",
    "table_columns",
]
