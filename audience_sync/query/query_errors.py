"""Errors in the words of a query and their order: one clear sentence for each mistake.

A mistake is raised with its sentence and its position; `placed` puts the line and the column before it, as editors
count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NoReturn

from audience_sync.core.grammar import Language, position_of
from audience_sync.core.text import did_you_mean, shown
from audience_sync.errors import QueryError
from audience_sync.query.literals import LONGEST_NUMBER, literal_moment, unit_of

if TYPE_CHECKING:  # Lark takes long to import, and most commands read no query
    from lark import Token

_SIGNS = {
    "SYMBOL": "a comparison such as `>= 1`",
    "_AS": "",  # rare, and only behind the property that a reducer takes
    "DOT": "",  # so common that it would stand in every sentence
    "_AND": "`AND`",
    "_OR": "`OR`",
    "COMMA": "`,`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "RBRACE": "`}`",
    "$END": "the end",
}
_INSTEAD = {"<>": "!=", "=>": ">=", "=<": "<=", "===": "=", "&": "AND", "&&": "AND", "|": "OR", "||": "OR", "!": "NOT"}


def refusal(position: int, sentence: str) -> QueryError:
    """Return the error about the character at `position`, which counts from 0."""
    return QueryError(sentence, position=position)


def placed(text: str, error: QueryError) -> QueryError:
    """Return the error with its place before its sentence: the column, and the line if there are several."""
    before = text[: error.position]
    column = error.position - (before.rfind("\n") + 1) + 1
    line = f"line {before.count(chr(10)) + 1}, " if "\n" in text else ""
    return QueryError(f"{line}column {column}: {error}", position=error.position)


def _wanted(accepted: set[str], before: Token | None, end: bool) -> str:
    if "NOT" in accepted:
        starts = before is None or before.type in ("_AND", "_OR", "NOT")
        return "a condition" if starts else "a value or `)`" if "RPAR" in accepted else "a value"
    if "TEXT" in accepted:
        return "a value"
    if accepted == {"NAME"}:
        wanted = {"DOT": "the name of a function", "_AS": "`number`, `string` or `array`"}
        return wanted.get(before.type if before is not None else "", "a period such as `month`")
    if "LPAR" in accepted:
        return "`(`"
    if end and (closing := accepted & {"RPAR", "RSQB", "RBRACE"}):
        return _listed(closing)
    return _listed(accepted or {"_AND", "_OR", "$END"})


def _listed(accepted: set[str]) -> str:
    signs = [sign for name, sign in _SIGNS.items() if name in accepted and sign]
    return " or ".join([", ".join(signs[:-1]), signs[-1]] if len(signs) > 1 else signs)


def _advice(word: Token, before: Token | None, accepted: set[str]) -> str:
    if word.type != "NAME":
        return ""
    keywords = [name.lstrip("_") for name in ("_AND", "_OR", "NOT", "_AS") if name in accepted]
    if near := did_you_mean(word, keywords):
        return f"; {near}"
    if before is not None and before.type == "NAME" and before.lower() == "start":
        return f"; write `start of {word}`"
    return ""


def refuse_account(word: Token) -> NoReturn:
    """Refuse what belongs to audiences of accounts."""
    raise refusal(
        position_of(word),
        f"`{word.upper()}` needs account audiences, which are not supported; write the condition for a"
        f" single user, without `{word.upper()}`",
    )


def refuse_symbol(word: Token) -> NoReturn:
    """Refuse a symbol of other languages."""
    raise refusal(position_of(word), f"found {shown(word)}, which is not valid here; write `{_INSTEAD[word]}`")


def refuse_number(word: Token) -> NoReturn:
    """Refuse a word that begins like a number."""
    parts = re.fullmatch(r"([0-9]+)([a-z]+)", word, re.IGNORECASE)
    plain = re.fullmatch(r"\+?0*(0|[1-9][0-9]*)(\.[0-9]+)?|\+?(\.[0-9]+)", word)
    advice = ""
    if parts is not None and unit_of(parts[2]) is not None:
        advice = f"; write {shown(f'{parts[1]} {parts[2]}')}"
    elif plain is not None:
        advice = "; write " + shown(f"{plain[1] or 0}{plain[2] or plain[3] or ''}")
    elif re.match(r"[0-9]+[-:]", word):
        advice = "; write dates as `2024-02-01` or `2024-02-01T10:00:00Z`, and text in quotes"
    raise refusal(position_of(word), f"{shown(word)} is not a number{advice}")


def refuse_character(word: Token) -> NoReturn:
    """Refuse a character that begins no word."""
    raise refusal(position_of(word), f"found {shown(word)}, which is not valid here")


def check_number(word: Token) -> Token:
    """Return the word of a number if it is short enough to be one.

    Raises:
        QueryError: it is too long.
    """
    if len(word) > LONGEST_NUMBER:
        raise refusal(
            position_of(word), f"the number {shown(word)} is too long: the maximum is {LONGEST_NUMBER} digits"
        )
    return word


def check_moment(word: Token) -> Token:
    """Return the word of a date or a timestamp if it exists in every time zone.

    Raises:
        QueryError: there is no such date.
    """
    try:
        literal_moment(word)
    except ValueError as error:
        raise refusal(position_of(word), str(error)) from None
    return word


LANGUAGE: Final = Language(
    name="query",
    example="event('Order Completed').count() >= 1",
    error=QueryError,
    most_bytes=10 * 1024,
    never="\0\ud800-\udfff",
    negation="NOT",
    brackets={"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"},
    levels_end=frozenset({"_AND", "_OR", "COMMA"}),
    functions=frozenset(),
    wanted=_wanted,
    advice=_advice,
)
CHECKS: Final[Mapping[str, Callable[[Token], Token]]] = {
    "NUMBER": check_number,
    "MOMENT": check_moment,
    "ACCOUNT_MISTAKE": refuse_account,
    "SYMBOL_MISTAKE": refuse_symbol,
    "NUMBER_MISTAKE": refuse_number,
    "QUOTE_MISTAKE": LANGUAGE.refuse_quote,
    "CHARACTER_MISTAKE": refuse_character,
}
