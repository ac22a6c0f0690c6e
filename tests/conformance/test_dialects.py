"""Every dialect means the same: expressions over literals with known answers, run by the engine itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from audience_sync.compiler.dialect import Dialect, Expression, render
from audience_sync.config import Source
from audience_sync.engines import dialect_of, open_rows
from audience_sync.errors import SourceError
from tests.conformance.engine_subjects import Subject

NOON = datetime(2026, 3, 31, 12, 0, 30, tzinfo=UTC)
DOCUMENT = {
    "a": {"b": [1, "x", None, True, 2.5]},
    "n": 2.5,
    "big": 12345678901234567890,
    "s": "12",
    "t": "2026-03-31T12:00:30Z",
    "z": None,
    "no": False,
    "0": "digit",
    "q\"'~/$.%": "odd",
    "empty": "",
    "list": [],
}


@pytest.fixture
def dialect(source: Source) -> Dialect:
    """The dialect of that engine."""
    return dialect_of(source)


def text(value: str | None) -> Expression:
    """Return a text in SQL."""
    return sa.cast(sa.literal(value, sa.Text), sa.Text)


def answers(source: Source, expressions: dict[str, Expression]) -> dict[str, object]:
    """Return what expressions come to in one statement, by their names."""
    names = list(expressions)
    statement = sa.select(*[one.label(f"c{at}") for at, one in enumerate(expressions.values())])
    with open_rows(source, render(statement, dialect_of(source)), as_of=NOON) as rows:
        ((*values,),) = [row for page in rows.pages() for row in page]
    return dict(zip(names, values, strict=True))


def truths(found: dict[str, object]) -> dict[str, bool | None]:
    """Return truths as Python's: SQLite has 1 and 0."""
    return {name: None if value is None else bool(value) for name, value in found.items()}


def test_numbers_in_texts(source: Source, dialect: Dialect) -> None:
    """A text is a number where JSON would write it so, and nothing else."""
    wanted = {"12": 12.0, "-1.5e3": -1500.0, "0": 0.0, "007": None, "1,5": None, "": None, " 1": None, "0x10": None}
    wanted |= {"NaN": None, "1e400": None, "Infinity": None, "1_000": None, "12abc": None, "٣": None}

    assert answers(source, {one: dialect.number_of_text(text(one)) for one in wanted}) == wanted
    assert answers(source, {"null": dialect.number_of_text(text(None))}) == {"null": None}


def test_moments_in_texts(source: Source, dialect: Dialect) -> None:
    """A text is a moment where it is ISO 8601 and exists; without a zone it is in UTC."""
    same = ["2026-03-31T12:00:30Z", "2026-03-31 12:00:30", "2026-03-31T14:00:30+02:00", "2026-03-31T12:00:30.000Z"]
    none = ["2026-02-30", "12:00", "now", "", "31 March 2026", "2026-03-31T25:00:00Z", "0000-01-01", "1774958430"]
    moments = {one: dialect.moment_of_text(text(one)) for one in [*same, *none]}

    found = answers(source, {one: moment == dialect.instant(NOON) for one, moment in moments.items()})

    assert truths(found) == dict.fromkeys(same, True) | dict.fromkeys(none)


def test_instants_compare(source: Source, dialect: Dialect) -> None:
    """Instants are in order, to the millisecond, and a date is its midnight in UTC."""
    earlier = dialect.instant(NOON - timedelta(milliseconds=1))
    midnight = dialect.instant(NOON.replace(hour=0, minute=0, second=0))
    checks = {
        "earlier": earlier < dialect.instant(NOON),
        "later": earlier > dialect.instant(NOON),
        "midnight": dialect.moment_of_text(text("2026-03-31")) == midnight,
    }

    assert truths(answers(source, checks)) == {"earlier": True, "later": False, "midnight": True}


def test_times_of_events(source: Source, dialect: Dialect) -> None:
    """A number is unix seconds, or milliseconds if it is large; times can be added to, to the millisecond."""
    by = timedelta(days=40, milliseconds=1)
    for number in (NOON.timestamp(), NOON.timestamp() * 1000):
        line = dialect.timeline(sa.cast(sa.literal(number, sa.Double), sa.Double), dialect.double)
        checks = {
            "is": line.instant == line.constant(NOON),
            "later": line.later(by) == line.constant(NOON + by),
            "back": line.later(-by) < line.instant,
        }

        assert truths(answers(source, checks)) == dict.fromkeys(checks, True)

    beyond = dialect.timeline(sa.cast(sa.literal(1e18, sa.Double), sa.Double), dialect.double)
    assert truths(answers(source, {"beyond": beyond.instant == beyond.constant(NOON)})) == {"beyond": None}


