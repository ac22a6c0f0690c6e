"""Queries in PostgreSQL: jsonb, timestamptz, POSIX regular expressions; texts compare in collation "C"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.ascii_patterns import in_ascii
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
from audience_sync.core.parameters import Lexis
from audience_sync.query.literals import LONGEST_NUMBER

_JSONB = postgresql.JSONB
_INSTANT = sa.DateTime(timezone=True)
_NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8"}
_TEXTS = {"text", "varchar", "bpchar", "name", "char", "citext", "uuid", "xml"}
_WRITTEN = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
_ESCAPES = {r"\b": r"\y", r"\B": r"\Y"}


class PostgresqlDialect(Dialect):
    """PostgreSQL 13 and newer."""

    lexis = Lexis(nested_comments=True, dollar_quotes=True)
    double = "float8"
    shown_parameter = "%({})s"

    @property
    def sqlalchemy(self) -> sa.Dialect:
        """Return the dialect of psycopg, with parameters by position: names would be made of those of columns."""
        return psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]

    def now(self, instant: datetime) -> object:
        """Return an aware instant: timestamptz."""
        return instant.astimezone(UTC)

    def inside(self, document: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path; of a column of text, too, which is read as jsonb then."""
        found = document
        if kind != "jsonb":
            is_written = kind == "json" or kind in _TEXTS
            found = sa.cast(document, _JSONB) if is_written else _to_jsonb(document, kind)
        for name in path[:-1]:
            found = found.op("->", return_type=_JSONB())(sa.literal(name, sa.Text))
        return _Inside(found, path[-1], self) if path else _Jsonb(found, self)

    def column(self, column: Expression, kind: str) -> Value:  # noqa: PLR0911 - one return for each kind reads best
        """Return a column as a value."""
        if kind in _NUMBERS:
            return NumberValue(column, self)
        if kind in ("money", "oid"):
            return NumberValue(sa.cast(column, sa.Numeric if kind == "money" else sa.BigInteger), self)
        if kind == "bool":
            return TruthValue(column, self)
        if kind in ("timestamptz", "timestamp", "date"):
            at = sa.cast(column, sa.DateTime) if kind == "date" else column
            at = at if kind == "timestamptz" else sa.func.timezone(fixed("UTC"), at)
            form = "YYYY-MM-DD" if kind == "date" else _WRITTEN
            return MomentValue(at, sa.func.to_char(sa.func.timezone(fixed("UTC"), at), fixed(form)), self)
        if kind in ("json", "jsonb"):
            return _Jsonb(sa.cast(column, _JSONB), self)
        if kind in _TEXTS:
            return TextValue(column if kind in ("text", "varchar") else sa.cast(column, sa.Text), self)
        return _Jsonb(_to_jsonb(column, kind), self)

    def document(self, json: Expression) -> Value:
        """Return an expression of jsonb as a value."""
        return _Jsonb(sa.cast(json, _JSONB), self)

    def elements(self, value: Value) -> tuple[FromClause, Callable[[tuple[str, ...]], Value]]:
        """Return the elements of a list, by jsonb_array_elements."""
        whole = value.json()
        if isinstance(value, TextValue):  # a column in which JSON is text
            is_list = value.expression.op("~", is_comparison=True)(fixed(r"^\s*\["))
            whole = sa.case((is_list, sa.cast(value.expression, _JSONB)))
        listed = sa.case((sa.func.jsonb_typeof(whole) == fixed("array"), whole), else_=sa.cast(fixed("[]"), _JSONB))
        rows = sa.func.jsonb_array_elements(listed).table_valued(sa.column("value", _JSONB())).lateral()
        return rows, lambda path: self.inside(rows.c.value, "jsonb", path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event; numbers are unix seconds, or milliseconds when they are that large."""
        if kind in ("timestamp", "date"):
            at = column if kind == "timestamp" else sa.cast(column, sa.DateTime)
            return _timeline(at, lambda one: sa.literal(one.astimezone(UTC).replace(tzinfo=None), sa.DateTime))
        if kind in _NUMBERS:
            seconds = sa.case((sa.func.abs(column) >= fixed(SECONDS_UP_TO), column / fixed(1000.0)), else_=column)
            exists = column.between(fixed(-LAST_MILLISECOND), fixed(LAST_MILLISECOND))  # NaN is beyond
            column = sa.case((exists, sa.func.to_timestamp(seconds)))
        elif kind != "timestamptz":
            column = self.moment_of_text(sa.cast(column, sa.Text))
        return _timeline(column, self.instant)

    def instant(self, instant: datetime) -> Expression:
        """Return a timestamptz."""
        return sa.literal(instant.astimezone(UTC), _INSTANT)

    def number_of_text(self, text: Expression) -> Expression:
        """Return a text as a double."""
        written = sa.and_(
            sa.func.length(text) <= fixed(LONGEST_NUMBER), text.op("~", is_comparison=True)(fixed(NUMBER_PATTERN))
        )
        return sa.case((written, sa.cast(text, sa.Double)))

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as a timestamptz; one without a zone is in the session's, which is UTC."""
        return sa.case((text.op("~", is_comparison=True)(fixed(MOMENT_PATTERN)), sa.cast(text, _INSTANT)))

    def key(self, column: Expression, kind: str) -> Expression:
        """Return a column as text, whole numbers in digits alone."""
        if kind not in _NUMBERS:
            return sa.cast(column, sa.Text)
        return sa.cast(sa.func.trim_scale(sa.cast(column, sa.Numeric)), sa.Text)

    def family(self, kind: str) -> str:
        """Return what types compare with one another: all numbers do."""
        return "number" if kind in _NUMBERS else super().family(kind)

    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a POSIX regular expression is found."""
        flags, rest = ("(?i)", pattern[4:]) if pattern.startswith("(?i)") else ("", pattern)
        return text.op("~", is_comparison=True)(flags + in_ascii(rest, {}, _ESCAPES))

    def json_of(self, expression: Expression) -> Expression:
        """Return a text, number or boolean as jsonb."""
        return sa.func.to_jsonb(expression, type_=_JSONB())

    def list_of(self, text: Expression) -> Expression:
        """Return a jsonb list of texts."""
        return sa.func.jsonb_agg(postgresql.aggregate_order_by(text, self.ordered(text)), type_=_JSONB())

    def ordered(self, text: Expression) -> Expression:
        """Return a text in collation "C", which compares the bytes of UTF-8."""
        return sa.collate(text, "C")


def _to_jsonb(column: Expression, kind: str) -> Expression:
    """Return a column as jsonb; texts in a list of `char(n)` without their padding."""
    if kind == "_bpchar":
        column = sa.cast(column, postgresql.ARRAY(sa.Text))
    return sa.func.to_jsonb(column, type_=_JSONB())


def _timeline(column: Expression, constant: Callable[[datetime], Expression]) -> Timeline:
    def later(by: timedelta) -> Expression:
        return column + sa.literal(by, sa.Interval)

    return Timeline(column, constant, later)


@dataclass(frozen=True)
class _Jsonb:
    """A jsonb value."""

    expression: Expression
    dialect: PostgresqlDialect

    def present(self) -> Truth:
        """Return whether it is there, and not null."""
        return sa.func.jsonb_typeof(self.expression) != fixed("null")

    def text(self) -> Expression:
        """Return its text: of a string what it says."""
        return self.expression.op("#>>", return_type=sa.Text())(sa.cast(fixed("{}"), postgresql.ARRAY(sa.Text)))

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        return _number(self.expression, self.text(), self.dialect)

    def moment(self) -> Expression:
        """Return the moment its text is."""
        return sa.case(
            (sa.func.jsonb_typeof(self.expression) == fixed("string"), self.dialect.moment_of_text(self.text()))
        )

    def json(self) -> Expression:
        """Return it, unless it is null."""
        return sa.case((self.present(), self.expression))


@dataclass(frozen=True)
class _Inside:
    """The value of a name in a jsonb object: one look-up where `->>` is enough."""

    parent: Expression
    name: str
    dialect: PostgresqlDialect

    def present(self) -> Truth:
        """Return whether it is there, and not null."""
        return self.text().is_not(None)

    def text(self) -> Expression:
        """Return its text: of a string what it says."""
        return self.parent.op("->>", return_type=sa.Text())(sa.literal(self.name, sa.Text))

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        return _number(self._whole(), self.text(), self.dialect)

    def moment(self) -> Expression:
        """Return the moment its text is: no other kind of JSON has a text of that form."""
        return self.dialect.moment_of_text(self.text())

    def json(self) -> Expression:
        """Return it, unless it is null."""
        return _Jsonb(self._whole(), self.dialect).json()

    def _whole(self) -> Expression:
        return self.parent.op("->", return_type=_JSONB())(sa.literal(self.name, sa.Text))


def _number(whole: Expression, text: Expression, dialect: PostgresqlDialect) -> Expression:
    """Return JSON as a double.

    In jsonb's order whatever lies between two numbers is one; and what is beyond the doubles would be an error.
    """
    least, greatest = (sa.cast(fixed(limit), _JSONB) for limit in ("-1e300", "1e300"))
    is_string = sa.func.jsonb_typeof(whole) == fixed("string")
    return sa.case(
        (whole.between(least, greatest), sa.cast(text, sa.Double)), (is_string, dialect.number_of_text(text))
    )
