"""The comparators: what is said of one value, or of two. Every one is true or false."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from tests.reference import language as q
from tests.reference.finding import number, text
from tests.reference.moments import read
from tests.reference.worlds import Value

_ORDERED = {
    "equals": operator.eq,
    "less_than": operator.lt,
    "at_most": operator.le,
    "greater_than": operator.gt,
    "at_least": operator.ge,
}


def compare(left: Value, name: str, right: Value, *, as_moments: bool = False) -> bool:
    """Say whether a comparison holds; `as_moments` if one side is a date or timestamp of the query."""
    if left is None or right is None:
        return False
    if name == "differs":
        return not compare(left, "equals", right, as_moments=as_moments)
    if as_moments:
        earlier, later = read(left), read(right)
        return earlier is not None and later is not None and bool(_ORDERED[name](earlier, later))
    one, other = number(left), number(right)
    if one is not None and other is not None:
        return bool(_ORDERED[name](one, other))
    if name != "equals" and (one is not None or other is not None):
        return False
    return bool(_ORDERED[name](text(left), text(right)))


def says(value: Value, name: str, arguments: Sequence[q.Constant | q.Duration], zone: ZoneInfo) -> bool:
    """Say whether `one_of`, a test of texts, `before_date` or `after_date` holds for one value."""
    if value is None:
        return name == "omits"
    if name in {"one_of", "none_of"}:
        return any(_is(value, one, zone) for one in arguments) == (name == "one_of")
    texts = [one.text for one in arguments if isinstance(one, q.Text | q.Moment)]
    if name in {"before_date", "after_date"}:
        moment, limit = read(value), read(texts[0], zone)
        assert limit is not None
        return moment is not None and (moment < limit if name == "before_date" else moment > limit)
    return _says_of_text(text(value), name, texts)


def _is(value: Value, constant: q.Constant | q.Duration, zone: ZoneInfo) -> bool:
    match constant:
        case q.Moment(written):
            return compare(value, "equals", read(written, zone), as_moments=True)
        case q.Text(content) | q.Number(content) | q.Truth(content):
            return compare(value, "equals", content)
        case q.Duration():
            raise TypeError(constant)


def _says_of_text(value: str, name: str, texts: Sequence[str]) -> bool:
    match name:
        case "contains":
            return any(one in value for one in texts)
        case "omits":
            return not any(one in value for one in texts)
        case "starts_with":
            return value.startswith(texts[0])
        case "ends_with":
            return value.endswith(texts[0])
        case "matches":
            return re.search(texts[0], value) is not None
        case _:
            raise ValueError(name)


def says_when(moment: datetime | None, name: str, instants: tuple[datetime, datetime, datetime]) -> bool:
    """Say whether a test relative to as-of holds; the instants are the duration before it, as-of, and the one after."""
    past, as_of, future = instants
    return (
        moment is not None
        and {
            "within_last": past <= moment <= as_of,
            "within_next": as_of <= moment <= future,
            "before_last": moment <= past,
            "after_next": moment >= future,
        }[name]
    )
