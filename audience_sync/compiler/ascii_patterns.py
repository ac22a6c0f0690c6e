r"""Regular expressions of queries for databases whose own classes are not ASCII.

`\d`, `\w` and `\s` mean ASCII in a query, and `.` is any character but a line feed, whatever the database
makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_CLASSES = {
    r"\d": "0-9",
    r"\w": "A-Za-z0-9_",
    r"\s": r" \t\n\r\f\v",
    r"\D": "^0-9",
    r"\W": "^A-Za-z0-9_",
    r"\S": r"^ \t\n\r\f\v",
}
_PIECE = re.compile(r"\\.|.", re.DOTALL)


def in_ascii(pattern: str, anywhere: Mapping[str, str], outside: Mapping[str, str]) -> str:
    """Return a pattern with its classes spelled out as ASCII.

    `anywhere` are the pieces that this database writes differently, and `outside` those that only stand outside of
    brackets.
    """
    in_brackets = False
    pieces = []
    for found in _PIECE.finditer(pattern):
        piece = found.group()
        if piece in _CLASSES:
            inside = "".join(anywhere.get(one, one) for one in _PIECE.findall(_CLASSES[piece]))
            pieces.append(inside if in_brackets else f"[{inside}]")
            continue
        if piece == "." and not in_brackets:
            pieces.append(r"[^\n]")
            continue
        if piece in "[]":
            in_brackets = piece == "["
        known = anywhere if in_brackets else {**anywhere, **outside}
        pieces.append(known.get(piece, piece))
    return "".join(pieces)
