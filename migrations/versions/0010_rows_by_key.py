"""Rows by profile key: no table has the shard of a profile any more, and an audience has one digest.

A member has the run that last wrote it in place of its generation. That run says what JSON is around bare identifiers;
those that are there stay whole. No digest is carried over: the first sync of each audience compares everybody.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from runpy import run_path
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# All that is put into statements are these names.
# ruff: noqa: S608
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLES = {  # their primary keys
    "memberships": ("audience_id", "profile_key"),
    "staged": ("run_id", "profile_key"),
    "changes": ("run_id", "profile_key"),
    "outbox": ("profile_key", "audience_id", "destination", "channel"),
    "user_identifiers": ("profile_key", "name", "value"),
    "events": ("profile_key", "position"),
}
FIRST = ("outbox", "user_identifiers", "events")  # their keys began with the shard
INDEXES = {
    "outbox_exits": ("outbox", "(value IN ('false', 'null') OR gives_up) AND dead_reason IS NULL"),
    "events_waiting": ("events", "dead_reason IS NULL"),
    "events_dead": ("events", "dead_reason IS NOT NULL"),
}
# The entries of a first sync are the members themselves; one of them is written down when it changes or leaves.
ALL_CHANGES = """
    SELECT run_id, profile_key, kind, identifiers, value FROM changes
    UNION ALL
    SELECT m.entered_run_id, m.profile_key, 'entered', m.identifiers, m.value
    FROM runs r JOIN memberships m ON m.audience_id = r.audience_id AND m.entered_run_id = r.id AND m.run_id = r.id
    WHERE r.kind = 'initial'
    AND r.as_of >= COALESCE((SELECT CAST(value AS BIGINT) FROM settings WHERE name = 'history_from'), 0)
    AND NOT EXISTS (SELECT 1 FROM changes c WHERE c.run_id = r.id AND c.profile_key = m.profile_key)
