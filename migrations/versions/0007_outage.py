"""Why and since when Schematic takes no events, and when it is tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outage",
        sa.Column("id", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("next_try_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("kind IN ('unreachable', 'key_refused', 'stopped')", name="kind_is_known"),
        sa.CheckConstraint("id = 1", name="there_is_one"),
        sqlite_with_rowid=False,
    )
    op.execute("DELETE FROM settings WHERE name = 'delivery_stopped'")  # the next delivery finds out again


def downgrade() -> None:
    op.drop_table("outage")
