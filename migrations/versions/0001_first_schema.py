"""The first schema: audiences and their runs, memberships by shard, the outbox, and the views that people query."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# A column in braces stands for its milliseconds since 1970 as ISO 8601 text in UTC.
VIEWS = {
    "current_members": """
        SELECT a.key AS audience, m.profile_key, m.value, m.identifiers, {r.as_of} AS since,
               m.entered_run_id AS run_id, m.generation
        FROM memberships m JOIN audiences a ON a.id = m.audience_id JOIN runs r ON r.id = m.entered_run_id
    """,
    "membership_changes": """
        SELECT {r.as_of} AS as_of, a.key AS audience, c.profile_key, c.kind, c.value, c.identifiers, c.run_id
        FROM changes c JOIN runs r ON r.id = c.run_id JOIN audiences a ON a.id = r.audience_id
    """,
    "sync_runs": """
        SELECT r.id, a.key AS audience, r.kind, r.state, {r.as_of} AS as_of, {r.started_at} AS started_at,
               {r.finished_at} AS finished_at, r.members_before, r.read, r.entered, r.exited, r.updated, r.unchanged,
               r.rejected, r.duplicates, r.resent, r.sent, r.definition_changed, r.reason,
               {r.approved_at} AS approved_at
        FROM runs r JOIN audiences a ON a.id = r.audience_id
    """,
    "open_deliveries": """
        SELECT a.key AS audience, o.profile_key, o.value,
               CASE WHEN o.dead_reason IS NOT NULL THEN 'dead'
                    WHEN t.tries > 0 THEN 'retrying'
                    WHEN a.state = 'paused' THEN 'paused'
                    ELSE 'waiting' END AS state,
               {r.started_at} AS since, COALESCE(t.tries, 0) AS tries, {t.not_before} AS next_try_at,
               COALESCE(o.dead_reason, t.error) AS reason, o.run_id, o.generation
        FROM outbox o JOIN audiences a ON a.id = o.audience_id JOIN runs r ON r.id = o.run_id
        LEFT JOIN {attempted} t ON t.profile_key = o.profile_key AND t.audience_id = o.audience_id
                               AND t.generation = o.generation
    """,
    "sent_deliveries": """
        SELECT {accepted_at} AS accepted_at, profile_key, traits, run_ids, status, idempotency_key FROM deliveries
    """,
}

ATTEMPTED = {
    "sqlite": """(
        SELECT json_extract(e.value, '$[1]') AS profile_key, json_extract(c.value, '$[0]') AS audience_id,
               json_extract(c.value, '$[1]') AS generation,
               t.tries, NULLIF(t.not_before, 0) AS not_before, t.error
        FROM attempts t, json_each(t.events) e, json_each(e.value, '$[4]') c)""",
    "postgresql": """(
        SELECT e ->> 1 AS profile_key, (c ->> 0)::bigint AS audience_id, (c ->> 1)::bigint AS generation,
               t.tries, NULLIF(t.not_before, 0) AS not_before, t.error
        FROM attempts t, jsonb_array_elements(t.events::jsonb) e, jsonb_array_elements(e -> 4) c)""",
}

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}


def create_views(dialect: str) -> None:
    """Create every view in the SQL of one database."""
    for name, query in VIEWS.items():
        statement = query.replace("{attempted}", ATTEMPTED[dialect])
        for column in ("r.as_of", "r.started_at", "r.finished_at", "r.approved_at", "t.not_before", "accepted_at"):
            statement = statement.replace("{" + column + "}", ISO[dialect].replace("{}", column))
        op.get_bind().exec_driver_sql(f"CREATE VIEW {name} AS {statement}")


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", ID, nullable=False),
        sa.Column("low", sa.SmallInteger(), nullable=False),
        sa.Column("high", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audiences",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("definition_hash", sa.Text(), nullable=True),
        sa.Column("members", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("applied_as_of", sa.BigInteger(), nullable=True),
        sa.Column("next_due_at", sa.BigInteger(), nullable=True),
        sa.Column("declared_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'paused', 'retired')", name="state_is_known"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "changes",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("identifiers", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "shard", "profile_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("traits", sa.Text(), nullable=False),
        sa.Column("run_ids", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "profile_key", "idempotency_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('audience', 'shards')", name="kind_is_known"),
        sa.PrimaryKeyConstraint("kind", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "memberships",
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("identifiers", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("entered_run_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("audience_id", "shard", "profile_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outbox",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("identifiers", sa.Text(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("shard", "profile_key", "audience_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "shards",
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("audience_id", "shard"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "staged",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("identifiers", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "shard", "profile_key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "staged_shards",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "shard"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("audience_id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("definition_hash", sa.Text(), nullable=False),
        sa.Column("definition_changed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("members_before", sa.BigInteger(), nullable=False),
        sa.Column("read", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("entered", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("exited", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unchanged", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("duplicates", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("resent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("resend_from", sa.Integer(), nullable=True),
        sa.Column("sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("send_updates", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("partial", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("approved_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'superseded')) = (finished_at IS NOT NULL)",
            name="final_runs_have_finished",
        ),
        sa.CheckConstraint("kind IN ('initial', 'incremental', 'resync', 'retract')", name="kind_is_known"),
        sa.CheckConstraint(
            "state IN ('running', 'blocked', 'applying', 'succeeded', 'failed', 'superseded')", name="state_is_known"
        ),
        sa.ForeignKeyConstraint(
            ["audience_id"],
            ["audiences.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_runs_audience_id"), "runs", ["audience_id"], unique=False)
    op.create_table(
        "rejections",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("profile_key", KEY, nullable=True),
        sa.Column("row", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run_id", "position"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO settings (name, value) VALUES ('generation', '0'), ('request_at_us', '0')")
    create_views(op.get_bind().dialect.name)


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"DROP VIEW {view}")
    op.drop_table("rejections")
    op.drop_index(op.f("ix_runs_audience_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_table("staged_shards")
    op.drop_table("staged")
    op.drop_table("shards")
    op.drop_table("settings")
    op.drop_table("outbox")
    op.drop_table("memberships")
    op.drop_table("leases")
    op.drop_table("deliveries")
    op.drop_table("changes")
    op.drop_table("audiences")
    op.drop_table("attempts")
