"""One of 1,024 shards for each profile key: what narrows a search for one person, and what a sample is made of."""

from __future__ import annotations

from zlib import crc32

SHARDS = 1024


def shard_of(profile_key: str) -> int:
    """Return the fixed shard of a profile, 0 to 1023: ``crc32(key) & 1023`` of its UTF-8 bytes."""
    return crc32(profile_key.encode()) & (SHARDS - 1)
