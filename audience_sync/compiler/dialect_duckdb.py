"""Queries in DuckDB, and so in any file: JSON pointers, RE2, timestamps in UTC."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, aggregate_order_by
from sqlalchemy.dialects.postgresql.base import PGDialect, PGIdentifierPreparer
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.types import UserDefinedType

from audience_sync.compiler.dialect import (
    LAST_MILLISECOND,
    MOMENT_PATTERN,
    NUMBER_PATTERN,
    SECONDS_UP_TO,
    Dialect,
    Expression,
    Timeline,
    Truth,
    Value,
    fixed,
)
from audience_sync.compiler.scalars import MomentValue, NumberValue, TextValue, TruthValue
from audience_sync.core.model import ColumnType, DateOrder
from audience_sync.query.literals import LONGEST_NUMBER

# --- conversions of text ----------------------------------------------------------------------------------------------
# Convert the text in files to numbers and times: SQL functions of DuckDB, each of one value, whatever other rows
# hold.
#
# CSV and JSON files are read as text. The `types` of a source, the queries compiled for files, and a person's own SQL
# all convert it with the functions made here:
#
# - `parse_number(text)`: a number as JSON writes it, else an error;
# - `parse_time(text)`: an instant in UTC, from what `try_parse_time` reads or a unix time, else an error;
# - `try_parse_time(text)`: an instant in UTC, from a date or timestamp, else NULL;
# - `try_parse_event_time(text)`: the same, or a unix time. The digits of a date of this century or the last, such as
#   20260511 or 20260511100000, are that date.
#
# A date that begins with its day or month is read as `date_order` says, and without that setting it is an error in
# all functions of time. NULL stays NULL. An error's message is `MARK`, the `Doubt` and the text as a JSON string;
# `doubted` reads it.

PARSERS: Final = {ColumnType.NUMBER: "parse_number", ColumnType.TIME: "parse_time"}
"""The function that converts a column of a type."""
MARK: Final = "audience-sync: "

_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_ZONE = " ?(Z|UTC|[-+](0[0-9]|1[0-4])(:?[0-5][0-9])?)"
_YEAR_FIRST = f"[0-9]{{4}}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}}([T ]{_CLOCK}({_ZONE})?)?"
_DIGITS_OF_A_DATE = "(19|20)[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])(([01][0-9]|2[0-3])([0-5][0-9]){2})?"
_LONG_YEAR = "[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{4}([T ,].*)?"
_SHORT_YEAR = "[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}([T ,].*)?"
_PARTS = r"^([0-9]+)[-./]([0-9]+)[-./]([0-9]+)[T ,]*(.*)$"
_DAYS = {DateOrder.DMY: "%d/%m", DateOrder.MDY: "%m/%d"}
_CLOCKS = ("", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")


class Doubt(StrEnum):
    """Why a text is not converted."""

    ORDER = "order"  # it may be day and month or month and day
    DATE = "date"  # not a date in the order that is set
    TIME = "time"
    NUMBER = "number"
    DIGITS = "digits"  # a whole number with more digits than a double holds


class Doubted(NamedTuple):
    """A text that was not converted, and why."""

    doubt: Doubt
    text: str


def conversions(order: DateOrder | None) -> Iterator[str]:
    """Yield the statements that make the functions in a DuckDB whose time zone is UTC."""
    for head, body in (
        ("try_parse_time(t)", _time(order)),
        ("try_parse_event_time(t)", _EVENT_TIME),
        ("parse_time(t)", f"CASE WHEN t IS NOT NULL THEN coalesce(try_parse_event_time(t), {_error(Doubt.TIME)}) END"),
        ("parse_number(t)", _NUMBER),
    ):
        yield f"CREATE MACRO {head} AS {body}"


def doubted(message: str) -> Doubted | None:
    """Return what could not be converted, from the message of an error; None: it is about something else."""
    _, mark, rest = message.partition(MARK)
    if not mark:
        return None
    doubt, _, text = rest.partition(" ")
    value, _ = json.JSONDecoder().raw_decode(text)
    return Doubted(Doubt(doubt), value)


def _time(order: DateOrder | None) -> str:
    year_first = "CAST(TRY_CAST(replace(replace(t, ' +', '+'), ' -', '-') AS TIMESTAMPTZ) AS TIMESTAMP)"
    return (
        f"CASE WHEN regexp_full_match(t, '{_YEAR_FIRST}') THEN {year_first}"
        f" WHEN regexp_full_match(t, '{_LONG_YEAR}') THEN {_day_or_month_first(order, '%Y')}"
        f" WHEN regexp_full_match(t, '{_SHORT_YEAR}') THEN {_day_or_month_first(order, '%y')} END"
    )


def _day_or_month_first(order: DateOrder | None, year: str) -> str:
    if order is None:
        return _error(Doubt.ORDER)
    formats = ", ".join(f"'{f'{_DAYS[order]}/{year} {clock}'.rstrip()}'" for clock in _CLOCKS)
    plain = rf"rtrim(regexp_replace(t, '{_PARTS}', '\1/\2/\3 \4'))"
    return f"coalesce(try_strptime({plain}, [{formats}]), {_error(Doubt.DATE)})"


def _error(doubt: Doubt, kind: str = "TIMESTAMP") -> str:
    """Return an expression that fails. `error()` would be volatile, which DuckDB refuses in the order of a window."""
    return f"CAST('{MARK}{doubt} ' || to_json(t) AS {kind})"


_IS_NUMBER: Final = f"length(t) <= {LONGEST_NUMBER} AND regexp_full_match(t, '{NUMBER_PATTERN}')"
_IS_CALENDAR: Final = f"regexp_full_match(t, '{_DIGITS_OF_A_DATE}')"  # as seconds they would be in August 1970
_CALENDAR: Final = "try_strptime(t, ['%Y%m%d', '%Y%m%d%H%M%S'])"
_IS_EXACT: Final = (  # a double holds every whole number of 15 digits
    "NOT regexp_full_match(t, '-?[0-9]{16,}')"
    " OR coalesce(TRY_CAST(CAST(t AS DOUBLE) AS HUGEINT) = TRY_CAST(t AS HUGEINT), false)"
)
_NUMBER: Final = (
    f"CASE WHEN t IS NULL THEN NULL WHEN NOT ({_IS_NUMBER}) THEN {_error(Doubt.NUMBER, 'DOUBLE')}"
    f" WHEN {_IS_EXACT} THEN CAST(t AS DOUBLE) ELSE {_error(Doubt.DIGITS, 'DOUBLE')} END"
)
_MILLISECONDS: Final = (
    f"CASE WHEN abs(CAST(t AS DOUBLE)) >= {SECONDS_UP_TO} THEN CAST(t AS DOUBLE) ELSE CAST(t AS DOUBLE) * 1000 END"
)
_UNIX: Final = (
    f"CASE WHEN abs({_MILLISECONDS}) <= {LAST_MILLISECOND}"
    f" THEN make_timestamp(CAST(({_MILLISECONDS}) * 1000 AS BIGINT)) END"
)
_EVENT_TIME: Final = (
    f"CASE WHEN {_IS_CALENDAR} THEN {_CALENDAR} WHEN {_IS_NUMBER} THEN {_UNIX} ELSE try_parse_time(t) END"
)


# --- databases --------------------------------------------------------------------------------------------------------

_WRITTEN = "%Y-%m-%dT%H:%M:%S.%gZ"
_NUMBERS = (
    "tinyint",
    "smallint",
    "integer",
    "bigint",
    "hugeint",
    "utinyint",
    "usmallint",
    "uinteger",
    "ubigint",
    "uhugeint",
    "float",
    "double",
    "decimal",
    "bignum",
)


class _Json(UserDefinedType[Any]):
    """DuckDB's JSON."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return its name."""
        return "JSON"


