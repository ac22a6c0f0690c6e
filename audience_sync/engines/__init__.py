"""Source databases: read the user's own database or files, with the user's SQL or ours, and never write to them.

`query_run` runs queries. `base` has the interface of an engine: how to open a database read only, take one snapshot,
stream, stop a query that takes too long, and write queries in its SQL.

Adding a source database:

1. Write a module here with an `ENGINE` (see `base`): a session, the lexical rules, and a dialect if queries are to run
   there. If SQLAlchemy has a driver for it, take the session from `sqlalchemy_engine`. The dialect can be a table of
   templates, as in `duckdb_dialect`.
2. Add a line to `ENGINES` in `registry`, with the packages of its driver: an extra in `extras.EXTRAS` and in
   `pyproject.toml`.
3. Add an entry to `SUBJECTS` in `tests/conformance/engine_subjects.py`: how to make a table in it. The suite there then
   tests the engine and its dialect.

A database that only takes a person's SQL needs no module: SQLAlchemy reads it, and `LEXES` in `sqlalchemy_engine` says
how it quotes.
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
