"""Streams of events: what filters them, and what reduces them to a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from audience_sync.query.arguments import Given, duration, form, no_argument, one_argument, one_or_more, text
from audience_sync.query.chains import Call, StartOf
from audience_sync.query.mistakes import nearest, refusal, shown
from audience_sync.query.names import wrong_argument
from audience_sync.query.sentences import to_condition
from audience_sync.query.tree import (
    Between,
    Context,
    ExpiresAfter,
    Filter,
    Literal,
    Property,
    Reduction,
    Since,
    Sources,
    Stream,
    Where,
    Within,
)
from audience_sync.query.vocabulary import Duration, Function, Period, Unit
from audience_sync.query.words import seconds_about

MODE_AT_LEAST = 2  # how often a value must occur if `mode` does not say


def filtered(stream: Stream, call: Call, given: Sequence[Given], *, depth: int) -> Stream:
    """Return a stream with the filter that a call is; `depth` counts the events whose `where` it stands in.

    Raises:
        QueryError: the filter takes something else, or does not belong here.
    """
    return replace(stream, filters=(*stream.filters, _filter(call, given, depth)))


def _filter(call: Call, given: Sequence[Given], depth: int) -> Filter:
    match call.name:
        case "where":
            return Where(to_condition(one_argument(call, given), "`where` takes a condition"))
        case "within":
            only = one_argument(call, given)
            return Within(_checked(duration(call, only), only, depth), of_parent=only.label is not None)
        case "between":
            return _between(call, given, depth)
        case "since":
            return Since(_period(call, one_argument(call, given)))
        case "sources":
            return Sources(tuple(text(call, one) for one in one_or_more(call, given)), call.at)
        case _:
            if depth:
                raise refusal(
                    call.at, "`expires_after` cannot stand inside `where`: sessions are those of the outermost events"
                )
            only = one_argument(call, given)
            return ExpiresAfter(_fixed(duration(call, only), only, "in `expires_after`"))


def _between(call: Call, given: Sequence[Given], depth: int) -> Between:
    if len(given) != 2:
        raise wrong_argument(call, given[2].at if len(given) > 2 else None)
    of_parent = given[0].label is not None
    ends = [duration(call, one, least=0) for one in given]
    for one, end in zip(given, ends, strict=True):
        _checked(end, replace(one, label=given[0].label), depth)
    near, far = sorted(ends, key=seconds_about)
    return Between(near, far, of_parent)


def _checked(length: Duration, given: Given, depth: int) -> Duration:
    if given.label is None:
        return length
    if not depth:
        raise refusal(given.at, "`parent:` has no event around it here: it stands in the `where` of another event")
    return _fixed(length, given, "behind `parent:`")


def _fixed(length: Duration, given: Given, place: str) -> Duration:
    if length.unit is Unit.MONTH:
        raise refusal(given.at, f"months have no fixed length {place}; write days, as in `30 days`")
    return length


def _period(call: Call, given: Given) -> Period:
    if not isinstance(given.value, StartOf):
        raise wrong_argument(call, given.at)
    name = given.value.period.lower()
    if name not in list(Period):
        near = nearest(name, Period)
        advice = f"did you mean `{near}`?" if near else f"there are {', '.join(Period)}"
        raise refusal(given.at, f"there is no period {shown(given.value.period)}; {advice}")
    return Period(name)


def reduced(stream: Stream, call: Call, given: Sequence[Given]) -> Reduction:
    """Return the value that a call makes of a stream.

    Raises:
        QueryError: the reducer takes something else.
    """
    function = Function(call.name)
    if function is Function.COUNT:
        no_argument(call, given)
        return Reduction(stream, function)
    if function is Function.MODE and given:
        of, *rest = given
        at_least = _occurrences(call, rest) if rest else MODE_AT_LEAST
        return Reduction(stream, function, _reducible(call, of), form(call, of), at_least)
    of = one_argument(call, given)
    return Reduction(stream, function, _reducible(call, of), form(call, of))


def _reducible(call: Call, given: Given) -> Property | Context:
    if not isinstance(given.value, Property | Context):
        raise wrong_argument(call, given.at)
    if given.value.of_parent:
        raise refusal(given.at, f"`{call.name}` takes what is in its own events: `parent:` stands in their `where`")
    return given.value


def _occurrences(call: Call, given: Sequence[Given]) -> int:
    match one_argument(call, given).value:
        case Literal(int(at_least)) if at_least >= 1 and not isinstance(at_least, bool):
            return at_least
        case _:
            raise wrong_argument(call, given[0].at)
