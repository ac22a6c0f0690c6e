"""The final state `stale` of runs: not evaluated, because the newest data of the source was too old.

SQLite cannot change the constraints of a table, so there `runs` is made again, and every table that refers to it.
Their columns are taken as they are found. Without the state, such runs have failed: their reason says why.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NOT_FINAL = ("held", "running", "blocked", "applying")
FINAL_BEFORE = ("succeeded", "failed", "superseded")
FINAL_AFTER = (*FINAL_BEFORE, "stale")
REFERENCE = re.compile(r'REFERENCES (?:"runs"|runs\b)')


def _one_of(states: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({listed})"


def _constraints(final: tuple[str, ...]) -> dict[str, str]:
    """Return the constraints on the states of runs by their names."""
    return {
        "state_is_known": _one_of((*NOT_FINAL, *final)),
        "final_runs_have_finished": f"({_one_of(final)}) = (finished_at IS NOT NULL)",
    }


def _replace(before: dict[str, str], after: dict[str, str]) -> None:
    """Put constraints on `runs` in the place of others of the same names."""
    if op.get_bind().dialect.name == "sqlite":
        _remake(before, after)
        return
    for name, condition in after.items():
        op.drop_constraint(name, "runs", type_="check")
        op.create_check_constraint(name, "runs", condition)


def _remake(before: dict[str, str], after: dict[str, str]) -> None:
    """Make `runs` again with other constraints, keeping its rows, its indexes, its references and the views on it."""
    connection = op.get_bind()
    listed = connection.execute(sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    found = listed.all()
    tables = {row.name: row.sql for row in found if row.type == "table"}
    referring = [name for name, sql in tables.items() if REFERENCE.search(sql)]
    kept = [
        row for row in found if row.type == "view" or (row.type == "index" and row.tbl_name in {"runs", *referring})
    ]
    runs = tables["runs"]
    for name, condition in before.items():
        if condition not in runs:
            raise AssertionError(f"runs has another constraint: {runs}")
        runs = runs.replace(condition, after[name])
    for row in kept:
        op.execute(f"DROP {row.type} {row.name}")
    made = {"runs": runs}
    made |= {name: REFERENCE.sub("REFERENCES runs_new", tables[name]) for name in referring}
    for name, sql in made.items():
        connection.exec_driver_sql(_renamed(sql, name))
        connection.exec_driver_sql(f"INSERT INTO {name}_new SELECT * FROM {name}")  # noqa: S608 - our own names
    for name in reversed(made):  # first those that refer to `runs`
        connection.exec_driver_sql(f"DROP TABLE {name}")
    for name in made:  # references follow the new name
        connection.exec_driver_sql(f"ALTER TABLE {name}_new RENAME TO {name}")
    for row in kept:
        connection.exec_driver_sql(row.sql)


def _renamed(sql: str, table: str) -> str:
    """Return the statement that creates a table under a new name."""
    _, _, rest = sql.partition("(")
    return f"CREATE TABLE {table}_new ({rest}"


def upgrade() -> None:
    _replace(_constraints(FINAL_BEFORE), _constraints(FINAL_AFTER))


def downgrade() -> None:
    op.execute("UPDATE runs SET state = 'failed' WHERE state = 'stale'")
    _replace(_constraints(FINAL_AFTER), _constraints(FINAL_BEFORE))
