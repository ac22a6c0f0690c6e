"""Everything the sandbox has received, in one SQLite file that is also readable while the sandbox runs.

One connection behind one lock, one transaction per request: what was answered with 200 is in the file. Another process
may open the same file as a `Ledger` to look at it. Instants are ISO 8601 text in UTC with milliseconds, so they sort as
text; values and bodies are JSON text. No API key is ever written here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from audience_sync.clock import Clock
from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.errors import ConfigError
from audience_sync.sandbox import entities
from audience_sync.sandbox.entities import PostedEvent, TraitDefinition
from audience_sync.segment.timestamps import iso

_TABLES: Final = (
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

_COMMON: Final = """
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

_ENTITY: Final = """
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


_SCHEMA: Final = _COMMON + entities.about(_ENTITY, "user") + entities.about(_ENTITY, "company")

MEMORY: Final = timedelta(hours=24)
"""How long an idempotency key is remembered."""

_REAL: Final = Clock()

Row: TypeAlias = tuple[Any, ...]
"""What SQLite returns: of each column its own type."""


class StoredEvent(NamedTuple):
    """One row of `events`; `duplicate` ones were dropped before they were processed."""

    id: int
    received_at: str
    environment_id: str
    type: str
    subtype: str | None
    idempotency_key: str | None
    status: str
    error_message: str | None
    user_id: int | None
    company_id: int | None
    body: Mapping[str, Json]
    sent_at: str | None
    request_id: int


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events are meant: all that fit every setting that is not None."""

    idempotency_key: str | None = None
    types: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    subtype: str | None = None
    user_id: int | None = None
    company_id: int | None = None

    def where(self) -> tuple[str, list[str | int]]:
        """Return the SQL condition and its parameters."""
        parts, values = ["1"], list[str | int]()
        for column in ("idempotency_key", "subtype", "user_id", "company_id"):
            wanted = getattr(self, column)
            if wanted is not None:
                parts.append(f"{column} = ?")
                values.append(wanted)
        for column, several in (("type", self.types), ("status", self.statuses)):
            if several is not None:
                parts.append(f"{column} IN ({', '.join('?' * len(several))})")
                values.extend(several)
        return " AND ".join(parts), values


_EVERYTHING: Final = EventFilter()
_PAGE = 1000  # users read at a time by `all_traits`

