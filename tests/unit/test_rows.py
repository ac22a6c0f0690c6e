"""Rows become members in one way only, and what cannot become one is rejected with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import KeyColumns, Reason, Rejection, Row, canonical, key_columns, stringify
from audience_sync.core.model import Member
from audience_sync.core.rows import distinct, shard_rows, wrapped, wrapping
from audience_sync.core.shards import SHARDS, from_line, shard_of, to_line
from audience_sync.core.unreadable import unreadable
from audience_sync.errors import SourceError

GREATEST = 10**254  # 255 digits


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
    assert stringify(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NULL_KEY),
        ("", Reason.EMPTY_KEY),
        ("   ", Reason.EMPTY_KEY),
        ("\t\n", Reason.EMPTY_KEY),
        ("\xa0", Reason.EMPTY_KEY),
        ("x" * 256, Reason.LONG_KEY),
        (GREATEST * 10, Reason.LONG_KEY),
        (Decimal("1E+300"), Reason.LONG_KEY),
        ("\x00", Reason.UNUSABLE_TEXT),
        ("a\x00", Reason.UNUSABLE_TEXT),
        ("a\tb", Reason.UNUSABLE_TEXT),
        ("a\n", Reason.UNUSABLE_TEXT),
        ("a\x7f", Reason.UNUSABLE_TEXT),
        ("\ud800", Reason.UNUSABLE_TEXT),
        ("ok \udcff", Reason.UNUSABLE_TEXT),
        (True, Reason.UNSUPPORTED_TYPE),
        (False, Reason.UNSUPPORTED_TYPE),
        (3.5, Reason.UNSUPPORTED_TYPE),
        (2.0**53, Reason.UNSUPPORTED_TYPE),  # 2^53 + 1 is the same float
        (-1e300, Reason.UNSUPPORTED_TYPE),
        (float("nan"), Reason.UNSUPPORTED_TYPE),
        (float("inf"), Reason.UNSUPPORTED_TYPE),
        (Decimal("10.5"), Reason.UNSUPPORTED_TYPE),
        (Decimal("NaN"), Reason.UNSUPPORTED_TYPE),
        (Decimal("Infinity"), Reason.UNSUPPORTED_TYPE),
        (Decimal("1E+999999"), Reason.UNSUPPORTED_TYPE),  # beyond any float
        (b"u1", Reason.UNSUPPORTED_TYPE),
        pytest.param(memoryview(b"u1"), Reason.UNSUPPORTED_TYPE, id="memoryview"),
        (datetime(2026, 1, 1, tzinfo=UTC), Reason.UNSUPPORTED_TYPE),
        (["u1"], Reason.UNSUPPORTED_TYPE),
        ({"id": 1}, Reason.UNSUPPORTED_TYPE),
        (unreadable("infinity", "date too large"), Reason.UNREADABLE_VALUE),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_be_a_key_has_a_reason(value: object, reason: Reason) -> None:
    """A row is rejected by name, never guessed at."""
    assert stringify(value) is reason


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_a_key_is_usable_text_or_rejected(text: str) -> None:
    """No key holds what separates lines, and none is changed."""
    key = stringify(text)

    assert isinstance(key, Reason) or (key == text and not set(key) & set(map(chr, [*range(32), 127])))


def filed(rows: list[Row], columns: KeyColumns) -> tuple[list[str], list[Rejection]]:
    """Return the lines of some rows, in shard order, and the rejections."""
    lines: list[list[str]] = [[] for _ in range(SHARDS)]
    rejections: list[Rejection] = []
    shard_rows(columns, lines=lines, reject=rejections.append)(rows)
    for shard, found in enumerate(lines):
        assert all(shard_of(line.partition("\t")[0]) == shard for line in found)
    return [line for found in lines for line in found], rejections


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
        Rejection(Reason.NULL_KEY, None, '[null,"c1"]'),
        Rejection(Reason.UNUSABLE_TEXT, "bad�key", '["bad�key","c�"]'),
        Rejection(Reason.LONG_KEY, "y" * 255, canonical(["y" * 255, None])),
    ]


def test_an_unusable_identifier_does_not_cost_the_member() -> None:
    """A member with an unusable company key stays a member, and the rejection names the column."""
    columns = KeyColumns(0, (), (("groupId", 1),), ("id", "account"))
    lines, rejections = filed([("u1", b"raw"), ("u2", unreadable("infinity", "date too large"))], columns)

    assert sorted(lines) == ["u1", "u2"]
    assert rejections == [
        Rejection(Reason.OMITTED_IDENTIFIER, "u1", '["u1","b\'raw\'"]', "column account: unsupported_type"),
        Rejection(Reason.OMITTED_IDENTIFIER, "u2", '["u2","infinity"]', "column account: date too large"),
    ]


def test_an_unreadable_key_costs_its_row_alone() -> None:
    """The rejection names the column and shows the row; neighbours and columns that are not used do not matter."""
    bad = unreadable("infinity", "date too large")
    columns = KeyColumns(0, (), (), ("id", "seen_at"))

    lines, rejections = filed([(bad, 1), ("u2", bad)], columns)

    assert lines == ["u2"]
    assert rejections == [Rejection(Reason.UNREADABLE_VALUE, "infinity", '["infinity"]', "column id: date too large")]


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

    assert caught.value.hint == f"its columns are {', '.join(columns)}"


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
    kept, left_out = distinct(lines)

    def rank(line: str) -> tuple[int, str]:
        found: dict[str, dict[str, str]] = json.loads(from_line(line).identifiers or "{}")
        return -sum(map(len, found.values())), line

    by_key: dict[str, list[str]] = {}
    for line in lines:
        by_key.setdefault(line.partition("\t")[0], []).append(line)
    assert kept == {min(found, key=rank) for found in by_key.values()}
    assert sorted([*kept, *left_out]) == sorted(lines)
    shuffled = lines[:]
    random.shuffle(shuffled)
    assert distinct(shuffled) == (kept, left_out)


def test_the_row_with_more_identifiers_is_used() -> None:
    """A row that lost its email or company in a join does not hide the one that has it."""
    columns = KeyColumns(0, (("email", 1),), (("groupId", 2),))
    lines, _ = filed([("u1", None, None), ("u1", "z@example.com", "c2"), ("u1", "a@example.com", None)], columns)

    kept, left_out = distinct(lines)

    assert kept == {'u1\t{"company":{"groupId":"c2"},"user":{"email":"z@example.com"}}'}
    assert left_out == ["u1", 'u1\t{"user":{"email":"a@example.com"}}']


@given(
    st.lists(
        st.tuples(
            st.text(max_size=3) | st.sampled_from([" ", "\xa0", "a\xa0b", "x" * 256, 7, None, True]),
            st.sampled_from(["c1", "c2", "", "bad\x00", 7, None]),
        ),
        max_size=6,
    )
)
def test_filing_is_stringifying_each_value(rows: list[tuple[object, object]]) -> None:
    """The short cuts of the loop that every row goes through change no key, no identifier and no rejection."""
    expected = []
    rejected = 0
    for key, company in rows:
        text, other = stringify(key), stringify(company)
        rejected += isinstance(text, Reason) or other in (Reason.UNUSABLE_TEXT, Reason.UNSUPPORTED_TYPE)
        if not isinstance(text, Reason):
            tail = "" if isinstance(other, Reason) else "\t" + canonical({"company": {"groupId": other}})
            expected.append(text + tail)

    lines, rejections = filed([*rows], KeyColumns(0, (), (("groupId", 1),)))

    assert sorted(lines) == sorted(expected)
    assert len(rejections) == rejected


PAGES = st.lists(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8"), max_size=3) | st.sampled_from([" ", 'a"b', "a\\b", 7, None]),
            st.text(max_size=3) | st.sampled_from(["c1", 'c"2', "c\\3", "{", "\xa0", 7, None]),
        ),
        max_size=4,
    ),
    max_size=3,
)


@given(PAGES, st.booleans())
def test_bare_lines_become_the_same_lines(pages: list[list[Row]], of_user: bool) -> None:
    """A line that waits without its JSON is in the end the line that it would have been, on whatever page it came."""
    columns = KeyColumns(0, (("email", 1),), ()) if of_user else KeyColumns(0, (), (("groupId", 1),))
    found: list[list[list[str]]] = []
    for bare in (False, True):
        lines: list[list[str]] = [[] for _ in range(SHARDS)]
        file = shard_rows(columns, lines=lines, reject=lambda _: None, bare=bare)
        for page in pages:
            file(page)
        found.append(lines)

    assert [wrapped("\n".join(lines), wrapping(columns)) for lines in found[1] if lines] == [
        lines for lines in found[0] if lines
    ]


@pytest.mark.parametrize(
    "columns", [KeyColumns(0, (), ()), KeyColumns(0, (("a", 1),), (("b", 2),))], ids=["none", "two"]
)
def test_only_a_single_identifier_is_wrapped(columns: KeyColumns) -> None:
    """Members without other identifiers, or with several, have their whole lines at once."""
    assert wrapping(columns) is None
    assert wrapped("u1\nu2", None) == ["u1", "u2"]
