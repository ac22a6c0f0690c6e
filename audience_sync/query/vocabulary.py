"""The words of the language that stand for one of a few things, and lengths of time."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Unit(StrEnum):
    """What durations are counted in."""

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
    unit: Unit


class Kind(StrEnum):
    """What is known of a scalar's value before anything runs."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    MOMENT = "moment"  # a date or a timestamp
    LIST = "list"
    ANY = "any"


class Function(StrEnum):
    """What reduces a stream to a scalar."""

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