def test_columns_of_times_are_iso_8601(source: Source, dialect: Dialect) -> None:
    """A column of times has the text of ISO 8601 in UTC, and a date only its day; a text column is as it is written."""
    written = text("2026-03-31 12:00:30")
    columns = {
        "timestamp": dialect.column(
            sa.cast(written, sa.DateTime) if dialect.has_typed_columns else written, "timestamp"
        ),
        "date": dialect.column(sa.cast(written, sa.Date) if dialect.has_typed_columns else written, "date"),
    }
    wanted = {"timestamp": "2026-03-31T12:00:30.000Z", "date": "2026-03-31"}

    found = answers(source, {kind: column.text() for kind, column in columns.items()})

    assert found == (wanted if dialect.has_typed_columns else dict.fromkeys(wanted, "2026-03-31 12:00:30"))


def test_regular_expressions(source: Source, dialect: Dialect) -> None:
    """A pattern is found anywhere; classes are ASCII, and anchors are those of the whole text."""
    cases = {
        ("order 12", "[0-9]+$"): True,
        ("order 12\n", "[0-9]+$"): False,
        ("a\nb", "^b"): False,
        ("a\nb", "a.b"): False,
        ("Ärger", r"^\w"): False,
        ("50% off", r"\d+% "): True,
        ("a'b", "a'b"): True,
        ("ABC", "(?i)^abc$"): True,
        ("", "^$"): True,
    }

    found = answers(source, {f"{case}": dialect.matches(text(case[0]), case[1]) for case in cases})

    assert truths(found) == {f"{case}": answer for case, answer in cases.items()}


def test_parts_of_texts(source: Source, dialect: Dialect) -> None:
    """A part is looked for as it is: no pattern, and case counts."""
    cases = {
        ("50%_x", "%_"): True,
        ("abc", "%"): False,
        ("aBc", "b"): False,
        ("aBc", "B"): True,
        ("naïve", "ïv"): True,
        ("a'b", "'"): True,
    }

    found = answers(source, {f"{case}": dialect.holds(text(case[0]), case[1]) for case in cases})

    assert truths(found) == {f"{case}": answer for case, answer in cases.items()}


def test_texts_are_ordered_by_code_point(source: Source, dialect: Dialect) -> None:
    """`Z` is before `a`, and `z` before `ä`, whatever the collation of the database."""
    pairs = [("Z", "a"), ("z", "ä"), ("a", "aa"), ("10", "9"), ("a b", "ab")]

    found = answers(
        source, {f"{pair}": dialect.ordered(text(pair[0])) < dialect.ordered(text(pair[1])) for pair in pairs}
    )

    assert truths(found) == {f"{pair}": True for pair in pairs}


def test_keys_are_the_digits_of_whole_numbers(source: Source, dialect: Dialect) -> None:
    """A double that is whole has the key of the integer."""
    kinds = {"float8", "double", "real"}
    kind = next(kind for kind in (dialect.double, "double") if kind in kinds)
    number = sa.cast(sa.literal_column("7.0"), sa.Double)

    assert answers(source, {"key": dialect.key(number, kind)}) == {"key": "7"}
    assert answers(source, {"key": dialect.key(text("007"), "text")}) == {"key": "007"}


def json_of(dialect: Dialect, subject: Subject, path: tuple[str, ...]) -> Callable[[str], Expression]:
    """Return what gives a look at the value at a path of the document, by the name of the look."""
    value = dialect.inside(dialect.document(text(json.dumps(DOCUMENT))).json(), subject.json_type, path)
    return lambda look: getattr(value, look)()


PLACES: dict[tuple[str, ...], tuple[bool, str | None, float | None]] = {
    ("n",): (True, "2.5", 2.5),
    ("s",): (True, "12", 12.0),
    ("t",): (True, "2026-03-31T12:00:30Z", None),
    ("z",): (False, None, None),
    ("no",): (True, "false", None),
    ("nowhere",): (False, None, None),
    ("a", "nowhere"): (False, None, None),
    ("n", "below"): (False, None, None),
    ("a", "b", "0"): (False, None, None),
    ("0",): (True, "digit", None),
    ("q\"'~/$.%",): (True, "odd", None),
    ("empty",): (True, "", None),
    ("big",): (True, "12345678901234567890", 12345678901234567890.0),
}
"""Whether there is a value at a place of the document, its text, and its number."""


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_values_inside_json(source: Source, dialect: Dialect, subject: Subject, path: tuple[str, ...]) -> None:
    """The value at a path is there or not, has a text and, if it is one or is written as one, a number."""
    look = json_of(dialect, subject, path)

    found = answers(source, {"present": sa.func.coalesce(look("present"), sa.false()), "text": look("text")})
    number = answers(source, {"number": look("number")})["number"]

    present, written, value = PLACES[path]
    assert (bool(found["present"]), found["text"]) == (present, written)
    assert number == value


