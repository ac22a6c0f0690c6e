"""The words of a trigger: what a path, a text or a number says, and one clear sentence for everything that is wrong.

Every sentence begins with the character it is about, counted from 1, as editors do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from audience_sync.errors import TriggerError
from audience_sync.segment.fql.trigger_tree import Field

if TYPE_CHECKING:  # Lark takes long to import, and most commands read no query
    from lark import Token

MAX_LENGTH = 5 * 1024  # bytes of UTF-8
MAX_NESTING = 50
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


def path_of(word: str) -> Field:
    """Return the names of a path as it is written."""
    return tuple(
        re.sub(r"\\(.)", r"\1", found.group(found.lastgroup or 0), flags=re.DOTALL) for found in _NAME.finditer(word)
    )


def text_of(word: str) -> str:
    """Return what a text in quotes says."""
    return re.sub(rf"\\([\\{word[0]}])", r"\1", word[1:-1])


def number_of(word: str) -> int | float:
    """Return a number: whole ones exactly, others as a double."""
    return int(word) if re.fullmatch(r"[+-]?[0-9]+", word) else float(word)


def refusal(position: int, sentence: str) -> TriggerError:
    """Return the error about the character at `position`, which counts from 0."""
    return TriggerError(f"character {position + 1}: {sentence}", position=position)


def check_text(text: str) -> None:
    """Refuse a trigger that is empty, too long, or no valid text.

    Raises:
        TriggerError: it is.
    """
    if len(text) > MAX_LENGTH or len(text.encode(errors="surrogatepass")) > MAX_LENGTH:
        raise refusal(min(len(text), MAX_LENGTH), f"a trigger has at most {MAX_LENGTH:,} bytes; this one is longer")
    if half := re.search("[\ud800-\udfff]", text):
        raise refusal(half.start(), f"found half of a character, {shown(half.group())}")
    if not text.strip(" \t\f\r\n"):
        raise refusal(0, 'the trigger is empty; write for example `type = "identify"`')


def nest(depths: list[int], word: Token, before: Token | None) -> None:
    """Keep count of how deep a word stands: `depths` has, for each open parenthesis, the `not` that wait in it.

    Raises:
        TriggerError: deeper than 50.
    """
    match word.type:
        case "LPAR":  # those of a function are no level
            depths.append(-1 if before is not None and before.type in ("FUNCTION", "_EXISTS") else 0)
        case "RPAR" if len(depths) > 1:
            depths.pop()
        case "_NOT":
            depths[-1] += 1
        case "_AND" | "_OR":
            depths[-1] = 0
        case _:
            pass
    if sum(depths) + len(depths) - 1 > MAX_NESTING:
        raise refusal(word.start_pos or 0, f"parentheses and `not` nest at most {MAX_NESTING} deep")


def wrong_field(word: Token) -> TriggerError | None:
    """Return why the word of a path names no field, and what comes near; None if it does, or is another word."""
    if word.type != "FIELD":
        return None
    names, at = path_of(word), word.start_pos or 0
    root = names[0]
    if root in OBJECT_FIELDS and len(names) == 1:
        return refusal(at, f"`{root}` needs the name of something in it, as in `{root}.plan`")
    if root in PLAIN_FIELDS and len(names) > 1:
        return refusal(at, f"there is nothing inside `{root}`, so {shown(word)} is not a field")
    if root in PLAIN_FIELDS + OBJECT_FIELDS:
        return None
    if root.lower() in FUNCTIONS:
        return refusal(at, f"`{root.lower()}` is a function and needs parentheses")
    known = {name.lower(): name for name in PLAIN_FIELDS + OBJECT_FIELDS}
    near = get_close_matches(root[:40].lower(), known, n=1)
    listed = ", ".join([*PLAIN_FIELDS, *(f"{name}.*" for name in OBJECT_FIELDS)])
    advice = f"did you mean `{known[near[0]]}`?" if near else f"the fields are {listed}"
    return refusal(at, f"there is no field {shown(word)}; {advice}")


def check_number(word: Token) -> Token:
    """Return the word of a number if it is one that JSON's usual readers can hold.

    Raises:
        TriggerError: it is too large, or too long.
    """
    if len(word) > LONGEST_NUMBER or math.isinf(float(word)):
        raise refusal(word.start_pos or 0, f"the number {shown(word)} is too large")
    return word


def refuse_function(word: Token) -> NoReturn:
    """Refuse the name of a function that does not exist."""
    raise refusal(
        word.start_pos or 0, f"there is no function {shown(word)}; there are `contains`, `match` and `exists`"
    )


def refuse_number(word: Token) -> NoReturn:
    """Refuse a word that begins like a number."""
    raise refusal(word.start_pos or 0, f"{shown(word)} is not a number")


def refuse_quote(word: Token) -> NoReturn:
    """Refuse a quote that no other closes."""
    raise refusal(word.start_pos or 0, f"the text that opens with {shown(word)} is not closed")


def refuse_character(word: Token) -> NoReturn:
    """Refuse a character that begins no word."""
    keyword = {"&": "and", "|": "or"}.get(word[0])
    advice = f"; write `{keyword}`" if keyword else ""
    raise refusal(word.start_pos or 0, f"found {shown(word)}, which means nothing here{advice}")


def unexpected(text: str, words: Sequence[Token], accepted: set[str]) -> TriggerError:
    """Return the error about the last of `words`, or about the end, where only `accepted` words could stand."""
    end = not words or words[-1].type == "$END"
    before = words[-2] if len(words) > 1 else None
    position = len(text) if end else words[-1].start_pos or 0
    after = f" after {shown(before)}" if before is not None else ""
    found = "the end" if end else shown(words[-1])
    advice = "; a text stands in quotes" if not end and words[-1].type == "FIELD" and "TEXT" in accepted else ""
    return refusal(position, f"expected {_wanted(accepted)}{after}, found {found}{advice}")


def _wanted(accepted: set[str]) -> str:
    if "_EXISTS" in accepted:
        return "a condition"
    if "EQUALITY" in accepted:
        return "a comparison such as `=`"
    if "_AND" in accepted or not accepted:
        return "`and`, `or` or `)`" if "RPAR" in accepted else "`and`, `or` or the end"
    if "TEXT" in accepted:
        return "a value" if "NUMBER" in accepted else "a text in quotes"
    if "NUMBER" in accepted:
        return "a number without quotes"
    return " or ".join(sorted(_SIGNS.get(name, "`)`") for name in accepted))


CHECKS: Mapping[str, Callable[[Token], Token]] = {
    "NUMBER": check_number,
    "FUNCTION_MISTAKE": refuse_function,
    "NUMBER_MISTAKE": refuse_number,
    "QUOTE_MISTAKE": refuse_quote,
    "CHARACTER_MISTAKE": refuse_character,
}
"""What looks at a word as soon as it is cut off, by the word's name in the grammar."""


def shown(word: str, longest: int = 40) -> str:
    """Return a word as a sentence can have it: printable, and not longer than so many characters."""
    start = word[:longest] + "…" if len(word) > longest else word
    return "`" + "".join(one if one.isprintable() else repr(one)[1:-1] for one in start) + "`"
