"""The membership database: its tables, how it is opened, and whether its schema is the one this program needs.

Tables are plain and compact (integer ids, times in milliseconds since 1970); the views that people query show names and
ISO timestamps. Statements on these tables are in `store`; this module runs none of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from audience_sync.errors import AudienceSyncError, SchemaOlder, SchemaOutOfDate

BUSY_TIMEOUT = 60.0  # seconds a writer waits for SQLite's one writer before it gives up
CONNECT_TIMEOUT = 10  # seconds
WRITE_OPTION = "audience_sync_write"
# Parameters are people's data; and each delivery worker holds a connection now and then, however many there are.
ENGINE: dict[str, Any] = {"hide_parameters": True, "max_overflow": -1}

metadata = sa.MetaData()

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MS = sa.BigInteger()  # milliseconds since 1970, UTC


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
    _column("declared_at", MS, nullable=True),  # when Schematic was told the trait's type
    _column("created_at", MS),
    _one_of("state", "active", "paused", "retired"),
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
    _column("resend_from", sa.Integer, nullable=True),  # the first shard a resync has still to send again
    _column("sent", sa.BigInteger, server_default="0"),  # values of this run that Schematic accepted
    _column("send_updates", sa.Boolean, server_default=sa.true()),
    _column(
        "partial", sa.Boolean, server_default=sa.false()
    ),  # limited on purpose: the audience is not complete with it
    _column("reason", sa.Text, nullable=True),  # why it is blocked or failed
    _column("approved_at", MS, nullable=True),
    _one_of("kind", "initial", "incremental", "resync", "retract"),
    _one_of("state", "running", "blocked", "applying", "succeeded", "failed", "superseded"),
    sa.CheckConstraint(
        "(state IN ('succeeded', 'failed', 'superseded')) = (finished_at IS NOT NULL)", name="final_runs_have_finished"
    ),
)

rejections = _clustered(
    "rejections",
    _column("run_id", ID, sa.ForeignKey("runs.id"), primary_key=True),
    _column("position", sa.Integer, primary_key=True),
    _column("reason", sa.Text),
    _column("profile_key", KEY, nullable=True),
    _column("row", sa.Text),
)

memberships = _clustered(
    "memberships",
    _column("audience_id", sa.Integer, primary_key=True),
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),
    _column("entered_run_id", sa.Integer),
    _column("generation", sa.BigInteger),
)

shards = _clustered(
    "shards",
    _column("audience_id", sa.Integer, primary_key=True),
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("members", sa.Integer),
    _column("digest", sa.LargeBinary),
)

staged = _clustered(
    "staged",
    _column("run_id", sa.Integer, primary_key=True),
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("kind", sa.Text),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),
)

staged_shards = _clustered(
    "staged_shards",
    _column("run_id", sa.Integer, primary_key=True),
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("members", sa.Integer, nullable=True),
    _column("digest", sa.LargeBinary, nullable=True),  # NULL: only some changes of the shard are in the plan
)

changes = _clustered(
    "changes",
    _column("run_id", sa.Integer, primary_key=True),
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("kind", sa.Text),
    _column("identifiers", sa.Text, nullable=True),
    _column("value", sa.Text, nullable=True),
)

outbox = _clustered(
    "outbox",
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("audience_id", sa.Integer, primary_key=True),
    _column("value", sa.Text),
    _column("identifiers", sa.Text, nullable=True),
    _column("generation", sa.BigInteger),
    _column("run_id", sa.Integer),
    _column("dead_reason", sa.Text, nullable=True),  # set: not tried again without a person
    _column("kind", sa.Text, server_default="resent"),  # entered, exited, updated; resent: nothing happened
)

attempts = sa.Table(
    "attempts",
    metadata,
    _column("id", ID, primary_key=True),
    _column("low", sa.SmallInteger),  # the shards of its events, inclusive
    _column("high", sa.SmallInteger),
    _column("size", sa.Integer),  # events
    _column("events", sa.Text),  # JSON, without the API key
    _column("created_at", MS),
    _column("tries", sa.Integer, server_default="0"),
    _column("not_before", MS, server_default="0"),
    _column("error", sa.Text, nullable=True),  # what the last try met
)

deliveries = _clustered(
    "deliveries",
    _column("shard", sa.SmallInteger, primary_key=True),
    _column("profile_key", KEY, primary_key=True),
    _column("idempotency_key", sa.Text, primary_key=True),
    _column("traits", sa.Text),
    _column("run_ids", sa.Text),
    _column("accepted_at", MS),
    _column("status", sa.SmallInteger),
    _column("mapping", sa.Text, nullable=True),  # which made the event; NULL from before there were any
)

leases = _clustered(
    "leases",
    _column("kind", sa.Text, primary_key=True),
    _column("number", sa.Integer, primary_key=True),  # an audience's id, or a unit of shards
    _column("holder", sa.Text),
    _column("term", sa.BigInteger),
    _column("expires_at", MS),
    _one_of("kind", "audience", "shards"),
)


class Database:
    """One membership database: connections for reading and for writing."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def is_sqlite(self) -> bool:
        """Return whether this is a SQLite file (else it is Postgres)."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads; on both databases one snapshot for each statement at least."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes, committed at the end of the block; on SQLite the one writer."""
        with self.engine.connect().execution_options(**{WRITE_OPTION: True}) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def display_url(url: str | URL) -> str:
    """Return a database URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def connect(url: str | URL, *, create: bool = False) -> Database:
    """Return the database at a URL; nothing is created unless asked.

    Raises:
        SchemaOutOfDate: a SQLite file does not exist.
        AudienceSyncError: the database cannot be reached, or its driver is not installed.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Database(_sqlite_engine(parsed, create=create))
    try:
        engine = sa.create_engine(parsed, connect_args=_postgres_arguments(parsed), pool_pre_ping=True, **ENGINE)
        with engine.connect():
            pass
    except ModuleNotFoundError as error:
        raise AudienceSyncError(
            f"the driver for {display_url(url)} is not installed: {error.name}",
            hint="pip install 'audience-sync[postgres]'",
        ) from error
    except sa.exc.SQLAlchemyError as error:
        raise AudienceSyncError(f"cannot open {display_url(url)}: {first_line(error)}") from error
    return Database(engine)


