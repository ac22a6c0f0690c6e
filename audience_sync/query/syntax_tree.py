"""The syntax tree of a query: conditions about scalars, scalars from traits and streams of events.

First are the words that stand for one of a few things, and durations. Nodes that can turn out wrong only against a
source (a trait nobody has, a column that is not there) carry the position of their first character in the text, counted
from 0; positions do not count when trees are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class TimeUnit(StrEnum):
    """The units of durations."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"  # 24 hours
    WEEK = "week"
    MONTH = "month"  # of the calendar, in the audience's time zone


class Period(StrEnum):
    """What `since(start of …)` begins with."""

    DAY = "day"
    WEEK = "week"  # begins on Monday
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Duration(NamedTuple):
    """A length of time as it is written."""

    amount: int
    unit: TimeUnit


class Kind(StrEnum):
    """The kind of a scalar's value, as far as it is known before anything runs."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    MOMENT = "moment"  # a date or a timestamp
    LIST = "list"
    ANY = "any"


class Function(StrEnum):
    """The functions that reduce a stream to a scalar."""

    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    MODE = "mode"
    FIRST = "first"
    LAST = "last"
    UNIQUE = "unique"
    UNIQUE_COUNT = "unique_count"  # unique(…).count()


class Form(StrEnum):
    """How values are taken by `min`, `max` and `mode`."""

    NUMBER = "number"
    STRING = "string"
    ARRAY = "array"  # of mode: a path with `$` means the whole array, as text


class Operator(StrEnum):
    """The comparators that have a symbol."""

    EQUALS = "="
    DIFFERS = "!="
    LESS_THAN = "<"
    AT_MOST = "<="
    GREATER_THAN = ">"
    AT_LEAST = ">="


class TextTest(StrEnum):
    """The comparators that look into a text."""

    CONTAINS = "contains"
    OMITS = "omits"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    MATCHES = "matches"


class DateTest(StrEnum):
    """The comparators with a fixed instant."""

    BEFORE_DATE = "before_date"
    AFTER_DATE = "after_date"


class RelativeTest(StrEnum):
    """The comparators with an instant so far from the one the query is evaluated for; all include their ends."""

    WITHIN_LAST = "within_last"
    WITHIN_NEXT = "within_next"
    BEFORE_LAST = "before_last"
    AFTER_NEXT = "after_next"


EACH = "$"
"""The step of a path that stands for every element of an array."""

Path: TypeAlias = tuple[str, ...]
"""The names that lead to a value, from the outside in."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written in the query; a moment without a zone is meant in the audience's."""

    value: str | int | float | bool | date | datetime
    is_truth: bool = field(init=False, repr=False)  # 1 and true are equal in Python, and not here

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_truth", isinstance(self.value, bool))


@dataclass(frozen=True, slots=True)
class Trait:
    """A trait of the profile, or whether it is in the audience, or has the computed trait, of this key."""

    path: Path
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Property:
    """A property of the event that is looked at, or of the event around it."""

    path: Path
    of_parent: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Context:
    """Something of the context of the event that is looked at, or of the event around it."""

    path: Path
    of_parent: bool = False
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Where:
    """Events for which a condition holds."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Within:
    """Events within a duration before now, or after the parent event."""

    duration: Duration
    of_parent: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    """Events between two lengths of time ago, or behind the parent event; the shorter comes first."""

    near: Duration
    far: Duration
    of_parent: bool = False


@dataclass(frozen=True, slots=True)
class Since:
    """Events since the calendar period began."""

    period: Period


@dataclass(frozen=True, slots=True)
class Sources:
    """Events of all sources but some."""

    exclude: tuple[str, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ExpiresAfter:
    """Events of the session that still goes on: no gap, and no silence since, is longer than this."""

    duration: Duration


Filter: TypeAlias = Where | Within | Between | Since | Sources | ExpiresAfter


@dataclass(frozen=True, slots=True)
class Stream:
    """The events of one name, filtered in order."""

    event: str
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Reduction:
    """A stream as one value; `of` is what is counted, summed, …, None for count."""

    stream: Stream
    function: Function
    of: Property | Context | None = None
    form: Form | None = None
    at_least: int = 1  # of mode: how often the value must occur


Scalar: TypeAlias = Literal | Trait | Property | Context | Reduction


@dataclass(frozen=True, slots=True)
class Comparison:
    """A scalar against another."""

    left: Scalar
    operator: Operator
    right: Scalar


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a scalar has a value, or, `absent`, has none."""

    scalar: Scalar
    absent: bool = False


@dataclass(frozen=True, slots=True)
class TextCondition:
    """A test for parts of a scalar's text: with several `texts`, any of them."""

    scalar: Scalar
    test: TextTest
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """Whether a scalar equals one of several values; negated: none of them."""

    scalar: Scalar
    values: tuple[Literal, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class DateCondition:
    """Whether a moment lies before or after another."""

    scalar: Scalar
    test: DateTest
    moment: date | datetime


@dataclass(frozen=True, slots=True)
class RelativeCondition:
    """Whether a moment lies so far from now, or nearer, or farther."""

    scalar: Scalar
    test: RelativeTest
    duration: Duration


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    operand: Condition


@dataclass(frozen=True, slots=True)
class And:
    """Whether all of two or more conditions hold; none of them is an `And`."""

    operands: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Whether any of two or more conditions holds; none of them is an `Or`."""

    operands: tuple[Condition, ...]


Primary: TypeAlias = Comparison | Presence | TextCondition | OneOf | DateCondition | RelativeCondition
Condition: TypeAlias = Primary | Not | And | Or
Query: TypeAlias = Condition | Scalar
"""An audience is a condition, a computed trait a scalar."""


def kind_of(scalar: Scalar) -> Kind:  # noqa: PLR0911 - one return for each kind of scalar reads best
    """Return what is known of the values of a scalar."""
    match scalar:
        case Literal(bool()):
            return Kind.BOOLEAN
        case Literal(int() | float()):
            return Kind.NUMBER
        case Literal(str()):
            return Kind.TEXT
        case Literal():
            return Kind.MOMENT
        case Reduction(_, Function.UNIQUE):
            return Kind.LIST
        case Reduction(_, Function.MODE) | Reduction(_, Function.MIN | Function.MAX, form=Form.STRING):
            return Kind.TEXT
        case Reduction(_, Function.FIRST | Function.LAST) | Trait() | Property() | Context():
            return Kind.ANY
        case _:
            return Kind.NUMBER


def walk(node: object) -> Iterator[object]:
    """Yield a node and everything below it, in the order of the text."""
    yield node
    if isinstance(node, tuple) and not isinstance(node, Duration):
        for one in node:
            yield from walk(one)
    elif is_dataclass(node):
        for part in fields(node):
            yield from walk(getattr(node, part.name))


def traits_of(query: Query) -> list[Trait]:
    """Return the traits that a query asks for, in the order of the text."""
    return [node for node in walk(query) if isinstance(node, Trait)]
