"""Cut a batch that is not valid JSON into its events, so that the valid ones can be taken.

Only the structure is looked at: strings, brackets and commas. A body cannot be cut if its brackets or quotes do not
match.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import orjson

BATCH: Final = "batch"
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},:]', re.DOTALL)
_OPENS: Final = {b"]": b"[", b"}": b"{"}


class Pieces(NamedTuple):
    """The body with an empty batch, and the text of each event."""

    envelope: bytes
    events: list[bytes]


def cut(body: bytes) -> Pieces | None:
    """Return the pieces of a body; None if it cannot be cut."""
    inside: list[bytes] = []  # the brackets that are open
    name = key = b""  # the last string of the outer object, and the name of its current member
    begin = end = start = -1
    events: list[bytes] = []
    for found in _TOKEN.finditer(body):
        token, depth = found[0], len(inside)
        if token == b'"':  # a string that does not end
            return None
        if token in _OPENS:
            if not inside or inside.pop() != _OPENS[token]:
                return None
            if depth == 2 and begin >= 0 > end:
                events.append(body[start : found.start()])
                end = found.start()
        elif token in (b"[", b"{"):
            inside.append(token)
            if depth == 1 and token == b"[" and _is_batch(key):
                if begin >= 0:  # two of them
                    return None
                begin = start = found.end()
        elif depth == 1:
            name, key = _next(token, name, key)
        elif depth == 2 and token == b"," and begin >= 0 > end:
            events.append(body[start : found.start()])
            start = found.end()
    if inside or end < 0:
        return None
    return Pieces(body[:begin] + body[end:], events if len(events) > 1 or events[0].strip() else [])


def _next(token: bytes, name: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Return the last string of the outer object and the name of its member, after a token of it."""
    if token == b":":
        return name, name
    return (name, b"") if token == b"," else (token, key)


def _is_batch(key: bytes) -> bool:
    try:
        return bool(key) and orjson.loads(key) == BATCH
    except orjson.JSONDecodeError:
        return False
