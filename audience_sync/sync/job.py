"""The input of a sync and its report."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from audience_sync.audiences.data_age import DataAge, DataAges
from audience_sync.config import Audience, Settings
from audience_sync.core.guard import Obstacle
from audience_sync.core.keys import RowFault
from audience_sync.core.text import counted
from audience_sync.errors import STOPPED_ON_REQUEST, AudienceSyncError, ConfigError
from audience_sync.store.runs import RunRow


def _ignore(_stage: str, _done: int) -> None:
    """Show no progress."""


def _ignore_first(_members: int) -> None:
    """Announce no first sync."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One audience to sync."""

    settings: Settings
    audience: Audience
    as_of: datetime | None = None  # exactly; None: the moment the run starts
    at_least: datetime | None = None  # instead of that moment; later if the audience was synced as of a later instant
    resync: bool = False
    force: bool = False  # accept an as_of before the last applied one
    allow_stale: bool = False  # evaluate data however old it is
    data_ages: DataAges = field(default_factory=DataAges)  # shared by the jobs of a command or a round
    limit: int | None = None  # the maximum number of changes to apply
    only: str | None = None  # apply only the changes of this profile
    on_progress: Callable[[str, int], None] = _ignore  # "reading" and rows, "comparing" and members, "writing"
    on_first: Callable[[int], None] = _ignore_first  # before the first commit of a first sync: rows found
    stop: threading.Event = field(default_factory=threading.Event)

    def require_carried(self, environment: str) -> None:
        """Require that the audience's changes reach the destination through the mappings.

        Raises:
            ConfigError: they do not.
        """
        found = self.settings.coverage(self.audience, environment=environment)
        if found.errors:
            name = self.settings.destination.display_name
            raise ConfigError(
                f"audience {self.audience.key!r} would not reach {name}: {'; '.join(found.errors)}",
                hint="fix [[mappings]]; `audience-sync check` shows the problems of every audience",
            )

    def data_age(self, *, now: datetime) -> DataAge | None:
        """Return the age of the audience's data; None: it does not matter.

        Raises:
            ConfigError, SourceError: the age cannot be found out; see `DataAges`.
        """
        if self.allow_stale:
            return None
        return self.data_ages.of_audience(self.settings, self.audience, as_of=self.as_of, now=now)

    @property
    def partial(self) -> str | None:
        """Return the requested limit of this run, or None."""
        if self.only is not None:
            return f"only {self.only}"
        return None if self.limit is None else f"at most {counted(self.limit, 'change')}"

    def at_most(self, members: int) -> int:
        """Return the number of changes that a first sync applies, given the number of members it finds."""
        if self.only is not None:
            return 1
        return members if self.limit is None else min(members, self.limit)

    def on_page(self, rows: int) -> None:
        """Between two pages of the source: stop if requested, or show the number of rows read."""
        self.check_stop()
        self.on_progress("reading", rows)

    def on_members(self, members: int) -> None:
        """Between two pages of members: stop if requested, or show the number compared."""
        self.check_stop()
        self.on_progress("comparing", members)

    def on_changes(self, changes: int) -> None:
        """Between two commits: stop if requested, or show the number of changes found."""
        self.check_stop()
        self.on_progress("writing", changes)

    def check_stop(self) -> None:
        """Stop the work between two commits if requested.

        Raises:
            AudienceSyncError: a stop was requested.
        """
        if self.stop.is_set():
            raise AudienceSyncError(STOPPED_ON_REQUEST)


@dataclass(frozen=True)
class RunReport:
    """How a run ended, and why rows were rejected."""

    run: RunRow
    audience_key: str
    members: int
    rejections: Counter[RowFault]
    obstacle: Obstacle | None = None  # why the run is held
    data_age: DataAge | None = None  # None: it was not asked for
    is_unread: bool = False  # the sums of the source are those of the last sync, so no rows were read
