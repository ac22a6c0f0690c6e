"""A wrong query is refused in one sentence that points at the place, and nothing else comes of it."""

from __future__ import annotations

import pytest

from audience_sync.errors import QueryError
from audience_sync.query.printer import to_text
from audience_sync.query.query_parser import parse_audience, parse_trait
from audience_sync.query.syntax_tree import Comparison, Literal, Operator, Trait

AUDIENCES = [
    # nothing
    ("", 1, "the query is empty; write a condition such as event('Order Completed').count() >= 1"),
    # what is no condition
    (
        "event('x')",
        1,
        "an audience needs a condition, but event() is a stream of events; count it, as in `.count() >= 1`",
    ),
    ("event('x').count()", 12, "an audience needs a condition, but count() is a number; compare it, as in `>= 1`"),
    (
        "trait('plan')",
        1,
        (
            "an audience needs a condition, but trait() is a value; compare it, as in `= 'basic'`, or"
            " test for it, as in `.exists()`"
        ),
    ),
    (
        "trait('a') = 1 AND event('x').count()",
        31,
        "`AND` joins conditions, but count() is a number; compare it, as in `>= 1`",
    ),
    (
        "NOT event('x')",
        5,
        "`NOT` takes a condition, but event() is a stream of events; count it, as in `.count() >= 1`",
    ),
    (
        "event('x').unique(property('p'))",
        12,
        "an audience needs a condition, but unique() is a list; count it, as in `.count() >= 1`",
    ),
    (
        "event('x').unique(property('p')).count()",
        34,
        "an audience needs a condition, but count() is a number; compare it, as in `>= 1`",
    ),
    (
        "event('x').mode(property('p'))",
        12,
        "an audience needs a condition, but mode() is text; compare it, as in `= 'basic'`",
    ),
    (
        "event('x').last(property('p'))",
        12,
        (
            "an audience needs a condition, but last() is a value; compare it, as in `= 'basic'`, or"
            " test for it, as in `.exists()`"
        ),
    ),
    # functions that are not there, or out of place
    ("evnt('x').count() >= 1", 1, "there is no function `evnt`; did you mean `event`?"),
    (
        "total('x') >= 1",
        1,
        "there is no function `total`; an expression can begin with event, trait, property, context, literal",
    ),
    ("count() >= 1", 1, "`count` must follow a stream of events, as in event('Order Completed').count()"),
    (
        "where(trait('a') = 1)",
        1,
        "`where` must follow a stream of events, as in event('Order Completed').where(property('revenue') >= 100)",
    ),
    ("equals(5)", 1, "`equals` must follow a value, as in trait('plan').equals('basic')"),
    ("exists()", 1, "`exists` must follow a value, as in trait('plan').exists()"),
    (
        "entity('orders').count() >= 1",
        1,
        (
            "`entity` needs linked audiences, which are not supported; define the audience with `sql`,"
            " which can join any tables"
        ),
    ),
    (
        "ALL (event('x').count() >= 1)",
        1,
        (
            "`ALL` needs account audiences, which are not supported; write the condition for a single"
            " user, without `ALL`"
        ),
    ),
    (
        "any event('x').count() >= 1",
        1,
        (
            "`ANY` needs account audiences, which are not supported; write the condition for a single"
            " user, without `ANY`"
        ),
    ),
    ("event('x').whitin(7 days).count() >= 1", 12, "there is no function `whitin`; did you mean `within`?"),
    ("event('x').Count() >= 1", 12, "there is no function `Count`; did you mean `count`?"),
    (
        "event('x').length() >= 1",
        12,
        (
            "there is no function `length`; a stream can be followed by where, within, between, "
            "since, sources, expires_after, count, sum, avg, min, max, first, last, mode, unique"
        ),
    ),
    ("event('x').trait('y')", 12, "`trait` begins an expression and cannot follow another call"),
    (
        "event('x').first(property('p')).within(7 days) = 1",
        33,
        "`first` reduces the stream to a value, but `within` filters streams; put it first",
    ),
    (
        "event('x').count().sum(property('p')) = 1",
        20,
        "`count` reduces the stream to a value, so `sum` cannot reduce it again; remove one of them",
    ),
    (
        "trait('a').within(7 days) = 1",
        12,
        "`trait` returns a value, but `within` filters streams, which begin with `event`",
    ),
    ("trait('a').count() = 1", 12, "`trait` returns a value, but `count` reduces streams, which begin with `event`"),
    (
        "trait('a').is('b')",
        12,
        (
            "there is no function `is`; a value can be followed by equals, differs, less_than, "
            "at_most, greater_than, at_least, exists, absent, one_of, none_of, contains, omits, "
            "starts_with, ends_with, matches, before_date, after_date, within_last, within_next, "
            "before_last, after_next"
        ),
    ),
    (
        "event('x').unique(property('p')).sum() = 1",
        34,
        "`unique` returns a list; only `.count()` can follow it, not `sum`",
    ),
    (
        "trait('a').exists().count()",
        21,
        (
            "`exists` completes a condition and cannot be followed by `count`; put `count` before it,"
            " or join two conditions with `AND` or `OR`"
        ),
    ),
    (
        "literal(5).equals(trait('a'))",
        12,
        "`equals` cannot follow a literal; put the literal on the other side",
    ),
    # extractors
    ("event(5).count() = 1", 7, "`event` takes the name of an event in quotes, as in event('Order Completed')"),
    ("event() .count() = 1", 1, "`event` takes the name of an event in quotes, as in event('Order Completed')"),
    ("event('x', 'y').count() = 1", 12, "`event` takes the name of an event in quotes, as in event('Order Completed')"),
    ("trait('') = 1", 7, "the path is empty"),
    ("trait('a..b') = 1", 7, "a name in the path is empty"),
    ("trait('$.b') = 1", 7, "`$` means the elements of a list and must follow the name of the list"),
    (
        "property('p') = 1",
        1,
        (
            "`property` reads from an event: use it inside `where`, as in event('Order"
            " Completed').where(property('name') = 'value'), or in a function such as `sum`"
        ),
    ),
    (
        "event('x').where(property(parent: 'p') = 1).count() = 1",
        27,
        "`parent:` has no parent event here; use it in the `where` of an event inside another `where`",
    ),
    (
        "event('x').where(property(parnt: 'p') = 1).count() = 1",
        27,
        "`property` has no `parnt:`; did you mean `parent:`?",
    ),
    # filters
    (
        "event('x').where(property('p')).count() = 1",
        18,
        (
            "`where` takes a condition, but property() is a value; compare it, as in `= 'basic'`, or"
            " test for it, as in `.exists()`"
        ),
    ),
    ("event('x').where().count() = 1", 12, "`where` takes a condition, as in where(property('revenue') >= 100)"),
    (
        "event('x').where('a').count() = 1",
        18,
        "`where` takes a condition, but this is a literal; compare a value with it, as in `trait('plan') = 'basic'`",
    ),
    ("event('x').within(7).count() = 1", 19, "the unit is missing; `within` takes a duration such as `7 days`"),
    ("event('x').within('7 days').count() = 1", 19, "`within` takes a duration, as in within(7 days)"),
    ("event('x').within(7days).count() = 1", 19, "`7days` is not a number; write `7 days`"),
    (
        "event('x').within(7 dys).count() = 1",
        21,
        "unknown unit `dys`; use one of seconds, minutes, hours, days, weeks, months",
    ),
    ("event('x').within(0 days).count() = 1", 19, "`within` needs at least 1 day"),
    (
        "event('x').within(2.5 days).count() = 1",
        19,
        "a duration needs a whole number and a unit, such as `36 hours`, not `2.5`",
    ),
    (
        "event('x').within(-1 day).count() = 1",
        19,
        "a duration needs a whole number and a unit, such as `36 hours`, not `-1`",
    ),
    ("event('x').within(2000 weeks, 3 days).count() = 1", 31, "`within` takes a duration, as in within(7 days)"),
    ("event('x').within(90000000 weeks).count() = 1", 19, "a duration must be at most 1,000 years"),
    (
        "event('x').within(parent: 5 days).count() = 1",
        19,
        "`parent:` has no parent event here; use it in the `where` of another event",
    ),
    (
        "event('x').where(event('y').within(parent: 2 months).count() = 1).count() = 1",
        36,
        "months have no fixed length after `parent:`; use days, as in `30 days`",
    ),
    (
        "event('x').where(event('y').expires_after(1 hour).count() = 1).count() = 1",
        29,
        "`expires_after` is not allowed inside `where`: sessions are formed from the outermost events",
    ),
    (
        "event('x').expires_after(1 month).count() = 1",
        26,
        "months have no fixed length in `expires_after`; use days, as in `30 days`",
    ),
    (
        "event('x').between(7 days).count() = 1",
        12,
        "`between` takes two durations, as in between(7 days, 10 days)",
    ),
    (
        "event('x').between(7, 9).count() = 1",
        20,
        "the unit is missing; `between` takes durations such as `7 days`",
    ),
    (
        "event('x').between(1 day, parent: 3 days).count() = 1",
        27,
        "put `parent:` before the first argument of `between`",
    ),
    ("event('x').since(7 days).count() = 1", 18, "`since` takes the start of a period, as in since(start of month)"),
    ("event('x').since(start of mnth).count() = 1", 27, "unknown period `mnth`; did you mean `month`?"),
    (
        "event('x').since(start of century).count() = 1",
        27,
        "unknown period `century`; use one of day, week, month, quarter, year",
    ),
    (
        "event('x').since(start month).count() = 1",
        24,
        "expected `(` after `start`, found `month`; write `start of month`",
    ),
    ("event('x').since(month).count() = 1", 18, "`month` is not a value; a period is written `start of month`"),
    ("event('x').sources({exlude: 'a'}).count() = 1", 21, "`sources` has no `exlude:`; did you mean `exclude:`?"),
    (
        "event('x').sources({exclude: 5}).count() = 1",
        21,
        "`sources` takes the ids of sources to leave out, in quotes, as in sources({exclude: 'website', 'app'})",
    ),
    ("event('x').sources({}).count() = 1", 21, "expected a value after `{`, found `}`"),
    (
        "event('x').sources().count() = 1",
        12,
        "`sources` takes the ids of sources to leave out, in quotes, as in sources({exclude: 'website', 'app'})",
    ),
    # reducers
    ("event('x').count(property('p')) = 1", 18, "`count` takes no arguments"),
    ("event('x').sum() = 1", 12, "`sum` takes a property, as in sum(property('revenue'))"),
    ("event('x').sum('revenue') = 1", 16, "`sum` takes a property, as in sum(property('revenue'))"),
    (
        "event('x').sum(revenue) = 1",
        16,
        (
            "`revenue` is not a value; write text as 'revenue', a trait as trait('revenue') and a"
            " property as property('revenue')"
        ),
    ),
    ("event('x').sum(property('a'), property('b')) = 1", 31, "`sum` takes a property, as in sum(property('revenue'))"),
    (
        "event('x').sum(property('a') as number) = 1",
        16,
        "`as` is only allowed after the property of `min`, `max` and `mode`, not of `sum`",
    ),
    ("event('x').sum(trait('a')) = 1", 16, "`sum` takes a property, as in sum(property('revenue'))"),
    (
        "event('x').where(event('y').sum(property(parent: 'a')) = 1).count() = 1",
        33,
        "`sum` reads only its own events; use `parent:` in the `where` of its events",
    ),
    ("event('x').min(property('a') as text) = 1", 16, "`min` takes a property as `number` or `string`, not as `text`"),
    (
        "event('x').mode(property('a') as list) = 'b'",
        17,
        "`mode` takes a property as `number`, `string` or `array`, not as `list`",
    ),
    (
        "event('x').mode(property('a'), 0) = 'b'",
        32,
        "`mode` takes a property and a minimum number of occurrences, as in mode(property('category'), 2)",
    ),
    (
        "event('x').mode(property('a'), 1.5) = 'b'",
        32,
        "`mode` takes a property and a minimum number of occurrences, as in mode(property('category'), 2)",
    ),
    (
        "event('x').mode(property('a'), 1, 2) = 'b'",
        35,
        "`mode` takes a property and a minimum number of occurrences, as in mode(property('category'), 2)",
    ),
    ("event({'x'}).count() = 1", 1, "`event` does not take braces; only `where` and `sources` do"),
    # values that cannot be compared
    ("event('x').count() = 'many'", 22, "a number cannot be compared with the text `'many'`"),
    (
        "event('x').count() = true",
        22,
        "a number cannot be compared with true or false; compare it with a number, as in `>= 1`",
    ),
    (
        "event('x').count() > 2024-02-01",
        22,
        "a number cannot be compared with a date; compare it with a number, as in `>= 1`",
    ),
    ("event('x').count().one_of(1, 'a')", 30, "a number cannot be compared with the text `'a'`"),
    ("trait('a') > true", 14, "`>` does not work with true and false; use `=` or `!=`"),
    ("trait('a').at_most(false)", 20, "`<=` does not work with true and false; use `=` or `!=`"),
    ("true < trait('a')", 1, "`<` does not work with true and false; use `=` or `!=`"),
    ("5 = 5", 1, "a comparison of two literals is the same for every user; compare a trait or property"),
    (
        "5 = event('x')",
        5,
        "`=` must have a value on both sides, but event() is a stream of events; reduce it first, as in `.count()`",
    ),
    ("trait('a').equals(trait('b') = 1)", 19, "`equals` takes a value, but this is a condition"),
    (
        "trait('a') = event('x').unique(property('p'))",
        25,
        "`=` must have a value on both sides, but unique() is a list; count it, as in `.count()`",
    ),
    # comparators
    ("trait('a').equals()", 12, "`equals` takes a value, as in equals('basic')"),
    ("trait('a').equals(1, 2)", 22, "`equals` takes a value, as in equals('basic')"),
    ("trait('a').equals([1, 2])", 20, "`equals` takes a value, but this is more than one"),
    ("trait('a').equals(5 days)", 19, "`equals` takes a value, but this is a duration"),
    ("trait('a').exists(1)", 19, "`exists` takes no arguments"),
    ("trait('a').one_of()", 12, "`one_of` takes one or more values, as in one_of('basic', 'pro')"),
    ("trait('a').one_of(trait('b'))", 19, "`one_of` takes one or more values, as in one_of('basic', 'pro')"),
    ("trait('a').contains(5)", 21, "`contains` takes one or more strings in quotes, as in contains('shoes', 'shirts')"),
    (
        "trait('a').contains(trait('b'))",
        21,
        "`contains` takes one or more strings in quotes, as in contains('shoes', 'shirts')",
    ),
    ("trait('a').omits('b', 'c')", 23, "`omits` takes text in quotes, as in omits('shoes')"),
    ("event('x').count().contains('a')", 20, "`contains` tests texts, but `count` returns a number"),
    ("event('x').sum(property('p')).within_last(7 days)", 31, "`within_last` tests dates, but `sum` returns a number"),
    ("trait('a').before_date('soon')", 24, "`before_date` takes a date or a timestamp, as in before_date(2024-02-01)"),
    ("trait('a').before_date(7 days)", 24, "`before_date` takes a date or a timestamp, as in before_date(2024-02-01)"),
    ("trait('a').within_last(7)", 24, "the unit is missing; `within_last` takes a duration such as `7 days`"),
    ("trait('a').within_last(2024-01-01)", 24, "`within_last` takes a duration, as in within_last(7 days)"),
    # regular expressions
    ("trait('a').matches('(')", 20, "the regular expression is invalid: missing ), unterminated subpattern"),
    ("trait('a').matches('(?=a)')", 20, "the regular expression has a lookahead, which not every database supports"),
    ("trait('a').matches('(?<!a)')", 20, "the regular expression has a lookbehind, which not every database supports"),
    (
        "trait('a').matches('(?P<n>a)')",
        20,
        "the regular expression has a named group, which not every database supports",
    ),
    (
        "trait('a').matches('(a)\\1')",
        20,
        "the regular expression has the backreference `\\1`, which not every database supports",
    ),
    (
        "trait('a').matches('a(?i)b')",
        20,
        "the regular expression has `(?i` after its start, which not every database supports",
    ),
    ("trait('a').matches('\\Z')", 20, "the regular expression has the escape `\\Z`, which not every database supports"),
    (
        "trait('a').matches('\\é')",
        20,
        "the regular expression has the escape `\\é`, which not every database supports",
    ),
    (
        "trait('a').matches('a++')",
        20,
        "the regular expression has `+` after a repetition, which not every database supports",
    ),
    (
        "trait('a').matches('a{,5}')",
        20,
        (
            "the regular expression has a `{` without a repetition count (write `\\{` for the"
            " character), which not every database supports"
        ),
    ),
    (
        "trait('a').matches('a{256}')",
        20,
        "the regular expression has more than 255 repetitions, which not every database supports",
    ),
    (
        "trait('a').matches('[[:alpha:]]')",
        20,
        (
            "the regular expression has a `[` inside brackets (write `\\[` for the character), which"
            " not every database supports"
        ),
    ),
    (
        "trait('a').matches('[\\W]')",
        20,
        "the regular expression has the escape `\\W` inside brackets, which not every database supports",
    ),
    ("trait('a').matches('[a')", 20, "the regular expression is invalid: unterminated character set"),
    (
        "trait('a').matches('^*')",
        20,
        "the regular expression has `*` after `^` or `$`, which not every database supports",
    ),
    # words
    ("trait('a') = null", 14, "there is no `null`; use .absent() to test whether a value is missing"),
    (
        "plan = 'basic'",
        1,
        "`plan` is not a value; write text as 'plan', a trait as trait('plan') and a property as property('plan')",
    ),
    ("count = 1", 1, "`count` is a function and needs parentheses, as in count()"),
    ("trait('a') = 'it", 14, "the text starting with `'` is not closed"),
    ("trait('a') = 007", 14, "`007` is not a number; write `7`"),
    ("trait('a') = +5", 14, "`+5` is not a number; write `5`"),
    ("trait('a') = .5", 14, "`.5` is not a number; write `0.5`"),
    ("trait('a') = 1e999", 14, "`1e999` is not a number"),
    ("trait('a') = 5x", 14, "`5x` is not a number"),
    (
        "trait('a') = 2024-2-1",
        14,
        "`2024-2-1` is not a number; write dates as `2024-02-01` or `2024-02-01T10:00:00Z`, and text in quotes",
    ),
    ("trait('a') = 2024-02-30", 14, "`2024-02-30` is not a valid date or time"),
    ("trait('a') = 0001-01-01", 14, "`0001-01-01` is not a valid date or time"),
    ("trait('a') <> 5", 12, "found `<>`, which is not valid here; write `!=`"),
    ("trait('a') => 5", 12, "found `=>`, which is not valid here; write `>=`"),
    ("trait('a') === 5", 12, "found `===`, which is not valid here; write `=`"),
    ("trait('a') = 1 && trait('b') = 2", 16, "found `&&`, which is not valid here; write `AND`"),
    ("trait('a') = 1 || trait('b') = 2", 16, "found `||`, which is not valid here; write `OR`"),
    ("!trait('a').exists()", 1, "found `!`, which is not valid here; write `NOT`"),
    ("trait('a') = 5;", 15, "found `;`, which is not valid here"),
    # sentences
    ("trait('a') =", 13, "expected a value after `=`, found the end"),
    ("trait('a') = 1 AND", 19, "expected a condition after `AND`, found the end"),
    ("trait('a') = 1 trait('b') = 2", 16, "expected `AND`, `OR` or the end after `1`, found `trait`"),
    (
        "trait('a') = 1 andd trait('b') = 2",
        16,
        "expected `AND`, `OR` or the end after `1`, found `andd`; did you mean `AND`?",
    ),
    ("trait('a') = 1)", 15, "expected `AND`, `OR` or the end after `1`, found `)`"),
    ("(trait('a') = 1", 16, "expected `)` after `1`, found the end"),
    (
        "event('x'.count() = 1",
        10,
        "expected a comparison such as `>= 1`, `AND`, `OR`, `,` or `)` after `'x'`, found `.`",
    ),
    ("event('x').", 12, "expected the name of a function after `.`, found the end"),
    ("event('x').within(7 days", 25, "expected `)` after `days`, found the end"),
    ("event('x').(7)", 12, "expected the name of a function after `.`, found `(`"),
    ("trait('a') = 1 = 2", 16, "expected `AND`, `OR` or the end after `1`, found `=`"),
    ("trait 'a' = 1", 7, "expected `(` after `trait`, found `'a'`"),
    ("event 'x'", 7, "expected `(` after `event`, found `'x'`"),
    ("trait('a').one_of('a',)", 23, "expected a value after `,`, found `)`"),
    ("trait('a').one_of(['a', 'b')", 28, "expected `,` or `]` after `'b'`, found `)`"),
    ("'a'.contains('b')", 4, "expected a comparison such as `>= 1`, `AND`, `OR` or the end after `'a'`, found `.`"),
    ("= 5", 1, "expected a condition, found `=`"),
    ("-- c", 1, "found `-`, which is not valid here"),
    ("trait('a') = 1, trait('b') = 2", 15, "expected `AND`, `OR` or the end after `1`, found `,`"),
    ("trait('a')[0] = 1", 11, "expected a comparison such as `>= 1`, `AND`, `OR` or the end after `)`, found `[`"),
]
TRAITS = [
    ("trait('a') = 1", 1, "a computed trait needs a value, but this is a condition; define it as an audience"),
    ("NOT trait('a').exists()", 1, "a computed trait needs a value, but this is a condition; define it as an audience"),
    ("trait('a').exists()", 12, "a computed trait needs a value, but this is a condition; define it as an audience"),
    (
        "event('x')",
        1,
        "a computed trait needs a value, but event() is a stream of events; reduce it first, as in `.count()`",
    ),
    ("7 days", 3, "expected a comparison such as `>= 1`, `AND`, `OR` or the end after `7`, found `days`"),
    (
        "unique(property('x'))",
        1,
        "`unique` must follow a stream of events, as in event('Order Completed').unique(property('category'))",
    ),
    ("event('x').count() AND 5", 12, "`AND` joins conditions, but count() is a number; compare it, as in `>= 1`"),
]


