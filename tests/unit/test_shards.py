"""The hash that everything is filed by, the lines of a shard, and the digest that spares an unchanged one."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import canonical
from audience_sync.core.model import Member
from audience_sync.core.shards import digest, from_line, shard_of, to_line
from tests.factories import make_member

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
IDENTIFIERS = st.dictionaries(KEYS, st.dictionaries(KEYS, KEYS, min_size=1, max_size=2), min_size=1, max_size=2)
MEMBERS = st.builds(Member, KEYS, st.none() | IDENTIFIERS.map(canonical), st.none() | JSON.map(canonical))
LINES = st.frozensets(
    st.tuples(st.sampled_from(["a", "b", "ab", "é"]), st.sampled_from(["", "\t{}", "\t\t1", "\t{}\t2"])).map("".join),
    max_size=5,
)


@given(KEYS)
def test_a_shard_is_the_low_bits_of_crc32(key: str) -> None:
    """Where a profile is filed never changes: every membership database depends on it."""
    actual = shard_of(key)

    assert actual == crc32(key.encode("utf-8")) % 1024


@pytest.mark.parametrize(("key", "shard"), [("u1", 886), ("", 0), ("€", 214)])
def test_shards_are_frozen(key: str, shard: int) -> None:
    """These shards are written in databases that exist."""
    assert shard_of(key) == shard


@given(MEMBERS)
def test_a_line_and_its_member_are_the_same_thing(member: Member) -> None:
    """What is spooled, compared and hashed loses nothing of a member, whatever its key holds but control characters."""
    line = to_line(member)

    assert from_line(line) == member
    assert "\n" not in line


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (make_member("u1"), "u1"),
        (make_member("u1", company="c1"), 'u1\t{"company":{"groupId":"c1"}}'),
        (make_member("u1", value=3), "u1\t\t3"),
        (make_member("u1", company="c1", value=[1]), 'u1\t{"company":{"groupId":"c1"}}\t[1]'),
    ],
)
def test_the_form_of_a_line(member: Member, line: str) -> None:
    """The digests in existing databases are of lines of this form."""
    assert to_line(member) == line


@given(LINES)
def test_a_digest_does_not_depend_on_order(lines: frozenset[str]) -> None:
    """A source returns rows in any order, and the shard is still the same."""
    ordered = sorted(lines)

    assert digest(ordered) == digest(reversed(ordered)) == digest(lines)
    assert digest(lines).members == len(lines)


@given(LINES, LINES)
def test_different_shards_have_different_digests(one: frozenset[str], other: frozenset[str]) -> None:
    """A shard is skipped only when nothing in it differs: a key, an identifier or a value."""
    assert (digest(one) == digest(other)) == (one == other)
