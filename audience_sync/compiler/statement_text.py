"""A statement of SQLAlchemy as the text and the parameters that a driver takes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from audience_sync.compiler.dialect import Dialect
from audience_sync.compiler.dialect_duckdb import Duckdb, TextFiles
from audience_sync.compiler.dialect_postgresql import Postgresql
from audience_sync.compiler.dialect_sqlite import Sqlite
from audience_sync.core.parameters import Statement
from audience_sync.errors import ConfigError

DIALECTS: dict[str, type[Dialect]] = {one.name: one for one in (Sqlite, Postgresql, Duckdb)}


def dialect_of(backend: str, *, of_text_files: bool = False) -> Dialect:
    """Return what a kind of database does its own way, or DuckDB where it reads CSV and JSON files.

    Raises:
        ConfigError: queries cannot run there.
    """
    if backend not in DIALECTS:
        raise ConfigError(
            f"a query cannot run in {backend} yet, only in {', '.join(DIALECTS)}",
            hint="write the audience as `sql`",
        )
    return TextFiles() if of_text_files else DIALECTS[backend]()


def render(statement: sa.Select[Any], dialect: Dialect) -> Statement:
    """Return a statement as its driver takes it; whatever came from a query is among the parameters."""
    compiled = statement.compile(dialect=dialect.sqlalchemy, compile_kwargs={"render_postcompile": True})
    values = compiled.params
    order = getattr(compiled, "positiontup", None)
    return Statement(str(compiled), values if order is None else [values[name] for name in order])
