"""`freshness` and `max_age`: how to find the time of the newest data of a source, and how old that data can be.

Both are settings of a source. An audience takes what it does not have itself from its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

from pydantic import BaseModel, ConfigDict

from audience_sync.config.cross_checks import entries_of, source_name
from audience_sync.config.problems import Location, Problem

_MISSING: Final = {
    "freshness": (
        "missing: `max_age` needs a query for the time of the newest data, as in"
        ' freshness = "SELECT max(loaded_at) FROM events"'
    ),
    "max_age": 'missing: `freshness` needs the maximum age of the newest data, as in max_age = "6h"',
}


class FreshnessRule(BaseModel):
    """A query that returns the time of the newest data, and the age beyond which data is stale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sql: str
    max_age: timedelta


class FreshnessSettings(Protocol):
    """A source or an audience with the two settings, as they are written."""

    @property
    def freshness(self) -> str | None:
        """Return the query."""

    @property
    def max_age(self) -> timedelta | None:
        """Return the maximum age."""


def make_freshness(source: FreshnessSettings, own: FreshnessSettings | None = None) -> FreshnessRule | None:
    """Return the rule of a source, or of an audience whose own settings replace those of its source; None: no rule."""
    sql = (own and own.freshness) or source.freshness
    max_age = (own and own.max_age) or source.max_age
    return None if sql is None or max_age is None else FreshnessRule(sql=sql, max_age=max_age)


def check_freshness(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield each source and audience that has only one of the two settings."""
    sources = raw.get("sources")
    sources = sources if isinstance(sources, dict) else {}
    for name, source in sources.items():
        if isinstance(source, dict):
            yield from _both(source, source, ("sources", name))
    for location, entry in entries_of(raw).items():
        source = sources.get(source_name(raw, entry) or "", {})
        if isinstance(source, dict):
            yield from _both(entry, {**source, **entry}, location)


def _both(own: Mapping[str, Any], merged: Mapping[str, Any], location: Location) -> Iterator[Problem]:
    """Check that a table that has one of the settings has the other one, too, or takes it from its source."""
    for given, other in (("freshness", "max_age"), ("max_age", "freshness")):
        if given in own and other not in merged:
            yield Problem((*location, other), _MISSING[other])
