"""Runs that are not the daily ones: everything again, only a part, and the end of an audience."""

from __future__ import annotations

from typing import Any

import pytest

from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.errors import ConfigError, UnknownName
from audience_sync.store import audiences
from audience_sync.sync import retract
from tests.factories import company_identifiers
from tests.syncing import Syncing, people, replayed

pytestmark = pytest.mark.slow_on_postgres


def test_a_resync_says_everything_again(syncing: Syncing) -> None:
    """Every member and every remembered exit goes under a new generation, so that Schematic does not drop it."""
    syncing.sync([("u1", "c1"), ("u2", "c1"), ("gone", "c2"), ("back", "c3")])
    syncing.sync([("u1", "c1"), ("u2", "c1")])
    syncing.sync([("u1", "c1"), ("u2", "c1"), ("back", "c4")])
    syncing.clear_outbox()

    run = syncing.sync([("u1", "c1"), ("back", "c4"), ("new", None)], resync=True).run

    assert (run.kind, run.state) == (RunKind.RESYNC, RunState.SUCCEEDED)
    assert run.counts == Counts(read=3, entered=1, exited=1, unchanged=2)
    assert run.resent == 5
    assert {(key, o.value, o.identifiers) for key, o in syncing.outbox().items()} == {
        ("u1", "true", company_identifiers("c1")),
        ("back", "true", company_identifiers("c4")),
        ("new", "true", None),
        ("u2", "false", company_identifiers("c1")),
        ("gone", "false", company_identifiers("c2")),
    }
    assert {o.generation for o in syncing.outbox().values()} == {run.generation}


def test_a_resync_of_nothing_new_sends_all_the_same(syncing: Syncing) -> None:
    """Two resyncs in a row have two generations: the second is no repetition of the first."""
    first = syncing.sync(["u1"]).run
    second = syncing.sync(resync=True).run
    assert syncing.outbox()["u1"].generation == second.generation

    third = syncing.sync(resync=True).run

    assert first.generation < second.generation < third.generation == syncing.outbox()["u1"].generation
    assert third.counts == Counts(read=1, unchanged=1)


def test_a_resync_trusts_no_digest(syncing: Syncing) -> None:
    """A membership table that was tampered with is put right by a resync."""
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM memberships WHERE profile_key = 'u1'")
        audiences.add_members(connection, syncing.audience().id, -1)

    assert syncing.sync(resync=True).run.counts == Counts(read=2, entered=1, unchanged=1)
    assert set(syncing.members()) == {"u1", "u2"}


def test_a_resync_of_an_audience_never_synced_is_its_first_sync(syncing: Syncing) -> None:
    """Nothing was sent before, so there is nothing to say again."""
    run = syncing.sync(["u1"], resync=True).run

    assert (run.kind, run.resent, set(syncing.outbox())) == (RunKind.INITIAL, 0, {"u1"})


def test_a_limited_first_run_is_gone_on_with(syncing: Syncing) -> None:
    """A run that its limit cuts leaves the audience incomplete, and the first one that is not cut completes it."""
    first = syncing.sync([(key, "c1") for key in people(range(500))], limit=10).run
    assert (first.state, first.counts.entered, first.reason) == (RunState.SUCCEEDED, 10, "at most 10 changes")
    assert len(syncing.members()) == len(syncing.outbox()) == 10
    assert not syncing.audience().completed

    second = syncing.sync(limit=489).run
    assert (second.kind, second.counts.entered) == (RunKind.INITIAL, 489)
    assert not syncing.audience().completed
    third = syncing.sync(limit=1000).run
    fourth = syncing.sync().run

    assert (third.kind, third.counts) == (RunKind.INITIAL, Counts(read=500, entered=1, unchanged=499))
    assert (fourth.kind, fourth.counts) == (RunKind.INCREMENTAL, Counts(read=500, unchanged=500))
    assert syncing.audience().completed
    assert replayed(syncing.database) == syncing.members()
    assert len(syncing.outbox()) == 500


@pytest.mark.parametrize("limit", [0, 7, 51])
def test_a_limited_run_applies_so_many_changes(syncing: Syncing, limit: int) -> None:
    """No more changes than asked for are made, and the next full run makes the rest of them."""
    syncing.sync([(key, "c1") for key in people(range(40))])
    syncing.clear_outbox()
    orders = [(key, "c2") for key in people(range(10, 30))] + [(key, "c1") for key in people(range(30, 60))]

    part = syncing.sync(orders, limit=limit).run

    assert part.counts.changed == len(syncing.outbox()) == min(limit, 50)
    rest = syncing.sync().run
    assert part.counts.changed + rest.counts.changed == 50
    assert syncing.members() == {key: company_identifiers(company) for key, company in orders}
    assert syncing.sync().run.counts == Counts(read=50, unchanged=50)
    assert replayed(syncing.database) == syncing.members()


