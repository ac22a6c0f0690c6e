"""Wrap text for a terminal at word boundaries.

No word or number is cut: one that is wider than the line stands on a line of its own, where the terminal wraps it and
copying gives it whole. An instant is one word, and so is a command in backticks while it fits on a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

_INSTANT: Final = r"\S*?\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\S*"
_WORD: Final = re.compile(rf"\s*(?:{_INSTANT}|\S+)\s*")
_WORD_OR_COMMAND: Final = re.compile(rf"\s*(?:[^\s`]*`[^`]*`[^\s`]*(?=\s|$)|{_INSTANT}|\S+)\s*")
_SHELL_WORD: Final = re.compile(r"(?:\"[^\"]*\"|'[^']*'|\S)+")
_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^",]+|[",]')


def wrap(text: Text, width: int, *, hang: int = 0, is_json: bool = False) -> list[Text]:
    """Return one line of text as lines that are at most `width` cells wide, unless a single word is wider.

    The lines after the first are indented by `hang` cells, in addition to the indentation of the first. JSON may also
    be divided after a comma outside its strings.
    """
    plain = text.plain
    indent = len(plain) - len(plain.lstrip(" "))
    if cell_len(plain) <= width or indent == len(plain):
        return [text]
    indented = min(indent + hang, width // 2)
    lines: list[Text] = []
    start, end, used, margin = 0, indent, indent, 0
    for unit in _units(plain[indent:], width - indented, is_json=is_json):
        size = cell_len(unit.rstrip())
        if plain[start:end].strip() and used + size > width:
            lines.append(_line(text, start, end, margin))
            margin = max(0, min(indented, width - size))  # a word that needs the whole line is not indented
            start, used = end, margin
        end += len(unit)
        used += cell_len(unit)
    return [*lines, _line(text, start, end, margin)]


def wrap_command(command: str, width: int, *, indent: int) -> list[str]:
    """Return a shell command as indented lines that can be copied: each but the last ends with a backslash."""
    lines = [""]
    for word in _SHELL_WORD.findall(command):
        if lines[-1] and indent + cell_len(f"{lines[-1]} {word} \\") > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    margin = " " * indent
    return [*(f"{margin}{line} \\" for line in lines[:-1]), margin + lines[-1]]


def longest_word(text: str, *, is_json: bool = False) -> int:
    """Return the width in cells of the widest word, which no line can be narrower than."""
    return max((cell_len(unit.rstrip()) for unit in _units(text, 0, is_json=is_json)), default=0)


def _line(text: Text, start: int, end: int, margin: int) -> Text:
    line = text[start:end]
    line.rstrip()
    return Text(" " * margin).append_text(line) if margin else line


def _units(text: str, width: int, *, is_json: bool) -> Iterator[str]:
    """Yield what stays together, each with the blanks behind it: all of it together is the text."""
    splits = [_items, _commands] if is_json else [_commands]
    return _refined(text, width, [*splits, _words])


def _refined(text: str, width: int, splits: Sequence[Callable[[str], Iterable[str]]]) -> Iterator[str]:
    """Divide what is wider than a line by the first of some splits, and its parts by the others."""
    if not splits or cell_len(text.rstrip()) <= width:
        yield text
    else:
        for part in splits[0](text):
            yield from _refined(part, width, splits[1:])


def _words(text: str) -> Iterable[str]:
    return (found[0] for found in _WORD.finditer(text))


def _commands(text: str) -> Iterable[str]:
    return (found[0] for found in _WORD_OR_COMMAND.finditer(text))


def _items(text: str) -> Iterable[str]:
    start = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] == ",":
            yield text[start : token.end()]
            start = token.end()
    if start < len(text):
        yield text[start:]
