"""What the documents promise about the house is so: commands, errors, views, and the two commands that set it up."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperCommand, TyperGroup

from audience_sync import __version__, errors
from audience_sync.cli.main import COMMANDS, load
from audience_sync.manual.manual_pages import manual_pages
from audience_sync.store.database import Database

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
LOCK = (ROOT / ".ci" / "requirements.lock").read_text()


def commands() -> dict[str, TyperCommand | TyperGroup]:
    """Return every command of the program by its name."""
    return {name: load(name) for name in COMMANDS}


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """Nobody has to read the code to learn what a command does and how it is called."""
    command = commands()[name]

    assert command.help
    for one in getattr(command, "commands", {"": command}).values():
        assert f"audience-sync {name}" in re.sub(r"--config \S+ ", "", one.epilog or "")


def test_every_error_has_its_sentence_and_stands_in_the_tree() -> None:
    """The tree at the top of the errors is the whole tree, and each has a message of its own."""
    everything = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]

    for one in everything:
        assert one.__doc__
        assert re.search(rf"^ *{one.__name__} +exit {one.exit_code}", errors.__doc__ or "", re.MULTILINE), one.__name__  # type: ignore[attr-defined]


def test_every_view_is_in_the_manual(database: Database) -> None:
    """The views that people query are documented, with the columns they have."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", manual_pages()["database"].text(), re.MULTILINE)
    inspector = sa.inspect(database.engine)

    assert {view: re.findall(r"`(\w+)`", columns) for view, columns in rows} == {
        view: [column["name"] for column in inspector.get_columns(view)] for view in inspector.get_view_names()
    }


def test_the_version_is_that_of_the_package() -> None:
    """`--version` shows the version of the installed package, which the package itself defines."""
    assert __version__ == version("audience-sync")
    assert PROJECT["dynamic"] == ["version"]


def test_every_file_of_the_package_has_a_name_of_its_own() -> None:
    """A file is found by its name: no two have the same one, whatever folder they are in."""
    names = [path.name for path in (ROOT / "audience_sync").rglob("*.py") if path.name != "__init__.py"]

    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_class_of_the_package_has_a_name_of_its_own() -> None:
    """A class is found by its name, too."""
    files = [ast.parse(path.read_text()) for path in (ROOT / "audience_sync").rglob("*.py")]
    names = [node.name for file in files for node in ast.walk(file) if isinstance(node, ast.ClassDef)]

    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_the_layers_in_the_manual_are_those_that_are_checked() -> None:
    """The page on the design draws every layer with every module that import-linter knows, in their order."""
    design = manual_pages()["design"].text()
    (drawn,) = re.findall(r"^```text\n(__main__ > .*?)```$", design, re.MULTILINE | re.DOTALL)
    checked = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]

    assert [set(layer.split(" | ")) for layer in " ".join(drawn.split()).split(" > ")] == [
        {name.removeprefix("audience_sync.") for name in layer.split(" | ")} for layer in checked
    ]


def test_ci_runs_the_command_of_the_readme() -> None:
    """The README has exactly one line that CI takes for its test command."""
    assert len(re.findall(r"\.venv/bin/pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)) == 1


def locked() -> dict[str, list[tuple[Requirement, int]]]:
    """Return what the lock file has by name: each version, with the number of its hashes."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for entry in re.split(r"^(?=\w)", re.sub(r"^ *#.*\n", "", LOCK, flags=re.MULTILINE), flags=re.MULTILINE)[1:]:
        requirement = Requirement(entry.partition("\\")[0])
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, entry.count("--hash=sha256:")))
    return found


def test_the_lock_file_has_every_dependency_in_a_version_that_is_allowed() -> None:
    """Whoever adds or raises a dependency makes the lock anew: CI installs from it, and it is what gets scanned."""
    own = canonicalize_name(PROJECT["name"])
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    wanted = [one for one in map(Requirement, lines) if canonicalize_name(one.name) != own]
    found = locked()

    assert len(wanted) > 20
    for one in wanted:
        pins = [pin for pin, _ in found.get(canonicalize_name(one.name), ())]
        assert pins, f"{one} is not in .ci/requirements.lock: its head says how it is made anew"
        for pin in pins:
            assert one.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} does not fit {one}"


def test_the_lock_file_pins_everything_and_names_no_machine() -> None:
    """Every package has one version for each Python and its hashes; no index and no path is in the file."""
    for name, entries in locked().items():
        assert all(re.fullmatch(r"==[\w.!+]+", str(pin.specifier)) and hashes for pin, hashes in entries), name
    assert not re.search(r"://|@ |^-|(?<![\w.])/", LOCK, re.MULTILINE)
    assert "uv pip compile pyproject.toml --extra all --extra dev" in "".join(LOCK.splitlines()[:3])
    assert "requirements.lock" in (ROOT / ".ci" / "run").read_text()
