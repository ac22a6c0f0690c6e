"""Values of computed traits have one canonical form, and what has none is rejected with a reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.audiences.text_values import text_value_reader
from audience_sync.core.keys import (
    KeyColumns,
    KeyRules,
    RefusedValue,
    RejectedRow,
    Row,
    RowFault,
    ValueColumn,
    unreadable,
    value_position,
)
from audience_sync.core.model import Member, TraitType
from audience_sync.core.rows import LineMaker, from_line
from audience_sync.core.values import MAX_VALUE_LENGTH, value_reader
from audience_sync.errors import SourceError

INFINITY = float("inf")
LONGEST = "x" * MAX_VALUE_LENGTH
MOMENT = datetime(2026, 3, 31, 14, 30, tzinfo=timezone(timedelta(hours=2)))

AS_TEXT = "send it as text"
TOO_LARGE = f"a number longer than 64 bits: {AS_TEXT}"
LOST_DIGITS = f"a float of 2^53 or more, which may be inexact: {AS_TEXT}"
NO_VALUE = RefusedValue(RowFault.NULL_VALUE)
TOO_LONG = RefusedValue(RowFault.LONG_VALUE, "longer than 1,024 characters, the maximum in Schematic")

of_json = value_reader(values_are_json=True, trait_type=None)
of_python = value_reader(values_are_json=False, trait_type=None)


def unfit(detail: str) -> RefusedValue:
    """Return the refusal of a value that has no canonical form."""
    return RefusedValue(RowFault.UNFIT_VALUE, detail)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (2**53 + 1, "9007199254740993"),
        (2**64 - 1, "18446744073709551615"),
        (-(2**63), "-9223372036854775808"),
        (1.0, "1"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (0.1 + 0.2, "0.3"),
        (2.9999999999999996, "3"),
        (1 / 3, "0.333333333333"),
        (1e-7, "1e-7"),
        (1234567890123.0, "1234567890123"),
        (2.0**53 - 1, "9007199254740991"),
        (12345678901.25, "12345678901.2"),
        (123456789012.75, "123456789013"),
        (4503599627370495.5, "4503599627370496"),
        (Decimal("10.00"), "10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("19.90"), "19.9"),
        (Decimal("0.1") + Decimal("0.2"), "0.3"),
        (Decimal(1234567890123456789), "1234567890123456789"),
        (Decimal(12345678901234567890), "12345678901234567890"),
        (Decimal("12345678901234567891.00"), "12345678901234567891"),
        (Decimal("1234567890123456789.75"), "1234567890123456790"),
        ("", '""'),
        ("  as it is ", '"  as it is "'),
        ('tab\t"quoted"', '"tab\\t\\"quoted\\""'),
        ("007", '"007"'),
        ("null", '"null"'),
        (LONGEST, f'"{LONGEST}"'),
        ("é" * MAX_VALUE_LENGTH, json.dumps("é" * MAX_VALUE_LENGTH, ensure_ascii=False)),
        (date(2026, 3, 31), '"2026-03-31"'),
        (datetime(2026, 3, 31, 12, 30, 1, tzinfo=UTC).replace(tzinfo=None), '"2026-03-31T12:30:01Z"'),
        (datetime(2026, 3, 31, 12, 30, 1, 5000, tzinfo=UTC), '"2026-03-31T12:30:01.005000Z"'),
        (MOMENT, '"2026-03-31T12:30:00Z"'),
        (UUID("12345678-ABCD-5678-1234-567812345678"), '"12345678-abcd-5678-1234-567812345678"'),
        (["b", "a", "b"], r'"[\"a\",\"b\"]"'),
        ((3, 1.0, 0.1 + 0.2, 1, Decimal("0.3")), '"[0.3,1,3]"'),
        ([None, [2, 1], {"b": 1, "a": None}], r'"[[2,1],null,{\"a\":null,\"b\":1}]"'),
        ([], '"[]"'),
        ({"b": Decimal("1.50"), "a": "x"}, r'"{\"a\":\"x\",\"b\":1.5}"'),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_values_have_one_text_form(value: object, text: str) -> None:
    """What is equal for a person is equal text, whichever type the database returns."""
    assert of_python(value) == text


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (None, NO_VALUE),
        (LONGEST + "x", TOO_LONG),
        (["x" * 1020, 1], TOO_LONG),
        (float("nan"), unfit("not a finite number")),
        (-INFINITY, unfit("not a finite number")),
        (Decimal("sNaN"), unfit("not a finite number")),
        (Decimal("Infinity"), unfit("not a finite number")),
        ([1, INFINITY], unfit("not a finite number")),
        (2**64, unfit(TOO_LARGE)),
        (-(2**63) - 1, unfit(TOO_LARGE)),
        (10**400, unfit(TOO_LARGE)),
        ([1, 2**64], unfit(TOO_LARGE)),
        ({"account": 2**64}, unfit(TOO_LARGE)),
        (Decimal(18446744073709551616), unfit(TOO_LARGE)),
        (Decimal("1E+999999"), unfit(TOO_LARGE)),
        (Decimal("123456789012345678901.5"), unfit(TOO_LARGE)),
        (Decimal("18446744073709551615.5"), unfit(TOO_LARGE)),
        (2.0**53, unfit(LOST_DIGITS)),
        (-(2.0**60), unfit(LOST_DIGITS)),
        (1e300, unfit(LOST_DIGITS)),
        ([2.0**53], unfit(LOST_DIGITS)),
        ("half \ud800", unfit("nested too deeply, or not valid UTF-8")),
        ({1: "a"}, unfit("an object with keys that are not strings")),
        (b"raw", unfit(f"of type bytes, which JSON does not support: {AS_TEXT}")),
        ({"a"}, unfit(f"of type set, which JSON does not support: {AS_TEXT}")),
        (timedelta(1), unfit(f"of type timedelta, which JSON does not support: {AS_TEXT}")),
        (time(12), unfit(f"of type time, which JSON does not support: {AS_TEXT}")),
        (
            datetime.min.replace(tzinfo=timezone(timedelta(hours=2))),
            unfit("a time outside the years 1 to 9999 in UTC"),
        ),
        (unreadable("infinity", "date too large"), RefusedValue(RowFault.UNREADABLE_VALUE, "date too large")),
        ([unreadable("infinity", "date too large")], RefusedValue(RowFault.UNREADABLE_VALUE, "date too large")),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_cannot_be_a_value_has_a_reason(value: object, refusal: RefusedValue) -> None:
    """A value that cannot be sent exactly is refused with what is wrong and what to do, and never sent in part."""
    assert of_python(value) == refusal


def test_a_list_within_itself_is_rejected() -> None:
    """A value without an end costs its row alone."""
    endless: list[object] = []
    endless.append(endless)

    assert of_python(endless) == unfit("lists or objects nested too deeply")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", NO_VALUE),
        (None, NO_VALUE),
        ("1.0", "1"),
        ("0.30000000000000004", "0.3"),
        ("1e2", "100"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", unfit(LOST_DIGITS)),
        ("9007199254740992.0", unfit(LOST_DIGITS)),
        ("1e20", unfit(LOST_DIGITS)),
        ('"a"', '"a"'),
        ('"5"', '"5"'),
        ("true", "true"),
        ('["b", "a"]', r'"[\"a\",\"b\"]"'),
        ('{"b": 2.0, "a": 1}', r'"{\"a\":1,\"b\":2}"'),
        (json.dumps(LONGEST + "x"), TOO_LONG),
        ("NaN", unfit("not valid JSON")),
        ("not json", unfit("not valid JSON")),
        ("", unfit("not valid JSON")),
        ("[" * 2000 + "]" * 2000, unfit("not valid JSON")),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_json_text_is_read_as_json(text: str | None, expected: str | RefusedValue) -> None:
    """What a query computes comes as JSON text, and has the same canonical form."""
    assert of_json(text) == expected


@given(st.integers(2**52, 2**70) | st.integers(-(2**70), -(2**52)), st.sampled_from(["int", "decimal", "json"]))
def test_a_whole_number_keeps_every_digit_or_is_refused(number: int, kind: str) -> None:
    """A whole number is never rounded, whichever type it comes as."""
    given_as = {"int": number, "decimal": Decimal(f"{number}.00"), "json": str(number)}[kind]
    read = of_json if kind == "json" else of_python

    assert read(given_as) == str(number) or isinstance(read(given_as), RefusedValue)


def test_a_text_of_digits_is_a_whole_number_whatever_its_length() -> None:
    """In a text file, a value does not become a text because its number is long: it is exact or refused."""
    read = text_value_reader(of_python, values_are_json=False, trait_type=None)

    assert [read(text) for text in ("0", "-17", str(2**64 - 1), "007")] == ["0", "-17", str(2**64 - 1), '"007"']
    assert [read("9" * length) for length in (20, 21, 40, 41, 5000)] == [unfit(TOO_LARGE)] * 5


@given(st.floats(2.0**50, 2.0**60))
def test_a_large_float_keeps_the_digits_before_its_point_or_is_refused(number: float) -> None:
    """What is rounded away of a float is smaller than 1."""
    text = of_python(number)

    assert isinstance(text, RefusedValue) or abs(int(text) - Decimal(number)) <= Decimal("0.5")
    assert isinstance(text, RefusedValue) is (number >= 2.0**53)


SCALARS = (
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


@given(st.one_of(SCALARS, st.lists(SCALARS), st.dictionaries(st.text(), SCALARS)))
def test_a_value_read_again_is_the_same(value: object) -> None:
    """A canonical value is its own canonical form: nothing changes by being told twice."""
    text = of_python(value)

    assert isinstance(text, RefusedValue) or of_json(text) == text


@given(st.lists(SCALARS, max_size=6), st.randoms())
def test_the_order_of_a_list_is_no_matter(values: list[object], random: object) -> None:
    """Databases give the elements of a set in any order, and some twice."""
    shuffled = [*values, *values]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's own Random

    assert of_python(values) == of_python(shuffled)


@pytest.mark.parametrize(
    ("trait_type", "fitting", "wrong"),
    [
        (TraitType.NUMBER, [1, 2.5, Decimal("1.5")], [True, "1", date(2026, 1, 1), [1]]),
        (TraitType.CURRENCY, [1, Decimal("19.90")], ["19.90", False]),
        (TraitType.BOOLEAN, [True, False, 0, 1], [2, 1.5, "true"]),
        (TraitType.STRING, ["", "a", ["a"], date(2026, 1, 1), UUID(int=1)], [1, True]),
        (TraitType.URL, ["https://example.com"], [1]),
        (
            TraitType.DATE,
            [
                date(2026, 1, 1), MOMENT, "2026-02-28", "2026-02-28T10:00Z", "2026-02-28 10:00:01.123456+02:00",
                "2024-02-29T23:59:59",
            ],
            ["2026-02-30", "2026-13-01", "20260101", "2026-W01-1", "tomorrow", 20260101, ["2026-01-01"], "2026-1-1"],
        ),
    ],
)  # fmt: skip
def test_a_declared_type_is_kept(trait_type: TraitType, fitting: list[object], wrong: list[object]) -> None:
    """A trait that Schematic knows as of one type is never sent as another."""
    read = value_reader(values_are_json=False, trait_type=trait_type)

    assert not any(isinstance(read(value), RefusedValue) for value in fitting)
    detail = f"not a {trait_type}, the declared type of the trait"
    assert {read(value) for value in wrong} == {RefusedValue(RowFault.UNFIT_VALUE, detail)}
    assert read(None) == NO_VALUE


def test_a_number_declared_boolean_is_one_where_databases_have_none() -> None:
    """SQLite and MySQL say 1 for true; JSON says true itself."""
    said = value_reader(values_are_json=False, trait_type=TraitType.BOOLEAN)
    computed = value_reader(values_are_json=True, trait_type=TraitType.BOOLEAN)

    assert (said(1), said(0)) == ("true", "false")
    assert (computed("true"), computed("1")) == ("true", unfit("not a boolean, the declared type of the trait"))


def filed(rows: list[Row]) -> tuple[list[Member], list[RejectedRow]]:
    """Return the members that rows of key, value and company are filed as, by key, and the rejections."""
    rejections: list[RejectedRow] = []
    columns = KeyColumns(0, (), (("groupId", 2),))
    maker = LineMaker(columns, reject=rejections.append, value_column=ValueColumn(1, of_python), rules=KeyRules(()))
    *lines, rest = maker.lines(rows).decode().split("\n")
    assert (rest, maker.may_err, maker.wrapping) == ("", False, None)
    return sorted(map(from_line, lines)), rejections


def test_a_value_is_the_third_field_of_a_line() -> None:
    """A row is its key, its other identifiers and its value, whether there are other identifiers or not."""
    members, rejections = filed([("u1", 5, "c1"), (2, "a\tb\n", None), ("u3", 0, "")])

    assert members == [
        Member("2", None, '"a\\tb\\n"'),
        Member("u1", '{"company":{"groupId":"c1"}}', "5"),
        Member("u3", None, "0"),
    ]
    assert rejections == []


def test_a_row_without_a_usable_key_or_value_is_rejected() -> None:
    """A rejection has the row's identifying columns, and its key; the value itself is nobody's to read there."""
    members, rejections = filed([(None, 5, "c1"), ("u1", None, "c1"), ("u2", "x" * 2000, "c1"), ("u3", b"raw", None)])

    assert members == []
    assert rejections == [
        RejectedRow(RowFault.NULL_KEY, None, '[null,"c1"]'),
        RejectedRow(RowFault.NULL_VALUE, "u1", '["u1","c1"]'),
        RejectedRow(RowFault.LONG_VALUE, "u2", '["u2","c1"]', f"column value: {TOO_LONG.detail}"),
        RejectedRow(
            RowFault.UNFIT_VALUE,
            "u3",
            '["u3",null]',
            "column value: of type bytes, which JSON does not support: send it as text",
        ),
    ]


@pytest.mark.parametrize(("columns", "problem"), [(["user_id"], "no"), (["value", "value"], "more than one")])
def test_a_computed_trait_needs_one_value(columns: list[str], problem: str) -> None:
    """A result without the column `value` is refused, with the columns that it has."""
    with pytest.raises(SourceError, match=f"{problem} column 'value', required for a computed trait") as caught:
        value_position(columns)

    assert caught.value.hint == f"it has the columns {', '.join(columns)}"
