"""Rows become members in one way only, and what cannot become one is rejected with a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.config.defaults import PLACEHOLDERS
from audience_sync.core.keys import (
    KeyColumns,
    KeyRules,
    RejectedRow,
    Row,
    RowFault,
    Unreadable,
    canonical,
    excerpt,
    key_columns,
    storable,
    stringify,
    unreadable,
)
from audience_sync.core.model import Member
from audience_sync.core.rows import LineMaker, distinct, from_line, to_line, wrapping
from audience_sync.errors import SourceError
from audience_sync.sync.duckdb_diff import DuckDbDiff

GREATEST = 10**254  # 255 digits
STANDARD_RULES = KeyRules(PLACEHOLDERS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("u1", "u1"),
        (" u1 ", " u1 "),
        ("ÉCOLE", "ÉCOLE"),
        ("a\xa0b", "a\xa0b"),
        ("🙂", "🙂"),
        ("e\u0301", "e\u0301"),
        ("x" * 255, "x" * 255),
        ("🙂" * 255, "🙂" * 255),
        (0, "0"),
        (-7, "-7"),
        (2**63, "9223372036854775808"),
        (GREATEST, str(GREATEST)),
        (3.0, "3"),
        (-0.0, "0"),
        (1e15, "1000000000000000"),
        (2.0**53 - 1, "9007199254740991"),
        (Decimal(10), "10"),
        (Decimal("10.00"), "10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0"), "0"),
        (UUID("12345678-ABCD-5678-1234-567812345678"), "12345678-abcd-5678-1234-567812345678"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_keys_have_one_text_form(value: object, text: str) -> None:
    """The same person has the same key, whichever type the database returns."""
    assert stringify(value, STANDARD_RULES) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, RowFault.NULL_KEY),
        ("", RowFault.EMPTY_KEY),
        ("   ", RowFault.EMPTY_KEY),
        ("\t\n", RowFault.EMPTY_KEY),
        ("\xa0", RowFault.EMPTY_KEY),
        ("x" * 256, RowFault.LONG_KEY),
        (GREATEST * 10, RowFault.LONG_KEY),
        (Decimal("1E+300"), RowFault.LONG_KEY),
        ("\x00", RowFault.UNUSABLE_TEXT),
        ("a\x00", RowFault.UNUSABLE_TEXT),
        ("a\tb", RowFault.UNUSABLE_TEXT),
        ("a\n", RowFault.UNUSABLE_TEXT),
        ("a\x7f", RowFault.UNUSABLE_TEXT),
        ("\ud800", RowFault.UNUSABLE_TEXT),
        ("ok \udcff", RowFault.UNUSABLE_TEXT),
        (True, RowFault.UNSUPPORTED_TYPE),
        (False, RowFault.UNSUPPORTED_TYPE),
        (3.5, RowFault.UNSUPPORTED_TYPE),
        (2.0**53, RowFault.UNSUPPORTED_TYPE),  # 2^53 + 1 is the same float
        (-1e300, RowFault.UNSUPPORTED_TYPE),
        (float("nan"), RowFault.UNSUPPORTED_TYPE),
        (float("inf"), RowFault.UNSUPPORTED_TYPE),
        (Decimal("10.5"), RowFault.UNSUPPORTED_TYPE),
        (Decimal("NaN"), RowFault.UNSUPPORTED_TYPE),
        (Decimal("Infinity"), RowFault.UNSUPPORTED_TYPE),
        (Decimal("1E+999999"), RowFault.UNSUPPORTED_TYPE),  # beyond any float
        (b"u1", RowFault.UNSUPPORTED_TYPE),
        pytest.param(memoryview(b"u1"), RowFault.UNSUPPORTED_TYPE, id="memoryview"),
        (datetime(2026, 1, 1, tzinfo=UTC), RowFault.UNSUPPORTED_TYPE),
        (["u1"], RowFault.UNSUPPORTED_TYPE),
        ({"id": 1}, RowFault.UNSUPPORTED_TYPE),
        (unreadable("infinity", "date too large"), RowFault.UNREADABLE_VALUE),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_be_a_key_has_a_reason(value: object, reason: RowFault) -> None:
    """A row is rejected by name, never guessed at."""
    assert stringify(value, STANDARD_RULES) is reason


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_a_key_is_usable_text_or_rejected(text: str) -> None:
    """No key holds what separates lines, and none is changed."""
    key = stringify(text, STANDARD_RULES)

    assert isinstance(key, RowFault) or (key == text and not set(key) & set(map(chr, [*range(32), 127])))


def filed(
    rows: Sequence[Row], columns: KeyColumns, *, rules: KeyRules = STANDARD_RULES, a_page: int = 1000
) -> tuple[list[str], list[RejectedRow]]:
    """Return the lines of some rows, as a sync reads them page by page, and the rejections."""
    rejections: list[RejectedRow] = []
    maker = LineMaker(columns, reject=rejections.append, rules=rules)
    with DuckDbDiff(maker.wrapping) as diff:
        for start in range(0, len(rows), a_page):
            page = rows[start : start + a_page]
            diff.add(maker.lines(page), len(page))
        if maker.may_err:
            for lines_again, count in [(maker.again(odd), len(odd)) for odd in diff.take_out(rules)]:
                diff.add(lines_again, count)
        lines = [to_line(from_line(line, diff.wrapping)) for page in diff.everybody() for line in page]
    keys = [line.partition("\t")[0] for line in lines]
    assert keys == sorted(keys)
    return sorted(lines), rejections


def taken(
    rows: Sequence[Row], columns: KeyColumns, *, rules: KeyRules = STANDARD_RULES
) -> tuple[list[str], list[RejectedRow]]:
    """Return the lines of some rows and the rejections as they follow from each value, without any short cut."""
    lines: list[str] = []
    rejections: list[RejectedRow] = []
    names = columns.names or tuple("123")
    for row in rows:
        shown = excerpt(columns, row)
        key = stringify(row[columns.identity], rules)
        if isinstance(key, RowFault):
            bad = row[columns.identity]
            detail = f"column {names[columns.identity]}: {bad.problem}" if isinstance(bad, Unreadable) else None
            rejections.append(RejectedRow(key, storable(bad), shown, detail))
            continue
        found: dict[str, dict[str, str]] = {}
        for kind, others in (("user", columns.user), ("company", columns.company)):
            for name, position in others:
                text = stringify(row[position], rules)
                if not isinstance(text, RowFault):
                    found.setdefault(kind, {})[name] = text
                elif text not in (RowFault.NULL_KEY, RowFault.EMPTY_KEY):
                    bad = row[position]
                    detail = f"column {names[position]}: {bad.problem if isinstance(bad, Unreadable) else text}"
                    rejections.append(RejectedRow(RowFault.OMITTED_IDENTIFIER, key, shown, detail))
        lines.append(f"{key}\t{canonical(found)}" if found else key)
    return lines, rejections


def counted(rejections: list[RejectedRow]) -> Counter[RejectedRow]:
    """Return rejections in no order; an absent identifier may be shown as an empty one or as none."""
    return Counter(rejection._replace(row=rejection.row.replace('""', "null")) for rejection in rejections)


def test_other_identifiers_go_with_the_key() -> None:
    """A row becomes its key and its other identifiers, in one canonical form, absent ones left out."""
    columns = KeyColumns(0, (("email", 1),), (("groupId", 2),))

    lines, rejections = filed([("u1", "a@b", 7), ("u2", None, ""), ("u3", None, "c")], columns)

    assert sorted(lines) == [
        'u1\t{"company":{"groupId":"7"},"user":{"email":"a@b"}}',
        "u2",
        'u3\t{"company":{"groupId":"c"}}',
    ]
    assert rejections == []


def test_rejected_rows_can_be_recognised() -> None:
    """A rejection holds its reason, its key where it has one, and the row's identifying columns as storable text."""
    columns = KeyColumns(0, (), (("groupId", 1),))

    lines, rejections = filed([(None, "c1"), ("bad\x00key", "c\ud800"), ("y" * 300, None)], columns)

    assert lines == []
    assert rejections == [
        RejectedRow(RowFault.NULL_KEY, None, '[null,"c1"]'),
        RejectedRow(RowFault.UNUSABLE_TEXT, "bad�key", '["bad�key","c�"]'),
        RejectedRow(RowFault.LONG_KEY, "y" * 255, canonical(["y" * 255, None])),
    ]


