"""The comparison of one shard: it turns what was into what is, and says nothing when nothing changed."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.diff import diff, difference, staying
from audience_sync.core.model import Change, ChangeKind, Member
from audience_sync.core.rows import distinct
from audience_sync.core.shards import from_line, to_line
from tests.factories import make_change, make_member

KEYS = st.sampled_from(["a", "b", "c", "é", "a b", "🙂"]) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=3
)
IDENTIFIERS = st.sampled_from([None, '{"company":{"groupId":"c1"}}', '{"company":{"groupId":"c2"}}'])
VALUES = st.sampled_from([None, "1", "null", '["x"]'])
SHARDS = st.dictionaries(KEYS, st.tuples(IDENTIFIERS, VALUES), max_size=10).map(
    lambda shard: {to_line(Member(key, *rest)) for key, rest in shard.items()}
)


def applied(changes: Iterable[Change], before: set[str]) -> set[str]:
    """Return a shard as the changes leave it, refusing changes that do not fit it."""
    members = {member.profile_key: member for member in map(from_line, before)}
    for change in changes:
        assert (change.profile_key in members) == (change.kind is not ChangeKind.ENTERED)
        if change.kind is ChangeKind.EXITED:
            old = members.pop(change.profile_key)
            assert (change.identifiers, change.value) == (old.identifiers, old.value)
        else:
            members[change.profile_key] = Member(change.profile_key, change.identifiers, change.value)
    return {to_line(member) for member in members.values()}


@given(SHARDS, SHARDS)
def test_a_diff_turns_the_one_into_the_other(before: set[str], now: set[str]) -> None:
    """After the changes the memberships are what the definition says, and each profile has one change at most."""
    changes = diff(before, now)

    keys = [change.profile_key for change in changes]
    assert applied(changes, before) == now
    assert keys == sorted(set(keys))


@given(SHARDS)
def test_nothing_changes_between_a_shard_and_itself(shard: set[str]) -> None:
    """An unchanged source sends nothing."""
    assert diff(shard, set(shard)) == []


def test_each_kind_of_change() -> None:
    """Entering, leaving and changing are told apart, and an exit keeps the identifiers that were seen last."""
    before = {to_line(make_member("gone", company="c1")), to_line(make_member("moved", company="c1")), "stays"}
    now = {"new", to_line(make_member("moved", company="c2")), "stays"}

    assert diff(before, now) == [
        make_change("gone", ChangeKind.EXITED, company="c1"),
        make_change("moved", ChangeKind.UPDATED, company="c2"),
        make_change("new", ChangeKind.ENTERED),
    ]


@given(SHARDS, SHARDS)
def test_what_stays_is_what_the_changes_without_exits_leave(before: set[str], now: set[str]) -> None:
    """Where nobody exits, the shard is that of now and everybody who is missing from it."""
    changes = [change for change in diff(before, now) if change.kind is not ChangeKind.EXITED]

    assert staying(before, now) == applied(changes, before)


@given(SHARDS, st.lists(st.tuples(KEYS, IDENTIFIERS, VALUES).map(lambda row: to_line(Member(*row))), max_size=12))
def test_only_what_differs_is_looked_at(before: set[str], read: list[str]) -> None:
    """What is new and what is gone leads to the same changes as the whole shard, duplicates or not."""
    kept, left_out = distinct(read)

    found = difference(sorted(before), read)

    assert found.now == sorted(kept)
    assert sorted(found.left_out) == sorted(left_out)
    assert set(found.new) == kept - before
    assert set(found.gone) == before - kept
    assert diff(set(found.gone), set(found.new)) == diff(before, kept)
