"""Keys: how a value becomes the one text form of a key, which columns hold keys, and the key of an audience.

A key is stringified in one way: text as it is, integers in decimal digits, UUIDs in lower case with dashes, and whole
`Decimal` or float numbers (databases without an integer type return them) as integers. A float of 2^53 or more may
have lost digits and is refused. Nothing is trimmed or folded. `KeyRules` says which texts are not keys.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID
from zlib import crc32

import orjson
from slugify import slugify

from audience_sync.errors import SourceError

_LONGEST: Final = 80  # characters of a value that are shown


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that its driver cannot represent: as the database writes it, and why, without the value.

    It stands in the row in place of the value, and the row is rejected only where that column is used. So one
    timestamp beyond the year 9999 costs one row, not the run.
    """

    text: str
    problem: str

    def __str__(self) -> str:
        return self.text


def unreadable(raw: str, problem: str) -> Unreadable:
    """Return an unreadable value; a long one is cut."""
    return Unreadable(raw if len(raw) <= _LONGEST else f"{raw[:_LONGEST]}…", problem)


MAX_KEY_LENGTH: Final = 255
"""The most characters of any key or trait name: Schematic takes no longer ones.

A longer identity rejects its row (`RowFault.LONG_KEY`), any other longer identifier is left out of its row
(`RowFault.OMITTED_IDENTIFIER`), an audience's longer key is a configuration error, and a longer id of a forwarded event
is stored as its hash (`segment_events.stored_id`).
"""

EXACT_FLOATS = 2**53  # from here on a float may stand for several whole numbers
VALUE = "value"  # the column of a computed trait's values
_UNUSABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and halves of surrogate pairs
_OTHER_TYPES = re.compile(  # as spreadsheets and programs write them; 12e45 may be hexadecimal, and is a text
    r"(?P<decimal>[+-]?(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?\d+(?:,\d+)?[eE][+-]\d+|[+-]?\d+,\d+[eE]\d+)"
    r"|true|false"
    r"|\{\s*[\"}].*|\[\s*(?:[\[{\"\d\]-]|true|false|null).*",  # an object or a list of JSON
    re.ASCII | re.DOTALL,
)

Row: TypeAlias = Sequence[object]


class RowFault(StrEnum):
    """Why a row was not taken as it is; `omitted_…` rows stay members, without that one identifier."""

    NULL_KEY = "null_key"
    EMPTY_KEY = "empty_key"
    LONG_KEY = "long_key"  # over 255 characters
    UNUSABLE_TEXT = "unusable_text"  # control characters, or text that is not valid UTF-8
    UNSUPPORTED_TYPE = "unsupported_type"
    PLACEHOLDER_KEY = "placeholder_key"  # a text that stands for a missing value, such as NULL
    DECIMAL_KEY = "decimal_key"  # in a text file: a number in decimal or scientific notation, such as 1.14739E+18
    DUPLICATE = "duplicate"  # another row of the same key is used; see `rows.distinct`
    OMITTED_IDENTIFIER = "omitted_identifier"  # another identifier of the row is unusable and was left out
    NULL_VALUE = "null_value"  # a computed trait has none for this profile
    LONG_VALUE = "long_value"  # over 1,024 characters: Schematic keeps no longer ones
    UNFIT_VALUE = "unfit_value"  # not a number that can be sent exactly, not JSON, or not of the declared type
    UNREADABLE_VALUE = "unreadable_value"  # the driver cannot represent a value that the definition uses

    @property
    def keeps_member(self) -> bool:
        """Return whether the profile of the row is a member all the same."""
        return self in {RowFault.DUPLICATE, RowFault.OMITTED_IDENTIFIER}


class RejectedRow(NamedTuple):
    """One row that was not taken as it is."""

    reason: RowFault
    profile_key: str | None
    row: str  # JSON of its identifying columns, for a person to recognise it
    detail: str | None = None  # which column, what is wrong with it, and the remedy


class KeyColumns(NamedTuple):
    """Which columns make up a member: the identity, and the other user and company keys by their Schematic names."""

    identity: int
    user: tuple[tuple[str, int], ...]
    company: tuple[tuple[str, int], ...]
    names: tuple[str, ...] = ()  # of all columns of the result


class RefusedValue(NamedTuple):
    """Why the value of a computed trait is not taken; `detail` says what is wrong and what to do."""

    reason: RowFault
    detail: str | None = None


class ValueColumn(NamedTuple):
    """The position of a computed trait's value, and the function that reads it: canonical JSON text, or a rejection."""

    position: int
    read: Callable[[object], str | RefusedValue]


