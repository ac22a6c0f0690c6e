"""Convert the text in files to numbers and times: SQL functions of DuckDB, each of one value, whatever other rows hold.

CSV and JSON files are read as text. The `types` of a source, the queries compiled for files, and a person's own SQL
all convert it with the functions made here:

- `parse_number(text)`: a number as JSON writes it, else an error;
- `parse_time(text)`: an instant in UTC, from what `try_parse_time` reads or a unix time, else an error;
- `try_parse_time(text)`: an instant in UTC, from a date or timestamp, else NULL;
- `try_parse_event_time(text)`: the same, or a unix time. The digits of a date of this century or the last, such as
  20260511 or 20260511100000, are that date.

A date that begins with its day or month is read as `date_order` says, and without that setting it is an error in all
functions of time. NULL stays NULL. An error's message is `MARK`, the `Doubt` and the text as a JSON string; `doubted`
reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from audience_sync.compiler.dialect import LAST_MILLISECOND, NUMBER_PATTERN, SECONDS_UP_TO
from audience_sync.core.model import ColumnType, DateOrder
from audience_sync.query.literals import LONGEST_NUMBER

PARSERS: Final = {ColumnType.NUMBER: "parse_number", ColumnType.TIME: "parse_time"}
"""The function that converts a column of a type."""
MARK: Final = "audience-sync: "

_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_ZONE = " ?(Z|UTC|[-+](0[0-9]|1[0-4])(:?[0-5][0-9])?)"
_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"  # there is no year 0
_YEAR_FIRST = f"{_YEAR}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}}([T ]{_CLOCK}({_ZONE})?)?"
_DIGITS_OF_A_DATE = "(19|20)[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])(([01][0-9]|2[0-3])([0-5][0-9]){2})?"
_LONG_YEAR = "[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{4}([T ,].*)?"
_SHORT_YEAR = "[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}([T ,].*)?"
_PARTS = r"^([0-9]+)[-./]([0-9]+)[-./]([0-9]+)[T ,]*(.*)$"
_DAYS = {DateOrder.DMY: "%d/%m", DateOrder.MDY: "%m/%d"}
_CLOCKS = ("", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")


class Doubt(StrEnum):
    """Why a text is not converted."""

    ORDER = "order"  # it may be day and month or month and day
    DATE = "date"  # not a date in the order that is set
    TIME = "time"
    NUMBER = "number"
    DIGITS = "digits"  # a whole number with more digits than a double holds


class Doubted(NamedTuple):
    """A text that was not converted, and why."""

    doubt: Doubt
    text: str


def conversions(order: DateOrder | None) -> Iterator[str]:
    """Yield the statements that make the functions in a DuckDB whose time zone is UTC."""
    for head, body in (
        ("try_parse_time(t)", _time(order)),
        ("try_parse_event_time(t)", _EVENT_TIME),
        ("parse_time(t)", f"CASE WHEN t IS NOT NULL THEN coalesce(try_parse_event_time(t), {_error(Doubt.TIME)}) END"),
        ("parse_number(t)", _NUMBER),
    ):
        yield f"CREATE MACRO {head} AS {body}"


def doubted(message: str) -> Doubted | None:
    """Return what could not be converted, from the message of an error; None: it is about something else."""
    _, mark, rest = message.partition(MARK)
    if not mark:
        return None
    doubt, _, text = rest.partition(" ")
    value, _ = json.JSONDecoder().raw_decode(text)
    return Doubted(Doubt(doubt), value)


def _time(order: DateOrder | None) -> str:
    year_first = "CAST(TRY_CAST(replace(replace(t, ' +', '+'), ' -', '-') AS TIMESTAMPTZ) AS TIMESTAMP)"
    return (
        f"CASE WHEN regexp_full_match(t, '{_YEAR_FIRST}') THEN {year_first}"
        f" WHEN regexp_full_match(t, '{_LONG_YEAR}') THEN {_day_or_month_first(order, '%Y')}"
        f" WHEN regexp_full_match(t, '{_SHORT_YEAR}') THEN {_day_or_month_first(order, '%y')} END"
    )


def _day_or_month_first(order: DateOrder | None, year: str) -> str:
    if order is None:
        return _error(Doubt.ORDER)
    formats = ", ".join(f"'{f'{_DAYS[order]}/{year} {clock}'.rstrip()}'" for clock in _CLOCKS)
    plain = rf"rtrim(regexp_replace(t, '{_PARTS}', '\1/\2/\3 \4'))"
    return f"coalesce(try_strptime({plain}, [{formats}]), {_error(Doubt.DATE)})"


def _error(doubt: Doubt, kind: str = "TIMESTAMP") -> str:
    """Return an expression that fails. `error()` would be volatile, which DuckDB refuses in the order of a window."""
    return f"CAST('{MARK}{doubt} ' || to_json(t) AS {kind})"


_IS_NUMBER: Final = f"length(t) <= {LONGEST_NUMBER} AND regexp_full_match(t, '{NUMBER_PATTERN}')"
_IS_CALENDAR: Final = f"regexp_full_match(t, '{_DIGITS_OF_A_DATE}')"  # as seconds they would be in August 1970
_CALENDAR: Final = "try_strptime(t, ['%Y%m%d', '%Y%m%d%H%M%S'])"
_IS_EXACT: Final = (  # a double holds every whole number of 15 digits
    "NOT regexp_full_match(t, '-?[0-9]{16,}')"
    " OR coalesce(TRY_CAST(CAST(t AS DOUBLE) AS HUGEINT) = TRY_CAST(t AS HUGEINT), false)"
)
_NUMBER: Final = (
    f"CASE WHEN t IS NULL THEN NULL WHEN NOT ({_IS_NUMBER}) THEN {_error(Doubt.NUMBER, 'DOUBLE')}"
    f" WHEN {_IS_EXACT} THEN CAST(t AS DOUBLE) ELSE {_error(Doubt.DIGITS, 'DOUBLE')} END"
)
_MILLISECONDS: Final = (
    f"CASE WHEN abs(CAST(t AS DOUBLE)) >= {SECONDS_UP_TO} THEN CAST(t AS DOUBLE) ELSE CAST(t AS DOUBLE) * 1000 END"
)
_UNIX: Final = (
    f"CASE WHEN abs({_MILLISECONDS}) <= {LAST_MILLISECOND}"
    f" THEN make_timestamp(CAST(({_MILLISECONDS}) * 1000 AS BIGINT)) END"
)
_EVENT_TIME: Final = (
    f"CASE WHEN {_IS_CALENDAR} THEN {_CALENDAR} WHEN {_IS_NUMBER} THEN {_UNIX} ELSE try_parse_time(t) END"
)
