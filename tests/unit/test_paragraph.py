"""Sentences on a terminal: they are wrapped at words, and nothing of them is cut, lost or added."""

from __future__ import annotations

import io
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from audience_sync.cli import console
from audience_sync.cli.console import fitted
from audience_sync.cli.context import MessageConsole
from audience_sync.cli.text_table import wrap, wrap_command

LETTERS = 'ab1,.`"\\{}:山é\u200d '
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
ERASED = "\x1b[2K"  # the last line is empty again
JSON = '{"company":{"groupId":"acme, inc"},"user":{"email":"ada@example.com","name":"Ada Lovelace"}}'


def wrapped(text: str, width: int, *, hang: int = 0, is_json: bool = False) -> list[str]:
    """Return the lines of a text."""
    return [line.plain for line in wrap(Text(text), width, hang=hang, is_json=is_json)]


@given(st.text(LETTERS, max_size=200), st.integers(1, 60), st.integers(0, 8), st.booleans())
def test_no_word_is_cut(text: str, width: int, hang: int, is_json: bool) -> None:
    """The words are those of the text, in its order; a line is too long only if it holds a single word."""
    lines = wrapped(text, width, hang=hang, is_json=is_json)

    if is_json:
        assert "".join("".join(lines).split()) == "".join(text.split())
    else:
        assert " ".join(lines).split() == text.split()
    assert all(len(line.split()) == 1 for line in lines if cell_len(line.rstrip()) > width)
    assert all(cell_len(line.strip()) > width for line in lines[1:] if cell_len(line.rstrip()) > width)


@given(st.text(LETTERS, max_size=80))
def test_what_fits_is_as_it_is(text: str) -> None:
    """A sentence that fits is not touched."""
    assert wrapped(text, 400) == [text]


def test_later_lines_are_indented() -> None:
    """A line is indented like the first line of its sentence, and further by `hang`."""
    assert wrapped("  one two three four", 11, hang=2) == ["  one two", "    three", "    four"]


def test_wide_characters_count_twice() -> None:
    """Cells are counted, not characters."""
    assert wrapped("山田 太郎 山田", 9) == ["山田 太郎", "山田"]


def test_commands_and_instants_stay_on_one_line() -> None:
    """A command can be copied, and an instant be read, as long as a line holds it."""
    text = "try `audience-sync approve 12` since 2026-11-29 14:05:09Z, or not"

    assert wrapped(text, 29) == ["try", "`audience-sync approve 12`", "since 2026-11-29 14:05:09Z,", "or not"]
    assert wrapped("`audience-sync approve 12`", 20) == ["`audience-sync", "approve 12`"]


def test_json_is_divided_after_commas_outside_its_strings() -> None:
    """A string of JSON stays whole while a line holds it; then it is divided at its words."""
    assert wrapped(JSON, 50, is_json=True) == [
        '{"company":{"groupId":"acme, inc"},',
        '"user":{"email":"ada@example.com",',
        '"name":"Ada Lovelace"}}',
    ]
    assert wrapped(JSON, 33, is_json=True)[:2] == ['{"company":{"groupId":"acme,', 'inc"},']


def test_styles_stay_with_their_words() -> None:
    """A coloured word is coloured on the line where it ends up."""
    lines = wrap(Text.assemble("plain words, ", ("error", "red"), " and more"), 13)

    assert [line.plain for line in lines] == ["plain words,", "error and", "more"]
    assert [[(s.start, s.end, s.style) for s in line.spans] for line in lines] == [[], [(0, 5, "red")], []]


@pytest.mark.parametrize("width", [20, 40, 60])
@pytest.mark.parametrize(
    "command",
    [
        "sqlite3 shop.db \"INSERT INTO orders VALUES (NULL, 'cus_1001', datetime(), 64000)\"",
        "cd 'a folder with blanks' && audience-sync members big_spenders --limit 5 --format csv",
        "echo 'it'\"'\"'s' \"unbalanced",
        "audience-sync",
    ],
)
def test_a_wrapped_command_is_the_same_command(command: str, width: int) -> None:
    """Lines end with a backslash, so that a shell reads the copied lines as the one command that they were."""
    lines = wrap_command(command, width, indent=4)

    assert all(line.startswith("    ") for line in lines)
    if command.endswith("unbalanced"):
        assert " ".join(" ".join(lines).replace("\\", "").split()) == command
    else:
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


