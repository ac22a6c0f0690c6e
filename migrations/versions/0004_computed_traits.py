"""Computed traits beside audiences: which of the two a key is, and views that say so."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}
ATTEMPTED = {
    "sqlite": """(
        SELECT json_extract(e.value, '$[1]') AS profile_key, json_extract(c.value, '$[0]') AS audience_id,
               json_extract(c.value, '$[1]') AS generation,
               t.tries, NULLIF(t.not_before, 0) AS not_before, t.error,
               row_number() OVER (PARTITION BY json_extract(e.value, '$[1]'), json_extract(c.value, '$[0]'),
                                  json_extract(c.value, '$[1]') ORDER BY t.tries DESC, t.id) AS place
        FROM attempts t, json_each(t.events) e, json_each(e.value, '$[4]') c)""",
    "postgresql": """(
        SELECT e ->> 1 AS profile_key, (c ->> 0)::bigint AS audience_id, (c ->> 1)::bigint AS generation,
               t.tries, NULLIF(t.not_before, 0) AS not_before, t.error,
               row_number() OVER (PARTITION BY e ->> 1, (c ->> 0)::bigint, (c ->> 1)::bigint
                                  ORDER BY t.tries DESC, t.id) AS place
        FROM attempts t, jsonb_array_elements(t.events::jsonb) e, jsonb_array_elements(e -> 4) c)""",
}

# A column in braces stands for its milliseconds since 1970 as ISO 8601 text in UTC.
VIEWS = {
    "current_members": """
        SELECT a.key AS audience, m.profile_key, m.value, m.identifiers, {r.as_of} AS since,
               m.entered_run_id AS run_id, m.generation{computation}
        FROM memberships m JOIN audiences a ON a.id = m.audience_id JOIN runs r ON r.id = m.entered_run_id
    """,
    "membership_changes": """
        SELECT {r.as_of} AS as_of, a.key AS audience, c.profile_key, c.kind, c.value, c.identifiers,
               c.run_id{computation}
        FROM changes c JOIN runs r ON r.id = c.run_id JOIN audiences a ON a.id = r.audience_id
    """,
    "sync_runs": """
        SELECT r.id, a.key AS audience, r.kind, r.state, {r.as_of} AS as_of, {r.started_at} AS started_at,
               {r.finished_at} AS finished_at, r.members_before, r.read, r.entered, r.exited, r.updated, r.unchanged,
               r.rejected, r.duplicates, r.resent, r.sent, r.definition_changed, r.reason,
               {r.approved_at} AS approved_at{computation}
        FROM runs r JOIN audiences a ON a.id = r.audience_id
    """,
    "open_deliveries": """
        SELECT a.key AS audience, o.profile_key, o.value,
               CASE WHEN o.dead_reason IS NOT NULL THEN 'dead'
                    WHEN t.tries > 0 THEN 'retrying'
                    WHEN a.state = 'paused' THEN 'paused'
                    ELSE 'waiting' END AS state,
               {r.started_at} AS since, COALESCE(t.tries, 0) AS tries, {t.not_before} AS next_try_at,
               COALESCE(o.dead_reason, t.error) AS reason, o.run_id, o.generation{computation}
        FROM outbox o JOIN audiences a ON a.id = o.audience_id JOIN runs r ON r.id = o.run_id
        LEFT JOIN {attempted} t ON t.profile_key = o.profile_key AND t.audience_id = o.audience_id
                               AND t.generation = o.generation AND t.place = 1
    """,
}


def _view(name: str, *, computation: str) -> str:
    """Return the query of a view in the SQL of the database, its last column the computation if one is given."""
    dialect = op.get_bind().dialect.name
    query = VIEWS[name].replace("{attempted}", ATTEMPTED[dialect]).replace("{computation}", computation)
    for column in ("r.as_of", "r.started_at", "r.finished_at", "r.approved_at", "t.not_before"):
        query = query.replace("{" + column + "}", ISO[dialect].replace("{}", column))
    return query


def upgrade() -> None:
    # Within the column: SQLite adds no constraint to a table that others refer to.
    op.execute(
        "ALTER TABLE audiences ADD COLUMN computation TEXT DEFAULT 'audience' NOT NULL"
        " CONSTRAINT computation_is_known CHECK (computation IN ('audience', 'trait'))"
    )
    # Under Postgres what depends on a view, and who may read it, stays; a new column can only be the last.
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for name in VIEWS:
        if is_sqlite:
            op.execute(f"DROP VIEW {name}")
        create = "CREATE VIEW" if is_sqlite else "CREATE OR REPLACE VIEW"
        op.get_bind().exec_driver_sql(f"{create} {name} AS {_view(name, computation=', a.computation')}")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    op.drop_column("audiences", "computation")
    for name in VIEWS:
        op.get_bind().exec_driver_sql(f"CREATE VIEW {name} AS {_view(name, computation='')}")
