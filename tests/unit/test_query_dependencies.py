"""Audiences and computed traits are computed behind those they depend on, and a cycle is named."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.query.references import closure, families, find_cycle, order

KEYS = st.sampled_from("abcdef")
GRAPHS = st.dictionaries(KEYS, st.frozensets(KEYS, max_size=3))


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, ""),
        ({"b": "", "a": ""}, "ba"),
        ({"a": "bc", "b": "c", "c": ""}, "cba"),
        ({"c": "", "b": "", "a": "c"}, "cba"),
        ({"d": "a", "b": "", "a": "z", "c": ""}, "badc"),
    ],
)
def test_the_order(graph: dict[str, str], expected: str) -> None:
    """Each comes behind what it depends on; what is free to come first keeps its place; others do not count."""
    assert list(expected) == order({key: frozenset(on) for key, on in graph.items()})


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": "b", "b": ""}, None),
        ({"a": "a"}, "aa"),
        ({"a": "b", "b": "a"}, "aba"),
        ({"x": "a", "a": "b", "b": "c", "c": "ad", "d": "c"}, "cdc"),
        ({"a": "z"}, None),
    ],
)
def test_the_cycle(graph: dict[str, str], expected: str | None) -> None:
    """A shortest cycle is named from its beginning back to it."""
    assert (list(expected) if expected else None) == find_cycle({key: frozenset(on) for key, on in graph.items()})


@given(GRAPHS)
def test_a_graph_has_an_order_or_a_cycle(graph: dict[str, frozenset[str]]) -> None:
    """A graph without a cycle has an order that holds; one with a cycle has none, and every step of it is there."""
    cycle = find_cycle(graph)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(on in graph[key] for key, on in itertools.pairwise(cycle))
        with pytest.raises(ValueError, match="part of a cycle"):
            order(graph)
        return
    ordered = order(graph)

    assert sorted(graph) == sorted(ordered)
    assert all(on in ordered[:place] for place, key in enumerate(ordered) for on in graph[key] & graph.keys())


@pytest.mark.parametrize(
    ("graph", "keys", "expected"),
    [
        ({"a": "bz", "b": "c", "c": "", "d": "a"}, "a", "abc"),
        ({"a": "bz", "b": "c", "c": "", "d": "a"}, "da", "dabc"),
        ({"a": "bz", "b": "c", "c": "", "d": "a"}, "c", "c"),
        ({"a": ""}, "", ""),
    ],
)
def test_the_closure(graph: dict[str, str], keys: str, expected: str) -> None:
    """Some keys bring along all they depend on, directly or not, but nothing that depends on them."""
    found = closure({key: frozenset(on) for key, on in graph.items()}, keys)

    assert list(expected) == list(found)
    assert all(found[key] == frozenset(graph[key]) for key in found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, []),
        ({"a": "z", "b": "z"}, ["a", "b"]),
        ({"a": "c", "b": "", "c": "", "d": "c"}, ["acd", "b"]),
        ({"a": "", "b": "", "c": "", "d": "ab", "e": "bc"}, ["abcde"]),
        ({"e": "d", "a": "b", "d": "", "b": ""}, ["ed", "ab"]),
    ],
)
def test_the_families(graph: dict[str, str], expected: list[str]) -> None:
    """What is connected, in whatever direction, is together; what uses the same trait of the profiles is not."""
    found = families({key: frozenset(on) for key, on in graph.items()})

    assert ["".join(family) for family in found] == expected


@given(GRAPHS)
def test_a_dependency_stays_in_its_family(graph: dict[str, frozenset[str]]) -> None:
    """Each key is in one family, with everything it depends on."""
    found = families(graph)

    assert sorted(key for family in found for key in family) == sorted(graph)
    assert all(set(closure(graph, [key])) <= set(family) for family in found for key in family)
