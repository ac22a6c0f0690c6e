"""The words that Segment's own parser cuts a trigger into: where it wants blanks, and which characters it knows."""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple, TypeAlias

from audience_sync.segment.fql.words import shown

_END = r"(?=[ \t\n,\])]|\Z)"
_ESCAPED = r"\\[^\U00010000-\U0010ffff]"
_WORDS = re.compile(
    rf"""(?P<blank>[ \t\n]+)
    |(?P<not>!(?=[A-Za-z(]))
    |(?P<operator>(?:!=|<=|>=){_END}|[=<>])
    |(?P<joint>(?:and|or){_END})
    |(?P<null>null{_END})
    |(?P<name>(?:[A-Za-z_]|{_ESCAPED})(?:[A-Za-z0-9_-]|{_ESCAPED})*+(?:{_END}|(?=[.(=!])))
    |(?P<number>(?>[0-9+-][0-9]*(?:\.(?!{_END})[0-9]*)?)(?!\.))
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<mark>[.\[\],()])""",
    re.VERBOSE,
)


class Word(NamedTuple):
    """A word of a trigger: a name, operator, joint (`and`, `or`), number, text, null, mark, `!`, or the end."""

    kind: str
    text: str  # of a name: without backslashes
    start: int  # the character it begins with, from 0


END = Word("end", "", -1)
Words: TypeAlias = deque[Word]


class UnreadableError(Exception):
    """Segment cannot read the trigger; the message says why."""


def words_of(text: str) -> Words:
    """Return the words of a trigger and its end; names with dots between them are one.

    Every text must have a blank, a bracket or the end behind it.

    Raises:
        UnreadableError: Segment takes no word out of it somewhere.
    """
    words: Words = deque()
    at = 0
    while at < len(text):
        found = _WORDS.match(text, at)
        if found is None:
            raise UnreadableError(_why_no_word(text, at))
        if found.lastgroup != "blank":
            _append(words, Word(found.lastgroup or "", found.group(), at))
        at = found.end()
    words.append(END)
    return words


def _append(words: Words, word: Word) -> None:
    if word.kind != "name":
        words.append(word)
        return
    name = re.sub(r"\\(.)", r"\1", word.text, flags=re.DOTALL)
    if len(words) > 1 and words[-1].text == "." and words[-2].kind == "name":
        words.pop()
        before = words.pop()
        words.append(Word("name", f"{before.text}.{name}", before.start))
    else:
        words.append(Word("name", name, word.start))


def _why_no_word(text: str, at: int) -> str:
    if text.startswith(("!=", "<=", ">="), at):
        return f"it wants a blank after `{text[at : at + 2]}`"
    if text[at] == "!":
        return "it wants nothing between `!` and what follows"
    if name := re.compile(r"[A-Za-z_](?:[A-Za-z0-9_-]|\\.)*", re.DOTALL).match(text, at):
        at = name.end()
        if text[at] in "<>[\"'":
            return f"it wants a blank after {shown(name.group())}"
    return f"it does not know the character {shown(text[at])} outside of texts"
