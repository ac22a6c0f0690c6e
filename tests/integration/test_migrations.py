"""The schema: what the migrations make is what the program expects, and any other schema is refused with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from audience_sync.errors import SchemaOutOfDate
from audience_sync.store import outages
from audience_sync.store.database import Database, connect, migrations, revisions, verify
from audience_sync.store.migration import migrate
from audience_sync.store.outages import Outage, OutageKind
from audience_sync.store.schema import metadata

VIEWS = {
    "current_members", "membership_changes", "sync_runs", "open_deliveries", "sent_deliveries", "open_events",
    "unsent_events",
}  # fmt: skip
MIGRATIONS = migrations()

NEWEST = revisions()[-1]


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    """A database of each kind without any tables."""
    with closing(connect(empty_url, create=True)) as database:
        yield database


def schema(database: Database) -> dict[str, object]:
    """Return everything the database says of its tables and views, but Alembic's own."""
    found = sa.inspect(database.engine)
    described: dict[str, object] = {"views": sorted(found.get_view_names())}
    for table in sorted(set(found.get_table_names()) - {"alembic_version"}):
        described[table] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(table)],
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "foreign": [(k["constrained_columns"], k["referred_table"]) for k in found.get_foreign_keys(table)],
            "unique": [k["column_names"] for k in found.get_unique_constraints(table)],
            "indexes": [k["column_names"] for k in found.get_indexes(table)],
            "checks": sorted(str(k["name"]) for k in found.get_check_constraints(table)),
        }
    return described


def run_alembic(database: Database, direction: str, to: str | None = None) -> None:
    """Go down to nothing, or up to the head, as `migrate` does, or to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        if direction == "down":
            command.downgrade(config, to or "base")
        else:
            command.upgrade(config, to or "head")


def stamp(database: Database, revision: str) -> None:
    """Let the database say that it has a revision."""
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


@pytest.mark.slow
def test_migrations_make_the_tables_of_the_program(empty: Database) -> None:
    """No column, key or constraint is in the one and not in the other."""
    before, after, _ = migrate(empty)

    with empty.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    migrated = schema(empty)
    assert (before, after) == (None, NEWEST)
    assert differences == []
    run_alembic(empty, "down")
    metadata.create_all(empty.engine)
    assert schema(empty) == {**migrated, "views": []}


def test_every_table_is_clustered_on_sqlite(sqlite_template: Path) -> None:
    """The large tables lie in the order of their keys, without a second copy of them; only SQLite has this choice."""
    with closing(connect(f"sqlite:///{sqlite_template}")) as database, database.read() as connection:
        flat = connection.exec_driver_sql(
            "SELECT name FROM pragma_table_list WHERE type = 'table' AND wr = 0 AND schema = 'main'"
        )
        tables = set(flat.scalars())

    assert tables - {"sqlite_schema", "sqlite_sequence", "alembic_version"} == {
        "settings",
        "audiences",
        "runs",
        "batches",
    }


@pytest.mark.slow
def test_down_and_up_again(empty: Database) -> None:
    """Going back leaves nothing behind, and going up again makes the same schema."""
    migrate(empty)
    first = schema(empty)

    run_alembic(empty, "down")

    assert schema(empty) == {"views": []}
    run_alembic(empty, "up")
    assert schema(empty) == first
    verify(empty)


def test_migrating_twice_changes_nothing(empty: Database) -> None:
    """`migrate` may be run at any time, and keeps what is in the database."""
    migrate(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("UPDATE settings SET value = '42' WHERE name = 'generation'")

    assert migrate(empty) == (NEWEST, NEWEST, None)
    with empty.read() as connection:
        assert connection.exec_driver_sql("SELECT value FROM settings WHERE name = 'generation'").scalar() == "42"


def test_the_outage_has_a_table(empty: Database) -> None:
    """The note of the last delivery is dropped; everything else stays, up and down again."""
    run_alembic(empty, "up", "0005")
    with empty.write() as connection:
        connection.exec_driver_sql("INSERT INTO settings (name, value) VALUES ('delivery_stopped', 'refused')")
        connection.exec_driver_sql("INSERT INTO settings (name, value) VALUES ('identity', 'userId')")
        connection.exec_driver_sql(
            "INSERT INTO audiences (key, name, state, created_at) VALUES ('gold', 'Gold', 'active', 0)"
        )
    run_alembic(empty, "up")
    outage = Outage(kind=OutageKind.KEY_REFUSED, began_at=1, since=2, answer="HTTP 401", next_try_at=3)
    with empty.write() as connection:
        assert outages.find(connection) is None
        outages.keep(connection, outage)
    with empty.read() as connection:
        names = connection.exec_driver_sql("SELECT name FROM settings").scalars().all()
        assert outages.find(connection) == outage
    run_alembic(empty, "down", "0005")

    with empty.read() as connection:
        assert connection.exec_driver_sql("SELECT key FROM audiences").scalars().all() == ["gold"]
    assert "identity" in names
    assert "delivery_stopped" not in names


def test_a_missing_schema_is_refused(empty: Database) -> None:
    """A database that was never initialised is not filled by accident."""
    with pytest.raises(SchemaOutOfDate, match="does not have the tables of audience-sync") as caught:
        verify(empty)

    assert "audience-sync init" in str(caught.value.hint)


def test_a_missing_sqlite_file_is_refused_and_not_made(tmp_path: Path) -> None:
    """A mistyped path does not become a new, empty database; only SQLite could."""
    with pytest.raises(SchemaOutOfDate, match="no membership database") as caught:
        connect(f"sqlite:///{tmp_path / 'typo.db'}")

    assert "audience-sync init" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_an_older_schema_is_refused(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is newer than its database says how to bring it up to date."""
    migrate(empty)
    monkeypatch.setattr("audience_sync.store.database.revisions", lambda: [NEWEST, "9998"])

    with pytest.raises(SchemaOutOfDate, match=rf"an older schema \({NEWEST}\)") as caught:
        verify(empty)

    assert "audience-sync migrate" in str(caught.value.hint)


