"""The README and the manual are complete and whole: pages, links, generated parts, and examples in known formats."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from audience_sync import errors
from audience_sync.cli.main import USAGE
from audience_sync.core.model import ChangeKind, RunKind, RunState
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.manual.manual_pages import FOLDER, manual_pages
from audience_sync.query.function_names import FUNCTIONS, OPERATORS
from audience_sync.segment.mapping.directives import BUILDERS
from tests import command_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LONGEST_README = 8192  # bytes
TERMINAL = 80  # columns
DOCUMENTS = [README, *sorted((ROOT / ".github").glob("*.md")), *sorted((ROOT / "audience_sync").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(path: Path) -> str:
    """Return a document without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))


def anchors(path: Path) -> set[str]:
    """Return the anchors that code hosts give to the headings of a document."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def examples(language: str) -> list[Any]:
    """Return the examples of a language in all documents, each with the file and the line where it begins."""
    found: list[Any] = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[1], id=f"{path.name}:{line}"))
    return found


def test_the_readme_is_short() -> None:
    """The README is read in five minutes; everything else is in the manual."""
    assert len(README.read_bytes()) <= LONGEST_README


def test_every_page_is_listed() -> None:
    """The list of pages has every page, and the command finds it there."""
    assert sorted(manual_pages()) == sorted(path.stem for path in FOLDER.glob("*.md") if path != FOLDER / "README.md")
    assert len(manual_pages()) == len(re.findall(r"^- ", (FOLDER / "README.md").read_text(), re.MULTILINE))


def test_every_page_has_one_title() -> None:
    """A page begins with its title, and has no other heading of that level."""
    for page in manual_pages().values():
        titles = re.findall(r"^# .+$", re.sub(r"```.*?```", "", page.text(), flags=re.DOTALL), re.MULTILINE)
        assert page.text().startswith("# "), page.topic
        assert len(titles) == 1, page.topic


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path: Path) -> None:
    """Every link to a file of the repository, or to a heading, leads there; such links are relative."""
    broken = []
    for target in LINK.findall(prose(path)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not (file.is_relative_to(ROOT) and file.exists()) or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


def test_the_reference_of_commands_is_that_of_the_program() -> None:
    """`python -m tests.command_page --record` was run after the last change of a command or its help."""
    assert command_page.PAGE.read_text(encoding="utf-8") == command_page.page()


@pytest.mark.parametrize("example", examples("toml"))
def test_a_toml_example_is_toml(example: str) -> None:
    """Settings in the manual can be pasted."""
    assert tomllib.loads(example)


@pytest.mark.parametrize("example", examples("json"))
def test_a_json_example_is_json(example: str) -> None:
    """Documents in the manual are whole."""
    assert json.loads(example)


def test_texts_fit_a_terminal_of_80_columns() -> None:
    """Diagrams, tables of text and output are not broken by the terminal on which a page is shown."""
    wide = [
        f"{path.name}: {line}"
        for path in DOCUMENTS
        for block in re.findall(r"^```(?:text|console)\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if len(line) > TERMINAL
    ]
    assert wide == []


def test_every_exit_code_is_documented() -> None:
    """The table of exit codes has every code with which a command can exit, and no other."""
    table = manual_pages()["commands"].text().partition("| exit code | meaning |")[2].partition("\n\n")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    codes = {one.exit_code for one in classes if issubclass(one, errors.AudienceSyncError)}

    assert documented == {0, USAGE, errors.INTERRUPTED, errors.DELIVERIES_OPEN, errors.WAITS_FOR_A_PERSON, *codes}


def test_every_function_of_the_query_language_is_documented() -> None:
    """The page has every function that a query can call; comparators with a sign are listed by it."""
    page = manual_pages()["query-language"].text()
    missing = [name for name in FUNCTIONS.keys() - OPERATORS.keys() if not re.search(rf"\b{name}\b", page)]

    assert missing == []


def test_every_directive_and_field_of_mappings_is_documented() -> None:
    """The page has every directive, and every field of each action."""
    page = manual_pages()["mappings"].text()
    fields = {field.name for action in ACTIONS.values() for field in action.fields}

    assert [name for name in BUILDERS if not re.search(rf"{name}\b", page)] == []
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []


def test_every_setting_is_shown_in_the_manual() -> None:
    """The page on configuration has the whole example file, and that shows every setting."""
    assert command_page.SETTINGS_PAGE.read_text(encoding="utf-8") == command_page.settings_page()


def test_every_word_for_a_state_is_in_the_glossary() -> None:
    """Kinds and states of runs, and kinds of changes, are explained where people look words up."""
    glossary = manual_pages()["glossary"].text()
    ordinary = {"running", "applying", "succeeded", "failed"}
    missing = [
        word for words in (RunKind, RunState, ChangeKind) for word in words if not re.search(rf"\b{word}\b", glossary)
    ]

    assert set(missing) <= ordinary
