"""Tables for a terminal of a given width: which columns they show, and that nothing in a cell is cut."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from audience_sync.cli.text_table import TableView, cell, fact_lines, lay_out, plain_lines
from audience_sync.core.text import instant_text

VIEW = TableView(
    ("id", "audience", "state", "since", "members", "reason"), optional=("members", "since"), under=("state",)
)
AUDIENCE = "customer_with_two_orders_in_last_30_days"
REASON = "3,104,221 would exit, 31.0 % of the 10,000,000 members before; max_exit_percent allows 30 %"
RECORD = {
    "id": 1204, "audience": AUDIENCE, "state": "blocked", "since": "2026-11-29T14:05:09.123Z", "members": 10_000_000,
    "reason": REASON,
}  # fmt: skip
SHORT = {**RECORD, "id": 7, "audience": "vip", "reason": None}


def shown(width: int, *records: dict[str, Any], view: TableView = VIEW) -> list[str]:
    """Return the lines of a table, and last the columns that it hides."""
    layout = lay_out(view, records, width)
    return [*(line.plain for line in layout.lines), ", ".join(layout.hidden)]


def test_a_table_that_fits_shows_everything() -> None:
    """With enough space every column is there, empty ones too; numbers are on the right."""
    assert shown(200, RECORD, SHORT) == [
        "  id  audience                                  state    since                  members  reason",
        f"1204  {AUDIENCE}  blocked  2026-11-29 14:05:09Z  10000000  {REASON}",
        "   7  vip                                       blocked  2026-11-29 14:05:09Z  10000000  -",
        "",
    ]


def test_long_text_moves_under_its_row() -> None:
    """A sentence is wrapped at words under its row, and nothing is hidden for it."""
    assert shown(90, RECORD, SHORT) == [
        "  id  audience                                  state    since                  members",
        f"1204  {AUDIENCE}  blocked  2026-11-29 14:05:09Z  10000000",
        "    reason: 3,104,221 would exit, 31.0 % of the 10,000,000 members before;",
        "      max_exit_percent allows 30 %",
        "   7  vip                                       blocked  2026-11-29 14:05:09Z  10000000",
        "",
    ]


def test_optional_columns_are_left_out_in_their_order() -> None:
    """As many optional columns as fit are shown, the more important ones first; those left out are named."""
    wide, narrow = shown(80, RECORD), shown(66, RECORD)

    assert (wide[0], wide[-1]) == (
        "  id  audience                                  state     members",
        "since",
    )
    assert (narrow[0], narrow[-1]) == ("  id  audience                                  state     members", "since")
    assert shown(64, RECORD)[-1] == "since, members"


def test_named_columns_move_under_their_row() -> None:
    """Before records become blocks, the columns that the view names move under their rows."""
    assert shown(50, {**RECORD, "reason": None}) == [
        "  id  audience",
        f"1204  {AUDIENCE}",
        "    state: blocked",
        "since, members",
    ]


def test_records_become_blocks() -> None:
    """Where not even the required columns fit, a record is a block of aligned lines without its empty fields."""
    assert shown(45, RECORD, SHORT) == [
        "id        1204",
        "audience",
        f"  {AUDIENCE}",
        "state     blocked",
        "since     2026-11-29 14:05:09Z",
        "members   10000000",
        "reason",
        "  3,104,221 would exit, 31.0 % of the",
        "  10,000,000 members before; max_exit_percent",
        "  allows 30 %",
        "",
        "id        7",
        "audience  vip",
        "state     blocked",
        "since     2026-11-29 14:05:09Z",
        "members   10000000",
        "",
    ]


def test_empty_columns_are_left_out_first_and_not_named() -> None:
    """A column that holds nothing costs no other column its place, and nobody misses it."""
    empty = {**SHORT, "members": None, "since": None}

    assert shown(30, empty) == ["id  audience  state", " 7  vip       blocked", ""]
    assert shown(200, empty)[0] == "id  audience  state    since  members  reason"


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_json_is_divided_after_commas(width: int) -> None:
    """JSON that does not fit on a line is divided between its items."""
    traits = '{"customer_with_two_orders":true,"lapsed_customers":false,"total_spend":12345678.25,"names":["a","b"]}'
    lines = shown(width, {"at": 1, "traits": traits}, view=TableView(("at", "traits")))

    assert all(len(line) <= width for line in lines)
    assert traits in re.sub(r"\s+", "", "".join(lines))
    assert all(f'"{name}"' in " ".join(lines) for name in ("customer_with_two_orders", "lapsed_customers", "names"))


def test_wide_characters_are_aligned() -> None:
    """Cells of two columns each count as two."""
    lines = shown(40, {"user": "山田太郎", "n": 5}, {"user": "ada", "n": 10_000_000}, view=TableView(("user", "n")))

    assert lines == ["user             n", "山田太郎         5", "ada       10000000", ""]
    assert len({cell_len(line) for line in lines[:-1]}) == 1


def test_cells_are_text_of_one_line() -> None:
    """Instants have one format, sentences one line, and nothing steers the terminal."""
    assert [cell("since", "2026-11-29T14:05:09.123Z"), cell("profile_key", "2026-11-29T14:05:09.123Z")] == [
        "2026-11-29 14:05:09Z",
        "2026-11-29T14:05:09.123Z",
    ]
    assert instant_text("2026-11-29T14:05:09Z") == "2026-11-29 14:05:09Z"
    assert instant_text("yesterday") == "yesterday"
    assert cell("reason", "one\n  two\tthree\x1b[2J") == "one   two\ufffdthree\ufffd[2J"
    assert cell("profile_key", "u1\n\x1b[2J") == "u1\ufffd\ufffd[2J"
    assert [cell("a", value) for value in (None, True, False, 12345, "")] == [None, "yes", "no", "12345", ""]
    assert cell("a", 12345, grouped=True) == "12,345"


def test_a_list_of_one_audience_may_leave_its_column_out() -> None:
    """What was asked for need not be repeated in every row where space is short."""
    narrowed = VIEW.narrowed_to("audience", 7)

    assert narrowed.optional == ("members", "since", "audience")
    assert VIEW.narrowed_to("audience", None) is VIEW
    assert shown(40, SHORT, view=narrowed)[0] == "id  audience  state     members"


def test_plain_lines_have_every_column() -> None:
    """Output for programs is as wide as it needs, one line a record, aligned with the blocks before."""
    lines, widths = plain_lines(VIEW, [RECORD], {})
    later, same = plain_lines(VIEW, [SHORT], widths)

    assert lines == [line for line in shown(1000, RECORD) if line]
    assert later[0].startswith("  id  audience                                  state ")
    assert same == widths


def test_facts_are_aligned() -> None:
    """Named values stand below each other; one that does not fit next to its name is wrapped."""
    facts = [("database", "sqlite:///" + "x" * 30), ("note", "not set yet: the first sync sets it")]

    assert [line.plain for line in fact_lines(facts, 80)] == [
        f"database  sqlite:///{'x' * 30}",
        "note      not set yet: the first sync sets it",
    ]
    assert [line.plain for line in fact_lines(facts, 40)] == [
        "database",
        f"sqlite:///{'x' * 30}",
        "note",
        "  not set yet: the first sync sets it",
    ]
    assert fact_lines([], 80) == []


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_cells_do_not_steer_a_terminal(width: int) -> None:
    """In a table, under a row, in a block and in facts: no escape sequence, no new line, no change of direction."""
    steering = "\x1b[2J\x1b]0;title\x07 \x9b31m\x7f\u202egnp\u2028\u2066\n" * 2
    record = dict.fromkeys(VIEW.columns, steering)
    lines = [line.plain for line in lay_out(VIEW, [record], width).lines]

    assert lines
    assert all(line.isprintable() for line in lines)


NAMES = ("key", "count", "reason", "state", "value", "since")
CELLS = st.one_of(
    st.none(), st.integers(-1, 10**7), st.text("ab山 ,.\"{}`\n", max_size=60), st.just("2026-11-29T14:05:09.123Z")
)  # fmt: skip


@given(
    records=st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, CELLS)), min_size=1, max_size=4),
    optional=st.lists(st.sampled_from(NAMES[1:]), unique=True),
    under=st.lists(st.sampled_from(NAMES[1:]), unique=True),
    width=st.integers(1, 160),
)
def test_nothing_is_cut_at_any_width(
    records: list[dict[str, Any]], optional: list[str], under: list[str], width: int
) -> None:
    """No line is wider than the terminal unless it holds one word; a cell is there, or its column is named."""
    view = TableView(NAMES, tuple(optional), tuple(under))
    layout = lay_out(view, records, width)
    lines = [line.plain for line in layout.lines]

    assert all(len(line.replace("29 14", "29_14").split()) <= 1 for line in lines if cell_len(line) > width)
    assert set(layout.hidden) <= set(optional)
    whole = "".join("".join(lines).split())
    for name in set(NAMES) - set(layout.hidden):
        for record in records:
            assert "".join((cell(name, record[name]) or "").split()) in whole
