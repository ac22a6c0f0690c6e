"""Subscriptions: messages are queued in the transaction of their change, in order, for whoever has one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.config import Subscriber
from audience_sync.core.model import Change, ChangeKind, Computation, RunKind
from audience_sync.core.rows import to_line
from audience_sync.store import audiences, backlog, memberships, subscriptions
from audience_sync.store.database import Database
from audience_sync.store.runs import RunRow
from tests.factories import make_member, make_run

NAME = 'the "gold" ü: %(x)s'
NOW_MS = 1_774_958_400_000
KEYS = '{"company":{"groupId":"c"},"user":{"email":"ü\\"\\\\@x"}}'
CRM, LATE = Subscriber("crm", with_members=False), Subscriber("late", with_members=True)


def queued(connection: Connection) -> list[tuple[Any, ...]]:
    """Return what waits: destination, profile, position, type, key, and the payload."""
    rows = connection.execute(
        sa.text(
            "SELECT destination, profile_key, position, type, name, payload FROM events"
            " ORDER BY destination, position, profile_key"
        )
    )
    return [(*row[:5], json.loads(row[5])) for row in rows]


def started(connection: Connection, computation: Computation, **facts: Any) -> RunRow:
    """Return a run of an audience or computed trait that has completed before."""
    run = make_run(connection, computation=computation, **{"kind": RunKind.INCREMENTAL, **facts})
    audiences.register(connection, key="gold", name=NAME, now_ms=NOW_MS, computation=computation)
    return run


@pytest.mark.parametrize(
    ("computation", "values"),
    [
        (Computation.AUDIENCE, (None, None, None)),
        (Computation.TRAIT, ('{"n":[1.50,"ü"]}', "12345678901234567890", "2")),
    ],
)
def test_a_change_is_queued_for_each_subscriber(
    database: Database, computation: Computation, values: tuple[str | None, ...]
) -> None:
    """The payload has the value and the identifiers as they are, and the facts of the run and of its audience."""
    changes = [
        Change(ChangeKind.ENTERED, "a", KEYS, values[0]),
        Change(ChangeKind.EXITED, "b", None, values[1]),
        Change(ChangeKind.UPDATED, "c", KEYS, values[2]),
    ]
    with database.write() as connection:
        run = started(connection, computation)
        memberships.apply(connection, run, [Change(ChangeKind.ENTERED, "b", None, values[1])])
        memberships.apply(connection, run, [Change(ChangeKind.ENTERED, "c", None, values[1])])
        subscriptions.follow(connection, run.audience_id, [CRM, Subscriber("x", with_members=False)], now_ms=NOW_MS)
        later = started(connection, computation)
        memberships.apply(connection, later, changes)
        found = queued(connection)

    texts = [one[5] for one in found if one[0] == "crm"]
    assert [one[:5] for one in found] == [
        (name, key, later.generation, kind, "gold") for name in ("crm", "x") for kind, key, *_ in changes
    ]
    assert [json.dumps(one["value"]) for one in texts] == [
        "true" if values[0] is None else json.dumps(json.loads(values[0])),
        computation.exit_value,
        "true" if values[2] is None else values[2],
    ]
    assert [one["identifiers"] for one in texts] == [json.loads(KEYS), None, json.loads(KEYS)]
    assert {(one["key"], one["name"], one["computation"], one["initial"]) for one in texts} == {
        ("gold", NAME, computation.value, False)
    }


def test_a_first_sync_is_only_for_who_wants_the_members(database: Database) -> None:
    """For the others it is the state from which changes count."""
    with database.write() as connection:
        run = started(connection, Computation.AUDIENCE, kind=RunKind.INITIAL)
        subscriptions.follow(connection, run.audience_id, [CRM, LATE], now_ms=NOW_MS)
        subscriptions.queue_members(connection, run.audience_id, now_ms=NOW_MS, at_most=10)
        memberships.enter(connection, run, [to_line(make_member("a")), to_line(make_member("b"))])
        found = queued(connection)

    assert [(one[0], one[1], one[5]["initial"]) for one in found] == [("late", "a", True), ("late", "b", True)]


def test_members_are_queued_page_by_page(database: Database) -> None:
    """A subscription that begins later gets each member once, before every later change."""
    with database.write() as connection:
        run = started(connection, Computation.AUDIENCE)
        memberships.apply(connection, run, [Change(ChangeKind.ENTERED, key, None, None) for key in "abcde"])
        subscriptions.follow(connection, run.audience_id, [LATE], now_ms=NOW_MS)
        sizes = []
        while subscriptions.any_begun(connection, run.audience_id):
            subscriptions.queue_members(connection, run.audience_id, now_ms=NOW_MS, at_most=2)
            sizes.append(backlog.count(connection, destination="late")[0])
        subscriptions.follow(connection, run.audience_id, [LATE], now_ms=NOW_MS)
        again = subscriptions.any_begun(connection, run.audience_id)
        later = started(connection, Computation.AUDIENCE)
        memberships.apply(connection, later, [Change(ChangeKind.EXITED, "a", None, None)])
        found = queued(connection)

    assert (sizes, again) == ([2, 4, 5], False)
    assert [(one[1], one[3]) for one in found] == [*((key, "entered") for key in "abcde"), ("a", "exited")]
    assert len({one[2] for one in found[:5]}) == 1
    assert found[0][2] < found[5][2]


def test_without_updates_none_is_queued(database: Database) -> None:
    """An audience with `send_updates = false` has no messages about them either."""
    with database.write() as connection:
        run = started(connection, Computation.AUDIENCE)
        memberships.apply(connection, run, [Change(ChangeKind.ENTERED, "a", None, None)])
        subscriptions.follow(connection, run.audience_id, [CRM], now_ms=NOW_MS)
        later = started(connection, Computation.AUDIENCE, send_updates=False)
        memberships.apply(connection, later, [Change(ChangeKind.UPDATED, "a", KEYS, None)])

        assert queued(connection) == []


def test_what_waits_for_a_destination_is_its_own(database: Database) -> None:
    """Neither the primary destination nor another one sees it, and all of it can be dropped."""
    with database.write() as connection:
        run = started(connection, Computation.AUDIENCE)
        subscriptions.follow(connection, run.audience_id, [CRM, LATE], now_ms=NOW_MS)
        memberships.apply(connection, run, [Change(ChangeKind.ENTERED, "a", None, None)])
        assert [backlog.count(connection, destination=name) for name in ("crm", "late")] == [(1, 0, 0)] * 2
        assert backlog.count(connection) == (1, 0, 0)  # in the outbox
        subscriptions.follow(connection, run.audience_id, [], now_ms=NOW_MS)
        assert subscriptions.destinations(connection) == ["crm", "late"]
        assert subscriptions.drop(connection, "crm") == 1
        assert subscriptions.destinations(connection) == ["late"]
        assert connection.execute(sa.text("SELECT * FROM open_events")).all() == []