def _postgres_arguments(url: URL) -> dict[str, Any]:
    """Return what psycopg is told besides the URL; options of the URL, such as a search_path, stay."""
    options = url.query.get("options", "")
    given = options if isinstance(options, str) else " ".join(options)
    return {"connect_timeout": CONNECT_TIMEOUT, "options": f"{given} -c timezone=UTC".strip()}


def first_line(error: BaseException) -> str:
    """Return the first line of what a database driver says, without SQLAlchemy's additions or parameters."""
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().partition("\n")[0] or type(origin).__name__


def _sqlite_engine(url: URL, *, create: bool) -> Engine:
    path = Path(url.database or "")
    if not create and not path.exists():
        raise SchemaOutOfDate(f"there is no membership database at {path}", hint="create it with `audience-sync init`")
    arguments = {"timeout": BUSY_TIMEOUT, "isolation_level": None}
    engine = sa.create_engine(url, connect_args=arguments, **ENGINE)

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: object) -> None:
        # synchronous=FULL: what is committed survives a power cut, not only a crash of the process.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that begins as a reader and then writes cannot wait its turn: SQLite refuses it at once.
        immediate = connection.get_execution_options().get(WRITE_OPTION)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            _prepare_new_file(path)
        with engine.connect():
            pass
    except (OSError, sqlite3.Error, sa.exc.SQLAlchemyError) as error:
        raise AudienceSyncError(f"cannot open the membership database {path}: {first_line(error)}") from error
    return engine


def _prepare_new_file(path: Path) -> None:
    """Create an empty database file that only its owner can read, and that can give space back."""
    if path.exists():
        return
    path.touch(mode=0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    connection.close()


def migrations() -> Path:
    """Return the folder of the migrations: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def revisions() -> list[str]:
    """Return the revisions that this program knows, oldest first: the names of their files begin with them."""
    return sorted(path.name.partition("_")[0] for path in (migrations() / "versions").glob("[0-9]*.py"))


def verify(database: Database) -> None:
    """Refuse a schema that is missing, older or newer than this program's.

    Raises:
        SchemaOutOfDate: it is.
    """
    found, known = revision_of(database), revisions()
    if found == known[-1]:
        return
    where = display_url(database.engine.url)
    if found is None:
        raise SchemaOutOfDate(f"{where} has no tables of audience-sync", hint="create them with `audience-sync init`")
    if found in known:
        raise SchemaOlder(
            f"{where} has the older schema {found}", hint="make a backup, then run `audience-sync migrate`"
        )
    raise SchemaOutOfDate(
        f"{where} has schema {found}, made by a newer audience-sync",
        hint="install the version that made it, or a later one",
    )


def revision_of(database: Database) -> str | None:
    """Return the revision of the schema that a database has, or None."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return revision
