"""Lay out records for a terminal of a given width, or as plain aligned lines, without printing them.

A table is as wide as its cells and never wraps them. If it does not fit, empty columns are left out first, then
optional columns, and long text moves to a separate line below its row. If the required columns still do not fit,
each record becomes a block of `name  value` lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from rich.cells import cell_len
from rich.text import Text

from audience_sync.core.text import instant_text, printable

# --- wrapping ---------------------------------------------------------------------------------------------------------
# Wrap text for a terminal at word boundaries.
#
# No word or number is cut: one that is wider than the line stands on a line of its own, where the terminal wraps it
# and copying gives it whole. An instant is one word, and so is a command in backticks while it fits on a line.

_INSTANT: Final = r"\S*?\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\S*"
_WORD: Final = re.compile(rf"\s*(?:{_INSTANT}|\S+)\s*")
_WORD_OR_COMMAND: Final = re.compile(rf"\s*(?:[^\s`]*`[^`]*`[^\s`]*(?=\s|$)|{_INSTANT}|\S+)\s*")
_SHELL_WORD: Final = re.compile(r"(?:\"[^\"]*\"|'[^']*'|\S)+")
_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^",]+|[",]')


def wrap(text: Text, width: int, *, hang: int = 0, is_json: bool = False) -> list[Text]:
    """Wrap one line of text to lines of at most `width` cells, unless a single word is wider.

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
    """Return a shell command as indented lines that can be copied; all but the last end with a backslash."""
    lines = [""]
    for word in _SHELL_WORD.findall(command):
        if lines[-1] and indent + cell_len(f"{lines[-1]} {word} \\") > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    margin = " " * indent
    return [*(f"{margin}{line} \\" for line in lines[:-1]), margin + lines[-1]]


def longest_word(text: str, *, is_json: bool = False) -> int:
    """Return the width of the widest word in cells, the minimum width of a line."""
    return max((cell_len(unit.rstrip()) for unit in _units(text, 0, is_json=is_json)), default=0)


def _line(text: Text, start: int, end: int, margin: int) -> Text:
    line = text[start:end]
    line.rstrip()
    return Text(" " * margin).append_text(line) if margin else line


def _units(text: str, width: int, *, is_json: bool) -> Iterator[str]:
    """Yield the parts of the text that must not be divided, each with its trailing spaces."""
    splits = [_items, _commands] if is_json else [_commands]
    return _refined(text, width, [*splits, _words])


def _refined(text: str, width: int, splits: Sequence[Callable[[str], Iterable[str]]]) -> Iterator[str]:
    """Divide parts that are wider than a line by the first of some splits, and the results by the others."""
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


# --- tables -----------------------------------------------------------------------------------------------------------

JSON_COLUMNS: Final = frozenset({"value", "identifiers", "traits", "run_ids", "row", "open_value", "bodies"})
"""Columns that hold JSON text; they are nested in JSON and stay text elsewhere."""

LONG_TEXT: Final = JSON_COLUMNS | {"reason", "reasons", "error", "definition"}
"""Columns that hold sentences or JSON."""

INSTANTS: Final = frozenset(
    {
        "accepted_at", "approved_at", "as_of", "at", "finished_at", "last_at", "last_success", "next_due",
        "next_try_at", "since", "started_at", "until",
    }
)  # fmt: skip
"""Columns that hold an instant."""

_GAP: Final = "  "
_UNDER: Final = 4  # cells by which a line under a row is indented
_BESIDE: Final = 40  # cells that text of several lines needs next to its name; with fewer it starts on the next line

Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class TableView:
    """The columns of a table, from left to right.

    A narrow terminal shows as many `optional` columns as fit, the first of them first; all others are required. Those
    of them that hold long text, or are named in `under`, may move to a line of their own under their row. `grouped`
    prints whole numbers with thousands separators.
    """

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    under: tuple[str, ...] = ()
    grouped: bool = False

    def narrowed_to(self, column: str, value: object) -> TableView:
        """Return the view for a list with one value in a column, which is then the least important column.

        Without a value, return the same view.
        """
        return self if value is None else replace(self, optional=(*self.optional, column))


class TableLayout(NamedTuple):
    """The lines of a table, and the non-empty columns that are left out."""

    lines: list[Text]
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Column:
    name: str
    cells: tuple[str | None, ...]
    is_number: bool
    width: int

    @property
    def is_empty(self) -> bool:
        return not any(self.cells)

    def padded(self, text: str) -> str:
        blanks = " " * (self.width - cell_len(text))
        return blanks + text if self.is_number else text + blanks


