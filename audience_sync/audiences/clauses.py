"""A query as a tree of clauses: what each condition asks for, the values it found, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from audience_sync.config import Audience
from audience_sync.query.printer import to_text
from audience_sync.query.syntax_tree import EACH, And, Comparison, Condition, Literal, Not, Or, Primary, Scalar, Trait


class Event(NamedTuple):
    """One event that a stream has of the user: when, and what is looked at in it, as the text of a JSON object."""

    at: str
    properties: str


@dataclass(frozen=True)
class Fact:
    """A scalar of the query and its value for the user, as JSON text; of a stream with its events."""

    scalar: Scalar
    value: str
    known: Audience | None = None  # the audience or computed trait of the file that this trait is
    events: tuple[Event, ...] = ()  # those that decide come first
    events_in_all: int | None = None  # None: it is not about events, or nobody asked for them


@dataclass(frozen=True)
class Clause:
    """A condition of the query, whether it holds, and what it is made of; `node` is its place, as in 1.2."""

    node: str
    condition: Condition
    holds: bool
    facts: tuple[Fact, ...] = ()
    operands: tuple[Clause, ...] = ()


def asked_for(clause: Clause) -> str | None:
    """Return what a condition wants of its one value, as in `>= 500`; None where that is its whole text."""
    if len(clause.facts) != 1:
        return None
    whole, begin = to_text(clause.condition), to_text(clause.facts[0].scalar)
    return whole.removeprefix(begin).lstrip(" .") if whole.startswith(begin) and len(whole) > len(begin) else None


def clause_of(condition: Condition, node: str, holds: Mapping[int, bool], facts: Mapping[Scalar, Fact]) -> Clause:
    """Return a condition with what it is made of; what AND, OR and NOT say follows from their operands."""
    match condition:
        case And(operands) | Or(operands):
            parts = tuple(clause_of(one, f"{node}.{n}", holds, facts) for n, one in enumerate(operands, 1))
            whole = (all if isinstance(condition, And) else any)(part.holds for part in parts)
            return Clause(node, condition, whole, operands=parts)
        case Not(operand):
            part = clause_of(operand, f"{node}.1", holds, facts)
            return Clause(node, condition, not part.holds, operands=(part,))
        case _:
            return Clause(node, condition, holds[id(condition)], tuple(facts[one] for one in scalars_of([condition])))


def primaries(condition: Condition) -> Iterator[Primary]:
    """Yield the conditions that are joined by AND, OR and NOT, in the order of the text."""
    match condition:
        case And(operands) | Or(operands):
            for one in operands:
                yield from primaries(one)
        case Not(operand):
            yield from primaries(operand)
        case _:
            yield condition


def scalars_of(conditions: Iterable[Primary]) -> Iterator[Scalar]:
    """Yield the scalars that conditions compare, in the order of the text, but for the literals."""
    for one in conditions:
        for scalar in (one.left, one.right) if isinstance(one, Comparison) else (one.scalar,):
            if not isinstance(scalar, Literal):
                yield outer(scalar)


def outer(scalar: Scalar) -> Scalar:
    """Return a scalar, or the list whose elements it is about."""
    if isinstance(scalar, Trait) and EACH in scalar.path:
        return replace(scalar, path=scalar.path[: scalar.path.index(EACH)])
    return scalar
