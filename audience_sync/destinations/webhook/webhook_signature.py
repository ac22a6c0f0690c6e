"""The headers of a signed request: HMAC-SHA256 of ``timestamp.body``, once for each secret.

The timestamp, in seconds since 1970, is that of the try, so that a receiver can refuse an old request. The body and the
id of the batch are the same at every try. During a rotation there are two secrets and two signatures, and a receiver
accepts a request if either is right.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b, sha256
from typing import Final

BATCH_HEADER: Final = "Audience-Sync-Batch"
TIMESTAMP_HEADER: Final = "Audience-Sync-Timestamp"
SIGNATURE_HEADER: Final = "Audience-Sync-Signature"
VERSION: Final = "v1"  # of the signature


def signed_headers(body: bytes, secrets: Iterable[str], *, now: datetime) -> dict[str, str]:
    """Return the headers of a request with a body, such as ``Audience-Sync-Signature: v1=5257a8…,v1=9d1c…``."""
    timestamp = str(int(now.timestamp()))
    signed = timestamp.encode() + b"." + body
    signatures = [hmac.new(secret.encode(), signed, sha256).hexdigest() for secret in secrets]
    return {
        BATCH_HEADER: blake2b(body, digest_size=16).hexdigest(),
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: ",".join(f"{VERSION}={one}" for one in signatures),
    }
