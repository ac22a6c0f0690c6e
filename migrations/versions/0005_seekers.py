"""Processes that wait for shards to deliver, so that those which have them share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "seekers",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder"),
        sqlite_with_rowid=False,
    )
    op.execute("DELETE FROM leases WHERE kind = 'shards'")  # their numbers meant other shards


def downgrade() -> None:
    op.drop_table("seekers")
    op.execute("DELETE FROM leases WHERE kind = 'shards'")
