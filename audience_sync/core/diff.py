"""The comparison of one shard: what the membership table holds against what the definition says now."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import islice, repeat
from operator import eq, itemgetter
from typing import NamedTuple

from audience_sync.core.model import Change, ChangeKind
from audience_sync.core.rows import distinct
from audience_sync.core.shards import from_line

_FIRST = itemgetter(0)


class Difference(NamedTuple):
    """What the lines of a shard are now, and what they were that they no longer are; one line a key on each side."""

    now: list[str]  # sorted
    new: list[str]  # of `now`, those that were not there before
    gone: list[str]
    left_out: list[str]  # lines that do not count: their key has another one


def difference(before: Sequence[str], read: Sequence[str]) -> Difference:
    """Compare the sorted lines `before` with those that were `read`, in any order and more than one a key."""
    found = set(read)
    if not before:
        now = sorted(found)
        keys = list(map(_FIRST, map(str.partition, now, repeat("\t"))))
        if len(now) == len(read) and not any(map(eq, keys, islice(keys, 1, None))):  # neighbours with one key
            return Difference(now, now, [], [])
    else:
        new = list(found.difference(before))
        stay = len(found) - len(new)
        kept = before if stay == len(before) else [line for line in before if line in found]
        gone = [] if stay == len(before) else [line for line in before if line not in found]
        if len(found) == len(read) and not _share_keys(new, kept):
            return Difference(sorted([*kept, *new]), new, gone, [])
    smallest, left_out = distinct(read)
    return difference(before, list(smallest))._replace(left_out=left_out)


def _share_keys(new: Sequence[str], kept: Sequence[str]) -> bool:
    """Return whether two new lines have one key, or a new line has that of a kept one; those are sorted."""
    keys = {line.partition("\t")[0] for line in new}
    if len(keys) < len(new):
        return True
    for key in keys:
        place = bisect_left(kept, key)  # between a key and its line nothing can be
        if place < len(kept) and kept[place].partition("\t")[0] == key:
            return True
    return False


def diff(before: AbstractSet[str], now: AbstractSet[str]) -> list[Change]:
    """Return the changes that turn the lines `before` into the lines `now`, by profile key.

    Each side holds one line a key (`rows.distinct`). An exit carries the identifiers of `before`: the row is gone.
    """
    gone = {member.profile_key: member for member in map(from_line, before - now)}
    changes: list[Change] = []
    for line in now - before:
        key, identifiers, value = from_line(line)
        kind = ChangeKind.ENTERED if gone.pop(key, None) is None else ChangeKind.UPDATED
        changes.append(Change(kind, key, identifiers, value))
    changes.extend(Change(ChangeKind.EXITED, key, old.identifiers, old.value) for key, old in gone.items())
    changes.sort(key=lambda change: change.profile_key)
    return changes


def staying(before: AbstractSet[str], now: AbstractSet[str]) -> set[str]:
    """Return the lines `now` and those lines `before` whose profiles have none any more."""
    gone = {line.partition("\t")[0]: line for line in before - now}
    for line in now - before:
        gone.pop(line.partition("\t")[0], None)
    return {*now, *gone.values()}
