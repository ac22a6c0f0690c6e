"""A membership database with content that is hard to show: ten million members, keys of 40 characters, long reasons.

It has audiences in every state, runs in every state, and rows in every table that a command lists. The counts are
written, not counted: nothing here takes as long as ten million rows.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.clock import Clock
from audience_sync.core.keys import shard_of
from audience_sync.destinations.rendered_events import BatchContents
from audience_sync.store import batches, leases, schema
from audience_sync.store.database import connect
from tests.factories import make_event, make_open

AT: Final = 1_795_961_109_123  # 2026-11-29 14:05:09.123Z
MINUTE: Final = 60_000
MILLIONS: Final = 10_000_000

REASON: Final = (
    "3,104,221 would exit, 31.0 % of the 10,000,000 members before; max_exit_percent allows 30 %; 9,876,543 would be"
    " updated, 98.8 % of the 10,000,000 members before; max_update_percent allows 50 %"
)
REFUSAL: Final = (
    'Schematic answered 400: {"error":"keys.email: must be a valid address of at most 254 characters"} for the event'
    " with the idempotency key 5f1d7a84c3b2e96f0a1b2c3d4e5f6071, and it was alone in its request; the trait is unknown"
)
OUTAGE: Final = (
    "POST https://c.schematichq.com/batch: 503 Service Unavailable, upstream connect error or disconnect/reset before"
    " headers; the last of 12 tries took 30.0 s; 1,234,567 events wait behind it and are sent when Schematic answers"
)


@dataclass(frozen=True)
class Names:
    """The names in a database: keys of audiences, and of people."""

    audience: str  # blocked, ten million members
    paused: str
    trait: str  # a computed trait, its last run failed
    new: str  # in the file, never synced
    retired: str
    person: str
    other: str


USUAL: Final = Names(
    audience="order_completed_last_30days",
    paused="lapsed_customers",
    trait="total_spend_90_days",
    new="trial_users",
    retired="newsletter_2024",
    person="usr_8c21f0",
    other="ada@example.com",
)
LONG: Final = Names(
    audience="customer_with_two_orders_in_last_30_days",
    paused="lapsed_customers_of_the_enterprise_plans",
    trait="total_spend_in_euros_over_the_last_years",
    new="trial_user_who_never_invited_a_colleague",
    retired="newsletter_readers_in_germany_until_2024",
    person="maximilian.von.hohenstein@kunden.example",
    other="山田太郎山田太郎山田太郎山田太郎山田太郎",
)

CONFIGURATION: Final = """
[database]
url = "{url}"
[schematic]
api_key = "${{SCHEMATIC_API_KEY}}"
[sources.shop]
url = "sqlite:///shop.db"
[sources.shop.events]
table = "events"
timestamp = "occurred_at"
properties = "properties"
[[audiences]]
name = "{audience}"
query = "event('Order Completed').within(30 days).sum(property('revenue')) >= 10000000 AND {condition}"
[[audiences]]
name = "{paused}"
sql = "SELECT user_id FROM lapsed"
[[audiences]]
name = "{new}"
sql = "SELECT user_id FROM trials"
[[traits]]
name = "{trait}"
query = "event('Order Completed').within(90 days).sum(property('revenue'))"
"""


def fill(folder: Path, url: str, names: Names) -> None:
    """Write `config.toml`, and fill the migrated, empty database at `url`."""
    condition = "event('Product Viewed').where(property('category') != 'Gift Cards').within(7 days).count() > 12"
    text = CONFIGURATION.format(
        url=url, audience=names.audience, paused=names.paused, new=names.new, trait=names.trait, condition=condition
    )
    (folder / "config.toml").write_text(text, encoding="utf-8")
    with closing(connect(url)) as database, database.write() as connection:
        _audiences(connection, names)
        _runs(connection)
        _people(connection, names)
        _events(connection, names)
        _work(connection, names, now_ms=Clock().steady_ms())


def _insert(connection: Connection, table: str, *rows: dict[str, object]) -> None:
    for row in rows:
        connection.execute(schema.metadata.tables[table].insert().values(**row))


def _audiences(connection: Connection, names: Names) -> None:
    common = {"name": "Customers", "completed": True, "created_at": AT, "next_due_at": AT + 90 * MINUTE}
    _insert(
        connection,
        "audiences",
        {**common, "id": 1, "key": names.audience, "state": "active", "members": MILLIONS},
        {**common, "id": 2, "key": names.paused, "state": "paused", "members": 1_234},
        {**common, "id": 3, "key": names.trait, "state": "active", "members": 9_999_999, "computation": "trait"},
        {**common, "id": 4, "key": names.retired, "state": "retired", "members": 0},
        {**common, "id": 5, "key": "orphan", "state": "active", "members": 7},
    )


def _runs(connection: Connection) -> None:
    counts = {
        "read": MILLIONS, "entered": 6_895_779, "exited": 3_104_221, "updated": 9_876_543, "unchanged": 123_457,
        "rejected": 1_048_576, "duplicates": 65_536, "sent": 5_432_109, "members_before": MILLIONS,
    }  # fmt: skip
    common = {**counts, "generation": AT, "definition_hash": "x", "kind": "incremental", "as_of": AT}
    _insert(
        connection,
        "runs",
        {**common, "id": 1201, "audience_id": 1, "kind": "initial", "state": "succeeded", "started_at": AT,
         "finished_at": AT + MINUTE},
        {**common, "id": 1202, "audience_id": 2, "state": "succeeded", "started_at": AT, "finished_at": AT + MINUTE},
        {**common, "id": 1203, "audience_id": 3, "state": "failed", "started_at": AT, "finished_at": AT + MINUTE,
         "reason": f"source shop: (1146) {OUTAGE}"},
        {**common, "id": 1204, "audience_id": 1, "state": "blocked", "started_at": AT + MINUTE, "finished_at": None,
         "reason": REASON},
        {**common, "id": 1205, "audience_id": 4, "kind": "retract", "state": "superseded", "started_at": AT,
         "finished_at": AT},
    )  # fmt: skip
    _insert(
        connection,
        "rejections",
        {"run_id": 1201, "position": 1, "reason": "null_key", "row": '{"company_id":"acme","user_id":null}'},
        {"run_id": 1201, "position": 2, "reason": "omitted_identifier", "profile_key": "u1",
         "row": json.dumps({"email": "e" * 40, "company_id": "c" * 40, "user_id": "u1"}, separators=(",", ":"))},
    )  # fmt: skip


def _people(connection: Connection, names: Names) -> None:
    identifiers = '{"company":{"groupId":"acme"},"user":{"email":"maximilian.von.hohenstein@kunden.example"}}'
    for person in (names.person, names.other):
        place = {"profile_key": person, "identifiers": identifiers}
        member = {"entered_run_id": 1201, "run_id": 1201}
        change = {"run_id": 1201, "kind": "entered"}
        outbox = {"generation": AT, "run_id": 1204, "kind": "entered"}
        _insert(
            connection,
            "memberships",
            {**place, **member, "audience_id": 1},
            {**place, **member, "audience_id": 3, "value": "12345678.25"},
        )
        _insert(connection, "changes", {**place, **change}, {**place, "run_id": 1203, "kind": "updated", "value": "1"})
        _insert(
            connection,
            "outbox",
            {**place, **outbox, "audience_id": 1, "value": "true"},
            {**place, **outbox, "audience_id": 2, "value": "false"},
            {**place, **outbox, "audience_id": 3, "value": "12345678.25", "dead_reason": REFUSAL},
        )
        traits = json.dumps(
            {names.audience: True, names.paused: False, names.trait: 12345678.25}, separators=(",", ":")
        )
        sent = {"run_ids": "[1201,1202,1203]", "traits": traits, "status": 200, "mapping": "Identify User"}
        _insert(
            connection,
            "deliveries",
            {"shard": shard_of(person), "profile_key": person, **sent, "accepted_at": AT,
             "idempotency_key": "5f1d7a84c3b2e96f0a1b2c3d4e5f6071"},
        )  # fmt: skip


def _events(connection: Connection, names: Names) -> None:
    _insert(connection, "settings", {"name": "identity", "value": "userId"})
    connection.execute(schema.settings.update().where(schema.settings.c.name == "event_position").values(value="3"))
    for position, dead in ((1, None), (2, REFUSAL)):
        _insert(
            connection,
            "events",
            {
                "profile_key": names.person, "position": position, "type": "track",
                "message_id": f"ajs-next-1795961109-7f9c2ba4-e88f-4c3e-{position}", "received_at": AT,
                "name": "Order Completed", "payload": '{"type":"track"}', "dead_reason": dead,
            },
        )  # fmt: skip
    _insert(
        connection,
        "event_counts",
        {"day": AT // 86_400_000, "reason": "no_matching_mapping", "type": "page", "count": MILLIONS, "last_at": AT,
         "last_message_id": "ajs-next-1795961109-7f9c2ba4-e88f-4c3e-9"},
    )  # fmt: skip


def _work(connection: Connection, names: Names, *, now_ms: int) -> None:
    change = make_open(names.person, trait=names.audience, generation=AT, run_id=1204)
    holder, until = "worker-1.eu-central-1.compute.internal:4177:9c21", now_ms + 600_000
    taken = "DELETE FROM outbox WHERE profile_key = :k AND audience_id = 1"
    connection.execute(sa.text(taken), {"k": names.person})
    (batch,) = batches.add(
        connection, [BatchContents.of([make_event(change)])], holder=holder, claim_until=until, now_ms=AT
    )
    batches.postpone(connection, batch, not_before=AT + MINUTE, error=OUTAGE)
    leases.acquire(connection, [1], holder=holder, now_ms=now_ms, expires_at=until, dead=set())
