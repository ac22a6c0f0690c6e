"""Compute the changes between the members of an audience and the current result of its definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from audience_sync.core.model import Change, ChangeKind, Counts, OnMissing
from audience_sync.core.rows import Wrapping, distinct, from_line
from audience_sync.store import memberships
from audience_sync.store.database import Database
from audience_sync.store.memberships import Digest
from audience_sync.sync.definition_rows import DefinitionRows


@dataclass(frozen=True)
class Difference:
    """The changes between the members and the result of the definition, with counts."""

    counts: Counts
    digest: Digest | None  # of the members when all changes are applied; None: unchanged or unknown
    wrapping: Wrapping | None
    changes: Iterable[Sequence[Change]] = ()  # by profile key, in pages, readable once
    newcomers: Iterable[Sequence[str]] | None = None  # the same as lines, identifiers bare, if there were no members


def compare(
    database: Database,
    audience_id: int | None,
    found: DefinitionRows,
    *,
    trust: bool,
    on_missing: OnMissing,
    on_members: Callable[[int], None],
) -> Difference:
    """Compare the result with the members of an audience (None: there are no members yet).

    With `trust`, members are not read if the result has their digest. If missing values are kept, nobody exits.
    `on_members` gets the number of members read.
    """
    diff = found.diff
    if found.is_known:
        return Difference(Counts(unchanged=found.rows), None, diff.wrapping)
    if audience_id is None:
        found.leave_out_duplicates()
        digest = diff.digest()
        counts = Counts(entered=digest.members, duplicates=found.duplicates)
        changes = (_entries(lines, diff.wrapping) for lines in diff.everybody())
        return Difference(counts, digest, diff.wrapping, changes, newcomers=diff.everybody())
    with database.read() as connection:
        known = memberships.digest(connection, audience_id)
    now = diff.digest()
    if trust and known is not None and now.members > known.members:  # as of a join that returns rows twice
        found.leave_out_duplicates()
        now = diff.digest()
    if trust and now == known:
        return Difference(Counts(unchanged=now.members, duplicates=found.duplicates), None, diff.wrapping)
    with database.read() as connection, closing(memberships.texts(connection, audience_id, diff.wrapping)) as texts:
        counts = diff.compare(
            _counted(texts, on_members),
            known=known,
            keep_missing=on_missing is OnMissing.KEEP,
            left_out=found.leave_out,
        )
    return Difference(counts + Counts(duplicates=found.duplicates), diff.digest(), diff.wrapping, diff.changes())


def _entries(lines: Sequence[str], wrapping: Wrapping | None) -> list[Change]:
    return [Change(ChangeKind.ENTERED, *from_line(line, wrapping)) for line in lines]


def compare_one(
    database: Database, audience_id: int, found: DefinitionRows, profile_key: str, *, on_missing: OnMissing
) -> Difference:
    """Compare the result for one profile with its membership."""
    lines = list(distinct(found.diff.lines_of(profile_key), left_out=found.leave_out))
    now = from_line(lines[0]) if lines else None
    with database.read() as connection:
        before = memberships.find(connection, audience_id, profile_key)
    counts, around = Counts(duplicates=found.duplicates), found.diff.wrapping
    if now == before:
        return Difference(counts + Counts(unchanged=len(lines)), None, around)
    if now is None or before is None:
        kind, member = (ChangeKind.ENTERED, now) if now is not None else (ChangeKind.EXITED, before)
    else:
        kind, member = ChangeKind.UPDATED, now
    if member is None or (kind is ChangeKind.EXITED and on_missing is OnMissing.KEEP):
        return Difference(counts, None, around)
    return Difference(counts + Counts(**{kind.value: 1}), None, around, [[Change(kind, *member)]])


def _counted(texts: Iterator[bytes], on_members: Callable[[int], None]) -> Iterator[bytes]:
    members = 0
    for text in texts:
        yield text
        members += text.count(b"\n")
        on_members(members)
