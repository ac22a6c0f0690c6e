"""What is wrong with a rejected row: the column, the problem and the remedy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rejections", sa.Column("detail", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("rejections", "detail")
