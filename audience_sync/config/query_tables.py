"""The queries of the file: read when it is loaded, checked against one another, and told with the other problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from audience_sync.config import defaults
from audience_sync.config.cross_checks import Entries, Raw, Spell, entries_of, key_in, source_name
from audience_sync.config.definition_files import query_setting
from audience_sync.config.problems import Location, Problem, near
from audience_sync.config.source_tables import SourceTable
from audience_sync.config.tables import AudienceTable, Document, TraitTable
from audience_sync.core.keys import audience_key
from audience_sync.core.model import TraitType
from audience_sync.errors import QueryError
from audience_sync.query.syntax_tree import Condition, Kind, Query, Scalar, Stream, kind_of, traits_of, walk

FITTING_TYPES: Final = {
    Kind.NUMBER: (TraitType.NUMBER, TraitType.CURRENCY),
    Kind.TEXT: (TraitType.STRING, TraitType.URL, TraitType.DATE),
    Kind.LIST: (TraitType.STRING,),  # the text of a JSON list
    Kind.BOOLEAN: (TraitType.BOOLEAN,),
    Kind.MOMENT: (TraitType.DATE, TraitType.STRING),
}
"""The types that the values of a query can have in Schematic, the one that is declared without a word first."""
_VALUES: Final = {
    Kind.NUMBER: "numbers",
    Kind.TEXT: "texts",
    Kind.LIST: "lists, sent as text",
    Kind.BOOLEAN: "true or false",
    Kind.MOMENT: "dates",
}


@lru_cache(maxsize=1024)
def read_condition(text: str) -> Condition:
    """Return the syntax tree of an audience's query.

    Raises:
        QueryError: it cannot be read.
    """
    from audience_sync.query.query_parser import parse_audience  # noqa: PLC0415 - Lark is slow to import

    return parse_audience(text)


@lru_cache(maxsize=1024)
def read_scalar(text: str) -> Scalar:
    """Return the syntax tree of a computed trait's query.

    Raises:
        QueryError: it cannot be read.
    """
    from audience_sync.query.query_parser import parse_trait  # noqa: PLC0415 - Lark is slow to import

    return parse_trait(text)


def key_of(entry: AudienceTable) -> str:
    """Return the key of an audience or computed trait."""
    return entry.key or audience_key(entry.name)


def asked_by_key(query: Query) -> frozenset[str]:
    """Return what a query asks for that may be the key of an audience or computed trait."""
    return frozenset(trait.path[0] for trait in traits_of(query) if len(trait.path) == 1)


def user_column(source: SourceTable) -> str:
    """Return the column that names the users a query finds in a source."""
    if source.profiles is not None:
        return source.profiles.user
    return source.events.user if source.events is not None else ""


def digest_of(parts: object) -> str:
    """Return 32 hexadecimal digits that stand for a value of JSON."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def check_queries(raw: Raw, spell: Spell) -> Iterator[Problem]:
    """Yield what is wrong with the queries of the file: what cannot be read, what is not there, and circles."""
    entries = entries_of(raw)
    keys = [(key, location) for location, entry in entries.items() if (key := key_in(entry)) is not None]
    places = dict(keys)
    twice = {key for key, location in keys if places[key] != location}  # a problem of its own: which is meant, is open
    graph: dict[str, frozenset[str]] = {}
    for location, entry in entries.items():
        if not isinstance(text := entry.get("query"), str) or not text.strip():
            continue
        try:
            tree: Query = read_scalar(text) if location[0] == "traits" else read_condition(text)
        except QueryError as error:
            file = entry.get("query_file")
            yield Problem((*location, query_setting(entry)), f"{file}, {error}" if file else str(error))
            continue
        asked = asked_by_key(tree) & (places.keys() - twice)
        if (key := key_in(entry)) is not None and key not in twice:
            graph[key] = asked
        if location[0] == "traits":
            yield from _type(entry, location, read_scalar(text))
        yield from _check_places(raw, entry, location, tree=tree, keys=places)
        yield from _neighbours(raw, entries, location, asked={one: places[one] for one in sorted(asked)}, spell=spell)
        yield from _identifiers(raw, entry, location)
    yield from _cycle(graph, places, entries)


def _place_in_source(raw: Raw, entry: Raw, kind: str) -> Mapping[str, Any] | None:
    """Return the `events` or `profiles` of an entry's source as the file has them; None: it has none."""
    name = source_name(raw, entry)
    source = raw["sources"][name] if name is not None else None
    found = source.get(kind) if isinstance(source, dict) else None
    return found if isinstance(found, dict) else None


