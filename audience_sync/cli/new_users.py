"""Estimate how many users a plan would create in Schematic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audience_sync.core.forecast import ProfileCounter
from audience_sync.core.keys import shard_of
from audience_sync.core.model import Change, ChangeKind
from audience_sync.store import audiences, memberships
from audience_sync.store.database import Database

LOOKED_UP: Final = 10_000  # users of each audience; beyond that, only a sample of them
SAMPLE_ONE_IN: Final = 16


class NewUsers:
    """Counts the users that enter and of whose memberships Schematic has accepted none yet.

    A user who enters several audiences counts once in the total. Large numbers are estimates.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            self._audience_ids = [audience.id for audience in audiences.every(connection) if audience.members]
        self._found: set[str] = set()  # as long as every user was looked up
        self._sampled = ProfileCounter()
        self._is_complete = True
        self._counts: list[int] = []  # of the audiences so far
        self._entered = self._new = self._new_in_sample = 0  # of the present audience

    def add(self, changes: Sequence[Change]) -> None:
        """Count the users who enter the present audience with these changes."""
        entered = [change.profile_key for change in changes if change.kind is ChangeKind.ENTERED]
        is_whole = self._entered < LOOKED_UP
        self._entered += len(entered)
        if not is_whole:  # changes come by profile key, so the first ones do not stand for the others
            self._is_complete = self._is_complete and not entered
            entered = list(filter(_is_sampled, entered))
        if not entered:
            return
        with self._database.read() as connection:
            new = set(entered) - memberships.delivered_profiles(connection, self._audience_ids, entered)
        if is_whole:
            self._new += len(new)
        else:
            self._new_in_sample += len(new)
        if self._is_complete:
            self._found |= new
        self._sampled.add(filter(_is_sampled, new))

    def close_audience(self) -> int:
        """Return the number of the present audience, and begin with the next one."""
        count = min(self._entered, self._new + SAMPLE_ONE_IN * self._new_in_sample)
        self._counts.append(count)
        self._entered = self._new = self._new_in_sample = 0
        return count

    def total(self) -> int:
        """Return the number of all audiences so far."""
        found = len(self._found) if self._is_complete else SAMPLE_ONE_IN * self._sampled.count()
        return min(max([found, *self._counts]), sum(self._counts))


def _is_sampled(profile_key: str) -> bool:
    return shard_of(profile_key) % SAMPLE_ONE_IN == 0
