"""Batches: one row is a claim, an attempt and a record of what Schematic accepted, of up to a hundred events.

Batches under way become open batches word for word, under their keys, and leave `outbox` and `events`. Rows of
`deliveries` stay until their retention is over.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from runpy import run_path
from typing import Any

import sqlalchemy as sa
from alembic import op

from audience_sync.errors import LeaseHeld

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

ISO = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "postgresql": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}

# An open batch has groups of events: [what each carries, mappings, [[profile, idempotency key, body, identifiers,
# forwarded event, shard], …]]; an accepted one [traits, run ids, mappings, [[profile, idempotency key, messageId], …]].
EACH_OPEN = {
    "sqlite": "batches b, json_each(b.events) g, json_each(g.value, '$[2]') p",
    "postgresql": "batches b, jsonb_array_elements(b.events::jsonb) g(value),"
    " jsonb_array_elements(g.value -> 2) p(value)",
}
EACH_CARRIED = {
    "sqlite": "json_each(g.value, '$[0]') c",
    "postgresql": "jsonb_array_elements(g.value -> 0) c(value)",
}
EACH_ACCEPTED = {
    "sqlite": "batches b, json_each(b.events) g, json_each(g.value, '$[3]') p",
    "postgresql": "batches b, jsonb_array_elements(b.events::jsonb) g(value),"
    " jsonb_array_elements(g.value -> 3) p(value)",
}

VIEWS = {
    # Where several batches carry one value, the one that was tried most often says how it stands.
    "shared_identifiers": """
        SELECT name, value, count(*) AS profiles FROM user_identifiers GROUP BY name, value HAVING count(*) > 1
    """,
    "open_values": """
        SELECT shard, profile_key, audience_id, generation, run_id, value, tries, not_before, error
        FROM (
            SELECT {p.value[5]bigint} AS shard, {p.value[0]key} AS profile_key,
                   {c.value[0]integer} AS audience_id,
                   {c.value[1]bigint} AS generation, {c.value[2]integer} AS run_id, {c.value[4]} AS value,
                   b.tries, NULLIF(b.not_before, 0) AS not_before, b.error,
                   row_number() OVER (PARTITION BY {p.value[0]key}, {c.value[0]integer}, {c.value[1]bigint}
                                      ORDER BY b.tries DESC, b.id) AS place
            FROM {each_open}, {each_carried} WHERE b.status = 'open' AND NOT b.forwarded
        ) v WHERE place = 1 AND NOT EXISTS (
            SELECT 1 FROM outbox o WHERE o.shard = v.shard AND o.profile_key = v.profile_key
            AND o.audience_id = v.audience_id
            AND o.generation = v.generation)
    """,
    "batched_events": """
        SELECT shard, profile_key, position, message_id, type, name, payload, received_at, tries, not_before, error
        FROM (
            SELECT {p.value[5]bigint} AS shard, {p.value[0]key} AS profile_key, {p.value[4][0]bigint} AS position,
                   {p.value[4][1]key} AS message_id, {p.value[4][2]} AS type, {p.value[4][5]} AS name,
                   {p.value[4][3]} AS payload, {p.value[4][6]bigint} AS received_at, b.tries,
                   NULLIF(b.not_before, 0) AS not_before, b.error,
                   row_number() OVER (PARTITION BY {p.value[4][0]bigint} ORDER BY b.tries DESC, b.id) AS place
            FROM {each_open} WHERE b.status = 'open' AND b.forwarded
        ) v WHERE place = 1 AND NOT EXISTS (
            SELECT 1 FROM events e WHERE e.shard = v.shard AND e.profile_key = v.profile_key
            AND e.message_id = v.message_id)
    """,
    "open_deliveries": """
        SELECT a.key AS audience, o.profile_key, o.value, o.state, {r.started_at} AS since, o.tries,
               {o.not_before} AS next_try_at, o.reason, o.run_id, o.generation, a.computation
        FROM (
            SELECT o.profile_key, o.audience_id, o.value, o.run_id, o.generation, 0 AS tries,
                   CAST(NULL AS BIGINT) AS not_before, o.dead_reason AS reason,
                   CASE WHEN o.dead_reason IS NOT NULL THEN 'dead' WHEN a.state = 'paused' THEN 'paused'
                        ELSE 'waiting' END AS state
            FROM outbox o JOIN audiences a ON a.id = o.audience_id
            UNION ALL
            SELECT profile_key, audience_id, value, run_id, generation, tries, not_before, error,
                   CASE WHEN tries > 0 THEN 'retrying' ELSE 'waiting' END
            FROM open_values
        ) o JOIN audiences a ON a.id = o.audience_id JOIN runs r ON r.id = o.run_id
    """,
    "open_events": """
        SELECT profile_key, message_id, type, name, state, {received_at} AS since, tries, {not_before} AS next_try_at,
               reason, position, payload
        FROM (
            SELECT profile_key, message_id, type, name, received_at, 0 AS tries, CAST(NULL AS BIGINT) AS not_before,
                   dead_reason AS reason, position, payload,
                   CASE WHEN dead_reason IS NOT NULL THEN 'dead' ELSE 'waiting' END AS state
            FROM events
            UNION ALL
            SELECT profile_key, message_id, type, name, received_at, tries, not_before, error, position, payload,
                   CASE WHEN tries > 0 THEN 'retrying' ELSE 'waiting' END
            FROM batched_events
        ) o
    """,
    "sent_deliveries": """
        SELECT {b.accepted_at} AS accepted_at, {p.value[0]key} AS profile_key, {g.value[0]} AS traits,
               {g.value[1]} AS run_ids, b.http_status AS status, {p.value[1]} AS idempotency_key,
               {g.value[2]} AS mapping, {p.value[2]key} AS message_id
        FROM {each_accepted} WHERE b.status <> 'open'
        UNION ALL
        SELECT {accepted_at}, profile_key, traits, run_ids, status, idempotency_key, mapping, message_id FROM deliveries
    """,
}
TIMES = ("r.started_at", "o.not_before", "received_at", "not_before", "b.accepted_at", "accepted_at")


def _view(name: str, dialect: str) -> str:
    """Return the query of a view in the SQL of one database."""
    query = VIEWS[name]
    for each, texts in (("open", EACH_OPEN), ("carried", EACH_CARRIED), ("accepted", EACH_ACCEPTED)):
        query = query.replace(f"{{each_{each}}}", texts[dialect])
    for column in TIMES:
        query = query.replace(f"{{{column}}}", ISO[dialect].replace("{}", column))
    while "{" in query:  # a place in a JSON array: {p.value[4][0]bigint}
        start, end = query.index("{"), query.index("}")
        column, _, path = query[start + 1 : end].partition("[")
        steps, _, kind = path.rpartition("]")
        places = steps.split("][")
        if dialect == "sqlite":
            made = f"json_extract({column}, '$[{']['.join(places)}]')"
        else:
            made = f"({column} {''.join(f'-> {place} ' for place in places[:-1])}->> {places[-1]})"
            made += {"": "", "key": ' COLLATE "C"'}.get(kind, f"::{kind}")
        query = query[:start] + made + query[end + 1 :]
    return query


def _create_views() -> None:
    """Make the views anew; under Postgres what depends on one that was there, and who may read it, stays."""
    dialect = op.get_bind().dialect.name
    for name in VIEWS:
        if dialect == "sqlite":
            op.execute(f"DROP VIEW IF EXISTS {name}")
        create = "CREATE VIEW" if dialect == "sqlite" else "CREATE OR REPLACE VIEW"
        op.get_bind().exec_driver_sql(f"{create} {name} AS {_view(name, dialect)}")


def _refuse_processes_at_work(bind: sa.Connection) -> None:
    """Refuse while a process of an older version delivers: it would go on with tables that are gone.

    Raises:
        LeaseHeld: one does.
    """
    clock = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
    is_sqlite = bind.dialect.name == "sqlite"
    now = int(time.monotonic() * 1000) if is_sqlite else bind.exec_driver_sql(clock).scalar_one()
    held = bind.execute(
        sa.text("SELECT holder FROM leases WHERE holder <> '' AND expires_at > :now AND expires_at <= :far LIMIT 1"),
        {"now": now, "far": now + 3_600_000},
    ).scalar()
    if held is not None:
        raise LeaseHeld(
            f"{held} is at work on this database, and nothing was migrated",
            hint="stop the service, then migrate; the claims of a process that was killed end within a minute",
        )


def upgrade() -> None:
    bind = op.get_bind()
    _refuse_processes_at_work(bind)
    op.create_table(
        "batches",
        sa.Column("id", ID, nullable=False),
        sa.Column("destination", sa.Text(), server_default="schematic", nullable=False),
        sa.Column("channel", sa.Text(), server_default="capture", nullable=False),
        sa.Column("forwarded", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("holder", sa.Text(), server_default="", nullable=False),
        sa.Column("claim", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("claim_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("origin", sa.BigInteger(), nullable=True),
        sa.Column("part", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("shards", KEY, nullable=False),
        sa.Column("exits", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.CheckConstraint("status IN ('open', 'accepted', 'applied')", name="status_is_known"),
        sa.CheckConstraint("(status = 'open') = (accepted_at IS NULL)", name="accepted_batches_have_an_instant"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("batches_shards", "batches", ["shards"])
    for name, column, where in (("open", "id", "status = 'open'"), ("cut", "origin", "origin IS NOT NULL")):
        condition = sa.text(where)
        op.create_index(f"batches_{name}", "batches", [column], sqlite_where=condition, postgresql_where=condition)
    _widen_outbox(bind)
    first = sa.text("(value IN ('false', 'null') OR gives_up) AND dead_reason IS NULL")
    op.create_index("outbox_exits", "outbox", [*KEY_OF_OUTBOX, *ROUTE], sqlite_where=first, postgresql_where=first)
    # Within the column: SQLite adds no constraint to a table that others refer to.
    op.execute(
        "ALTER TABLE audiences ADD COLUMN level TEXT DEFAULT 'user' NOT NULL"
        " CONSTRAINT level_is_known CHECK (level IN ('user', 'company'))"
    )
    op.create_table(
        "user_identifiers",
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("value", KEY, nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "profile_key", "name", "value"),
        sqlite_with_rowid=False,
    )
    op.create_index("user_identifiers_shared", "user_identifiers", ["name", "value"])
    _find_identifiers(bind)
    op.add_column("events", sa.Column("accepted", sa.Text(), nullable=True))
    _keep_accepted_bodies(bind)
    _move_attempts(bind)
    _create_views()
    op.drop_table("attempts")
    op.drop_table("seekers")
    op.drop_column("events", "partly_sent")
    op.drop_table("leases")  # nobody is at work
    op.create_table(
        "leases",
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("audience_id"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO settings (name, value) VALUES ('take', '0')")
    op.execute(
        "INSERT INTO settings (name, value)"
        " SELECT 'user_identifiers', '1' WHERE EXISTS (SELECT 1 FROM user_identifiers)"
    )


KEY_OF_OUTBOX = ("shard", "profile_key", "audience_id")
ROUTE = ("destination", "channel")


def _outbox() -> list[sa.Column[Any]]:
    """Return the columns of the outbox before this revision."""
    return [
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("profile_key", KEY, nullable=False),
        sa.Column("audience_id", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("identifiers", sa.Text(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("dead_reason", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), server_default="resent", nullable=False),
    ]


def _new_in_outbox() -> list[sa.Column[Any]]:
    return [
        sa.Column("gives_up", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("destination", sa.Text(), server_default="schematic", nullable=False),
        sa.Column("channel", sa.Text(), server_default="capture", nullable=False),
    ]


def _widen_outbox(bind: sa.Connection) -> None:
    """Give the outbox a destination and a channel, as parts of its key."""
    if bind.dialect.name == "sqlite":
        _remake_outbox([*_outbox(), *_new_in_outbox()], key=(*KEY_OF_OUTBOX, *ROUTE))
        return
    for column in _new_in_outbox():
        op.add_column("outbox", column)
    op.drop_constraint("outbox_pkey", "outbox")
    op.create_primary_key("outbox_pkey", "outbox", [*KEY_OF_OUTBOX, *ROUTE])


def _narrow_outbox(bind: sa.Connection) -> None:
    if bind.dialect.name == "sqlite":
        _remake_outbox(_outbox(), key=KEY_OF_OUTBOX)
        return
    op.drop_constraint("outbox_pkey", "outbox")
    for column in _new_in_outbox():
        op.drop_column("outbox", column.name)
    op.create_primary_key("outbox_pkey", "outbox", list(KEY_OF_OUTBOX))


def _remake_outbox(columns: list[sa.Column[Any]], *, key: tuple[str, ...]) -> None:
    """Make the outbox anew with a copy of its rows: SQLite changes no key."""
    op.execute("DROP VIEW IF EXISTS open_deliveries")
    op.create_table("outbox_new", *columns, sa.PrimaryKeyConstraint(*key), sqlite_with_rowid=False)
    kept = ", ".join(column.name for column in _outbox())
    op.execute(f"INSERT INTO outbox_new ({kept}) SELECT {kept} FROM outbox")
    op.execute("DROP TABLE outbox")
    op.execute("ALTER TABLE outbox_new RENAME TO outbox")


def _find_identifiers(bind: sa.Connection) -> None:
    """Keep the user identifiers of members and of the history: Schematic may have been sent all of them."""
    each = "json_each(m.identifiers, '$.user') i"
    if bind.dialect.name != "sqlite":
        each = "jsonb_each_text(m.identifiers::jsonb -> 'user') i(key, value)"
    for table in ("memberships", "changes", "outbox"):
        bind.exec_driver_sql(
            "INSERT INTO user_identifiers (shard, profile_key, name, value, sent)"
            f" SELECT DISTINCT m.shard, m.profile_key, i.key, i.value, 1 = 1 FROM {table} m, {each}"
            " WHERE true ON CONFLICT DO NOTHING"
        )


def _keep_accepted_bodies(bind: sa.Connection) -> None:
    """Give events that were sent in part the keys of the bodies that Schematic has."""
    rows = bind.execute(
        sa.text(
            "SELECT e.shard, e.profile_key, e.position, d.idempotency_key FROM events e JOIN deliveries d"
            " ON d.shard = e.shard AND d.profile_key = e.profile_key AND d.message_id = e.message_id"
            " WHERE e.partly_sent ORDER BY d.idempotency_key"
        )
    ).all()
    accepted: dict[tuple[int, str, int], list[str]] = defaultdict(list)
    for shard, profile_key, position, key in rows:
        accepted[shard, profile_key, position].append(key)
    for (shard, profile_key, position), keys in accepted.items():
        bind.execute(
            sa.text("UPDATE events SET accepted = :keys WHERE shard = :s AND profile_key = :k AND position = :p"),
            {"keys": json.dumps(keys), "s": shard, "k": profile_key, "p": position},
        )


def _move_attempts(bind: sa.Connection) -> None:
    """Make open batches of what is under way, without the rows that it was made of; newer and dead rows stay.

    Batches with a common profile are parts of one, in the order of their ids.
    """
    attempts = (
        bind.execute(
            sa.text("SELECT id, events, created_at, tries, not_before, error, forwarded FROM attempts ORDER BY id")
        )
        .mappings()
        .all()
    )
    rows: list[dict[str, Any]] = []
    found: dict[tuple[bool, str], int] = {}  # an attempt with each profile
    origins: dict[int, int] = {}
    values: list[dict[str, object]] = []
    taken: list[dict[str, object]] = []
    for attempt in attempts:
        forwarded = bool(attempt["forwarded"])
        groups, profiles, shards = [], [], []
        for shard, profile_key, key, body, carried, *more in json.loads(attempt["events"]):
            mappings, identifiers, origin = (*more, *(None,) * 3)[:3]  # the first schema kept none of them
            place = {"s": shard, "k": profile_key}
            changes, made_of = [], None
            if origin is not None:
                made_of = _event(bind, place, *origin)
                if made_of is None:
                    continue  # it was discarded
                taken.append({**place, "p": origin[0]})
            for one in carried:
                value = {**place, "a": one[0], "g": one[1]}
                kind = bind.execute(sa.text(f"SELECT kind FROM outbox WHERE {_VALUE}"), value).scalar()
                changes.append([*one[:5], kind or "resent", bool(one[5:] and one[5])])
                values.append(value)
            identifiers = identifiers if more or forwarded else _identifiers_in(body)
            groups.append([changes, mappings or [], [[profile_key, key, body, identifiers, made_of, shard]]])
            profiles.append(profile_key)
            shards.append(shard)
        if not groups:
            continue
        number = attempt["id"]
        places = [(forwarded, profile) for profile in profiles]
        joined = {number} | {origins[found[place]] for place in places if place in found}
        origins[number] = number
        origins |= {other: min(joined) for other, origin in origins.items() if origin in joined}
        found |= dict.fromkeys(places, number)
        rows.append(
            {
                **attempt,
                "shards": f" {' '.join(map(str, sorted(set(shards))))} ",
                "exits": any(one[4] in ("false", "null") for changes, *_ in groups for one in changes),
                "size": len(groups),
                "keys": list(dict.fromkeys(profiles)),
                "groups": groups,
            }
        )
    parts: dict[int, int] = defaultdict(int)
    for row in sorted(rows, key=_first_position):  # a half that was cut again got ids behind those of the other half
        origin = origins[row["id"]]
        _insert(bind, **row, origin=origin, part=parts[origin])
        parts[origin] += row["size"]  # as `cut` counts
    if values:
        bind.execute(sa.text(f"DELETE FROM outbox WHERE {_VALUE} AND dead_reason IS NULL"), values)
    if taken:
        bind.execute(sa.text(f"DELETE FROM events WHERE {_EVENT} AND dead_reason IS NULL"), taken)
    if attempts and bind.dialect.name != "sqlite":
        bind.exec_driver_sql("SELECT setval(pg_get_serial_sequence('batches', 'id'), max(id)) FROM batches")


def _first_position(row: dict[str, Any]) -> tuple[int, int]:
    """Return the first position of a batch's forwarded events, which must arrive in their order; 0 for changes."""
    events = [event for *_, people in row["groups"] for *_, event, _ in people]
    return min((event[0] for event in events if event is not None), default=0), row["id"]


