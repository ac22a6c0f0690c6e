"""JSON that keeps every digit of its numbers, because orjson turns whole numbers beyond 64 bits into floats.

A whole number of any length is an int. A fraction that a float would round is a `LongFraction`, a float that keeps its
original text. A number beyond the range of a float is an error with its position. Text without numbers of 16 or more
digits, which is nearly all text, is still read and written by orjson at full speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import orjson

from audience_sync.core.model import Json

_LONG_NUMBER: Final = b" " + b"0" * 16  # digits and points: a float holds 15 digits of any number
_SHAPE: Final = bytes.maketrans(  # of JSON: digits and points are 0, and what stands in front of a number is a space
    bytes(range(256)), bytes(b"0 x"[0 if c in b"0123456789." else 1 if c in b"-:,[ \t\r\n" else 2] for c in range(256))
)
_LONGEST: Final = 309  # digits of the whole numbers that a float can stand for


class LongFraction(float):
    """A number that is not whole, or written with an exponent, and has more digits than a float."""

    text: str

    def __new__(cls, text: str) -> LongFraction:
        """Return the float nearest to a number, with the number as it is written."""
        found = super().__new__(cls, text)
        found.text = text
        return found


class NumberTooLarge(ValueError):
    """JSON has a number beyond the range of a float; the message is its place, as in ``properties.total``."""


def loads(text: str | bytes) -> Json:
    """Return what JSON text says, every number with all its digits.

    Raises:
        orjson.JSONDecodeError: it is not valid JSON.
        NumberTooLarge: it has a number beyond the range of a float.
        RecursionError: it has long numbers and is nested too deeply.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        found: Json = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "infinity" in error.msg and (place := _place_of_infinity(raw)) is not None:
            raise NumberTooLarge(place) from None
        raise
    if not _has_long_number(raw):
        return found
    try:
        orjson.dumps(found)  # stops at fewer levels than Python's own parser
    except orjson.JSONEncodeError:
        raise RecursionError("nested too deeply") from None
    exact: Json = json.loads(raw, parse_float=_fraction)
    return exact


def dumps(value: object, *, option: int | None = None) -> bytes:
    """Return a value as JSON text, every number with all its digits.

    Raises:
        orjson.JSONEncodeError: it is nested too deeply, or has text that is not valid Unicode.
    """
    try:
        return orjson.dumps(value, _as_written, option)
    except orjson.JSONEncodeError:
        try:
            parts = _with_digits(value)
        except RecursionError:
            parts = value
        return orjson.dumps(parts, _as_written, option)


def _has_long_number(raw: bytes) -> bool:
    """Return whether JSON text has a number that may have more digits than a float; some texts in quotes look so too.

    The digits of an id in quotes stand behind the quote or a letter, and do not count.
    """
    shape = raw.translate(_SHAPE)
    return _LONG_NUMBER in shape or shape.startswith(_LONG_NUMBER[1:])


def _fraction(text: str) -> float:
    number = float(text)
    return number if len(text) <= 16 or Decimal(text) == Decimal(repr(number)) else LongFraction(text)


def _as_written(value: object) -> orjson.Fragment:
    if isinstance(value, LongFraction):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _with_digits(value: Any) -> Any:
    """Return a value in which whole numbers beyond 64 bits, at which orjson stops, are their digits."""
    match value:
        case bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else orjson.Fragment(str(value))
        case dict():
            return {name: _with_digits(part) for name, part in value.items()}
        case list() | tuple():
            return [_with_digits(part) for part in value]
        case _:
            return value


def _place_of_infinity(raw: bytes) -> str | None:
    """Return where the first number beyond the range of a float is; None if there is none."""
    try:
        found = json.loads(raw, parse_int=_maybe_infinite)
    except (ValueError, RecursionError):
        return None
    return next(_infinities(found, ""), None)


def _maybe_infinite(digits: str) -> int | float:
    return float(digits) if len(digits) >= _LONGEST else int(digits)


def _infinities(value: Json, place: str) -> Iterator[str]:
    match value:
        case float() if math.isinf(value):
            yield place
        case dict():
            for name, part in value.items():
                yield from _infinities(part, f"{place}.{name}" if place else name)
        case list():
            for index, part in enumerate(value):
                yield from _infinities(part, f"{place}[{index}]")
        case _:
            pass
