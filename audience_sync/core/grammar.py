"""Read a text by a Lark grammar, with one clear sentence and a position for the first thing that is wrong.

Triggers and queries are such languages. In their grammars, the words that end in _MISTAKE belong to no sentence:
`checks` refuses each of them as soon as it is cut off. Lark takes long to import, and most commands read neither
language, so nothing here imports it before a text is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from audience_sync.core.text import shown
from audience_sync.errors import QueryError, TriggerError

if TYPE_CHECKING:
    from lark import Lark, Token, Transformer

MAX_NESTING: Final = 50


def position_of(word: Token) -> int:
    """Return the position of the first character of a word, counted from 0."""
    return word.start_pos or 0


def load_grammar(
    file: Path, transformer: Transformer[Token, Any], checks: Mapping[str, Callable[[Token], Token]]
) -> Lark:
    """Return the parser of a grammar; `transformer` makes the tree while the text is read.

    `checks` look at a word as soon as it is cut off, by the word's name in the grammar.
    """
    from lark import Lark  # noqa: PLC0415 - it is slow to import

    return Lark(
        file.read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        transformer=transformer,
        lexer_callbacks=dict(checks),
        maybe_placeholders=False,
    )


@dataclass(frozen=True, kw_only=True)
class Language:
    """How texts of a language are checked, and how its errors speak of its words."""

    name: str
    example: str
    error: type[TriggerError | QueryError]
    most_bytes: int  # of UTF-8
    never: str  # the characters that no text of the language has, as in a regular expression's brackets
    negation: str  # as it is written
    brackets: Mapping[str, str]  # words that open a level, and those that close it
    levels_end: frozenset[str]  # words after which negations count from 0 again
    functions: frozenset[str]  # words whose parentheses are not a level
    wanted: Callable[[set[str], Token | None, bool], str]
    """Returns the words that were expected: from those accepted, the word before, and whether the text has ended."""
    advice: Callable[[Token, Token | None, set[str]], str]
    """Returns advice on a wrong word: from the word, the one before it and those accepted; or nothing."""
    wrong: Callable[[Token], TriggerError | QueryError | None] = lambda _: None
    """The error about a word that the grammar accepts although it is wrong."""

    def refusal(self, position: int, sentence: str) -> TriggerError | QueryError:
        """Return the error about the character at `position`, which counts from 0."""
        return self.error(sentence, position=position)

    def refuse_quote(self, word: Token) -> NoReturn:
        """Refuse a quote that no other closes."""
        raise self.refusal(position_of(word), f"the text starting with {shown(word)} is not closed")

    def read(self, text: str, grammar: Callable[[], Lark]) -> Any:
        """Return what a text is to the transformer of its grammar.

        Raises:
            TriggerError, QueryError: it cannot be read.
        """
        from lark import UnexpectedToken  # noqa: PLC0415 - it is slow to import

        self._check(text)
        parser: Any = grammar().parse_interactive(text)
        words: list[Token] = []
        depths = [0]
        try:
            for word in parser.iter_parse():
                self._nest(depths, word, words[-1] if words else None)
                words.append(word)
                if (wrong := self.wrong(word)) is not None and word.type in parser.accepts():
                    raise wrong
            return parser.feed_eof()
        except UnexpectedToken as error:
            if error.token.type == "$END":
                words.append(error.token)
            raise self._unexpected(text, words, parser.accepts()) from None

    def _check(self, text: str) -> None:
        """Refuse a text that is empty, too long, or has characters that no text can have."""
        if len(text) > self.most_bytes or len(text.encode(errors="surrogatepass")) > self.most_bytes:
            sentence = f"a {self.name} can have at most {self.most_bytes:,} bytes; this one is longer"
            raise self.refusal(min(len(text), self.most_bytes), sentence)
        if found := re.search(f"[{self.never}]", text):
            what = (
                "a NUL character"
                if found.group() == "\0"
                else f"half a character (a lone surrogate), {shown(found.group())}"
            )
            raise self.refusal(found.start(), f"found {what}, which is not allowed in text")
        if not text.strip(" \t\f\r\n"):
            raise self.refusal(0, f"the {self.name} is empty; write a condition such as {self.example}")

    def _nest(self, depths: list[int], word: Token, before: Token | None) -> None:
        """Count how deep a word is: `depths` has, for each open bracket, the negations that wait in it."""
        if word.type in self.brackets:
            depths.append(-1 if before is not None and before.type in self.functions else 0)
        elif word.type in self.brackets.values() and len(depths) > 1:
            depths.pop()
        elif word.type in ("NOT", "_NOT"):
            depths[-1] += 1
        elif word.type in self.levels_end:
            depths[-1] = 0
        if sum(depths) + len(depths) - 1 > MAX_NESTING:
            sentence = f"parentheses and `{self.negation}` can be nested at most {MAX_NESTING} deep"
            raise self.refusal(position_of(word), sentence)

    def _unexpected(self, text: str, words: Sequence[Token], accepted: set[str]) -> TriggerError | QueryError:
        """Return the error about the last of `words`, or about the end, where only `accepted` words could stand."""
        end = not words or words[-1].type == "$END"
        before = words[-2] if len(words) > 1 else None
        after = f" after {shown(before)}" if before is not None else ""
        found = "the end" if end else shown(words[-1])
        advice = "" if end else self.advice(words[-1], before, accepted)
        position = len(text) if end else position_of(words[-1])
        return self.refusal(position, f"expected {self.wanted(accepted, before, end)}{after}, found {found}{advice}")