def test_moments_inside_json(source: Source, dialect: Dialect, subject: Subject) -> None:
    """A string may be a moment; a number inside JSON is none."""
    at = json_of(dialect, subject, ("t",))("moment")
    none = json_of(dialect, subject, ("n",))("moment")

    found = answers(source, {"t": at == dialect.instant(NOON), "n": none == dialect.instant(NOON)})

    assert truths(found) == {"t": True, "n": None}


def test_elements_of_lists(source: Source, dialect: Dialect, subject: Subject) -> None:
    """Each element of a list is a row, null included; what is not a list has none."""
    for path, wanted in {("a", "b"): ["1", "2.5", "true", "x", None], ("list",): [], ("n",): [], ("z",): []}.items():
        value = dialect.inside(dialect.document(text(json.dumps(DOCUMENT))).json(), subject.json_type, path)
        rows, at = dialect.elements(value)
        statement = sa.select(at(()).text().label("each")).select_from(rows)
        with open_rows(source, render(statement, dialect), as_of=NOON) as result:
            found = [row[0] for page in result.pages() for row in page]
        assert sorted(found, key=lambda one: (one is None, one)) == wanted


@pytest.mark.parametrize(("written", "wanted"), [('["a", 1]', ["1", "a"]), ("a", []), ("7", []), ("", [])])
def test_elements_of_texts(source: Source, dialect: Dialect, subject: Subject, written: str, wanted: list[str]) -> None:
    """A text column may hold a JSON list; any other text has no elements, and does not fail."""
    rows, at = dialect.elements(dialect.column(text(written), subject.text_type))
    with open_rows(source, render(sa.select(at(()).text()).select_from(rows), dialect), as_of=NOON) as result:
        assert sorted(row[0] for page in result.pages() for row in page) == wanted


def test_a_text_that_only_begins_like_a_list(source: Source, dialect: Dialect, subject: Subject) -> None:
    """It has no elements; on PostgreSQL, which could not tell this from JSON before 16, the query fails instead."""
    rows, at = dialect.elements(dialect.column(text("[oops"), subject.text_type))
    statement = render(sa.select(at(()).text()).select_from(rows), dialect)
    if subject.json_type == "jsonb":
        with (
            pytest.raises(SourceError, match="invalid input syntax for type json"),
            open_rows(source, statement, as_of=NOON) as result,
        ):
            list(result.pages())
        return
    with open_rows(source, statement, as_of=NOON) as result:
        assert list(result.pages()) == []


def test_columns_of_booleans(source: Source, dialect: Dialect) -> None:
    """A boolean is `true` or `false` as a text, and not a number."""
    kind = "bool" if dialect.double == "float8" else "boolean"
    yes, no = (dialect.column(sa.cast(sa.literal_column(one), sa.Boolean), kind) for one in ("1", "0"))

    found = answers(source, {"yes": yes.text(), "no": no.text(), "number": yes.number()})

    assert found == {"yes": "true", "no": "false", "number": None}


def test_lists_of_texts(source: Source, dialect: Dialect) -> None:
    """Texts are gathered into a JSON list."""
    each = sa.union_all(*[sa.select(text(one).label("one")) for one in ("b", "a", 'q"')]).subquery()
    statement = sa.select(dialect.list_of(each.c.one).label("all"))
    with open_rows(source, render(statement, dialect), as_of=NOON) as rows:
        ((found,),) = [row for page in rows.pages() for row in page]

    assert sorted(json.loads(found) if isinstance(found, str) else found) == ["a", "b", 'q"']


def test_values_as_json(source: Source, dialect: Dialect) -> None:
    """A text is a JSON string, whatever is in it, and NULL stays NULL."""
    found = answers(source, {"text": dialect.json_of(text('q"\n')), "null": dialect.json_of(text(None))})

    written = found["text"]
    assert (json.loads(written) if isinstance(written, str) and written[0] == '"' else written) == 'q"\n'
    assert found["null"] is None


def test_now_is_the_instant(source: Source) -> None:
    """`:now` in a person's SQL, read as a moment, is the instant of the query."""
    with open_rows(source, "SELECT :now AS at", as_of=NOON) as rows:
        ((at,),) = [row for page in rows.pages() for row in page]

    moment = datetime.fromisoformat(str(at))
    assert (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) == NOON
