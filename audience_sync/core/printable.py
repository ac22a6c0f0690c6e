"""Text of others where people read it: nothing in it may steer a terminal, or turn the order of letters around."""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "�"

# Controls of ASCII and of Latin-1 (U+009B begins an escape sequence), line separators, what overrides the direction of
# writing, and halves of surrogate pairs, which no terminal can be sent.
_CONTROLS: Final = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ANY: Final = re.compile(f"[{_CONTROLS}]")
_BUT_LINES: Final = re.compile(f"(?![\n\t])[{_CONTROLS}]")


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text of the same length with every control character replaced; `lines` keeps new lines and tabs."""
    if text.isprintable():  # most is
        return text
    return (_BUT_LINES if lines else _ANY).sub(REPLACEMENT, text)
