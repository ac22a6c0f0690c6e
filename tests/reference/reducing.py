"""The reducers: one value from the events of a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from tests.reference.finding import each, find, number, text
from tests.reference.language import Field, Reduced
from tests.reference.worlds import Event, Value


def reduce(reduced: Reduced, events: Sequence[Event]) -> Value:
    """Return what the reducer makes of the events that passed all filters."""
    if reduced.field is None:
        return len(events)  # count()
    found = _found(reduced.field, events, whole=reduced.reducer == "mode" and reduced.kind == "array")
    numbers = [one for one in (number(value) for _, value in found) if one is not None]
    match reduced.reducer:
        case "sum" | "avg":
            return (sum(numbers) / (len(numbers) if reduced.reducer == "avg" else 1)) if numbers else None
        case "min" | "max" if reduced.kind != "string":
            return (min if reduced.reducer == "min" else max)(numbers, default=None)
        case "first":
            return min(found, key=_by_time)[1] if found else None
        case "last":
            return max(found, key=_by_time)[1] if found else None
        case _:
            return _of_texts(reduced, [text(value) for _, value in found])


def _found(field: Field, events: Iterable[Event], *, whole: bool) -> list[tuple[datetime, Value]]:
    """Return the values that are not null, with their instants; `whole`: an array is one value, not many."""
    path = field.path[:-1] if whole and field.path[-1] == "$" else field.path
    found = []
    for event in events:
        assert event.at is not None
        values = each(find(event.properties if field.of == "property" else event.context, path))
        found += [(event.at, value) for value in values if value is not None]
    return [(at, value) for at, value in found if path == field.path or isinstance(value, list)]


def _by_time(found: tuple[datetime, Value]) -> tuple[datetime, str]:
    return found[0], text(found[1])


def _of_texts(reduced: Reduced, texts: list[str]) -> Value:
    match reduced.reducer:
        case "min":
            return min(texts, default=None)
        case "max":
            return max(texts, default=None)
        case "mode":
            least = 2 if reduced.least is None else reduced.least
            return min(((-times, one) for one, times in Counter(texts).items() if times >= least), default=(0, None))[1]
        case "unique":
            return sorted(set(texts)) or None
        case "unique.count":
            return len(set(texts))
        case _:
            raise ValueError(reduced.reducer)
