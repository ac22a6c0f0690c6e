"""Estimate how many users a plan would create in Schematic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audience_sync.core.forecast import ProfileCounter
from audience_sync.core.model import Change, ChangeKind
from audience_sync.core.shards import shard_of
from audience_sync.db import Database
from audience_sync.store import audiences, memberships

LOOKED_UP: Final = 10_000  # users of each audience; beyond that, only those of one shard in 16
ONE_SHARD_OF: Final = 16


class NewUsers:
    """Counts the users that enter and of whose memberships Schematic has accepted none yet.

    A user who enters several audiences counts once in the total. Large numbers are estimates.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.read() as connection:
            self._audience_ids = [audience.id for audience in audiences.every(connection) if audience.members]
        self._found: set[str] = set()  # in all shards, as long as every user was looked up
        self._sampled = ProfileCounter()  # in one shard of 16
        self._is_complete = True
        self._counts: list[int] = []  # of the audiences so far
        self._entered = self._looked_up = self._new = 0  # of the present audience

    def add(self, changes: Sequence[Change]) -> None:
        """Count the users who enter the present audience with these changes."""
        entered = [change.profile_key for change in changes if change.kind is ChangeKind.ENTERED]
        self._entered += len(entered)
        if self._looked_up >= LOOKED_UP and entered:
            self._is_complete = False
            entered = list(filter(_is_sampled, entered))
        if not entered:
            return
        with self._database.read() as connection:
            new = set(entered) - memberships.delivered_profiles(connection, self._audience_ids, entered)
        self._looked_up += len(entered)
        self._new += len(new)
        if self._is_complete:
            self._found |= new
        self._sampled.add(filter(_is_sampled, new))

    def close_audience(self) -> int:
        """Return the number of the present audience, and begin with the next one."""
        count = round(self._entered * self._new / self._looked_up) if self._looked_up else 0
        self._counts.append(count)
        self._entered = self._looked_up = self._new = 0
        return count

    def total(self) -> int:
        """Return the number of all audiences so far."""
        found = len(self._found) if self._is_complete else ONE_SHARD_OF * self._sampled.count()
        return min(max([found, *self._counts]), sum(self._counts))


def _is_sampled(profile_key: str) -> bool:
    return shard_of(profile_key) % ONE_SHARD_OF == 0
