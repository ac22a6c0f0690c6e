"""Queries in SQLite: JSON functions over text, instants as milliseconds since 1970, types known value by value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.dialect import (
    LAST_MILLISECOND,
    SECONDS_UP_TO,
    Dialect,
    Expression,
    Timeline,
    Truth,
    Value,
    fixed,
)
from audience_sync.compiler.scalars import TextValue
from audience_sync.core.parameters import Lexis
from audience_sync.query.literals import LONGEST_NUMBER

_UNIX_EPOCH = 2440587.5  # as a Julian day
_DAY = 86_400_000  # milliseconds
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_ENDS = {"$": r"\Z"}
_LONG_EXPONENT = "*[eE]*[0-9][0-9][0-9]*"
_EXACT = 2**53  # from here on a double may stand for several whole numbers


class SqliteDialect(Dialect):
    """SQLite 3.38 and newer."""

    lexis = Lexis(backticks=True, brackets=True)
    double = "real"
    shown_parameter = ":{}"
    has_typed_columns = False
    joins_existence = False

    @property
    def sqlalchemy(self) -> sa.Dialect:
        """Return the dialect of sqlite3, with parameters by position: names would be made of those of columns."""
        return sqlite.dialect(paramstyle="qmark")

    def now(self, instant: datetime) -> object:
        """Return UTC text, as SQLite's own date functions write it."""
        return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    def inside(self, document: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path.

        SQLite looks for the bytes of a name in the text of the JSON, where it may be escaped: a name that could be is
        compared with the names of the object one by one.
        """
        del kind
        last = max((n for n, name in enumerate(path) if not _is_plain(name)), default=-1)
        source = _by_names(document, path[: last + 1]) if last >= 0 else document
        return _Json(source, _json_path(path[last + 1 :]), self)

    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value; what is in it says of what type it is, save for truths, which SQLite has not."""
        if kind.startswith("bool"):
            return _Boolean(column, self)
        if kind.startswith("json"):
            return _Json(column, "$", self)
        return _Dynamic(column, self)

    def document(self, json: Expression) -> Value:
        """Return JSON text as a value."""
        return _Json(json, "$", self)

    def elements(self, value: Value) -> tuple[FromClause, Callable[[tuple[str, ...]], Value]]:
        """Return the elements of a list, by json_each."""
        json = value.json()
        if isinstance(value, _Dynamic):  # a column in which JSON is text
            json = sa.case((sa.func.json_valid(value.expression) == fixed(1), value.expression))
        listed = sa.case((sa.func.json_type(json) == fixed("array"), json))
        rows = sa.func.json_each(listed).table_valued("value", "type", "fullkey", "json", name=None).alias()
        as_written = sa.case((_is_large(rows.c.value), _written(rows.c.json, rows.c.fullkey)))
        of_row = sa.func.coalesce(as_written, _json_of_row(rows))
        return rows, lambda path: self.inside(of_row, "json", path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event; numbers are unix seconds, or milliseconds when they are that large."""
        del kind
        column_is_time = column.between(fixed(-LAST_MILLISECOND), fixed(LAST_MILLISECOND))
        seconds = sa.cast(sa.func.round(column * fixed(1000)), sa.BigInteger)
        number = sa.case((sa.func.abs(column) >= fixed(SECONDS_UP_TO), sa.cast(column, sa.BigInteger)), else_=seconds)
        kinds = sa.func.typeof(column)
        at = sa.case(
            (kinds == fixed("text"), self.moment_of_text(column)),
            (sa.and_(kinds.in_([fixed("integer"), fixed("real")]), column_is_time), number),
        )

        def later(by: timedelta) -> Expression:
            return at + round(by / timedelta(milliseconds=1))

        return Timeline(at, self.instant, later)

    def instant(self, instant: datetime) -> Expression:
        """Return milliseconds since 1970."""
        return sa.literal(
            round((instant - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)), sa.BigInteger
        )

    def number_of_text(self, text: Expression) -> Expression:
        """Return a text as a double: only what JSON's grammar takes for a number."""
        written = sa.and_(
            sa.func.length(text) <= fixed(LONGEST_NUMBER),
            sa.not_(_glob(text, "*[^-+.0-9eE]*")),
            sa.not_(_glob(text, _LONG_EXPONENT)),
            sa.func.json_valid(text) == fixed(1),
        )
        return sa.case((written, sa.cast(text, sa.REAL)))

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as milliseconds since 1970; SQLite would take 'now', '12:00' and 30 February, too."""
        day = sa.func.substr(text, fixed(1), fixed(10))
        milliseconds = sa.cast(
            sa.func.round((sa.func.julianday(text) - fixed(_UNIX_EPOCH)) * fixed(_DAY)), sa.BigInteger
        )
        rest = sa.func.substr(text, fixed(12))  # hours and on
        timed = sa.and_(_glob(text, _DATE + "[T ][0-9][0-9]:[0-9][0-9]*"), sa.not_(_glob(rest, "*[^-+:.0-9Z]*")))
        written = sa.and_(sa.or_(_glob(text, _DATE), sa.and_(timed, rest < fixed("24"))), day >= fixed("0001"))
        dated = sa.and_(written, sa.func.date(sa.func.julianday(day)) == day)
        return sa.case((dated, milliseconds))

    def family(self, kind: str) -> str:
        """Return what types compare with one another: all that SQLite takes for whole numbers do."""
        return "int" if "int" in kind else super().family(kind)

    def key(self, column: Expression, kind: str) -> Expression:
        """Return a column as text, whole doubles without their fraction."""
        del kind
        whole = sa.and_(sa.func.typeof(column) == fixed("real"), column == sa.func.round(column))
        return sa.case((whole, sa.cast(sa.cast(column, sa.BigInteger), sa.Text)), else_=sa.cast(column, sa.Text))

    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a regular expression is found; REGEXP is the function that the session brings along.

        It is given bytes: sqlite3 would refuse text that is not UTF-8 before the function sees it. Python's `$` would
        also stand before a last line break.
        """
        at_the_end = re.sub(r"\\.|\[(?:\\.|[^\]])*\]|\$", lambda found: _ENDS.get(found[0], found[0]), pattern)
        return sa.cast(text, sa.LargeBinary).op("REGEXP", is_comparison=True)(at_the_end)

    def json_of(self, expression: Expression) -> Expression:
        """Return a text or number as JSON text; a double keeps all its digits."""
        return sa.case((expression.is_not(None), _quoted(expression)))

    def number_text(self, number: Expression) -> Expression:
        """Return a number as JSON text: a cast would leave a double 15 digits."""
        return self.json_of(number)

    def list_of(self, text: Expression) -> Expression:
        """Return JSON text of a list."""
        return sa.func.json_group_array(text)

    def holds(self, text: Expression, part: str) -> Truth:
        """Return whether a text has another in it."""
        return sa.func.instr(text, part) > 0


def _is_plain(name: str) -> bool:
    """Return whether JSON writes a name in one way only, and a path can have it in quotes."""
    return name.isascii() and name.isprintable() and not set(name) & {'"', "\\", "/"}


def _glob(text: Expression, pattern: str) -> Truth:
    return text.op("GLOB", is_comparison=True)(fixed(pattern))


def _json_path(names: tuple[str, ...]) -> str:
    return "$" + "".join(f'."{name}"' for name in names)


def _by_names(document: Expression, path: tuple[str, ...]) -> Expression:
    """Return what lies at a path as JSON text; names that may be written in several ways are compared one by one."""
    plain: list[str] = []
    steps: list[FromClause] = []
    found: list[Truth] = []
    for name in path:
        if _is_plain(name):
            plain.append(name)
            continue
        inside = document if not steps else sa.case((steps[-1].c.type == fixed("object"), steps[-1].c.value))
        rows = sa.func.json_each(inside, _json_path(tuple(plain))).table_valued("key", "value", "type", name=None)
        steps.append(rows.alias())
        found.append(steps[-1].c.key == name)
        plain = []
    source: FromClause = steps[0]
    for step in steps[1:]:
        source = source.join(step, sa.true())
    return sa.select(_json_of_row(steps[-1])).select_from(source).where(*found).limit(1).scalar_subquery()


def _json_of_row(rows: FromClause) -> Expression:
    """Return a row of json_each as JSON text: it has the values of scalars, not their JSON."""
    return sa.case(
        (rows.c.type.in_([fixed("array"), fixed("object")]), rows.c.value),
        (rows.c.type.in_([fixed("true"), fixed("false"), fixed("null")]), rows.c.type),
        else_=_quoted(rows.c.value),
    )


def _quoted(value: Expression) -> Expression:
    """Return a text or number as JSON; json_quote would leave a double 15 digits of its 17."""
    return sa.case(
        (sa.func.typeof(value) == fixed("real"), sa.func.printf(fixed("%!.17g"), value)),
        else_=sa.func.json_quote(value),
    )


def _is_large(value: Expression) -> Truth:
    """Return whether a value is a double that may have lost digits, as SQLite makes of a whole number over 64 bits."""
    return sa.and_(sa.func.typeof(value) == fixed("real"), sa.func.abs(value) >= fixed(_EXACT))


def _written(document: Expression, path: Expression | str) -> Expression:
    """Return the text of what lies at a path of JSON text, digit by digit as it is written there."""
    return document.op("->", return_type=sa.Text())(path)


@dataclass(frozen=True)
class _Json:
    """The value at a path of JSON text."""

    source: Expression
    path: str
    dialect: SqliteDialect

    def present(self) -> Truth:
        """Return whether it is there, and not null."""
        return self._extracted().is_not(None)

    def text(self) -> Expression:
        """Return its text; SQLite makes 1 and 0 of truths."""
        kind, value = self._kind(), self._extracted()
        return sa.case(
            (kind.in_([fixed("true"), fixed("false")]), kind),
            (_is_large(value), _written(self.source, self.path)),
            else_=sa.cast(value, sa.Text),
        )

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        kind, value = self._kind(), self._extracted()
        return sa.case(
            (kind.in_([fixed("integer"), fixed("real")]), sa.cast(value, sa.REAL)),
            (kind == fixed("text"), self.dialect.number_of_text(value)),
        )

    def moment(self) -> Expression:
        """Return the moment its text is."""
        return sa.case((self._kind() == fixed("text"), self.dialect.moment_of_text(self._extracted())))

    def json(self) -> Expression:
        """Return it as JSON text, unless it is null."""
        kind, value = self._kind(), self._extracted()
        return sa.case(
            (kind.in_([fixed("true"), fixed("false")]), kind),
            (kind.in_([fixed("array"), fixed("object")]), value),
            (_is_large(value), _written(self.source, self.path)),
            (kind.in_([fixed("integer"), fixed("real"), fixed("text")]), _quoted(value)),
        )

    def _extracted(self) -> Expression:
        return sa.func.json_extract(self.source, self.path)

    def _kind(self) -> Expression:
        return sa.func.json_type(self.source, self.path)


@dataclass(frozen=True)
class _Dynamic(TextValue):
    """A column of SQLite: each of its values has a type of its own."""

    def text(self) -> Expression:
        """Return it as SQLite writes it; a large double with all its digits."""
        return sa.case((_is_large(self.expression), _quoted(self.expression)), else_=sa.cast(self.expression, sa.Text))

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        kind = sa.func.typeof(self.expression)
        return sa.case(
            (kind.in_([fixed("integer"), fixed("real")]), sa.cast(self.expression, sa.REAL)),
            (kind == fixed("text"), self.dialect.number_of_text(self.expression)),
        )

    def moment(self) -> Expression:
        """Return the moment its text is."""
        return sa.case(
            (sa.func.typeof(self.expression) == fixed("text"), self.dialect.moment_of_text(self.expression)),
        )

    def json(self) -> Expression:
        """Return it as JSON; bytes have none."""
        return sa.case((sa.func.typeof(self.expression) != fixed("blob"), self.dialect.json_of(self.expression)))


@dataclass(frozen=True)
class _Boolean(_Dynamic):
    """A column declared boolean: SQLite keeps 0 and 1 there, and people also texts."""

    def text(self) -> Expression:
        """Return `true` or `false`; of a text what it says."""
        is_number = sa.func.typeof(self.expression).in_([fixed("integer"), fixed("real")])
        written = sa.case((self.expression != fixed(0), fixed("true")), else_=fixed("false"))
        return sa.case((is_number, written), else_=sa.cast(self.expression, sa.Text))

    def number(self) -> Expression:
        """Return the number that a text is written as; a truth is none."""
        is_text = sa.func.typeof(self.expression) == fixed("text")
        return sa.case((is_text, self.dialect.number_of_text(self.expression)))

    def json(self) -> Expression:
        """Return it as a JSON boolean, or a text as a string."""
        is_text = sa.func.typeof(self.expression) == fixed("text")
        return sa.case((is_text, self.dialect.json_of(self.expression)), else_=self.text())
