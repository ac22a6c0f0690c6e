"""The tables of the membership database: integer ids, and times in milliseconds since 1970.

The views for people show names and ISO timestamps. Migrations create tables and views; `store` has the statements.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MS = sa.BigInteger()  # milliseconds since 1970, UTC
PRIMARY_DESTINATION = "schematic"
"""The destination of `outbox` and of forwarded events. Others get messages through `events`, see `subscriptions`."""


def _column(name: str, kind: Any, *args: Any, **kwargs: Any) -> sa.Column[Any]:
    kwargs.setdefault("nullable", False)
    return sa.Column(name, kind, *args, **kwargs)


def _clustered(name: str, *columns: Any) -> sa.Table:
    """Declare a table that SQLite keeps in the order of its primary key, without a second copy of the key."""
    return sa.Table(name, metadata, *columns, sqlite_with_rowid=False)


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"{column}_is_known")


settings = sa.Table("settings", metadata, _column("name", sa.Text, primary_key=True), _column("value", sa.Text))

audiences = sa.Table(
    "audiences",
    metadata,
    _column("id", ID, primary_key=True),
    _column("key", sa.Text, unique=True),
    _column("name", sa.Text),
    _column("state", sa.Text),
    _column("definition_hash", sa.Text, nullable=True),  # of the last run that completed
    _column("members", sa.BigInteger, server_default="0"),
    _column("completed", sa.Boolean, server_default=sa.false()),  # one run has: later runs are not initial
    _column("applied_as_of", MS, nullable=True),
    _column("next_due_at", MS, nullable=True),
    _column("declared_at", MS, nullable=True),  # when the trait's type was declared
    _column("created_at", MS),
    _column("computation", sa.Text, server_default="audience"),
    _column("level", sa.Text, server_default="user"),  # of its members
    _one_of("state", "active", "paused", "retired"),
    _one_of("computation", "audience", "trait"),
    _one_of("level", "user", "company"),
)

runs = sa.Table(
    "runs",
    metadata,
    _column("id", ID, primary_key=True),
    _column("audience_id", ID, sa.ForeignKey("audiences.id"), index=True),
    _column("kind", sa.Text),
    _column("state", sa.Text),
    _column("as_of", MS),
    _column("started_at", MS),
    _column("finished_at", MS, nullable=True),
    _column("generation", sa.BigInteger),
    _column("definition_hash", sa.Text),
    _column("definition_changed", sa.Boolean, server_default=sa.false()),
    _column("members_before", sa.BigInteger),
    _column("read", sa.BigInteger, server_default="0"),
    _column("entered", sa.BigInteger, server_default="0"),
    _column("exited", sa.BigInteger, server_default="0"),
    _column("updated", sa.BigInteger, server_default="0"),
    _column("unchanged", sa.BigInteger, server_default="0"),
    _column("rejected", sa.BigInteger, server_default="0"),
    _column("duplicates", sa.BigInteger, server_default="0"),
    _column("resent", sa.BigInteger, server_default="0"),  # current values and remembered exits of a resync
    _column("sent", sa.BigInteger, server_default="0"),  # values of this run that Schematic accepted
    _column("send_updates", sa.Boolean, server_default=sa.true()),
    _column(
        "partial", sa.Boolean, server_default=sa.false()
    ),  # limited on purpose: the audience is not complete with it
    _column("reason", sa.Text, nullable=True),  # why it is blocked, held, failed or stale
    _column("approved_at", MS, nullable=True),
    _column("held_by", ID, nullable=True),  # the id of the audience that a held one waits for
    _column("resent_to", KEY, nullable=True),  # the last profile that a resync has sent again
    _column("identifiers", sa.Text, nullable=True),  # the JSON of bare ones in its rows, with a tab in their place
    _one_of("kind", "initial", "incremental", "resync", "retract"),
    _one_of("state", "held", "running", "blocked", "applying", "succeeded", "failed", "superseded", "stale"),
    sa.CheckConstraint(
        "(state IN ('succeeded', 'failed', 'superseded', 'stale')) = (finished_at IS NOT NULL)",
        name="final_runs_have_finished",
    ),
)

definitions = _clustered(
    "definitions",  # each distinct one that a run evaluated
    _column("hash", sa.Text, primary_key=True),  # `runs.definition_hash`
    _column("text", sa.Text),  # as people read it
)

rejections = _clustered(
    "rejections",
    _column("run_id", ID, sa.ForeignKey("runs.id"), primary_key=True),
    _column("position", sa.Integer, primary_key=True),
    _column("reason", sa.Text),
    _column("profile_key", KEY, nullable=True),
    _column("row", sa.Text),
    _column("detail", sa.Text, nullable=True),  # the column, what is wrong with it, and the remedy
)

memberships = _clustered(
    "memberships",
    _column("audience_id", sa.Integer, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),  # of a computed trait: canonical JSON, never null; NULL of an audience
    _column("entered_run_id", sa.Integer),
    _column("run_id", sa.Integer),  # which last wrote it; its row says what is around bare identifiers
)

digests = _clustered(
    "digests",  # what the members of an audience come to: equal rows need not be compared
    _column("audience_id", sa.Integer, primary_key=True),
    _column("run_id", sa.Integer, primary_key=True),  # 0: as they are; of a run: as its plan leaves them
    _column("version", sa.Text),
    _column("members", sa.BigInteger),
    _column("total", sa.Text),
    _column("source_sums", sa.Text, nullable=True),  # what the source said that the rows come to, if each is a member
)

staged = _clustered(
    "staged",
    _column("run_id", sa.Integer, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("kind", sa.Text),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),
)

changes = _clustered(
    "changes",
    _column("run_id", sa.Integer, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("kind", sa.Text),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),
)

outbox = _clustered(
    "outbox",
    _column("profile_key", KEY, primary_key=True),
    _column("audience_id", sa.Integer, primary_key=True),
    _column("value", sa.Text),  # what Schematic is to be told, as JSON: also the text null
    _column("identifiers", sa.Text, nullable=True),
    _column("generation", sa.BigInteger),
    _column("run_id", sa.Integer),
    _column("dead_reason", sa.Text, nullable=True),  # set: not tried again without a person
    _column("kind", sa.Text, server_default="resent"),  # entered, exited, updated; resent: nothing happened
    _column("gives_up", sa.Boolean, server_default=sa.false()),  # an update that takes a user identifier away
    _column("destination", sa.Text, server_default=PRIMARY_DESTINATION, primary_key=True),
    _column("channel", sa.Text, server_default="capture", primary_key=True),
)
_first = sa.text("(value IN ('false', 'null') OR gives_up) AND dead_reason IS NULL")
sa.Index("outbox_exits", *outbox.primary_key.columns, sqlite_where=_first, postgresql_where=_first)

user_identifiers = _clustered(
    "user_identifiers",  # user keys besides the identity; two profiles that share one are one user in Schematic
    _column("profile_key", KEY, primary_key=True),
    _column("name", KEY, primary_key=True),
    _column("value", KEY, primary_key=True),
    _column("sent", sa.Boolean),  # false: it was left out, because another profile has it
)
sa.Index("user_identifiers_shared", user_identifiers.c.name, user_identifiers.c.value)

batches = sa.Table(
    "batches",
    metadata,
    _column("id", ID, primary_key=True),
    _column("destination", sa.Text, server_default=PRIMARY_DESTINATION),
    _column("channel", sa.Text, server_default="capture"),
    _column("forwarded", sa.Boolean),  # its events are of `events`, not of `outbox`
    _column("status", sa.Text, server_default="open"),
    _column("holder", sa.Text, server_default=""),
    _column("claim", sa.BigInteger, server_default="0"),  # grows with every change of hands
    _column("claim_until", MS, server_default="0"),  # of the clock of leases
    _column("origin", sa.BigInteger, nullable=True),  # the batch that it was cut from, or is the first part of
    _column("part", sa.Integer, server_default="0"),  # the place of its first event in that batch
    _column("created_at", MS),
    _column("tries", sa.Integer, server_default="0"),
    _column("not_before", MS, server_default="0"),
    _column("error", sa.Text, nullable=True),  # what the last try met
    _column("accepted_at", MS, nullable=True),
    _column("http_status", sa.SmallInteger, nullable=True),
    _column("shards", KEY),  # of its events, each between two spaces
    _column("exits", sa.Boolean, server_default=sa.false()),  # it has some, or updates that give up an identifier
    _column("size", sa.Integer),  # events
    _column("keys", sa.Text),  # JSON, of the profiles
    _column("events", sa.Text),  # JSON: word for word but the API key while open, then profiles and values alone
    _one_of("status", "open", "accepted", "applied"),
    sa.CheckConstraint("(status = 'open') = (accepted_at IS NULL)", name="accepted_batches_have_an_instant"),
    sqlite_autoincrement=True,  # no batch gets the id of one that is gone
)
_open = sa.text("status = 'open'")
sa.Index("batches_open", batches.c.id, sqlite_where=_open, postgresql_where=_open)
sa.Index("batches_shards", batches.c.shards)
_cut = sa.text("origin IS NOT NULL")
sa.Index("batches_cut", batches.c.origin, sqlite_where=_cut, postgresql_where=_cut)

events = _clustered(
    "events",  # forwarded Segment events, and messages about changes for destinations with subscriptions
    _column("profile_key", KEY),
    _column("position", sa.BigInteger),  # in the order of arrival; of a message, its generation
    _column("message_id", KEY),
    _column("type", sa.Text),
    _column("name", sa.Text, nullable=True),
    _column("payload", sa.Text),  # the event as it came, JSON
    _column("received_at", MS),
    _column("dead_reason", sa.Text, nullable=True),  # set: not tried again without a person
    _column("accepted", sa.Text, nullable=True),  # JSON: the idempotency keys of its bodies that Schematic has
    _column("destination", sa.Text, server_default=PRIMARY_DESTINATION),
    sa.PrimaryKeyConstraint("destination", "profile_key", "position"),
)
for _name, _state in (("events_waiting", "NULL"), ("events_dead", "NOT NULL")):
    _where = sa.text(f"dead_reason IS {_state}")
    sa.Index(_name, *events.primary_key.columns, sqlite_where=_where, postgresql_where=_where)

message_ids = _clustered(
    "message_ids",
    _column("day", sa.Integer, primary_key=True),  # since 1970, of its arrival
    _column("message_id", KEY, primary_key=True),
)

event_counts = _clustered(
    "event_counts",  # of forwarded events that sent nothing
    _column("day", sa.Integer, primary_key=True),  # since 1970
    _column("reason", sa.Text, primary_key=True),
    _column("type", sa.Text, primary_key=True),
    _column("count", sa.BigInteger),
    _column("last_message_id", KEY),
    _column("last_at", MS),
)

deliveries = _clustered(
    "deliveries",  # of versions before 0.7, until their retention is over
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("idempotency_key", sa.Text, primary_key=True),
    _column("traits", sa.Text),
    _column("run_ids", sa.Text),
    _column("accepted_at", MS),
    _column("status", sa.SmallInteger),
    _column("mapping", sa.Text, nullable=True),  # which made the event; NULL from before there were any
    _column("message_id", KEY, nullable=True),  # of the forwarded event it was made of
)

leases = _clustered(
    "leases",
    _column("audience_id", sa.Integer, primary_key=True),
    _column("holder", sa.Text),
    _column("term", sa.BigInteger),
    _column("expires_at", MS),
)

outage = _clustered(
    "outage",  # one row for each destination that takes no events now
    _column("destination", sa.Text, server_default=PRIMARY_DESTINATION, primary_key=True),
    _column("kind", sa.Text),
    _column("began_at", MS),  # since when nothing was accepted
    _column("since", MS),  # since when it is of this kind
    _column("answer", sa.Text),  # the last one
    _column("next_try_at", MS, nullable=True),  # of the daemon; NULL: nothing tries by itself
    _one_of("kind", "unreachable", "key_refused", "stopped"),
)

subscriptions = _clustered(
    "subscriptions",  # destinations that get a message for each change of an audience
    _column("destination", sa.Text, primary_key=True),
    _column("audience_id", sa.Integer, primary_key=True),
    _column("generation", sa.BigInteger),  # of its beginning; messages about members at that time have it
    _column("with_members", sa.Boolean),  # it began with the members; else they are known already
    _column("members_after", KEY, nullable=True),  # the members behind this profile do not have a message yet
)
