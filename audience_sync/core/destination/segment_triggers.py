"""Where Segment's own parser would answer a trigger differently, said in sentences.

The trigger is read a second time by the rules that Segment's parser follows, condition by condition and level by level,
and what comes out is compared with our tree: no sentence without a difference. What depends on the event alone is not
listed: there a path also goes on through an empty text, 0 and `false`, which then count as its value.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple, TypeAlias

from lark import Token

from audience_sync.core.destination.patterns import escape, pieces_of
from audience_sync.core.destination.trigger_words import Field, number_of, shown
from audience_sync.core.destination.triggers import (
    And,
    Call,
    Comparison,
    Condition,
    Expression,
    Has,
    Not,
    OneOf,
    Or,
    Scalar,
    all_of,
    any_of,
    conditions,
    read,
    to_text,
)

COMPARED = frozenset({"type", "event", "name", "userId", "properties", "traits", "context"})
SEARCHED = COMPARED - {"type"}  # by `contains` and `match`
AS_TEXT = frozenset({"type", "event", "name", "userId"})  # whose values are compared as text, numbers too
FUNCTIONS = frozenset({"contains", "match"})
OWN_NAMES = frozenset(
    "length constructor toString toLocaleString valueOf hasOwnProperty isPrototypeOf propertyIsEnumerable".split()
)
"""Names that every value, or every text and list, has in the language that Segment's parser is written in."""

_END = r"(?=[ \t\n,\])]|\Z)"
_WORDS = re.compile(
    rf"""(?P<blank>[ \t\n]+)
    |(?P<not>!(?=[A-Za-z(]))
    |(?P<operator>(?:!=|<=|>=){_END}|[=<>])
    |(?P<joint>(?:and|or){_END})
    |(?P<null>null{_END})
    |(?P<name>(?:[A-Za-z_]|\\[^\U00010000-\U0010ffff])(?:[A-Za-z0-9_-]|\\[^\U00010000-\U0010ffff])*+(?:{_END}|(?=[.(=!])))
    |(?P<number>(?>[0-9+-][0-9]*(?:\.(?!{_END})[0-9]*)?)(?!\.))
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<mark>[.\[\],()])""",
    re.VERBOSE,
)


class _Word(NamedTuple):
    kind: str
    text: str
    start: int  # the character it begins with, from 0


class _Written(NamedTuple):
    """A condition of ours, and how it was written."""

    condition: Condition
    text: str


class _Reading(NamedTuple):
    """What is known while the trigger is read Segment's way."""

    ours: dict[int, _Written]  # by the character its path begins with
    ignored: set[Condition]
    about_conditions: list[str]
    about_levels: list[str]


class _Unreadable(Exception):
    """Segment cannot read the trigger; the message says why."""


_Words: TypeAlias = deque[_Word]


def differences(text: str) -> list[str]:
    """Return one sentence for each construct that Segment reads differently, with what it answers; none if it agrees.

    Raises:
        TriggerError: the trigger cannot be read here either.
    """
    ours, words = read(text)
    if any(word.type == "TEXT" and word[0] in word[1:-1] for word in words):
        return ["Segment ends a text at the next quote, with or without a backslash, and misreads all that follows"]
    reading = _Reading(_written(text, words, conditions(ours)), set(), [], [])
    try:
        theirs = _level(deque([*_segment_words(text), _Word("end", "", len(text))]), reading)
    except _Unreadable as error:
        return [f"Segment cannot read this trigger, so nothing matches it there: {error}"]
    if to_text(theirs) == to_text(ours):
        return reading.about_conditions
    whole = _without(theirs, reading.ignored)
    altogether = [f"Segment reads the whole as `{to_text(whole)}`"] if whole is not None else []
    return [*reading.about_conditions, *dict.fromkeys(reading.about_levels), *altogether]


def _written(text: str, words: list[Token], found: list[Condition]) -> dict[int, _Written]:
    """Return our conditions by the position of their path; every condition has exactly one."""
    paths = [index for index, word in enumerate(words) if word.type == "FIELD"]
    written = {}
    for index, condition in zip(paths, found, strict=True):
        match condition:
            case Comparison():
                first, last = index, index + 2
            case Call(negated=negated):
                first, last = index - 2 - negated, index + 3
            case OneOf():
                first, last = index, next(at for at in range(index, len(words)) if words[at].type == "RSQB")
            case Has():
                first, last = index - 2, index
            case _:
                first, last = index - 2, index + 1
        start = words[index].start_pos or 0
        written[start] = _Written(condition, text[words[first].start_pos : words[last].end_pos])
    return written


