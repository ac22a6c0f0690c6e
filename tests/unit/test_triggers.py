"""Triggers mean what the documented FQL says, are printed as they are read, and are refused in one clear sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.model import Json
from audience_sync.errors import TriggerError
from audience_sync.segment.fql.matcher import matcher, pattern_test
from audience_sync.segment.fql.trigger_parser import OBJECT_FIELDS, PLAIN_FIELDS, parse
from audience_sync.segment.fql.trigger_tree import (
    Exists,
    Expression,
    FieldComparison,
    FieldOneOf,
    Has,
    TextCall,
    TriggerAnd,
    TriggerNot,
    TriggerOr,
    fields,
    to_text,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "triggers.json").read_text())
SEGMENTS_FAULTS = {
    'traits.vip != "pro" and match(type, "pro")': "a condition is skipped",
    'contains(traits.address.city, "") and !contains(userId, "pro") and (!match(name, "Order*") or (type = "36") '
    'or (!contains(context.personas.computation_class, "o")))': "parentheses end early, and `or` joins everything",
}
"""Triggers of the vectors whose recorded answers show a fault of Segment's parser: the documented meaning counts."""


def escape(text: str) -> str:
    """Return the pattern that only `text` fits."""
    return re.sub(r"([\\*?\[])", r"\\\1", text)


EVENT: dict[str, Json] = {
    "type": "track",
    "event": "Order Completed",
    "userId": "u1",
    "integrations": {"All": False},
    "properties": {
        "n": 5,
        "zero": 0,
        "half": 0.5,
        "yes": True,
        "no": False,
        "null": None,
        "text": "5",
        "is gift": True,
        "a.b": {"": "odd"},
        "items": [{"sku": "s-1"}, {"sku": "s-2"}],
        "list": ["a", 1, True, None],
        "0": "a name of one digit",
    },
}


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["fql"])
def test_the_vectors(case: dict[str, Any]) -> None:
    """A trigger matches the events it matches in Segment, save where Segment's parser is known to be wrong."""
    matches = matcher(parse(case["fql"]))
    as_recorded = case["matches"] == [matches(event) for event in VECTORS["events"]]

    assert as_recorded == (case["fql"] not in SEGMENTS_FAULTS)


