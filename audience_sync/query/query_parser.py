"""Queries as syntax trees: an audience is a condition, a computed trait a value.

A query is read in two steps: the grammar makes chains of calls of it; `checker` knows the functions, and makes the
tree. A query has at most 10 KB, nests at most 50 deep, and has at most 50 comparisons, those inside `where` included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from lark import Lark, Token, Transformer, v_args

from audience_sync.core.grammar import load_grammar, position_of
from audience_sync.core.text import shown
from audience_sync.errors import QueryError
from audience_sync.query.call_chains import (
    Argument,
    Bare,
    Call,
    Chain,
    Compared,
    Constant,
    Joined,
    Negated,
    Several,
    Span,
    StartOf,
    Value,
    Written,
)
from audience_sync.query.checker import audience, computed_trait
from audience_sync.query.literals import duration_of, literal_moment, number_of, text_of, unit_of
from audience_sync.query.query_errors import CHECKS, LANGUAGE, placed, refusal
from audience_sync.query.syntax_tree import Condition, Literal, Operator, Scalar, TimeUnit

Root = TypeVar("Root")


def parse_audience(text: str) -> Condition:
    """Return the condition of an audience.

    Raises:
        QueryError: it cannot be read, or is not a condition; the sentence names the place and what is wrong there.
    """
    return _parse(text, audience)


def parse_trait(text: str) -> Scalar:
    """Return the value of a computed trait.

    Raises:
        QueryError: it cannot be read, or is not a value; the sentence names the place and what is wrong there.
    """
    return _parse(text, computed_trait)


def _parse(text: str, check: Callable[[Written], Root]) -> Root:
    try:
        return check(LANGUAGE.read(text, _grammar))
    except QueryError as error:
        raise placed(text, error) from None


@v_args(inline=True)
class _Chains(Transformer[Token, Written]):
    """The meaning of each rule of the grammar, before it is checked."""

    def either(self, *operands: Written) -> Joined:
        return Joined("OR", operands, operands[0].at)

    def both(self, *operands: Written) -> Joined:
        return Joined("AND", operands, operands[0].at)

    def negated(self, word: Token, operand: Written) -> Negated:
        return Negated(operand, position_of(word))

    def compared(self, left: Written, symbol: Token, right: Written) -> Compared:
        return Compared(left, Operator("=" if symbol == "==" else symbol), right, left.at)

    def chain(self, *calls: Call) -> Chain:
        return Chain(calls, calls[0].at)

    def constant(self, word: Token) -> Constant:
        return Constant(_literal(word), position_of(word))

    def bare(self, name: Token) -> Bare:
        return Bare(str(name), position_of(name))

    def call(self, name: Token, *arguments: Argument | Value) -> Call:
        return Call(str(name), tuple(map(_argument, arguments)), position_of(name))

    def braced(self, name: Token, *arguments: Argument | Value) -> Call:
        return Call(str(name), tuple(map(_argument, arguments)), position_of(name), braces=True)

    def labelled(self, label: Token, value: Argument | Value) -> Argument:
        inner = _argument(value)
        return Argument(inner.value, position_of(label), str(label), inner.form)

    def typed(self, value: Written, form: Token) -> Argument:
        return Argument(value, value.at, form=str(form))

    def span(self, amount: Token, word: Token) -> Span:
        unit = unit_of(word)
        if unit is None:
            raise refusal(
                position_of(word), f"unknown unit {shown(word)}; use one of {', '.join(f'{one}s' for one in TimeUnit)}"
            )
        try:
            return Span(duration_of(amount, unit), position_of(amount))
        except ValueError as error:
            raise refusal(position_of(amount), str(error)) from None

    def start_of(self, period: Token) -> StartOf:
        return StartOf(str(period), position_of(period))

    def several(self, *values: Written) -> Several:
        return Several(values, values[0].at)


def _argument(argument: Argument | Value) -> Argument:
    return argument if isinstance(argument, Argument) else Argument(argument, argument.at)


def _literal(word: Token) -> Literal:
    match word.type:
        case "TEXT":
            return Literal(text_of(word))
        case "NUMBER":
            return Literal(number_of(word))
        case "MOMENT":
            return Literal(literal_moment(word))
        case _:
            return Literal(word.type == "TRUE")


@cache
def _grammar() -> Lark:
    return load_grammar(Path(__file__).with_name("query.lark"), _Chains(), CHECKS)