class _JsonList(_Json):
    """A list of JSON."""

    def get_col_spec(self, **_: Any) -> str:
        """Return its name."""
        return "JSON[]"


class _Quoted(PGIdentifierPreparer):
    """Names, all in quotes: DuckDB reserves other words than PostgreSQL."""

    def _requires_quotes(self, value: str) -> bool:
        del value
        return True


class _Sql(PGDialect):
    """PostgreSQL's SQL as DuckDB reads it."""

    preparer = _Quoted
    supports_statement_cache = False


_INSTANT = sa.DateTime()  # DuckDB's TIMESTAMP: UTC without saying so


class Duckdb(Dialect):
    """DuckDB 1.1 and newer."""

    name = "duckdb"
    double = "double"

    @property
    def sqlalchemy(self) -> sa.Dialect:
        """Return PostgreSQL's dialect, whose SQL DuckDB reads, with numbered parameters."""
        return _Sql(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

    def now(self, instant: datetime) -> object:
        """Return a timestamp in UTC."""
        return instant.astimezone(UTC).replace(tzinfo=None)

    def inside(self, document: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path; of texts, structs and maps, too, which are read as JSON then."""
        if kind == "json":
            found = document
        else:
            found = sa.cast(document, _Json()) if kind == "varchar" else sa.func.to_json(document)
        for name in path:
            found = sa.func.json_extract(found, _pointer(name))
        return _Document(found, self)

    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value."""
        if kind.endswith("]"):
            return _Document(sa.func.to_json(column), self)
        if kind.startswith(_NUMBERS):
            return NumberValue(column, self)
        if kind == "boolean":
            return TruthValue(column, self)
        if kind.startswith("timestamp") or kind == "date":
            form = "%Y-%m-%d" if kind == "date" else _WRITTEN
            at = _utc(column)
            return MomentValue(at, sa.func.strftime(at, fixed(form)), self)
        if kind in ("varchar", "uuid") or kind.startswith("enum"):
            return TextValue(column if kind == "varchar" else sa.cast(column, sa.Text), self)
        return _Document(column if kind == "json" else sa.func.to_json(column), self)

    def document(self, json: Expression) -> Value:
        """Return an expression of JSON as a value."""
        return _Document(sa.cast(json, _Json()), self)

    def elements(self, value: Value) -> tuple[FromClause, Callable[[tuple[str, ...]], Value]]:
        """Return the elements of a list, by unnest."""
        whole = value.json()
        if isinstance(value, TextValue):  # a column in which JSON is text
            is_json = sa.func.json_valid(value.expression)
            whole = sa.case((is_json, sa.cast(value.expression, _Json())))
        empty = sa.cast(fixed("[]"), _Json())
        listed = sa.cast(sa.case((sa.func.json_type(whole) == fixed("ARRAY"), whole), else_=empty), _JsonList())
        rows = sa.func.unnest(listed).table_valued(sa.column("value", _Json())).render_derived().lateral()
        return rows, lambda path: self.inside(rows.c.value, "json", path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event; numbers are unix seconds, or milliseconds when they are that large."""
        if kind.startswith("timestamp") or kind == "date":
            at = _utc(column) if kind != "timestamp" else column
        elif kind.startswith(_NUMBERS):
            number = sa.cast(column, DOUBLE_PRECISION)
            milliseconds = sa.case((sa.func.abs(number) >= fixed(SECONDS_UP_TO), number), else_=number * fixed(1000))
            exists = number.between(fixed(-LAST_MILLISECOND), fixed(LAST_MILLISECOND))  # NaN is beyond
            at = sa.case((exists, sa.func.make_timestamp(sa.cast(milliseconds * fixed(1000), sa.BigInteger))))
        else:
            at = self.moment_of_text(sa.cast(column, sa.Text))

        def later(by: timedelta) -> Expression:
            return at + sa.func.to_microseconds(sa.literal(round(by / timedelta(microseconds=1)), sa.BigInteger))

        return Timeline(at, self.instant, later)

    def instant(self, instant: datetime) -> Expression:
        """Return a timestamp in UTC."""
        return sa.literal(instant.astimezone(UTC).replace(tzinfo=None), _INSTANT)

    def number_of_text(self, text: Expression) -> Expression:
        """Return a text as a double."""
        written = sa.and_(
            sa.func.length(text) <= fixed(LONGEST_NUMBER), sa.func.regexp_matches(text, fixed(NUMBER_PATTERN))
        )
        return sa.case((written, sa.cast(text, DOUBLE_PRECISION)))

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as a timestamp in UTC; one without a zone is in the session's, which is UTC."""
        instant = sa.cast(sa.cast(text, sa.DateTime(timezone=True)), _INSTANT)
        return sa.case((sa.func.regexp_matches(text, fixed(MOMENT_PATTERN)), instant))

    def key(self, column: Expression, kind: str) -> Expression:
        """Return a column as text, whole numbers in digits alone."""
        text = sa.cast(column, sa.Text)
        return sa.func.regexp_replace(text, fixed(r"\.0+$"), fixed("")) if self.family(kind) == "number" else text

    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a regular expression of RE2 is found."""
        return sa.func.regexp_matches(text, pattern)

    def json_of(self, expression: Expression) -> Expression:
        """Return a text, number or boolean as JSON."""
        return sa.case((expression.is_not(None), sa.func.to_json(expression)))

    def list_of(self, text: Expression) -> Expression:
        """Return a JSON list of texts."""
        return sa.func.to_json(sa.func.array_agg(aggregate_order_by(text, text)))

    def family(self, kind: str) -> str:
        """Return what types compare with one another: all whole numbers do."""
        return "number" if kind.startswith(_NUMBERS) else super().family(kind)


def _utc(column: Expression) -> Expression:
    """Return a column of a time type as a timestamp in UTC, the zone of the session."""
    return sa.cast(column, _INSTANT)


def _pointer(name: str) -> str:
    """Return the path of one name; digits would be a place in a list as a pointer."""
    if name.isdigit():
        return f'$."{name}"'
    return "/" + name.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True)
class _Document:
    """A value of JSON."""

    expression: Expression
    dialect: Duckdb

    def present(self) -> Truth:
        """Return whether it is there, and not null."""
        return self._kind() != fixed("NULL")

    def text(self) -> Expression:
        """Return its text: of a string what it says."""
        return sa.func.json_extract_string(self.expression, fixed("$"))

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        return sa.case(
            (
                self._kind().in_([fixed("UBIGINT"), fixed("BIGINT"), fixed("DOUBLE")]),
                sa.cast(self.text(), DOUBLE_PRECISION),
            ),
            (self._kind() == fixed("VARCHAR"), self.dialect.number_of_text(self.text())),
        )

    def moment(self) -> Expression:
        """Return the moment its text is."""
        return sa.case((self._kind() == fixed("VARCHAR"), self.dialect.moment_of_text(self.text())))

    def json(self) -> Expression:
        """Return it, unless it is null."""
        return sa.case((self.present(), self.expression))

    def _kind(self) -> Expression:
        return sa.func.json_type(self.expression)


# --- text files -------------------------------------------------------------------------------------------------------
# Queries in CSV and JSON files: DuckDB's SQL, with columns that are text.


class TextFiles(Duckdb):
    """Files in DuckDB; the functions above read times."""

    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value; a text may stand for a number or a boolean."""
        return _FileText(column, self) if kind == "varchar" else super().column(column, kind)

    def inside_column(self, column: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path in a column; there is nothing in a text that is not JSON."""
        if kind == "varchar":
            column = sa.case((sa.func.json_valid(column), column))
        return self.inside(column, kind, path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event."""
        if kind != "varchar":
            return super().timeline(column, kind)
        return super().timeline(sa.func.try_parse_event_time(column), "timestamp")

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as a timestamp in UTC."""
        return sa.func.try_parse_time(text)


@dataclass(frozen=True)
class _FileText(TextValue):
    """A column of text, in which numbers and booleans are what JSON writes for them."""

    def json(self) -> Expression:
        """Return it as JSON: digits stay as they are written."""
        text = self.expression
        is_number = self.dialect.number_of_text(text).is_not(None)
        is_literal = sa.or_(is_number, text.in_([fixed("true"), fixed("false")]))
        return sa.case((is_literal, self.dialect.document(text).json()), else_=super().json())
