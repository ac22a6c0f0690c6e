"""Regular expressions of `matches`: only what Python, PostgreSQL and DuckDB all read."""

from __future__ import annotations

import re

MOST_REPETITIONS = 255
DEEPEST_GROUP = 50

_PIECE = re.compile(
    r"(?P<escape>\\.?)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\]?)|(?P<special>\(\?(?!:))|(?P<open>\((?:\?:)?)|(?P<close>\))"
    r"|(?P<repeat>(?:[*+?]|\{[^}]*\}?)\??)|(?P<anchor>[$^])|(?P<plain>.)",
    re.DOTALL,
)
_SAFE_ESCAPE = re.compile(r"\\[dDwWsSbBnrtfv -/:-@\[-`{-~]")  # letters that mean the same, and ASCII signs
_COUNTED = re.compile(r"\{([0-9]{1,3})(?:,([0-9]{1,3})?)?\}\??")
_SPECIAL = (
    ("(?=", "a lookahead"),
    ("(?!", "a lookahead"),
    ("(?<=", "a lookbehind"),
    ("(?<!", "a lookbehind"),
    ("(?P<", "a named group"),
    ("(?P=", "a backreference"),
    ("(?<", "a named group"),
)


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that some database would not read.

    Raises:
        ValueError: it is one; the sentence says why.
    """
    depth, before = 0, ""
    for found in _PIECE.finditer(pattern.removeprefix("(?i)")):
        kind, piece = found.lastgroup or "", found.group()
        if (what := _unsafe(kind, piece, before, found.string[found.start() :])) is not None:
            raise ValueError(f"the regular expression has {what}, which not every database can read")
        depth += (kind == "open") - (kind == "close")
        if depth > DEEPEST_GROUP:
            raise ValueError(f"the groups of a regular expression nest at most {DEEPEST_GROUP} deep")
        before = kind
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the regular expression is invalid: {error.msg}") from None


def _unsafe(kind: str, piece: str, before: str, rest: str) -> str | None:  # noqa: PLR0911 - one return for each kind of piece reads best
    match kind:
        case "special":
            return next((name for start, name in _SPECIAL if rest.startswith(start)), f"`{rest[:3]}` inside")
        case "escape" if piece[1:].isdecimal() and piece != "\\0":
            return f"the backreference `{piece}`"
        case "escape" if len(piece) == 2 and not _SAFE_ESCAPE.fullmatch(piece):
            return f"the escape `{piece}`"
        case "repeat" if before in ("repeat", "anchor"):
            return f"`{piece}` behind {'a repetition' if before == 'repeat' else '`^` or `$`'}"
        case "repeat" if piece[0] == "{":
            return _unsafe_count(piece)
        case "set":
            return _unsafe_set(piece)
        case _:
            return None


def _unsafe_count(piece: str) -> str | None:
    counted = _COUNTED.fullmatch(piece)
    if counted is None:
        return "a `{` that counts nothing (write `\\{` for the character)"
    if any(int(number) > MOST_REPETITIONS for number in counted.groups() if number):
        return f"more than {MOST_REPETITIONS} repetitions"
    return None


def _unsafe_set(piece: str) -> str | None:
    escapes = re.findall(r"\\.", piece, re.DOTALL)
    if wrong := [one for one in escapes if not _SAFE_ESCAPE.fullmatch(one) or one[1] in "DWSbB"]:
        return f"the escape `{wrong[0]}` inside brackets"
    if "[" in re.sub(r"\\.", "", piece[1:], flags=re.DOTALL):
        return "a `[` inside brackets (write `\\[` for the character)"
    if doubled := re.search(r"--|&&|~~|\|\|", piece):
        return f"`{doubled.group()}` inside brackets"
    return None
