"""Any text given as a trigger is read or refused in one sentence: no crash, no hang.

`AUDIENCE_SYNC_FUZZ_CASES` sets the number of triggers, by default 300, or 3000 in slow runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from audience_sync.errors import TriggerError
from audience_sync.segment.fql.matcher import matcher
from audience_sync.segment.fql.trigger_parser import parse
from audience_sync.segment.fql.trigger_tree import fields, to_text
from tests.profile import amount
from tests.steps import steps

CASES = amount("AUDIENCE_SYNC_FUZZ_CASES", small=300, large=3000)
STEPS_PER_CHARACTER = 500  # function calls; about 100 are the most that a trigger needs
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "triggers.json").read_text())
EVENTS = VECTORS["events"]
VALID: list[str] = [case["fql"] for case in VECTORS["cases"]] + [
    "type in ['a', 1, null] and \"x\" in traits.list or event not in [true]",
    "!(exists(traits.a.0) and not name = 'x\\'y') or ! match(event, '[a-z]?*\\*')",
    "properties.is\\ gift != -5.5e3 and properties.'a b'.\"c\" >= 0 and integrations.All = FALSE",
]
TOKENS = [
    *(
        "type",
        "event",
        "userId",
        "groupId",
        "properties",
        "traits.a",
        "context.a.0",
        "integrations.'x y'",
        "traits.a\\ b",
    ),
    *(
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "==",
        "!",
        "not",
        "NOT",
        "and",
        "AND",
        "or",
        "in",
        "not in",
        "exists",
        "contains",
    ),
    *(
        "match",
        "length",
        "(",
        ")",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "null",
        "true",
        "False",
        '"a"',
        "'b*'",
        '"[x"',
        '"\\""',
    ),
    *(
        "0",
        "-1",
        "1e5",
        "1e999",
        "9" * 400,
        "+",
        "-",
        "\\",
        '"',
        "'",
        "&&",
        "|",
        "#",
        "\x00",
        "\ud800",
        "é",
        "\n",
        "\r",
    ),
]
ODD = [
    *"()[]!=<>\"'\\.,*?-&| \t\n\r\x00\x1f\x7f",
    "\ud800",
    "\udfff",
    "\u2028",
    "\xa0",
    "é",
    "🙂",
    "١",
    "ß",
    "not ",
    "9" * 50,
]


def mutated(random: Random) -> str:
    """Return a valid trigger with a few characters deleted, doubled, exchanged or put in."""
    text = random.choice(VALID)
    for _ in range(random.randint(1, 6)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice([0, 0, 1, 1, 2, 8]))
        new = random.choice(["", random.choice(ODD), random.choice(ODD), text[start:end] * 2, random.choice(TOKENS)])
        text = text[:start] + new + text[end:]
    return text


def soup(random: Random) -> str:
    """Return words of triggers in any order."""
    separator = random.choice([" ", " ", ""])
    return separator.join(random.choices(TOKENS, k=random.randint(1, 30)))


def characters(random: Random) -> str:
    """Return characters in any order."""
    return "".join(
        random.choice(ODD) if random.random() < 0.7 else chr(random.randrange(0x110000))
        for _ in range(random.randint(0, 60))
    )


def nested(random: Random) -> str:
    """Return a trigger with many parentheses or negations, some of them unbalanced."""
    depth = random.choice([1, 10, 49, 50, 51, 200, 2000])
    opening = random.choice(["(", "!(", "not ", "!", "not(", "(!", "[", "exists("])
    closing = ")" * (depth * opening.count("(") + random.choice([0, 0, 0, 1, -1]))
    return opening * depth + random.choice(VALID) + closing


def numeric(random: Random) -> str:
    """Return a comparison with a number of any size and shape."""
    digits = "".join(random.choices("0123456789", k=random.choice([1, 5, 20, 308, 309, 400, 401, 5000])))
    tail = random.choice(["", ".5", ".", "e5", "e-400", "E308", "e", "e+", ".5.5", "x", "_0", "e" + digits])
    return f"traits.n {random.choice(['=', '!=', '<', '>='])} {random.choice(['', '-', '+', '--', '.'])}{digits}{tail}"


def long(random: Random) -> str:
    """Return a trigger near or far above the longest one."""
    return random.choice(
        [
            " or ".join(random.choices(VALID, k=random.randint(1, 100))),
            f"name = '{random.choice(ODD) * random.randint(1, 6000)}'",
            f"match(name, '{random.choice(['*a', '?', '[a-z]', '[', '**', '*?'])}{'*a' * random.randint(1, 2600)}')",
            "traits" + random.choice([".a", ".'", ".\\\\", ".0", "\\"]) * random.randint(1, 3000) + " = 1",
            random.choice(["a", " ", "\\", "'", '"', "=", "a.", "1", "a in [", "not ", "\n"])
            * random.randint(1, 10_000),
            "event in [" + ", ".join(random.choices(["'a'", "1", "null"], k=random.randint(1, 2000))) + "]",
        ]
    )


KINDS: list[tuple[Callable[[Random], str], int]] = [
    (mutated, 50),
    (soup, 25),
    (characters, 10),
    (nested, 5),
    (numeric, 8),
    (long, 2),
]


def check(text: str) -> None:
    """Read a trigger; if it is one, print it, compile it, and match events."""
    try:
        tree = parse(text)
    except TriggerError as error:
        position, message = error.position, str(error)
        assert re.fullmatch(r"character \d+: [^\n]+", message), message
        assert message.isprintable()
        assert len(message) < 300
        assert not re.search(r"Token|Unexpected|_[A-Z]|LPAR|RPAR|RSQB|\$END", message.replace(text, ""))
        assert 0 <= position <= len(text)
        return
    if len(printed := to_text(tree)) <= 5000:
        assert repr(tree) == repr(parse(printed))
    matches = matcher(tree)
    assert all(matches(event) in (True, False) for event in EVENTS)
    assert all(path for path in fields(tree))


@pytest.mark.generated
@pytest.mark.timeout(120 + CASES // 20)
def test_anything_is_read_or_refused() -> None:
    """Random texts are triggers or are refused with a sentence that points into them, in few steps each."""
    random = Random(20260301)
    kinds, weights = zip(*KINDS, strict=True)
    check(VALID[0])  # the parser is built when it is needed first
    for _ in range(CASES):
        text = random.choices(kinds, weights)[0](random)

        assert steps(lambda text=text: check(text)) < STEPS_PER_CHARACTER * (len(text) + 20), text  # type: ignore[misc]
