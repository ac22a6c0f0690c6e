"""The text of a query, in one of many equivalent spellings, which a seed selects; 0 is the plainest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tests.reference.language import (
    Between,
    Both,
    Comparison,
    Condition,
    Constant,
    Duration,
    Either,
    ExpiresAfter,
    Field,
    Filter,
    Moment,
    Not,
    Number,
    Path,
    Query,
    Reduced,
    Scalar,
    Since,
    Sources,
    Stream,
    Test,
    Text,
    Trait,
    Truth,
    Where,
    Within,
)

_Option = TypeVar("_Option")
SYMBOLS = {
    "equals": ("=", "=="),
    "differs": ("!=",),
    "less_than": ("<",),
    "at_most": ("<=",),
    "greater_than": (">",),
    "at_least": (">=",),
}


def write(query: Query, spelling: int = 0) -> str:
    """Return the text of a query; every spelling of it means the same."""
    choices = random.Random(spelling) if spelling else None
    return _joined(_Writer(choices).query(query), choices)


def _joined(tokens: Iterable[str], choices: random.Random | None) -> str:
    text = ""
    for token in tokens:
        needed = text[-1:].isalnum() and (token[0].isalnum() or token[0] in "-'\"")
        plain = " " if needed or token in _SPACED or text.endswith(_SPACED) or text.endswith((",", ":")) else ""
        if choices is not None and choices.random() < 0.15:
            plain = choices.choice([" ", "  ", "\n", "\t"] if needed else ["", " ", "\n  "])
        text += (plain if text else "") + token
    return text


_SPACED = ("=", "==", "!=", "<", "<=", ">", ">=", "AND", "OR", "NOT", "as")


class _Writer:
    """Yields the tokens of a query; a class because every part of it needs the same choices."""

    def __init__(self, choices: random.Random | None) -> None:
        self.choices = choices

    def query(self, query: Query) -> list[str]:
        if isinstance(query, Condition):
            return self.condition(query, within="OR")
        return self.scalar(query)

    def condition(self, condition: Condition, *, within: str) -> list[str]:
        """Write a condition that is an operand of `within`, with the parentheses this needs, or with more."""
        match condition:
            case Either(parts):
                tokens, binding = self.junction(parts, "OR"), 0
            case Both(parts):
                tokens, binding = self.junction(parts, "AND"), 1
            case Not(part):
                tokens, binding = [self.keyword("NOT"), *self.condition(part, within="NOT")], 2
            case Comparison() | Test():
                tokens, binding = self.primary(condition), 3
        if binding < ("OR", "AND", "NOT").index(within) or self.maybe(0.1):
            return ["(", *tokens, ")"]
        return tokens

    def junction(self, parts: Sequence[Condition], word: str) -> list[str]:
        tokens = self.condition(parts[0], within=word)
        for part in parts[1:]:
            tokens += [self.keyword(word), *self.condition(part, within=word)]
        return tokens

    def primary(self, condition: Comparison | Test) -> list[str]:
        if isinstance(condition, Comparison):
            left, right = self.scalar(condition.left), self.scalar(condition.right)
            if self.maybe(0.3):
                return [*left, ".", condition.name, "(", *right, ")"]
            return [*left, self.choice(SYMBOLS[condition.name]), *right]
        arguments = [
            self.duration(one) if isinstance(one, Duration) else self.scalar(one) for one in condition.arguments
        ]
        return [*self.scalar(condition.value), ".", condition.name, "(", *_listed(arguments), ")"]

    def scalar(self, scalar: Scalar) -> list[str]:
        match scalar:
            case Trait(path):
                return ["trait", "(", self.text(self.path(path)), ")"]
            case Field(path, of, parent):
                return [of, "(", *(["parent", ":"] if parent else []), self.text(self.path(path)), ")"]
            case Reduced():
                return self.reduced(scalar)
            case _:
                constant = self.constant(scalar)
                return ["literal", "(", constant, ")"] if self.maybe(0.1) else [constant]

    def constant(self, constant: Constant) -> str:
        match constant:
            case Text(text):
                return self.text(text)
            case Number(number):
                return str(number)
            case Truth(truth):
                return "true" if truth else "false"
            case Moment(text):
                return text

    def reduced(self, reduced: Reduced) -> list[str]:
        name, _, after = reduced.reducer.partition(".")
        inner = []
        if reduced.field is not None:
            inner = [*self.scalar(reduced.field), *(["as", reduced.kind] if reduced.kind else [])]
        if reduced.least is not None:
            inner += [",", str(reduced.least)]
        tokens = [*self.stream(reduced.stream), ".", name, "(", *inner, ")"]
        return [*tokens, ".", after, "(", ")"] if after else tokens

    def stream(self, stream: Stream) -> list[str]:
        tokens = ["event", "(", self.text(stream.event), ")"]
        for one in stream.filters:
            tokens += [".", *self.filter(one), ")"]
        return tokens

    def filter(self, one: Filter) -> list[str]:
        match one:
            case Where(condition):
                inner = self.condition(condition, within="OR")
                return ["where", "(", *(["{", *inner, "}"] if self.maybe(0.2) else inner)]
            case Within(duration, parent):
                return ["within", "(", *(["parent", ":"] if parent else []), *self.duration(duration)]
            case Between(first, second, parent):
                both = [*self.duration(first), ",", *self.duration(second)]
                return ["between", "(", *(["parent", ":"] if parent else []), *both]
            case Since(period):
                return ["since", "(", "start", "of", period]
            case Sources(excluded):
                ids = _listed([[self.text(one)] for one in excluded])
                return ["sources", "(", "{", "exclude", ":", *(["[", *ids, "]"] if self.maybe(0.4) else ids), "}"]
            case ExpiresAfter(duration):
                return ["expires_after", "(", *self.duration(duration)]

    def duration(self, duration: Duration) -> list[str]:
        plural = duration.amount != 1
        return [str(duration.amount), duration.unit + ("s" if plural != self.maybe(0.2) else "")]

    def path(self, path: Path) -> str:
        return ".".join(step.replace(".", "\\" * self.choice((1, 1, 2)) + ".") for step in path)

    def text(self, text: str) -> str:
        """Quote a text: a backslash stands before a quote or another backslash, anywhere else it is itself."""
        quote = '"' if self.maybe(0.5) else "'"
        written = ""
        for here, after in zip(text, text[1:] + quote, strict=False):
            if here == "\\":
                single = after not in "\\'\"" and not self.maybe(0.5)
                written += "\\" if single else "\\\\"
            elif here == quote or (here in "'\"" and self.maybe(0.3)):
                written += "\\" + here
            else:
                written += here
        return quote + written + quote

    def keyword(self, word: str) -> str:
        return self.choice((word, word.lower(), word.capitalize())) if self.maybe(0.3) else word

    def maybe(self, chance: float) -> bool:
        return self.choices is not None and self.choices.random() < chance

    def choice(self, options: Sequence[_Option]) -> _Option:
        return self.choices.choice(options) if self.choices is not None else options[0]


def _listed(parts: Sequence[Sequence[str]]) -> list[str]:
    return [token for number, part in enumerate(parts) for token in ([","] if number else []) + list(part)]
