"""The guard in a sync: what it stops, what a person's yes does, and when it is too late for a yes."""

from __future__ import annotations

import pytest

from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.errors import ApprovalRefused, SourceError, UnknownName
from audience_sync.store import audiences
from audience_sync.sync import approve
from audience_sync.sync.approval import newest_blocked
from tests.factories import AUDIENCE_KEY, company_identifiers
from tests.syncing import Syncing, people, replayed

pytestmark = pytest.mark.slow_on_postgres

HUNDRED = people(range(100))


@pytest.mark.parametrize(
    ("orders", "guard", "setting"),
    [
        (people(range(69)), {}, "max_exit_percent"),
        ([], {}, "max_exit_percent"),
        (people(range(301)), {}, "max_entry_percent"),
        ([(key, "c1") for key in HUNDRED], {"max_update_percent": 99}, "max_update_percent"),
        (people(range(95)), {"max_exit_percent": 4.9}, "max_exit_percent"),
    ],
)
def test_a_guard_stops_a_run(syncing: Syncing, orders: list[str], guard: dict[str, float], setting: str) -> None:
    """A source that suddenly says something very different changes no membership, sends nothing, and says why."""
    syncing.sync(HUNDRED)
    syncing.clear_outbox()
    syncing.configure(guard=guard)

    run = syncing.sync(orders).run

    assert run.state is RunState.BLOCKED
    assert setting in str(run.reason)
    assert run.finished_at is None
    assert syncing.members() == dict.fromkeys(HUNDRED)
    assert syncing.outbox() == {}
    assert syncing.audience().applied_as_of == syncing.run(1).as_of
    assert syncing.plan()[0].refusals == [run.reason]


def test_within_the_limits_nothing_is_asked(syncing: Syncing) -> None:
    """Exactly the limit is allowed, and a small audience is not guarded."""
    syncing.sync(HUNDRED)

    assert syncing.sync(people(range(70))).run.state is RunState.SUCCEEDED
    assert syncing.sync([]).run.state is RunState.SUCCEEDED


def test_a_yes_applies_exactly_the_plan(syncing: Syncing) -> None:
    """What was shown is done, though the source says something else by now; it is newer than all that was sent."""
    syncing.sync([(key, "c1") for key in HUNDRED])
    syncing.clear_outbox()
    blocked = syncing.sync([("u0", "c2"), ("new", None)]).run
    syncing.shop.set_orders(["somebody", "else"])

    run = syncing.approve(blocked)

    assert (run.state, run.counts) == (RunState.SUCCEEDED, Counts(read=2, entered=1, exited=99, updated=1))
    assert run.generation > blocked.generation
    assert syncing.members() == {"u0": company_identifiers("c2"), "new": None}
    assert {key: o.value for key, o in syncing.outbox().items()} == {
        **dict.fromkeys(HUNDRED, "false"),
        "u0": "true",
        "new": "true",
    }
    assert {o.generation for o in syncing.outbox().values()} == {run.generation}
    assert syncing.query("SELECT * FROM staged") == []
    assert replayed(syncing.database) == syncing.members()
    assert syncing.audience().applied_as_of == blocked.as_of
    assert syncing.query("SELECT approved_at FROM runs WHERE id = 2")[0][0] == syncing.workspace.clock.now_ms()


def test_after_a_yes_syncs_go_on(syncing: Syncing) -> None:
    """The digests that a plan carries are those of its outcome: the next sync compares with it."""
    syncing.sync(HUNDRED)
    syncing.approve(syncing.sync(["u1", "new"]).run)

    assert syncing.sync().run.counts == Counts(read=2, unchanged=2)
    assert syncing.sync(["u1", "u2"]).run.counts == Counts(read=2, entered=1, exited=1, unchanged=1)


def test_a_second_yes_changes_nothing(syncing: Syncing) -> None:
    """An approval that died after its last commit may be said again: the run is as it was, and delivery goes on."""
    syncing.sync(HUNDRED)
    run = syncing.approve(syncing.sync([]).run)
    outbox = syncing.outbox()

    assert syncing.approve(run) == run
    assert syncing.outbox() == outbox


def test_who_asks_for_the_blocked_run_of_an_audience_learns_of_the_approval(syncing: Syncing) -> None:
    """Approved by the audience's name twice, the second one says when the plan was applied."""
    syncing.sync(HUNDRED)
    run = syncing.approve(syncing.sync([]).run)
    with syncing.workspace.database.read() as connection:
        audience = audiences.by_key(connection, AUDIENCE_KEY)
        with pytest.raises(ApprovalRefused) as caught:
            newest_blocked(connection, audience)

    assert str(caught.value) == (
        f"no run of {AUDIENCE_KEY} is blocked: run {run.id} was approved at 2026-03-31 12:03:00Z"
    )


