r"""Triggers: the documented FQL as a syntax tree, read once when the configuration is loaded, and printed again.

A trigger is at most 5 KB long and nests at most 50 deep. Keywords are accepted in any case; fields and values are case
sensitive. Both quote characters hold a text; in it, a backslash stands before the quote that would end it or before
another backslash, and anywhere else is only itself. A field is a path, names joined by dots: in a name a backslash
stands before any character that is not a letter, a digit, `_` or `-` (`properties.is\ gift`), or the name stands in
quotes (`properties."is gift"`). A number picks an element of a list (`properties.items.0.sku`).

`not` and `!` are the same word. Before `contains(...)` and `match(...)` it makes one condition, which like the plain
one needs a text; before anything else, parentheses included, it is the opposite of what follows. What a condition means
for an event stands in `matching`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TypeAlias

from lark import Lark, Token, Transformer, UnexpectedToken, v_args

from audience_sync.core.destination.patterns import pieces_of
from audience_sync.core.destination.trigger_words import (
    CHECKS,
    Field,
    check_text,
    nest,
    number_of,
    path_of,
    refusal,
    text_of,
    unexpected,
    wrong_field,
)

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field against one value; `<`, `<=`, `>` and `>=` have a number."""

    field: Field
    operator: str  # = != < <= > >=
    value: Scalar


@dataclass(frozen=True, slots=True)
class Call:
    """Whether a text contains another, or fits a pattern; what is no text satisfies neither this nor its negation."""

    function: str  # contains, match
    field: Field
    text: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class OneOf:
    """Whether a field equals one of several values; negated: none of them."""

    field: Field
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Has:
    """Whether a field is a list that has a value."""

    field: Field
    value: Scalar


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a field is there and is not null."""

    field: Field


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of an expression."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class And:
    """Whether all of two or more expressions are true."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Whether any of two or more expressions is true."""

    operands: tuple[Expression, ...]


Condition: TypeAlias = Comparison | Call | OneOf | Has | Exists
Expression: TypeAlias = Condition | Not | And | Or


def parse(text: str) -> Expression:
    """Return the syntax tree of a trigger; an `and` in an `and`, or an `or` in an `or`, is one with it.

    Raises:
        TriggerError: it cannot be read; the sentence names the character, counted from 1, and what is wrong there.
    """
    return read(text)[0]


def read(text: str) -> tuple[Expression, list[Token]]:
    """Return the syntax tree of a trigger, and its words.

    Raises:
        TriggerError: see `parse`.
    """
    check_text(text)
    parser = _grammar().parse_interactive(text)
    words: list[Token] = []
    depths = [0]
    try:
        for word in parser.iter_parse():
            nest(depths, word, words[-1] if words else None)
            words.append(word)
            if (wrong := wrong_field(word)) is not None and "FIELD" in parser.accepts():  # type: ignore[no-untyped-call]
                raise wrong
        return parser.feed_eof(), words  # type: ignore[no-untyped-call]
    except UnexpectedToken as error:
        if error.token.type == "$END":
            words.append(error.token)
        raise unexpected(text, words, parser.accepts()) from None  # type: ignore[no-untyped-call]


def to_text(expression: Expression) -> str:  # noqa: PLR0911 - one return for each kind of expression reads best
    """Return a trigger in canonical form: double quotes, keywords in small letters, no parentheses without need."""
    match expression:
        case Comparison(field, operator, value):
            return f"{path_text(field)} {operator} {_value_text(value)}"
        case Call(function, field, text, negated):
            return f"{'!' if negated else ''}{function}({path_text(field)}, {_value_text(text)})"
        case OneOf(field, values, negated):
            return f"{path_text(field)} {'not ' if negated else ''}in [{', '.join(map(_value_text, values))}]"
        case Has(field, value):
            return f"{_value_text(value)} in {path_text(field)}"
        case Exists(field):
            return f"exists({path_text(field)})"
        case Not(And() | Or() | Call(negated=False) as operand):
            return f"not ({to_text(operand)})"
        case Not(operand):
            return f"not {to_text(operand)}"
        case And(operands):
            return " and ".join(f"({to_text(one)})" if isinstance(one, Or) else to_text(one) for one in operands)
        case Or(operands):
            return " or ".join(map(to_text, operands))


def path_text(field: Field) -> str:
    """Return a path as it is written in a trigger."""
    return ".".join(re.sub(r"([^\w-])", r"\\\1", name) or '""' for name in field)


def conditions(expression: Expression) -> list[Condition]:
    """Return the conditions of a trigger in the order in which they are read."""
    match expression:
        case And(operands) | Or(operands):
            return list(chain.from_iterable(map(conditions, operands)))
        case Not(operand):
            return conditions(operand)
        case condition:
            return [condition]


def fields(expression: Expression) -> frozenset[Field]:
    """Return the paths of an event that a trigger reads."""
    return frozenset(condition.field for condition in conditions(expression))


def all_of(operands: list[Expression]) -> Expression:
    """Return one or more expressions joined by `and`."""
    joined = [inner for one in operands for inner in (one.operands if isinstance(one, And) else (one,))]
    return And(tuple(joined)) if len(joined) > 1 else joined[0]


def any_of(operands: list[Expression]) -> Expression:
    """Return one or more expressions joined by `or`."""
    joined = [inner for one in operands for inner in (one.operands if isinstance(one, Or) else (one,))]
    return Or(tuple(joined)) if len(joined) > 1 else joined[0]


def _value_text(value: Scalar) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            # Only where it would be read otherwise has a backslash another one before it.
            return '"' + re.sub(r'(\\(?=["\\]|\Z)|")', r"\\\1", value) + '"'
        case _:
            return repr(value)


@v_args(inline=True)
class _Tree(Transformer[Token, Expression]):
    """What each sentence of the grammar is in the syntax tree."""

    def either(self, *operands: Expression) -> Expression:
        return any_of(list(operands))

    def both(self, *operands: Expression) -> Expression:
        return all_of(list(operands))

    def negation(self, operand: Expression) -> Expression:
        return Not(operand)

    def negated_call(self, call: Call) -> Expression:
        return Call(call.function, call.field, call.text, negated=True)

    def call(self, function: Token, field: Token, text: Token) -> Expression:
        value = text_of(text)
        if function.lower() == "match":
            try:
                pieces_of(value)
            except ValueError as error:
                raise refusal(text.start_pos or 0, str(error)) from None
        return Call(function.lower(), path_of(field), value)

    def comparison(self, field: Token, operator: Token, value: Token) -> Expression:
        return Comparison(path_of(field), str(operator), _scalar(value))

    def one_of(self, field: Token, *values: Token) -> Expression:
        return OneOf(path_of(field), tuple(map(_scalar, values)))

    def none_of(self, field: Token, *values: Token) -> Expression:
        return OneOf(path_of(field), tuple(map(_scalar, values)), negated=True)

    def has(self, value: Token, field: Token) -> Expression:
        return Has(path_of(field), _scalar(value))

    def exists(self, field: Token) -> Expression:
        return Exists(path_of(field))


def _scalar(word: Token) -> Scalar:
    match word.type:
        case "TEXT":
            return text_of(word)
        case "NUMBER":
            return number_of(word)
        case "NULL":
            return None
        case _:
            return word.type == "TRUE"


@cache
def _grammar() -> Lark:
    return Lark.open(
        "fql.lark",
        rel_to=__file__,
        parser="lalr",
        lexer="basic",
        transformer=_Tree(),
        lexer_callbacks=dict(CHECKS),
        maybe_placeholders=False,
    )