def test_the_vectors_that_show_a_fault() -> None:
    """Where the vectors show a known fault, every condition counts and parentheses group, as documented."""
    skipping, joining = (matcher(parse(trigger)) for trigger in SEGMENTS_FAULTS)

    assert not any(skipping(event) for event in VECTORS["events"])
    assert [event for event in VECTORS["events"] if joining(event)] == VECTORS["events"][:1]


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        # a missing field is like null
        ("name = null", True),
        ("name != null", False),
        ("exists(name)", False),
        ("exists(userId)", True),
        ("exists(properties.null)", False),
        ("exists(properties.no)", True),
        ("properties.null = null and properties.yes.deeper = null and properties.n.0 = null", True),
        ('name != "x" and name != true and name != false', True),
        ("name != 5", False),
        ("name in [1, null]", True),
        ("name not in [1, null]", False),
        # nothing is converted
        ('properties.n = 5 and properties.text = "5"', True),
        ('properties.n = "5" or properties.text = 5', False),
        ("properties.n = 5.0 and properties.half = 5e-1 and properties.n = +5", True),
        ("properties.yes = 1 or properties.no = 0 or properties.zero = false or properties.yes > 0", False),
        ("properties.text != 6 or properties.yes != 6", False),
        ("properties.text > 1 or properties.yes >= 0 or properties.items < 9", False),
        ("properties.n > 4 and properties.n >= 5 and properties.n < 5.5 and properties.n <= 5", True),
        ("properties.n < 5 or properties.n > 5 or properties.n != 5", False),
        ("properties.yes != true", False),
        ("properties.no != true and properties.n != true", True),
        ("properties.yes in [1]", False),
        ("properties.n in [true, 5.0]", True),
        ('event in ["a", "Order Completed"]', True),
        ('event in ["order completed"]', False),
        ('event not in ["a", 1, null]', True),
        # lists
        ('"a" in properties.list and 1 in properties.list and null in properties.list', True),
        ('2 in properties.list or "1" in properties.list or false in properties.list or "a" in event', False),
        ("1 in properties.items", False),
        ('properties.items.1.sku = "s-2"', True),
        ("properties.items.2.sku = null and properties.items.01 = null and properties.items.-1 = null", True),
        ('properties.0 = "a name of one digit"', True),
        # texts
        ('contains(event, "er C") and contains(event, "")', True),
        ('contains(event, "er c")', False),
        ('contains(properties.n, "5") or !contains(properties.n, "6") or not contains(name, "x")', False),
        ('!contains(event, "x") and not contains(event, "x")', True),
        ('!(contains(name, "x")) and not (match(properties.n, "*"))', True),
        ('not !contains(name, "x")', True),
        ('match(event, "Order Completed") and match(event, "*") and match(event, "*d*r*t*d")', True),
        ('match(event, "rder Completed") or match(event, "Order") or match(event, "")', False),
        ('match(event, "O?der*") and match(event, "*[A-C]ompleted") and match(event, "[MO]rder ?*")', True),
        ('match(event, "order*") or match(event, "*[a-c]ompleted") or match(event, "Order ?")', False),
        ('!match(event, "x*")', True),
        # paths
        ("properties.is\\ gift = true and properties.'is gift' = true and properties.\"is gift\" = true", True),
        ('properties.a\\.b."" = "odd"', True),
        ("integrations.All = false", True),
        ("ty\\pe = 'track'", True),
        # joining
        ('type = "track" or type = "page" and event = "x"', True),
        ('(type = "track" or type = "page") and event = "x"', False),
        ('not type = "track" or type = "track"', True),
        ('not (type = "track" or type = "track")', False),
        ('!type = "page" AND NOT(event="x")', True),
        ("not not userId != NULL And properties.yes = TRUE and properties.no = False", True),
        ("Exists(userId) and CONTAINS(event, 'Or') and event IN ['Order Completed'] and event Not In [1]", True),
        ("\n\t( (type='track') )\r\n", True),
    ],
)
def test_what_a_trigger_means(trigger: str, *, expected: bool) -> None:
    """Every construct of the documented language has its documented meaning."""
    matches = matcher(parse(trigger))

    assert expected is matches(EVENT)


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ('"a\\"b"', 'a"b'),
        ("'a\\'b'", "a'b"),
        ("'a\"b'", 'a"b'),
        ('"a\\\\"', "a\\"),
        ('"C:\\dir\\\'"', "C:\\dir\\'"),
        ('"a\nb\x00"', "a\nb\x00"),
        ("'🙂'", "🙂"),
    ],
)
def test_texts_in_quotes(trigger: str, expected: str) -> None:
    """A backslash stands before the closing quote or another backslash, and is itself anywhere else."""
    assert FieldComparison(("name",), "=", expected) == parse(f"name = {trigger}")


def test_the_canonical_form() -> None:
    """A trigger is printed with double quotes, small keywords and no parentheses that change nothing."""
    trigger = (
        "((type='track')OR(type = 'x' AND(event!=NULL and !(name=TRUE))))and NOT(contains(event,'\"'))"
        " AND ! match(event,'a\\*') and traits.'a b'.0.\"\" > -05.50 and EXISTS( userId ) and event NOT IN['a',1]"
    )

    expected = (
        '(type = "track" or type = "x" and event != null and not name = true) and not (contains(event, "\\""))'
        ' and !match(event, "a\\*") and traits.a\\ b.0."" > -5.5 and exists(userId) and event not in ["a", 1]'
    )

    assert expected == to_text(parse(trigger))


def test_the_paths_that_are_read() -> None:
    """The paths of a trigger are known, so that `check` can compare them with what events have."""
    trigger = 'type = "x" or not (exists(traits.a.b) and contains(event, "x")) or 1 in traits.l or traits.a.b in [1]'

    assert {("type",), ("traits", "a", "b"), ("event",), ("traits", "l")} == fields(parse(trigger))


