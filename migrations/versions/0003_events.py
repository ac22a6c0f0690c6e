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

# An attempt says of each of its events, in the eighth place, which row of `events` it was made of.
POSITION = {"sqlite": "json_extract(e.value, '$[7][0]')", "postgresql": "(e -> 7 ->> 0)::bigint"}
EACH = {"sqlite": "json_each(t.events) e", "postgresql": "jsonb_array_elements(t.events::jsonb) e"}

# Where several attempts carry bodies of one event, the one that was tried most often says how it stands.
OPEN_EVENTS = """
    SELECT o.profile_key, o.message_id, o.type, o.name,
           CASE WHEN o.dead_reason IS NOT NULL THEN 'dead' WHEN t.tries > 0 THEN 'retrying' ELSE 'waiting' END AS state,
           {received_at} AS since, COALESCE(t.tries, 0) AS tries, {not_before} AS next_try_at,
           COALESCE(o.dead_reason, t.error) AS reason, o.position, o.payload
    FROM events o
    LEFT JOIN (
        SELECT {position} AS position, t.tries, NULLIF(t.not_before, 0) AS not_before, t.error,
               row_number() OVER (PARTITION BY {position} ORDER BY t.tries DESC, t.id) AS place
        FROM attempts t, {each} WHERE t.forwarded
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
    for name, state in (("events_waiting", "NULL"), ("events_dead", "NOT NULL")):
        where = sa.text(f"dead_reason IS {state}")
        keys = ["shard", "profile_key", "position"]
        op.create_index(name, "events", keys, sqlite_where=where, postgresql_where=where)
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
    _replace("sent_deliveries", SENT.format(accepted_at=iso("accepted_at"), more=", message_id"))
    _replace(
        "open_events",
        OPEN_EVENTS.format(
            position=POSITION[dialect],
            each=EACH[dialect],
            received_at=iso("o.received_at"),
            not_before=iso("t.not_before"),
        ),
    )
    _replace("unsent_events", UNSENT_EVENTS.format(day=DAY[dialect].format("day"), last_at=iso("last_at")))


def downgrade() -> None:
    for view in ("unsent_events", "open_events", "sent_deliveries"):
        op.execute(f"DROP VIEW {view}")
    accepted_at = ISO[op.get_bind().dialect.name].format("accepted_at")
    _replace("sent_deliveries", SENT.format(accepted_at=accepted_at, more=""))
    op.execute("DELETE FROM attempts WHERE forwarded")
    op.drop_column("attempts", "forwarded")
    op.drop_column("deliveries", "message_id")
    for table in ("event_counts", "message_ids", "events"):
        op.drop_table(table)
    op.execute("DELETE FROM settings WHERE name = 'event_position'")