def test_what_was_never_blocked_is_refused(syncing: Syncing) -> None:
    """A yes to a run that needed none is refused, with where to look."""
    run = syncing.sync(HUNDRED).run

    with pytest.raises(ApprovalRefused) as caught:
        syncing.approve(run)
    assert str(caught.value) == "run 1 cannot be approved: it was not blocked, and its changes were applied"
    assert caught.value.hint == f"no run of {AUDIENCE_KEY} is blocked now"


def test_a_failed_run_is_refused_with_its_reason(syncing: Syncing) -> None:
    """A run that failed has no plan; the reason says why, and the hint names the run that has one."""
    syncing.sync(HUNDRED)
    syncing.sync([])
    syncing.shop.execute("DROP TABLE orders")
    with pytest.raises(SourceError):
        syncing.sync()

    with pytest.raises(
        ApprovalRefused, match=r"^run 3 cannot be approved: it failed: .*no such table: orders"
    ) as caught:
        syncing.approve(syncing.run(3))
    assert caught.value.hint == (
        f"run 2 is blocked now; review it with `audience-sync plan {AUDIENCE_KEY}`, then run `audience-sync approve 2`"
    )


def test_a_newer_plan_takes_the_place_of_an_older(syncing: Syncing) -> None:
    """One plan waits for each audience: the newest; a yes to an older one is refused with the newer's number."""
    syncing.sync(HUNDRED)
    older = syncing.sync([]).run
    newer = syncing.sync(["u1"]).run

    assert (newer.state, syncing.run(older.id).state) == (RunState.BLOCKED, RunState.SUPERSEDED)
    with pytest.raises(ApprovalRefused) as caught:
        syncing.approve(older)
    assert str(caught.value) == "run 2 cannot be approved: it was superseded by run 3"
    assert caught.value.hint == (
        f"run 3 is blocked now; review it with `audience-sync plan {AUDIENCE_KEY}`, then run `audience-sync approve 3`"
    )
    assert {row[0] for row in syncing.query("SELECT run_id FROM staged")} == {newer.id}
    syncing.approve(newer)
    assert set(syncing.members()) == {"u1"}


@pytest.mark.parametrize("orders", [HUNDRED, people(range(99))])
def test_a_run_that_goes_through_ends_the_wait(syncing: Syncing, orders: list[str]) -> None:
    """When the source is well again the plan of its bad hour cannot be approved any more."""
    syncing.sync(HUNDRED)
    blocked = syncing.sync([]).run
    syncing.sync(orders)

    assert syncing.run(blocked.id).state is RunState.SUPERSEDED
    with pytest.raises(ApprovalRefused, match="superseded by run 3"):
        syncing.approve(blocked)
    assert set(syncing.members()) == set(orders)


def test_a_failed_run_leaves_the_plan(syncing: Syncing) -> None:
    """A source that breaks after a plan was made takes nothing of it away."""
    syncing.sync(HUNDRED)
    blocked = syncing.sync(["u1"]).run
    syncing.shop.execute("DROP TABLE orders")
    with pytest.raises(SourceError):
        syncing.sync()

    assert syncing.approve(blocked).state is RunState.SUCCEEDED
    assert set(syncing.members()) == {"u1"}


