"""The state `held` of runs, and the audience that a held run waits for.

SQLite cannot change the constraint of a table, so there `runs` is made again, and `rejections`, which refers to it.
Their columns are taken as they are found.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BEFORE = ("running", "blocked", "applying", "succeeded", "failed", "superseded")
AFTER = ("held", *BEFORE)


def _one_of(states: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({listed})"


def _allow(states: tuple[str, ...], *, instead_of: tuple[str, ...]) -> None:
    """Change the constraint on the states of runs."""
    if op.get_bind().dialect.name == "sqlite":
        _remake(_one_of(instead_of), _one_of(states))
    else:
        op.drop_constraint("state_is_known", "runs", type_="check")
        op.create_check_constraint("state_is_known", "runs", _one_of(states))


def _remake(old: str, new: str) -> None:
    """Make `runs` again with another constraint, keeping its rows, its indexes and the views on it."""
    connection = op.get_bind()
    kept = connection.execute(
        sa.text(
            "SELECT type, name, sql FROM sqlite_master WHERE type = 'view'"
            " OR (type = 'index' AND tbl_name IN ('runs', 'rejections') AND sql IS NOT NULL)"
        )
    ).all()
    rows = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name IN ('runs', 'rejections')")
    )
    tables: dict[str, str] = {row.name: row.sql for row in rows}
    if old not in tables["runs"]:
        raise AssertionError(f"runs has another constraint: {tables['runs']}")
    for kind, name, _ in kept:
        op.execute(f"DROP {kind} {name}")
    of_rejections = re.sub(r'REFERENCES "?runs"?', "REFERENCES runs_new", tables["rejections"])
    for name, sql in (("runs", tables["runs"].replace(old, new)), ("rejections", of_rejections)):
        connection.exec_driver_sql(_renamed(sql, name))
        connection.exec_driver_sql(f"INSERT INTO {name}_new SELECT * FROM {name}")  # noqa: S608 - our own names
    for name in ("rejections", "runs"):  # first the one that refers to the other
        connection.exec_driver_sql(f"DROP TABLE {name}")
    for name in ("runs", "rejections"):  # references follow the new name
        connection.exec_driver_sql(f"ALTER TABLE {name}_new RENAME TO {name}")
    for _, _, sql in kept:
        connection.exec_driver_sql(sql)


def _renamed(sql: str, table: str) -> str:
    """Return the statement that creates a table under a new name."""
    _, _, rest = sql.partition("(")
    return f"CREATE TABLE {table}_new ({rest}"


def upgrade() -> None:
    op.add_column("runs", sa.Column("held_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
    _allow(AFTER, instead_of=BEFORE)


def downgrade() -> None:
    op.execute("DELETE FROM runs WHERE state = 'held'")
    _allow(BEFORE, instead_of=AFTER)
    op.drop_column("runs", "held_by")
