"""How many people a definition finds, and some of them: read as a sync reads them, compared with nothing, kept nowhere.

Rows are filed by shard as for a sync, which is the only way to know which keys come twice without keeping all of them
in memory; the file is gone with the preview.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

import orjson

from audience_sync.config import Audience, Settings
from audience_sync.core.keys import Reason
from audience_sync.core.model import Member
from audience_sync.core.rows import distinct
from audience_sync.core.shards import SHARDS, from_line
from audience_sync.sync.reading import Rejections, open_spool, read

VALUES_KEPT = 100_000
"""The maximum number of values to analyse: those of the first shards, which are a random sample."""
FREQUENT = 5  # texts that are named


@dataclass
class Values:
    """Statistics of the values of a computed trait."""

    numbers: int = 0
    least: float | None = None
    greatest: float | None = None
    _sample: list[float] = field(default_factory=list)
    _others: Counter[str] = field(default_factory=Counter)

    def add(self, value: str) -> None:
        """Count a value, canonical JSON text."""
        found = orjson.loads(value)
        if isinstance(found, bool) or not isinstance(found, int | float):
            if self._others.total() < VALUES_KEPT:
                self._others[value] += 1
            return
        self.numbers += 1
        self.least = found if self.least is None else min(self.least, found)
        self.greatest = found if self.greatest is None else max(self.greatest, found)
        if len(self._sample) < VALUES_KEPT:
            self._sample.append(found)

    @property
    def middle(self) -> float | None:
        """Return the median of the numbers that were looked at closely."""
        found = median(self._sample) if self._sample else None
        return int(found) if found is not None and found == int(found) else found

    @property
    def frequent(self) -> Mapping[str, int]:
        """Return the most frequent values other than numbers, as JSON text, and how often each is there."""
        ranked = sorted(self._others.items(), key=lambda pair: (-pair[1], pair[0]))
        return dict(ranked[:FREQUENT])

    @property
    def are_sampled(self) -> bool:
        """Return whether there are more values than were looked at closely."""
        return self.numbers > len(self._sample) or self._others.total() >= VALUES_KEPT


@dataclass(frozen=True)
class Preview:
    """The result of a definition: `size` profiles in `read` rows, the first by shard and key, and their values."""

    read: int
    size: int
    rejected: int  # rows that are not taken at all
    reasons: Mapping[Reason, int]  # why rows are not taken as they are
    sample: Sequence[Member]
    values: Values


def preview(
    settings: Settings, audience: Audience, *, as_of: datetime, sample: int, on_page: Callable[[int], None]
) -> Preview:
    """Read a definition to its end and return what it finds, with a sample of profiles.

    The sample is the same as long as the audience is: the first by shard and key, as `members` lists them.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read to its end, or the result has not the columns it needs.
    """
    rejections, values = Rejections(), Values()
    first: list[Member] = []
    size = 0
    with open_spool(audience) as spool:
        rows = read(settings, audience, as_of=as_of, spool=spool, rejections=rejections, on_page=on_page)
        for shard in range(SHARDS):
            kept, left_out = distinct(spool.take(shard))
            size += len(kept)
            rejections.counts.update({Reason.DUPLICATE: len(left_out)} if left_out else {})
            wanted = sample - len(first)
            first += [from_line(line) for line in sorted(kept)[:wanted]] if wanted else []
            for member in map(from_line, kept):
                if member.value is None:
                    break  # an audience has none
                values.add(member.value)
    return Preview(rows, size, rejections.rows, dict(rejections.counts), first, values)
