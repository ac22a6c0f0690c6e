"""Queries are printed in one canonical form, which is read as the tree it was made from."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from random import Random
from typing import get_args

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis.strategies import SearchStrategy

from audience_sync.query.printer import to_text
from audience_sync.query.query_parser import parse_audience, parse_trait
from audience_sync.query.syntax_tree import (
    Condition,
    Context,
    DateTest,
    Duration,
    Filter,
    Form,
    Function,
    Operator,
    Period,
    Property,
    Reduction,
    RelativeTest,
    Scalar,
    TextTest,
    TimeUnit,
    walk,
)
from tests.queries import audiences, computed_traits, conditions, filters, values


@given(audiences())
def test_a_printed_audience_is_read_as_the_same(condition: Condition) -> None:
    """Any condition survives printing and reading, with all its names, texts, numbers and moments."""
    again = parse_audience(to_text(condition))

    assert condition == again
    assert to_text(condition) == to_text(again)


@given(computed_traits())
def test_a_printed_computed_trait_is_read_as_the_same(scalar: Scalar) -> None:
    """Any value survives printing and reading."""
    again = parse_trait(to_text(scalar))

    assert scalar == again
    assert to_text(scalar) == to_text(again)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "kinds", "enums"),
    [
        (audiences(), Condition, ()),
        (computed_traits(), Scalar, (Form,)),
        (values(0, 1), Reduction, (Function,)),
        (conditions(1, 0), Property | Context, (Operator, TextTest, DateTest, RelativeTest, TimeUnit)),
        (filters(0, 0) | filters(1, 0), Filter, (Period,)),
    ],
    ids=["audiences", "computed traits", "functions", "tests", "filters"],
)
def test_the_strategies_reach_everything(
    strategy: SearchStrategy[object], kinds: object, enums: tuple[type[Enum], ...]
) -> None:
    """The queries that are tried have every node, and every operator, function, unit and period."""
    missing: set[object] = {*(get_args(kinds) or [kinds]), *((kind, member) for kind in enums for member in kind)}
    missing.discard((Function, Function.UNIQUE))  # a list, which only a computed trait can be

    def completes(query: object) -> bool:
        for node in walk(query):
            missing.difference_update([type(node), (type(node), node if isinstance(node, Enum) else None)])
            missing.difference_update((TimeUnit, part.unit) for part in _parts(node) if isinstance(part, Duration))
        return not missing

    find(strategy, completes, settings=settings(max_examples=10_000, phases=[Phase.generate]), random=Random(0))

    assert not missing


def _parts(node: object) -> list[object]:
    return [getattr(node, part.name) for part in fields(node)] if is_dataclass(node) else []
