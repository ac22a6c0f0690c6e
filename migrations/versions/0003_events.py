"""Forwarded events: kept until Schematic has them, known for seven days, and counted where nothing is sent of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}
DAY = {"sqlite": "date({} * 86400, 'unixepoch')", "postgresql": "to_char(date '1970-01-01' + {}, 'YYYY-MM-DD')"}

# How an attempt says which rows its events were made of. Postgres reads it as json: a forwarded event may have a NUL in
# its text, which jsonb has no room for.
ATTEMPTED = {
    "sqlite": {
        "key": "json_extract(e.value, '$[1]')",
        "audience": "json_extract(c.value, '$[0]')",
        "generation": "json_extract(c.value, '$[1]')",
        "changes": "attempts t, json_each(t.events) e, json_each(e.value, '$[4]') c",
        "position": "json_extract(e.value, '$[7][0]')",
        "events": "attempts t, json_each(t.events) e",
    },
    "postgresql": {
        "key": "e ->> 1",
        "audience": "(c ->> 0)::bigint",
        "generation": "(c ->> 1)::bigint",
        "changes": "attempts t, json_array_elements(t.events::json) e, json_array_elements(e -> 4) c",
        "position": "(e -> 7 ->> 0)::bigint",
        "events": "attempts t, json_array_elements(t.events::json) e",
    },
}
OLDER = "attempts t, jsonb_array_elements(t.events::jsonb) e, jsonb_array_elements(e -> 4) c"

# Where several attempts carry a value, the one that was tried most often says how it stands.
OPEN_DELIVERIES = """
    SELECT a.key AS audience, o.profile_key, o.value,
           CASE WHEN o.dead_reason IS NOT NULL THEN 'dead'
                WHEN t.tries > 0 THEN 'retrying'
                WHEN a.state = 'paused' THEN 'paused'
                ELSE 'waiting' END AS state,
           {started_at} AS since, COALESCE(t.tries, 0) AS tries, {not_before} AS next_try_at,
           COALESCE(o.dead_reason, t.error) AS reason, o.run_id, o.generation
    FROM outbox o JOIN audiences a ON a.id = o.audience_id JOIN runs r ON r.id = o.run_id
    LEFT JOIN (
        SELECT {key} AS profile_key, {audience} AS audience_id, {generation} AS generation, t.tries,
               NULLIF(t.not_before, 0) AS not_before, t.error,
               row_number() OVER (PARTITION BY {key}, {audience}, {generation} ORDER BY t.tries DESC, t.id) AS place
        FROM {changes}{only_changes}
    ) t ON t.profile_key = o.profile_key AND t.audience_id = o.audience_id AND t.generation = o.generation
       AND t.place = 1
"""
OPEN_EVENTS = """
    SELECT o.profile_key, o.message_id, o.type, o.name,
           CASE WHEN o.dead_reason IS NOT NULL THEN 'dead' WHEN t.tries > 0 THEN 'retrying' ELSE 'waiting' END AS state,
           {received_at} AS since, COALESCE(t.tries, 0) AS tries, {not_before} AS next_try_at,
           COALESCE(o.dead_reason, t.error) AS reason, o.position, o.payload
    FROM events o
    LEFT JOIN (
        SELECT {position} AS position, t.tries, NULLIF(t.not_before, 0) AS not_before, t.error,
               row_number() OVER (PARTITION BY {position} ORDER BY t.tries DESC, t.id) AS place
        FROM {events} WHERE t.forwarded
    ) t ON t.position = o.position AND t.place = 1
"""
UNSENT_EVENTS = "SELECT {day} AS day, reason, type, count, last_message_id, {last_at} AS last_at FROM event_counts"
SENT = (
    "SELECT {accepted_at} AS accepted_at, profile_key, traits, run_ids, status, idempotency_key, mapping{more}"
    " FROM deliveries"
)


def _replace(name: str, query: str) -> None:
    """Make a view, in the place of an older one; under Postgres what depends on that, and who may read it, stays."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.get_bind().exec_driver_sql(f"CREATE VIEW {name} AS {query}")
    else:
        op.get_bind().exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")


def _open_deliveries(*, events_too: bool) -> None:
    dialect = op.get_bind().dialect.name
    words = dict(ATTEMPTED[dialect])
    if dialect == "postgresql" and not events_too:
        words["changes"] = OLDER
    iso = ISO[dialect].format
    _replace(
        "open_deliveries",
        OPEN_DELIVERIES.format(
            **words,
            only_changes=" WHERE NOT t.forwarded" if events_too else "",
            started_at=iso("r.started_at"),
            not_before=iso("t.not_before"),
        ),
    )


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.create_table(
        "events",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("message_id", KEY, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.Column("partly_sent", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "profile_key", "position"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "message_ids",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("message_id", KEY, nullable=False),
        sa.PrimaryKeyConstraint("day", "message_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "event_counts",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_message_id", KEY, nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "reason", "type"),
        sqlite_with_rowid=False,
    )
    op.add_column("deliveries", sa.Column("message_id", KEY, nullable=True))
    op.add_column("attempts", sa.Column("forwarded", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("INSERT INTO settings (name, value) VALUES ('event_position', '0')")
    iso = ISO[dialect].format
    _open_deliveries(events_too=True)
    _replace("sent_deliveries", SENT.format(accepted_at=iso("accepted_at"), more=", message_id"))
    _replace(
        "open_events",
        OPEN_EVENTS.format(**ATTEMPTED[dialect], received_at=iso("o.received_at"), not_before=iso("t.not_before")),
    )
    _replace("unsent_events", UNSENT_EVENTS.format(day=DAY[dialect].format("day"), last_at=iso("last_at")))


def downgrade() -> None:
    for view in ("unsent_events", "open_events", "sent_deliveries"):
        op.execute(f"DROP VIEW {view}")
    _open_deliveries(events_too=False)
    accepted_at = ISO[op.get_bind().dialect.name].format("accepted_at")
    _replace("sent_deliveries", SENT.format(accepted_at=accepted_at, more=""))
    op.execute("DELETE FROM attempts WHERE forwarded")
    op.drop_column("attempts", "forwarded")
    op.drop_column("deliveries", "message_id")
    for table in ("event_counts", "message_ids", "events"):
        op.drop_table(table)
    op.execute("DELETE FROM settings WHERE name = 'event_position'")
