"""Which mapping made an event, beside every delivery."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', accepted_at / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp(accepted_at / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}


def _view(columns: str) -> None:
    op.execute("DROP VIEW sent_deliveries")
    iso = ISO[op.get_bind().dialect.name]
    view = f"CREATE VIEW sent_deliveries AS SELECT {iso} AS accepted_at, {columns} FROM deliveries"  # noqa: S608 - ours
    op.get_bind().exec_driver_sql(view)


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("mapping", sa.Text(), nullable=True))
    _view("profile_key, traits, run_ids, status, idempotency_key, mapping")


def downgrade() -> None:
    _view("profile_key, traits, run_ids, status, idempotency_key")
    op.drop_column("deliveries", "mapping")
