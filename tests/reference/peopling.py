"""Makes up what people did and when, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tests.reference import vocabulary as words
from tests.reference.choosing import Choices
from tests.reference.vocabulary import Place
from tests.reference.worlds import Event, Profile, Shape, Value

UNREADABLE = ("yesterday", "2023-02-30", "now", "")
Maker = Callable[[Choices, datetime], Mapping[str, Value] | None]


def a_profile(choices: Choices, user: str, shape: Shape, as_of: datetime) -> Profile:
    """Make up what is known of somebody."""
    make = _plain(words.USER_COLUMNS) if shape.plain else _tree(words.TRAITS)
    return Profile(user, make(choices, as_of))


def an_event(choices: Choices, shape: Shape, as_of: datetime) -> Event:
    """Make up what somebody did; now and then a part of it is missing."""
    users = words.INTEGER_USERS if shape.integer_users else words.USERS
    at: datetime | None = as_of - choices.one(words.AGO)
    assert at is not None
    spelled: str | None = spelled_instant(choices, at, dates=False)
    strange = choices.below(30)
    if strange >= 28:
        at, spelled = None, choices.one(UNREADABLE) if strange == 29 else None
    make = _plain(words.EVENT_COLUMNS) if shape.plain else _tree(words.PROPERTIES)
    return Event(
        user=choices.one((*users[:2], *users)) if strange != 27 else None,
        name=choices.one((*words.EVENTS[:1] * 3, *words.EVENTS)) if strange != 26 else None,
        at=at,
        properties=make(choices, as_of),
        context=_tree(words.CONTEXTS)(choices, as_of),
        source=choices.one((*words.SOURCES, None)),
        spelled=spelled,
    )


def spelled_instant(choices: Choices, instant: datetime, *, separator: str = "", dates: bool = True) -> str:
    """Write an instant with its zone, or in UTC and without one; or only its date."""
    utc = instant.astimezone(UTC)
    zone = timezone(timedelta(minutes=choices.one((0, 120, -330))))
    style = choices.below(5 if dates else 4)
    if style == 4:
        return utc.strftime("%Y-%m-%d")
    between = separator or choices.one(("T", " "))
    shown = instant.astimezone(zone) if style >= 2 else utc
    text = shown.strftime(f"%Y-%m-%d{between}%H:%M:%S")
    if shown.microsecond:
        text += f".{shown.microsecond // 1000:03d}"
    elif not shown.second and choices.chance(2):
        text = text[:-3]  # without seconds
    if style == 0:
        return text
    if style == 1 or shown.utcoffset() == timedelta(0):
        return text + "Z"
    offset = shown.strftime("%z")
    return text + f"{offset[:3]}:{offset[3:]}"


def _tree(places: Sequence[Place]) -> Maker:
    """Return what draws the members of a JSON column, each of them sometimes missing, null or of another kind."""

    def make(choices: Choices, as_of: datetime) -> Mapping[str, Value] | None:
        if choices.below(20) == 19:
            return None
        tree: dict[str, Value] = {}
        for place in places:
            name, *rest = place.path
            if place.kind in {"object", "list", "none"}:
                continue
            outcome = choices.below(10)
            if outcome in {1, 2}:
                continue
            if outcome == 3:
                tree[name] = _strange(choices, as_of)
            elif not rest:
                tree[name] = _of_kind(choices, place.kind, as_of)
            elif name not in tree:
                leaf = {one.path[-1]: one.kind for one in places if one.path[0] == name}
                tree[name] = _nested(choices, rest, leaf, as_of)
        return tree

    return make


def _nested(choices: Choices, rest: Sequence[str], leaf: Mapping[str, str], as_of: datetime) -> Value:
    if rest == ["$"]:
        return [choices.one(("a", "B", "ab", 1, 5, "a", True, None)) for _ in range(choices.below(4))]
    names = sorted(name for name in leaf if name not in {"$", "cart", "tags"})

    def element() -> dict[str, Value]:
        return {name: _of_kind(choices, leaf[name], as_of) for name in names if choices.below(5) != 4}

    return [element() for _ in range(choices.below(3))] if rest[0] == "$" else element()


def _strange(choices: Choices, as_of: datetime) -> Value:
    """Draw a value of any kind; lists and objects are such that their text is the same but for spaces."""
    others: tuple[Any, ...] = (
        None,
        [],
        [1],
        ["a"],
        ["a", "B"],
        {},
        {"sku": "a"},
        [[1]],
        [None],
        {"total": 5, "x": [1]},
    )
    if choices.chance(2):
        return choices.one(others)
    return _of_kind(choices, choices.one(("number", "text", "truth", "moment")), as_of)


def _of_kind(choices: Choices, kind: str, as_of: datetime) -> Value:
    match kind:
        case "number":
            return choices.one((*words.NUMBERS, *words.NUMBERS, *words.NUMERIC_TEXTS))
        case "truth":
            return choices.chance(2)
        case "moment" if choices.below(4):
            away = choices.one(words.AGO) * choices.one((1, -1))
            return spelled_instant(choices, as_of - away)
        case "moment":
            return choices.one(words.ODD_MOMENTS)
        case _:
            return choices.one((*words.TEXTS, *words.FREQUENT_TEXTS * 5, *words.NUMERIC_TEXTS))


def _plain(columns: Mapping[str, str]) -> Maker:
    """Return what draws the columns of a table, each of its own type."""

    def make(choices: Choices, as_of: datetime) -> Mapping[str, Value]:
        tree: dict[str, Value] = {}
        for name, kind in columns.items():
            if choices.below(5) != 4:
                tree[name] = _of_column(choices, kind, as_of)
        return tree

    return make


def _of_column(choices: Choices, kind: str, as_of: datetime) -> Value:
    match kind:
        case "integer":
            return choices.one([one for one in words.NUMBERS if isinstance(one, int)])
        case "double":
            return choices.one([one for one in words.NUMBERS if isinstance(one, float)])
        case "truth":
            return choices.chance(2)
        case "time":
            return as_of - choices.one(words.AGO) * choices.one((1, -1))
        case "json":
            return {"x": _of_kind(choices, "text", as_of), "tags": _nested(choices, ["$"], {}, as_of)}
        case _:
            return _of_kind(choices, "text", as_of)
