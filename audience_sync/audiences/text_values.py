"""Convert computed trait values from text files to their types.

CSV has no types, and JSON is read as text, so the text itself decides: a number or boolean as JSON writes it, otherwise
text. A declared type takes precedence: a trait of type string keeps `10115` as text.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from audience_sync.core.keys import RefusedValue, canonical
from audience_sync.core.model import TraitType
from audience_sync.core.values import ValueReader
from audience_sync.query.literals import number_of_text

_TEXTS: Final = (TraitType.STRING, TraitType.URL, TraitType.DATE)
_WHOLE: Final = re.compile("-?(0|[1-9][0-9]*)")
_BOOLEANS: Final = {"true": True, "false": False}


def text_value_reader(read: ValueReader, *, values_are_json: bool, trait_type: TraitType | None) -> ValueReader:
    """Return a reader that converts texts to their types and passes all values to `read`."""

    def read_json(value: object) -> str | RefusedValue:
        if trait_type in _TEXTS and isinstance(value, str) and value != "null" and value[:1] not in {'"', "[", "{"}:
            return read(canonical(value))
        return read(value)

    def read_text(value: object) -> str | RefusedValue:
        return read(_typed(value, trait_type) if isinstance(value, str) else value)

    return read_json if values_are_json else read_text


def _typed(text: str, trait_type: TraitType | None) -> object:
    """Return the value that a text represents, unless another type is declared."""
    if trait_type in _TEXTS:
        return text
    if trait_type in {None, TraitType.BOOLEAN} and text in _BOOLEANS:
        return _BOOLEANS[text]
    if trait_type is TraitType.BOOLEAN:
        return text
    if _WHOLE.fullmatch(text):
        return Decimal(text)  # of any length
    number = number_of_text(text)
    return text if number is None else number
