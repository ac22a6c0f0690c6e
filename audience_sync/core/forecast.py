"""Estimates for changes that are not sent yet: events, requests, time, and the number of profiles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

HASH_BITS: Final = 26  # 8 MB of memory, and an error of about 0.02 % at ten million profiles


class Forecast(NamedTuple):
    """The number of events, the number of full batches they need, and the seconds these take at the configured rate."""

    events: int
    requests: int
    seconds: int


def forecast(events: int, *, batch_size: int, per_second: float) -> Forecast:
    """Return the minimum of requests and seconds that a number of events takes."""
    requests = math.ceil(events / batch_size)
    return Forecast(events, requests, math.ceil(requests / per_second))


class ProfileCounter:
    """Counts distinct profile keys in bounded memory: small numbers exactly, large ones approximately.

    This is linear counting: the share of bits that no key has set gives the number of distinct keys.
    """

    def __init__(self) -> None:
        self._bits = bytearray(1 << (HASH_BITS - 3))

    def add(self, profile_keys: Iterable[str]) -> None:
        """Count these profiles; a profile that was counted before is not counted again."""
        bits, mask = self._bits, (1 << HASH_BITS) - 1
        for key in profile_keys:
            # Similar keys have neighbouring checksums. The hash of a tuple of numbers scatters them, in every process
            # alike.
            place = hash((crc32(key.encode()),)) & mask
            bits[place >> 3] |= 1 << (place & 7)

    def count(self) -> int:
        """Return the number of distinct profiles."""
        size = 1 << HASH_BITS
        free = size - int.from_bytes(self._bits, "little").bit_count()
        return round(size * math.log(size / max(1, free)))