def test_an_unusable_identifier_does_not_cost_the_member() -> None:
    """A member with an unusable company key stays a member, and the rejection names the column."""
    columns = KeyColumns(0, (), (("groupId", 1),), ("id", "account"))
    lines, rejections = filed([("u1", b"raw"), ("u2", unreadable("infinity", "date too large"))], columns)

    assert sorted(lines) == ["u1", "u2"]
    assert rejections == [
        RejectedRow(RowFault.OMITTED_IDENTIFIER, "u1", '["u1","b\'raw\'"]', "column account: unsupported_type"),
        RejectedRow(RowFault.OMITTED_IDENTIFIER, "u2", '["u2","infinity"]', "column account: date too large"),
    ]


def test_an_unreadable_key_costs_its_row_alone() -> None:
    """The rejection names the column and shows the row; neighbours and columns that are not used do not matter."""
    bad = unreadable("infinity", "date too large")
    columns = KeyColumns(0, (), (), ("id", "seen_at"))

    lines, rejections = filed([(bad, 1), ("u2", bad)], columns)

    assert lines == ["u2"]
    assert rejections == [
        RejectedRow(RowFault.UNREADABLE_VALUE, "infinity", '["infinity"]', "column id: date too large")
    ]


def test_columns_are_found_by_name() -> None:
    """The identity and the other keys are found wherever their columns stand."""
    actual = key_columns(
        ["company", "mail", "id"],
        identity="userId",
        user_keys={"userId": "id", "email": "mail"},
        company_keys={"groupId": "company"},
    )

    assert actual == KeyColumns(2, (("email", 1),), (("groupId", 0),), ("company", "mail", "id"))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [(["mail"], "no column 'id', which user_keys.userId"), (["id", "id"], "more than one column 'id'")],
)
def test_a_wrong_column_is_named(columns: list[str], problem: str) -> None:
    """A query without the column it should have is refused, with the setting that names it and all columns."""
    with pytest.raises(SourceError, match=problem) as caught:
        key_columns(columns, identity="userId", user_keys={"userId": "id"}, company_keys={})

    assert caught.value.hint == f"it has the columns {', '.join(columns)}"


