"""Queries in DuckDB, and so in any file: JSON pointers, RE2, timestamps in UTC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

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
from audience_sync.compiler.values import MomentValue, NumberValue, TextValue, TruthValue
from audience_sync.query.literals import LONGEST_NUMBER

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