def _segment_words(text: str) -> list[_Word]:
    """Cut a trigger into Segment's words; names with dots between them are one."""
    words: list[_Word] = []
    at = 0
    while at < len(text):
        found = _WORDS.match(text, at)
        if found is None:
            raise _Unreadable(_why_no_word(text, at))
        kind, word = found.lastgroup or "", found.group()
        at = found.end()
        if kind == "name":
            word = re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
            if len(words) > 1 and words[-1].text == "." and words[-2].kind == "name":
                words.pop()
                before = words.pop()
                words.append(_Word("name", f"{before.text}.{word}", before.start))
                continue
        if kind != "blank":
            words.append(_Word(kind, word, found.start()))
    return words


def _why_no_word(text: str, at: int) -> str:
    if text.startswith(("!=", "<=", ">="), at):
        return f"it wants a blank after `{text[at : at + 2]}`"
    if text[at] == "!":
        return "it wants nothing between `!` and what follows"
    if name := re.compile(r"[A-Za-z_](?:[A-Za-z0-9_-]|\\.)*", re.DOTALL).match(text, at):
        following = text[name.end() : name.end() + 1]
        if following in tuple("<>[\"'"):
            return f"it wants a blank after {shown(name.group())}"
        at = name.end()
    return f"it does not know the character {shown(text[at])} outside of texts"


def _level(words: _Words, reading: _Reading) -> Expression:
    """Return how Segment joins what stands on one level; conditions stand in it as we understand them."""
    operands: list[Expression] = []
    count = 0  # of the operands that Segment does not skip
    joints: list[str] = []
    while words and words[0].kind != "end":
        word = words.popleft()
        operand: Expression | None = None
        negated = word.kind == "not"
        if negated and words[0].text not in FUNCTIONS:
            reading.about_levels.append("Segment ignores `!` before anything but `contains(...)` and `match(...)`")
        elif negated or (word.kind == "name" and word.text in FUNCTIONS):
            function = words.popleft().text if negated else word.text
            operand, known = _call(function, words, reading, negated=negated)
            count += known
        elif word.text == "(":
            operand = _level(_group(words, reading), reading)
            count += 1
        elif word.kind == "name" and word.text.split(".")[0] in COMPARED:
            operand = _comparison(word, words, reading)
            count += 1
        elif word.kind == "name" and word.start in reading.ours:
            operand = _skipped(word, reading)
        elif word.kind == "name":
            _note_word(word, words[0], reading)
        elif word.kind == "joint":
            joints.append(word.text)
        if operand is not None:
            operands.append(operand)
    if not count or not operands:
        raise _Unreadable("it skips all that stands there, or in one pair of parentheses")
    if len(set(joints)) > 1:
        reading.about_levels.append(
            f"Segment takes the last of `and` and `or` on one level for all of it: `{joints[-1]}`"
        )
    return any_of(operands) if joints[-1:] == ["or"] else all_of(operands)


def _group(words: _Words, reading: _Reading) -> _Words:
    """Take the words up to the next closing parenthesis, whichever it closes."""
    group: _Words = deque()
    while words[0].text != ")" or words[0].kind != "mark":
        if words[0].kind == "end":
            raise _Unreadable("it knows no parentheses inside parentheses, and no `exists(...)`")
        group.append(words.popleft())
    words.popleft()
    if any(word.text in FUNCTIONS and word.kind == "name" for word in group):
        reading.about_levels.append(
            "Segment ends parentheses at the first `)` in them, that of `contains` and `match` too"
        )
    group.append(_Word("end", "", 0))
    return group


def _note_word(word: _Word, following: _Word, reading: _Reading) -> None:
    """Note a word that Segment passes over, if that can change how conditions are joined."""
    if word.text in ("and", "or") and following.text == "(":
        reading.about_levels.append(f"Segment ignores `{word.text}` when `(` follows it without a blank")
    elif word.text.lower() in ("and", "or"):
        reading.about_levels.append(f"Segment knows `and` and `or` only in small letters, and ignores `{word.text}`")
    elif word.text.lower() == "not":
        reading.about_levels.append(f"Segment ignores `{word.text}`")


def _comparison(path: _Word, words: _Words, reading: _Reading) -> Expression | None:
    """Take an operator and a value, whatever they are, as Segment does behind every path."""
    operator = words.popleft()
    if operator.kind == "end":
        raise _Unreadable(f"behind {shown(path.text)} it wants an operator and a value; it knows no `exists(...)`")
    value = words.popleft()
    if operator.kind != "operator" or value.kind == "operator":
        return _never(path, _why_never(operator, value), reading)
    theirs = Comparison(_field(path), operator.text, _compared(path, operator, value))
    return _noted(path, theirs, value, reading)