def cell(name: str, value: object, *, grouped: bool = False) -> str | None:
    """Return the text of a cell without control characters, or None if it is empty."""
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if grouped else str(value)
        case _:
            text = instant_text(str(value)) if name in INSTANTS else str(value)
            if name in LONG_TEXT and name not in JSON_COLUMNS:
                text = " ".join(text.splitlines())
            return printable(text)


def lay_out(view: TableView, records: Sequence[Record], width: int) -> TableLayout:
    """Return records as lines for a terminal with this width."""
    columns = _columns(view, records)
    if _fits(columns, width):
        return TableLayout(_table(columns, (), width))
    filled = [column for column in columns if not column.is_empty] or columns[:1]
    required = [column for column in filled if column.name not in view.optional]
    movable = [column for column in required if column.name in LONG_TEXT or column.name in view.under]
    movable.sort(key=lambda column: column.width)
    under: list[_Column] = []
    while movable and not _fits(required, width):
        under = [column for column in filled if column in under or column is movable[-1]]
        required.remove(movable.pop())
    if not required or not _fits(required, width):
        return TableLayout(_blocks(filled, width))
    shown = required
    for name in view.optional:
        wider = [column for column in filled if column in shown or column.name == name]
        shown = wider if _fits(wider, width) else shown
    hidden = (column.name for column in filled if column not in shown and column not in under)
    return TableLayout(_table(shown, under, width), tuple(hidden))


def plain_lines(
    view: TableView, records: Sequence[Record], widths: Mapping[str, int]
) -> tuple[list[str], dict[str, int]]:
    """Return the header and records as aligned lines of any width, and the widths of the columns, at least `widths`."""
    columns = [
        _Column(one.name, one.cells, one.is_number, max(one.width, widths.get(one.name, 0)))
        for one in _columns(view, records)
    ]
    return [line.plain for line in _table(columns, (), 0)], {column.name: column.width for column in columns}


def fact_lines(facts: Iterable[tuple[str, str]], width: int) -> list[Text]:
    """Return named values as aligned `name  value` lines; values that do not fit are wrapped at words."""
    listed = list(facts)
    label = max((cell_len(name) for name, _ in listed), default=0) + len(_GAP)
    lines: list[Text] = []
    for name, value in listed:
        lines += _fact(name, value, label=label, width=width)
    return lines


def _columns(view: TableView, records: Sequence[Record]) -> list[_Column]:
    found = []
    for name in view.columns:
        values = [record[name] for record in records]
        cells = tuple([cell(name, value, grouped=view.grouped) for value in values])
        is_number = any(cells) and all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values
        )
        found.append(_Column(name, cells, is_number, max(cell_len(text) for text in (name, *map(_shown, cells)))))
    return found


def _shown(text: str | None) -> str:
    return "-" if text is None else text


def _fits(columns: Sequence[_Column], width: int) -> bool:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1) <= width


def _table(columns: Sequence[_Column], under: Sequence[_Column], width: int) -> list[Text]:
    lines = [Text(_GAP.join([column.padded(column.name) for column in columns]).rstrip(), style="bold")]
    for number, row in enumerate(zip(*[column.cells for column in columns], strict=True)):
        pairs = zip(columns, row, strict=True)
        lines.append(Text(_GAP.join([column.padded(_shown(text)) for column, text in pairs]).rstrip()))
        for column in under:
            if (text := column.cells[number]) is not None:
                line = Text(f"{' ' * _UNDER}{column.name}: {text}")
                lines += wrap(line, width, hang=2, is_json=column.name in JSON_COLUMNS)
    return lines


def _blocks(columns: Sequence[_Column], width: int) -> list[Text]:
    label = max(cell_len(column.name) for column in columns) + len(_GAP)
    lines: list[Text] = []
    for number in range(len(columns[0].cells)):
        if lines:
            lines.append(Text())
        for column in columns:
            if (text := column.cells[number]) is not None:
                lines += _fact(column.name, text, label=label, width=width)
    return lines


def _fact(name: str, value: str, *, label: int, width: int) -> list[Text]:
    is_json = name in JSON_COLUMNS
    space = width - label
    heading = Text(name, style="bold")
    if cell_len(value) <= space or (space >= _BESIDE and longest_word(value, is_json=is_json) <= space):
        first, *rest = wrap(Text(value), space, is_json=is_json)
        margin = " " * label
        blanks = " " * (label - cell_len(name))
        return [Text.assemble(heading, blanks, first), *(Text(margin).append_text(line) for line in rest)]
    indent = max(0, min(2, width - longest_word(value, is_json=is_json)))
    return [heading, *wrap(Text(" " * indent + value), width, is_json=is_json)]