_TRAITS_PAGE = """
SELECT k.value, t.name, t.value
FROM (SELECT value, user_id FROM user_keys WHERE name = ? AND value > ? ORDER BY value LIMIT ?) k
LEFT JOIN user_traits t USING (user_id)
ORDER BY k.value, t.name
"""
_INSERT_EVENT = """
INSERT INTO events (received_at, environment_id, type, subtype, idempotency_key, status, error_message,
                    user_id, company_id, body, sent_at, request_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class Ledger:
    """The file at `path`, made if it is missing; raises `ConfigError` when it is another kind of file."""

    def __init__(self, path: Path, *, environment_id: str = "env_sandbox", clock: Clock = _REAL) -> None:
        self._environment_id = environment_id
        self._clock = clock.now
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        with self._lock:
            self._connection.close()

    def accept(self, events: Sequence[PostedEvent], *, path: str, fault: str | None = None) -> None:
        """Record a request on `path` answered with 200 and process its events, all in one transaction."""
        now = self._clock()
        at, horizon = iso(now), iso(now - MEMORY)
        with self.writing() as connection:
            request_id = _insert_request(connection, (at, path, 200, len(events), fault))
            for event in events:
                if _is_repeated(connection, event, environment_id=self._environment_id, since=horizon):
                    status, applied = "duplicate", entities.Applied()
                else:
                    applied = entities.apply(connection, event, at)
                    status = "failed" if applied.error else "processed"
                row = _event_row(event, status, applied)
                connection.execute(_INSERT_EVENT, (at, self._environment_id, *row, request_id))

    def record(self, path: str, status: int | None, *, events: int = 0, fault: str | None = None) -> None:
        """Record a request that took no events; `status` is None when it got no answer."""
        with self.writing() as connection:
            _insert_request(connection, (iso(self._clock()), path, status, events, fault))

    def define(self, definition: TraitDefinition) -> int:
        """Return the id of the trait's definition, made if there is none."""
        with self.writing() as connection:
            return entities.define(connection, definition, iso(self._clock()))

    def reset(self) -> None:
        """Forget everything."""
        with self.writing() as connection:
            for table in _TABLES:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own table names

    def traits_of(self, key_name: str, key_value: str) -> dict[str, Json]:
        """Return the traits of the user with this key; none for an unknown user."""
        rows = self.read(
            "SELECT t.name, t.value FROM user_keys k JOIN user_traits t USING (user_id)"
            " WHERE k.name = ? AND k.value = ?",
            (key_name, key_value),
        )
        return {name: exact_json.loads(value) for name, value in rows}

    def all_traits(self, key_name: str) -> Iterator[tuple[str, dict[str, Json]]]:
        """Yield the value of this key and the traits of every user that has it, ordered by the value."""
        last = ""
        while True:
            rows = self.read(_TRAITS_PAGE, (key_name, last, _PAGE))
            if not rows:
                return
            for value, of_user in groupby(rows, key=itemgetter(0)):
                yield value, {row[1]: exact_json.loads(row[2]) for row in of_user if row[1] is not None}
            last = rows[-1][0]

    def events(
        self,
        wanted: EventFilter = _EVERYTHING,
        *,
        newest_first: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[StoredEvent]:
        """Return the events that fit `wanted`, oldest first unless asked otherwise."""
        condition, values = wanted.where()
        order = "DESC" if newest_first else "ASC"
        rows = self.read(
            f"SELECT * FROM events WHERE {condition} ORDER BY id {order} LIMIT ? OFFSET ?",  # noqa: S608 - our own words
            (*values, -1 if limit is None else limit, offset),
        )
        return [_event_of(row) for row in rows]

    def find_users(self, keys: Mapping[str, str]) -> frozenset[int]:
        """Return the ids of the users that have any of `keys`."""
        with self._lock:
            return entities.find(self._connection, keys)

    def stats(self) -> dict[str, Json]:
        """Return the number of requests by path and status, of events by status, and of users and companies."""
        requests: dict[str, Json] = {}
        for path, status, count in self.read(
            "SELECT path, coalesce(status, 'none'), count(*) FROM requests GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            by_status = requests.setdefault(path, {})
            if isinstance(by_status, dict):
                by_status[str(status)] = count
        events: dict[str, Json] = {"processed": 0, "duplicate": 0, "failed": 0}
        events.update(self.read("SELECT status, count(*) FROM events GROUP BY 1"))
        (users, companies), *_ = self.read("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM companies)")
        return {"requests": requests, "events": events, "users": users, "companies": companies}

    def read(self, statement: str, values: Sequence[str | int] = ()) -> list[Row]:
        """Return the rows of a SELECT."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the only writing transaction; it is rolled back when the block raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _insert_request(connection: sqlite3.Connection, row: tuple[str, str, int | None, int, str | None]) -> int:
    inserted = connection.execute("INSERT INTO requests (at, path, status, events, fault) VALUES (?, ?, ?, ?, ?)", row)
    return int(inserted.lastrowid or 0)


def _is_repeated(connection: sqlite3.Connection, event: PostedEvent, *, environment_id: str, since: str) -> bool:
    if event.idempotency_key is None:
        return False
    # An event that was itself dropped does not prolong the memory of its key.
    found = connection.execute(
        "SELECT 1 FROM events WHERE idempotency_key = ? AND type = ? AND received_at > ?"
        " AND environment_id = ? AND status <> 'duplicate' LIMIT 1",
        (event.idempotency_key, event.type, since, environment_id),
    )
    return found.fetchone() is not None


def _event_row(event: PostedEvent, status: str, applied: entities.Applied) -> tuple[str | int | None, ...]:
    name = event.body.get("event") if event.type == "track" else None
    return (
        event.type,
        name if isinstance(name, str) else None,
        event.idempotency_key,
        status,
        applied.error,
        applied.user_id,
        applied.company_id,
        exact_json.dumps(event.body).decode(),
        event.sent_at,
    )


def _event_of(row: Row) -> StoredEvent:
    stored = StoredEvent(*row)
    body: Any = exact_json.loads(row[10])
    return stored._replace(body=body)


def _unusable(path: Path, error: sqlite3.Error) -> ConfigError:
    return ConfigError(f"{path} cannot be used as the sandbox's database: {error}", hint="choose another file")
