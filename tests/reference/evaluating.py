"""What queries mean, in plain Python: who is in an audience, and which value a computed trait has for each user.

Slow and simple on purpose: every user, every event and every condition is looked at one by one. A value is a Python
value (None where it is null or missing); what a path with `$` finds are `Elements`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from tests.reference import language as q
from tests.reference.comparing import compare, says, says_when
from tests.reference.finding import Elements, each, find
from tests.reference.moments import back, length, on, read, start_of
from tests.reference.reducing import reduce
from tests.reference.worlds import Definition, Event, Value, World


@dataclass(frozen=True)
class _Scope:
    """Where an expression stands: whose it is, and inside a `where` the event, and in a child's the enclosing event."""

    user: str
    zone: ZoneInfo
    as_of: datetime
    events: Sequence[Event]  # of the user, that exist
    trait: Callable[[q.Path], Value | Elements]
    event: Event | None = None
    parent: Event | None = None


class Evaluator:
    """The definitions of one file over one world, as of one instant."""

    def __init__(self, world: World, definitions: Iterable[Definition], as_of: datetime) -> None:
        self.world = world
        self.as_of = as_of
        self.definitions = {one.name: one for one in definitions}
        self.events = [one for one in world.events if one.user is not None and one.at is not None and one.at <= as_of]
        self.known: dict[tuple[str, str], Value] = {}

    def users(self) -> set[str]:
        """Everybody a definition is evaluated for."""
        if self.world.profiles is not None:
            return {one.user for one in self.world.profiles}
        return {one.user for one in self.events if one.user is not None}

    def members(self, name: str) -> set[str]:
        """Return who is in an audience."""
        return {user for user in self.users() if self.result(name, user) is True}

    def values(self, name: str) -> dict[str, Value]:
        """Return the value of a computed trait for every user."""
        return {user: self.result(name, user) for user in self.users()}

    def result(self, name: str, user: str) -> Value:
        """Return a truth for an audience, the value for a computed trait."""
        if (name, user) not in self.known:
            definition = self.definitions[name]
            scope = _Scope(
                user=user,
                zone=ZoneInfo(definition.timezone),
                as_of=self.as_of,
                events=[one for one in self.events if one.user == user],
                trait=lambda path: self.trait(user, path),
            )
            self.known[name, user] = _answer(definition.query, scope)
        return self.known[name, user]

    def trait(self, user: str, path: q.Path) -> Value | Elements:
        """Return what `trait(…)` is for a user: a definition of this name comes first."""
        if len(path) == 1 and path[0] in self.definitions:
            return self.result(path[0], user)
        found = [one.traits for one in self.world.profiles or () if one.user == user]
        return find(found[0], path) if found else None


def _answer(query: q.Query, scope: _Scope) -> Value:
    return _holds(query, scope) if isinstance(query, q.Condition) else _value(query, scope)


# Conditions


def _holds(condition: q.Condition, scope: _Scope) -> bool:
    match condition:
        case q.Both(parts):
            return all(_holds(part, scope) for part in parts)
        case q.Either(parts):
            return any(_holds(part, scope) for part in parts)
        case q.Not(part):
            return not _holds(part, scope)
        case q.Test():
            return _test(condition, scope)
        case q.Comparison(left, name, right):
            as_moments = isinstance(left, q.Moment) or isinstance(right, q.Moment)
            lefts, rights = (each(_value(side, scope)) for side in (left, right))
            return any(compare(a, name, b, as_moments=as_moments) for a in lefts for b in rights)


def _test(test: q.Test, scope: _Scope) -> bool:
    values = each(_value(test.value, scope))
    if test.name in {"exists", "absent"}:
        return any(value is not None for value in values) == (test.name == "exists")
    if test.name == "omits" and not values:
        return True
    if isinstance(limit := next(iter(test.arguments)), q.Duration):
        past, future = back(scope.as_of, limit, scope.zone), on(scope.as_of, limit, scope.zone)
        return any(says_when(read(value), test.name, (past, scope.as_of, future)) for value in values)
    return any(says(value, test.name, test.arguments, scope.zone) for value in values)


# Values


def _value(scalar: q.Scalar, scope: _Scope) -> Value | Elements:
    match scalar:
        case q.Text(constant) | q.Number(constant) | q.Truth(constant):
            return constant
        case q.Moment(constant):
            return read(constant, scope.zone)
        case q.Trait(path):
            return scope.trait(path)
        case q.Field(path, of, parent):
            event = scope.parent if parent else scope.event
            assert event is not None
            return find(event.properties if of == "property" else event.context, path)
        case q.Reduced():
            return reduce(scalar, _stream(scalar.stream, scope))


def _stream(stream: q.Stream, scope: _Scope) -> list[Event]:
    events = [one for one in scope.events if one.name == stream.event]
    for one in stream.filters:
        if isinstance(one, q.ExpiresAfter):
            events = _session(events, one.duration, scope)
        else:
            events = [event for event in events if _passes(event, one, scope)]
    return events


def _passes(event: Event, one: q.Filter, scope: _Scope) -> bool:
    match one:
        case q.Where(condition):
            return _holds(condition, replace(scope, event=event, parent=scope.event))
        case q.Within(duration, parent):
            return _in_window(_at(event), (q.Duration(0, "day"), duration), scope, parent=parent)
        case q.Between(first, second, parent):
            return _in_window(_at(event), (first, second), scope, parent=parent)
        case q.Since(period):
            return _at(event) >= start_of(period, scope.as_of, scope.zone)
        case q.Sources(excluded):
            return event.source is None or event.source not in excluded
        case _:
            raise TypeError(one)


def _in_window(at: datetime, edges: tuple[q.Duration, q.Duration], scope: _Scope, *, parent: bool) -> bool:
    """Say whether an instant is as long before as-of, or as long after the enclosing event, as two durations say."""
    if not parent:
        first, last = sorted(back(scope.as_of, one, scope.zone) for one in edges)
        return first <= at <= last
    assert scope.event is not None
    begin = _at(scope.event)
    first, last = sorted(begin + length(one) for one in edges)
    return begin < at and first <= at <= last


def _at(event: Event) -> datetime:
    assert event.at is not None
    return event.at


def _session(events: Sequence[Event], duration: q.Duration, scope: _Scope) -> list[Event]:
    """Return the events of the session that goes on: back from as-of, as long as no gap exceeds the duration."""
    session: list[Event] = []
    before = scope.as_of
    for event in sorted(events, key=_at, reverse=True):
        if before - _at(event) > length(duration):
            break
        session.append(event)
        before = _at(event)
    return session