@given(
    st.lists(
        st.builds(
            lambda key, identifiers, value: to_line(
                Member(key, canonical(identifiers) if identifiers else None, value)
            ),
            st.sampled_from(["a", "b", "a b", "ab", "é"]),
            st.dictionaries(
                st.sampled_from(["user", "company"]),
                st.dictionaries(
                    st.sampled_from(["k", ":", '"', "\\"]), st.sampled_from(["1", ":", '":"', "\\", "a,b"]), min_size=1
                ),
            ),
            st.sampled_from([None, "1", '"x"', '"\\":\\""']),
        )
    ),
    st.randoms(),
)
def test_one_line_for_each_key_whatever_the_order(lines: list[str], random: Random) -> None:
    """The row with more identifiers is used, then the smallest, in any order of rows; none vanishes uncounted."""
    left_out: list[str] = []
    kept = list(distinct(sorted(lines), left_out=left_out.append))

    def rank(line: str) -> tuple[int, str]:
        found: dict[str, dict[str, str]] = json.loads(from_line(line).identifiers or "{}")
        return -sum(map(len, found.values())), line

    by_key: dict[str, list[str]] = {}
    for line in lines:
        by_key.setdefault(line.partition("\t")[0], []).append(line)
    assert kept == sorted(min(found, key=rank) for found in by_key.values())
    assert sorted([*kept, *left_out]) == sorted(lines)
    shuffled = lines[:]
    random.shuffle(shuffled)
    shuffled.sort(key=lambda line: line.partition("\t")[0])
    others: list[str] = []
    assert sorted(distinct(shuffled, left_out=others.append)) == sorted(kept)
    assert sorted(others) == sorted(left_out)


