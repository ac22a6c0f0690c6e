"""Several destinations: events and the outage belong to one, and subscriptions say which get messages about changes.

Downwards, what waits for other destinations is dropped: older versions would send it to Schematic.
"""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# All that is put into statements are these names.
# ruff: noqa: S608
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INDEXES = {"events_waiting": "dead_reason IS NULL", "events_dead": "dead_reason IS NOT NULL"}
COLUMNS = "profile_key, position, message_id, type, name, payload, received_at, dead_reason, accepted"
# The views for people stay about Schematic; `batched_events` alone has the destination.
ONLY_SCHEMATIC = {
    "open_events": (("FROM events", "FROM events WHERE destination = 'schematic'"),
                    ("FROM batched_events", "FROM batched_events WHERE destination = 'schematic'")),
    "sent_deliveries": (("b.status <> 'open'", "b.status <> 'open' AND b.destination = 'schematic'"),),
    "batched_events": (
        ("PARTITION BY", "PARTITION BY b.destination, {p.value[0]key},"),
        ("e.profile_key = v.profile_key", "e.destination = v.destination AND e.profile_key = v.profile_key"),
        ("b.tries,\n", "b.tries, b.destination,\n"),
        ("tries, not_before, error\n        FROM (", "tries, not_before, error, destination\n        FROM ("),
    ),
}  # fmt: skip
SHARDED = ("{p.value[5]bigint} AS shard, ", "e.shard = v.shard AND ", "shard, ")


def upgrade() -> None:
    bind = op.get_bind()
    older = run_path(str(Path(__file__).parent / "0009_batches.py"))
    older["_refuse_processes_at_work"](bind)
    _drop_views(bind)
    _remake_events(bind, with_destination=True)
    _create_views(bind, changed=True)
    _remake_outage(with_destination=True)
    op.create_table(
        "subscriptions",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("with_members", sa.Boolean(), nullable=False),
        sa.Column("members_after", KEY, nullable=True),
        sa.PrimaryKeyConstraint("destination", "audience_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    bind = op.get_bind()
    op.drop_table("subscriptions")
    op.execute("DELETE FROM batches WHERE destination <> 'schematic'")
    op.execute("DELETE FROM settings WHERE name LIKE 'take:%' OR name LIKE 'request_at_us:%'")
    _drop_views(bind)
    _remake_events(bind, with_destination=False)
    _create_views(bind, changed=False)
    _remake_outage(with_destination=False)


def _drop_views(bind: sa.Connection) -> None:
    """Drop the views that are made anew, under SQLite; under Postgres they are replaced, and keep their readers."""
    for name in ("open_events", "batched_events", "sent_deliveries"):
        if bind.dialect.name == "sqlite":
            op.execute(f"DROP VIEW {name}")
    if bind.dialect.name != "sqlite":
        _replace_open_events_by_nothing(bind)
        op.execute("DROP VIEW batched_events")


def _replace_open_events_by_nothing(bind: sa.Connection) -> None:
    """Make `open_events` a view of nothing with the same columns, so that what it is made of can be dropped."""
    columns = bind.exec_driver_sql(
        "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), quote_ident(c.collname)"
        " FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation AND c.collname <> 'default'"
        " WHERE a.attrelid = CAST('open_events' AS regclass) AND a.attnum > 0 ORDER BY a.attnum"
    )
    nothing = ", ".join(
        f"CAST(NULL AS {kind}){'' if collation is None else ' COLLATE ' + collation} AS {name}"
        for name, kind, collation in columns
    )
    bind.exec_driver_sql(f"CREATE OR REPLACE VIEW open_events AS SELECT {nothing}")


def _create_views(bind: sa.Connection, *, changed: bool) -> None:
    older = run_path(str(Path(__file__).parent / "0009_batches.py"))
    dialect = bind.dialect.name
    for name in ("batched_events", "open_events", "sent_deliveries"):
        query = older["VIEWS"][name]
        for sharded in SHARDED:
            query = query.replace(sharded, "")
        for before, after in ONLY_SCHEMATIC[name] if changed else ():
            query = query.replace(before, after)
        older["VIEWS"][name] = query
        create = "CREATE VIEW" if dialect == "sqlite" else "CREATE OR REPLACE VIEW"
        bind.exec_driver_sql(f"{create} {name} AS {older['_view'](name, dialect)}")


def _remake_events(bind: sa.Connection, *, with_destination: bool) -> None:
    """Make the table anew with the destination first in its key, or without it."""
    if bind.dialect.name != "sqlite":
        _alter_events(with_destination=with_destination)
        return
    destination = [sa.Column("destination", sa.Text(), server_default="schematic", nullable=False)]
    key = ["profile_key", "position"]
    op.create_table(
        "events_new",
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("message_id", KEY, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.Column("accepted", sa.Text(), nullable=True),
        *(destination if with_destination else []),
        sa.PrimaryKeyConstraint(*(["destination"] if with_destination else []), *key),
        sqlite_with_rowid=False,
    )
    only = "" if with_destination else " WHERE destination = 'schematic'"
    op.execute(f"INSERT INTO events_new ({COLUMNS}) SELECT {COLUMNS} FROM events{only} ORDER BY profile_key, position")
    op.drop_table("events")
    op.rename_table("events_new", "events")
    _create_indexes(with_destination=with_destination)


def _alter_events(*, with_destination: bool) -> None:
    for name in INDEXES:
        op.drop_index(name)
    op.drop_constraint("events_pkey", "events")
    if with_destination:
        op.add_column("events", sa.Column("destination", sa.Text(), server_default="schematic", nullable=False))
    else:
        op.execute("DELETE FROM events WHERE destination <> 'schematic'")
        op.drop_column("events", "destination")
    first = ["destination"] if with_destination else []
    op.create_primary_key("events_pkey", "events", [*first, "profile_key", "position"])
    _create_indexes(with_destination=with_destination)


def _create_indexes(*, with_destination: bool) -> None:
    columns = [*(["destination"] if with_destination else []), "profile_key", "position"]
    for name, where in INDEXES.items():
        op.create_index(name, "events", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _remake_outage(*, with_destination: bool) -> None:
    """Make the table of the outage anew: a row for each destination, or one at most."""
    destination = sa.Column("destination", sa.Text(), server_default="schematic", nullable=False)
    one = sa.CheckConstraint("id = 1", name="there_is_one")
    op.create_table(
        "outage_new",
        destination if with_destination else sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("next_try_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("kind IN ('unreachable', 'key_refused', 'stopped')", name="kind_is_known"),
        *([] if with_destination else [one]),
        sa.PrimaryKeyConstraint("destination" if with_destination else "id"),
        sqlite_with_rowid=False,
    )
    columns = "kind, began_at, since, answer, next_try_at"
    first, value = ("destination", "'schematic'") if with_destination else ("id", "1")
    only = "" if with_destination else " WHERE destination = 'schematic'"
    op.execute(f"INSERT INTO outage_new ({first}, {columns}) SELECT {value}, {columns} FROM outage{only}")
    op.drop_table("outage")
    op.rename_table("outage_new", "outage")
