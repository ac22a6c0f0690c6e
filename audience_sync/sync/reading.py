"""Reading a definition's rows into a spool, and comparing the spool with the memberships, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.engine import Connection

from audience_sync.computing import Definition, open_definition, reader_of_values
from audience_sync.config import Audience, Settings
from audience_sync.core.diff import Difference, diff, difference, staying
from audience_sync.core.keys import Reason, Rejection, ValueColumn, canonical, key_columns, value_position
from audience_sync.core.model import Change, ChangeKind, Computation, Counts, OnMissing
from audience_sync.core.rows import shard_rows, wrapping
from audience_sync.core.shards import SHARDS, Digest, digest, from_line, shard_of
from audience_sync.db import Database
from audience_sync.store import memberships
from audience_sync.store.memberships import ShardChanges
from audience_sync.sync.spool import IN_MEMORY, VALUES_IN_MEMORY, Reading, Spool

SAMPLES = 100  # rejected rows kept for each reason and run
LINES_AT_ONCE = 20_000  # compared in one piece, as is a shard that has more
SORTED_IN_VAIN = 8
"""The number of changed shards that a run sorts for their digest. After that most shards have probably changed, and
comparing them with their members costs less than sorting them first."""
NOBODY = digest([])


@dataclass
class Rejections:
    """How many rows were rejected for each reason, and samples not yet stored."""

    counts: Counter[Reason] = field(default_factory=Counter)
    samples: list[Rejection] = field(default_factory=list)

    def add(self, rejection: Rejection) -> None:
        """Count a rejection, and keep it if it is among the first of its reason."""
        self.counts[rejection.reason] += 1
        if self.counts[rejection.reason] <= SAMPLES:
            self.samples.append(rejection)

    @property
    def rows(self) -> int:
        """Return how many rows were not taken at all."""
        return sum(count for reason, count in self.counts.items() if not reason.keeps_member)


def open_spool(audience: Audience) -> Spool:
    """Return an empty spool for the rows of an audience or computed trait."""
    return Spool(in_memory=IN_MEMORY if audience.computation is Computation.AUDIENCE else VALUES_IN_MEMORY)


def read(
    settings: Settings,
    audience: Audience,
    *,
    as_of: datetime,
    spool: Spool,
    rejections: Rejections,
    on_page: Callable[[int], None],
) -> int:
    """Read a definition to its end into a spool and return how many rows there were; `on_page` gets it page by page.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read to its end, or the result has not the columns it needs.
    """
    read_rows = 0
    with open_definition(settings, audience, as_of=as_of) as definition:
        columns = key_columns(
            definition.columns,
            identity=settings.identity,
            user_keys=audience.user_keys,
            company_keys=audience.company_keys,
        )
        value_column = _value_column(settings, audience, definition)
        if value_column is None:
            spool.wrapping = wrapping(columns)
        file = shard_rows(
            columns,
            lines=spool.lines,
            reject=rejections.add,
            value_column=value_column,
            bare=value_column is None,
            rules=settings.key_rules(audience),
        )
        for page in definition.pages():
            file(page)
            spool.added(len(page))
            read_rows += len(page)
            on_page(read_rows)
    return read_rows


def _value_column(settings: Settings, audience: Audience, definition: Definition) -> ValueColumn | None:
    """Return where the value of a computed trait stands, and how it is read; an audience has none."""
    if audience.computation is Computation.AUDIENCE:
        return None
    return ValueColumn(value_position(definition.columns), reader_of_values(settings, audience))


class Trusted(NamedTuple):
    """The digests and readings of the shards of an audience; none if they are not trusted."""

    digests: Mapping[int, Digest] = {}
    readings: Mapping[int, bytes] = {}


class _Read(NamedTuple):
    """The lines read for a shard; None if they are known to be those of its members."""

    shard: int
    reading: Reading
    lines: list[str] | None


def trusted(connection: Connection, audience_id: int) -> Trusted:
    """Return what the last runs kept of an audience's shards."""
    return Trusted(memberships.digests(connection, audience_id), memberships.readings(connection, audience_id))


