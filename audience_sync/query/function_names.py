"""The functions of the language by name: what each takes, and one sentence where a name is wrong or out of place."""

from __future__ import annotations

from collections.abc import Iterable

from audience_sync.core.text import did_you_mean, shown
from audience_sync.errors import QueryError
from audience_sync.query.call_chains import Bare, Call
from audience_sync.query.query_errors import refusal
from audience_sync.query.syntax_tree import Period

EXTRACTORS = {
    "event": "the name of an event in quotes, as in event('Order Completed')",
    "trait": "the name of a trait in quotes, as in trait('plan')",
    "property": "the name of a property in quotes, as in property('revenue')",
    "context": "the name of a context field in quotes, as in context('page.url')",
    "literal": "text, a number or a date, as in literal(2024-02-01)",
}
FILTERS = {
    "where": "a condition, as in where(property('revenue') >= 100)",
    "within": "a duration, as in within(7 days)",
    "between": "two durations, as in between(7 days, 10 days)",
    "since": "the start of a period, as in since(start of month)",
    "sources": "the ids of sources to leave out, in quotes, as in sources({exclude: 'website', 'app'})",
    "expires_after": "a duration, as in expires_after(30 minutes)",
}
REDUCERS = {
    "count": "no arguments",
    "sum": "a property, as in sum(property('revenue'))",
    "avg": "a property, as in avg(property('revenue'))",
    "min": "a property, as in min(property('revenue')) or min(property('name') as string)",
    "max": "a property, as in max(property('revenue')) or max(property('name') as string)",
    "first": "a property, as in first(property('plan'))",
    "last": "a property, as in last(property('plan'))",
    "mode": "a property and a minimum number of occurrences, as in mode(property('category'), 2)",
    "unique": "a property, as in unique(property('category'))",
}
OPERATORS = {
    "equals": "a value, as in equals('basic')",
    "differs": "a value, as in differs('basic')",
    "less_than": "a value, as in less_than(5)",
    "at_most": "a value, as in at_most(5)",
    "greater_than": "a value, as in greater_than(5)",
    "at_least": "a value, as in at_least(5)",
}
TEXT_TESTS = {
    "contains": "one or more strings in quotes, as in contains('shoes', 'shirts')",
    "omits": "text in quotes, as in omits('shoes')",
    "starts_with": "text in quotes, as in starts_with('total')",
    "ends_with": "text in quotes, as in ends_with('total')",
    "matches": "a regular expression in quotes, as in matches('^[A-Z]+-[0-9]+$')",
}
DATE_TESTS = {
    "before_date": "a date or a timestamp, as in before_date(2024-02-01)",
    "after_date": "a date or a timestamp, as in after_date(2024-02-01)",
}
RELATIVE_TESTS = {
    "within_last": "a duration, as in within_last(7 days)",
    "within_next": "a duration, as in within_next(7 days)",
    "before_last": "a duration, as in before_last(7 days)",
    "after_next": "a duration, as in after_next(7 days)",
}
COMPARATORS = {
    **OPERATORS,
    "exists": "no arguments",
    "absent": "no arguments",
    "one_of": "one or more values, as in one_of('basic', 'pro')",
    "none_of": "one or more values, as in none_of('basic', 'pro')",
    **TEXT_TESTS,
    **DATE_TESTS,
    **RELATIVE_TESTS,
}
FUNCTIONS = {**EXTRACTORS, **FILTERS, **REDUCERS, **COMPARATORS}
"""The arguments of each function."""


def wrong_argument(call: Call, at: int | None = None) -> QueryError:
    """Return the error about what stands in the parentheses of a call, at its own place or at that of the call."""
    return refusal(call.at if at is None else at, f"`{call.name}` takes {FUNCTIONS[call.name]}")


