"""Finding `:now` in SQL that a person wrote, without understanding the SQL.

The text is cut into tokens just well enough to tell what is code and what is a literal, a quoted name or a comment: a
colon in those belongs to nobody. In code, a colon that touches a word, a closing bracket, a quote or another colon
before it belongs to the database (`a::now`, `tags[1:n]`, `{'k':v}`, Snowflake's `src:path`); any other colon before a
name is a parameter, and the only parameter is `:now`. Nothing else of the text changes, save the semicolon at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from audience_sync.errors import ConfigError

QUERY_WORDS = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "FROM", "PIVOT", "UNPIVOT"})
"""First words of statements that only read, in any database we know of."""
NOW = ":now"
MOST_SHOWN = 40  # characters of SQL at a place
_VERBS = QUERY_WORDS - {"WITH"} | {"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"}


@dataclass(frozen=True, kw_only=True)
class Lexis:
    """How one database cuts SQL text into tokens, as far as databases differ."""

    nested_comments: bool = False
    dollar_quotes: bool = False  # $$...$$ and $tag$...$tag$
    backslashes: bool = False  # \' in every literal; E'...' always has them
    backticks: bool = False
    brackets: bool = False  # [name]: nowhere that arrays exist
    line_comments: tuple[str, ...] = ("--",)


class Bound(NamedTuple):
    """One query with the placeholders of its driver in place of `:now`, and where each `:now` was."""

    sql: str
    now_at: tuple[int, ...]  # offsets in the text that a person wrote

    @property
    def placeholders(self) -> int:
        """Return how many there are."""
        return len(self.now_at)

    def written_at(self, offset: int, *, placeholder: str) -> int:
        """Return where in the text that a person wrote an offset is of what the database got.

        `placeholder` is what the database got in place of `:now`.
        """
        grown = 0
        for at in self.now_at:
            if offset < at + grown:
                break
            if offset < at + grown + len(placeholder):
                return at
            grown += len(placeholder) - len(NOW)
        return offset - grown


class Statement(NamedTuple):
    """One query ready for the driver of its database, in the driver's own parameter style.

    SQLite wants `:name` and a mapping, psycopg `%(name)s`, a mapping and every other % doubled, DuckDB `$1` and a
    sequence, any other driver what its `paramstyle` says.
    """

    sql: str
    parameters: Mapping[str, object] | Sequence[object] | None  # None: the driver is to look for none, and at no %


class _Token(NamedTuple):
    kind: str  # blank, word, parameter, end, quoted or code
    text: str
    start: int


def bind_now(sql: str, placeholder: str, *, lexis: Lexis, double_percent: bool = False) -> Bound:
    """Replace each `:now` by `placeholder` and drop the semicolon at the end with the comments behind it.

    With `double_percent` (drivers that format their parameters in) every other `%` is doubled if there is a parameter.
    The result may end in a `--` comment: put a line break before anything appended to it.

    Raises:
        ConfigError: the text is empty, not closed, not a query, more than one statement, or has another parameter.
    """
    tokens = _one_query(sql, list(_tokens(sql, lexis)))
    now_at = tuple(token.start for token in tokens if token.kind == "parameter")
    double = double_percent and bool(now_at)
    pieces = [
        placeholder if token.kind == "parameter" else token.text.replace("%", "%%") if double else token.text
        for token in tokens
    ]
    return Bound("".join(pieces), now_at)


def place_in(sql: str, offset: int) -> str:
    """Return the place of an offset in SQL as people look for it: line, column, and what stands there."""
    before, rest = sql[:offset], sql[offset:].partition("\n")[0].rstrip()
    column = offset - (before.rfind("\n") + 1) + 1
    found = f"line {before.count(chr(10)) + 1}, column {column}"
    shown = rest[:MOST_SHOWN] + "…" if len(rest) > MOST_SHOWN else rest
    return f"{found}: `{shown}`" if shown else found


@contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """Put the file of a person's SQL, if it has one, before what is wrong with it.

    Raises:
        ConfigError: the one that the block raises, with the file.
    """
    try:
        yield
    except ConfigError as error:
        if file is None:
            raise
        raise ConfigError(f"{file}: {error}", hint=error.hint) from None


def only_place_of(name: str, sql: str, *, lexis: Lexis) -> int | None:
    """Return the offset of a word or of a dotted name in SQL; None unless it occurs exactly once outside of literals.

    For databases that name the word they object to, and not its place.
    """
    try:
        tokens = list(_tokens(sql, lexis))
    except ConfigError:
        return None
    code = "".join(
        " " * len(token.text) if token.kind == "blank" or token.text[0] == "'" else token.text for token in tokens
    )
    found = [one.start() for one in re.finditer(rf"(?<![\w$.]){re.escape(name)}(?![\w$])", code, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def _one_query(sql: str, tokens: list[_Token]) -> list[_Token]:
    """Return the tokens up to the semicolon that ends the one query; refuse anything that is not one query."""
    end = next((i for i, token in enumerate(tokens) if token.kind == "end"), len(tokens))
    code = [token for token in tokens[:end] if token.kind != "blank"]
    if not code:
        raise ConfigError("The SQL is empty.")
    word = _verb(code)
    if word.upper() not in QUERY_WORDS:
        raise ConfigError(
            f"The SQL is not a query: it starts with {word[:40]!r}.", hint="write a SELECT; a source is only read"
        )
    extra = next((token for token in tokens[end:] if token.kind not in {"blank", "end"}), None)
    if extra is not None:
        raise ConfigError(
            f"The SQL has more than one statement: the second begins on {_line(sql, extra.start)}.",
            hint="keep one query; use WITH for intermediate results",
        )
    return tokens[:end]


def _verb(code: list[_Token]) -> str:
    """Return the word that says what the statement does: its first, or what follows the named parts of a WITH."""
    first = next((token.text for token in code if token.text != "("), "")
    if first.upper() != "WITH":
        return first
    depth = 0
    for token, following in pairwise(code):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.text.upper() in _VERBS and following.text.upper() not in {"AS", "("}:
            return token.text
    return first


def _tokens(sql: str, lexis: Lexis) -> Iterator[_Token]:
    """Cut the text into tokens that together are the text again."""
    pattern = _pattern(lexis)
    at = 0
    while at < len(sql):
        match = pattern.match(sql, at)
        kind, text = (match.lastgroup or "", match.group()) if match else ("code", sql[at])
        if kind == "open_comment" and lexis.nested_comments:
            kind, text = "blank", sql[at : _comment_end(sql, at)]
        if kind in {"open", "open_comment"} or (kind == "blank" and not text):
            raise ConfigError(
                f"The SQL ends without closing the {sql[at : at + 2].strip()} opened on {_line(sql, at)}."
            )
        if kind == "colon":
            kind = _colon_kind(sql, at, text)
        yield _Token(kind, text, at)
        at += len(text)


def _colon_kind(sql: str, at: int, text: str) -> str:
    """Tell whether a colon and the name behind it are our parameter or the database's own syntax."""
    before = sql[at - 1] if at else ""
    if before.isalnum() or (before and before in "_$:])\"'`}"):
        return "code"
    if text == NOW:
        return "parameter"
    if before == "[":  # a slice with no lower bound
        return "code"
    raise ConfigError(
        f"Unknown parameter {text} on {_line(sql, at)}; the only parameter is :now.",
        hint="if the colon is not meant as a parameter, put it in a string literal or remove the space before it",
    )