def compare(
    database: Database,
    audience_id: int | None,
    spool: Spool,
    *,
    rejections: Rejections,
    trusted: Trusted,
    on_missing: OnMissing = OnMissing.NULL,
    only: str | None = None,
) -> Iterator[tuple[ShardChanges, Counts]]:
    """Yield, for each shard in order, its changes and its counts.

    A shard is not looked at where its rows came before in the same order; nor are its members where its lines are those
    of a trusted digest. With `only`, no other profile is looked at. Where what is missing is kept, nobody exits: the
    digest is of the shard with those who stay.
    """
    for group in _groups(spool, trusted, range(SHARDS) if only is None else [shard_of(only)]):
        members = _members(database, audience_id, [found.shard for found in group if found.lines is not None])
        for read in group:
            shard, reading, lines = read
            if lines is None:
                yield ShardChanges(shard, [], trusted.digests[shard], reading.hash), Counts(unchanged=reading.lines)
                continue
            before = members.get(shard, [])
            if not lines and not before and only is None:  # as are most shards of a small audience
                yield ShardChanges(shard, [], NOBODY, reading.hash), Counts()
                continue
            found = difference(before, lines)
            for line in found.left_out:
                rejections.add(Rejection(Reason.DUPLICATE, from_line(line).profile_key, canonical(line.split("\t"))))
            yield _shard_changes(read, before, found, on_missing=on_missing, only=only)


def _groups(spool: Spool, trusted: Trusted, shards: Sequence[int]) -> Iterator[list[_Read]]:
    """Yield what was read of shards, as many at a time as have `LINES_AT_ONCE` together."""
    width = max(1, SHARDS * LINES_AT_ONCE // max(1, spool.size))
    in_vain = 0
    for start in range(0, len(shards), width):
        group: list[_Read] = []
        for shard in shards[start : start + width]:
            reading, known = spool.reading(shard), trusted.digests.get(shard)
            lines: list[str] | None = None
            if known is None or trusted.readings.get(shard) != reading.hash:
                lines = spool.take(shard)
                if known is not None and in_vain < SORTED_IN_VAIN and known.members == len(lines):
                    same = digest(lines) == known
                    lines, in_vain = (None, in_vain) if same else (lines, in_vain + 1)
            group.append(_Read(shard, reading, lines))
        yield group


def _members(database: Database, audience_id: int | None, shards: Sequence[int]) -> dict[int, list[str]]:
    """Return the members of some shards as lines, read in one transaction."""
    if audience_id is None or not shards:
        return {}
    with database.read() as connection:
        return memberships.lines_by_shard(connection, audience_id, shards)


def _shard_changes(
    read: _Read, before: list[str], found: Difference, *, on_missing: OnMissing, only: str | None
) -> tuple[ShardChanges, Counts]:
    """Return the changes of a shard, and how many there are."""
    members, duplicates = len(found.now), len(found.left_out)
    if not before and only is None:
        counts = Counts(entered=members, duplicates=duplicates)
        return _with_hash(ShardChanges(read.shard, [], digest(found.now), newcomers=found.now), read, found), counts
    changes = diff(set(found.gone), set(found.new))
    after: Iterable[str] = found.now
    if on_missing is OnMissing.KEEP:
        changes = [change for change in changes if change.kind is not ChangeKind.EXITED]
        after = staying(set(before), set(found.now))
    if only is not None:
        changes = [change for change in changes if change.profile_key == only]
    counts = _counted(changes, members=members, duplicates=duplicates)
    if only is not None:
        return ShardChanges(read.shard, changes, None), counts
    return _with_hash(ShardChanges(read.shard, changes, digest(after)), read, found), counts


def _with_hash(changes: ShardChanges, read: _Read, found: Difference) -> ShardChanges:
    """Add the hash of the rows as they were read, if the members are exactly those rows: then it stands for them.

    With duplicates they are not, even where as many members stay whose rows are missing.
    """
    members = None if changes.digest is None or found.left_out else changes.digest.members
    return changes._replace(reading=read.reading.hash) if members == read.reading.lines else changes


def _counted(changes: Sequence[Change], *, members: int, duplicates: int) -> Counts:
    """Return the counts of a shard; `members` have a line now."""
    kinds = Counter(change.kind for change in changes)
    entered, updated = kinds[ChangeKind.ENTERED], kinds[ChangeKind.UPDATED]
    return Counts(
        entered=entered,
        exited=kinds[ChangeKind.EXITED],
        updated=updated,
        unchanged=members - entered - updated,
        duplicates=duplicates,
    )
