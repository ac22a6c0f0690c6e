"""`[sources.NAME]`: where rows come from, and where a `query` finds events and profiles in there.

A source is a database (`url`) or files (`path`). Files become views of a DuckDB in memory: those of the source under
its own name, those of its events and profiles under `NAME_events` and `NAME_profiles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from audience_sync.config import defaults
from audience_sync.config.freshness_rule import FreshnessRule, make_freshness
from audience_sync.config.problems import Location, Problem
from audience_sync.config.types import (
    ColumnTypeName,
    DateOrderName,
    Duration,
    Files,
    SecretUrl,
    Separator,
    Size,
    SourceUrl,
    Table,
    Text,
)
from audience_sync.core.model import ColumnType, DateOrder

PLACES = ("table", "sql", "path")


class EventsTable(Table):
    """`[sources.NAME.events]`: where events are, and which column is what."""

    table: Text | None = None
    sql: Text | None = None
    path: Files | None = None
    user: Text = defaults.USER_COLUMN
    name: Text = defaults.EVENT_COLUMN
    timestamp: Text = defaults.TIMESTAMP_COLUMN
    properties: Text | None = None
    context: Text | None = None
    source: Text | None = None


class ProfilesTable(Table):
    """`[sources.NAME.profiles]`: where profiles are, one row a user, and which column is what."""

    table: Text | None = None
    sql: Text | None = None
    path: Files | None = None
    user: Text = defaults.USER_COLUMN
    company: Text | None = None
    traits: Text | None = None


class SourceTable(Table):
    """`[sources.NAME]`: a place rows are read from."""

    url: SourceUrl | None = None
    path: Files | None = None
    statement_timeout: Duration = defaults.STATEMENT_TIMEOUT
    freshness: Text | None = None
    max_age: Duration | None = None
    sums_first: bool = defaults.SUMS_FIRST
    memory_limit: Size = defaults.MEMORY_LIMIT
    separator: Separator | None = None
    date_order: DateOrderName | None = None
    types: dict[Text, ColumnTypeName] = Field(default_factory=dict)
    events: EventsTable | None = None
    profiles: ProfilesTable | None = None

    @field_validator("sums_first")
    @classmethod
    def _has_sums(cls, value: bool, info: ValidationInfo) -> bool:
        url: SecretUrl | None = info.data.get("url")
        is_known = "url" in info.data  # else the url has a problem of its own
        if value and is_known and (url is None or url.get_secret_value().get_backend_name() != "postgresql"):
            raise ValueError("requires a PostgreSQL source: remove it")
        return value


class Source(BaseModel):
    """A source as the program reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: SourceUrl | None  # None: there are only files
    files: dict[str, str]  # paths or globs of files, by the name of their view
    memory_limit: str  # of the DuckDB that reads files
    separator: str | None = None  # of CSV; None: the first line shows it
    date_order: DateOrder | None = None  # None: a date such as 11/05/2026 is refused
    types: dict[str, ColumnType] = {}  # columns of files that are not text
    statement_timeout: timedelta
    freshness: FreshnessRule | None = None  # of audiences that have no rule of their own
    sums_first: bool = defaults.SUMS_FIRST  # nothing is read where the database's sums are those of the last sync
    events: EventsTable | None  # with a table or sql, never with a path
    profiles: ProfilesTable | None

    @property
    def has_text_files(self) -> bool:
        """Return whether there are files whose columns have no types: CSV and JSON."""
        return not all(path.lower().endswith(".parquet") for path in self.files.values())


def make_source(name: str, table: SourceTable) -> Source:
    """Return the source of a file without problems."""
    files = {name: table.path} if table.path else {}
    places: dict[str, Any] = {"events": table.events, "profiles": table.profiles}
    for kind, entry in places.items():
        if entry is None:
            continue
        view = name
        if entry.path:
            view = f"{name}_{kind}"
            files[view] = entry.path
        if not (entry.table or entry.sql):
            places[kind] = entry.model_copy(update={"table": view, "path": None})
    return Source(
        name=name,
        url=table.url,
        files=files,
        memory_limit=table.memory_limit,
        separator=table.separator,
        date_order=table.date_order,
        types=table.types,
        statement_timeout=table.statement_timeout,
        freshness=make_freshness(table),
        sums_first=table.sums_first,
        **places,
    )


def check_sources(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong between the settings of each source."""
    sources = raw.get("sources")
    for name, source in sources.items() if isinstance(sources, dict) else ():
        if isinstance(source, dict):
            yield from _source(source, ("sources", name))


def _source(source: Mapping[str, Any], location: Location) -> Iterator[Problem]:
    places = {kind: source[kind] for kind in ("events", "profiles") if isinstance(source.get(kind), dict)}
    has_files = "path" in source or any("path" in entry for entry in places.values())
    if "url" not in source and not has_files:
        yield Problem((*location, "url"), "missing")
    if "url" in source and "path" in source:
        yield Problem((*location, "path"), "cannot be combined with `url`; remove one of them")
    if not has_files:
        for setting in ("separator", "date_order", "types"):
            if setting in source:
                yield Problem((*location, setting), "applies only to files, but this source has no `path`")
    for kind, entry in places.items():
        given = [one for one in PLACES if one in entry]
        if len(given) > 1:
            yield Problem((*location, kind, given[1]), f"cannot be combined with `{given[0]}`; remove one of them")
        elif "path" in given and "url" in source:
            yield Problem(
                (*location, kind, "path"),
                "cannot be used in a source with `url`; define a separate source for the files",
            )
        elif not given and "path" not in source:
            yield Problem((*location, kind, "table"), f"missing: set `table`, `sql` or `path` for the {kind}")
