"""Opening what an audience says: its own SQL as it is, its query compiled for its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from audience_sync.audiences.preparing import compiler_of, explained, identifiers_of
from audience_sync.compiler.statement_text import render
from audience_sync.compiler.statements import Compiler, Select
from audience_sync.config import Audience, Settings
from audience_sync.core.model import Computation
from audience_sync.core.parameters import Statement
from audience_sync.core.values import ValueReader, value_reader
from audience_sync.engines import Page, Sums, open_rows, probe
from audience_sync.query.text_values import text_value_reader


@dataclass(frozen=True)
class Definition:
    """The result of a definition: its columns, its rows, once, and whether its values are the text of JSON."""

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]
    sums: Callable[[], Sums | None]
    values_are_json: bool


@contextmanager
def open_definition(settings: Settings, audience: Audience, *, as_of: datetime) -> Iterator[Definition]:
    """Run the definition of an audience or computed trait in its source, as of an instant.

    The columns are those that `user_keys` and `company_keys` name and, of a computed trait, `value`.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read, also while `pages` is read.
    """
    query = statement_of(settings, audience, as_of=as_of)
    with open_rows(settings.sources[audience.source], query, as_of=as_of) as rows:
        yield Definition(rows.columns, rows.pages, rows.sums, values_are_json=audience.query is not None)


def reader_of_values(settings: Settings, audience: Audience) -> ValueReader:
    """Return what makes canonical JSON of the values of a computed trait."""
    are_json, declared = audience.query is not None, audience.declared_type
    reader = value_reader(values_are_json=are_json, trait_type=declared)
    if settings.sources[audience.source].has_text_files:
        return text_value_reader(reader, values_are_json=are_json, trait_type=declared)
    return reader


def columns_of(settings: Settings, audience: Audience, *, as_of: datetime) -> tuple[str, ...]:
    """Return the columns that `open_definition` would, with as little reading as the database allows.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be reached or refuses the definition.
    """
    query = statement_of(settings, audience, as_of=as_of)
    return probe(settings.sources[audience.source], query, as_of=as_of)


def statement_of(settings: Settings, audience: Audience, *, as_of: datetime) -> str | Statement:
    """Return what runs in the source: a person's own SQL, or a query compiled.

    Raises:
        ConfigError: the query asks for what the source has not.
        SourceError: the source does not say what columns it has.
    """
    if audience.sql is not None:
        return audience.sql
    compiler = compiler_of(settings, audience, as_of=as_of)
    with explained(settings, audience):
        return render(_select(settings, audience, compiler), compiler.dialect)


def _select(settings: Settings, audience: Audience, compiler: Compiler) -> Select:
    identifiers = identifiers_of(settings, audience)
    if audience.computation is Computation.TRAIT:
        return compiler.values(audience.scalar, audience.zone, identifiers)
    return compiler.members(audience.condition, audience.zone, identifiers)
