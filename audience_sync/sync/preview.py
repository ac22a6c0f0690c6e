"""Preview a definition: how many people it finds, and some of them. Nothing is compared or stored.

Rows are read as a sync reads them. Those that do not fit into memory lie in a temporary folder, and are gone with the
preview.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from statistics import median

import orjson

from audience_sync.config import Audience, Settings
from audience_sync.core.keys import RowFault
from audience_sync.core.model import Member
from audience_sync.core.rows import from_line
from audience_sync.sync.definition_rows import reading
from audience_sync.tuning import DEFAULT_TUNING, Tuning

VALUES_KEPT = 100_000
"""The maximum number of values to analyse: a random sample."""
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
class AudiencePreview:
    """The result of a definition: `size` profiles in `read` rows, the first by key, and their values."""

    read: int
    size: int
    rejected: int  # rows that are not taken at all
    reasons: Mapping[RowFault, int]  # why rows are not taken as they are
    sample: Sequence[Member]
    values: Values


def preview(
    settings: Settings,
    audience: Audience,
    *,
    as_of: datetime,
    sample: int,
    on_page: Callable[[int], None],
    tuning: Tuning = DEFAULT_TUNING,
) -> AudiencePreview:
    """Read a definition to its end and return what it finds, with a sample of profiles.

    The sample is the same as long as the audience is: the first by key, as `members` lists them.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read to its end, or the result has not the columns it needs.
    """
    values = Values()
    with reading(settings, audience, as_of=as_of, on_page=on_page, tuning=tuning) as found:
        found.leave_out_duplicates()
        size = found.diff.digest().members
        lines = islice(chain.from_iterable(found.diff.everybody()), sample)
        first = [from_line(line, found.diff.wrapping) for line in lines]
        if audience.computation.has_values:
            for value in chain.from_iterable(found.diff.values()):
                values.add(value)
    return AudiencePreview(found.rows, size, found.rejections.rows, dict(found.rejections.counts), first, values)
