"""Values with sensible defaults, for tests that say only what they are about."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import canonical
from audience_sync.core.model import Change, ChangeKind, Computation, Member, RunKind, RunState
from audience_sync.destinations.mappings import Mapping as DestinationMapping
from audience_sync.destinations.mappings import presets
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import BatchContents, ProfileEvents, RenderedEvent
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.destinations.schematic.schematic_renderer import SchematicRenderer
from audience_sync.segment.timestamps import iso
from audience_sync.store import audiences, batches, generations, outbox, runs
from audience_sync.store.batches import Batch
from audience_sync.store.runs import NewRun, RunRow

NOON = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
AUDIENCE_NAME = "Order Completed Last 30days"
AUDIENCE_KEY = "order_completed_last_30days"
ORDERS_SQL = "SELECT customer_id AS user_id, company_id FROM orders WHERE ordered_at <= :now"
VALUES_SQL = "SELECT customer_id AS user_id, company_id AS value FROM orders WHERE ordered_at <= :now"


class FrozenClock:
    """A clock for `Clock(now=…, monotonic=….monotonic)` that moves only when told to."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the instant at which the clock stands."""
        return self.now

    def monotonic(self) -> float:
        """Return the same instant in seconds."""
        return self.now.timestamp()

    def advance(self, by: timedelta) -> None:
        """Move the clock."""
        self.now += by


class Shop:
    """A SQLite file with one table, `orders`: who ordered, for which company, and when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("CREATE TABLE IF NOT EXISTS orders (customer_id, company_id, ordered_at TEXT)")

    def set_orders(self, rows: Iterable[str | tuple[object, ...] | None]) -> None:
        """Put rows in the place of all orders: `customer` alone, `(customer, company)`, or with a time too."""
        whole = [(row,) if row is None or isinstance(row, str) else row for row in rows]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("DELETE FROM orders")
        self._connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)",
            [(*row, *(None, "2026-01-01 00:00:00")[len(row) - 1 :]) for row in whole],
        )
        self._connection.execute("COMMIT")

    def execute(self, statement: str) -> None:
        """Run a statement on the file, to break it for example."""
        self._connection.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def config_text(
    *,
    name: str = AUDIENCE_NAME,
    sql: str = ORDERS_SQL,
    identity: str = "userId",
    company_keys: Mapping[str, str] | None = None,
    audience: Mapping[str, object] | None = None,
    guard: Mapping[str, float] | None = None,
    source_url: str = "sqlite:///shop.db",
    entries: str = "audiences",
    top: str = "",
    more: str = "",
) -> str:
    """Return a configuration file with one audience of the shop, or one computed trait where `entries` are traits.

    `audience` has more settings of the audience, `guard` the limits; `top` is put before all tables and `more` behind
    them, as they are.
    """
    keys = {"groupId": "company_id"} if company_keys is None else company_keys
    return "\n".join(
        [
            f"identity = {json.dumps(identity)}",
            top,
            "[sources.shop]",
            f"url = {json.dumps(source_url)}",
            *(["[guard]", *_assignments(guard)] if guard else []),
            f"[[{entries}]]",
            f"name = {json.dumps(name)}",
            f"sql = {json.dumps(sql)}",
            f"user_keys = {{ {json.dumps(identity)} = 'user_id' }}",
            f"company_keys = {{ {', '.join(_assignments(keys))} }}",
            *_assignments(audience or {}),
            more,
        ]
    )


def _assignments(settings: Mapping[str, object]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in settings.items()]


def make_member(profile_key: str = "u1", *, company: str | None = None, value: object = None) -> Member:
    """Return a member, with a company's groupId and a computed value if asked for."""
    return Member(profile_key, company_identifiers(company), None if value is None else canonical(value))


def make_change(
    profile_key: str = "u1",
    kind: ChangeKind = ChangeKind.ENTERED,
    *,
    company: str | None = None,
    value: object = None,
) -> Change:
    """Return a change of one profile."""
    return Change(kind, *make_member(profile_key, company=company, value=value))


def make_open(profile_key: str = "u1", **facts: object) -> OpenChange:
    """Return a row of the outbox: `true` for the audience `gold`, unless `facts` say otherwise."""
    default = OpenChange(
        profile_key=profile_key,
        audience_id=1,
        trait="gold",
        value="true",
        identifiers=None,
        generation=1000,
        run_id=1,
        computation=Computation.AUDIENCE,
        kind=ChangeKind.ENTERED,
    )
    return default._replace(**facts)  # type: ignore[arg-type]  # the fields of OpenChange


def make_event(*changes: OpenChange, sent_at: datetime = NOON, environment: str = "env_1") -> RenderedEvent:
    """Return the event that the presets make of these changes of a profile named by `userId`."""
    (event,) = rendered(changes or (make_open(),), make_renderer(environment=environment), at=iso(sent_at)).events
    return event


def rendered(changes: Sequence[OpenChange], renderer: SchematicRenderer, *, at: str) -> ProfileEvents:
    """Return the events of the open changes of one profile."""
    (found,) = renderer.profile_events(changes, at=at)
    return found


def open_changes(connection: Connection, profile_key: str) -> list[OpenChange]:
    """Return what waits in the outbox of one profile."""
    rows, _ = outbox.page(connection, after="", limit=10_000)
    return [row for row in rows if row.profile_key == profile_key]


def take_batch(connection: Connection, *events: RenderedEvent, now_ms: int, holder: str = "me") -> Batch:
    """Take what some events carry out of the outbox, as one batch that is claimed for ten minutes, and return it."""
    for event in events:
        for carried in event.carried:
            connection.execute(
                sa.text("DELETE FROM outbox WHERE profile_key = :k AND audience_id = :a AND generation = :g"),
                {"k": event.profile_key, "a": carried.audience_id, "g": carried.generation},
            )
    (batch,) = batches.add(
        connection, [BatchContents.of(events)], holder=holder, claim_until=now_ms + 600_000, now_ms=now_ms
    )
    return batch


def make_renderer(
    *mappings: DestinationMapping, identity: str = "userId", environment: str = "env_1"
) -> SchematicRenderer:
    """Return a renderer with some mappings, or with the presets."""
    return SchematicRenderer(identity=identity, environment=environment, mappings=mappings or presets(ACTIONS.values()))


def company_identifiers(company: str | None) -> str | None:
    """Return the identifiers of somebody of a company, as in `Member`."""
    return None if company is None else canonical({"company": {"groupId": company}})


def make_run(
    connection: Connection, *, audience: str = "gold", computation: Computation = Computation.AUDIENCE, **facts: object
) -> RunRow:
    """Start a run of an audience or computed trait, under a generation of its own, and return it."""
    now = int(NOON.timestamp() * 1000)
    row = audiences.register(connection, key=audience, name=audience.title(), now_ms=now, computation=computation)
    default = NewRun(
        audience_id=row.id,
        kind=RunKind.INITIAL,
        state=RunState.RUNNING,
        as_of=now,
        started_at=now,
        generation=generations.next_generation(connection, now),
        definition_hash="",
        definition_changed=False,
        members_before=row.members,
    )
    return runs.start(connection, default._replace(**facts))  # type: ignore[arg-type]  # the fields of NewRun