@dataclass(frozen=True)
class KeyRules:
    """Which texts are not keys.

    A placeholder is compared without regard to case and to blanks around it. With `of_text_files` a text may have been
    a number, a boolean, an object or a list of JSON or CSV, and is refused where a value of that type would be.
    """

    placeholders: tuple[str, ...]
    of_text_files: bool = False
    folded: frozenset[str] = field(init=False)  # the placeholders as they compare
    _lengths: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        folded = frozenset(text.strip().casefold() for text in self.placeholders)
        object.__setattr__(self, "folded", folded)
        object.__setattr__(self, "_lengths", frozenset(map(len, (*folded, *map(str.strip, self.placeholders)))))

    def objection(self, text: str) -> RowFault | None:
        """Return why a text is not a key; None: it is one."""
        if self.folded and text.strip().casefold() in self.folded:
            return RowFault.PLACEHOLDER_KEY
        if self.of_text_files and (found := _OTHER_TYPES.fullmatch(text)):
            return RowFault.DECIMAL_KEY if found["decimal"] else RowFault.UNSUPPORTED_TYPE
        return None

    def allow_all(self, values: Sequence[str]) -> bool:
        """Return whether every text of a page is a key: `objection`, at a tenth of its cost for each."""
        text = "".join(values)
        if not text.isascii():  # folding may change the length of a text
            return not any(map(self.objection, values))
        bare = list(map(str.strip, values)) if " " in text else values
        if not self._lengths.isdisjoint(map(len, bare)) and not self.folded.isdisjoint(map(str.casefold, bare)):
            return False
        return not self.of_text_files or text.isdecimal() or not any(map(_OTHER_TYPES.fullmatch, values))


def stringify(  # noqa: PLR0911 - one return for each kind of value reads best
    value: object, rules: KeyRules
) -> str | RowFault:
    """Return a key's one text form, or why it has none."""
    match value:
        case str():
            text = value
        case bool():
            return RowFault.UNSUPPORTED_TYPE
        case int() | UUID():
            text = str(value)
        case float() if value.is_integer() and abs(value) < EXACT_FLOATS:
            text = str(int(value))
        case Decimal() if math.isfinite(value) and value == int(value):
            text = str(int(value))
        case None:
            return RowFault.NULL_KEY
        case Unreadable():
            return RowFault.UNREADABLE_VALUE
        case _:
            return RowFault.UNSUPPORTED_TYPE
    if not text or text.isspace():
        return RowFault.EMPTY_KEY
    if len(text) > MAX_KEY_LENGTH:
        return RowFault.LONG_KEY
    if not text.isprintable() and _UNUSABLE.search(text):
        return RowFault.UNUSABLE_TEXT
    return rules.objection(text) or text


def key_columns(
    columns: Sequence[str], *, identity: str, user_keys: Mapping[str, str], company_keys: Mapping[str, str]
) -> KeyColumns:
    """Return where the keys stand in a result with these columns.

    Raises:
        SourceError: a column is missing, or stands there twice.
    """
    wanted = {
        **{f"user_keys.{k}": c for k, c in user_keys.items()},
        **{f"company_keys.{k}": c for k, c in company_keys.items()},
    }
    for setting, column in wanted.items():
        _position(columns, column, f"which {setting} names")
    return KeyColumns(
        columns.index(user_keys[identity]),
        tuple((key, columns.index(column)) for key, column in sorted(user_keys.items()) if key != identity),
        tuple((key, columns.index(column)) for key, column in sorted(company_keys.items())),
        tuple(columns),
    )


def value_position(columns: Sequence[str]) -> int:
    """Return where the value of a computed trait stands in a result with these columns.

    Raises:
        SourceError: the column is missing, or stands there twice.
    """
    return _position(columns, VALUE, "required for a computed trait")


def _position(columns: Sequence[str], column: str, why: str) -> int:
    if columns.count(column) != 1:
        problem = "no" if column not in columns else "more than one"
        hint = f"it has the columns {', '.join(columns)}"
        raise SourceError(f"the result has {problem} column {column!r}, {why}", hint=hint)
    return columns.index(column)


def canonical(value: object) -> str:
    """Return canonical JSON text: sorted keys, no spaces, UTF-8."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def storable(value: object) -> str | None:
    """Return what can be stored of a rejected key, so that `forget` finds it."""
    return None if value is None else _clean(str(value))[:MAX_KEY_LENGTH]


def excerpt(columns: KeyColumns, row: Row) -> str:
    """Return what a person recognises a rejected row by: its identifying columns as JSON."""
    positions = [columns.identity, *(p for _, p in columns.user), *(p for _, p in columns.company)]
    return canonical([None if row[p] is None else _clean(str(row[p]))[:MAX_KEY_LENGTH] for p in positions])


def _clean(text: str) -> str:
    return _UNUSABLE.sub("�", text)


def audience_key(name: str) -> str:
    """Return the key of the audience called `name`; empty when the name has no letter and no digit.

    The rule is frozen: a key that changed would be another trait. Letters and digits of any script are transliterated
    to ASCII and lowered, every other run of characters becomes one ``_``, and the ends are trimmed. Digits stay with
    the letters they touch, and camelCase is not split.

    >>> audience_key("Order Completed Last 30days")
    'order_completed_last_30days'
    """
    # slugify deletes quotes, commas between digits and emoji, and would join what they part: "Spent 1,000", "O’Brien".
    text = "".join(" " if _parts_words(character) else character for character in name)
    # The backend is named because "auto" takes whatever is installed: a key must not depend on another package. A name
    # is plain text, so "&amp;" is two signs around three letters.
    key: str = slugify(text, separator="_", entities=False, decimal=False, hexadecimal=False, backend="text-unidecode")
    return key


def _parts_words(character: str) -> bool:
    """Tell whether the character is punctuation or a symbol, in any script."""
    return unicodedata.category(character)[0] in "PS"


SHARDS = 1024
"""Each profile key is in one of these: they narrow a search for one person, and a sample is made of them."""


def shard_of(profile_key: str) -> int:
    """Return the fixed shard of a profile, 0 to 1023: ``crc32(key) & 1023`` of its UTF-8 bytes."""
    return crc32(profile_key.encode()) & (SHARDS - 1)