def test_the_row_with_more_identifiers_is_used() -> None:
    """A row that lost its email or company in a join does not hide the one that has it."""
    columns = KeyColumns(0, (("email", 1),), (("groupId", 2),))
    lines, _ = filed([("u1", None, None), ("u1", "z@example.com", "c2"), ("u1", "a@example.com", None)], columns)

    left_out: list[str] = []
    kept = list(distinct(lines, left_out=left_out.append))

    assert kept == ['u1\t{"company":{"groupId":"c2"},"user":{"email":"z@example.com"}}']
    assert left_out == ["u1", 'u1\t{"user":{"email":"a@example.com"}}']


# Texts that a page of ASCII may have: the quick look at such a page knows no placeholder and no length.
QUICK: list[object] = [
    *("u1", "u2", "c1", "a.b@example.com", "it's", "'", "''", "%", "100%", "a_b", ".*", "1", "0", "007", "{", "[1]"),
    *("NULL", "null", "N/A", "n/a", "NaN", "nil", "#REF!", "(null)", str(UUID(int=0)), "true", "STRASSE", "strasse"),
    *("x" * 255, "x" * 256, "y" * 300, "It'S", "A_B", "100%%", "nullify", "nul", "1.5"),
]
ODD: list[object] = [
    *("", " ", "  ", " u1", "u1 ", " NULL ", "[object Object]", 'a"b', '"', '""', "a\\b", "\\N", "\\", "a\tb", "a\nb"),
    *("a\x00b", "\x7f", "\x85", "a\x85b", "\xa0", "a\xa0b", "\u2028a", "\r", "e\u0301", "straße", "Straße", "ſtrasse"),
    *("🙂" * 255, "🙂" * 256, "é" * 256, "é", "\ud800", "ok \udcff", None, 7, 0, -1, 10**255, True, b"u1", 2.5, 3.0),
    *(Decimal("10.00"), UUID(int=0), UUID(int=1), unreadable("infinity", "date too large")),
]
ASCII = st.sampled_from(QUICK) | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=3)
VALUES = ASCII | st.sampled_from(ODD) | st.text(max_size=3)
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=5)
QUICK_ROWS = st.lists(st.tuples(ASCII, ASCII | st.just(""), ASCII), min_size=1, max_size=5)
COLUMNS = {
    "company": KeyColumns(0, (), (("groupId", 1),), ("id", "account")),
    "unnamed": KeyColumns(0, (), (("groupId", 1),)),
    "user": KeyColumns(0, (("email", 1),), (), ("id", "mail")),
    "reversed": KeyColumns(1, (), (("groupId", 0),), ("account", "id")),
    "three": KeyColumns(2, (("it's", 0),), (), ("mail", "more", "id")),
    "single": KeyColumns(0, (), (), ("id",)),
    "key of two": KeyColumns(1, (), (), ("more", "id")),
    "both": KeyColumns(0, (("email", 0),), (), ("mail",)),
    "both of two": KeyColumns(1, (), (("groupId", 1),), ("more", "id")),
    "several": KeyColumns(0, (("email", 2),), (("groupId", 1),), ("id", "account", "mail")),
}
RULES = {
    "standard": STANDARD_RULES,
    "files": KeyRules(PLACEHOLDERS, of_text_files=True),
    "custom": KeyRules(("Straße", "it's", "'", "%", "a_b", ".*", " 100% ", "", "0")),
    "none": KeyRules(()),
}