"""
RUN_OF = (
    "COALESCE((SELECT min(w.id) FROM runs w WHERE w.audience_id = memberships.audience_id"
    " AND w.generation = memberships.generation), entered_run_id)"
)
GENERATION_OF = "COALESCE((SELECT w.generation FROM runs w WHERE w.id = memberships.run_id), 0)"
WHOLE = (
    "CASE WHEN {0}.identifiers LIKE '%\"%' THEN {0}.identifiers"
    " ELSE replace({1}.identifiers, '\t', {0}.identifiers) END"
)
VIEWS_OF_VALUES = {"open_values": "open_deliveries", "batched_events": "open_events"}  # and what is made of each


def upgrade() -> None:
    bind = op.get_bind()
    newer = run_path(str(Path(__file__).parent / "0009_batches.py"))
    newer["_refuse_processes_at_work"](bind)
    for name in VIEWS_OF_VALUES:
        query = newer["VIEWS"][name]
        for sharded in ("{p.value[5]bigint} AS shard, ", "o.shard = v.shard AND ", "e.shard = v.shard AND ", "shard, "):
            query = query.replace(sharded, "")
        newer["VIEWS"][name] = query
    op.drop_table("staged_shards")
    op.drop_table("shards")
    op.drop_column("runs", "resend_from")
    op.add_column("runs", sa.Column("resent_to", KEY, nullable=True))
    op.add_column("runs", sa.Column("identifiers", sa.Text(), nullable=True))
    op.create_index("runs_generation", "runs", ["audience_id", "generation"])  # for `RUN_OF`
    if bind.dialect.name == "sqlite":
        _remake(bind, _without_shard, newer)
        _create_views_of_members(bind)
    else:
        _drop_columns(bind, newer)
    op.drop_index("runs_generation", "runs")
    op.create_table(
        "digests",
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("members", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("audience_id", "run_id"),
        sqlite_with_rowid=False,
    )


def _create_views_of_members(bind: sa.Connection, *, older: bool = False) -> None:
    """Make the views of members and of changes, in the form of this revision or of the one before."""
    if not older:
        op.execute(f"CREATE VIEW all_changes AS {ALL_CHANGES}")
    view = run_path(str(Path(__file__).parent / "0004_computed_traits.py"))["_view"]
    for name in ("current_members", "membership_changes"):
        query = view(name, computation=", a.computation")
        if not older:
            for old, new in (
                ("m.identifiers", WHOLE.format("m", "w") + " AS identifiers"),
                ("c.identifiers", WHOLE.format("c", "r") + " AS identifiers"),
                ("m.generation", "w.generation"),
                ("FROM memberships m", "FROM memberships m JOIN runs w ON w.id = m.run_id"),
                ("FROM changes", "FROM all_changes"),
            ):
                query = query.replace(old, new)
        if bind.dialect.name == "sqlite":
            op.execute(f"DROP VIEW IF EXISTS {name}")
        create = "CREATE VIEW" if bind.dialect.name == "sqlite" else "CREATE OR REPLACE VIEW"
        op.execute(sa.text(f"{create} {name} AS {query}".replace(":", "\\:")))


def _without_shard(sql: str) -> str:
    """Return the statement that makes a table or index without its column `shard`."""
    return re.sub(r"\bshard SMALLINT NOT NULL,\s*|\bshard, ", "", sql)


def _with_shard(sql: str) -> str:
    """Return the statement that makes a table or index with the column again."""
    sql = re.sub(r"(\s*)profile_key TEXT", r"\1shard SMALLINT NOT NULL, \1profile_key TEXT", sql, count=1)
    return re.sub(r"\((audience_id, |run_id, )?profile_key", r"(\1shard, profile_key", sql)


def _remake(bind: sa.Connection, changed: Any, views: dict[str, Any]) -> None:
    """Make SQLite's tables anew with copies of their rows, in the order of the new keys."""
    made = {
        (kind, name): (table, sql)
        for kind, name, table, sql in bind.exec_driver_sql(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        )
    }
    for kind, name in made:
        if kind == "view":
            op.execute(f"DROP VIEW {name}")
    for table, key in TABLES.items():
        columns = [name for _, name, *_ in bind.exec_driver_sql(f"PRAGMA table_info({table})")]
        to_shard = "shard" not in columns
        values = {name: name for name in columns if name != "shard"}
        create, order = changed(made["table", table][1]), ", ".join(key)
        if table == "memberships":
            old, new = ("run_id INTEGER", "generation BIGINT") if to_shard else ("generation BIGINT", "run_id INTEGER")
            create = re.sub(rf"\b{old}", new, create)
            del values[old.split()[0]]
            values[new.split()[0]] = GENERATION_OF if to_shard else RUN_OF
        if to_shard:
            values["shard"] = "shard_of(profile_key)"
            order = order.replace("profile_key", "shard_of(profile_key), profile_key")
        op.execute(re.sub(rf'(CREATE TABLE )"?{table}"?', rf"\1{table}_new", create, count=1))
        names, found = ", ".join(values), ", ".join(values.values())
        op.execute(f"INSERT INTO {table}_new ({names}) SELECT {found} FROM {table} ORDER BY {order}")
        op.execute(f"DROP TABLE {table}")
        op.execute(f"ALTER TABLE {table}_new RENAME TO {table}")
    for (kind, _), (table, sql) in made.items():
        if kind == "index" and table in TABLES:
            op.execute(changed(sql))
    for (kind, name), (_, sql) in made.items():
        if kind == "view" and name not in {"all_changes", "current_members", "membership_changes"}:
            is_new = name in VIEWS_OF_VALUES
            bind.exec_driver_sql(f"CREATE VIEW {name} AS {views['_view'](name, 'sqlite')}" if is_new else sql)


def _drop_columns(bind: sa.Connection, views: dict[str, Any]) -> None:
    """Drop the column, and with it the keys and indexes that have it, which are made anew."""
    _drop_views(bind)
    for table, key in TABLES.items():
        op.drop_column(table, "shard")
        op.create_primary_key(f"{table}_pkey", table, list(key))
    _create_indexes()
    _create_views(bind, views)
    op.add_column("memberships", sa.Column("run_id", sa.Integer(), nullable=True))
    op.execute(f"UPDATE memberships SET run_id = {RUN_OF}")
    op.alter_column("memberships", "run_id", nullable=False)
    _create_views_of_members(bind)
    op.drop_column("memberships", "generation")


def _drop_views(bind: sa.Connection) -> None:
    """Drop the views that have a shard; the views made of them stay, empty, and so do their readers."""
    for inner, outer in VIEWS_OF_VALUES.items():
        columns = bind.execute(
            sa.text(
                "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), quote_ident(c.collname)"
                " FROM pg_attribute a"
                " LEFT JOIN pg_collation c ON c.oid = a.attcollation AND c.collname <> 'default'"
                " WHERE a.attrelid = CAST(:view AS regclass) AND a.attnum > 0 ORDER BY a.attnum"
            ),
            {"view": outer},
        )
        nothing = ", ".join(
            f"CAST(NULL AS {kind}){'' if collation is None else ' COLLATE ' + collation} AS {name}"
            for name, kind, collation in columns
        )
        op.execute(f"CREATE OR REPLACE VIEW {outer} AS SELECT {nothing}")
        op.execute(f"DROP VIEW {inner}")