SENTENCE = "error: 10,000,000 rows of customer_with_two_orders_in_last_30_day: [red] :warning: and so on to the end"


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_messages_are_wrapped_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message keeps its words, brackets and colons at every width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    seen = Terminal()
    MessageConsole(file=seen, soft_wrap=True, emoji=False).print(Text(f"{SENTENCE}\n\n{SENTENCE}"))

    lines = seen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == f"{SENTENCE} {SENTENCE}".split()
    assert lines.count("") == 1


def test_messages_are_not_wrapped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or a file gets each sentence on one line, whatever COLUMNS and FORCE_COLOR say."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    piped = io.StringIO()
    MessageConsole(file=piped, soft_wrap=True, emoji=False).print(Text(SENTENCE))

    assert piped.getvalue() == f"{SENTENCE}\n"


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"TERM": "xterm"}, "\x1b[31merror:\x1b[0m it failed\n"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "error: it failed\n"),
        ({"TERM": "dumb"}, "error: it failed\n"),
    ],
    ids=["colours", "no colours", "dumb"],
)
def test_colours_can_be_switched_off(variables: dict[str, str], printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is obeyed, and a dumb terminal gets no escape sequence."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = Terminal()
    MessageConsole(file=seen, soft_wrap=True, emoji=False, highlight=False).print("[red]error:[/] it failed")

    assert seen.getvalue() == printed


@pytest.mark.parametrize("columns", ["0", "-5", "wide", "", "٣٠"])
def test_a_wrong_width_is_not_believed(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in COLUMNS, there is a width; without any, and without a terminal to ask, it is 80."""
    monkeypatch.setenv("COLUMNS", columns)

    assert MessageConsole(file=io.StringIO()).terminal_width == (30 if columns == "٣٠" else 80)


@given(st.text("ab山", max_size=60), st.integers(0, 10**8), st.integers(-3, 120))
def test_progress_stays_on_one_line(subject: str, done: int, width: int) -> None:
    """The moving line never wraps, and its number is whole or not there."""
    state = f"reading, {done:,} rows"
    line = fitted(subject, state, width)

    assert cell_len(line) <= max(width, 0)
    assert line == "" or line.endswith(state)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("seen", "term", "printed"),
    [(False, "xterm", ["gold: reading, 10,000,000 rows"]), (True, "dumb", ["gold: reading, 10,000,000 rows"])],
    ids=["file", "dumb terminal"],
)
def test_progress_without_a_moving_line(
    seen: bool, term: str, printed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, and a terminal that cannot move its cursor, get a line every few seconds and no escape sequence."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(console, "LOG_EVERY", 0.0)
    stream = Terminal() if seen else io.StringIO()
    monkeypatch.setattr(console, "console", MessageConsole(file=stream, soft_wrap=True, emoji=False))
    with console.Progress("gold") as moving:
        moving.show("reading", 10_000_000)

    assert stream.getvalue().splitlines() == printed


def test_a_moving_line_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal the moving line is one line, and it is erased at the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(console, "REDRAW", 0.0)
    stream = Terminal()
    monkeypatch.setattr(console, "console", MessageConsole(file=stream, soft_wrap=True, emoji=False))
    with console.Progress("customer_with_two_orders_in_last_30_days") as moving:
        for done in (1, 1_000, 10_000_000):
            moving.show("reading", done)

    shown = [ESCAPE.sub("", line) for line in re.split(r"[\r\n]+", stream.getvalue())]
    assert max(map(cell_len, shown)) < 40
    assert stream.getvalue().count("\n") <= 1
    assert stream.getvalue().endswith(ERASED)


def test_a_hidden_moving_line_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else is printed where the line was, and the line follows below it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "REDRAW", 0.0)
    stream = Terminal()
    monkeypatch.setattr(console, "console", MessageConsole(file=stream, soft_wrap=True, emoji=False))
    with console.Progress("gold") as moving:
        moving.show("reading", 1)
        moving.hide()
        hidden = stream.getvalue()
        moving.show("reading", 2)

    assert hidden.endswith(ERASED)
    assert "2 rows" in ESCAPE.sub("", stream.getvalue().removeprefix(hidden))
    assert stream.getvalue().endswith(ERASED)