def _compared(path: _Word, operator: _Word, value: _Word) -> Scalar:
    """Return what Segment compares a field with."""
    root = path.text.split(".")[0]
    equality = operator.text in ("=", "!=")
    match value.kind:
        case "null":
            return "null" if root in ("type", "event") else None
        case "name" if value.text in ("true", "false"):
            as_text = operator.text == "!=" or root in ("type", "event", "name")
            return value.text if as_text else value.text == "true"
        case "number":
            number = number_of(value.text)
            double = float(number) if float(number) != number else number
            return f"{double:g}" if equality and root in AS_TEXT else double
        case _:
            return _plain(value)


def _plain(value: _Word) -> str:
    """Return a value as Segment's text: it takes off double quotes, and knows no backslash."""
    return value.text.removeprefix('"').removesuffix('"')


def _call(function: str, words: _Words, reading: _Reading, *, negated: bool) -> tuple[Expression | None, bool]:
    """Take the five words that follow `contains` or `match`; return the condition, and whether Segment keeps it."""
    _, path, _, value, _ = (words.popleft() if words else _Word("end", "", 0) for _ in range(5))
    if path.text.split(".")[0] not in SEARCHED:
        return _skipped(path, reading), False
    text = _plain(value)
    if function == "match" and value.text.endswith('*"'):
        text = escape(text[:-1]) + "*"
    elif function == "match":
        text = "*" + escape(text[1:])
    return _noted(path, Call(function, _field(path), text, negated), value, reading), True


def _skipped(path: _Word, reading: _Reading) -> Expression | None:
    written = reading.ours.get(path.start)
    if written is None:
        return None
    reading.ignored.add(written.condition)
    root = path.text.split(".")[0]
    what = "`contains` and `match` of `type`" if root == "type" else f"`{root}`"
    reading.about_conditions.append(f"Segment skips {what}, so {shown(written.text)} is ignored there")
    return written.condition


def _never(path: _Word, why: str, reading: _Reading) -> Expression | None:
    """Return our condition at a path, and note that Segment's is never true."""
    written = reading.ours.get(path.start)
    if written is None:
        return None
    reading.about_conditions.append(f"In Segment {shown(written.text)} is never true: {why}")
    return written.condition


def _noted(path: _Word, theirs: Comparison | Call, value: _Word, reading: _Reading) -> Expression:
    """Return our condition at a path, and note how Segment's differs from it."""
    written = reading.ours.get(path.start)
    if written is None:
        reading.about_levels.append(f"Segment takes {shown(path.text)} for a condition of its own")
        return theirs
    if _meaning(theirs) != _meaning(written.condition):
        why = _why_other(theirs, written.condition, value)
        reading.about_conditions.append(f"Segment reads {shown(written.text)} as `{to_text(theirs)}`: {why}")
    elif own := OWN_NAMES.intersection(theirs.field[1:]):
        reading.about_conditions.append(
            f"In Segment {shown(path.text)} can be there in any event: values have a `{min(own)}` of their own"
        )
    return written.condition


def _meaning(condition: Condition) -> object:
    if isinstance(condition, Call) and condition.function == "match":
        return condition.field, pieces_of(condition.text), condition.negated
    return to_text(condition)


def _field(path: _Word) -> Field:
    return tuple(re.findall(r"[^.\[\]]+", path.text))


def _why_never(operator: _Word, value: _Word) -> str:
    if operator.text == ".":
        return "a name that begins with a digit, is a keyword or stands in quotes needs backslashes instead"
    if operator.text == ",":
        return "it knows `contains` and `match` only in small letters"
    if value.kind == "operator":
        return f"it wants a blank after `{operator.text}{value.text}`"
    return "it knows no `in`"


def _why_other(theirs: Comparison | Call, ours: Condition, value: _Word) -> str:
    match theirs, value:
        case _ if theirs.field != ours.field:
            return "it parts names at dots and brackets, with a backslash before them too"
        case _, _Word("text", text) if text.startswith("'"):
            return "it keeps single quotes as a part of the text"
        case Call(negated=False), _ if isinstance(ours, Call) and ours.negated:
            return "it ignores `not`; write `!`"
        case Call("match"), _:
            return "it knows one `*`, at the beginning or at the end, and takes the first character off other patterns"
        case _, _Word("text"):
            return "there a backslash is only itself"
        case Comparison(value=int() | float()), _Word("number"):
            return "its numbers have 53 bits, and no exponent"
        case _, _Word("name", text) if text not in ("true", "false"):
            return "it knows `true`, `false` and `null` only in small letters"
    return "it compares such a value as a text"


def _without(expression: Expression, ignored: set[Condition]) -> Expression | None:
    """Return an expression without the conditions that Segment ignores; None if nothing is left."""
    match expression:
        case And(operands) | Or(operands):
            left = [one for one in (_without(operand, ignored) for operand in operands) if one is not None]
            joined = all_of if isinstance(expression, And) else any_of
            return joined(left) if left else None
        case Not(operand):
            return _without(operand, ignored)
        case condition:
            return None if condition in ignored else condition