# All that is put into statements are these conditions and names of columns.
# ruff: noqa: S608
_VALUE = "shard = :s AND profile_key = :k AND audience_id = :a AND generation = :g"
_EVENT = "shard = :s AND profile_key = :k AND position = :p"


def _insert(bind: sa.Connection, *, keys: list[str], groups: list[Any], **columns: Any) -> None:
    texts = {"keys": keys, "events": groups}
    row = columns | {name: json.dumps(it, ensure_ascii=False, separators=(",", ":")) for name, it in texts.items()}
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    bind.execute(sa.text(f"INSERT INTO batches ({names}) VALUES ({marks})"), row)


def _event(
    bind: sa.Connection, place: dict[str, object], position: int, message_id: str, shared: bool
) -> list[object] | None:
    """Return what a batch keeps of a forwarded event, or None if its row is gone."""
    row = bind.execute(
        sa.text(f"SELECT type, payload, accepted, name, received_at FROM events WHERE {_EVENT}"),
        {**place, "p": position},
    ).first()
    if row is None:
        return None
    accepted = json.loads(row.accepted or "[]")
    return [position, message_id, row.type, row.payload, accepted, row.name, row.received_at, shared]


def _identifiers_in(body: str) -> str:
    """Return the identifiers of an event of the first schema, whose body had all of them, the identity too."""
    sent = json.loads(body)["body"]
    found = {"user": sent["keys"], "company": sent.get("company", {}).get("keys")}
    kept = {kind: keys for kind, keys in found.items() if keys}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def downgrade() -> None:
    """Put what is in open batches back into the tables it was taken from; what was accepted is forgotten."""
    bind = op.get_bind()
    rows = bind.exec_driver_sql("SELECT events FROM batches WHERE status = 'open' ORDER BY id").scalars().all()
    op.add_column("events", sa.Column("partly_sent", sa.Boolean(), server_default=sa.false(), nullable=False))
    for text in rows:
        for carried, _, people in json.loads(text):
            for profile_key, _, _, identifiers, event, shard in people:
                _put_back(bind, {"s": shard, "k": profile_key}, carried, identifiers, event)
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW {view}")
    op.drop_index("batches_cut", "batches")
    op.drop_index("batches_shards", "batches")
    op.drop_index("batches_open", "batches")
    op.drop_table("batches")
    op.drop_column("events", "accepted")
    op.drop_table("user_identifiers")
    op.drop_index("outbox_exits", "outbox")
    _narrow_outbox(bind)
    op.drop_column("audiences", "level")
    op.execute("DELETE FROM settings WHERE name IN ('take', 'user_identifiers')")
    op.create_table(
        "seekers",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder"),
        sqlite_with_rowid=False,
    )
    op.drop_table("leases")
    op.create_table(
        "leases",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('audience', 'shards')", name="kind_is_known"),
        sa.PrimaryKeyConstraint("kind", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempts",
        sa.Column("id", ID, nullable=False),
        sa.Column("low", sa.SmallInteger(), nullable=False),
        sa.Column("high", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("forwarded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    _create_older_views(bind)


def _put_back(
    bind: sa.Connection, place: dict[str, object], carried: list[Any], identifiers: str | None, event: list[Any] | None
) -> None:
    for audience_id, generation, run_id, _, value, kind, _ in carried:
        bind.execute(
            sa.text(
                "INSERT INTO outbox (shard, profile_key, audience_id, value, identifiers, generation, run_id, kind)"
                " VALUES (:s, :k, :a, :v, :i, :g, :r, :kind) ON CONFLICT DO NOTHING"
            ),
            {**place, "a": audience_id, "v": value, "i": identifiers, "g": generation, "r": run_id, "kind": kind},
        )
    if event is not None:
        position, message_id, type_, payload, _, name, received_at, *_ = event
        bind.execute(
            sa.text(
                "INSERT INTO events (shard, profile_key, position, message_id, type, name, payload, received_at)"
                " VALUES (:s, :k, :p, :m, :type, :name, :payload, :at) ON CONFLICT DO NOTHING"
            ),
            {
                **place,
                "p": position,
                "m": message_id,
                "type": type_,
                "name": name,
                "payload": payload,
                "at": received_at,
            },
        )


def _create_older_views(bind: sa.Connection) -> None:
    """Make the views of the revisions before."""
    folder = Path(__file__).parent
    events, traits = (run_path(str(folder / name)) for name in ("0003_events.py", "0004_computed_traits.py"))
    dialect = bind.dialect.name
    iso = ISO[dialect].format
    sent = events["SENT"].format(accepted_at=iso("accepted_at"), more=", message_id")
    opened = events["OPEN_EVENTS"].format(
        position=events["POSITION"][dialect],
        each=events["EACH"][dialect],
        received_at=iso("o.received_at"),
        not_before=iso("t.not_before"),
    )
    waiting = traits["_view"]("open_deliveries", computation=", a.computation")
    for name, query in (("sent_deliveries", sent), ("open_events", opened), ("open_deliveries", waiting)):
        bind.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
