r"""The patterns of `match`: `*` is any run of characters, `?` any one, `[a-z]` one of a list, and `\x` the character x.

A pattern fits the whole text or not at all, and tells capital letters from small ones. No text can make it slow: each
run stops at the first place where what follows it fits, and is not tried again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple


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
                raise ValueError(r"the `[` of the pattern is not closed; write `\[` for the character")
            case _:
                before = pieces.pop().text if pieces and pieces[-1].kind == "text" else ""
                pieces.append(Piece("text", before + (found["escaped"] or found["plain"])))
    return tuple(pieces)


def escape(text: str) -> str:
    """Return the pattern that only `text` fits."""
    return re.sub(r"([\\*?\[])", r"\\\1", text)


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
        raise ValueError("a list in a pattern names at least one character, and does not begin with `!` or `^`")
    expression = ""
    for first, last in re.findall(r"(\\.|.)(?:-(\\.|.))?", content, re.DOTALL):
        if last and first[-1] > last[-1]:
            raise ValueError(f"a list in the pattern runs backwards from {first[-1]!r} to {last[-1]!r}")
        expression += re.escape(first[-1]) + (f"-{re.escape(last[-1])}" if last else "")
    return f"[{expression}]"
