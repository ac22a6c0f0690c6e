"""Rows of a source become lines of members, or rejections with a reason.

Of two rows with one key, the row with more identifiers is used (user and company keys that have a value), and among
those the row with the smallest canonical JSON: see `distinct`. The order of the source's rows never matters.

A line is `key`, `key⇥identifiers` or `key⇥identifiers⇥value`. Keys with control characters are rejected, and JSON never
writes one raw, so lines are joined, split, compared and hashed as they are. Where all members have one identifier along
with the key, of one name, it stands bare: without its JSON, which is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, Self

import orjson

from audience_sync.core.keys import (
    MAX_KEY_LENGTH,
    VALUE,
    KeyColumns,
    KeyRules,
    RefusedValue,
    RejectedRow,
    Row,
    RowFault,
    Unreadable,
    ValueColumn,
    canonical,
    excerpt,
    storable,
    stringify,
)
from audience_sync.core.model import Member

GAP = "\t"  # in a template, the place of the identifier


class Wrapping(NamedTuple):
    """The JSON around a bare identifier; an identifier that JSON would change is never bare."""

    before: str
    after: str

    @classmethod
    def of(cls, template: str | None) -> Self | None:
        """Return the wrapping of a template."""
        return None if template is None else cls(*template.split(GAP))

    @property
    def template(self) -> str:
        """Return the JSON with a tab in the place of the identifier."""
        return f"{self.before}{GAP}{self.after}"


def whole(identifiers: str | None, wrapping: Wrapping | None) -> str | None:
    """Return identifiers as JSON, whether they are bare or not."""
    if identifiers is None or wrapping is None or '"' in identifiers:
        return identifiers
    return f"{wrapping.before}{identifiers}{wrapping.after}"


def bare(identifiers: str | None, wrapping: Wrapping | None) -> str | None:
    """Return identifiers without the JSON around a single one; as they are if there are others, or JSON changes it."""
    if identifiers is None or wrapping is None:
        return identifiers
    text = identifiers.removeprefix(wrapping.before).removesuffix(wrapping.after)
    is_bare = '"' not in text and "\\" not in text and whole(text, wrapping) == identifiers
    return text if is_bare else identifiers


def to_line(member: Member) -> str:
    """Return the line of a member; the inverse of `from_line`."""
    if member.value is not None:
        return f"{member.profile_key}\t{member.identifiers or ''}\t{member.value}"
    return member.profile_key if member.identifiers is None else f"{member.profile_key}\t{member.identifiers}"


def from_line(line: str, wrapping: Wrapping | None = None) -> Member:
    """Return the member of a line, whose identifiers may be bare."""
    key, separator, rest = line.partition("\t")
    if not separator:
        return Member(key)
    identifiers, _, value = rest.partition("\t")
    return Member(key, whole(identifiers or None, wrapping), value or None)


LONGEST_TEXT = 1_000_000  # bytes; a longer page may have a line of more, which DuckDB does not load
COMPANIES_KNOWN = 50_000  # distinct values of a single further identifier whose JSON is kept while reading
_PLAIN: Final = bytes(set(range(0x21, 0x7F)) - set(b'"\\'))  # ASCII that stands for itself, in JSON as well


def wrapping(columns: KeyColumns) -> Wrapping | None:
    """Return the wrapping of members with one other identifier; None where there is none, or several."""
    if len(columns.user) + len(columns.company) != 1:
        return None
    kind, (key, _) = ("user", columns.user[0]) if columns.user else ("company", columns.company[0])
    before, _, after = canonical({kind: {key: "\0"}}).rpartition("\\u0000")
    return Wrapping(before, after)


class LineMaker:
    """Makes lines (`to_line`) of pages of rows: UTF-8, each with its end.

    Rows without a usable key or value go to `reject` instead; without usable other identifiers they become lines all
    the same. With a `wrapping`, a single identifier that is plain text stands in its line without its JSON.
    """

    def __init__(
        self,
        columns: KeyColumns,
        *,
        reject: Callable[[RejectedRow], None],
        value_column: ValueColumn | None = None,
        rules: KeyRules,
    ) -> None:
        self.wrapping = wrapping(columns) if value_column is None else None
        self.rules = rules
        self._columns = columns
        self._reject = reject
        self._value_column = value_column
        self._others = [position for _, position in (*columns.user, *columns.company)]
        self._known: dict[str, str] = {}  # companies come again and again: their JSON is made once
        self._is_simple = value_column is None and len(self._others) <= 1
        places = [columns.identity, *self._others]
        self._take = None if places == list(range(len(columns.names))) else itemgetter(*places)

    def lines(self, page: Sequence[Row]) -> bytes:
        """Return the lines of a page.

        All rows are looked at together; one that is out of the ordinary has all of them looked at singly. Of keys that
        are too long, or placeholders, some may be among the lines where `may_err`: they are to be made `again`.
        """
        if self.may_err and (found := self._joined(page)) is not None:
            return found
        return self._plain(page) or "".join([f"{line}\n" for line in self.singly(page)]).encode()

    @property
    def may_err(self) -> bool:
        """Return whether lines of a page can be of keys that are too long, or placeholders."""
        return self._is_simple and not self.rules.of_text_files

    def again(self, pairs: Iterable[tuple[str, str | None]]) -> bytes:
        """Return the lines of rows, given their key and their single identifier, each looked at alone."""
        width = len(self._columns.names) or 1 + max([self._columns.identity, *self._others])
        rows: list[list[Any]] = []
        for key, other in pairs:
            row: list[Any] = [None] * width
            row[self._columns.identity] = key
            for position in self._others:
                row[position] = key if position == self._columns.identity else other
            rows.append(row)
        return "".join([f"{line}\n" for line in self.singly(rows)]).encode()

    def _joined(self, page: Sequence[Row]) -> bytes | None:
        """Return the lines of a page whose texts all stand for themselves: the way of most rows of most syncs."""
        rows: Iterable[Any] = page if self._take is None else map(self._take, page)
        try:
            if self._others:
                text = "\n".join(map("\t".join, rows)).encode()
                between, no_key = b"\t\n", b"\n\t"
            else:
                text = "\n".join(map("".join, page) if self._take is None else rows).encode()  # type: ignore[arg-type]
                between, no_key = b"\n", b"\n\n"
        except (TypeError, UnicodeEncodeError):
            return None
        if len(text) > LONGEST_TEXT:
            return None
        text = b"\n" + text + b"\n"
        if no_key in text or text.translate(None, _PLAIN) != b"\n" + between * len(page):
            return None
        return text[1:]

    def _plain(self, page: Sequence[Row]) -> bytes | None:
        """Return the same if they are integers, not ASCII, or missing."""
        if not self._is_simple:
            return None
        keys = _texts(row[self._columns.identity] for row in page)
        if keys is None or not _are_plain(keys, self.rules):
            return None
        if not self._others:
            return "".join([f"{key}\n" for key in keys]).encode()
        (position,) = self._others
        others = _texts("" if row[position] is None else row[position] for row in page)
        if others is None or not _are_plain([text for text in others if text], self.rules, in_json=True):
            return None
        return "".join([f"{key}\t{other}\n" for key, other in zip(keys, others, strict=True)]).encode()

    def singly(self, page: Iterable[Row]) -> Iterator[str]:
        """Yield the lines of rows, each looked at alone."""
        columns, rules = self._columns, self.rules
        only = self._others[0] if self.wrapping is not None else None
        for row in page:
            key = stringify(row[columns.identity], rules)
            if isinstance(key, RowFault):
                self._reject(_unusable_key(columns, row, key))
                continue
            value = "" if self._value_column is None else self._value(self._value_column, row)
            if value is None:
                continue
            middle: str | None = ""
            if self._others:
                other = row[only] if only is not None else None
                middle = self._known.get(other) if type(other) is str else None
                if middle is None:
                    found = _identifiers(columns, row, key, self._reject, rules)
                    middle = bare(canonical(found), self.wrapping) if found else ""
                    if middle and type(other) is str and len(self._known) < COMPANIES_KNOWN:
                        self._known[other] = middle
            yield f"{key}\t{middle}\t{value}" if value else f"{key}\t{middle}" if middle else key

    def _value(self, column: ValueColumn, row: Row) -> str | None:
        """Return the value of a computed trait; None: it is rejected."""
        position, read = column
        value = read(row[position])
        if isinstance(value, RefusedValue):
            detail = None if value.detail is None else f"column {VALUE}: {value.detail}"
            identity = storable(row[self._columns.identity])
            self._reject(RejectedRow(value.reason, identity, excerpt(self._columns, row), detail))
            return None
        return value


def _texts(values: Iterable[object]) -> list[str] | None:
    """Return texts and integers as texts; None if one is neither."""
    found = list(values)
    kinds = set(map(type, found))
    if kinds <= {str}:
        return found  # type: ignore[return-value]
    return list(map(str, found)) if kinds <= {str, int} else None


def _are_plain(values: list[str], rules: KeyRules, *, in_json: bool = False) -> bool:
    """Return whether all of a column are texts that stand for themselves, with `in_json` in JSON as well."""
    text = "".join(values)
    lengths = set(map(len, values))
    return (
        text.isprintable()
        and 0 not in lengths
        and max(lengths, default=0) <= MAX_KEY_LENGTH
        and not (" " in text and any(map(str.isspace, values)))
        and not (in_json and ('"' in text or "\\" in text))
        and rules.allow_all(values)
    )


def _identifiers(
    columns: KeyColumns, row: Row, profile_key: str, reject: Callable[[RejectedRow], None], rules: KeyRules
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for kind, keys in (("user", columns.user), ("company", columns.company)):
        texts = {}
        for key, position in keys:
            text = stringify(row[position], rules)
            if isinstance(text, RowFault):
                if text not in (RowFault.NULL_KEY, RowFault.EMPTY_KEY):
                    detail = _problem(columns, row, position) or f"{_column(columns, position)}: {text}"
                    reject(RejectedRow(RowFault.OMITTED_IDENTIFIER, profile_key, excerpt(columns, row), detail))
            else:
                texts[key] = text
        if texts:
            found[kind] = texts
    return found


def _unusable_key(columns: KeyColumns, row: Row, reason: RowFault) -> RejectedRow:
    """Return the rejection of a row without a usable key."""
    detail = _problem(columns, row, columns.identity)
    return RejectedRow(reason, storable(row[columns.identity]), excerpt(columns, row), detail)


def _problem(columns: KeyColumns, row: Row, position: int) -> str | None:
    """Return which column of a row the driver cannot represent, and why; None if it can."""
    value = row[position]
    return f"{_column(columns, position)}: {value.problem}" if isinstance(value, Unreadable) else None


def _column(columns: KeyColumns, position: int) -> str:
    return f"column {columns.names[position]}" if columns.names else f"column {position + 1}"


def distinct(lines: Iterable[str], *, left_out: Callable[[str], None]) -> Iterator[str]:
    """Yield one line for each key, and pass on the others; the lines of a key come one after the other.

    The line with more identifiers is kept; of several, the smallest. Lines of one key differ only in their canonical
    JSON, so the smallest line is the row with the smallest JSON.
    """
    key = kept = None
    for line in lines:
        its = line.partition("\t")[0]
        if kept is None or its != key:
            if kept is not None:
                yield kept
            key, kept = its, line
        elif _precedes(line, kept):
            left_out(kept)
            kept = line
        else:
            left_out(line)
    if kept is not None:
        yield kept


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
