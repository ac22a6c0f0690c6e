"""A dialect that is a table of templates of SQL.

Fits databases whose columns have types and that have a type or functions for JSON. In a template, `{x}` is the
expression it is about; what else it may name is said with it. Every value is a bound parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.functions import FunctionElement

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


@dataclass(frozen=True, kw_only=True)
class Templates:
    """SQL of one database.

    The types of columns are regular expressions that fit the whole name of a type, in lower case. JSON kinds are the
    texts that `json_kind` gives.
    """

    sqlalchemy: Callable[[], sa.Dialect]  # writes names, joins and parameters in the style of the driver
    lexis: Lexis
    shown_parameter: str  # see `Dialect`

    # columns
    numbers: str  # types of numbers
    truths: str  # types of booleans
    texts: str  # types of text
    castable: str  # types whose text says it all, such as UUID
    moments: str  # types of instants and dates
    dates: str  # those of them that have no time of day
    jsons: str  # types of JSON; of every other type `to_json` makes JSON
    double: str  # name of the type of doubles

    # conversions
    text: str  # {x} as text
    number: str  # {x}, a text written as a number, as a double
    whole_key: str  # {x}, a number, as the text of a key: whole numbers are their digits
    instant: str  # {x}, a column of `moments`, as an instant in UTC
    moment: str  # {x}, a text written as ISO 8601, as an instant in UTC
    milliseconds: str  # {x}, milliseconds since 1970 as a double, as an instant
    later: str  # {x}, an instant, and {microseconds} after it
    written: str  # {x}, an instant, in ISO 8601
    written_date: str  # {x}, an instant, as its date

    # texts
    matches: str  # whether the regular expression {pattern} is found in {x}
    position: str  # place of the text {part} in {x}; 0: it is not in it
    ordered: str = "{x}"  # {x} so that it compares by code point

    # JSON
    parse: str  # JSON of {x}, text that is JSON
    is_json: str  # whether {x}, a text, is JSON
    to_json: str  # JSON of {x}, which is not NULL
    json_kind: str  # kind of {x}
    null_kind: str
    list_kind: str
    string_kinds: tuple[str, ...]
    number_kinds: tuple[str, ...]
    json_text: str  # text of {x}; of a string, what it says
    json_at: str  # JSON at {path} in {x}
    path: Callable[[str], str]  # {path} of one name
    elements: str  # rows with one column, the elements of {x}, a list
    elements_are_named: bool = False  # it calls the column `value` itself, and is lateral without the word
    list_of: str  # aggregate: distinct texts {x} as a JSON list, in their order


class _Template(FunctionElement[Any]):
    """SQL by a template."""

    inherit_cache = False

    def __init__(self, template: str, type_: sa.types.TypeEngine[Any], **parts: Expression) -> None:
        super().__init__(*parts.values())
        self.type = type_
        self.pieces = re.split(r"\{(\w+)\}", template)  # text and names of parts in turn
        self.names = tuple(parts)


@compiles(_Template)
def _compile(element: _Template, compiler: SQLCompiler, **options: Any) -> str:
    percent = "%%" if compiler.preparer._double_percents else "%"  # noqa: SLF001 - else drivers take it for a parameter
    parts = dict(zip(element.names, element.clauses, strict=True))
    return "".join(
        compiler.process(parts[piece], **options) if at % 2 else piece.replace("%", percent)
        for at, piece in enumerate(element.pieces)
    )


_INSTANT = sa.DateTime()
_ANY = sa.types.NullType()


class TemplateDialect(Dialect):
    """A dialect by its templates; instants have no zone and are in UTC."""

    def __init__(self, templates: Templates) -> None:
        self.templates = templates
        self.lexis = templates.lexis
        self.double = templates.double
        self.shown_parameter = templates.shown_parameter

    @property
    def sqlalchemy(self) -> sa.Dialect:
        """Return the dialect of the table."""
        return self.templates.sqlalchemy()

    def now(self, instant: datetime) -> object:
        """Return a timestamp in UTC."""
        return instant.astimezone(UTC).replace(tzinfo=None)

    def inside(self, document: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path; of texts and other types, too, which are read as JSON then."""
        templates = self.templates
        if not _fits(templates.jsons, kind):
            is_text = _fits(templates.texts, kind)
            document = self._parsed(document) if is_text else _sql(templates.to_json, x=document)
        return _Document(document, self).at(path)

    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value."""
        templates = self.templates
        if _fits(templates.numbers, kind):
            return NumberValue(column, self)
        if _fits(templates.truths, kind):
            return TruthValue(column, self)
        if _fits(templates.moments, kind):
            at = _sql(templates.instant, _INSTANT, x=column)
            written = templates.written_date if _fits(templates.dates, kind) else templates.written
            return MomentValue(at, _sql(written, sa.Text(), x=at), self)
        if _fits(templates.texts, kind):
            return TextValue(column, self)
        if _fits(templates.castable, kind):
            return TextValue(self._text(column), self)
        return _Document(column if _fits(templates.jsons, kind) else _sql(templates.to_json, x=column), self)

    def document(self, json: Expression) -> Value:
        """Return an expression of JSON as a value."""
        return _Document(self._parsed(json), self)

    def elements(self, value: Value) -> tuple[FromClause, Callable[[tuple[str, ...]], Value]]:
        """Return the elements of a list."""
        templates = self.templates
        whole = value.json()
        if isinstance(value, TextValue):  # a column in which JSON is text
            whole = sa.case((_is(templates.is_json, x=value.expression), self._parsed(value.expression)))
        is_list = self.kind_of_json(whole) == fixed(templates.list_kind)
        listed = sa.case((is_list, whole), else_=self._parsed(fixed("[]")))
        column: sa.ColumnClause[Any] = sa.column("value", _ANY)
        found = _Template(templates.elements, _ANY, x=listed).table_valued(column)
        rows = found if templates.elements_are_named else found.render_derived().lateral()
        return rows, lambda path: _Document(rows.c.value, self).at(path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event; numbers are unix seconds, or milliseconds when they are that large."""
        templates = self.templates
        if _fits(templates.moments, kind):
            at: Expression = _sql(templates.instant, _INSTANT, x=column)
        elif _fits(templates.numbers, kind):
            number = sa.cast(column, sa.Double)
            milliseconds = sa.case((sa.func.abs(number) >= fixed(SECONDS_UP_TO), number), else_=number * fixed(1000))
            exists = number.between(fixed(-LAST_MILLISECOND), fixed(LAST_MILLISECOND))  # NaN is beyond
            at = sa.case((exists, _sql(templates.milliseconds, _INSTANT, x=milliseconds)))
        else:
            at = self.moment_of_text(self._text(column))

        def later(by: timedelta) -> Expression:
            microseconds = sa.literal(round(by / timedelta(microseconds=1)), sa.BigInteger)
            return _sql(templates.later, _INSTANT, x=at, microseconds=microseconds)

        return Timeline(at, self.instant, later)

    def instant(self, instant: datetime) -> Expression:
        """Return a timestamp in UTC."""
        return sa.literal(self.now(instant), _INSTANT)

    def number_of_text(self, text: Expression) -> Expression:
        """Return a text as a double."""
        templates = self.templates
        is_number = _is(templates.matches, x=text, pattern=self.own_pattern(NUMBER_PATTERN))
        written = sa.and_(sa.func.length(text) <= fixed(LONGEST_NUMBER), is_number)
        return sa.case((written, _sql(templates.number, sa.Double(), x=text)))

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as a timestamp in UTC; one without a zone is in UTC."""
        is_moment = _is(self.templates.matches, x=text, pattern=self.own_pattern(MOMENT_PATTERN))
        return sa.case((is_moment, _sql(self.templates.moment, _INSTANT, x=text)))

    def key(self, column: Expression, kind: str) -> Expression:
        """Return a column as text, whole numbers in digits alone."""
        is_number = _fits(self.templates.numbers, kind)
        return _sql(self.templates.whole_key, sa.Text(), x=column) if is_number else self._text(column)

    def own_pattern(self, pattern: str) -> Expression:
        """Return a regular expression of ours as part of the text."""
        return fixed(pattern)

    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a regular expression is found."""
        return _is(self.templates.matches, x=text, pattern=sa.literal(pattern, sa.Text))

    def json_of(self, expression: Expression) -> Expression:
        """Return a text, number or boolean as JSON."""
        return sa.case((expression.is_not(None), _sql(self.templates.to_json, x=expression)))

    def list_of(self, text: Expression) -> Expression:
        """Return a JSON list of texts."""
        return _sql(self.templates.list_of, sa.Text(), x=text)

    def family(self, kind: str) -> str:
        """Return what types compare with one another: all numbers do."""
        return "number" if _fits(self.templates.numbers, kind) else super().family(kind)

    def ordered(self, text: Expression) -> Expression:
        """Return a text so that it compares by code point."""
        return text if self.templates.ordered == "{x}" else _sql(self.templates.ordered, sa.Text(), x=text)

    def holds(self, text: Expression, part: str) -> Truth:
        """Return whether a text has another in it."""
        return _sql(self.templates.position, sa.Integer(), x=text, part=sa.literal(part, sa.Text)) > 0

    def kind_of_json(self, json: Expression) -> Expression:
        """Return the kind of a JSON value."""
        return _sql(self.templates.json_kind, sa.Text(), x=json)

    def _parsed(self, text: Expression) -> Expression:
        return _sql(self.templates.parse, x=text)

    def _text(self, expression: Expression) -> Expression:
        return _sql(self.templates.text, sa.Text(), x=expression)


