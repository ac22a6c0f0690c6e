"""Rows of a source become lines of members, or rejections with a reason.

Of two rows with one key, the row with more identifiers is used (user and company keys that have a value), and among
those the row with the smallest canonical JSON: see `distinct`. The order of the source's rows never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from audience_sync.core.keys import (
    MAX_KEY_LENGTH,
    STANDARD_RULES,
    VALUE,
    KeyColumns,
    KeyRules,
    Reason,
    RefusedValue,
    Rejection,
    Row,
    ValueColumn,
    canonical,
    excerpt,
    storable,
    stringify,
)
from audience_sync.core.shards import SHARDS, from_line
from audience_sync.core.unreadable import Unreadable

COMPANIES_KNOWN = 50_000  # distinct values of a single further identifier whose JSON is kept while reading
_MASK = SHARDS - 1  # `shards.shard_of`, without the call


class Wrapping(NamedTuple):
    """What stands around a single other identifier in the line of a member: its JSON without the identifier."""

    before: str
    after: str


_BARE = Wrapping("\t", "")


def wrapping(columns: KeyColumns) -> Wrapping | None:
    """Return the wrapping of members with one other identifier; None where there is none, or several."""
    if len(columns.user) + len(columns.company) != 1:
        return None
    kind, (key, _) = ("user", columns.user[0]) if columns.user else ("company", columns.company[0])
    before, _, after = canonical({kind: {key: "\0"}}).partition("\\u0000")
    return Wrapping(f"\t{before}", after)


def wrapped(text: str, around: Wrapping | None) -> list[str]:
    """Return the lines of a text, one bare line (see `shard_rows`) after the other, as they are compared and stored."""
    lines = text.split("\n")
    if around is None:
        return lines
    before, after = around
    if '"' not in text and text.count("\t") == len(lines):
        return (text.replace("\t", before).replace("\n", f"{after}\n") + after).split("\n")
    parted = [line.partition("\t") for line in lines]  # what is JSON already has quotation marks
    return [
        f"{key}{tab}{rest}" if not tab or '"' in rest else f"{key}{before}{rest}{after}" for key, tab, rest in parted
    ]


def shard_rows(
    columns: KeyColumns,
    *,
    lines: Sequence[list[str]],
    reject: Callable[[Rejection], None],
    value_column: ValueColumn | None = None,
    bare: bool = False,
    rules: KeyRules = STANDARD_RULES,
) -> Callable[[Sequence[Row]], None]:
    """Return a function that files a page of rows as lines into `lines`, one list for each of the 1,024 shards.

    Rows without a usable key or value go to `reject` instead; without usable other identifiers they are filed all the
    same. With `bare`, a single other identifier that is plain text stands in its line without its JSON, which `wrapped`
    puts around it: most lines of most syncs are never looked at.
    """
    if len(lines) != SHARDS:
        raise ValueError(f"{SHARDS} lists are needed")
    if value_column is not None:
        return _shard_values(columns, value_column, lines=lines, reject=reject, rules=rules)
    others = [position for _, position in (*columns.user, *columns.company)]
    around = (_BARE if bare else wrapping(columns)) if len(others) == 1 else None
    take_key = itemgetter(columns.identity)
    take_other = itemgetter(others[0]) if around is not None else None
    file_odd = _odd_rows(columns, around, lines=lines, reject=reject, rules=rules)

    def file(page: Sequence[Row]) -> None:
        """Look at all rows of a page together; one that is out of the ordinary has all of them looked at singly."""
        keys = list(map(take_key, page))
        if not _are_plain(keys, rules) or (others and take_other is None):
            file_odd(page)
            return
        hashes = map(crc32, map(str.encode, keys))
        if take_other is None or around is None:
            for shard, key in zip(hashes, keys, strict=True):
                lines[shard & _MASK].append(key)
            return
        values = list(map(take_other, page))
        if not _are_plain(values, rules, in_json=True):
            file_odd(page)
            return
        before, after = around
        if around is _BARE:
            for shard, key, value in zip(hashes, keys, values, strict=True):
                lines[shard & _MASK].append(f"{key}\t{value}")
            return
        for shard, key, value in zip(hashes, keys, values, strict=True):
            lines[shard & _MASK].append(f"{key}{before}{value}{after}")

    return file


def _are_plain(values: list[Any], rules: KeyRules, *, in_json: bool = False) -> bool:
    """Return whether all of a column are texts that stand for themselves, with `in_json` in JSON as well."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    lengths = set(map(len, values))
    return (
        text.isprintable()
        and 0 not in lengths
        and max(lengths, default=0) <= MAX_KEY_LENGTH
        and not (" " in text and any(map(str.isspace, values)))
        and not (in_json and ('"' in text or "\\" in text))
        and rules.allow_all(values)
    )


