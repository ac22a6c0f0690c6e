"""What is printed as CSV, and what is printed on a terminal: text of others is neither calculated nor obeyed."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.cli.console import Format, print_records, spreadsheet_cell
from audience_sync.cli.context import MessageConsole
from audience_sync.core.text import printable

FORMULAS = (
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "-", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1", "＝1+1", "-5;=1", "--5",
    "-1e5x", "-0x10", "- 5",
)  # fmt: skip
TEXTS = ("", "ada", "1+1", "'=1", " =1", '"=1+1"', "[-1]", '{"a":"=1"}', "a;=1+1", 'a",=1+1', "a\n=1+1", "true", "ü")
NUMBERS = ("-5", "-5.25", "-1e5", "-1E-5", "5", "0.5")
STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\x7f\u202egnp\u2028\u2066"


def printed(kind: Format, capsys: pytest.CaptureFixture[str], **record: object) -> str:
    """Return what is printed of one record."""
    print_records([record], list(record), format=kind)
    return capsys.readouterr().out


@pytest.mark.parametrize("text", FORMULAS)
def test_what_looks_like_a_formula_is_text(text: str) -> None:
    """A cell that a spreadsheet would calculate has a quote in front, which makes it text there."""
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", [*TEXTS, *NUMBERS])
def test_other_text_is_as_it_is(text: str) -> None:
    """Nothing is added to text that is harmless, nor to a negative number."""
    assert spreadsheet_cell(text) == text


@given(text=st.text(st.sampled_from("=+-@\t\r\n'\";,a1 .e")))
def test_no_cell_is_a_formula(text: str) -> None:
    """Of any text the cell is a number, or begins with nothing that a spreadsheet takes for a formula."""
    cell = str(spreadsheet_cell(text))

    assert cell[:1] not in tuple("=+-@\t\r\n") or str(float(cell))
    assert cell.removeprefix("'") == text.removeprefix("'")


def test_numbers_and_truths_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A number stands there bare, and is one for whoever reads it; nothing is an empty cell."""
    assert printed(Format.CSV, capsys, a=-5, b=2.5, c=True, d=None, e="x").splitlines()[1] == '-5,2.5,"true","","x"'


@pytest.mark.parametrize("text", [*FORMULAS, *TEXTS])
def test_a_cell_stays_one_cell(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commas, quotes and new lines stay within their cell, and so do semicolons, which some spreadsheets split at."""
    said = printed(Format.CSV, capsys, a=text, b="z")

    for delimiter in ",;":
        rows = list(csv.reader(io.StringIO(said, newline=""), delimiter=delimiter))
        assert len(rows) == 2
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in rows[1])
    assert list(csv.reader(io.StringIO(said, newline="")))[1] == [str(spreadsheet_cell(text)), "z"]


def test_text_of_others_does_not_steer_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences are replaced in tables and sentences, spelled out in JSON, and in CSV kept for programs."""
    table = printed(Format.TABLE, capsys, a=STEERING)
    line = printed(Format.JSON, capsys, a=STEERING)
    kept = printed(Format.CSV, capsys, a=STEERING)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    seen = printed(Format.CSV, capsys, a=STEERING)
    said = io.StringIO()
    MessageConsole(file=said).print(f"what came: {STEERING}", markup=False)

    for text in (table, seen, said.getvalue()):
        assert all(letter.isprintable() for letter in text.replace("\n", ""))
    assert line.rstrip("\n").isprintable()
    assert json.loads(line) == {"a": STEERING}
    assert STEERING in kept


@given(text=st.text())
def test_printable_keeps_the_length_and_what_is_printable(text: str) -> None:
    """Every character that does no harm stays where it is."""
    clean = printable(text)

    assert len(clean) == len(text)
    assert all(one == other or not one.isprintable() for one, other in zip(text, clean, strict=True))
    assert not set(clean) & {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))}
    clean.encode()