def _comment_end(sql: str, start: int) -> int:
    """Return where the comment that opens at `start` ends, counting the comments inside it; `start` if it does not."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(sql, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return start


@lru_cache
def _pattern(lexis: Lexis) -> re.Pattern[str]:
    """Compile the tokens of one database; possessive repetition keeps hostile text linear."""
    escaped = r"(?:[^{0}\\]|\\.|{0}{0})*+"
    plain = r"(?:[^{0}]|{0}{0})*+"
    inside = escaped if lexis.backslashes else plain
    quoted = ["[eE]'" + escaped.format("'") + "'", *(f"{q}{inside.format(q)}{q}" for q in "'\"")]
    openers = ["'", '"']
    if lexis.dollar_quotes:
        quoted.append(r"(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag)")
        openers.append(r"\$(?:[^\W\d]\w*)?\$")
    if lexis.backticks:
        quoted.append(f"`{plain.format('`')}`")
        openers.append("`")
    if lexis.brackets:
        quoted.append(r"\[[^\]]*+\]")
        openers.append(r"\[")
    comments = [f"{re.escape(mark)}[^\n]*+" for mark in lexis.line_comments]
    if not lexis.nested_comments:
        comments.append(r"/\*.*?\*/")
    kinds = {
        "blank": "|".join([r"\s++", *comments]),
        "open_comment": r"/\*",
        "quoted": "|".join(quoted),
        "word": r"\w[\w$]*+",
        "open": "|".join(openers),
        "end": ";",
        "colon": r":[^\W\d][\w$]*+",
        "code": ".",
    }
    return re.compile("|".join(f"(?P<{kind}>{body})" for kind, body in kinds.items()), re.DOTALL)


def _line(sql: str, at: int) -> str:
    """Name the line of a position, from 1."""
    return f"line {sql.count(chr(10), 0, at) + 1}"
