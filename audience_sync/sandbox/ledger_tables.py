"""The tables of the sandbox's ledger: plain SQLite, meant to be opened and read by people.

Instants are ISO 8601 text in UTC with milliseconds, so they sort as text; values and bodies are JSON text. No API key
is ever written here.
"""

from __future__ import annotations

NAMES = (
    "requests",
    "events",
    "company_memberships",
    "user_traits",
    "user_keys",
    "users",
    "company_traits",
    "company_keys",
    "companies",
    "trait_definitions",
)
"""Every table of the ledger."""

_COMMON = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    path TEXT NOT NULL,
    status INTEGER,             -- NULL: the connection was dropped before anything was taken
    events INTEGER NOT NULL,    -- how many events the request carried
    fault TEXT                  -- what a fault rule did to it
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    received_at TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    type TEXT NOT NULL,
    subtype TEXT,               -- the event name of a track
    idempotency_key TEXT,
    status TEXT NOT NULL CHECK (status IN ('processed', 'duplicate', 'failed')),
    error_message TEXT,
    user_id INTEGER,
    company_id INTEGER,
    body TEXT NOT NULL,
    sent_at TEXT,
    request_id INTEGER NOT NULL REFERENCES requests (id)
);
CREATE INDEX IF NOT EXISTS events_by_idempotency_key ON events (idempotency_key, type, received_at)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id) WHERE user_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS company_memberships (
    user_id INTEGER NOT NULL,
    company_id INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (user_id, company_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trait_definitions (
    id INTEGER PRIMARY KEY,
    entity_type TEXT NOT NULL,
    hierarchy TEXT NOT NULL,    -- a JSON list: the path of the trait
    trait_type TEXT NOT NULL,
    display_name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (entity_type, hierarchy)
);
"""

_ENTITY = """
CREATE TABLE IF NOT EXISTS ENTITIES (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    last_seen_at TEXT
);
CREATE TABLE IF NOT EXISTS ENTITY_keys (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    ENTITY_id INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (name, value),
    UNIQUE (ENTITY_id, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ENTITY_traits (
    ENTITY_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (ENTITY_id, name)
) WITHOUT ROWID;
"""


def about(text: str, entity: str) -> str:
    """Return the statement `text`, written for ENTITY and ENTITIES, for "user" or "company"."""
    plural = {"user": "users", "company": "companies"}[entity]
    return text.replace("ENTITIES", plural).replace("ENTITY", entity)


SCHEMA = _COMMON + about(_ENTITY, "user") + about(_ENTITY, "company")
"""Creates whatever is missing."""
