"""How queries are written for one kind of database: each engine has a subclass, or a table of `Templates`.

A value in SQL is looked at in five ways (`Value`): as text, as number, as moment, as JSON, and whether it is there.
Each gives NULL for a value that is not of that kind. A moment is whatever the database compares instants in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.sql.expression import FromClause

from audience_sync.core.parameters import Lexis, Statement
from audience_sync.query.literals import NUMBER

Expression: TypeAlias = sa.ColumnElement[Any]
Truth: TypeAlias = sa.ColumnElement[bool]

NUMBER_PATTERN = f"^{NUMBER}$"
LAST_MILLISECOND = 253_402_300_799_000
"""The end of the year 9999, since 1970; numbers beyond it, or as far before 1970, are not times."""

SECONDS_UP_TO = 100_000_000_000
"""A number from here on is milliseconds since 1970, a smaller one seconds."""

_LEAP_YEAR = "([0-9][0-9](0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DATE = (
    "(([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = "[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,9})?)?(Z|[-+](0[0-9]|1[0-4]):[0-5][0-9])?"
MOMENT_PATTERN = f"^{_DATE}({_TIME})?$"
"""A text that is an ISO 8601 date or timestamp which really exists."""


def fixed(value: str | float) -> Expression:
    """Return a constant of our own as part of the text: a person who reads the SQL need not look it up."""
    return sa.literal_column("'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value))


class Value(Protocol):
    """One value in SQL, in every way a condition may look at it."""

    def present(self) -> Truth:
        """Return whether there is a value: not NULL, and not JSON's null."""

    def text(self) -> Expression:
        """Return the text of the value; NULL where there is none."""

    def number(self) -> Expression:
        """Return the value as a double; NULL where it is neither a number nor a text written as one."""

    def moment(self) -> Expression:
        """Return the value as an instant; NULL where it is none."""

    def json(self) -> Expression:
        """Return the value as JSON; NULL where there is none."""


@dataclass(frozen=True)
class Timeline:
    """The time of an event in SQL, and how other times are compared with it."""

    instant: Expression
    constant: Callable[[datetime], Expression]
    later: Callable[[timedelta], Expression]  # the time of the event and so much more
    earliest: datetime | None = None  # anything before it is not a time, though the database compares it

    def until(self, as_of: datetime) -> Truth:
        """Return whether the event has happened by an instant."""
        happened = self.instant <= self.constant(as_of)
        return happened if self.earliest is None else sa.and_(self.instant >= self.constant(self.earliest), happened)


class Dialect(ABC):
    """The SQL that differs between kinds of database."""

    lexis: Lexis  # how the database reads SQL
    double: str  # name of the type of doubles
    shown_parameter: str  # a parameter in SQL shown to people; {} is its name or number
    has_typed_columns = True  # a column holds values of one type, and compares as that type
    joins_existence = True  # EXISTS about the row at hand is a join, not a look at every event for every row
    materializes = True  # a part of a statement (WITH) can be declared MATERIALIZED: it is made once

    @property
    @abstractmethod
    def sqlalchemy(self) -> sa.Dialect:
        """Return the dialect that writes statements, in the parameter style of the driver that runs them."""

    @abstractmethod
    def now(self, instant: datetime) -> object:
        """Return what `:now` is bound to in a person's SQL."""

    def readable(self, rows: FromClause, types: Mapping[str, str], sought: tuple[str, str] | None = None) -> FromClause:
        """Return the rows of a person's table or SQL, whose columns have these types, as everything else reads them.

        Rows that surely do not have the text `sought[1]` in the column `sought[0]` may be left out, by an index on it.
        """
        del types, sought
        return rows

    def numbering(self, columns: Sequence[Expression]) -> Sequence[Expression]:
        """Return the order in which rows of these columns are numbered; any order will do if they are numbered once."""
        del columns
        return ()

    @abstractmethod
    def inside(self, document: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path in a column of JSON, whose type the database calls `kind`."""

    def inside_column(self, column: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path in a column that nobody says is JSON."""
        return self.inside(column, kind, path)

    @abstractmethod
    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value; `kind` is its type as the database calls it."""

    @abstractmethod
    def document(self, json: Expression) -> Value:
        """Return an expression of JSON, one that `Value.json` gave, as a value."""

    @abstractmethod
    def elements(self, value: Value) -> tuple[FromClause, Callable[[tuple[str, ...]], Value]]:
        """Return the elements of a list as rows, none for anything else, and what gives the value at a path in each."""

    @abstractmethod
    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event, from a column whose type the database calls `kind`."""

    @abstractmethod
    def instant(self, instant: datetime) -> Expression:
        """Return a constant that compares with what `Value.moment` gives."""

    @abstractmethod
    def number_of_text(self, text: Expression) -> Expression:
        """Return a text as a double; NULL where it is not written as a number."""

    @abstractmethod
    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as an instant; NULL where it is none."""

    @abstractmethod
    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a regular expression is found in a text."""

    @abstractmethod
    def json_of(self, expression: Expression) -> Expression:
        """Return a text, number or boolean as JSON."""

    def number_text(self, number: Expression) -> Expression:
        """Return a number as JSON text: a whole number as its digits, a large double in a way that tells it apart.

        What is not a finite number may be text that is not JSON.
        """
        return sa.cast(number, sa.Text)

    @abstractmethod
    def list_of(self, text: Expression) -> Expression:
        """Return the aggregate of distinct texts as a JSON list."""

    def family(self, kind: str) -> str:
        """Return what types compare with one another without a cast, by a name; texts are `text`."""
        return "text" if "char" in kind or kind in ("text", "string") else kind

    @abstractmethod
    def key(self, column: Expression, kind: str) -> Expression:
        """Return a column that names users as the text of the key: whole numbers are their digits."""

    def ordered(self, text: Expression) -> Expression:
        """Return a text so that it compares by code point."""
        return text

    def holds(self, text: Expression, part: str) -> Truth:
        """Return whether a text has another in it."""
        return sa.func.strpos(text, part) > 0


def render(statement: sa.Select[Any], dialect: Dialect) -> Statement:
    """Return a statement as its driver takes it; whatever came from a query is among the parameters."""
    compiled = statement.compile(dialect=dialect.sqlalchemy, compile_kwargs={"render_postcompile": True})
    values = compiled.params
    order = getattr(compiled, "positiontup", None)
    return Statement(str(compiled), values if order is None else [values[name] for name in order])
