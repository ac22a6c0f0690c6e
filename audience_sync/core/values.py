"""Values of computed traits, in one canonical JSON text each: equal values are equal text, whatever a database returns.

Whole numbers keep every digit or are refused. Fractions are rounded to 12 significant digits, but never before the
decimal point, so that the noise of adding them up in another order is not a new value. A list is a set: it becomes the
text of its sorted JSON, because Schematic keeps texts. A value without such a form is rejected, and its profile
has no value then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, TypeAlias
from uuid import UUID

import orjson

from audience_sync.core.keys import EXACT_FLOATS, RefusedValue, RowFault, Unreadable, canonical
from audience_sync.core.model import Json, TraitType

MAX_VALUE_LENGTH: Final = 1024
"""The most characters of a text: Schematic keeps no longer ones."""

ValueReader: TypeAlias = Callable[[object], str | RefusedValue]

_DIGITS: Final = 12  # significant, of a fraction
_INTEGERS: Final = range(-(2**63), 2**64)  # that JSON is written with
_LONGEST_INTEGER: Final = 20  # digits
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)

_AS_TEXT: Final = "send it as text"
_NO_VALUE: Final = RefusedValue(RowFault.NULL_VALUE)
_TOO_DEEP: Final = RefusedValue(RowFault.UNFIT_VALUE, "lists or objects nested too deeply")


class _UnfitError(Exception):
    """Says what is wrong with a value, and what to do."""

    def __init__(self, detail: str, reason: RowFault = RowFault.UNFIT_VALUE) -> None:
        super().__init__(detail)
        self.refused = RefusedValue(reason, detail)


def value_reader(*, values_are_json: bool, trait_type: TraitType | None) -> ValueReader:
    """Return a function that gives the canonical JSON text of a value, or why the value is refused.

    Values are JSON text or what a driver makes of a column: times without a zone are UTC, and where a boolean is
    declared 0 and 1 are one, for databases that have none. With a declared type only values of that type fit.
    """

    def read(value: object) -> str | RefusedValue:
        if value is None:  # of most profiles, as a rule
            return _NO_VALUE
        try:
            plain = _plain(_parsed(value) if values_are_json and isinstance(value, str) else value)
            if trait_type is TraitType.BOOLEAN and not values_are_json and type(plain) is int and plain in (0, 1):
                plain = plain == 1
            return _NO_VALUE if plain is None else _canonical(plain, trait_type)
        except _UnfitError as error:
            return error.refused
        except RecursionError:
            return _TOO_DEEP

    return read


def _canonical(plain: Json, trait_type: TraitType | None) -> str:
    """Return the JSON text of a value, of a list or object as the text it is sent as.

    Raises:
        _UnfitError: it is not of the type of the trait, or too long.
    """
    if isinstance(plain, (list, dict)):
        plain = _set_text(plain) if isinstance(plain, list) else _text(plain)
    if trait_type is not None and not _fits(plain, trait_type):
        raise _UnfitError(f"not a {trait_type}, the declared type of the trait")
    if isinstance(plain, str) and len(plain) > MAX_VALUE_LENGTH:
        most = f"{MAX_VALUE_LENGTH:,} characters"
        raise _UnfitError(f"longer than {most}, the maximum in Schematic", RowFault.LONG_VALUE)
    return _text(plain)


def _parsed(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _UnfitError("not valid JSON") from None


def _text(plain: Json) -> str:
    try:
        return canonical(plain)
    except orjson.JSONEncodeError:
        raise _UnfitError("nested too deeply, or not valid UTF-8") from None


def _plain(value: object) -> Json:  # noqa: PLR0911 - one return for each kind of value reads best
    """Return a value as JSON has it, numbers in their canonical form.

    Raises:
        _UnfitError: it has no such form.
    """
    match value:
        case None | bool() | str():
            return value
        case int() | float() | Decimal():
            return _number(value)
        case datetime():
            return _instant(value)
        case date():
            return value.isoformat()
        case UUID():
            return str(value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {_name(name): _plain(one) for name, one in value.items()}
        case Unreadable():
            raise _UnfitError(value.problem, RowFault.UNREADABLE_VALUE)
        case _:
            raise _UnfitError(f"of type {type(value).__name__}, which JSON does not support: {_AS_TEXT}")


def _number(value: float | Decimal) -> int | float:
    """Return a number: exactly if it is whole, else rounded.

    Raises:
        _UnfitError: it is not finite, or digits before the decimal point would be lost.
    """
    if isinstance(value, int):
        return _exact(value)
    if not value.is_finite() if isinstance(value, Decimal) else not math.isfinite(value):
        raise _UnfitError("not a finite number")
    if isinstance(value, float) and abs(value) >= EXACT_FLOATS:
        raise _UnfitError(f"a float of 2^53 or more, which may be inexact: {_AS_TEXT}")
    if isinstance(value, Decimal) and value.adjusted() >= _LONGEST_INTEGER:
        raise _UnfitError(f"a number longer than 64 bits: {_AS_TEXT}")
    whole = int(value)
    if value == whole:
        return _exact(whole)
    if abs(whole) >= 10 ** (_DIGITS - 1):  # nothing, or next to nothing, is left of the fraction
        return _exact(int(value.to_integral_value(ROUND_HALF_EVEN)) if isinstance(value, Decimal) else round(value))
    rounded = float(format(value, f".{_DIGITS}g"))
    return int(rounded) if rounded.is_integer() else rounded


def _exact(whole: int) -> int:
    if whole not in _INTEGERS:
        raise _UnfitError(f"a number longer than 64 bits: {_AS_TEXT}")
    return whole


def _instant(moment: datetime) -> str:
    """Return an instant in ISO 8601, in UTC.

    Raises:
        _UnfitError: in UTC it is before the year 1 or after 9999.
    """
    try:
        whole = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise _UnfitError("a time outside the years 1 to 9999 in UTC") from None
    return f"{whole.replace(tzinfo=None).isoformat()}Z"


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise _UnfitError("an object with keys that are not strings")
    return name


def _set_text(elements: Iterable[Json]) -> str:
    """Return the JSON of a list's different elements, sorted by code point: texts by what they say."""
    texts = {_text(one): one if isinstance(one, str) else _text(one) for one in elements}
    return f"[{','.join(sorted(texts, key=lambda text: (texts[text], text)))}]"


def _fits(value: Json, trait_type: TraitType) -> bool:
    """Return whether a value is of a declared type; a list is a text by now."""
    match trait_type:
        case TraitType.BOOLEAN:
            return isinstance(value, bool)
        case TraitType.NUMBER | TraitType.CURRENCY:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case TraitType.STRING | TraitType.URL:
            return isinstance(value, str)
        case TraitType.DATE:
            return isinstance(value, str) and _is_moment(value)


def _is_moment(text: str) -> bool:
    """Return whether a text is an ISO date or timestamp of a time that exists."""
    if _MOMENT.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:  # there is no such time
        return False
    return True
