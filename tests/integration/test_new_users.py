"""The number of users that a plan would create in Schematic: each once, and none that Schematic has."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import sqlalchemy as sa

from audience_sync.cli.plan_output import NewUsers
from audience_sync.store import memberships
from audience_sync.store.database import Database
from tests.factories import make_change, make_run
from tests.syncing import people


def enter(new_users: NewUsers, profiles: Iterable[str]) -> int:
    """Have users enter an audience, and return how many of them may be new."""
    keys = sorted(profiles)
    for start in range(0, len(keys), 1_000):
        new_users.add([make_change(key) for key in keys[start : start + 1_000]])
    return new_users.close_audience()


def test_a_user_of_several_audiences_counts_once(database: Database) -> None:
    """The total has distinct users, whichever audience they enter first."""
    new_users = NewUsers(database)

    assert [enter(new_users, people(span)) for span in (range(100), range(50, 150), range(0))] == [100, 100, 0]
    assert new_users.total() == 150


def test_only_what_was_delivered_is_known(database: Database) -> None:
    """A member of an audience is known to Schematic once nothing of the membership waits: not before, and not dead."""
    with database.write() as connection:
        run = make_run(connection)
        for key in ("sent", "waiting", "dead"):
            memberships.apply(connection, run, [make_change(key)])
        connection.execute(sa.text("DELETE FROM outbox WHERE profile_key = 'sent'"))
        connection.execute(sa.text("UPDATE outbox SET dead_reason = 'no' WHERE profile_key = 'dead'"))
    new_users = NewUsers(database)

    assert enter(new_users, ["sent", "waiting", "dead", "unknown"]) == new_users.total() == 3


@pytest.mark.slow
def test_large_numbers_are_estimates(database: Database) -> None:
    """Beyond ten thousand users of an audience only one user in 16 is looked up; users are still counted once."""
    new_users = NewUsers(database)

    first, second = (enter(new_users, people(span)) for span in (range(30_000), range(15_000, 45_000)))

    assert abs(first - 30_000) < 1_000
    assert abs(second - 30_000) < 1_000
    assert abs(new_users.total() - 45_000) < 1_500


@pytest.mark.slow
def test_those_who_come_first_are_no_sample_of_the_others(database: Database) -> None:
    """New users are counted where keys grow with time, so that only the first keys are known to Schematic."""
    keys = [f"u{number:06}" for number in range(20_000)]
    with database.write() as connection:
        memberships.apply(connection, make_run(connection), [make_change(key) for key in keys[:10_000]])
        connection.execute(sa.text("DELETE FROM outbox"))
    new_users = NewUsers(database)

    assert abs(enter(new_users, keys) - 10_000) < 500
    assert abs(new_users.total() - 10_000) < 500