def _fits(pattern: str, kind: str) -> bool:
    """Return whether a type is one of those that a pattern names; names in quotes within it can have any character."""
    return re.fullmatch(pattern, kind, re.DOTALL) is not None


def _sql(template: str, type_: sa.types.TypeEngine[Any] = _ANY, **parts: Expression) -> Expression:
    return _Template(template, type_, **parts)


def _is(template: str, **parts: Expression) -> Truth:
    return _Template(template, sa.Boolean(), **parts)


@dataclass(frozen=True)
class _Document:
    """A value of JSON."""

    expression: Expression
    dialect: TemplateDialect

    def present(self) -> Truth:
        """Return whether it is there, and not null."""
        return self._kind() != fixed(self.dialect.templates.null_kind)

    def text(self) -> Expression:
        """Return its text: of a string what it says."""
        return _sql(self.dialect.templates.json_text, sa.Text(), x=self.expression)

    def number(self) -> Expression:
        """Return the number it is, or is written as."""
        templates = self.dialect.templates
        return sa.case(
            (self._is_of(templates.number_kinds), _sql(templates.number, sa.Double(), x=self.text())),
            (self._is_of(templates.string_kinds), self.dialect.number_of_text(self.text())),
        )

    def moment(self) -> Expression:
        """Return the moment its text is."""
        is_string = self._is_of(self.dialect.templates.string_kinds)
        return sa.case((is_string, self.dialect.moment_of_text(self.text())))

    def json(self) -> Expression:
        """Return it, unless it is null."""
        return sa.case((self.present(), self.expression))

    def at(self, path: tuple[str, ...]) -> Value:
        """Return what lies at a path."""
        templates = self.dialect.templates
        found = self.expression
        for name in path:
            found = _sql(templates.json_at, x=found, path=sa.literal(templates.path(name), sa.Text))
        return _Document(found, self.dialect)

    def _kind(self) -> Expression:
        return self.dialect.kind_of_json(self.expression)

    def _is_of(self, kinds: tuple[str, ...]) -> Truth:
        return self._kind().in_([fixed(kind) for kind in kinds])
