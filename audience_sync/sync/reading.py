"""Reading a definition's rows into a spool, and comparing the spool with the memberships, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from audience_sync.computing import Definition, open_definition
from audience_sync.config import Audience, Settings
from audience_sync.core.diff import diff, staying
from audience_sync.core.model import Change, ChangeKind, Computation, Counts, OnMissing
from audience_sync.core.rows import (
    Reason,
    Rejection,
    ValueColumn,
    canonical,
    distinct,
    key_columns,
    shard_rows,
    value_position,
)
from audience_sync.core.shards import SHARDS, Digest, digest, from_line, shard_of
from audience_sync.core.values import value_reader
from audience_sync.db import Database
from audience_sync.store import memberships
from audience_sync.store.memberships import ShardChanges
from audience_sync.sync.spool import IN_MEMORY, VALUES_IN_MEMORY, Spool

SAMPLES = 100  # rejected rows kept for each reason and run


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
        left_in = self.counts[Reason.DUPLICATE] + self.counts[Reason.OMITTED_IDENTIFIER]
        return self.counts.total() - left_in


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
    """Read a definition to its end into a spool and return how many rows there were; `on_page` is told each time.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read to its end, or the result has not the columns it needs.
    """
    read_rows = 0
    with open_definition(settings, audience, as_of=as_of) as definition:
        file = shard_rows(
            key_columns(
                definition.columns,
                identity=settings.identity,
                user_keys=audience.user_keys,
                company_keys=audience.company_keys,
            ),
            lines=spool.lines,
            reject=rejections.add,
            value_column=_value_column(audience, definition),
        )
        for page in definition.pages():
            file(page)
            spool.added(len(page))
            read_rows += len(page)
            on_page(read_rows)
    return read_rows


def _value_column(audience: Audience, definition: Definition) -> ValueColumn | None:
    """Return where the value of a computed trait stands, and how it is read; an audience has none."""
    if audience.computation is Computation.AUDIENCE:
        return None
    reader = value_reader(values_are_json=definition.values_are_json, trait_type=audience.declared_type)
    return ValueColumn(value_position(definition.columns), reader)


def compare(
    database: Database,
    audience_id: int | None,
    spool: Spool,
    *,
    rejections: Rejections,
    trusted: Mapping[int, Digest],
    on_missing: OnMissing = OnMissing.NULL,
    only: str | None = None,
) -> Iterator[tuple[ShardChanges, Counts]]:
    """Yield, for each shard in order, its changes and its counts.

    A shard whose digest is among the `trusted` ones is not looked at; with `only`, nor is any other profile. Where what
    is missing is kept, nobody exits: the digest is of the shard with those who stay, and such a shard is always
    compared.
    """
    for shard in range(SHARDS) if only is None else [shard_of(only)]:
        now, left_out = distinct(spool.take(shard))
        for line in left_out:
            rejections.add(Rejection(Reason.DUPLICATE, from_line(line).profile_key, canonical(line.split("\t"))))
        found = digest(now)
        if trusted.get(shard) == found:
            yield ShardChanges(shard, [], found), Counts(unchanged=len(now), duplicates=len(left_out))
            continue
        before: set[str] = set()
        if audience_id is not None:
            with database.read() as connection:
                before = memberships.lines(connection, audience_id, shard)
        changes = diff(before, now)
        if on_missing is OnMissing.KEEP:
            changes = [change for change in changes if change.kind is not ChangeKind.EXITED]
            found = digest(staying(before, now))
        if only is not None:
            changes = [change for change in changes if change.profile_key == only]
        counts = _counted(changes, members=len(now), duplicates=len(left_out))
        yield ShardChanges(shard, changes, found if only is None else None), counts


def _counted(changes: Sequence[Change], *, members: int, duplicates: int) -> Counts:
    """Return the counts of a shard in which so many have a line now."""
    kinds = Counter(change.kind for change in changes)
    entered, updated = kinds[ChangeKind.ENTERED], kinds[ChangeKind.UPDATED]
    return Counts(
        entered=entered,
        exited=kinds[ChangeKind.EXITED],
        updated=updated,
        unchanged=members - entered - updated,
        duplicates=duplicates,
    )
