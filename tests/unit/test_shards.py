"""The hash that narrows a search for one person, and that a sample is made of."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import shard_of

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(KEYS)
def test_a_shard_is_the_low_bits_of_crc32(key: str) -> None:
    """The shard of a profile never changes: every membership database depends on it."""
    actual = shard_of(key)

    assert actual == crc32(key.encode("utf-8")) % 1024


@pytest.mark.parametrize(("key", "shard"), [("u1", 886), ("", 0), ("€", 214)])
def test_shards_are_frozen(key: str, shard: int) -> None:
    """These shards are written in databases that exist."""
    assert shard_of(key) == shard
