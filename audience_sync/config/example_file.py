"""The example configuration, which explains every setting: where it is, and what its comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HEADING: Final = re.compile(r"\[+(?P<table>[\w.]+)\]+(?:\s+# (?P<comment>.*))?")
_SETTING: Final = re.compile(
    r"""(?P<name>\w+)\ =\ (?:\"{3}|"[^"]*"|'[^']*'|[^"'\#])+(?:\#\ (?P<comment>.*))?""", re.VERBOSE
)
_REST: Final = re.compile(r"(?:\s{8,}|\"{3}\s+)# (?P<comment>.*)")  # of a comment, or the comment after a long text

SettingPath = tuple[str, ...]
"""The tables and the name of a setting: `("delivery", "batch_size")`; the name of a source is left out."""


def example() -> Path:
    """Return the example that `init` copies: inside an installed package, else next to it."""
    package = Path(__file__).parent.parent
    inside = package / "config.example.toml"
    return inside if inside.is_file() else package.parent / inside.name


def comments(text: str) -> dict[SettingPath, str]:
    """Return the comment of each table and setting in the example, also of those that are off."""
    found: dict[SettingPath, str] = {}
    table: SettingPath = ()
    last: SettingPath = ()
    for line in text.splitlines():
        body = line.removeprefix("# ")
        if heading := _HEADING.fullmatch(body):
            table = last = _path(heading["table"])
            _add(found, last, heading["comment"], is_new=True)
        elif setting := _SETTING.fullmatch(body):
            last = (*table, setting["name"])
            _add(found, last, setting["comment"], is_new=True)
        elif rest := _REST.fullmatch(body):
            _add(found, last, rest["comment"], is_new=False)
    return found


def _path(table: str) -> SettingPath:
    first, *others = table.split(".")
    return (first, *others[1:]) if first == "sources" else (first, *others)


def _add(found: dict[SettingPath, str], path: SettingPath, comment: str | None, *, is_new: bool) -> None:
    """Add a comment, or its next line; a setting that is shown twice keeps its first comment."""
    if comment is not None and not (is_new and path in found):
        found[path] = f"{found[path]} {comment}" if path in found else comment