@pytest.mark.parametrize("action", [verify, migrate])
def test_a_newer_schema_is_refused(empty: Database, action: object) -> None:
    """An old program neither uses nor migrates the database of a newer one."""
    migrate(empty)
    stamp(empty, "zzzz")

    with pytest.raises(SchemaOutOfDate, match=r"has schema zzzz from a newer version of audience-sync") as caught:
        action(empty)  # type: ignore[operator]  # two functions of a Database

    assert "install that version" in str(caught.value.hint)


def test_no_message_shows_the_password(postgres_url: str) -> None:
    """The database's password is in no error; SQLite has none."""
    url = sa.make_url(postgres_url).set(password="hunter2")  # the local server asks for none
    with closing(connect(url)) as database, pytest.raises(SchemaOutOfDate) as refused:
        verify(database)

    assert "hunter2" not in str(refused.value)
    assert "***" in str(refused.value)


def test_a_new_sqlite_file_is_private(empty_url: str) -> None:
    """Who is in an audience is nobody else's to read."""
    with closing(connect(empty_url, create=True)) as database:
        if not database.is_sqlite:  # Postgres has rights of its own
            return
        migrate(database)
        path = Path(str(database.engine.url.database))
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.glob("empty.db*")}

    assert modes == dict.fromkeys(("empty.db", "empty.db-wal", "empty.db-shm"), "0o600")


MOMENTS = [0, 999, 1_767_225_600_001, 1_767_225_599_999, 1_774_958_399_995, 1_774_958_400_000, 253_402_300_799_999]


def test_views_show_names_and_iso_timestamps(database: Database) -> None:
    """A person who queries the database reads names, and instants in ISO 8601 to the millisecond in UTC."""
    with database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO audiences (key, name, state, created_at) VALUES ('gold', 'Gold', 'active', 0)"
        )
        for number, ms in enumerate(MOMENTS, 1):
            connection.exec_driver_sql(
                "INSERT INTO runs (audience_id, kind, state, as_of, started_at, finished_at, generation,"
                " definition_hash, members_before)"
                f" VALUES (1, 'initial', 'succeeded', {ms}, {ms}, {ms}, {number}, '', 0)"
            )
            connection.exec_driver_sql(
                "INSERT INTO memberships (audience_id, profile_key, entered_run_id, run_id)"
                f" VALUES (1, 'u{number}', {number}, {number})"
            )
            connection.exec_driver_sql(
                f"INSERT INTO changes (run_id, profile_key, kind) VALUES ({number}, 'u{number}', 'entered')"
            )
            connection.exec_driver_sql(
                "INSERT INTO outbox (profile_key, audience_id, value, generation, run_id)"
                f" VALUES ('u{number}', 1, 'true', {number}, {number})"
            )
            connection.exec_driver_sql(
                "INSERT INTO deliveries (shard, profile_key, idempotency_key, traits, run_ids, accepted_at, status)"
                f" VALUES (0, 'u{number}', 'k', '{{}}', '[1]', {ms}, 200)"
            )
            connection.exec_driver_sql(
                "INSERT INTO events (profile_key, position, message_id, type, payload, received_at)"
                f" VALUES ('u{number}', {number}, 'm{number}', 'track', '{{}}', {ms})"
            )
            connection.exec_driver_sql(
                "INSERT INTO event_counts (day, reason, type, count, last_message_id, last_at)"
                f" VALUES ({number}, 'no_matching_mapping', 'page', 2, 'm{number}', {ms})"
            )

    expected = [iso(ms) for ms in MOMENTS]
    with database.read() as connection:
        views = set(sa.inspect(connection).get_view_names())
        columns = {
            "current_members": ("since", "run_id"),
            "membership_changes": ("as_of", "run_id"),
            "sync_runs": ("finished_at", "id"),
            "open_deliveries": ("since", "run_id"),
            "sent_deliveries": ("accepted_at", "profile_key"),
            "open_events": ("since", "position"),
            "unsent_events": ("last_at", "day"),
        }
        for view, (column, order) in columns.items():
            rows = connection.exec_driver_sql(f"SELECT {column} FROM {view} ORDER BY {order}").scalars()
            assert list(rows) == expected, view
        assert connection.exec_driver_sql("SELECT min(day) FROM unsent_events").scalar() == "1970-01-02"
        for view in VIEWS - {"sent_deliveries", "open_events", "unsent_events"}:
            assert set(connection.exec_driver_sql(f"SELECT DISTINCT audience FROM {view}").scalars()) == {"gold"}
    assert views == VIEWS | {
        "all_changes",
        "open_values",
        "batched_events",
        "shared_identifiers",
    }  # from which others are made


def iso(ms: int) -> str:
    """Return milliseconds since 1970 in ISO 8601."""
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
