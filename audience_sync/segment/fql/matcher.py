r"""Triggers as functions: compiled once, called for every event.

What a condition means, where it is not plain:

- A field that is missing is like one that is null: `= null` is true of it, and so is `!=` with a text, `true`, `false`.
- Nothing is converted: the text `"36"` is not the number 36, and `true` is not 1.
- `=` and `!=` with a number, and `<` `<=` `>` `>=`, are true of numbers only.
- `contains`, `match` and their negations are true of texts only; both tell capital letters from small ones.
- `in [...]` is true if `=` is true of one of the values, `not in [...]` if of none; `value in field` looks into a list.
- `not` before an expression is its opposite, for a missing field too.

In the pattern of `match`, `*` is any run of characters, `?` any one, `[a-z]` one of a list, and `\x` the character x.
It fits the whole text or not at all. No text can make it slow: each run stops at the first place where what follows it
fits, and is not tried again.
"""

from __future__ import annotations

import operator as operators
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never

from audience_sync.core.model import Json
from audience_sync.segment.fql.trigger_tree import (
    Exists,
    Expression,
    Field,
    FieldComparison,
    FieldOneOf,
    Has,
    Scalar,
    TextCall,
    TriggerAnd,
    TriggerNot,
    TriggerOr,
)


class Piece(NamedTuple):
    """One piece of a pattern: a text, one character of a list (as a regular expression), any character, or any run."""

    kind: Literal["text", "list", "any", "run"]
    text: str = ""


_RUN, _ANY = Piece("run"), Piece("any")
_PIECES = re.compile(
    r"\\(?P<escaped>.)|(?P<run>\*+)|(?P<any>\?)|\[(?P<list>(?:\\.|[^\]\\])*+)\]|(?P<open>\[)|(?P<plain>.)", re.DOTALL
)


def pieces_of(pattern: str) -> tuple[Piece, ...]:
    """Return the pieces of a pattern; two of one meaning have the same.

    Raises:
        ValueError: a list is not closed, empty, negated, or runs backwards; the message is a sentence about it.
    """
    pieces: list[Piece] = []
    for found in _PIECES.finditer(pattern):
        match found.lastgroup:
            case "run":
                pieces.append(_RUN)
            case "any":
                pieces.append(_ANY)
            case "list":
                pieces.append(Piece("list", _list_expression(found["list"])))
            case "open":
                raise ValueError(r"a `[` in the pattern is not closed; write `\[` for the character")
            case _:
                before = pieces.pop().text if pieces and pieces[-1].kind == "text" else ""
                pieces.append(Piece("text", before + (found["escaped"] or found["plain"])))
    return tuple(pieces)


def pattern_test(pattern: str) -> Callable[[str], bool]:
    """Return the function that tells whether a text fits a pattern.

    Raises:
        ValueError: see `pieces_of`.
    """
    match pieces_of(pattern):
        case ():
            return "".__eq__
        case (Piece("text", whole),):
            return whole.__eq__
        case (Piece("text", start), Piece("run")):
            return lambda text: text.startswith(start)
        case (Piece("run"), Piece("text", end)):
            return lambda text: text.endswith(end)
        case pieces:
            fits = re.compile(_expression(pieces), re.DOTALL).fullmatch
            return lambda text: fits(text) is not None


def _expression(pieces: tuple[Piece, ...]) -> str:
    """Return the regular expression of a pattern, in which nothing behind a run is tried twice."""
    first, *segments = _segments(pieces)
    if not segments:
        return first
    *middle, last = segments
    return first + "".join(f"(?>.*?{segment})" for segment in middle if segment) + f".*{last}"


def _segments(pieces: tuple[Piece, ...]) -> list[str]:
    """Return what stands between the runs of a pattern, as regular expressions."""
    segments = [""]
    for piece in pieces:
        match piece.kind:
            case "run":
                segments.append("")
            case "any":
                segments[-1] += "."
            case "list":
                segments[-1] += piece.text
            case "text":
                segments[-1] += re.escape(piece.text)
    return segments


def _list_expression(content: str) -> str:
    if not content or content[0] in "!^":
        raise ValueError("a character list in a pattern must not be empty or begin with `!` or `^`")
    expression = ""
    for first, last in re.findall(r"(\\.|.)(?:-(\\.|.))?", content, re.DOTALL):
        if last and first[-1] > last[-1]:
            raise ValueError(f"a range in the pattern runs backwards from {first[-1]!r} to {last[-1]!r}")
        expression += re.escape(first[-1]) + (f"-{re.escape(last[-1])}" if last else "")
    return f"[{expression}]"


Event: TypeAlias = Mapping[str, Json]
Matcher: TypeAlias = Callable[[Event], bool]

