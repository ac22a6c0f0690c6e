"""What a stream looks at in its events: the properties and parts of the context, by names for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

from audience_sync.query.tree import EACH, Context, Property, Reduction
from audience_sync.query.vocabulary import Duration
from audience_sync.query.words import path_text


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
    """Yield what is asked of the events around so many child streams."""
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
