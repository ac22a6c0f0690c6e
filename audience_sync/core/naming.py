"""How an audience gets its key, the name of its trait in Schematic.

The rule is frozen: a key that changed would be another trait. Letters and digits of any script are transliterated to
ASCII and lowered, every other run of characters becomes one ``_``, and the ends are trimmed. Digits stay with the
letters they touch, and camelCase is not split.
"""

from __future__ import annotations

import unicodedata

from slugify import slugify


def audience_key(name: str) -> str:
    """Return the key of the audience called `name`; empty when the name has no letter and no digit.

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
