"""Open a definition: a person's own SQL as it is, a query compiled for its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from audience_sync.audiences.text_values import text_value_reader
from audience_sync.compiler.dialect import render
from audience_sync.compiler.relations import EventsLayout, ProfilesLayout, Relation
from audience_sync.compiler.statements import Compiler, Known, PersonSql, Select
from audience_sync.config import Audience, EventsTable, ProfilesTable, Settings, Source
from audience_sync.core.parameters import Statement
from audience_sync.core.values import ValueReader, value_reader
from audience_sync.engines import Page, Sums, columns, dialect_of, open_rows, probe, table_columns
from audience_sync.errors import ConfigError, QueryError
from audience_sync.query.query_errors import placed
from audience_sync.query.syntax_tree import Stream, walk


def compiler_of(settings: Settings, audience: Audience, *, as_of: datetime, only: str | None = None) -> Compiler:
    """Return the compiler for the query of an audience or computed trait, for its source.

    Raises:
        ConfigError: the source does not have the configured columns.
        SourceError: the columns of the source cannot be read.
    """
    source = settings.sources[audience.source]
    known = {one.key: one for one in settings.in_order([audience])[:-1]}
    trees = [one.tree for one in [audience, *known.values()] if one.query is not None]
    needs_events = source.profiles is None or any(isinstance(node, Stream) for tree in trees for node in walk(tree))
    return Compiler(
        dialect=dialect_of(source),
        as_of=as_of,
        events=_events(source, source.events, as_of) if source.events is not None and needs_events else None,
        profiles=_profiles(source, source.profiles, as_of) if source.profiles is not None else None,
        known={key: _definition(settings, one, as_of) for key, one in known.items()},
        only=only,
    )


def identifiers_of(settings: Settings, audience: Audience) -> list[str]:
    """Return the columns of the profiles that are in a query's rows in addition to the user."""
    wanted = {**audience.user_keys, **audience.company_keys}.values()
    return [column for column in dict.fromkeys(wanted) if column != audience.user_keys[settings.identity]]


@contextmanager
def explained(settings: Settings, audience: Audience) -> Iterator[None]:
    """Add to an error the query that it is in, which may be a used one, and the position."""
    try:
        yield
    except QueryError as error:
        wrong = audience if error.used is None else settings.audience(error.used)
        where = placed(wrong.query or "", error)
        file = f" in {wrong.definition_file}" if wrong.definition_file else ""
        raise QueryError(f"the query of {wrong.key}{file}, {where}", position=error.position) from None


def _definition(settings: Settings, audience: Audience, as_of: datetime) -> Known:
    is_trait = audience.computation.has_values
    if audience.sql is None:
        return Known(audience.scalar if is_trait else audience.condition, audience.zone)
    source = settings.sources[audience.source]
    found = columns(source, audience.sql, as_of=as_of, file=audience.definition_file)
    types = {column.name: column.type for column in found}
    relation = Relation(place=f"the SQL of {audience.key}", table=None, sql=audience.sql, types=types)
    user = audience.user_keys[settings.identity]
    others = {key: column for key, column in audience.user_keys.items() if key != settings.identity}
    identifiers = [column for keys in (audience.company_keys, others) for _, column in sorted(keys.items())]
    return Known(PersonSql(relation, user, has_value=is_trait, identifiers=tuple(identifiers)), audience.zone)


def _events(source: Source, table: EventsTable, as_of: datetime) -> EventsLayout:
    return EventsLayout(
        relation=_relation(source, table, "events", as_of),
        user=table.user,
        name=table.name,
        timestamp=table.timestamp,
        properties=table.properties,
        context=table.context,
        source=table.source,
    )


def _profiles(source: Source, table: ProfilesTable, as_of: datetime) -> ProfilesLayout:
    return ProfilesLayout(relation=_relation(source, table, "profiles", as_of), user=table.user, traits=table.traits)


def _relation(source: Source, table: EventsTable | ProfilesTable, kind: str, as_of: datetime) -> Relation:
    if table.table is not None:
        found = table_columns(source, table.table)
    elif table.sql is not None:
        found = columns(source, table.sql, as_of=as_of)
    else:
        raise ConfigError(f"[sources.{source.name}.{kind}] has neither `table` nor `sql`")
    types = {column.name: column.type for column in found}
    place = f"[sources.{source.name}.{kind}]"
    return Relation(place=place, table=table.table, sql=table.sql, types=types)


@dataclass(frozen=True)
class Definition:
    """The result of a definition: its columns, its rows (readable once), and whether its values are JSON text."""

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]
    sums: Callable[[], Sums | None]
    values_are_json: bool


@contextmanager
def open_definition(settings: Settings, audience: Audience, *, as_of: datetime) -> Iterator[Definition]:
    """Run the definition of an audience or computed trait in its source, as of an instant.

    The columns are those of `user_keys` and `company_keys` and, for a computed trait, `value`.

    Raises:
        ConfigError: the definition is invalid, which is known without running it.
        SourceError: the source cannot be read, now or while reading `pages`.
    """
    query = statement_of(settings, audience, as_of=as_of)
    source, file = settings.sources[audience.source], audience.definition_file
    with open_rows(source, query, as_of=as_of, file=file) as rows:
        yield Definition(rows.columns, rows.pages, rows.sums, values_are_json=audience.query is not None)


def reader_of_values(settings: Settings, audience: Audience) -> ValueReader:
    """Return the function that converts values of a computed trait to canonical JSON."""
    are_json, declared = audience.query is not None, audience.declared_type
    reader = value_reader(values_are_json=are_json, trait_type=declared)
    if settings.sources[audience.source].has_text_files:
        return text_value_reader(reader, values_are_json=are_json, trait_type=declared)
    return reader


def columns_of(settings: Settings, audience: Audience, *, as_of: datetime) -> tuple[str, ...]:
    """Return the columns that `open_definition` would return, reading as little as the database allows.

    Raises:
        ConfigError: the definition is invalid, which is known without running it.
        SourceError: the source cannot be reached or refuses the definition.
    """
    query = statement_of(settings, audience, as_of=as_of)
    return probe(settings.sources[audience.source], query, as_of=as_of, file=audience.definition_file)


def statement_of(settings: Settings, audience: Audience, *, as_of: datetime) -> str | Statement:
    """Return the statement that runs in the source: the user's own SQL, or a compiled query.

    Raises:
        ConfigError: the query needs something that the source does not have.
        SourceError: the columns of the source cannot be read.
    """
    if audience.sql is not None:
        return audience.sql
    compiler = compiler_of(settings, audience, as_of=as_of)
    with explained(settings, audience):
        return render(_select(settings, audience, compiler), compiler.dialect)


def _select(settings: Settings, audience: Audience, compiler: Compiler) -> Select:
    identifiers = identifiers_of(settings, audience)
    if audience.computation.has_values:
        return compiler.values(audience.scalar, audience.zone, identifiers)
    return compiler.members(audience.condition, audience.zone, identifiers)
