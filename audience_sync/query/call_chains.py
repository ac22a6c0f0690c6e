"""A query before its names and types are checked: chains of calls, and the operators between them.

Every piece has the position of its first character, counted from 0; that of a chain is the one of its first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from audience_sync.query.syntax_tree import Duration, Literal, Operator


@dataclass(frozen=True, slots=True)
class Constant:
    """A text, a number, a date, a timestamp, `true` or `false`."""

    literal: Literal
    at: int


@dataclass(frozen=True, slots=True)
class Bare:
    """A name with nothing around it, which is never right."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """A name and what stands in its parentheses."""

    name: str
    arguments: tuple[Argument, ...]
    at: int
    braces: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """Calls with dots between them."""

    calls: tuple[Call, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Two values with a symbol between them."""

    left: Written
    operator: Operator
    right: Written
    at: int


@dataclass(frozen=True, slots=True)
class Negated:
    """`NOT` and what follows it."""

    operand: Written
    at: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Two or more conditions with `AND`, or with `OR`, between them."""

    word: str  # AND, OR
    operands: tuple[Written, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time."""

    duration: Duration
    at: int


@dataclass(frozen=True, slots=True)
class StartOf:
    """`start of` and the name of a period."""

    period: str
    at: int


@dataclass(frozen=True, slots=True)
class Several:
    """A list in brackets."""

    values: tuple[Written, ...]
    at: int


Written: TypeAlias = Constant | Bare | Chain | Compared | Negated | Joined
Value: TypeAlias = Written | Span | StartOf | Several


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: a value, perhaps after `parent:` or before `as string`."""

    value: Value
    at: int
    label: str | None = None
    form: str | None = None
