r"""Triggers: the documented FQL as a syntax tree, read once when the configuration is loaded, and printed again.

A trigger is at most 5 KB long and nests at most 50 deep. Keywords are accepted in any case; fields and values are case
sensitive. Both quote characters hold a text; in it, a backslash stands before the quote that would end it or before
another backslash, and anywhere else is only itself. A field is a path, names joined by dots: in a name a backslash
stands before any character that is not a letter, a digit, `_` or `-` (`properties.is\ gift`), or the name stands in
quotes (`properties."is gift"`). A number picks an element of a list (`properties.items.0.sku`).

`not` and `!` are the same word. Before `contains(...)` and `match(...)` it makes one condition, which like the plain
one needs a text; before anything else, parentheses included, it is the opposite of what follows. The meaning of a term
for an event stands in `matcher`.

Each error begins with the character it is about, counted from 1, as editors do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from lark import Lark, Token, Transformer, v_args

from audience_sync.core.grammar import Language, load_grammar, position_of
from audience_sync.core.text import did_you_mean, shown
from audience_sync.errors import TriggerError
from audience_sync.segment.fql.matcher import pieces_of
from audience_sync.segment.fql.trigger_tree import (
    Exists,
    Expression,
    Field,
    FieldComparison,
    FieldOneOf,
    Has,
    Scalar,
    TextCall,
    TriggerNot,
    all_of,
    any_of,
)

LONGEST_NUMBER = 400  # characters; a double has at most 309 digits before the point
PLAIN_FIELDS = ("type", "event", "name", "userId", "anonymousId", "groupId", "messageId")
OBJECT_FIELDS = ("properties", "traits", "context", "integrations")
FUNCTIONS = ("contains", "match", "exists")

_NAME = re.compile(
    r"(?P<bare>(?:[\w-]|\\.)+)|\"(?P<double>(?:\\.|[^\"\\])*)\"|'(?P<single>(?:\\.|[^'\\])*)'", re.DOTALL
)
_SIGNS = {
    "LPAR": "`(`",
    "COMMA": "`,`",
    "RSQB": "`]`",
    "LSQB": "`[`",
    "FIELD": "the name of a field",
    "_IN": "`in` and the name of a list",
}


def parse(text: str) -> Expression:
    """Return the syntax tree of a trigger; an `and` in an `and`, or an `or` in an `or`, is one with it.

    Raises:
        TriggerError: it cannot be read; the sentence names the character, counted from 1, and what is wrong there.
    """
    try:
        return _LANGUAGE.read(text, _grammar)  # type: ignore[no-any-return]
    except TriggerError as error:
        raise TriggerError(f"character {error.position + 1}: {error}", position=error.position) from None


@cache
def _grammar() -> Lark:
    return load_grammar(Path(__file__).with_name("fql.lark"), _Tree(), _CHECKS)


@v_args(inline=True)
class _Tree(Transformer[Token, Expression]):
    """The node of the syntax tree for each rule of the grammar."""

    def either(self, *operands: Expression) -> Expression:
        return any_of(list(operands))

    def both(self, *operands: Expression) -> Expression:
        return all_of(list(operands))

    def negation(self, operand: Expression) -> Expression:
        return TriggerNot(operand)

    def negated_call(self, call: TextCall) -> Expression:
        return TextCall(call.function, call.field, call.text, negated=True)

    def call(self, function: Token, field: Token, text: Token) -> Expression:
        value = _text_of(text)
        if function.lower() == "match":
            try:
                pieces_of(value)
            except ValueError as error:
                raise _refusal(position_of(text), str(error)) from None
        return TextCall(function.lower(), _path_of(field), value)

    def comparison(self, field: Token, operator: Token, value: Token) -> Expression:
        return FieldComparison(_path_of(field), str(operator), _scalar(value))

    def one_of(self, field: Token, *values: Token) -> Expression:
        return FieldOneOf(_path_of(field), tuple(map(_scalar, values)))

    def none_of(self, field: Token, *values: Token) -> Expression:
        return FieldOneOf(_path_of(field), tuple(map(_scalar, values)), negated=True)

    def has(self, value: Token, field: Token) -> Expression:
        return Has(_path_of(field), _scalar(value))

    def exists(self, field: Token) -> Expression:
        return Exists(_path_of(field))


def _scalar(word: Token) -> Scalar:
    match word.type:
        case "TEXT":
            return _text_of(word)
        case "NUMBER":
            return _number_of(word)
        case "NULL":
            return None
        case _:
            return word.type == "TRUE"


def _path_of(word: str) -> Field:
    """Return the names of a path as it is written."""
    return tuple(
        re.sub(r"\\(.)", r"\1", found.group(found.lastgroup or 0), flags=re.DOTALL) for found in _NAME.finditer(word)
    )


def _text_of(word: str) -> str:
    """Return what a text in quotes says."""
    return re.sub(rf"\\([\\{word[0]}])", r"\1", word[1:-1])


def _number_of(word: str) -> int | float:
    """Return a number: whole ones exactly, others as a double."""
    return int(word) if re.fullmatch(r"[+-]?[0-9]+", word) else float(word)


def _refusal(position: int, sentence: str) -> TriggerError:
    return TriggerError(sentence, position=position)


def _wrong_field(word: Token) -> TriggerError | None:
    """Return why the word of a path names no field, and what comes near; None if it does, or is another word."""
    if word.type != "FIELD":
        return None
    names, at = _path_of(word), position_of(word)
    root = names[0]
    if root in OBJECT_FIELDS and len(names) == 1:
        return _refusal(at, f"`{root}` must be followed by the name of a field in it, as in `{root}.plan`")
    if root in PLAIN_FIELDS and len(names) > 1:
        return _refusal(at, f"`{root}` has no nested fields, so {shown(word)} is not a field")
    if root in PLAIN_FIELDS + OBJECT_FIELDS:
        return None
    if root.lower() in FUNCTIONS:
        return _refusal(at, f"`{root.lower()}` is a function and needs parentheses")
    listed = ", ".join([*PLAIN_FIELDS, *(f"{name}.*" for name in OBJECT_FIELDS)])
    advice = did_you_mean(root, PLAIN_FIELDS + OBJECT_FIELDS) or f"the fields are {listed}"
    return _refusal(at, f"there is no field {shown(word)}; {advice}")


def _check_number(word: Token) -> Token:
    """Return the word of a number if it is one that JSON's usual readers can hold.

    Raises:
        TriggerError: it is too large, or too long.
    """
    if len(word) > LONGEST_NUMBER or math.isinf(float(word)):
        raise _refusal(position_of(word), f"the number {shown(word)} is too large")
    return word


def _refuse_function(word: Token) -> NoReturn:
    """Refuse the name of a function that does not exist."""
    raise _refusal(position_of(word), f"there is no function {shown(word)}; use `contains`, `match` or `exists`")


def _refuse_number(word: Token) -> NoReturn:
    """Refuse a word that begins like a number."""
    raise _refusal(position_of(word), f"{shown(word)} is not a number")


def _refuse_character(word: Token) -> NoReturn:
    """Refuse a character that begins no word."""
    keyword = {"&": "and", "|": "or"}.get(word[0])
    advice = f"; write `{keyword}`" if keyword else ""
    raise _refusal(position_of(word), f"found {shown(word)}, which is not valid here{advice}")


def _wanted(accepted: set[str], before: Token | None, end: bool) -> str:  # noqa: ARG001 - as `Language` calls it
    if "_EXISTS" in accepted:
        return "a condition"
    if "EQUALITY" in accepted:
        return "a comparison such as `=`"
    if "_AND" in accepted or not accepted:
        return "`and`, `or` or `)`" if "RPAR" in accepted else "`and`, `or` or the end"
    if "TEXT" in accepted:
        return "a value" if "NUMBER" in accepted else "text in quotes"
    if "NUMBER" in accepted:
        return "a number without quotes"
    return " or ".join(sorted(_SIGNS.get(name, "`)`") for name in accepted))


def _advice(word: Token, before: Token | None, accepted: set[str]) -> str:  # noqa: ARG001 - as `Language` calls it
    return "; write text in quotes" if word.type == "FIELD" and "TEXT" in accepted else ""


_LANGUAGE: Final = Language(
    name="trigger",
    example='`type = "identify"`',
    error=TriggerError,
    most_bytes=5 * 1024,
    never="\ud800-\udfff",
    negation="not",
    brackets={"LPAR": "RPAR"},
    levels_end=frozenset({"_AND", "_OR"}),
    functions=frozenset({"FUNCTION", "_EXISTS"}),
    wanted=_wanted,
    advice=_advice,
    wrong=_wrong_field,
)
_CHECKS: Final[Mapping[str, Callable[[Token], Token]]] = {
    "NUMBER": _check_number,
    "FUNCTION_MISTAKE": _refuse_function,
    "NUMBER_MISTAKE": _refuse_number,
    "QUOTE_MISTAKE": _LANGUAGE.refuse_quote,
    "CHARACTER_MISTAKE": _refuse_character,
}