@pytest.mark.parametrize(("query", "column", "sentence"), AUDIENCES)
def test_why_an_audience_is_refused(query: str, column: int, sentence: str) -> None:
    """Each mistake in an audience has its sentence, which begins with the place as editors count."""
    with pytest.raises(QueryError) as caught:
        parse_audience(query)

    assert (f"column {column}: {sentence}", column - 1) == (str(caught.value), caught.value.position)


@pytest.mark.parametrize(("query", "column", "sentence"), TRAITS)
def test_why_a_computed_trait_is_refused(query: str, column: int, sentence: str) -> None:
    """Each mistake in a computed trait has its sentence, too."""
    with pytest.raises(QueryError) as caught:
        parse_trait(query)

    assert (f"column {column}: {sentence}", column - 1) == (str(caught.value), caught.value.position)


@pytest.mark.parametrize(
    ("query", "place", "position"),
    [
        ("trait('a') = 1\nAND trait('b') =! 2", "line 2, column 17: ", 31),
        ("\n\n  plan = 'basic'", "line 3, column 3: ", 4),
        ("\r\nplan", "line 2, column 1: ", 2),
        ("trait('a')\n", "line 1, column 1: ", 0),
        ("trait('\n') = 1 AND", "line 2, column 11: ", 18),
        ("trait('🙂') = x", "column 14: ", 13),
    ],
)
def test_the_place_of_a_mistake(query: str, place: str, position: int) -> None:
    """Where a query has several lines, the place has the line; a character is one column, however wide."""
    with pytest.raises(QueryError) as caught:
        parse_audience(query)

    assert str(caught.value).startswith(place)
    assert position == caught.value.position


