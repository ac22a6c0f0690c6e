"""Who may send: the write key, as the user name of Basic authentication or inside the body."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

from audience_sync.core.model import Json
from audience_sync.tracking_api.refusals import Refusal

FIELD: Final = "writeKey"
UNKNOWN: Final = Refusal(401, "the write key is missing or unknown")


def knows_sender(authorization: str | None, keys: Sequence[bytes]) -> bool | None:
    """Return whether a Basic header names one of the keys; None for any other header, or none: then the body counts."""
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, _ = b64decode(credentials.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):  # a character that is not even ASCII is a ValueError
        return False
    return _is_one_of(user, keys)


def knows_body(body: Json, events: Sequence[object] | None, keys: Sequence[bytes]) -> bool:
    """Return whether a parsed body names one of the keys, itself or in the first event of its batch that is one."""
    named = _named(body)
    if named is None:
        named = next((_named(event) for event in events or () if isinstance(event, dict)), None)
    return named is not None and _is_one_of(named.encode(), keys)


def _named(found: object) -> str | None:
    key = found.get(FIELD) if isinstance(found, dict) else None
    return key if isinstance(key, str) else None


def _is_one_of(given: bytes, keys: Sequence[bytes]) -> bool:
    """Compare with every key, each in constant time: how long it takes tells nothing about them."""
    return True in [hmac.compare_digest(given, key) for key in keys]
