"""The name of a track event in Schematic, which takes ASCII letters, digits, ``-`` and ``_`` only."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from audience_sync.core.keys import audience_key

_ACCEPTED: Final = re.compile("[A-Za-z0-9_-]+")


@lru_cache(maxsize=1024)  # a source has few names and many events
def event_name(raw: str) -> str:
    """Return the name of an event in lower case, snake_cased if Schematic would refuse it.

    It is empty when a name that must be snake_cased has no letter and no digit.

    >>> event_name("Order Completed"), event_name("Sign-Up"), event_name("!!!")
    ('order_completed', 'sign-up', '')
    """
    return raw.lower() if _ACCEPTED.fullmatch(raw) else audience_key(raw)
