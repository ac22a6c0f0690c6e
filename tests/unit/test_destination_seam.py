"""Nothing outside of a destination's own package knows its name: generic code asks `settings.destination`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import audience_sync
from audience_sync.destinations.destination_registry import DESTINATIONS

PACKAGE = Path(audience_sync.__file__).parent
GENERIC = ("checks", "cli", "daemon", "delivery", "runtime.py", "store", "sync", "tracking_api")
MAY_NAME_IT = {
    "schematic": {
        "cli/demo_commands.py": "the demo and the sandbox are those of Schematic",
        "cli/main.py": "the help is written before a configuration is read",
        "cli/setup_commands.py": "`init` explains the configuration that it writes",
        "cli/systemd_units.py": "the units name the variable of the key that the example configuration names",
        "daemon/dispatcher.py": "names of log events that scripts read",
        "store/schema.py": "a default of the database's schema",
    },
    "webhook": {
        "cli/plan_output.py": "events may trigger webhooks of Schematic",
        "cli/run_output.py": "events may trigger webhooks of Schematic",
    },
}


def literals(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, docstrings excepted."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def attributes(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module looks up in objects."""
    return (node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def generic_files() -> list[Path]:
    """Return the files of everything that works with any destination."""
    found = [path for name in GENERIC for path in (PACKAGE / name).rglob("*.py")]
    return sorted([*found, *(PACKAGE / name for name in GENERIC if name.endswith(".py"))])


@pytest.mark.parametrize("name", DESTINATIONS)
def test_generic_code_does_not_name_a_destination(name: str) -> None:
    """No text and no attribute of generic code has the name of a destination, but where a reason is given."""
    naming = set()
    for path in generic_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(name in text.lower() for text in (*literals(tree), *attributes(tree))):
            naming.add(path.relative_to(PACKAGE).as_posix())

    assert naming == MAY_NAME_IT[name].keys(), "a reason is missing, or no longer needed"


def test_every_destination_is_registered_under_its_name() -> None:
    """The registry has each destination under the name of its section."""
    assert {name: destination.name for name, destination in DESTINATIONS.items()} == {
        name: name for name in DESTINATIONS
    }