def test_a_run_that_died_while_staging_leaves_the_plan(syncing: Syncing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that staged something and failed changed nothing: the plan before it is still good."""
    syncing.sync(HUNDRED)
    blocked = syncing.sync(["u1"]).run
    monkeypatch.setattr("audience_sync.sync.run.guard", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        syncing.sync(["u2"])

    assert syncing.run(3).counts.changed > 0
    assert {row[0] for row in syncing.query("SELECT run_id FROM staged")} == {blocked.id}
    assert syncing.approve(blocked).state is RunState.SUCCEEDED


def test_a_first_run_that_finds_too_few_is_stopped(syncing: Syncing) -> None:
    """With a least size nothing of a first run is committed before it is known to be large enough."""
    syncing.configure(guard={"min_initial_members": 10})
    blocked = syncing.sync(people(range(9))).run

    assert (blocked.kind, blocked.state) == (RunKind.INITIAL, RunState.BLOCKED)
    assert syncing.members() == {}
    assert syncing.outbox() == {}
    run = syncing.approve(blocked)
    assert (run.state, set(syncing.members())) == (RunState.SUCCEEDED, set(people(range(9))))
    assert syncing.sync().run.kind is RunKind.INCREMENTAL


def test_a_first_run_that_finds_enough_goes_through(syncing: Syncing) -> None:
    """The next first run is asked anew, and takes the place of the blocked one."""
    syncing.configure(guard={"min_initial_members": 10})
    blocked = syncing.sync(people(range(9))).run
    run = syncing.sync(people(range(10))).run

    assert (run.kind, run.state) == (RunKind.INITIAL, RunState.SUCCEEDED)
    assert syncing.run(blocked.id).state is RunState.SUPERSEDED
    assert len(syncing.members()) == 10


def test_a_first_run_without_a_least_size_ends_the_wait(syncing: Syncing) -> None:
    """When the least size is taken out of the file the blocked run does not stay blocked for ever."""
    syncing.configure(guard={"min_initial_members": 10})
    blocked = syncing.sync(["u1"]).run
    syncing.configure()
    syncing.sync(["u1"])

    assert syncing.run(blocked.id).state is RunState.SUPERSEDED


def test_a_failed_first_run_leaves_the_plan_of_a_first_run(syncing: Syncing) -> None:
    """A first run that failed while reading changed nothing: the plan of the one before is still good."""
    syncing.configure(guard={"min_initial_members": 10})
    blocked = syncing.sync(["u1"]).run
    syncing.shop.execute("DROP TABLE orders")
    with pytest.raises(SourceError):
        syncing.sync()

    assert syncing.approve(blocked).state is RunState.SUCCEEDED


def test_a_least_size_is_not_of_a_part(syncing: Syncing) -> None:
    """A first try of a few members of a large audience is not stopped for being few."""
    syncing.configure(guard={"min_initial_members": 10})

    assert syncing.sync(people(range(20)), limit=5).run.state is RunState.SUCCEEDED


def test_a_limit_that_cuts_nothing_is_a_whole_run(syncing: Syncing) -> None:
    """All changes fit into the limit, so the audience is complete with the run, as without a limit."""
    syncing.sync(people(range(150)), limit=149)
    assert not syncing.audience().completed
    first = syncing.sync(limit=1).run
    later = syncing.sync(people(range(149)), limit=1).run

    assert [(run.kind, run.partial, run.reason) for run in (first, later)] == [
        (RunKind.INITIAL, False, None),
        (RunKind.INCREMENTAL, False, None),
    ]
    assert syncing.audience().applied_as_of == later.as_of


def test_a_limit_that_cuts_nothing_is_guarded_as_a_whole_run(syncing: Syncing) -> None:
    """A least size is that of everybody, and a plan within the limit can be blocked and approved as a whole."""
    syncing.configure(guard={"min_initial_members": 10})
    blocked = syncing.sync(people(range(9)), limit=9).run

    assert (blocked.state, blocked.partial) == (RunState.BLOCKED, False)
    syncing.approve(blocked)
    assert syncing.audience().completed


def test_a_first_run_that_goes_on_does_not_empty_the_audience(syncing: Syncing) -> None:
    """A first run that died half-way, or a try with `--limit`, left members: an empty result keeps them."""
    syncing.sync(people(range(300)), limit=200)
    assert not syncing.audience().completed

    syncing.sync([])

    assert len(syncing.members()) == 200


def test_a_resync_is_guarded_and_approved_whole(syncing: Syncing) -> None:
    """A blocked resync sends everything again once it is approved, under its new generation."""
    syncing.sync(HUNDRED)
    syncing.clear_outbox()
    blocked = syncing.sync(["u1", "u2"], resync=True).run
    assert (blocked.kind, blocked.state, syncing.outbox()) == (RunKind.RESYNC, RunState.BLOCKED, {})

    run = syncing.approve(blocked)

    assert (run.state, run.resent) == (RunState.SUCCEEDED, 100)
    assert {key: o.value for key, o in syncing.outbox().items()} == {
        **dict.fromkeys(HUNDRED, "false"),
        "u1": "true",
        "u2": "true",
    }
    assert {o.generation for o in syncing.outbox().values()} == {run.generation}


def test_a_retired_audience_is_not_approved(syncing: Syncing) -> None:
    """A retraction drops the plan that waits."""
    syncing.sync(HUNDRED)
    blocked = syncing.sync(people(range(500))).run
    syncing.retract()

    with pytest.raises(ApprovalRefused, match="superseded"):
        syncing.approve(blocked)
    assert syncing.members() == {}


def test_a_run_that_does_not_exist_is_not_approved(syncing: Syncing) -> None:
    """A mistyped number gets a sentence."""
    with pytest.raises(UnknownName, match="no run 99"):
        approve(syncing.workspace, 99)