def cut(rows: Sequence[Row], columns: KeyColumns) -> list[Row]:
    """Return rows with as many values as there are columns."""
    return [row[: len(columns.names) or 2] for row in rows]


@given(st.sampled_from([*RULES.values()]), st.lists(ROWS | QUICK_ROWS, max_size=3), st.integers(1, 5))
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_filing_is_stringifying_each_value(
    columns: KeyColumns, rules: KeyRules, pages: list[list[Row]], a_page: int
) -> None:
    """The short cuts of the loop that every row goes through change no key, no identifier and no rejection."""
    rows = cut([row for page in pages for row in page], columns)
    expected, rejected = taken(rows, columns, rules=rules)

    lines, rejections = filed(rows, columns, rules=rules, a_page=a_page)

    assert lines == sorted(expected)
    assert counted(rejections) == counted(rejected)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize(("values", "a_page"), [(QUICK, 10_000), (QUICK + ODD, 1)], ids=["ascii", "odd"])
def test_each_odd_value_is_taken_as_if_it_were_alone(
    columns: KeyColumns, rules: KeyRules, values: list[object], a_page: int
) -> None:
    """An odd value is taken as its type and text demand, as a key and as an identifier, on a page of any size."""
    pairs = [(one, other) for one in values for other in ("u1", "", "NULL", "x" * 256, one)]
    if a_page > 1:  # then all keys and identifiers of the page have a text, so that it is not looked at row by row
        pairs = [pair for pair in pairs if "" not in pair]
    rows = cut([row for one, other in pairs for row in ((one, other, one), (other, one, other))], columns)
    expected, rejected = taken(rows, columns, rules=rules)

    lines, rejections = filed(rows, columns, rules=rules, a_page=a_page)

    assert lines == sorted(expected)
    assert counted(rejections) == counted(rejected)


def test_what_the_quick_look_lets_through_is_made_again() -> None:
    """A page of plain ASCII is not looked at row by row; placeholders and long keys are found among its lines."""
    columns = KeyColumns(0, (), (("groupId", 1),), ("id", "account"))
    rows = [("u1", "c1"), ("NULL", "c1"), ("u2", "n/a"), ("x" * 256, "null"), ("u3", "c" * 256), ("u4", "")]
    rejections: list[RejectedRow] = []
    maker = LineMaker(columns, reject=rejections.append, rules=STANDARD_RULES)

    assert maker.may_err
    assert maker.lines(rows) == "".join(f"{key}\t{company}\n" for key, company in rows).encode()
    assert rejections == []
    lines, rejections = filed(rows, columns)
    assert lines == ['u1\t{"company":{"groupId":"c1"}}', "u2", "u3", "u4"]
    assert counted(rejections) == counted(
        [
            RejectedRow(RowFault.PLACEHOLDER_KEY, "NULL", '["NULL","c1"]'),
            RejectedRow(RowFault.OMITTED_IDENTIFIER, "u2", '["u2","n/a"]', "column account: placeholder_key"),
            RejectedRow(RowFault.LONG_KEY, "x" * 255, canonical(["x" * 255, "null"])),
            RejectedRow(RowFault.OMITTED_IDENTIFIER, "u3", canonical(["u3", "c" * 255]), "column account: long_key"),
        ]
    )


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_the_same_lines_are_made_again(rules: KeyRules) -> None:
    """Keys that the rules allow, and identifiers without a quick form, come out unchanged."""
    columns = KeyColumns(1, (), (("groupId", 0),), ("account", "id"))
    pairs = [("u1", "c1"), ("u2", None), ("x" * 255, "é"), ("a b", 'c"1'), ("u3", "c\\1")]
    rejections: list[RejectedRow] = []
    maker = LineMaker(columns, reject=rejections.append, rules=rules)

    lines = maker.again(pairs).decode().splitlines()

    assert [to_line(from_line(line, maker.wrapping)) for line in lines] == taken(
        [(other, key) for key, other in pairs], columns, rules=rules
    )[0]
    assert rejections == []


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
@given(st.lists(ROWS | QUICK_ROWS, max_size=3))
def test_bare_lines_become_the_same_lines(columns: KeyColumns, pages: list[list[Row]]) -> None:
    """A line without its JSON is in the end the line that it would have been with it, on whatever page it came."""
    maker = LineMaker(columns, reject=lambda _: None, rules=STANDARD_RULES)
    for page in pages:
        rows = cut(page, columns)

        assert [to_line(from_line(line, maker.wrapping)) for line in maker.singly(rows)] == taken(rows, columns)[0]


