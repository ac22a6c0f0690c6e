"""One hash, two uses: the shard of a profile key is the unit of comparison, and the place of its rows.

Within a shard a member is one line of text, `key`, `key⇥identifiers` or `key⇥identifiers⇥value`: keys hold no control
character (`rows.py` rejects those) and JSON never writes one raw, so lines compare, sort, spool and hash as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from audience_sync.core.model import Member

SHARDS = 1024


class Digest(NamedTuple):
    """What a shard held when it was last committed: how many members, and a 128-bit hash of their sorted lines."""

    members: int
    hash: bytes


def shard_of(profile_key: str) -> int:
    """Return the fixed shard of a profile, 0 to 1023: ``crc32(key) & 1023`` of its UTF-8 bytes."""
    return crc32(profile_key.encode()) & (SHARDS - 1)


def to_line(member: Member) -> str:
    """Return the line of a member; the inverse of `from_line`."""
    if member.value is not None:
        return f"{member.profile_key}\t{member.identifiers or ''}\t{member.value}"
    return member.profile_key if member.identifiers is None else f"{member.profile_key}\t{member.identifiers}"


def from_line(line: str) -> Member:
    """Return the member of a line."""
    key, separator, rest = line.partition("\t")
    if not separator:
        return Member(key)
    identifiers, _, value = rest.partition("\t")
    return Member(key, identifiers or None, value or None)


def digest(lines: Iterable[str]) -> Digest:
    """Return the digest of a shard's distinct lines, whatever their order.

    Sorting and hashing once a shard costs a fraction of hashing each member, and one text for the whole set leaves
    nothing to cancel out.
    """
    ordered = sorted(lines)
    return Digest(len(ordered), blake2b("\n".join(ordered).encode(), digest_size=16).digest())