_NUMBERS = frozenset({int, float})  # the types themselves: a bool is an int, and no number
_LONGEST_POSITION = 9  # digits of the largest list position that is looked for


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def matcher(expression: Expression) -> Matcher:  # noqa: PLR0911 - one return for each kind of expression reads best
    """Return the function that tells whether an event matches a trigger; it raises nothing and changes nothing."""
    match expression:
        case FieldComparison(field, operator, value):
            return _comparison(field, operator, value)
        case TextCall(function, field, text, negated):
            return _call(field, _text_test(function, text), negated=negated)
        case FieldOneOf(field, values, negated):
            return _one_of(field, values, negated=negated)
        case Has(field, value):
            return _has(field, value)
        case Exists(field):
            return _comparison(field, "!=", None)
        case TriggerNot(operand):
            return _opposite(matcher(operand))
        case TriggerAnd(operands):
            return _all([matcher(one) for one in operands])
        case TriggerOr(operands):
            return _any([matcher(one) for one in operands])
        case _:
            assert_never(expression)


def _reader(field: Field) -> Callable[[Event], Json]:
    """Return the function that reads a path; what is not there is None."""
    first, *others = field
    match others:
        case []:
            return lambda event: event.get(first)
        case [second] if not _is_position(second):

            def read_second(event: Event) -> Json:
                outer = event.get(first)
                return outer.get(second) if isinstance(outer, dict) else None

            return read_second
    steps = [(name, int(name) if _is_position(name) else None) for name in others]

    def read(event: Event) -> Json:
        value = event.get(first)
        for name, position in steps:
            if isinstance(value, dict):
                value = value.get(name)
            elif position is not None and isinstance(value, list) and position < len(value):
                value = value[position]
            else:
                return None
        return value

    return read


def _is_position(name: str) -> bool:
    digits = name.isascii() and name.isdigit() and len(name) <= _LONGEST_POSITION
    return digits and (name == "0" or name[0] != "0")


def _comparison(field: Field, operator: str, value: Scalar) -> Matcher:
    read = _reader(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_comparison(read, operator, value)
    if not isinstance(value, str):  # true, false and null are the only ones of their kind
        return (lambda event: read(event) is value) if operator == "=" else (lambda event: read(event) is not value)
    if operator == "!=":
        return lambda event: read(event) != value
    if len(field) == 1:
        name = field[0]
        return lambda event: event.get(name) == value
    return lambda event: read(event) == value


def _number_comparison(read: Callable[[Event], Json], operator: str, number: float) -> Matcher:
    compare = _COMPARE[operator]

    def is_so(event: Event) -> bool:
        value = read(event)
        return type(value) in _NUMBERS and compare(value, number)

    return is_so


def _text_test(function: str, text: str) -> Callable[[str], bool]:
    return pattern_test(text) if function == "match" else lambda value: text in value


def _call(field: Field, test: Callable[[str], bool], *, negated: bool) -> Matcher:
    read = _reader(field)

    def is_so(event: Event) -> bool:
        value = read(event)
        return isinstance(value, str) and test(value) is not negated

    return is_so


def _one_of(field: Field, values: tuple[Scalar, ...], *, negated: bool) -> Matcher:
    read = _reader(field)
    texts = frozenset(value for value in values if isinstance(value, str))
    numbers = frozenset(value for value in values if type(value) in _NUMBERS)
    others = tuple(value for value in values if value is None or isinstance(value, bool))

    def is_so(event: Event) -> bool:
        value = read(event)
        if isinstance(value, str):
            return (value in texts) is not negated
        if type(value) in _NUMBERS:
            return (value in numbers) is not negated
        return any(value is other for other in others) is not negated

    return is_so


def _has(field: Field, value: Scalar) -> Matcher:
    read = _reader(field)
    # `1 in [True]` is true in Python, so elements are compared with their types; a whole float equals its integer.
    kinds = _NUMBERS if type(value) in _NUMBERS else frozenset({type(value)})

    def is_so(event: Event) -> bool:
        elements = read(event)
        return isinstance(elements, list) and any(one == value and type(one) in kinds for one in elements)

    return is_so


def _opposite(is_so: Matcher) -> Matcher:
    return lambda event: not is_so(event)


def _all(tests: list[Matcher]) -> Matcher:
    if len(tests) == 2:
        first, second = tests
        return lambda event: first(event) and second(event)

    def are_all(event: Event) -> bool:
        for is_so in tests:  # noqa: SIM110 - all() with a generator takes twice as long
            if not is_so(event):
                return False
        return True

    return are_all


def _any(tests: list[Matcher]) -> Matcher:
    if len(tests) == 2:
        first, second = tests
        return lambda event: first(event) or second(event)

    def is_any(event: Event) -> bool:
        for is_so in tests:  # noqa: SIM110 - any() with a generator takes twice as long
            if is_so(event):
                return True
        return False

    return is_any
