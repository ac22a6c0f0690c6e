"""Where Segment's own parser would answer a trigger differently, `check` says so; where it agrees, it says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audience_sync.errors import TriggerError
from audience_sync.segment.fql.matcher import matcher
from audience_sync.segment.fql.segment_differences import differences
from audience_sync.segment.fql.trigger_parser import parse

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "triggers.json").read_text())
EARLY = "Segment ends parentheses at the first `)` in them, that of `contains` and `match` too"
UNREADABLE = "Segment cannot read this trigger, so nothing matches it there: "
QUOTES = "it keeps single quotes as a part of the text"
DOUBLE = "its numbers have 53 bits, and no exponent"
PARTED = "it parts names at dots and brackets, with a backslash before them too"
AS_TEXT = "it compares such a value as a text"
GLOB = "it knows one `*`, at the beginning or the end, and takes the first character off any other pattern"
NAMES = "it wants a backslash before a name that begins with a digit or is a keyword"
SMALL = "it knows `true`, `false` and `null` only in lowercase"


def joined(operator: str) -> str:
    """Return the sentence about several kinds of operators on one level, of which `operator` is the last."""
    return f"Segment joins all of one level by its last `and` or `or`, here `{operator}`"


@pytest.mark.parametrize(
    "trigger",
    [
        'type = "identify"',
        'type = "track" and event != "x" and properties.a.b = 5 and traits.c >= -1.5 and userId < 3',
        'type = "track" or (event = "x" and name != "y") or (traits.a = 1)',
        "traits.a = true and traits.b = false and userId = true and name = null and context.c != null",
        'contains(event, "x") and !contains(properties.a, "")',
        '(type = "x" and match(event, "a*")) or (match(event, "*a"))',
        '(contains(event, "a") and type = "x") and !match(name, "*")',
        '( contains( event , "a" ) or type = "x" ) or name = "y"',
        'traits.is\\ gift = true and traits.\\2fa = "x" and traits.\\or = 1 and traits.items.\\0.sku = "a"',
        'traits.path = "C:\\dir\\x" and properties.a-b_c = 1',
        'type="a" or traits.n=5\tor name = "b"',
        "traits.n = 9007199254740992 and traits.n = +5 and traits.n != -0.5",
        'type = "a" AND event = "b"',
    ],
)
def test_nothing_is_said_where_segment_agrees(trigger: str) -> None:
    """Whoever writes what both read alike is left in peace."""
    assert differences(trigger) == []


@pytest.mark.parametrize(
    ("trigger", "sentences"),
    [
        # skipped fields
        ('groupId = "g" or type = "a"', ['Segment skips `groupId`, so `groupId = "g"` is ignored there']),
        (
            'type = "a" and !contains(messageId, "x")',
            ['Segment skips `messageId`, so `!contains(messageId, "x")` is ignored there'],
        ),
        (
            'match(type, "x*") and traits.a = 1',
            ['Segment skips `contains` and `match` of `type`, so `match(type, "x*")` is ignored there'],
        ),
        (
            "integrations.All = true",
            [
                "Segment skips `integrations`, so `integrations.All = true` is ignored there",
                "Segment has nothing left of this trigger, so nothing matches it there",
            ],
        ),
        (
            'type = "a" and (anonymousId != null)',
            [
                "Segment skips `anonymousId`, so `anonymousId != null` is ignored there",
                "Segment fails at parentheses in which it skips everything",
            ],
        ),
        # texts
        (
            "type = 'track'",
            ["Segment reads `type = 'track'` as `type = \"'track'\"`: " + QUOTES],
        ),
        (
            "contains(event, 'a')",
            [
                "Segment reads `contains(event, 'a')` as `contains(event, \"'a'\")`: " + QUOTES,
            ],
        ),
        (
            'name = "a\\\\b"',
            [r'Segment reads `name = "a\\b"` as `name = "a\\\b"`: there a backslash is only itself'],
        ),
        ('name = "a\\"b"', [r'Segment ends a text at the next quote, and misreads `"a\"b"` and what follows']),
        (
            'name = "a"and type = "b"',
            ['Segment wants a blank after a text, and misreads what follows `"a"`'],
        ),
        # values
        ("traits.a != true", [f'Segment reads `traits.a != true` as `traits.a != "true"`: {AS_TEXT}']),
        ("name = false", [f'Segment reads `name = false` as `name = "false"`: {AS_TEXT}']),
        ("event = null", [f'Segment reads `event = null` as `event = "null"`: {AS_TEXT}']),
        ("type != null", [f'Segment reads `type != null` as `type != "null"`: {AS_TEXT}']),
        ("userId = 36", [f'Segment reads `userId = 36` as `userId = "36"`: {AS_TEXT}']),
        ("event != 0.5", [f'Segment reads `event != 0.5` as `event != "0.5"`: {AS_TEXT}']),
        ("traits.a = NULL", [f'Segment reads `traits.a = NULL` as `traits.a = "NULL"`: {SMALL}']),
        ("traits.a = True", [f'Segment reads `traits.a = True` as `traits.a = "True"`: {SMALL}']),
        (
            "traits.a = 1e2",
            [f"Segment reads `traits.a = 1e2` as `traits.a = 1`: {DOUBLE}"],
        ),
        (
            "traits.a > 9007199254740993",
            [
                f"Segment reads `traits.a > 9007199254740993` as `traits.a > 9007199254740992.0`: {DOUBLE}",
            ],
        ),
        # patterns
        ('match(event, "Order")', [f'Segment reads `match(event, "Order")` as `match(event, "*rder")`: {GLOB}']),
        ('match(event, "a*b")', [rf'Segment reads `match(event, "a*b")` as `match(event, "*\*b")`: {GLOB}']),
        ('!match(event, "*a*")', [rf'Segment reads `!match(event, "*a*")` as `!match(event, "\*a*")`: {GLOB}']),
        ('match(event, "a?*")', [rf'Segment reads `match(event, "a?*")` as `match(event, "a\?*")`: {GLOB}']),
        ('match(event, "[ab]*")', [rf'Segment reads `match(event, "[ab]*")` as `match(event, "\[ab]*")`: {GLOB}']),
        # paths
        (
            "traits.a\\.b = 1",
            [
                rf"Segment reads `traits.a\.b = 1` as `traits.a.b = 1`: {PARTED}",
            ],
        ),
        ("traits.items.0 = 1", [f"In Segment `traits.items.0 = 1` is never true: {NAMES}"]),
        ("traits.2fa = true", [f"In Segment `traits.2fa = true` is never true: {NAMES}"]),
        ("traits.null = 1", [f"In Segment `traits.null = 1` is never true: {NAMES}"]),
        (
            'contains(traits.2fa, "x")',
            [f'Segment reads `contains(traits.2fa, "x")` as `contains(traits, "2")`: {NAMES}'],
        ),
        (
            'traits."a b" = 1',
            ['Segment knows no names in quotes, and misreads `traits."a b"`; write backslashes'],
        ),
        (
            "traits.list.length > 2",
            ["In Segment `traits.list.length` can be there in any event: values have a `length` of their own"],
        ),
        ("traits.größe = 1", [UNREADABLE + "it does not know the character `ö` outside of texts"]),
        # joining
        (
            'type = "a" or type = "b" and name = "c"',
            [joined("and"), 'Segment reads the whole as `type = "a" and type = "b" and name = "c"`'],
        ),
        (
            'type = "a" and (contains(event, "x") or event = "z")',
            [
                EARLY,
                joined("or"),
                'Segment reads the whole as `type = "a" or contains(event, "x") or event = "z"`',
            ],
        ),
        (
            'type = "a" OR groupId = "g" OR name = "b"',
            [
                'Segment skips `groupId`, so `groupId = "g"` is ignored there',
                "Segment knows `and` and `or` only in small letters, and ignores `OR`",
                'Segment reads the whole as `type = "a" and name = "b"`',
            ],
        ),
        (
            'type = "a" or(name = "b" and name = "c")',
            [
                "Segment ignores `or` when `(` follows it without a blank",
                'Segment reads the whole as `type = "a" and name = "b" and name = "c"`',
            ],
        ),
        (
            '(type = "a" and (name = "b" or name = "c"))',
            [UNREADABLE + "it knows no parentheses inside parentheses, and no `exists(...)`"],
        ),
        (
            '!(type = "a")',
            [
                "Segment ignores `!` before anything but `contains(...)` and `match(...)`",
                'Segment reads the whole as `type = "a"`',
            ],
        ),
        ('not type = "a"', ["Segment ignores `not`", 'Segment reads the whole as `type = "a"`']),
        (
            'not contains(event, "a")',
            ['Segment reads `not contains(event, "a")` as `contains(event, "a")`: it ignores `not`; write `!`'],
        ),
        # what Segment does not have
        ('type in ["a", "b"]', ['In Segment `type in ["a", "b"]` is never true: it knows no `in`']),
        ('type not in ["a"]', ['In Segment `type not in ["a"]` is never true: it knows no `in`']),
        (
            '"a" in traits.list or type = "a"',
            [
                'In Segment `"a" in traits.list` is never true: it knows no `in`',
                'Segment reads the whole as `"a" in traits.list`',
            ],
        ),
        (
            "exists(traits.a)",
            [UNREADABLE + "it wants an operator and a value after `traits.a`, and knows no `exists(...)`"],
        ),
        (
            'CONTAINS(event, "a")',
            ['In Segment `CONTAINS(event, "a")` is never true: it knows `contains` and `match` only in small letters'],
        ),
        # blanks
        ('type !="a"', [UNREADABLE + "it wants a blank after `!=`"]),
        ("traits.a<5", [UNREADABLE + "it wants a blank after `a`"]),
        ("traits.a <=5", ["In Segment `traits.a <=5` is never true: it wants a blank after `<=`"]),
        ('! contains(event, "a")', [UNREADABLE + "it wants nothing between `!` and what follows"]),
        ('type = "a"\r', ['Segment wants a blank after a text, and misreads what follows `"a"`']),
        ("traits.a = 1\r", [UNREADABLE + "it does not know the character `\\r` outside of texts"]),
    ],
)
def test_what_segment_would_answer(trigger: str, sentences: list[str]) -> None:
    """Each construct that Segment reads differently has one sentence that says how Segment would answer."""
    assert sentences == differences(trigger)


def test_every_vector_we_answer_otherwise_is_explained() -> None:
    """Whenever Segment answered an event of the vectors differently, there is a sentence that says why."""
    answered_otherwise = [
        case["fql"]
        for case in VECTORS["cases"]
        if case["matches"] != [matcher(parse(case["fql"]))(event) for event in VECTORS["events"]]
    ]

    assert all(differences(trigger) for trigger in answered_otherwise)


def test_the_vectors_with_a_difference() -> None:
    """Of the triggers in the vectors, only those are warned about that Segment reads differently for some event."""
    warned = {case["fql"]: differences(case["fql"])[-1] for case in VECTORS["cases"] if differences(case["fql"])}

    assert list(warned.values()) == [
        f'Segment reads `type = 0` as `type = "0"`: {AS_TEXT}',
        'Segment skips `contains` and `match` of `type`, so `match(type, "pro")` is ignored there',
        (
            'Segment reads the whole as `!match(context.ip, "p*") and traits.empty >= -1 and '
            'context.personas.computation_class <= 100 and properties.note >= 100 and contains(properties.note, "o")`'
        ),
        (
            'Segment reads the whole as `contains(context.ip, "pro") and name > 0 and '
            '!contains(traits.nothing, "pro") and !match(event, "pro")`'
        ),
        f'Segment reads `userId != false` as `userId != "false"`: {AS_TEXT}',
        f'Segment reads `event != true` as `event != "true"`: {AS_TEXT}',
        (
            'Segment reads the whole as `contains(traits.address.city, "") or !contains(userId, "pro") or '
            '!match(name, "Order*") or type = "36" or !contains(context.personas.computation_class, "o")`'
        ),
        f'Segment reads `match(traits.nothing, "pro")` as `match(traits.nothing, "*ro")`: {GLOB}',
    ]


def test_a_trigger_that_cannot_be_read_is_refused() -> None:
    """What is no trigger here is refused as everywhere, not compared."""
    with pytest.raises(TriggerError, match="character 7"):
        differences("type =")
