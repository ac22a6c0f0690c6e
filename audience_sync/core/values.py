"""Values of computed traits, in one canonical JSON text each: equal values are equal text, whatever a database returns.

Numbers are rounded to 12 significant digits, so that the noise of adding them up in another order is no new value, and
whole ones are integers. A list is a set: it becomes the text of its sorted JSON, because Schematic keeps texts. What
has no such form is rejected with a reason, and its profile has no value then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID

import orjson

from audience_sync.core.model import Json, TraitType
from audience_sync.core.rows import Reason, canonical

MAX_VALUE_LENGTH: Final = 1024
"""So many characters a text has at most: Schematic keeps no longer ones."""

ValueReader: TypeAlias = Callable[[object], str | Reason]

_DIGITS: Final = ".12g"
_EXACT: Final = 2**53  # beyond it not every whole float is what was meant
_INTEGERS: Final = range(-(2**63), 2**64)  # that JSON is written with
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_UNFIT: Final = (TypeError, ValueError, ArithmeticError, RecursionError)  # orjson's errors are two of these


def value_reader(*, values_are_json: bool, trait_type: TraitType | None) -> ValueReader:
    """Return a function that gives the canonical JSON text of a value, or why the value is not taken.

    Values are JSON text or what a driver makes of a column: times without a zone are UTC, and where a boolean is
    declared 0 and 1 are one, for databases that have none. With a declared type only values of that type fit.
    """

    def read(value: object) -> str | Reason:
        if value is None:  # of most profiles, as a rule
            return Reason.NULL_VALUE
        try:
            given = orjson.loads(value) if values_are_json and isinstance(value, str) else value
            plain = _plain(given)
            if plain is None:
                return Reason.NULL_VALUE
            if isinstance(plain, (list, dict)):
                plain = _set_text(plain) if isinstance(plain, list) else canonical(plain)
            elif trait_type is TraitType.BOOLEAN and not values_are_json and type(plain) is int and plain in (0, 1):
                plain = plain == 1
            if trait_type is not None and not _fits(plain, trait_type):
                return Reason.UNFIT_VALUE
            if isinstance(plain, str) and len(plain) > MAX_VALUE_LENGTH:
                return Reason.LONG_VALUE
            return canonical(plain)
        except _UNFIT:
            return Reason.UNFIT_VALUE

    return read


def _plain(value: object) -> Json:  # noqa: PLR0911 - one return for each kind of value reads best
    """Return a value as JSON has it, numbers in their canonical form.

    Raises:
        TypeError: it is of a type that JSON has not.
        ValueError: it is a number that JSON has not.
        OverflowError: it is a time beyond those that can be written in UTC.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if value in _INTEGERS else _rounded(float(value))
        case float():
            return _rounded(value)
        case Decimal() if value.is_finite() and value == value.to_integral_value() and value.adjusted() < 19:
            return int(value)
        case Decimal():
            return _rounded(value)
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
        case _:
            raise TypeError(type(value).__name__)


def _rounded(value: float | Decimal) -> int | float:
    """Return a number as whole as it is, or rounded.

    Raises:
        ValueError: it is not finite, or too great for a float.
    """
    if math.isfinite(value) and -_EXACT < value < _EXACT and value == int(value):
        return int(value)
    rounded = float(format(value, _DIGITS))
    if not math.isfinite(rounded):
        raise ValueError("not a finite number")
    return int(rounded) if abs(rounded) < _EXACT and rounded.is_integer() else rounded


def _instant(moment: datetime) -> str:
    """Return an instant in ISO 8601, in UTC."""
    whole = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{whole.replace(tzinfo=None).isoformat()}Z"


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError("the name of a member is no text")
    return name


def _set_text(elements: Iterable[Json]) -> str:
    """Return the JSON of a list's different elements, sorted by code point: texts by what they say."""
    texts = {canonical(one): one if isinstance(one, str) else canonical(one) for one in elements}
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
    datetime.fromisoformat(text)  # ValueError: there is no such time, and the value does not fit
    return True
