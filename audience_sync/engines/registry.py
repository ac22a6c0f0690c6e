"""The engines by the name that a URL has for the database, and the packages that each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, NamedTuple

from audience_sync.compiler.dialect import Dialect
from audience_sync.config import Source
from audience_sync.engines.base import Engine
from audience_sync.engines.source_errors import place_of
from audience_sync.errors import ConfigError, SourceError
from audience_sync.extras import EXTRAS, install_command, missing


class Entry(NamedTuple):
    """The module with the `ENGINE` of a database (None: `sqlalchemy_engine` reads it), and the packages it needs."""

    module: str | None = None
    packages: Sequence[str] = ()


FILES: Final = "Parquet files"  # not a name that a URL can have
TEXT_FILES: Final = "text files"
ENGINES: Final[Mapping[str, Entry]] = {
    "sqlite": Entry("sqlite_engine"),
    "postgresql": Entry("postgresql_engine", EXTRAS["postgres"]),
    "mariadb": Entry("mariadb_engine", EXTRAS["mysql"]),
    "mysql": Entry("mariadb_engine", EXTRAS["mysql"]),
    "duckdb": Entry("duckdb_engine"),
    FILES: Entry("file_engine"),
    TEXT_FILES: Entry("text_file_engine"),
    "bigquery": Entry(packages=("sqlalchemy-bigquery",)),
    "clickhouse": Entry(packages=("clickhouse-sqlalchemy",)),
    "clickhousedb": Entry(packages=("clickhouse-connect",)),
    "databricks": Entry(packages=("databricks-sqlalchemy",)),
    "mssql": Entry(packages=("pyodbc",)),
    "oracle": Entry(packages=("oracledb",)),
    "redshift": Entry(packages=("sqlalchemy-redshift", "redshift-connector")),
    "snowflake": Entry(packages=("snowflake-sqlalchemy",)),
    "trino": Entry(packages=("trino[sqlalchemy]",)),
}
"""A database that is not listed is read by `sqlalchemy_engine`, too."""


def engine_name(source: Source) -> str:
    """Return the name of a source's engine; the driver in a URL does not count."""
    if source.url is not None:
        return source.url.get_secret_value().get_backend_name()
    return TEXT_FILES if source.has_text_files else FILES


def engine_of(source: Source) -> Engine:
    """Return the engine of a source.

    Raises:
        SourceError: its driver is not installed.
    """
    name = engine_name(source)
    module = ENGINES.get(name, Entry()).module
    try:
        found = import_module(f"audience_sync.engines.{module or 'sqlalchemy_engine'}")
    except ImportError as error:
        raise not_installed(source, missing(error)) from None
    engine: Engine = found.ENGINE if module else found.engine_named(name)
    return engine


def dialect_of(source: Source) -> Dialect:
    """Return how queries are written for a source.

    Raises:
        ConfigError: its engine takes only SQL.
        SourceError: its driver is not installed.
    """
    dialect = engine_of(source).dialect
    if dialect is None:
        able = ", ".join(name for name, entry in ENGINES.items() if entry.module and name not in {FILES, TEXT_FILES})
        raise ConfigError(
            f"queries are not supported for {engine_name(source)} yet, only for {able}",
            hint="define the audience with `sql`",
        )
    return dialect


def not_installed(source: Source, what: str) -> SourceError:
    """Return the error for a source whose driver is missing: `what`."""
    entry = ENGINES.get(engine_name(source), Entry())
    if entry.module is None and source.url is not None and "+" in source.url.get_secret_value().drivername:
        hint = f"install that driver, or leave it out of the url: {engine_name(source)}://…"
    elif entry.packages:
        hint = install_command(entry.packages)
    else:
        hint = "install the SQLAlchemy dialect of this database, or check the url"
    return SourceError(f"The driver for {place_of(source)} is not installed: {what}.", hint=hint)