def test_a_run_for_one_person(syncing: Syncing) -> None:
    """`only` changes that profile and no other, whatever else changed, and the next full run changes the others."""
    syncing.sync(people(range(50)))
    syncing.clear_outbox()

    run = syncing.sync(people(range(1, 60)), only="u0").run
    assert (run.counts.exited, run.counts.changed, set(syncing.outbox())) == (1, 1, {"u0"})
    assert run.reason == "only u0"
    assert set(syncing.members()) == set(people(range(1, 50)))
    assert syncing.sync(only="u55").run.counts.changed == 1
    assert syncing.sync(only="nobody").run.counts.changed == 0

    assert syncing.sync().run.counts == Counts(read=59, entered=9, unchanged=50)
    assert set(syncing.members()) == set(people(range(1, 60)))


def test_a_part_does_not_move_the_definition_on(syncing: Syncing) -> None:
    """What a limited run stood for is not what the audience stands for."""
    whole = syncing.sync(["u1"]).run
    syncing.configure(sql="SELECT customer_id AS user_id, company_id FROM orders")
    syncing.sync(only="u1")

    assert syncing.audience().applied_as_of == whole.as_of
    assert syncing.sync().run.definition_changed


@pytest.mark.parametrize("wanted", [{"only": "u1"}, {"limit": 1}])
def test_a_limited_resync_is_limited(syncing: Syncing, wanted: dict[str, Any]) -> None:
    """Sending one person again does not send everybody again (or is refused)."""
    syncing.sync(people(range(50)))
    syncing.clear_outbox()
    try:
        syncing.sync(resync=True, **wanted)
    except ConfigError:
        return

    assert len(syncing.outbox()) <= 1


def test_retracting(syncing: Syncing) -> None:
    """Every member is told false with the identifiers last seen, the audience is empty, and its key is closed."""
    syncing.sync([("u1", "c1"), ("u2", None), ("gone", None)])
    syncing.sync([("u1", "c1"), ("u2", None)])
    syncing.clear_outbox()
    syncing.shop.execute("DROP TABLE orders")

    run = syncing.retract()

    assert (run.kind, run.state, run.counts) == (RunKind.RETRACT, RunState.SUCCEEDED, Counts(exited=2))
    assert syncing.members() == replayed(syncing.database) == {}
    assert {(key, o.value, o.identifiers, o.generation) for key, o in syncing.outbox().items()} == {
        ("u1", "false", company_identifiers("c1"), run.generation),
        ("u2", "false", None, run.generation),
    }
    assert syncing.audience().state == "retired"


def test_a_retired_key_is_never_used_again(syncing: Syncing) -> None:
    """A sync of a retired audience is refused and sends nothing."""
    syncing.sync(["u1"])
    syncing.retract()
    before = syncing.outbox()

    with pytest.raises(ConfigError, match="is retired and cannot be used again"):
        syncing.sync(["u1", "u2"])
    assert (syncing.members(), syncing.outbox()) == ({}, before)


def test_retracting_twice_is_harmless(syncing: Syncing) -> None:
    """A second retraction finds nobody and sends nothing."""
    syncing.sync(["u1"])
    syncing.retract()
    before = syncing.outbox()

    again = syncing.retract()

    assert (again.state, again.counts) == (RunState.SUCCEEDED, Counts())
    assert syncing.outbox() == before


def test_retracting_what_was_never_synced_is_refused(syncing: Syncing) -> None:
    """A mistyped audience gets a sentence."""
    with pytest.raises(UnknownName, match="no audience 'none'"):
        retract(syncing.workspace, "none")


def test_a_retraction_in_several_commits(syncing: Syncing) -> None:
    """A large audience is retracted piece by piece, and everybody is counted."""
    syncing.tune(changes_per_commit=7)
    syncing.sync(people(range(50)))

    assert syncing.retract().counts == Counts(exited=50)
    assert {o.value for o in syncing.outbox().values()} == {"false"}


def test_a_paused_audience_is_not_synced(syncing: Syncing) -> None:
    """A pause stops syncs with the remedy, and after it the audience goes on where it was."""
    syncing.sync(["u1"])
    with syncing.database.write() as connection:
        audiences.set_state(connection, 1, "paused")
    with pytest.raises(ConfigError, match="is paused") as caught:
        syncing.sync(["u2"])
    assert "audience-sync resume" in str(caught.value.hint)

    with syncing.database.write() as connection:
        audiences.set_state(connection, 1, "active")
    assert syncing.sync().run.counts == Counts(read=1, entered=1, exited=1)
