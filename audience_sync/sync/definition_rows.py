"""Read the rows of a definition into a diff, one line per profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from audience_sync.audiences.definition import Definition, open_definition, reader_of_values
from audience_sync.config import Audience, Settings
from audience_sync.config.query_tables import digest_of
from audience_sync.core.keys import (
    RejectedRow,
    RowFault,
    ValueColumn,
    canonical,
    key_columns,
    value_position,
)
from audience_sync.core.rows import LineMaker, from_line
from audience_sync.sync.diff_engine import DiffEngine
from audience_sync.tuning import Tuning

SAMPLES = 100  # sample rows kept per reason and run


@dataclass
class Rejections:
    """The number of rejected rows per reason, and samples that are not yet stored."""

    counts: Counter[RowFault] = field(default_factory=Counter)
    samples: list[RejectedRow] = field(default_factory=list)

    def add(self, rejection: RejectedRow) -> None:
        """Count a rejection, and keep it as a sample if it is among the first with its reason."""
        if self.count(rejection.reason):
            self.samples.append(rejection)

    def count(self, reason: RowFault) -> bool:
        """Count a rejection; return whether it is among the first with its reason, which are kept as samples."""
        self.counts[reason] += 1
        return self.counts[reason] <= SAMPLES

    @property
    def rows(self) -> int:
        """Return the number of rows that were rejected completely."""
        return sum(count for reason, count in self.counts.items() if not reason.keeps_member)


@dataclass
class DefinitionRows:
    """The result of a definition as lines; a profile can have several lines until `leave_out_duplicates`."""

    diff: DiffEngine
    rejections: Rejections = field(default_factory=Rejections)
    rows: int = 0
    sums: str | None = None  # sums of the rows from the source, with everything that affects how rows become members
    is_asked: bool = False  # sums were requested; None in `sums` if another number of rows was read
    is_known: bool = False  # the sums are those of the members, so no rows were read

    @property
    def duplicates(self) -> int:
        """Return the number of lines left out because their profile has another line."""
        return self.rejections.counts[RowFault.DUPLICATE]

    def leave_out_duplicates(self) -> None:
        """Keep one line of each profile."""
        self.diff.leave_out_duplicates(self.leave_out)

    def leave_out(self, line: str) -> None:
        """Count a line whose profile has another one."""
        if self.rejections.count(RowFault.DUPLICATE):  # there may be millions: few of them become rejections
            key = from_line(line).profile_key
            self.rejections.samples.append(RejectedRow(RowFault.DUPLICATE, key, canonical(line.split("\t"))))


@contextmanager
def reading(
    settings: Settings,
    audience: Audience,
    *,
    as_of: datetime,
    on_page: Callable[[int], None],
    asks_sums: bool = False,
    known: str | None = None,
    tuning: Tuning,
) -> Iterator[DefinitionRows]:
    """Read a definition to its end and yield the result; `on_page` gets the number of rows after each page.

    With `asks_sums` the source is asked first what the rows come to. Nothing is read where that is `known`
    (`DefinitionRows.sums`).

    Raises:
        ConfigError: the definition is invalid, which is known without running it.
        SourceError: the source cannot be read to its end, or the result does not have the required columns.
    """
    from audience_sync.sync.duckdb_diff import DuckDbDiff  # noqa: PLC0415 - DuckDB is slow to import, and few commands compare

    with DuckDbDiff(tuning=tuning) as diff:
        found = DefinitionRows(diff)
        _read(settings, audience, found, as_of=as_of, on_page=on_page, asks_sums=asks_sums, known=known)
        yield found


def _read(
    settings: Settings,
    audience: Audience,
    found: DefinitionRows,
    *,
    as_of: datetime,
    on_page: Callable[[int], None],
    asks_sums: bool,
    known: str | None,
) -> None:
    diff = found.diff
    with open_definition(settings, audience, as_of=as_of) as definition:
        columns = key_columns(
            definition.columns,
            identity=settings.identity,
            user_keys=audience.user_keys,
            company_keys=audience.company_keys,
        )
        value_column = _value_column(settings, audience, definition)
        rules = settings.key_rules(audience)
        maker = LineMaker(columns, reject=found.rejections.add, value_column=value_column, rules=rules)
        diff.wrapping = maker.wrapping
        sums = definition.sums() if asks_sums else None
        if sums is not None:
            found.is_asked = True
            found.sums = canonical([*sums, _meaning(settings, audience), diff.version()])
            if found.sums == known:
                found.rows, found.is_known = sums.rows, True
                on_page(sums.rows)
                return
        for page in definition.pages():
            diff.add(maker.lines(page), len(page))
            found.rows += len(page)
            on_page(found.rows)
        if sums is not None and sums.rows != found.rows:  # the definition is not deterministic
            found.sums = None
    if maker.may_err:
        again = [(maker.again(odd), len(odd)) for odd in diff.take_out(maker.rules)]
        for lines, count in again:
            diff.add(lines, count)


def _meaning(settings: Settings, audience: Audience) -> str:
    """Return a digest of all settings that affect how rows become members."""
    placeholders = sorted(settings.key_rules(audience).folded)
    return digest_of([audience.definition_hash, settings.identity, placeholders])


def _value_column(settings: Settings, audience: Audience, definition: Definition) -> ValueColumn | None:
    """Return the position and the reader of a computed trait's value; an audience has none."""
    if not audience.computation.has_values:
        return None
    return ValueColumn(value_position(definition.columns), reader_of_values(settings, audience))
