"""What is wrong with a mapping, all of it at once and before any event comes.

Some of it Segment refuses for every event; some it finds out when the wrong event comes; some it never says, and
nothing useful comes out. The configuration tells all of it, and compiling stops at the first kind.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from datetime import date, time
from typing import Final, NamedTuple

from audience_sync.core.model import Json
from audience_sync.segment.mapping.rules import RULES
from audience_sync.segment.mapping.shape import Finding, Path, directive_of

MOST_LEVELS: Final = 50
"""So many levels of tables and lists a mapping has at most."""

_METADATA: Final = "_metadata"  # Segment's editor keeps notes under it, beside a directive
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOOKS_LIKE_PATH = re.compile(r"\$\.[A-Za-z_]")


class MappingProblem(NamedTuple):
    """One thing that is wrong with a mapping, and where."""

    path: Path
    sentence: str


def problems(mapping: Json) -> list[MappingProblem]:
    """Return everything that is wrong with a mapping or can do nothing, in the order of the mapping."""
    return [MappingProblem(finding.path, finding.sentence) for finding in _findings(mapping)]


def refusals(mapping: Json) -> Iterator[MappingProblem]:
    """Yield that for which no event at all can be resolved."""
    for finding in _findings(mapping):
        if finding.every_event:
            yield MappingProblem(finding.path, finding.sentence)


def _findings(mapping: Json) -> Iterator[Finding]:
    if not isinstance(mapping, dict):
        yield Finding((), "must be a table")
        return
    sound = True
    for finding in _no_json(mapping, ()):
        sound = False
        yield finding
    if sound:
        yield from _wrong(mapping, ())


def _no_json(value: object, path: Path) -> Iterator[Finding]:
    """Yield what cannot be sent as JSON, or lies too deep to be looked at."""
    if len(path) > MOST_LEVELS:
        yield Finding(path, f"is nested more than {MOST_LEVELS} levels deep")
        return
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _no_json(part, (*path, index))
    elif isinstance(value, dict):
        for key, part in value.items():
            if isinstance(key, str) and not _SURROGATE.search(key):
                yield from _no_json(part, (*path, key))
            else:
                yield Finding(path, "has a key that is no text")
    elif (sentence := _no_scalar(value)) is not None:
        yield Finding(path, sentence)


def _no_scalar(value: object) -> str | None:
    """Return why a value that is no list and no table cannot be sent as JSON, or None."""
    match value:
        case None | bool():
            return None
        case int():
            return None if -(2**63) <= value < 2**64 else "is a number of more than 64 bits"
        case float():
            return None if math.isfinite(value) else "is no number in JSON"
        case str():
            return "has half of a surrogate pair, which no text can have" if _SURROGATE.search(value) else None
        case date() | time():
            return "is a date or time, which JSON does not have: put it in quotes"
        case _:
            return "is nothing that JSON has"


def _wrong(value: Json, path: Path) -> Iterator[Finding]:
    """Yield what is wrong with a mapping that is JSON."""
    match value:
        case str():
            if _LOOKS_LIKE_PATH.match(value):
                yield Finding(path, 'is text, not a path: { "@path" = … } reads one', every_event=False)
            elif "{{" in value and "}}" in value:
                yield Finding(path, 'is text, not a template: { "@template" = … } fills one', every_event=False)
        case list():
            for index, part in enumerate(value):
                yield from _wrong(part, (*path, index))
        case dict():
            name = directive_of(value)
            if name is None:
                for key, part in value.items():
                    yield from _wrong(part, (*path, key))
            else:
                yield from _wrong_directive(name, value, path)
        case _:
            return


def _wrong_directive(name: str, value: dict[str, Json], path: Path) -> Iterator[Finding]:
    if len(value.keys() - {_METADATA}) > 1:
        yield Finding(path, f"has {name} and other keys; a directive stands alone in its table")
        return
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RULES)}"
        yield Finding((*path, name), f"unknown directive; {hint}")
        return
    for found in RULES[name](value[name], (*path, name)):
        if isinstance(found, Finding):
            yield found
        else:
            yield from _wrong(found.value, found.path)
