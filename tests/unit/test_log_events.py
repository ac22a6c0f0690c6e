"""The table of log events in the manual: every event of the code is in it with its level, and no other one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from audience_sync.journal import PRIORITIES
from audience_sync.manual.manual_pages import manual_pages

ROOT = Path(__file__).parents[2]


def logged(source: str) -> Iterator[tuple[str, str]]:
    """Yield the events that a module logs with their levels; an event of `tell` has each level that `tell` may be.

    Raises:
        AssertionError: an event has a name that is not written there.
    """
    tree = ast.parse(source)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        told = [
            node.attr
            for assigned in ast.walk(function)
            if isinstance(assigned, ast.Assign) and getattr(assigned.targets[0], "id", None) == "tell"
            for node in ast.walk(assigned)
            if _is_of_log(node)
        ]
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            levels = [call.func.attr] if _is_of_log(call.func) else told if _is_tell(call.func) else []
            for level in levels:
                (name,) = (one.value for one in call.args[:1] if isinstance(one, ast.Constant))
                yield str(name), level


def _is_of_log(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "log"


def _is_tell(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "tell"


def of_the_code() -> dict[str, str]:
    """Return the events of the product with their levels: the most urgent one where there are several."""
    levels: dict[str, str] = {}
    for path in (ROOT / "audience_sync").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "structlog.get_logger()" in text:
            for name, level in logged(text):
                levels[name] = min(level, levels.get(name, level), key=PRIORITIES.__getitem__)
    return levels


def of_the_manual() -> dict[str, str]:
    """Return the events in the table with their levels."""
    table = (
        manual_pages()["systemd"].text().partition("| event | level | meaning and fields |\n")[2].partition("\n\n")[0]
    )
    rows = [row.strip().strip("|").split(" | ") for row in table.splitlines()[1:]]
    pairs = [(row[0].split(" · "), row[1].split(" · ")) for row in rows]
    return {
        name.strip(" `"): level.strip() for names, levels in pairs for name, level in zip(names, levels, strict=True)
    }


def test_the_manual_has_every_event_with_its_level() -> None:
    """Whoever greps the log for an event of the table finds it, and an event in the log has a row in the table."""
    assert of_the_manual() == of_the_code()
    assert len(of_the_code()) > 30


def test_an_event_is_logged_once_at_one_place() -> None:
    """A name means one thing: two places that log the same event are one function."""
    places = [
        name
        for path in (ROOT / "audience_sync").rglob("*.py")
        if "structlog.get_logger()" in (text := path.read_text(encoding="utf-8"))
        for name in re.findall(r"(?:log\.\w+|tell)\(\s*\"(\w+)\"", text)
    ]

    assert sorted(places) == sorted(set(places))


def test_what_the_search_finds() -> None:
    """The levels of `tell` are those that it is made of; a name that is not a word is refused."""
    source = 'def f():\n    tell = log.warning if new else log.info\n    tell("a", x=log.name)\n    log.error("b")\n'
    assert list(logged(source)) == [("a", "warning"), ("a", "info"), ("b", "error")]
    with pytest.raises(ValueError, match="not enough values"):
        list(logged("def f():\n    log.info(name)\n"))