def _create_views(bind: sa.Connection, views: dict[str, Any]) -> None:
    for inner, outer in VIEWS_OF_VALUES.items():
        bind.exec_driver_sql(f"CREATE VIEW {inner} AS {views['_view'](inner, 'postgresql')}")
        bind.exec_driver_sql(f"CREATE OR REPLACE VIEW {outer} AS {views['_view'](outer, 'postgresql')}")


def _create_indexes(*more: str) -> None:
    for name, (table, where) in INDEXES.items():
        columns = [*more, *TABLES[table]]
        op.create_index(name, table, columns, postgresql_where=sa.text(where))


def downgrade() -> None:
    bind = op.get_bind()
    views = run_path(str(Path(__file__).parent / "0009_batches.py"))
    op.drop_table("digests")
    op.execute(
        "INSERT INTO changes (run_id, profile_key, kind, identifiers, value)"
        " SELECT run_id, profile_key, kind, identifiers, value FROM all_changes a"
        " WHERE NOT EXISTS (SELECT 1 FROM changes c WHERE c.run_id = a.run_id AND c.profile_key = a.profile_key)"
    )
    for table in ("memberships", "staged", "changes"):
        op.execute(
            f"UPDATE {table} SET identifiers = replace(w.identifiers, '\t', {table}.identifiers) FROM runs w"
            f" WHERE w.id = {table}.run_id AND {table}.identifiers NOT LIKE '%\"%'"
        )
    _open_batches(bind)
    if bind.dialect.name == "sqlite":
        driver: Any = bind.connection.driver_connection
        driver.create_function("shard_of", 1, _shard_of, deterministic=True)
        _remake(bind, _with_shard, views)
        _create_views_of_members(bind, older=True)
    else:
        _add_columns(bind, views)
    op.drop_column("runs", "resent_to")
    op.drop_column("runs", "identifiers")
    op.add_column("runs", sa.Column("resend_from", sa.Integer(), nullable=True))
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
        "staged_shards",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "shard"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO staged_shards (run_id, shard) SELECT DISTINCT run_id, shard FROM staged")


def _shard_of(key: str) -> int:
    return crc32(key.encode()) & 1023


def _open_batches(bind: sa.Connection) -> None:
    """Give each event of an open batch the shard of its profile, as the revisions before have it."""
    rows = bind.exec_driver_sql("SELECT id, events FROM batches WHERE status = 'open'").all()
    for number, text in rows:
        groups = json.loads(text)
        for _, _, people in groups:
            for person in people:
                person[5:] = [_shard_of(person[0])]
        made = json.dumps(groups, ensure_ascii=False, separators=(",", ":"))
        bind.execute(sa.text("UPDATE batches SET events = :e WHERE id = :i"), {"e": made, "i": number})


def _add_columns(bind: sa.Connection, views: dict[str, Any]) -> None:
    """Add the column, with the shard of each profile."""
    _drop_views(bind)
    op.add_column("memberships", sa.Column("generation", sa.BigInteger(), nullable=True))
    op.execute(f"UPDATE memberships SET generation = {GENERATION_OF}")
    op.alter_column("memberships", "generation", nullable=False)
    _create_views_of_members(bind, older=True)
    op.execute("DROP VIEW all_changes")
    op.drop_column("memberships", "run_id")
    for name in INDEXES:
        op.drop_index(name)
    op.execute(
        'CREATE TEMPORARY TABLE sharded (profile_key text COLLATE "C" PRIMARY KEY, shard smallint) ON COMMIT DROP'
    )
    for table in TABLES:
        keys = bind.exec_driver_sql(
            f"SELECT DISTINCT profile_key FROM {table} EXCEPT SELECT profile_key FROM sharded"
        ).scalars()
        for some in keys.partitions(10_000):
            rows = [{"k": key, "s": _shard_of(key)} for key in some]
            bind.execute(sa.text("INSERT INTO sharded VALUES (:k, :s)"), rows)
    for table, key in TABLES.items():
        op.drop_constraint(f"{table}_pkey", table)
        op.add_column(table, sa.Column("shard", sa.SmallInteger(), nullable=True))
        op.execute(f"UPDATE {table} t SET shard = s.shard FROM sharded s WHERE s.profile_key = t.profile_key")
        op.alter_column(table, "shard", nullable=False)
        columns = ["shard", *key] if table in FIRST else [key[0], "shard", *key[1:]]
        op.create_primary_key(f"{table}_pkey", table, columns)
    _create_indexes("shard")
    _create_views(bind, views)
