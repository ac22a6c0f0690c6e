"""Where Segment's own parser would answer a trigger differently, said in sentences.

The trigger is read a second time by the rules that Segment's parser follows, and what comes out is compared with our
tree: no sentence without a difference. What depends on the event alone is not listed: there a path also goes on through
an empty text, 0 and `false`, which then count as its value.
"""

from __future__ import annotations

import re
from collections import deque

from lark import Token

from audience_sync.segment.fql.expressions import (
    And,
    Call,
    Comparison,
    Condition,
    Expression,
    Has,
    OneOf,
    Or,
    all_of,
    any_of,
    conditions,
    to_text,
)
from audience_sync.segment.fql.parsing import read
from audience_sync.segment.fql.segment_conditions import COMPARED, Reading, Written, call, comparison, skipped
from audience_sync.segment.fql.segment_words import END, UnreadableError, Word, Words, words_of
from audience_sync.segment.fql.words import shown

LONGEST_SHOWN = 1000  # characters of a trigger
FUNCTIONS = frozenset({"contains", "match"})
_NOT_NEGATED = "Segment ignores `!` before anything but `contains(...)` and `match(...)`"
_ENDS_EARLY = "Segment ends parentheses at the first `)` in them, that of `contains` and `match` too"


def differences(text: str) -> list[str]:
    """Return one sentence for each construct that Segment reads differently, with what it answers; none if it agrees.

    Raises:
        TriggerError: the trigger cannot be read here either.
    """
    ours, words = read(text)
    if (misread := _misread(text, words)) is not None:
        return [misread]
    reading = Reading(_written(text, words, conditions(ours)), set(), [], [])
    try:
        theirs = _level(words_of(text), reading)
    except UnreadableError as error:
        return [f"Segment cannot read this trigger, so nothing matches it there: {error}"]
    except _FailsError:
        return [*reading.about_conditions, "Segment fails at parentheses in which it skips everything"]
    if theirs is None:
        return [*reading.about_conditions, "Segment has nothing left of this trigger, so nothing matches it there"]
    if to_text(theirs) == to_text(ours):
        return reading.about_conditions
    whole = _without(theirs, reading.ignored)
    altogether = [f"Segment reads the whole as {shown(to_text(whole), LONGEST_SHOWN)}"] if whole is not None else []
    return [*reading.about_conditions, *dict.fromkeys(reading.about_levels), *altogether]


def _misread(text: str, words: list[Token]) -> str | None:
    """Return what makes Segment lose its place in a trigger, so that no more can be said of the rest."""
    for word in words:
        if word.type == "FIELD" and re.search("[\"']", re.sub(r"\\.", "", word, flags=re.DOTALL)):
            return f"Segment knows no names in quotes, and misreads {shown(word)}; write backslashes"
        if word.type == "TEXT" and word[0] in word[1:-1]:
            return f"Segment ends a text at the next quote, and misreads {shown(word)} and what follows"
        if word.type == "TEXT" and text[word.end_pos : (word.end_pos or 0) + 1] not in " \t\n,])":
            return f"Segment wants a blank after a text, and misreads what follows {shown(word)}"
    return None


def _written(text: str, words: list[Token], found: list[Condition]) -> dict[int, Written]:
    """Return our conditions by the position of their path; every condition has exactly one."""
    paths = [index for index, word in enumerate(words) if word.type == "FIELD"]
    written = {}
    for index, condition in zip(paths, found, strict=True):
        first = last = index
        match condition:
            case Comparison():
                last += 2
            case Call(negated=negated):
                first, last = index - 2 - negated, index + 3
            case OneOf():
                last = next(at for at in range(index, len(words)) if words[at].type == "RSQB")
            case Has():
                first -= 2
            case _:
                first, last = index - 2, index + 1
        text_written = text[words[first].start_pos : words[last].end_pos]
        written[words[index].start_pos or 0] = Written(condition, text_written)
    return written


class _FailsError(Exception):
    """Segment reads the trigger, and fails at an event that comes to parentheses with nothing in them."""


def _level(words: Words, reading: Reading) -> Expression | None:
    """Return how Segment joins what stands on one level, in conditions of ours; None if it skips all of it.

    Raises:
        UnreadableError: Segment does not get to the end.
    """
    operands: list[Expression] = []
    kept = False
    joints: list[str] = []
    while words and words[0] is not END:
        word = words.popleft()
        if word.kind == "joint":
            joints.append(word.text)
            continue
        operand, counts = _operand(word, words, reading)
        kept = kept or counts
        if operand is not None:
            operands.append(operand)
    if not kept or not operands:
        return None
    if len(set(joints)) > 1:
        reading.about_levels.append(f"Segment joins all of one level by its last `and` or `or`, here `{joints[-1]}`")
    return any_of(operands) if joints[-1:] == ["or"] else all_of(operands)


def _operand(word: Word, words: Words, reading: Reading) -> tuple[Expression | None, bool]:
    """Return the condition or the parentheses that a word begins, if any, and whether Segment keeps them."""
    if word.kind == "mark" and word.text == "(":
        group = _level(_group(words, reading), reading)
        if group is None:
            raise _FailsError
        return group, True
    if word.kind == "not" and words[0].text in FUNCTIONS:
        return call(words.popleft().text, words, reading, negated=True)
    if word.kind == "name" and word.text in FUNCTIONS:
        return call(word.text, words, reading, negated=False)
    if word.kind == "name" and word.text.split(".")[0] in COMPARED:
        return comparison(word, words, reading), True
    if word.kind == "name" and word.start in reading.ours:
        return skipped(word, reading), False
    reading.about_levels.extend(_passed_over(word, words[0]))
    return None, False


def _group(words: Words, reading: Reading) -> Words:
    """Take the words up to the next closing parenthesis, whichever that closes."""
    group: Words = deque()
    while words[0].kind != "mark" or words[0].text != ")":
        if words[0] is END:
            raise UnreadableError("it knows no parentheses inside parentheses, and no `exists(...)`")
        group.append(words.popleft())
    words.popleft()
    if any(word.kind == "name" and word.text in FUNCTIONS for word in group):
        reading.about_levels.append(_ENDS_EARLY)
    group.append(END)
    return group


def _passed_over(word: Word, following: Word) -> list[str]:
    """Return what there is to say of a word that Segment passes over."""
    if word.kind == "not":
        return [_NOT_NEGATED]
    if word.kind != "name" or word.text.lower() not in ("and", "or", "not"):
        return []
    if word.text in ("and", "or") and following.text == "(":
        return [f"Segment ignores `{word.text}` when `(` follows it without a blank"]
    if word.text.lower() == "not":
        return [f"Segment ignores `{word.text}`"]
    return [f"Segment knows `and` and `or` only in small letters, and ignores `{word.text}`"]


def _without(expression: Expression, ignored: set[Condition]) -> Expression | None:
    """Return an expression without the conditions that Segment ignores; None if nothing is left."""
    match expression:
        case And(operands) | Or(operands):
            left = [one for one in (_without(operand, ignored) for operand in operands) if one is not None]
            joined = all_of if isinstance(expression, And) else any_of
            return joined(left) if left else None
        case _:
            return None if expression in ignored else expression