PATHS = st.one_of(
    st.sampled_from([("type",), ("event",), ("name",), ("userId",), ("anonymousId",), ("groupId",), ("messageId",)]),
    st.tuples(
        st.sampled_from(["properties", "traits", "context", "integrations"]),
        st.lists(
            st.sampled_from(["a", "0", "is gift", "or", "a.b", "", "-", "\\", '"', "'", "\n", "é", "()", "null"])
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            min_size=1,
            max_size=3,
        ),
    ).map(lambda path: (path[0], *path[1])),
)
TEXTS = st.sampled_from(["", "\\", '"', "'", '\\"', "\\\\", "a\\b", "*", "\n", "\x00", "🙂"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
NUMBERS = st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
CONDITIONS: st.SearchStrategy[Expression] = st.one_of(
    st.builds(FieldComparison, PATHS, st.sampled_from(["=", "!="]), SCALARS),
    st.builds(FieldComparison, PATHS, st.sampled_from(["<", "<=", ">", ">="]), NUMBERS),
    st.builds(TextCall, st.just("contains"), PATHS, TEXTS, st.booleans()),
    st.builds(TextCall, st.just("match"), PATHS, TEXTS.map(escape), st.booleans()),
    st.builds(FieldOneOf, PATHS, st.lists(SCALARS, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(Has, PATHS, SCALARS),
    st.builds(Exists, PATHS),
)
TREES: st.SearchStrategy[Expression] = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(TriggerNot, inner),
        st.builds(TriggerAnd, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(TriggerOr, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(TREES)
def test_what_is_printed_is_read_as_the_same(tree: Expression) -> None:
    """Any tree, with any names, texts and numbers, is printed as a trigger that is read as that tree."""
    printed = to_text(tree)
    again = parse(printed)

    assert printed == to_text(again)
    assert repr(again) == repr(parse(to_text(again)))
    assert fields(tree) == fields(again)
    assert matcher(tree)(EVENT) is matcher(again)(EVENT)


@given(CONDITIONS)
def test_a_condition_survives_printing(condition: Expression) -> None:
    """A single condition comes back exactly, value and type."""
    assert repr(condition) == repr(parse(to_text(condition)))


@pytest.mark.parametrize(
    ("trigger", "position", "sentence"),
    [
        ("", 0, 'the trigger is empty; write a condition such as `type = "identify"`'),
        (" \n", 0, 'the trigger is empty; write a condition such as `type = "identify"`'),
        ("type", 4, "expected a comparison such as `=` after `type`, found the end"),
        ("type = ", 7, "expected a value after `=`, found the end"),
        ('type == "a"', 6, "expected a value after `=`, found `=`"),
        ("type = track", 7, "expected a value after `=`, found `track`; write text in quotes"),
        ('type > "a"', 7, 'expected a number without quotes after `>`, found `"a"`'),
        ('type = "a', 7, 'the text starting with `"` is not closed'),
        ('type = "a" type', 11, 'expected `and`, `or` or the end after `"a"`, found `type`'),
        ('type = "a" xor type = "b"', 11, 'expected `and`, `or` or the end after `"a"`, found `xor`'),
        ('type = "a" &&', 11, "found `&&`, which is not valid here; write `and`"),
        ('type = "a" | x', 11, "found `|`, which is not valid here; write `or`"),
        ('type = "a")', 10, 'expected `and`, `or` or the end after `"a"`, found `)`'),
        ('(type = "a"', 11, 'expected `)` after `"a"`, found the end'),
        ("not", 3, "expected a condition after `not`, found the end"),
        (") = 1", 0, "expected a condition, found `)`"),
        ("contains(event)", 14, "expected `,` after `event`, found `)`"),
        ("contains(event, 5)", 16, "expected text in quotes after `,`, found `5`"),
        ("contains = 5", 0, "`contains` is a function and needs parentheses"),
        ("length(event) > 5", 0, "there is no function `length`; use `contains`, `match` or `exists`"),
        ("true", 4, "expected `in` and the name of a list after `true`, found the end"),
        ("event in []", 10, "expected a value after `[`, found `]`"),
        ("traits.n = 5x", 11, "`5x` is not a number"),
        ("traits.n = .5", 11, "`.5` is not a number"),
        ("traits.n = 1e999", 11, "the number `1e999` is too large"),
        ("traits.n = " + "1" * 401, 11, f"the number `{'1' * 40}…` is too large"),
        ("traits.a. = 1", 8, "found `.`, which is not valid here"),
        ("traits = 1", 0, "`traits` must be followed by the name of a field in it, as in `traits.plan`"),
        ("type.x = 1", 0, "`type` has no nested fields, so `type.x` is not a field"),
        ("userid = 1", 0, "there is no field `userid`; did you mean `userId`?"),
        ("trait.plan = 1", 0, "there is no field `trait.plan`; did you mean `traits`?"),
        (
            "plan = 1",
            0,
            f"there is no field `plan`; the fields are {', '.join(PLAIN_FIELDS)}, {'.*, '.join(OBJECT_FIELDS)}.*",
        ),
        ("name = \x00", 7, "found `\\x00`, which is not valid here"),
        ("name = '\ud800'", 8, "found half a character (a lone surrogate), `\\ud800`, which is not allowed in text"),
        ("match(name, 'a[b')", 12, "a `[` in the pattern is not closed; write `\\[` for the character"),
        (
            "match(name, '[!b]')",
            12,
            "a character list in a pattern must not be empty or begin with `!` or `^`",
        ),
        ("match(name, '[z-a]')", 12, "a range in the pattern runs backwards from 'z' to 'a'"),
        ("(" * 51 + "type = 'a'" + ")" * 51, 50, "parentheses and `not` can be nested at most 50 deep"),
        ("!(" * 26 + "type = 'a'" + ")" * 26, 50, "parentheses and `not` can be nested at most 50 deep"),
        ("!" * 51 + "type = 'a'", 50, "parentheses and `not` can be nested at most 50 deep"),
        (f"type = '{'a' * 5112}'", 5120, "a trigger can have at most 5,120 bytes; this one is longer"),
        (f"type = '{'é' * 2556}'", 2565, "a trigger can have at most 5,120 bytes; this one is longer"),
    ],
)
def test_why_a_trigger_is_refused(trigger: str, position: int, sentence: str) -> None:
    """A bad trigger is refused with one sentence that points at the character and says what is wrong there."""
    with pytest.raises(TriggerError) as caught:
        parse(trigger)

    assert (f"character {position + 1}: {sentence}", position) == (str(caught.value), caught.value.position)


def test_the_limits_are_reached() -> None:
    """What is exactly as long, as deep or as large as allowed is read."""
    deepest = "!(" * 25 + "match(event, 'x') and exists(name) or exists(name)" + ")" * 25
    longest = f"type = '{'a' * 5111}'"
    largest = "traits.n = " + "9" * 308

    assert all(isinstance(matcher(parse(trigger))(EVENT), bool) for trigger in (deepest, longest, largest))
    assert FieldComparison(("traits", "n"), "=", int("9" * 308)) == parse(largest)


def test_a_long_chain_of_conditions() -> None:
    """Conditions side by side are no nesting: as many as fit are read, printed and matched."""
    trigger = " or ".join(["type<1"] * 510)

    assert trigger.replace("<", " < ") == to_text(parse(trigger))
    assert matcher(parse(trigger))(EVENT) is False


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("", [""], ["a"]),
        ("*", ["", "a", "a\nb"], []),
        ("a*", ["a", "ab"], ["ba", "A"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a**b*c", ["abc", "axbxc", "abcbc"], ["ac", "abcd"]),
        ("*ab*ab*", ["abab", "xababx"], ["ab", "aba"]),
        ("?", ["a", "\n", "🙂"], ["", "ab"]),
        ("*?", ["a", "ab"], [""]),
        ("a\\*\\?\\[\\x\\\\", ["a*?[x\\"], ["ab?[x\\"]),
        ("[a-c-][\\]x]", ["a]", "-x", "cx"], ["d]", "a"]),
        ("[.+^]", [".", "+", "^"], ["a"]),
        ("]", ["]"], []),
        (".", ["."], ["a"]),
        ("\\", ["\\"], []),
    ],
)
def test_patterns(pattern: str, fitting: list[str], others: list[str]) -> None:
    """`*`, `?`, lists and backslashes of a pattern mean what is documented; the whole text must fit."""
    fits = pattern_test(pattern)

    assert (fitting, []) == ([text for text in fitting if fits(text)], [text for text in others if fits(text)])


@given(TEXTS, TEXTS)
def test_an_escaped_text_is_a_pattern_only_it_fits(text: str, other: str) -> None:
    """Escaping takes every special meaning away."""
    fits = pattern_test(escape(text))

    assert fits(text)
    assert fits(other) == (text == other)


def test_no_pattern_is_slow() -> None:
    """A pattern with many runs does not try them against each other: this one would take for ever."""
    fits = pattern_test("*a" * 60 + "*b")

    assert not fits("a" * 5000)
