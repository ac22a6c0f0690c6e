"""Where Segment's own parser would answer a trigger differently, said in sentences.

The trigger is read a second time by the rules that Segment's parser follows, and what comes out is compared with our
tree: no sentence without a difference. What depends on the event alone is not listed: there a path also goes on through
an empty text, 0 and `false`, which then count as its value.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple, TypeAlias

from lark import Token

from audience_sync.segment.fql.matcher import escape, pieces_of
from audience_sync.segment.fql.trigger_parser import read
from audience_sync.segment.fql.trigger_tree import (
    And,
    Call,
    Comparison,
    Condition,
    Expression,
    Field,
    Has,
    OneOf,
    Or,
    Scalar,
    all_of,
    any_of,
    conditions,
    to_text,
)
from audience_sync.segment.fql.trigger_words import number_of, shown

# --- words as Segment's parser cuts them ------------------------------------------------------------------------------
# The words that Segment's own parser cuts a trigger into: where it wants blanks, and which characters it knows.

_END = r"(?=[ \t\n,\])]|\Z)"
_ESCAPED = r"\\[^\U00010000-\U0010ffff]"
_WORDS = re.compile(
    rf"""(?P<blank>[ \t\n]+)
    |(?P<not>!(?=[A-Za-z(]))
    |(?P<operator>(?:!=|<=|>=){_END}|[=<>])
    |(?P<joint>(?:and|or){_END})
    |(?P<null>null{_END})
    |(?P<name>(?:[A-Za-z_]|{_ESCAPED})(?:[A-Za-z0-9_-]|{_ESCAPED})*+(?:{_END}|(?=[.(=!])))
    |(?P<number>(?>[0-9+-][0-9]*(?:\.(?!{_END})[0-9]*)?)(?!\.))
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<mark>[.\[\],()])""",
    re.VERBOSE,
)


class Word(NamedTuple):
    """A word of a trigger: a name, operator, joint (`and`, `or`), number, text, null, mark, `!`, or the end."""

    kind: str
    text: str  # of a name: without backslashes
    start: int  # the character it begins with, from 0


END = Word("end", "", -1)
Words: TypeAlias = deque[Word]


class UnreadableError(Exception):
    """Segment cannot read the trigger; the message says why."""


def words_of(text: str) -> Words:
    """Return the words of a trigger and its end; names with dots between them are one.

    Every text must have a blank, a bracket or the end behind it.

    Raises:
        UnreadableError: Segment takes no word out of it somewhere.
    """
    words: Words = deque()
    at = 0
    while at < len(text):
        found = _WORDS.match(text, at)
        if found is None:
            raise UnreadableError(_why_no_word(text, at))
        if found.lastgroup != "blank":
            _append(words, Word(found.lastgroup or "", found.group(), at))
        at = found.end()
    words.append(END)
    return words


def _append(words: Words, word: Word) -> None:
    if word.kind != "name":
        words.append(word)
        return
    name = re.sub(r"\\(.)", r"\1", word.text, flags=re.DOTALL)
    if len(words) > 1 and words[-1].text == "." and words[-2].kind == "name":
        words.pop()
        before = words.pop()
        words.append(Word("name", f"{before.text}.{name}", before.start))
    else:
        words.append(Word("name", name, word.start))


def _why_no_word(text: str, at: int) -> str:
    if text.startswith(("!=", "<=", ">="), at):
        return f"it wants a blank after `{text[at : at + 2]}`"
    if text[at] == "!":
        return "it wants nothing between `!` and what follows"
    if name := re.compile(r"[A-Za-z_](?:[A-Za-z0-9_-]|\\.)*", re.DOTALL).match(text, at):
        at = name.end()
        if text[at] in "<>[\"'":
            return f"it wants a blank after {shown(name.group())}"
    return f"it does not know the character {shown(text[at])} outside of texts"


# --- conditions -------------------------------------------------------------------------------------------------------
# What Segment makes of one condition of a trigger, and how that differs from what we make of it.

COMPARED = frozenset({"type", "event", "name", "userId", "properties", "traits", "context"})
SEARCHED = COMPARED - {"type"}  # by `contains` and `match`
AS_TEXT = frozenset({"type", "event", "name", "userId"})  # what equals them is a text, numbers too
OWN_NAMES = frozenset(
    {
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "length",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)
"""Names that values have by themselves in the language that Segment's parser is written in."""
MOST_SHOWN = 100  # characters of a condition
NAMES_NEED_BACKSLASHES = "it wants a backslash before a name that begins with a digit or is a keyword"


class Written(NamedTuple):
    """A condition as we understand it, and as it was written."""

    condition: Condition
    text: str


class Reading(NamedTuple):
    """A trigger while it is read Segment's way: our conditions, and what was found to differ so far."""

    ours: dict[int, Written]  # by the character the condition's path begins with
    ignored: set[Condition]
    about_conditions: list[str]
    about_levels: list[str]


def comparison(path: Word, words: Words, reading: Reading) -> Expression | None:
    """Take an operator and a value, whatever they are, as Segment does behind every path; return our condition.

    Raises:
        UnreadableError: nothing is left to take.
    """
    operator = words.popleft()
    if operator is END:
        raise UnreadableError(f"it wants an operator and a value after {shown(path.text)}, and knows no `exists(...)`")
    value = words.popleft()
    if operator.kind != "operator" or value.kind == "operator":
        return _never(path, _why_never(operator, value), reading)
    theirs = Comparison(_field(path), operator.text, _compared(path, operator, value))
    return _noted(path, theirs, value, reading)


def call(function: str, words: Words, reading: Reading, *, negated: bool) -> tuple[Expression | None, bool]:
    """Take the five words that follow `contains` or `match`; return our condition, and whether Segment keeps it."""
    _, path, _, value, _ = (words.popleft() if words else END for _ in range(5))
    if path.text.split(".")[0] not in SEARCHED:
        return skipped(path, reading), False
    text = _plain(value)
    if function == "match" and value.text.endswith('*"'):
        text = escape(text[:-1]) + "*"
    elif function == "match":
        text = "*" + escape(text[1:])
    return _noted(path, Call(function, _field(path), text, negated), value, reading), True


def skipped(path: Word, reading: Reading) -> Expression | None:
    """Note that Segment skips a condition, and return it."""
    written = reading.ours.get(path.start)
    if written is None:
        return None
    root = path.text.split(".")[0]
    what = "`contains` and `match` of `type`" if root == "type" else f"`{root}`"
    reading.ignored.add(written.condition)
    reading.about_conditions.append(f"Segment skips {what}, so {shown(written.text, MOST_SHOWN)} is ignored there")
    return written.condition


def _compared(path: Word, operator: Word, value: Word) -> Scalar:
    """Return what Segment compares a field with."""
    root = path.text.split(".")[0]
    match value.kind:
        case "null":
            return "null" if root in ("type", "event") else None
        case "name" if value.text in ("true", "false"):
            as_text = operator.text == "!=" or root in ("type", "event", "name")
            return value.text if as_text else value.text == "true"
        case "number":
            number = float(value.text)  # of 53 bits; too large a number is infinite there
            if operator.text in ("=", "!=") and root in AS_TEXT:
                return str(int(number)) if number.is_integer() and abs(number) < 1e21 else repr(number)
            exact = number_of(value.text)
            return exact if exact == number else number
        case _:
            return _plain(value)


def _plain(value: Word) -> str:
    """Return a value as Segment's text: it takes off double quotes, and knows no backslash."""
    return value.text.removeprefix('"').removesuffix('"')


def _field(path: Word) -> Field:
    return tuple(re.findall(r"[^.\[\]]+", path.text))


def _never(path: Word, why: str, reading: Reading) -> Expression | None:
    written = reading.ours.get(path.start)
    if written is None:
        return None
    reading.about_conditions.append(f"In Segment {shown(written.text, MOST_SHOWN)} is never true: {why}")
    return written.condition


def _noted(path: Word, theirs: Comparison | Call, value: Word, reading: Reading) -> Expression:
    """Return our condition at a path, and note how Segment's differs from it."""
    written = reading.ours.get(path.start)
    if written is None:
        reading.about_levels.append(f"Segment takes {shown(path.text)} for a condition of its own")
        return theirs
    if _meaning(theirs) != _meaning(written.condition):
        why = _why_other(theirs, written.condition, value)
        reading.about_conditions.append(
            f"Segment reads {shown(written.text, MOST_SHOWN)} as {shown(to_text(theirs), MOST_SHOWN)}: {why}"
        )
    elif own := OWN_NAMES.intersection(theirs.field[1:]):
        reading.about_conditions.append(
            f"In Segment {shown(path.text)} can be there in any event: values have a `{min(own)}` of their own"
        )
    return written.condition


def _meaning(condition: Condition) -> object:
    if isinstance(condition, Call) and condition.function == "match":
        return condition.field, pieces_of(condition.text), condition.negated
    return to_text(condition)


def _why_never(operator: Word, value: Word) -> str:
    if operator.text == ".":
        return NAMES_NEED_BACKSLASHES
    if operator.text == ",":
        return "it knows `contains` and `match` only in small letters"
    if value.kind == "operator":
        return f"it wants a blank after `{operator.text}{value.text}`"
    return "it knows no `in`"


def _why_other(theirs: Comparison | Call, ours: Condition, value: Word) -> str:
    why = "it compares such a value as a text"
    match theirs, value:
        case Call(), Word(kind) if kind != "text":
            why = NAMES_NEED_BACKSLASHES
        case _ if theirs.field != ours.field:
            why = "it parts names at dots and brackets, with a backslash before them too"
        case _, Word("text", text) if text.startswith("'"):
            why = "it keeps single quotes as a part of the text"
        case Call(negated=False), _ if isinstance(ours, Call) and ours.negated:
            why = "it ignores `not`; write `!`"
        case Call("match"), _:
            why = "it knows one `*`, at the beginning or the end, and takes the first character off any other pattern"
        case _, Word("text"):
            why = "there a backslash is only itself"
        case Comparison(value=int() | float()), Word("number"):
            why = "its numbers have 53 bits, and no exponent"
        case _, Word("name", text) if text not in ("true", "false"):
            why = "it knows `true`, `false` and `null` only in lowercase"
    return why


# --- differences ------------------------------------------------------------------------------------------------------

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
