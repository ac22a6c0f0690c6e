"""How old the newest data of a source is: its `freshness` query is run, and its answer is compared with `max_age`.

Windows over a source that no longer gets data empty the audiences little by little, which no guard notices. So nothing
is evaluated from data that is too old.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from audience_sync.config import Audience, FreshnessRule, Settings, Source
from audience_sync.core.text import instant_text, short_duration
from audience_sync.engines import open_rows
from audience_sync.errors import ConfigError, SourceError
from audience_sync.segment.timestamps import iso, to_utc

CLOCK_SKEW: Final = timedelta(minutes=5)
"""The clock of what loads the data can be ahead of ours by this much; later times are errors."""


@dataclass(frozen=True)
class DataAge:
    """The age of the newest data of a source at an instant; without any data, `newest` is None."""

    source: str
    rule: FreshnessRule
    newest: datetime | None
    at: datetime

    @property
    def is_stale(self) -> bool:
        """Return whether the data is too old to be evaluated."""
        return self.newest is None or self.at - self.newest > self.rule.max_age

    @property
    def sentence(self) -> str:
        """Return how old the newest data is, and what is allowed."""
        if self.newest is None:
            return f"the `freshness` query of source `{self.source}` found no data"
        age = _about(max(self.at - self.newest, timedelta()))
        limit = f"{'but' if self.is_stale else 'and'} max_age is {short_duration(self.rule.max_age)}"
        return f"the newest data of source `{self.source}` is {age} old ({instant_text(iso(self.newest))}), {limit}"


class _Answer(NamedTuple):
    """The answer of a freshness query, and when it was asked."""

    newest: datetime | None
    asked_at: datetime


class DataAges:
    """The ages of the data that one command, or one round of the daemon, evaluates; each query is run once."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], _Answer] = {}

    def of_audience(
        self, settings: Settings, audience: Audience, *, as_of: datetime | None, now: datetime
    ) -> DataAge | None:
        """Return the age of the data of an audience at `as_of`, or else when it was asked for; None: it has no rule.

        Raises:
            ConfigError, SourceError: see `of_source`.
        """
        if audience.freshness is None:
            return None
        return self.of_source(settings.sources[audience.source], audience.freshness, as_of=as_of, now=now)

    def of_source(self, source: Source, rule: FreshnessRule, *, as_of: datetime | None, now: datetime) -> DataAge:
        """Return the age of the newest data of a source at `as_of`, or else when the source was asked for it.

        `now` is the present, `as_of` the instant of `--now`.

        Raises:
            ConfigError: the query can be seen to be wrong without asking the database.
            SourceError: the query fails, returns something other than one time, or a time in the future.
        """
        answer = self._answers.get((source.name, rule.sql))
        if answer is None:
            newest = _newest(source, rule.sql, as_of=as_of or now)
            answer = self._answers[source.name, rule.sql] = _Answer(newest, now)
        if answer.newest is not None and answer.newest > answer.asked_at + CLOCK_SKEW:
            ahead = _about(answer.newest - answer.asked_at)
            raise SourceError(
                f"the newest data of source `{source.name}` is {ahead} in the future"
                f" ({instant_text(iso(answer.newest))})",
                hint="check the clock of what loads the data and its time zone (a time without a zone is read as UTC),"
                " or leave such rows out in `freshness`",
            )
        return DataAge(source.name, rule, answer.newest, as_of or answer.asked_at)


def _newest(source: Source, sql: str, *, as_of: datetime) -> datetime | None:
    """Return the time that a freshness query returns; None for NULL or an empty result."""
    place = f"the `freshness` query of source `{source.name}`"
    try:
        with open_rows(source, sql, as_of=as_of) as rows:
            first = next(rows.pages(), [])
    except (ConfigError, SourceError) as error:
        kind = ConfigError if isinstance(error, ConfigError) else SourceError
        raise kind(f"{place} failed: {error}", hint=error.hint) from None
    remedy = "select one value, as in SELECT max(loaded_at) FROM events"
    if len(rows.columns) > 1:
        raise SourceError(f"{place} returns {len(rows.columns)} columns", hint=remedy)
    if len(first) > 1:
        raise SourceError(f"{place} returns more than one row", hint=remedy)
    value = first[0][0] if first else None
    if value is None:
        return None
    found = _time(value)
    if found is None:
        raise SourceError(
            f"{place} returns a value that is not a time",
            hint="select a timestamp, a date, a text in ISO 8601 or a Unix time",
        )
    return found


def _about(age: timedelta) -> str:
    """Return an age as people read it: of days, the minutes are cut off, and of hours, the seconds."""
    day, hour, minute, second = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
    unit = hour if age >= day else minute if age >= hour else second
    return short_duration(age - age % unit)


def _time(value: object) -> datetime | None:
    """Return the instant that a value of a source is; without a zone, it is UTC, and a date is its midnight."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    text = to_utc(float(value) if isinstance(value, Decimal) else value)
    return None if text is None else datetime.fromisoformat(text)
