"""Which mapping made an event, and what happened; a value that several events carry is one open delivery."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}

# Where several attempts carry a value, the one that was tried most often says how it stands.
RANKED = "row_number() OVER (PARTITION BY {key}, {audience}, {generation} ORDER BY t.tries DESC, t.id)"

ATTEMPTED = {
    "sqlite": (
        "json_extract(e.value, '$[1]')",
        "json_extract(c.value, '$[0]')",
        "json_extract(c.value, '$[1]')",
        "attempts t, json_each(t.events) e, json_each(e.value, '$[4]') c",
    ),
    "postgresql": (
        "e ->> 1",
        "(c ->> 0)::bigint",
        "(c ->> 1)::bigint",
        "attempts t, jsonb_array_elements(t.events::jsonb) e, jsonb_array_elements(e -> 4) c",
    ),
}

OPEN = """
    SELECT a.key AS audience, o.profile_key, o.value,
           CASE WHEN o.dead_reason IS NOT NULL THEN 'dead'
                WHEN t.tries > 0 THEN 'retrying'
                WHEN a.state = 'paused' THEN 'paused'
                ELSE 'waiting' END AS state,
           {started_at} AS since, COALESCE(t.tries, 0) AS tries, {not_before} AS next_try_at,
           COALESCE(o.dead_reason, t.error) AS reason, o.run_id, o.generation
    FROM outbox o JOIN audiences a ON a.id = o.audience_id JOIN runs r ON r.id = o.run_id
    LEFT JOIN {attempted} t ON t.profile_key = o.profile_key AND t.audience_id = o.audience_id
                           AND t.generation = o.generation{first}
"""
SENT = (
    "SELECT {accepted_at} AS accepted_at, profile_key, traits, run_ids, status, idempotency_key{more} FROM deliveries"
)


def _replace(name: str, query: str) -> None:
    """Put a view in the place of one; under Postgres what depends on it, and who may read it, stays."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP VIEW {name}")
        op.get_bind().exec_driver_sql(f"CREATE VIEW {name} AS {query}")
    else:
        op.get_bind().exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")


def _open_deliveries(*, ranked: bool) -> None:
    dialect = op.get_bind().dialect.name
    key, audience, generation, tables = ATTEMPTED[dialect]
    rank = ", " + RANKED.format(key=key, audience=audience, generation=generation) + " AS place" if ranked else ""
    attempted = (
        f"(SELECT {key} AS profile_key, {audience} AS audience_id, {generation} AS generation, t.tries,"  # noqa: S608
        f" NULLIF(t.not_before, 0) AS not_before, t.error{rank} FROM {tables})"
    )
    iso = ISO[dialect].format
    query = OPEN.format(
        started_at=iso("r.started_at"),
        not_before=iso("t.not_before"),
        attempted=attempted,
        first=" AND t.place = 1" if ranked else "",
    )
    _replace("open_deliveries", query)


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("mapping", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("kind", sa.Text(), server_default="resent", nullable=False))
    accepted_at = ISO[op.get_bind().dialect.name].format("accepted_at")
    _replace("sent_deliveries", SENT.format(accepted_at=accepted_at, more=", mapping"))
    _open_deliveries(ranked=True)


def downgrade() -> None:
    _open_deliveries(ranked=False)
    op.execute("DROP VIEW sent_deliveries")
    accepted_at = ISO[op.get_bind().dialect.name].format("accepted_at")
    op.get_bind().exec_driver_sql(f"CREATE VIEW sent_deliveries AS {SENT.format(accepted_at=accepted_at, more='')}")
    op.drop_column("deliveries", "mapping")
    op.drop_column("outbox", "kind")
