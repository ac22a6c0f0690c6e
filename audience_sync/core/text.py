"""Text as people read it: counts, instants, durations, words of others that cannot steer a terminal, and near words."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from difflib import get_close_matches
from typing import Final

REPLACEMENT: Final = "�"

# Controls of ASCII and of Latin-1 (U+009B begins an escape sequence), line separators, what overrides the direction of
# writing, and halves of surrogate pairs, which no terminal can be sent.
_CONTROLS: Final = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ANY: Final = re.compile(f"[{_CONTROLS}]")
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_BUT_LINES: Final = re.compile(f"(?![\n\t])[{_CONTROLS}]")


def counted(number: int, word: str) -> str:
    """Return a number with the word for what was counted: `1 event`, `2,000 events`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def size_text(size: int) -> str:
    """Return a number of bytes as people read it: `4.2 MB`."""
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text of the same length with every control character replaced; `lines` keeps new lines and tabs."""
    if text.isprintable():  # most is
        return text
    return (_BUT_LINES if lines else _ANY).sub(REPLACEMENT, text)


def instant_text(instant: str | None) -> str:
    """Return an ISO 8601 instant in UTC as every table and message shows it: `2026-11-29 14:05:09Z`."""
    found = _INSTANT.fullmatch(instant or "")
    return f"{found[1]} {found[2]}Z" if found else instant or "-"


_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"))  # in milliseconds


def short_duration(duration: timedelta) -> str:
    """Return a duration as the configuration and options write it: `30s`, `1m`, `1h30m`, `400d`.

    Fractions of a second are only shown below a minute: `0.3s`. A negative duration has a minus sign.
    """
    left = round(duration / timedelta(milliseconds=1))
    sign, left = ("-", -left) if left < 0 else ("", left)
    if left < 60_000:
        return f"{sign}{left / 1000:g}s"
    left = round(left, -3)
    parts = []
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        parts += [f"{number}{unit}"] if number else []
    return sign + "".join(parts)


def shown(word: str, longest: int = 40) -> str:
    """Return a word as a sentence can quote it: in backquotes, printable, and cut after `longest` characters."""
    start = word[:longest] + "…" if len(word) > longest else word
    return "`" + "".join(one if one.isprintable() else repr(one)[1:-1] for one in start) + "`"


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """Return ``did you mean `x`?`` with the known words that look like another; "" if none do.

    Words that differ in case are proposed when no other looks like it.
    """
    known, start = dict.fromkeys(known), word[:100]  # the time it takes grows with the square of the length
    near = get_close_matches(start, known, n=most)
    if not near:
        by_lower = {one.lower(): one for one in known}
        near = [by_lower[lower] for lower in get_close_matches(start.lower(), by_lower, n=most)]
    return f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else ""


def redaction(secret: str, *, word: str) -> Callable[[str], str]:
    """Return a function that replaces a secret by `word`, however its characters are escaped in a text.

    Others may send a secret back as it was sent, or as JSON, a URL or HTML spell it.
    """
    found = re.compile("".join(map(_spellings, secret)), re.IGNORECASE)
    return lambda text: found.sub(word, text)


def _spellings(letter: str) -> str:
    """Return a pattern of the ways to write a character; JSON within JSON has several backslashes."""
    code = ord(letter)
    ways = [letter, f"%{code:02x}", html.escape(letter), f"&#{code};", f"&#x{code:x};"]
    plain = "|".join(map(re.escape, dict.fromkeys(ways)))
    return rf"\\*(?:{plain}|(?<=\\)u{code:04x})"
