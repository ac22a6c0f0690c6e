"""What is wrong with the words of a query and their order: one clear sentence for each mistake.

A mistake is raised with its sentence and its position; `placed` puts the line and the column before it, as editors
count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from audience_sync.errors import QueryError
from audience_sync.query.literals import LONGEST_NUMBER, literal_moment, unit_of

if TYPE_CHECKING:  # Lark takes long to import, and most commands read no query
    from lark import Token

MAX_LENGTH = 10 * 1024  # bytes of UTF-8
MAX_NESTING = 50

_OPENING = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
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


def shown(word: str, longest: int = 40) -> str:
    """Return a word as a sentence can have it: printable, and not longer than so many characters."""
    start = word[:longest] + "…" if len(word) > longest else word
    return "`" + "".join(one if one.isprintable() else repr(one)[1:-1] for one in start) + "`"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that comes near to another, if one does."""
    by_lower = {one.lower(): one for one in known}
    near = get_close_matches(word[:40].lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def check_text(text: str) -> None:
    """Refuse a query that is empty, too long, or no valid text.

    Raises:
        QueryError: it is.
    """
    if len(text) > MAX_LENGTH or len(text.encode(errors="surrogatepass")) > MAX_LENGTH:
        raise refusal(min(len(text), MAX_LENGTH), f"a query may have at most {MAX_LENGTH:,} bytes; this one is longer")
    if wrong := re.search("[\0\ud800-\udfff]", text):
        what = "a NUL character" if wrong.group() == "\0" else f"half of a character, {shown(wrong.group())}"
        raise refusal(wrong.start(), f"found {what}, which no text can have")
    if not text.strip(" \t\f\r\n"):
        raise refusal(0, "the query is empty; write for example event('Order Completed').count() >= 1")


def nest(depths: list[int], word: Token) -> None:
    """Keep count of how deep a word stands: `depths` has, for each open bracket, the `NOT` that wait in it.

    Raises:
        QueryError: deeper than 50.
    """
    if word.type in _OPENING:
        depths.append(0)
    elif word.type in _OPENING.values() and len(depths) > 1:
        depths.pop()
    elif word.type == "NOT":
        depths[-1] += 1
    elif word.type in ("_AND", "_OR", "COMMA"):
        depths[-1] = 0
    if sum(depths) + len(depths) - 1 > MAX_NESTING:
        raise refusal(word.start_pos or 0, f"parentheses and `NOT` nest at most {MAX_NESTING} deep")


def unexpected(text: str, words: Sequence[Token], accepted: set[str]) -> QueryError:
    """Return the error about the last of `words`, or about the end, where only `accepted` words could stand."""
    end = not words or words[-1].type == "$END"
    before = words[-2] if len(words) > 1 else None
    after = f" after {shown(before)}" if before is not None else ""
    found = "the end" if end else shown(words[-1])
    wanted = _wanted(accepted, before, end=end)
    advice = "" if end else _advice(words[-1], before, accepted)
    position = len(text) if end else words[-1].start_pos or 0
    return refusal(position, f"expected {wanted}{after}, found {found}{advice}")


def _wanted(accepted: set[str], before: Token | None, *, end: bool) -> str:
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
    if (keyword := nearest(word, keywords)) is not None:
        return f"; did you mean `{keyword}`?"
    if before is not None and before.type == "NAME" and before.lower() == "start":
        return f"; write `start of {word}`"
    return ""


def refuse_account(word: Token) -> NoReturn:
    """Refuse what belongs to audiences of accounts."""
    raise refusal(
        word.start_pos or 0,
        f"`{word.upper()}` needs audiences of accounts, which this program does not have: "
        "its audiences are of users, so write the condition for one user, without it",
    )


def refuse_symbol(word: Token) -> NoReturn:
    """Refuse a symbol of other languages."""
    raise refusal(word.start_pos or 0, f"found {shown(word)}, which means nothing here; write `{_INSTEAD[word]}`")


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
        advice = "; dates are written as `2024-02-01` or `2024-02-01T10:00:00Z`, other things in quotes"
    raise refusal(word.start_pos or 0, f"{shown(word)} is not a number{advice}")


def refuse_quote(word: Token) -> NoReturn:
    """Refuse a quote that no other closes."""
    raise refusal(word.start_pos or 0, f"the text that opens with {shown(word)} is not closed")


def refuse_character(word: Token) -> NoReturn:
    """Refuse a character that begins no word."""
    raise refusal(word.start_pos or 0, f"found {shown(word)}, which means nothing here")


def check_number(word: Token) -> Token:
    """Return the word of a number if it is short enough to be one.

    Raises:
        QueryError: it is too long.
    """
    if len(word) > LONGEST_NUMBER:
        raise refusal(
            word.start_pos or 0, f"the number {shown(word)} is too long: it has at most {LONGEST_NUMBER} digits"
        )
    return word


def check_moment(word: Token) -> Token:
    """Return the word of a date or a timestamp if it exists, with room for every time zone around it.

    Raises:
        QueryError: there is no such date.
    """
    try:
        literal_moment(word)
    except ValueError as error:
        raise refusal(word.start_pos or 0, str(error)) from None
    return word


CHECKS: Mapping[str, Callable[[Token], Token]] = {
    "NUMBER": check_number,
    "MOMENT": check_moment,
    "ACCOUNT_MISTAKE": refuse_account,
    "SYMBOL_MISTAKE": refuse_symbol,
    "NUMBER_MISTAKE": refuse_number,
    "QUOTE_MISTAKE": refuse_quote,
    "CHARACTER_MISTAKE": refuse_character,
}
"""What looks at a word as soon as it is cut off, by the word's name in the grammar."""
