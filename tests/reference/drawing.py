"""Makes up cases: worlds, and queries over their words. Only queries that the language allows are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from hypothesis import strategies as st

from tests.reference import language as q
from tests.reference import vocabulary as words
from tests.reference.choosing import Choices
from tests.reference.evaluating import Evaluator
from tests.reference.peopling import a_profile, an_event, spelled_instant
from tests.reference.vocabulary import Place
from tests.reference.worlds import Case, Definition, Shape, World

ORDERINGS = ("less_than", "at_most", "greater_than", "at_least")
DEEPEST = 2  # events within events within events
ATTEMPTS = 6


@dataclass(frozen=True)
class _Scope:
    """What a query may speak of where it stands, and how complicated it may still become."""

    choices: Choices
    as_of: datetime
    properties: Sequence[Place]
    traits: Sequence[Place]
    names: tuple[Place, ...]  # definitions that may be referred to
    inside: int = 0  # in how many `where`
    depth: int = 2  # of conditions, each of which may be a junction


def cases(*, plain: bool, profiles: bool) -> st.SearchStrategy[Case]:
    """Return a strategy for worlds with some definitions that may use each other."""
    return st.integers(0, 2**62).map(lambda seed: draw(seed, plain=plain, profiles=profiles))


def draw(seed: int, *, plain: bool, profiles: bool) -> Case:
    """Make up a case."""
    choices = Choices(seed)
    shape = Shape(plain, *(choices.chance(2) for _ in range(4)))
    as_of = choices.one(words.INSTANTS)
    users = words.INTEGER_USERS if shape.integer_users else words.USERS
    events = [an_event(choices, shape, as_of) for _ in range(choices.one((0, 1, 5, 10, 15, 20, 25, 30)))]
    # the last user has events only, and some of the others have none
    known = users[: choices.one((1, 3, 5, 5, 5))] if profiles else ()
    people = tuple(a_profile(choices, user, shape, as_of) for user in known)
    names = ["plan" if choices.chance(2) else "d0", *(f"d{number}" for number in range(1, 8))]  # it hides that trait
    world = World(tuple(events), people if profiles else None)
    scope = _scope(choices, shape, as_of, names[0], profiles=profiles)
    definitions: list[Definition] = []
    for name in names:
        definition, kind = _definition(name, scope, world, definitions)
        definitions.append(definition)
        if kind != "list":
            scope = replace(scope, names=(*scope.names, Place((name,), kind)))
    return Case(world, tuple(definitions), as_of, shape)


def _definition(name: str, scope: _Scope, world: World, others: list[Definition]) -> tuple[Definition, str]:
    """Draw a definition, if a few attempts can find it one that does not say the same of everybody."""
    for _ in range(ATTEMPTS):
        query, kind = _query(scope)
        definition = Definition(name, query, scope.choices.one(words.ZONES), scope.choices.below(1000))
        answers = Evaluator(world, [*others, definition], scope.as_of).values(name).values()
        if any(one != next(iter(answers)) for one in answers):
            break
    return definition, kind


def _scope(choices: Choices, shape: Shape, as_of: datetime, hidden: str, *, profiles: bool) -> _Scope:
    properties, traits = (
        (words.PLAIN_PROPERTIES, words.PLAIN_TRAITS) if shape.plain else (words.PROPERTIES, words.TRAITS)
    )
    visible = [one for one in traits if profiles and one.path[0] != hidden]
    return _Scope(choices, as_of, properties, visible, names=())


def _query(scope: _Scope) -> tuple[q.Query, str]:
    if scope.choices.one(("audience", "audience", "trait")) == "audience":
        return _condition(scope), "audience"
    if (scope.traits or scope.names) and scope.choices.chance(8):
        place = scope.choices.one([*scope.traits, *scope.names])
        if place.kind not in {"audience", "time"} and "$" not in place.path:
            return q.Trait(place.path), place.kind
    return _reduced(scope, ("numeric", "textual", "any", "list"))


# Conditions


def _condition(scope: _Scope) -> q.Condition:
    if scope.depth and scope.choices.chance(3):
        below = replace(scope, depth=scope.depth - 1)
        match scope.choices.one(("and", "or", "not")):
            case "and":
                return q.Both(tuple(_condition(below) for _ in range(scope.choices.one((2, 2, 3)))))
            case "or":
                return q.Either(tuple(_condition(below) for _ in range(scope.choices.one((2, 2, 3)))))
            case _:
                return q.Not(_condition(below))
    value, kind = _value(scope)
    return _test(scope, value, kind) if scope.choices.chance(2) else _comparison(scope, value, kind)


def _comparison(scope: _Scope, value: q.Scalar, kind: str) -> q.Condition:
    if kind == "audience":
        return q.Comparison(value, scope.choices.one(("equals", "differs")), q.Truth(scope.choices.chance(2)))
    name = scope.choices.one(("equals", "differs", *ORDERINGS))
    if scope.choices.chance(4):
        other, other_kind = _value(scope)
        if (
            "time" not in {kind, other_kind}
            and other_kind != "audience"
            and {kind, other_kind} != {"numeric", "textual"}
        ):
            return q.Comparison(value, name, other)
    constant = _constant(scope, kind)
    if isinstance(constant, q.Truth):
        name = scope.choices.one(("equals", "differs"))
    return q.Comparison(value, name, constant)


def _constant(scope: _Scope, kind: str) -> q.Constant:
    """Draw what a value of this kind may be compared with, mostly something that it may be."""
    usual = {
        "numeric": ("number", "numeric text"),
        "number": ("number", "number", "numeric text", "text"),
        "truth": ("truth", "truth", "text"),
        "text": ("text", "text", "text", "number"),
        "textual": ("text", "numeric text"),
        "moment": ("moment", "moment", "date text"),
        "time": ("moment",),
    }.get(kind, ("text", "number"))
    strange = scope.choices.chance(6) and kind not in {"numeric", "textual", "time"}
    match scope.choices.one(("number", "numeric text", "truth", "moment", "text") if strange else usual):
        case "number":
            return q.Number(scope.choices.one((1, 1, 0, 2, *words.NUMBERS, 10, 2.5, -0.5, 3)))
        case "numeric text":
            return q.Text(scope.choices.one((*words.NUMERIC_TEXTS, "5", "100", "0.5")))
        case "truth":
            return q.Truth(scope.choices.chance(2))
        case "moment":
            return q.Moment(_literal_moment(scope))
        case "date text":
            return q.Text(_literal_moment(scope))
        case _:
            return q.Text(scope.choices.one((*words.TEXTS, *words.FREQUENT_TEXTS * 5, "true")))


def _literal_moment(scope: _Scope) -> str:
    away = scope.choices.one(words.AGO) * scope.choices.one((1, 1, -1))
    return spelled_instant(scope.choices, scope.as_of - away, separator="T")


def _test(scope: _Scope, value: q.Scalar, kind: str) -> q.Condition:
    """Draw what may be said of a value of this kind."""
    if kind == "audience" or scope.choices.chance(5):
        return q.Test(value, scope.choices.one(("exists", "absent")))
    families = {
        "numeric": ("choices",),
        "time": ("dates",),
        "moment": ("dates", "dates", "texts", "choices"),
        "computed": ("choices",),
    }.get(kind, ("texts", "texts", "choices", "dates"))
    match scope.choices.one(families):
        case "choices":
            constants = tuple(
                _constant(scope, "numeric" if kind == "computed" else kind) for _ in range(scope.choices.one((1, 2, 3)))
            )
            return q.Test(value, scope.choices.one(("one_of", "none_of")), constants)
        case "dates":
            return _date_test(scope, value)
        case _:
            name = scope.choices.one(("contains", "omits", "starts_with", "ends_with", "matches"))
            if name == "matches":
                return q.Test(value, name, (q.Text(scope.choices.one(words.PATTERNS)),))
            texts = tuple(
                q.Text(scope.choices.one((*words.TEXTS, *words.FREQUENT_TEXTS * 5)))
                for _ in range(scope.choices.one((1, 2)) if name == "contains" else 1)
            )
            return q.Test(value, name, texts)


def _date_test(scope: _Scope, value: q.Scalar) -> q.Condition:
    name = scope.choices.one(("before_date", "after_date", "within_last", "within_next", "before_last", "after_next"))
    if name not in {"before_date", "after_date"}:
        return q.Test(value, name, (_duration(scope),))
    written = _literal_moment(scope)
    return q.Test(value, name, (q.Text(written) if scope.choices.chance(2) else q.Moment(written),))


# Values


def _value(scope: _Scope) -> tuple[q.Scalar, str]:
    """Draw a value and its kind; in a `where`, mostly a property of the event."""
    if scope.inside and not scope.choices.chance(3):
        of, place = (
            ("context", scope.choices.one(words.CONTEXTS))
            if scope.choices.chance(6)
            else ("property", scope.choices.one(scope.properties))
        )
        field = q.Field(
            place.path,
            "context" if of == "context" else "property",
            parent=scope.inside > 1 and scope.choices.chance(2),
        )
        return field, place.kind
    places = [*scope.traits, *scope.names]
    if places and (scope.inside > DEEPEST or scope.choices.chance(3)):
        place = scope.choices.one(places)
        return q.Trait(place.path), "computed" if place.kind == "numeric" else place.kind
    if scope.inside > DEEPEST:
        place = scope.choices.one(scope.properties)
        return q.Field(place.path), place.kind
    return _reduced(scope, ("numeric", "numeric", "numeric", "textual", "any"))


def _reduced(scope: _Scope, kinds: Sequence[str]) -> tuple[q.Reduced, str]:
    stream = _stream(scope)
    place = scope.choices.one(scope.properties)
    field = q.Field(place.path)
    if scope.choices.chance(8):
        place = scope.choices.one(words.CONTEXTS)
        field = q.Field(place.path, "context")
    kind = scope.choices.one(kinds)
    if kind == "numeric" or place.kind == "time":
        reducer = scope.choices.one(("count", "count", "sum", "avg", "min", "max", "unique.count"))
        if reducer == "count" or place.kind == "time":
            return q.Reduced(stream, "count"), "numeric"
        as_number = "number" if reducer in {"min", "max"} and scope.choices.chance(4) else None
        return q.Reduced(stream, reducer, field, as_number), "numeric"
    match kind:
        case "textual" if scope.choices.chance(2):
            return q.Reduced(stream, scope.choices.one(("min", "max")), field, "string"), kind
        case "textual":
            kinds_of_mode = (
                (None, "string", "number", "array") if place.path[-1] in {"$", "tags"} else (None, "string", "number")
            )
            least = scope.choices.one((None, 1, 2, 3))
            return q.Reduced(stream, "mode", field, scope.choices.one(kinds_of_mode), least), kind
        case "any":
            return q.Reduced(stream, scope.choices.one(("first", "last")), field), place.kind
        case _:
            return q.Reduced(stream, "unique", field), kind


# Streams


def _stream(scope: _Scope) -> q.Stream:
    filters = tuple(_filter(scope) for _ in range(scope.choices.one((0, 1, 1, 2) if scope.inside else (0, 0, 1, 1, 2))))
    if scope.inside and not scope.choices.chance(3):
        filters = (_parent_window(scope), *filters)
    return q.Stream(scope.choices.one((*words.EVENTS[:1] * 4, *words.EVENTS)), filters)


def _filter(scope: _Scope) -> q.Filter:
    names = ["where", "where", "where", "where", "within", "between", "since", "sources"]
    match scope.choices.one(names if scope.inside else [*names, "expires_after"]):
        case "where":
            return q.Where(_condition(replace(scope, inside=scope.inside + 1, depth=1)))
        case "within":
            return q.Within(_duration(scope))
        case "between":
            first = replace(_duration(scope), amount=0) if scope.choices.chance(4) else _duration(scope)
            return q.Between(first, _duration(scope))
        case "expires_after":
            return q.ExpiresAfter(_length(scope))
        case other:
            periods, ids = ("day", "week", "month", "quarter", "year"), (("web",), ("it's",), ("it's", "web"))
            return q.Since(scope.choices.one(periods)) if other == "since" else q.Sources(scope.choices.one(ids))


def _parent_window(scope: _Scope) -> q.Filter:
    if scope.choices.chance(2):
        return q.Within(_length(scope), parent=True)
    first = replace(_length(scope), amount=0) if scope.choices.chance(4) else _length(scope)
    return q.Between(first, _length(scope), parent=True)


LENGTHS = (
    *(q.Duration(amount, "day") for amount in (1, 2, 3, 5, 7, 10, 7, 10, 30)),
    *(
        q.Duration(amount, unit)
        for amount, unit in ((1, "week"), (24, "hour"), (1, "hour"), (30, "minute"), (1800, "second"))
    ),
)
MONTHS = (q.Duration(1, "month"), q.Duration(13, "month"))


def _length(scope: _Scope) -> q.Duration:
    return scope.choices.one(LENGTHS)


def _duration(scope: _Scope) -> q.Duration:
    return scope.choices.one(MONTHS) if scope.choices.chance(5) else _length(scope)
