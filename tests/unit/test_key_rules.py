"""Which texts are not keys: placeholders everywhere, and what was not text in a file."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.config.defaults import PLACEHOLDERS
from audience_sync.core.keys import KeyRules, RejectedRow, RowFault, key_columns, stringify
from audience_sync.core.rows import LineMaker, from_line, to_line

DATABASE = KeyRules(PLACEHOLDERS)
FILES = KeyRules(PLACEHOLDERS, of_text_files=True)
NUMBERS = [
    "12.5",
    "1.0",
    "1000.0",
    "12.50",
    "-3.5",
    ".5",
    "5.",
    "1.14739E+18",
    "1.14740e+18",
    "1E+05",
    "1E-7",
    "1.5E3",
    "+1.5",
    "1,147E+18",
]
OTHERS = ["true", "false", '{"a":1}', "{}", "[1]", '["a"]', "[]", "[null]", '[ {"a":1}]', "[-1]"]
TEXTS = [
    "0",
    "007",
    "+491701234567",
    "-5",
    " 5",
    "5 ",
    "12345678901234567890123",
    "9007199254740993",
    "12e45",  # half of a UUID may look like it
    "1E5",  # spreadsheets write a sign
    "1e3",
    "1.2.3",
    "10.0.0.1",
    "1,5",
    "1,234",
    "{8C139779-6750-4ACA-8280-6D447C97C2BB}",
    "[draft]",
    "TRUE story",
    "True",
    "nullify",
    "Nana",
    "a.5",
    "٣.٥",
]


@pytest.mark.parametrize(
    "text", [*PLACEHOLDERS, "null", "Null", " NULL ", "\\n", "none", "NONE", "nan", "Undefined", "n/a"]
)
@pytest.mark.parametrize("rules", [DATABASE, FILES], ids=["database", "files"])
def test_placeholders_are_not_keys(rules: KeyRules, text: str) -> None:
    """A text that stands for a missing value is refused, in any case and with blanks around it."""
    assert stringify(text, rules) is RowFault.PLACEHOLDER_KEY
    assert not rules.allow_all(["u1", text, "u2"])


def test_an_empty_uuid_is_not_a_key() -> None:
    """A UUID of zeroes is what programs write for none."""
    assert stringify(UUID(int=0), DATABASE) is RowFault.PLACEHOLDER_KEY
    assert stringify(UUID(int=1), DATABASE) == "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_that_is_not_written_whole_is_not_a_key_of_a_file(text: str) -> None:
    """It names nobody for sure: a spreadsheet may have rounded it. In a database it is a text like any other."""
    assert stringify(text, FILES) is RowFault.DECIMAL_KEY
    assert not FILES.allow_all(["1", text])
    assert stringify(text, DATABASE) == text
    assert DATABASE.allow_all(["1", text])


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_not_text_in_json_is_not_a_key_of_a_file(text: str) -> None:
    """Booleans, objects and lists name nobody."""
    assert stringify(text, FILES) is RowFault.UNSUPPORTED_TYPE
    assert not FILES.allow_all([text])
    assert stringify(text, DATABASE) == text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rules", [DATABASE, FILES], ids=["database", "files"])
def test_any_other_text_is_a_key_as_it_is_written(rules: KeyRules, text: str) -> None:
    """Leading zeros, signs, blanks and long digits stay."""
    assert stringify(text, rules) == text
    assert rules.allow_all([text, "u1"])


@pytest.mark.parametrize("value", [2.0**53, -(2.0**53), 1.14739e18])
def test_a_float_that_may_be_rounded_is_not_a_key(value: float) -> None:
    """A float beyond 2^53 does not say which whole number was meant."""
    assert stringify(value, DATABASE) is RowFault.UNSUPPORTED_TYPE
    assert stringify(2.0**53 - 1, DATABASE) == "9007199254740991"


def test_the_list_of_placeholders_is_configurable() -> None:
    """Texts in the list are refused, and no others."""
    rules = KeyRules(("Anonymous", "0"))

    assert stringify("ANONYMOUS", rules) is RowFault.PLACEHOLDER_KEY
    assert stringify(0, rules) is RowFault.PLACEHOLDER_KEY
    assert stringify("NULL", rules) == "NULL"
    assert stringify("NULL", KeyRules(())) == "NULL"


@given(st.lists(st.sampled_from([*PLACEHOLDERS, *NUMBERS, *OTHERS, *TEXTS, "u1", "straße", "STRASSE"]), max_size=8))
@pytest.mark.parametrize("rules", [DATABASE, FILES, KeyRules(("Straße",))], ids=["database", "files", "folded"])
def test_a_page_is_allowed_when_each_of_its_texts_is(rules: KeyRules, texts: list[str]) -> None:
    """The quick look at a page and the look at one text are the same rule."""
    assert rules.allow_all(texts) == (not any(map(rules.objection, texts)))


@pytest.mark.parametrize("size", [1, 1000])
def test_rows_with_placeholders_are_rejected_and_companies_left_out(size: int) -> None:
    """A placeholder names no user and no company, in a page of any kind; everything else is taken as it is."""
    found: list[RejectedRow] = []
    columns = key_columns(
        ["user_id", "company_id"],
        identity="userId",
        user_keys={"userId": "user_id"},
        company_keys={"groupId": "company_id"},
    )
    plain = [(f"u{n}", "c1") for n in range(size)]
    maker = LineMaker(columns, reject=found.append, rules=FILES)
    lines = maker.lines([*plain, ("NULL", "c2"), ("x1", "NULL"), ("\\N", "\\N"), ("1.14739E+18", "c3"), ("x2", "1.5")])

    assert found == [
        RejectedRow(RowFault.PLACEHOLDER_KEY, "NULL", '["NULL","c2"]'),
        RejectedRow(RowFault.OMITTED_IDENTIFIER, "x1", '["x1","NULL"]', "column company_id: placeholder_key"),
        RejectedRow(RowFault.PLACEHOLDER_KEY, "\\N", r'["\\N","\\N"]'),
        RejectedRow(RowFault.DECIMAL_KEY, "1.14739E+18", '["1.14739E+18","c3"]'),
        RejectedRow(RowFault.OMITTED_IDENTIFIER, "x2", '["x2","1.5"]', "column company_id: decimal_key"),
    ]
    company = '{"company":{"groupId":"c1"}}'
    assert not maker.may_err
    assert [to_line(from_line(line, maker.wrapping)) for line in lines.decode().splitlines()] == [
        *(f"{user}\t{company}" for user, _ in plain),
        "x1",
        "x2",
    ]