def alone(bare: Bare) -> QueryError:
    """Return the error about a name that nothing stands around."""
    name = bare.name
    if name.lower() in ("null", "nil", "none", "undefined"):
        return refusal(bare.at, f"there is no {shown(name)}; use .absent() to test whether a value is missing")
    if name in FUNCTIONS:
        return refusal(bare.at, f"`{name}` is a function and needs parentheses, as in {_example(name)}")
    if name.lower() in list(Period):
        return refusal(bare.at, f"`{name}` is not a value; a period is written `start of {name.lower()}`")
    if len(name) > 40:
        return refusal(bare.at, f"{shown(name)} is not a value; write text in quotes")
    return refusal(
        bare.at,
        (
            f"`{name}` is not a value; write text as '{name}', a trait as trait('{name}') and a property as"
            f" property('{name}')"
        ),
    )


def wrong_beginning(call: Call) -> QueryError:
    """Return the error about an expression that begins with something else than an extractor."""
    name = call.name
    if name == "entity":
        sentence = (
            "`entity` needs linked audiences, which are not supported; define the audience with `sql`,"
            " which can join any tables"
        )
    elif name in REDUCERS or name in FILTERS:
        sentence = f"`{name}` must follow a stream of events, as in event('Order Completed').{_example(name)}"
    elif name in COMPARATORS:
        sentence = f"`{name}` must follow a value, as in trait('plan').{_example(name)}"
    else:
        sentence = _unknown(name, EXTRACTORS, "an expression can begin with")
    return refusal(call.at, sentence)


def wrong_after_stream(call: Call) -> QueryError:
    """Return the error about a call that cannot follow a stream."""
    name = call.name
    if name in COMPARATORS:
        sentence = f"`{name}` tests a value, but this is a stream of events; reduce it first, as in `.count()`"
    else:
        sentence = _not_following(name, {**FILTERS, **REDUCERS}, "a stream can be followed by")
    return refusal(call.at, sentence)


def wrong_after_value(before: Call, call: Call) -> QueryError:
    """Return the error about a call that cannot follow a value, which the call before it gives."""
    name, reduced = call.name, before.name in REDUCERS
    if name in FILTERS and reduced:
        sentence = f"`{before.name}` reduces the stream to a value, but `{name}` filters streams; put it first"
    elif name in REDUCERS and reduced:
        sentence = (
            f"`{before.name}` reduces the stream to a value, so `{name}` cannot reduce it again; remove one of them"
        )
    elif name in FILTERS or name in REDUCERS:
        does = "filters" if name in FILTERS else "reduces"
        sentence = f"`{before.name}` returns a value, but `{name}` {does} streams, which begin with `event`"
    else:
        sentence = _not_following(name, COMPARATORS, "a value can be followed by")
    return refusal(call.at, sentence)


def wrong_after_list(call: Call) -> QueryError:
    """Return the error about a call other than `count` that follows a list."""
    return refusal(call.at, f"`unique` returns a list; only `.count()` can follow it, not {shown(call.name)}")


def wrong_after_literal(call: Call) -> QueryError:
    """Return the error about a call that follows `literal`."""
    return refusal(call.at, f"{shown(call.name)} cannot follow a literal; put the literal on the other side")


def wrong_after_condition(before: Call, call: Call) -> QueryError:
    """Return the error about a call that follows a condition, which the call before it gives."""
    return refusal(
        call.at,
        f"`{before.name}` completes a condition and cannot be followed by {shown(call.name)}; put"
        f" {shown(call.name)} before it, or join two conditions with `AND` or `OR`",
    )


def _not_following(name: str, fitting: Iterable[str], begins: str) -> str:
    if name in EXTRACTORS or name == "entity":
        return f"`{name}` begins an expression and cannot follow another call"
    return _unknown(name, fitting, begins)


def _unknown(name: str, fitting: Iterable[str], begins: str) -> str:
    near = did_you_mean(name, fitting) or did_you_mean(name, FUNCTIONS)
    advice = near or f"{begins} {', '.join(fitting)}"
    return f"there is no function {shown(name)}; {advice}"


def _example(name: str) -> str:
    return f"{name}()" if "as in " not in FUNCTIONS[name] else FUNCTIONS[name].split("as in ")[1].split(" or ")[0]
