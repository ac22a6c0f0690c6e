"""A member and its line are the same thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import canonical
from audience_sync.core.model import Member
from audience_sync.core.rows import from_line, to_line
from tests.factories import make_member

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
IDENTIFIERS = st.dictionaries(KEYS, st.dictionaries(KEYS, KEYS, min_size=1, max_size=2), min_size=1, max_size=2)
MEMBERS = st.builds(Member, KEYS, st.none() | IDENTIFIERS.map(canonical), st.none() | JSON.map(canonical))


@given(MEMBERS)
def test_a_line_and_its_member_are_the_same_thing(member: Member) -> None:
    """A line loses nothing of a member, whatever its key holds but control characters."""
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
    """A membership database joins its members to lines of this form."""
    assert to_line(member) == line
