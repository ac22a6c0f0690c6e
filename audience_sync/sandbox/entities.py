"""Effects of events on users and companies: found by any of their keys, created if unknown, their traits merged.

Functions on a connection whose transaction belongs to the caller. An event is resolved before anything of it is
written, so one that fails leaves no trace.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json

EntityKeys: TypeAlias = Mapping[str, str]


class PostedEvent(NamedTuple):
    """One event whose shape is right, without the API key."""

    type: str
    body: Mapping[str, Json]
    idempotency_key: str | None = None
    sent_at: str | None = None
    backfill: bool = False


class TraitDefinition(NamedTuple):
    """A trait and its type, as asked of POST /entity-trait-definitions."""

    entity_type: str
    hierarchy: Sequence[str]
    trait_type: str
    display_name: str


class Applied(NamedTuple):
    """The user and company of an event, or why it failed."""

    user_id: int | None = None
    company_id: int | None = None
    error: str | None = None


def about(text: str, entity: str) -> str:
    """Return the statement `text`, written for ENTITY and ENTITIES, for "user" or "company"."""
    plural = {"user": "users", "company": "companies"}[entity]
    return text.replace("ENTITIES", plural).replace("ENTITY", entity)


@dataclass(frozen=True)
class _Statements:
    """The statements for one kind of entity."""

    find: str
    create: str
    touch: str
    set_key: str
    set_trait: str


def _statements(entity: str) -> _Statements:
    return _Statements(
        find=about("SELECT ENTITY_id FROM ENTITY_keys WHERE name = ? AND value = ?", entity),
        create=about("INSERT INTO ENTITIES (name, created_at, updated_at, last_seen_at) VALUES (?, ?, ?, ?)", entity),
        touch=about(
            "UPDATE ENTITIES SET name = coalesce(?, name), updated_at = ?, last_seen_at = coalesce(?, last_seen_at)"
            " WHERE id = ?",
            entity,
        ),
        set_key=about(
            "INSERT INTO ENTITY_keys (name, value, ENTITY_id, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (ENTITY_id, name) DO UPDATE SET value = excluded.value",
            entity,
        ),
        set_trait=about(
            "INSERT INTO ENTITY_traits (ENTITY_id, name, value, created_at, updated_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (ENTITY_id, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            entity,
        ),
    )


_DEFINE: Final = (
    "INSERT OR IGNORE INTO trait_definitions (entity_type, hierarchy, trait_type, display_name, created_at)"
    " VALUES (?, ?, ?, ?, ?)"
)
_SQL: Final = {entity: _statements(entity) for entity in ("user", "company")}


class _Found(NamedTuple):
    """The entities that have any of the keys, and the keys nobody has yet."""

    ids: frozenset[int]
    new: EntityKeys

    @property
    def id(self) -> int | None:
        """Return the one entity, if there is one."""
        return next(iter(self.ids), None)


def apply(connection: sqlite3.Connection, event: PostedEvent, at: str) -> Applied:
    """Do what `event`, received `at`, says; return its user and company, or the error if its keys match several."""
    if event.type == "identify":
        company = _mapping(event.body.get("company"))
        user_keys, company_keys = _keys(event.body.get("keys")), _keys(company.get("keys"))
    else:
        company = {}
        user_keys, company_keys = _keys(event.body.get("user")), _keys(event.body.get("company"))
    user, group = _find(connection, "user", user_keys), _find(connection, "company", company_keys)
    for entity, found, keys in (("users", user, user_keys), ("companies", group, company_keys)):
        if len(found.ids) > 1:
            return Applied(error=f"the keys {', '.join(sorted(keys))} match {len(found.ids)} {entity}")
    if event.type != "identify":
        return Applied(user.id, group.id)
    seen_at = None if event.backfill else at  # a backfill does not show that the user is active
    user_id = _upsert(connection, "user", user, event.body, (at, seen_at))
    if not company:
        return Applied(user_id)
    company_id = _upsert(connection, "company", group, company, (at, seen_at))
    connection.execute("INSERT OR IGNORE INTO company_memberships VALUES (?, ?, ?)", (user_id, company_id, at))
    return Applied(user_id, company_id)


def find(connection: sqlite3.Connection, keys: EntityKeys) -> frozenset[int]:
    """Return the ids of the users that have any of `keys`."""
    return _find(connection, "user", keys).ids


def define(connection: sqlite3.Connection, definition: TraitDefinition, at: str) -> int:
    """Return the id of the trait's definition, made `at` if there is none; an older one keeps its type."""
    hierarchy = orjson.dumps(definition.hierarchy).decode()
    connection.execute(
        _DEFINE,
        (definition.entity_type, hierarchy, definition.trait_type, definition.display_name, at),
    )
    row = connection.execute(
        "SELECT id FROM trait_definitions WHERE entity_type = ? AND hierarchy = ?", (definition.entity_type, hierarchy)
    ).fetchone()
    return int(row[0])


def _find(connection: sqlite3.Connection, entity: str, keys: EntityKeys) -> _Found:
    statement = _SQL[entity].find
    ids: set[int] = set()
    new: dict[str, str] = {}
    for name, value in keys.items():
        row = connection.execute(statement, (name, value)).fetchone()
        if row is None:
            new[name] = value
        else:
            ids.add(row[0])
    return _Found(frozenset(ids), new)


def _upsert(
    connection: sqlite3.Connection, entity: str, found: _Found, body: Mapping[str, Json], times: tuple[str, str | None]
) -> int:
    statements, name, (at, seen_at) = _SQL[entity], body.get("name"), times
    if found.id is None:
        created = connection.execute(statements.create, (name or "", at, at, seen_at))
        entity_id = int(created.lastrowid or 0)
    else:
        entity_id = found.id
        connection.execute(statements.touch, (name, at, seen_at, entity_id))
    for key, value in found.new.items():
        connection.execute(statements.set_key, (key, value, entity_id, at))
    for trait, value_now in _mapping(body.get("traits")).items():
        text = exact_json.dumps(value_now).decode()
        connection.execute(statements.set_trait, (entity_id, trait, text, at, at))
        connection.execute(
            _DEFINE,
            (entity, orjson.dumps([trait]).decode(), _guessed_type(value_now), trait, at),
        )
    return entity_id


def _guessed_type(value: Json) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, (int, float)) else "string"


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _keys(value: Json) -> EntityKeys:
    return {name: key for name, key in _mapping(value).items() if isinstance(key, str)}
