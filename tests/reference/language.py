"""Queries as data, with the function names of the documentation; refused queries are not caught here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Path = tuple[str, ...]
"""Steps into an object; the step `$` stands for each element of an array."""


@dataclass(frozen=True)
class Text:
    """A text in quotes."""

    text: str


@dataclass(frozen=True)
class Number:
    """A whole number or a fraction."""

    number: int | float


@dataclass(frozen=True)
class Truth:
    """`true` or `false`."""

    truth: bool


@dataclass(frozen=True)
class Moment:
    """A date or timestamp, as it is written."""

    text: str


Constant = Text | Number | Truth | Moment


@dataclass(frozen=True)
class Trait:
    """`trait('plan')`."""

    path: Path


@dataclass(frozen=True)
class Field:
    """`property('price')`, `context('page.url')`, and those of the enclosing event."""

    path: Path
    of: Literal["property", "context"] = "property"
    parent: bool = False


@dataclass(frozen=True)
class Duration:
    """`7 days`; the unit in the singular."""

    amount: int
    unit: str


@dataclass(frozen=True)
class Where:
    """`where(condition)`."""

    condition: Condition


@dataclass(frozen=True)
class Within:
    """`within(7 days)`, `within(parent: 7 days)`."""

    duration: Duration
    parent: bool = False


@dataclass(frozen=True)
class Between:
    """`between(7 days, 10 days)`, `between(parent: 1 day, 3 days)`."""

    one: Duration
    other: Duration
    parent: bool = False


@dataclass(frozen=True)
class Since:
    """`since(start of month)`."""

    period: str


@dataclass(frozen=True)
class Sources:
    """`sources({exclude: 'id'})`."""

    excluded: tuple[str, ...]


@dataclass(frozen=True)
class ExpiresAfter:
    """`expires_after(30 minutes)`."""

    duration: Duration


Filter = Where | Within | Between | Since | Sources | ExpiresAfter


@dataclass(frozen=True)
class Stream:
    """`event('Order Completed')` and its filters, in the order written."""

    event: str
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Reduced:
    """A stream and what is made of it: `count`, `sum`, `avg`, `min`, `max`, `first`, `last`, `mode`, `unique`.

    The number of unique values is `unique.count`.
    """

    stream: Stream
    reducer: str
    field: Field | None = None
    kind: str | None = None  # `as string`
    least: int | None = None  # how often, for `mode`


Scalar = Constant | Trait | Field | Reduced


@dataclass(frozen=True)
class Comparison:
    """Two values and the name of what must hold between them: `equals`, `at_least` and so on."""

    left: Scalar
    name: str
    right: Scalar


@dataclass(frozen=True)
class Test:
    """A value and what is said of it: `exists()`, `contains('a', 'b')`, `within_last(7 days)` and so on."""

    __test__ = False  # for pytest

    value: Scalar
    name: str
    arguments: tuple[Constant | Duration, ...] = ()


@dataclass(frozen=True)
class Both:
    """Conditions joined by AND."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    """Conditions joined by OR."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Condition


Condition = Comparison | Test | Both | Either | Not
Query = Condition | Scalar
