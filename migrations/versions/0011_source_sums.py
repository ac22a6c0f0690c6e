"""Sums that a source gave for the rows of an audience: equal ones need not be read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("digests", sa.Column("source_sums", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("digests", "source_sums")
