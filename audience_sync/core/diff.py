"""The comparison of one shard: what the membership table holds against what the definition says now."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from audience_sync.core.model import Change, ChangeKind
from audience_sync.core.shards import from_line


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
