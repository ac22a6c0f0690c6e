"""What Segment makes of one condition of a trigger, and how that differs from what we make of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from audience_sync.segment.fql.expressions import Call, Comparison, Condition, Expression, Field, Scalar, to_text
from audience_sync.segment.fql.patterns import escape, pieces_of
from audience_sync.segment.fql.segment_words import END, UnreadableError, Word, Words
from audience_sync.segment.fql.words import number_of, shown

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
LONGEST_SHOWN = 100  # characters of a condition
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
    reading.about_conditions.append(f"Segment skips {what}, so {shown(written.text, LONGEST_SHOWN)} is ignored there")
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
    reading.about_conditions.append(f"In Segment {shown(written.text, LONGEST_SHOWN)} is never true: {why}")
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
            f"Segment reads {shown(written.text, LONGEST_SHOWN)} as {shown(to_text(theirs), LONGEST_SHOWN)}: {why}"
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
            why = "it knows `true`, `false` and `null` only in small letters"
    return why
