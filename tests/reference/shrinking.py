"""Makes a case that fails smaller: whatever can be left out of it, piece by piece, so that it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from tests.reference import language as q
from tests.reference.worlds import Case

_MAY_BE_EMPTY = {"filters", "events", "profiles"}
_SHORTENED = _MAY_BE_EMPTY | {"arguments", "parts", "excluded", "definitions"}


def smallest(case: Case, fails: Callable[[Case], bool], *, tries: int = 600) -> Case:
    """Return a case that still fails and has nothing to leave out, or the smallest after so many tries."""
    left = tries
    improved = True
    while improved:
        improved = False
        for smaller in _smaller(case):
            left -= 1
            if left < 0:
                return case
            if fails(smaller):
                case, improved = smaller, True
                break
    return case


def _smaller(node: Any) -> Iterator[Any]:
    """Yield what is left of a node without one of its pieces, big pieces first."""
    if isinstance(node, q.Both | q.Either):
        yield from node.parts
    elif isinstance(node, q.Not):
        yield node.part
    elif isinstance(node, Mapping):
        yield from ({key: value for key, value in node.items() if key != name} for name in node)
    if is_dataclass(node) and not isinstance(node, type):
        values = {field.name: getattr(node, field.name) for field in fields(node)}
        for name, value in values.items():
            yield from (replace(node, **{name: kept}) for kept in _without(name, value))
        for name, value in values.items():
            yield from (replace(node, **{name: smaller}) for smaller in _inner(value))


def _without(name: str, value: Any) -> Iterator[Any]:
    if name == "spelling" and value:
        yield 0
    if name in _SHORTENED and isinstance(value, tuple):
        yield from _shorter(value, least=0 if name in _MAY_BE_EMPTY else 1)


def _inner(value: Any) -> Iterator[Any]:
    if not isinstance(value, tuple):
        yield from _smaller(value)
        return
    for index, one in enumerate(value):
        yield from ((*value[:index], smaller, *value[index + 1 :]) for smaller in _smaller(one))


def _shorter(value: tuple[Any, ...], *, least: int) -> Iterator[tuple[Any, ...]]:
    """Yield halves of it first, then all of it without one."""
    half = len(value) // 2
    if half >= max(least, 2):
        yield value[:half]
        yield value[half:]
    if len(value) > least:
        yield from (value[:index] + value[index + 1 :] for index in range(len(value)))