def _check_places(
    raw: Raw, entry: Raw, location: Location, *, tree: Query, keys: Mapping[str, Location]
) -> Iterator[Problem]:
    """Check that the source says where the events and profiles are that a query asks for."""
    name = source_name(raw, entry)
    if name is None:
        return
    events, profiles = _place_in_source(raw, entry, "events"), _place_in_source(raw, entry, "profiles")
    place = (*location, query_setting(entry))
    if events is None and any(isinstance(node, Stream) for node in walk(tree)):
        yield Problem(place, f"uses events, but [sources.{name}.events] is not defined")
    elif events is None and profiles is None:
        yield Problem(
            place, f"needs [sources.{name}.events] or [sources.{name}.profiles] to know which users to evaluate"
        )
    for trait in traits_of(tree):
        if profiles is None and not (len(trait.path) == 1 and trait.path[0] in keys):
            known = near(trait.path[0], keys)
            yield Problem(
                place,
                f"uses trait('{'.'.join(trait.path)}'), but there is no audience or computed trait with"
                f" this key{known}, and [sources.{name}.profiles] is not defined",
            )


def _type(entry: Raw, location: Location, scalar: Scalar) -> Iterator[Problem]:
    """Check that the values of a query can be of the type that the file declares."""
    possible, declared = FITTING_TYPES.get(kind_of(scalar)), entry.get("type")
    if possible is not None and declared in set(TraitType) and declared not in possible:
        sentence = f"does not match the query, which returns {_VALUES[kind_of(scalar)]}: {' or '.join(possible)}"
        yield Problem((*location, "type"), sentence)


def _neighbours(
    raw: Raw, entries: Entries, location: Location, *, asked: Mapping[str, Location], spell: Spell
) -> Iterator[Problem]:
    """Check that what a query asks for by key reads the same source."""
    name = source_name(raw, entries[location])
    for key, other in asked.items():
        theirs = source_name(raw, entries[other])
        if name is not None and theirs is not None and theirs != name:
            yield Problem(
                (*location, query_setting(entries[location])),
                f"uses trait('{key}'), but {spell(other)} reads the source `{theirs}`, not `{name}`;"
                " audiences that use each other must read the same source",
            )


def _identifiers(raw: Raw, entry: Raw, location: Location) -> Iterator[Problem]:
    """Check that the identifiers of a query can be found: they are columns of the profiles."""
    profiles, events = _place_in_source(raw, entry, "profiles"), _place_in_source(raw, entry, "events")
    identity = raw.get("identity", defaults.IDENTITY)
    if profiles is None and events is None:
        return
    user = (profiles if profiles is not None else events or {}).get("user", defaults.USER_COLUMN)
    kind = "profiles" if profiles is not None else "events"
    for setting in ("user_keys", "company_keys"):
        keys = entry.get(setting)
        for key, column in keys.items() if isinstance(keys, dict) else ():
            if setting == "user_keys" and key == identity:
                if column != user:
                    sentence = (
                        "cannot be set for a query; remove it. The identity comes from the column that `user` names in"
                        f" [sources.NAME.{kind}], here `{user}`"
                    )
                    yield Problem((*location, setting, key), sentence)
            elif profiles is None:
                sentence = "needs [sources.NAME.profiles]: a query takes identifiers from columns of the profiles"
                yield Problem((*location, setting, key), sentence)


def _cycle(graph: Mapping[str, frozenset[str]], places: Mapping[str, Location], entries: Entries) -> Iterator[Problem]:
    from audience_sync.query.references import find_cycle  # noqa: PLC0415 - few files have any

    circle = find_cycle(graph)
    if circle is not None:
        place = places[circle[0]]
        yield Problem((*place, query_setting(entries[place])), f"uses itself: {' → '.join(circle)}")


def dependency_digests(document: Document) -> dict[str, str]:
    """Return, for each query by its key, a digest of where its events and profiles are and of all it asks for by key.

    A query means other people when any of that changes, though its text does not.
    """
    from audience_sync.query.references import order  # noqa: PLC0415 - few files have any

    entries = {key_of(entry): entry for entry in [*document.audiences, *document.traits]}
    graph = {}
    for key, entry in entries.items():
        graph[key] = frozenset[str]()
        if entry.query:
            tree: Query = read_scalar(entry.query) if isinstance(entry, TraitTable) else read_condition(entry.query)
            graph[key] = asked_by_key(tree) & entries.keys()
    digests: dict[str, str] = {}
    for key in order(graph):
        entry = entries[key]
        source = document.sources[entry.source or next(iter(document.sources))]
        source_tables = source.model_dump(mode="json", include={"path", "events", "profiles"})
        source_tables |= source.model_dump(
            mode="json", include={"separator", "date_order", "types"}, exclude_defaults=True
        )
        below = {one: [_meaning(entries[one]), digests[one]] for one in graph[key]}
        digests[key] = digest_of([source_tables, below])
    return digests


def _meaning(entry: AudienceTable) -> list[object]:
    """Return what an audience or computed trait says for itself."""
    return [isinstance(entry, TraitTable), entry.sql, entry.query, entry.timezone, entry.user_keys]
