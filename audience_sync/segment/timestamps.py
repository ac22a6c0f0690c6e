"""The time of an event as Schematic gets it: ISO 8601 in UTC with milliseconds, `2026-03-01T10:00:00.000Z`.

Read are ISO 8601 texts and unix times. A text without a zone is UTC, as the times of Segment's events are. A unix time,
a number or its digits as text, tells its unit by its size: below 10¹¹ it is seconds (up to the year 5138), below 10¹⁴
milliseconds (from 1973), above that microseconds; but a text of 8 or 14 digits is a date, or a date with a time of
day. Fractions of a millisecond are cut off.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from math import floor
from typing import Final

from audience_sync.core.model import Json

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_BELOW: Final = 10**11
_MILLISECONDS_BELOW: Final = 10**14

# The layout alone; whether there is such a day is for `fromisoformat`, which by itself takes any separator.
_ISO: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d(?:-\d)?|\d{4}W\d{2,3})"
    r"(?:[T ](?P<time>\d\d(?::\d\d(?::\d\d(?:[.,]\d+)?)?|\d\d(?:\d\d(?:[.,]\d+)?)?)?)"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_IN_UTC: Final = ("Z", "+00:00")
_UNIX: Final = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?", re.ASCII)
_COMPACT: Final = re.compile(r"\d{14}", re.ASCII)  # 20260301100000, which as a unix time would be in the year 2612
_MIDNIGHT: Final = re.compile(r"24(?::?00){0,2}(?:[.,]0+)?")  # the end of a day


def to_utc(value: Json) -> str | None:
    """Return a time as ISO 8601 text in UTC, or None if the value is not a time of the years 1 to 9999.

    >>> to_utc("2026-03-01T12:00:00+02:00"), to_utc(1772359200)
    ('2026-03-01T10:00:00.000Z', '2026-03-01T10:00:00.000Z')
    """
    kind = type(value)
    if kind is str or kind is int or kind is float:
        return _convert(value)  # type: ignore[arg-type]
    return _convert(float(value)) if isinstance(value, float) else None


@lru_cache(maxsize=4096)  # every mapping of an event asks for the same time, and batches share theirs
def _convert(value: str | float) -> str | None:
    try:
        return _from_text(value) if isinstance(value, str) else _from_unix(value)
    except (ArithmeticError, ValueError):  # the day does not exist or is out of range, or the number is NaN
        return None


def _from_text(text: str) -> str | None:
    """Read a text; from what Segment's libraries send, in UTC, the time is cut out, which spares most of the work."""
    if text[4:17:3] == "--T::" and text.endswith(_IN_UTC) and text[11:13] != "24":
        datetime.fromisoformat(text)
        # From the seventh digit of a fraction on `fromisoformat` takes anything.
        if text[19:20] == "." and len(text) >= 24 and text[20 : -1 if text[-1] == "Z" else -6].isdigit():
            return f"{text[:23]}Z"
        if text[19:] == "Z":
            return f"{text[:19]}.000Z"
    text = text.strip().upper()
    if _COMPACT.fullmatch(text):
        text = f"{text[:8]}T{text[8:]}"
    found = _ISO.fullmatch(text)
    if found is None:
        return _from_unix(Decimal(text)) if _UNIX.fullmatch(text) else None
    date, time, zone = found.group("date", "time", "zone")
    ends_the_day = time is not None and _MIDNIGHT.fullmatch(time) is not None
    moment = datetime.fromisoformat(f"{date}T{'00' if ends_the_day else time or '00'}{zone or 'Z'}")
    return iso(moment + timedelta(days=1) if ends_the_day else moment)


def _from_unix(number: float | Decimal) -> str:
    # A fraction counts as it is written: in binary 8640552856.345 is a little less than its 345 milliseconds.
    exact = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    size = exact.copy_abs()
    unit = 1_000_000 if size < _SECONDS_BELOW else 1000 if size < _MILLISECONDS_BELOW else 1  # in microseconds
    return iso(_EPOCH + timedelta(microseconds=floor(exact * unit)))


def iso(moment: datetime) -> str:
    """Return an instant as the time of an event."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"
