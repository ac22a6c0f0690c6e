r"""Triggers: the documented FQL as a syntax tree, read once when the configuration is loaded, and printed again.

A trigger is at most 5 KB long and nests at most 50 deep. Keywords are accepted in any case; fields and values are case
sensitive. Both quote characters hold a text; in it, a backslash stands before the quote that would end it or before
another backslash, and anywhere else is only itself. A field is a path, names joined by dots: in a name a backslash
stands before any character that is not a letter, a digit, `_` or `-` (`properties.is\ gift`), or the name stands in
quotes (`properties."is gift"`). A number picks an element of a list (`properties.items.0.sku`).

`not` and `!` are the same word. Before `contains(...)` and `match(...)` it makes one condition, which like the plain
one needs a text; before anything else, parentheses included, it is the opposite of what follows. What a condition means
for an event stands in `matcher`.
"""

from __future__ import annotations

from functools import cache

from lark import Lark, Token, Transformer, UnexpectedToken, v_args

from audience_sync.segment.fql.matcher import pieces_of
from audience_sync.segment.fql.trigger_tree import (
    Call,
    Comparison,
    Exists,
    Expression,
    Has,
    Not,
    OneOf,
    Scalar,
    all_of,
    any_of,
)
from audience_sync.segment.fql.trigger_words import (
    CHECKS,
    check_text,
    nest,
    number_of,
    path_of,
    refusal,
    text_of,
    unexpected,
    wrong_field,
)


def parse(text: str) -> Expression:
    """Return the syntax tree of a trigger; an `and` in an `and`, or an `or` in an `or`, is one with it.

    Raises:
        TriggerError: it cannot be read; the sentence names the character, counted from 1, and what is wrong there.
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
        return parser.feed_eof()  # type: ignore[no-any-return,no-untyped-call]
    except UnexpectedToken as error:
        if error.token.type == "$END":
            words.append(error.token)
        raise unexpected(text, words, parser.accepts()) from None  # type: ignore[no-untyped-call]


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
