"""The references of a query: properties of events, and audiences, each after those it depends on.

A graph has, for each key of an audience or computed trait, the keys that its query asks for; a key that is not in the
graph itself depends on nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace

from audience_sync.query.literals import path_text
from audience_sync.query.syntax_tree import EACH, Context, Duration, Property, Reduction


def looked_at(reduction: Reduction) -> dict[str, Property | Context]:
    """Return what a reduction and its filters look at in the events of its stream, in the order of the text.

    What a child looks at in its own events is not among it, but what it asks of its parent is. Of the elements of a
    list, it is the list.
    """
    found: dict[str, Property | Context] = {}
    for node in [*_looks(reduction.stream.filters, depth=0), *([reduction.of] if reduction.of else [])]:
        path = node.path[: node.path.index(EACH)] if EACH in node.path else node.path
        name = path_text(path)
        plain = replace(node, path=path, of_parent=False)
        found.setdefault(f"context.{name}" if isinstance(node, Context) else name, plain)
    return found


def _looks(node: object, *, depth: int) -> Iterator[Property | Context]:
    """Yield the properties that are read of events, inside a number of child streams."""
    match node:
        case Property() | Context():
            if depth == node.of_parent:
                yield node
        case tuple() if not isinstance(node, Duration):
            for one in node:
                yield from _looks(one, depth=depth)
        case Reduction():
            yield from _looks((node.stream, node.of), depth=depth + 1)
        case _:
            for part in fields(node) if is_dataclass(node) else ():
                yield from _looks(getattr(node, part.name), depth=depth)


def find_cycle(graph: Mapping[str, frozenset[str]]) -> list[str] | None:
    """Return a shortest chain of keys that leads back to where it began, as in `[a, b, a]`; None if there is none."""
    _, tangled = _untangled(graph)
    chains = (_way_back(tangled, key) for key in tangled)
    return min((chain for chain in chains if chain is not None), key=len, default=None)


def order(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """Return the keys such that each comes behind those it depends on; what may come first is in the given order.

    Raises:
        ValueError: some depend on each other in a cycle.
    """
    ordered, tangled = _untangled(graph)
    if tangled:
        raise ValueError(f"part of a cycle, or dependent on one: {', '.join(tangled)}")
    return ordered


def closure(graph: Mapping[str, frozenset[str]], keys: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the part of a graph that has some keys and all they depend on: the keys first, as they are given."""
    found: dict[str, frozenset[str]] = {}
    waiting = deque(keys)
    while waiting:
        key = waiting.popleft()
        if key not in found:
            found[key] = graph[key]
            waiting.extend(sorted(graph[key] & graph.keys()))
    return found


def families(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return the keys that are connected, by dependencies of either direction, in groups; each in the given order."""
    group_of: dict[str, list[str]] = {}
    for key in graph:
        connected = [group_of.setdefault(one, [one]) for one in (key, *(graph[key] & graph.keys()))]
        distinct = {id(group): group for group in connected}
        merged = [one for group in distinct.values() for one in group]
        group_of.update(dict.fromkeys(merged, merged))
    place = {key: number for number, key in enumerate(graph)}
    groups = {id(group): sorted(group, key=place.__getitem__) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: place[group[0]])


def _untangled(graph: Mapping[str, frozenset[str]]) -> tuple[list[str], dict[str, frozenset[str]]]:
    """Return the keys in order, and what is left of the graph because cycles keep it from being ordered."""
    ordered: list[str] = []
    waiting = dict(graph)
    while (ready := next((key for key in waiting if waiting.keys().isdisjoint(waiting[key])), None)) is not None:
        ordered.append(ready)
        del waiting[ready]
    return ordered, waiting


def _way_back(graph: Mapping[str, frozenset[str]], start: str) -> list[str] | None:
    """Return a shortest chain from a key to itself."""
    chains = deque([[start]])
    seen = set()
    while chains:
        chain = chains.popleft()
        for key in sorted(graph[chain[-1]] & graph.keys()):
            if key == start:
                return [*chain, start]
            if key not in seen:
                seen.add(key)
                chains.append([*chain, key])
    return None
