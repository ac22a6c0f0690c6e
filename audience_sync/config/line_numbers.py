"""Find the line of each setting in a TOML file that has been parsed.

`tomllib` tells no positions, and neither does another TOML library that is maintained. The file is known to be valid
TOML, so it is enough to find headers and keys, and to pass over values. Every line of a value counts as its
first line.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

from audience_sync.config.problems import Location

_KEY: Final = r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)"""
_PATH: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_STATEMENT: Final = re.compile(
    rf"(?P<table>\[\[[ \t]*(?P<element>{_PATH})[ \t]*\]\]|\[[ \t]*(?P<plain>{_PATH})[ \t]*\])"
    rf"|(?P<setting>{_PATH})[ \t]*="
    r"|[\s\ufeff]+|\#[^\n]*"
)
_PART: Final = re.compile(
    r'"{3}(?:\\.|[^\\])*?"{3,5}'  # one or two quotes may stand before the three at the end
    r"|'{3}.*?'{3,5}"
    r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'"""
    r"|\#[^\n]*"
    r"|[\[\]{}\n]|[^\[\]{}\n\"'\#]+",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Location, int]:
    """Return the line, from 1, of every table and setting of a valid TOML text, by its path: `("audiences", 2, "sql")`.

    A table that has a setting and no header has the line of its first setting.
    """
    found: dict[Location, int] = {}
    elements: dict[Location, int] = {}  # the index of the newest element of each list of tables
    table: Location = ()
    at = 0
    while at < len(text) and (statement := _STATEMENT.match(text, at)):
        at = statement.end()
        if (name := statement["element"]) is not None:
            place = _resolved(_words(name), elements)
            elements[place] = elements.get(place, -1) + 1
            table = (*place, elements[place])
        elif (name := statement["plain"]) is not None:
            place = table = _resolved(_words(name), elements)
        elif (name := statement["setting"]) is not None:
            place = (*table, *_words(name))
            at = _after_value(text, at)
        else:
            continue
        line = text.count("\n", 0, statement.start()) + 1
        for end in range(1, len(place) + 1):
            found.setdefault(place[:end], line)
        found.setdefault(table, line)
    return found


def _words(path: str) -> list[str]:
    """Return the keys of a dotted path, quoted ones without their quotes."""
    return [tomllib.loads(f"key = {one}")["key"] if one[0] in "\"'" else one for one in re.findall(_KEY, path)]


def _resolved(words: list[str], elements: dict[Location, int]) -> Location:
    """Return where a header leads: through a list of tables to its newest element, save for the last word."""
    place: Location = ()
    for number, word in enumerate(words):
        place = (*place, word)
        if number < len(words) - 1 and place in elements:
            place = (*place, elements[place])
    return place


def _after_value(text: str, at: int) -> int:
    """Return the end of the line on which a value ends."""
    depth = 0
    while at < len(text) and (part := _PART.match(text, at)):
        at = part.end()
        if part.group() == "\n" and depth == 0:
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part.group(), 0)
    return at
