"""Taking a secret out of what others say: it may come back as it was sent, or as JSON, a URL or HTML spell it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable


def redaction(secret: str, *, word: str) -> Callable[[str], str]:
    """Return a function that puts `word` in the place of a secret, however its characters are escaped in a text."""
    found = re.compile("".join(map(_spellings, secret)), re.IGNORECASE)
    return lambda text: found.sub(word, text)


def _spellings(letter: str) -> str:
    """Return a pattern of the ways to write a character; JSON within JSON has several backslashes."""
    code = ord(letter)
    ways = [letter, f"%{code:02x}", html.escape(letter), f"&#{code};", f"&#x{code:x};"]
    plain = "|".join(map(re.escape, dict.fromkeys(ways)))
    return rf"\\*(?:{plain}|(?<=\\)u{code:04x})"