@pytest.mark.parametrize(
    ("company", "written"),
    [
        ("c1", "\tc1"),
        ("é 🙂", "\té 🙂"),
        ("it's", "\tit's"),
        ("{", "\t{"),
        (7, "\t7"),
        ("", ""),
        (None, ""),
        ('c"2', '\t{"company":{"groupId":"c\\"2"}}'),
        ("c\\3", '\t{"company":{"groupId":"c\\\\3"}}'),
    ],
)
def test_a_single_identifier_stands_bare(company: object, written: str) -> None:
    """An identifier that JSON writes as it is stands in its line alone; any other one stands there in its JSON."""
    maker = LineMaker(KeyColumns(0, (), (("groupId", 1),)), reject=lambda _: None, rules=STANDARD_RULES)

    assert [*maker.singly([("u1", company)])] == [f"u1{written}"]
    assert maker.lines([("u1", company)]).decode().removesuffix("\n").removesuffix("\t") == f"u1{written}"


@pytest.mark.parametrize("name", ["groupId", "it's", 'a"b', "a\\b", "é", "\\u0000"])
def test_any_name_of_an_identifier_is_written_around_it(name: str) -> None:
    """The JSON that is left out of lines and put around them again is that of the identifier's name."""
    columns = KeyColumns(0, (), ((name, 1),), ("id", "account"))
    rows = [("u1", "c1"), ("u2", None), ("u3", 'c"3'), ("u4", "é"), ("NULL", "NULL")]

    assert filed(rows, columns)[0] == taken(rows, columns)[0]


def test_a_byte_order_mark_belongs_to_its_key() -> None:
    """Text is taken as it is, though it begins as some text files do."""
    lines, _ = filed([("\ufeffu1", "c1")], COLUMNS["company"])

    assert lines == ['\ufeffu1\t{"company":{"groupId":"c1"}}']


@pytest.mark.parametrize("columns", [COLUMNS["single"], COLUMNS["several"]], ids=["none", "two"])
def test_only_a_single_identifier_is_wrapped(columns: KeyColumns) -> None:
    """Members without other identifiers, or with several, have their whole lines at once."""
    maker = LineMaker(columns, reject=lambda _: None, rules=STANDARD_RULES)
    rows = cut([("u1", "c1", "a@b"), ("u2", "c2", "c@d"), ("u3", None, "")], columns)

    assert wrapping(columns) is maker.wrapping is None
    lines = maker.lines(rows).decode().splitlines()
    assert lines == [to_line(from_line(line, maker.wrapping)) for line in lines] == taken(rows, columns)[0]


def test_a_key_of_a_million_characters_is_a_long_key() -> None:
    """A text of any length costs only its own row."""
    lines, rejections = filed([("a", "c"), ("x" * 1_200_000, "c"), ("b", "d")], KeyColumns(0, (), (("groupId", 1),)))

    assert [line.partition("\t")[0] for line in lines] == ["a", "b"]
    assert [one.reason for one in rejections] == [RowFault.LONG_KEY]