def test_the_length_of_a_query() -> None:
    """A query of 10 KB is read, a longer one is not."""
    longest = f"trait('a') = '{'é' * 5112}' "

    assert Comparison(Trait(("a",)), Operator.EQUALS, Literal("é" * 5112)) == parse_audience(longest)
    with pytest.raises(QueryError, match="column 5130: a query can have at most 10,240 bytes; this one is longer"):
        parse_audience(longest + " ")
    with pytest.raises(QueryError, match="column 10241: a query can have at most 10,240 bytes"):
        parse_audience(f"trait('a') = '{'a' * 20_000}'")


@pytest.mark.parametrize(
    ("before", "after", "deepest"),
    [("(", ")", 49), ("NOT ", "", 49), ("NOT (", ")", 24), ("event('x').where(", ").count() >= 1", 49)],
)
def test_how_deep_a_query_nests(before: str, after: str, deepest: int) -> None:
    """What nests 50 deep, the parentheses of calls included, is read and printed; what nests deeper is not."""
    fitting, deeper = (before * deep + "trait('a') = 1" + after * deep for deep in (deepest, deepest + 1))

    assert parse_audience(fitting) == parse_audience(to_text(parse_audience(fitting)))
    with pytest.raises(QueryError, match="parentheses and `NOT` can be nested at most 50 deep"):
        parse_audience(deeper)


@pytest.mark.parametrize(
    "inner", ["trait('a') = 1", "trait('a').exists()", "event('x').where(property('p') = 1).count() = 1"]
)
def test_how_many_comparisons_a_query_has(inner: str) -> None:
    """A query has at most 50 comparisons, those inside `where` included."""
    fitting = 25 if "where" in inner else 50
    query = " OR ".join([inner] * fitting)

    assert parse_audience(query) == parse_audience(to_text(parse_audience(query)))
    with pytest.raises(QueryError) as caught:
        parse_audience(query + " OR " + inner)
    assert len(query) + 4 == caught.value.position
    limit = "a query can have at most 50 comparisons, including those inside `where`"
    assert f"{limit}; this one has 5" in str(caught.value)
