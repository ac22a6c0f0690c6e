"""What a query needs to be compiled: where its source has events and profiles, of what types, and what has a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from audience_sync.compiler.relations import EventsRoom, ProfilesRoom, Relation
from audience_sync.compiler.statement_text import dialect_of
from audience_sync.compiler.statements import Compiler, Known, PersonSql
from audience_sync.config import Audience, EventsTable, ProfilesTable, Settings, Source
from audience_sync.core.model import Computation
from audience_sync.engines import backend, columns, table_columns
from audience_sync.errors import ConfigError, QueryError
from audience_sync.query.query_errors import placed
from audience_sync.query.syntax_tree import Stream, walk


def compiler_of(settings: Settings, audience: Audience, *, as_of: datetime, only: str | None = None) -> Compiler:
    """Return what compiles the query of an audience or computed trait for its source.

    Raises:
        ConfigError: the source has not the columns that the file names.
        SourceError: the source does not say what columns it has.
    """
    source = settings.sources[audience.source]
    known = {one.key: one for one in settings.in_order([audience])[:-1]}
    trees = [one.tree for one in [audience, *known.values()] if one.query is not None]
    needs_events = source.profiles is None or any(isinstance(node, Stream) for tree in trees for node in walk(tree))
    return Compiler(
        dialect=dialect_of(backend(source), of_text_files=source.has_text_files),
        as_of=as_of,
        events=_events(source, source.events, as_of) if source.events is not None and needs_events else None,
        profiles=_profiles(source, source.profiles, as_of) if source.profiles is not None else None,
        known={key: _definition(settings, one, as_of) for key, one in known.items()},
        only=only,
    )


def identifiers_of(settings: Settings, audience: Audience) -> list[str]:
    """Return the columns of the profiles that a query's rows have beside the user."""
    wanted = {**audience.user_keys, **audience.company_keys}.values()
    return [column for column in dict.fromkeys(wanted) if column != audience.user_keys[settings.identity]]


@contextmanager
def explained(settings: Settings, audience: Audience) -> Iterator[None]:
    """Say of what is wrong in a query, or in one that it uses, which query it is, and where in it."""
    try:
        yield
    except QueryError as error:
        wrong = audience if error.used is None else settings.audience(error.used)
        where = placed(wrong.query or "", error)
        raise QueryError(f"the query of {wrong.key}, {where}", position=error.position) from None


def _definition(settings: Settings, audience: Audience, as_of: datetime) -> Known:
    is_trait = audience.computation is Computation.TRAIT
    if audience.sql is None:
        return Known(audience.scalar if is_trait else audience.condition, audience.zone)
    source = settings.sources[audience.source]
    types = {column.name: column.type for column in columns(source, audience.sql, as_of=as_of)}
    relation = Relation(place=f"the SQL of {audience.key}", table=None, sql=audience.sql, types=types)
    user = audience.user_keys[settings.identity]
    others = {key: column for key, column in audience.user_keys.items() if key != settings.identity}
    identifiers = [column for keys in (audience.company_keys, others) for _, column in sorted(keys.items())]
    return Known(PersonSql(relation, user, has_value=is_trait, identifiers=tuple(identifiers)), audience.zone)


def _events(source: Source, table: EventsTable, as_of: datetime) -> EventsRoom:
    return EventsRoom(
        relation=_relation(source, table, "events", as_of),
        user=table.user,
        name=table.name,
        timestamp=table.timestamp,
        properties=table.properties,
        context=table.context,
        source=table.source,
    )


def _profiles(source: Source, table: ProfilesTable, as_of: datetime) -> ProfilesRoom:
    return ProfilesRoom(relation=_relation(source, table, "profiles", as_of), user=table.user, traits=table.traits)


def _relation(source: Source, table: EventsTable | ProfilesTable, room: str, as_of: datetime) -> Relation:
    if table.table is not None:
        found = table_columns(source, table.table, as_of=as_of)
    elif table.sql is not None:
        found = columns(source, table.sql, as_of=as_of)
    else:
        raise ConfigError(f"[sources.{source.name}.{room}] has neither `table` nor `sql`")
    types = {column.name: column.type for column in found}
    place = f"[sources.{source.name}.{room}]"
    return Relation(place=place, table=table.table, sql=table.sql, types=types)
