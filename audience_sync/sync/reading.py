"""Reading a definition's rows into a spool, and comparing the spool with the memberships, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from audience_sync.config import Audience, Settings
from audience_sync.core.diff import diff
from audience_sync.core.model import ChangeKind, Counts
from audience_sync.core.rows import Reason, Rejection, canonical, distinct, key_columns, shard_rows
from audience_sync.core.shards import SHARDS, Digest, digest, from_line, shard_of
from audience_sync.db import Database
from audience_sync.source import open_rows
from audience_sync.store import memberships
from audience_sync.store.memberships import ShardChanges
from audience_sync.sync.spool import Spool

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
        SourceError: the source cannot be read to its end.
    """
    source = settings.sources[audience.source]
    read_rows = 0
    with open_rows(
        source.url.get_secret_value().render_as_string(hide_password=False),
        audience.sql,
        as_of=as_of,
        statement_timeout=source.statement_timeout,
    ) as rows:
        columns = key_columns(
            rows.columns, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
        )
        file = shard_rows(columns, lines=spool.lines, reject=rejections.add)
        for page in rows.pages():
            file(page)
            spool.added(len(page))
            read_rows += len(page)
            on_page(read_rows)
    return read_rows


def compare(
    database: Database,
    audience_id: int | None,
    spool: Spool,
    *,
    rejections: Rejections,
    trusted: Mapping[int, Digest],
    only: str | None = None,
) -> Iterator[tuple[ShardChanges, Counts]]:
    """Yield, for each shard in order, its changes and its counts.

    A shard whose digest is among the `trusted` ones is not looked at; with `only`, nor is any other profile.
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
        if only is not None:
            changes = [change for change in changes if change.profile_key == only]
        kinds = Counter(change.kind for change in changes)
        entered, updated = kinds[ChangeKind.ENTERED], kinds[ChangeKind.UPDATED]
        yield (
            ShardChanges(shard, changes, found if only is None else None),
            Counts(
                entered=entered,
                exited=kinds[ChangeKind.EXITED],
                updated=updated,
                unchanged=len(now) - entered - updated,
                duplicates=len(left_out),
            ),
        )