def _odd_rows(
    columns: KeyColumns,
    around: Wrapping | None,
    *,
    lines: Sequence[list[str]],
    reject: Callable[[Rejection], None],
    rules: KeyRules,
) -> Callable[[Iterable[Row]], None]:
    """Return the same, row by row: for pages in which some value is no text, or is one that cannot be taken."""
    identity = columns.identity
    others = [position for _, position in (*columns.user, *columns.company)]
    only = others[0] if around is not None else None
    known: dict[str, str] = {}  # companies come again and again: their JSON is made once

    def file(page: Iterable[Row]) -> None:
        for row in page:
            key = row[identity]
            text = stringify(key, rules)
            if isinstance(text, Reason):
                reject(_unusable_key(columns, row, text))
                continue
            key = text
            if others:
                value = row[only] if only is not None else None
                tail = known.get(value) if type(value) is str else None
                if tail is None:
                    tail = _tail(_identifiers(columns, row, key, reject, rules), around)
                    if tail and type(value) is str and len(known) < COMPANIES_KNOWN:
                        known[value] = tail
                lines[crc32(key.encode()) & _MASK].append(key + tail)
            else:
                lines[crc32(key.encode()) & _MASK].append(key)

    return file


def _tail(identifiers: dict[str, dict[str, str]], around: Wrapping | None) -> str:
    """Return what follows the key in a line; bare if `around` is."""
    if not identifiers:
        return ""
    if around is _BARE:
        (texts,) = identifiers.values()
        (text,) = texts.values()
        if canonical(text) == f'"{text}"' and '"' not in text:
            return f"\t{text}"
    return f"\t{canonical(identifiers)}"


def _shard_values(
    columns: KeyColumns,
    value_column: ValueColumn,
    *,
    lines: Sequence[list[str]],
    reject: Callable[[Rejection], None],
    rules: KeyRules,
) -> Callable[[Sequence[Row]], None]:
    """Return the same for rows with a value, which becomes the third field of a line."""
    position, read = value_column
    has_others = bool(columns.user or columns.company)

    def file(page: Sequence[Row]) -> None:
        for row in page:
            key = stringify(row[columns.identity], rules)
            if isinstance(key, Reason):
                reject(_unusable_key(columns, row, key))
                continue
            value = read(row[position])
            if isinstance(value, RefusedValue):
                detail = None if value.detail is None else f"column {VALUE}: {value.detail}"
                reject(Rejection(value.reason, storable(row[columns.identity]), excerpt(columns, row), detail))
                continue
            identifiers = _identifiers(columns, row, key, reject, rules) if has_others else {}
            middle = canonical(identifiers) if identifiers else ""
            lines[crc32(key.encode()) & _MASK].append(f"{key}\t{middle}\t{value}")

    return file


def _identifiers(
    columns: KeyColumns, row: Row, profile_key: str, reject: Callable[[Rejection], None], rules: KeyRules
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for kind, keys in (("user", columns.user), ("company", columns.company)):
        texts = {}
        for key, position in keys:
            text = stringify(row[position], rules)
            if isinstance(text, Reason):
                if text not in (Reason.NULL_KEY, Reason.EMPTY_KEY):
                    detail = _problem(columns, row, position) or f"{_column(columns, position)}: {text}"
                    reject(Rejection(Reason.OMITTED_IDENTIFIER, profile_key, excerpt(columns, row), detail))
            else:
                texts[key] = text
        if texts:
            found[kind] = texts
    return found


def _unusable_key(columns: KeyColumns, row: Row, reason: Reason) -> Rejection:
    """Return the rejection of a row without a usable key."""
    detail = _problem(columns, row, columns.identity)
    return Rejection(reason, storable(row[columns.identity]), excerpt(columns, row), detail)


def _problem(columns: KeyColumns, row: Row, position: int) -> str | None:
    """Return which column of a row the driver cannot represent, and why; None if it can."""
    value = row[position]
    return f"{_column(columns, position)}: {value.problem}" if isinstance(value, Unreadable) else None


def _column(columns: KeyColumns, position: int) -> str:
    return f"column {columns.names[position]}" if columns.names else f"column {position + 1}"


def distinct(lines: Iterable[str]) -> tuple[set[str], list[str]]:
    """Return one line for each key of a shard, and the other lines, sorted: the duplicates.

    The line with more identifiers is kept; of several, the smallest. Lines of one key differ only in their canonical
    JSON, so the smallest line is the row with the smallest JSON.
    """
    kept: dict[str, str] = {}
    left_out: list[str] = []
    for line in lines:
        key = line.partition("\t")[0]
        other = kept.get(key)
        if other is None:
            kept[key] = line
        elif _precedes(line, other):
            kept[key] = line
            left_out.append(other)
        else:
            left_out.append(line)
    return set(kept.values()), sorted(left_out)


def _precedes(line: str, other: str) -> bool:
    """Return whether a line is used rather than another of the same key."""
    if line == other:
        return False
    mine, theirs = _identifier_count(line), _identifier_count(other)
    return mine > theirs if mine != theirs else line < other


def _identifier_count(line: str) -> int:
    """Return how many user and company keys a line has besides the identity."""
    _, _, rest = line.partition("\t")
    identifiers = rest.partition("\t")[0]
    if "\\" not in identifiers:  # then quotes are only around names and texts
        return identifiers.count('":"')
    found: dict[str, dict[str, str]] = orjson.loads(from_line(line).identifiers or "{}")
    return sum(map(len, found.values()))
