"""Values of computed traits have one canonical form, and what has none is rejected with a reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.model import Member, TraitType
from audience_sync.core.rows import KeyColumns, Reason, Rejection, Row, ValueColumn, shard_rows, value_position
from audience_sync.core.shards import SHARDS, from_line
from audience_sync.core.values import MAX_VALUE_LENGTH, value_reader
from audience_sync.errors import SourceError

INFINITY = float("inf")
LONGEST = "x" * MAX_VALUE_LENGTH
MOMENT = datetime(2026, 3, 31, 14, 30, tzinfo=timezone(timedelta(hours=2)))

of_json = value_reader(values_are_json=True, trait_type=None)
of_python = value_reader(values_are_json=False, trait_type=None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (2**53 + 1, "9007199254740993"),
        (2**64, "1.84467440737e+19"),
        (1.0, "1"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (0.1 + 0.2, "0.3"),
        (2.9999999999999996, "3"),
        (1 / 3, "0.333333333333"),
        (1e-7, "1e-7"),
        (1e300, "1e+300"),
        (1234567890123.0, "1234567890123"),
        (2.0**53, "9007199254740000"),
        (Decimal("10.00"), "10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("19.90"), "19.9"),
        (Decimal("0.1") + Decimal("0.2"), "0.3"),
        (Decimal(1234567890123456789), "1234567890123456789"),
        (Decimal("1E+30"), "1e+30"),
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
    ("value", "reason"),
    [
        (None, Reason.NULL_VALUE),
        (LONGEST + "x", Reason.LONG_VALUE),
        (["x" * 1020, 1], Reason.LONG_VALUE),
        (float("nan"), Reason.UNFIT_VALUE),
        (-INFINITY, Reason.UNFIT_VALUE),
        (Decimal("sNaN"), Reason.UNFIT_VALUE),
        (Decimal("Infinity"), Reason.UNFIT_VALUE),
        (Decimal("1E+999999"), Reason.UNFIT_VALUE),
        (10**400, Reason.UNFIT_VALUE),
        ([1, INFINITY], Reason.UNFIT_VALUE),
        ("half \ud800", Reason.UNFIT_VALUE),
        ({1: "a"}, Reason.UNFIT_VALUE),
        (b"raw", Reason.UNFIT_VALUE),
        ({"a"}, Reason.UNFIT_VALUE),
        (timedelta(1), Reason.UNFIT_VALUE),
        (time(12), Reason.UNFIT_VALUE),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), Reason.UNFIT_VALUE),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_cannot_be_a_value_has_a_reason(value: object, reason: Reason) -> None:
    """What Schematic could not be told is named, and never told in part."""
    assert of_python(value) is reason


def test_a_list_within_itself_is_rejected() -> None:
    """A value without an end costs its row alone."""
    endless: list[object] = []
    endless.append(endless)

    assert of_python(endless) is Reason.UNFIT_VALUE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", Reason.NULL_VALUE),
        (None, Reason.NULL_VALUE),
        ("1.0", "1"),
        ("0.30000000000000004", "0.3"),
        ("1e2", "100"),
        ("123456789012345678901234567890", "1.23456789012e+29"),
        ('"a"', '"a"'),
        ('"5"', '"5"'),
        ("true", "true"),
        ('["b", "a"]', r'"[\"a\",\"b\"]"'),
        ('{"b": 2.0, "a": 1}', r'"{\"a\":1,\"b\":2}"'),
        (json.dumps(LONGEST + "x"), Reason.LONG_VALUE),
        ("NaN", Reason.UNFIT_VALUE),
        ("not json", Reason.UNFIT_VALUE),
        ("", Reason.UNFIT_VALUE),
        ("[" * 2000 + "]" * 2000, Reason.UNFIT_VALUE),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_json_text_is_read_as_json(text: str | None, expected: str) -> None:
    """What a query computes comes as JSON text, and has the same canonical form."""
    actual = of_json(text)

    assert actual == expected
    assert type(actual) is type(expected)


SCALARS = (
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


@given(st.one_of(SCALARS, st.lists(SCALARS), st.dictionaries(st.text(), SCALARS)))
def test_a_value_read_again_is_the_same(value: object) -> None:
    """A canonical value is its own canonical form: nothing changes by being told twice."""
    text = of_python(value)

    assert isinstance(text, Reason) or of_json(text) == text


@given(st.lists(SCALARS, max_size=6), st.randoms())
def test_the_order_of_a_list_is_no_matter(values: list[object], random: object) -> None:
    """Databases give the elements of a set in any order, and some twice."""
    shuffled = [*values, *values]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's own Random

    assert of_python(values) == of_python(shuffled)


@pytest.mark.parametrize(
    ("trait_type", "fitting", "unfit"),
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
def test_a_declared_type_is_kept(trait_type: TraitType, fitting: list[object], unfit: list[object]) -> None:
    """A trait that Schematic knows as of one type is never sent as another."""
    read = value_reader(values_are_json=False, trait_type=trait_type)

    assert not any(isinstance(read(value), Reason) for value in fitting)
    assert {read(value) for value in unfit} == {Reason.UNFIT_VALUE}
    assert read(None) is Reason.NULL_VALUE


def test_a_number_declared_boolean_is_one_where_databases_have_none() -> None:
    """SQLite and MySQL say 1 for true; JSON says true itself."""
    said = value_reader(values_are_json=False, trait_type=TraitType.BOOLEAN)
    computed = value_reader(values_are_json=True, trait_type=TraitType.BOOLEAN)

    assert (said(1), said(0)) == ("true", "false")
    assert (computed("true"), computed("1")) == ("true", Reason.UNFIT_VALUE)


def filed(rows: list[Row]) -> tuple[list[Member], list[Rejection]]:
    """Return the members that rows of key, value and company are filed as, by key, and the rejections."""
    lines: list[list[str]] = [[] for _ in range(SHARDS)]
    rejections: list[Rejection] = []
    columns = KeyColumns(0, (), (("groupId", 2),))
    shard_rows(columns, lines=lines, reject=rejections.append, value_column=ValueColumn(1, of_python))(rows)
    return sorted(from_line(line) for found in lines for line in found), rejections


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
        Rejection(Reason.NULL_KEY, None, '[null,"c1"]'),
        Rejection(Reason.NULL_VALUE, "u1", '["u1","c1"]'),
        Rejection(Reason.LONG_VALUE, "u2", '["u2","c1"]'),
        Rejection(Reason.UNFIT_VALUE, "u3", '["u3",null]'),
    ]


@pytest.mark.parametrize(("columns", "problem"), [(["user_id"], "no"), (["value", "value"], "more than one")])
def test_a_computed_trait_needs_one_value(columns: list[str], problem: str) -> None:
    """A result without the column `value` is refused, with the columns that it has."""
    with pytest.raises(SourceError, match=f"{problem} column 'value', which a computed trait needs") as caught:
        value_position(columns)

    assert caught.value.hint == f"its columns are {', '.join(columns)}"
