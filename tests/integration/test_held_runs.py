"""A dependent audience does not get ahead of the audience it uses: it is held while that is not in order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from audience_sync.audiences.definition import statement_of
from audience_sync.checks.check_audiences import look
from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.errors import QueryError
from audience_sync.store import audiences
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, approve, retract, sync
from tests.chains import EVERYBODY, ON_SQLITE, QUIET, SPEND, SPENDERS, TOP, Chain, set_spend, states
from tests.factories import NOON, FrozenClock, Shop

pytestmark = pytest.mark.slow_on_postgres

QUIET_ONES = {"u10", "u11", "u12"}
GOOD = {"spenders": "succeeded", "quiet_spenders": "succeeded"}
HELD = {"spenders": "blocked", "quiet_spenders": "held"}
BLOCKED_SPENDERS = "audience `spenders` is blocked (run 3); resolve it with `audience-sync approve spenders`"


@pytest.fixture
def chain(workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path) -> Chain:
    """Return a chain of two audiences on a database of each kind, synced once."""
    made = Chain(workspace, clock, shop, tmp_path)
    assert states(made.sync("quiet_spenders")) == GOOD
    return made


def held_run(chain: Chain, key: str = "quiet_spenders") -> RunRow:
    """Sync an audience, and return its run after checking that it is held, and that plan and status say the same."""
    planned = chain.plan(key)[key]
    run = chain.sync(key)[key]

    assert isinstance(run, RunRow)
    assert run.state is RunState.HELD
    assert chain.held()[key] == run.reason
    assert planned.held is not None
    assert planned.counts == run.counts == Counts()
    return run


@ON_SQLITE
def test_what_is_used_is_synced_first_as_of_the_same_instant(chain: Chain) -> None:
    """A sync by name brings along everything that is used, in order, and all of it has one instant."""
    chain.configure(top=TOP)

    done = chain.sync("top")

    assert list(done) == ["spenders", "quiet_spenders", "top"]
    assert {run.as_of for run in done.values() if isinstance(run, RunRow)} == {
        int((NOON + timedelta(minutes=2)).timestamp() * 1000)
    }
    assert chain.members("top") == {"u11", "u12"}


def test_a_guard_that_blocks_what_is_used_holds_the_dependent(chain: Chain) -> None:
    """An edited definition, or a source that changed, is not used before somebody has accepted it."""
    chain.configure(spenders=EVERYBODY)

    assert states(chain.sync("quiet_spenders")) == HELD
    run = held_run(chain)

    assert run.reason == BLOCKED_SPENDERS
    assert chain.members("quiet_spenders") == QUIET_ONES


@ON_SQLITE
def test_a_source_that_blocks_what_is_used_is_not_read_for_others(chain: Chain) -> None:
    """Though the dependent is due first, the guard of what it uses sees a truncated source before it does."""
    set_spend(chain.shop, SPEND[:-2])  # two of four spenders are gone

    assert chain.plan("quiet_spenders")["quiet_spenders"].held == (
        "audience `spenders` would be blocked by a guard; review it with `audience-sync plan spenders`"
    )
    assert states(chain.sync("quiet_spenders")) == HELD
    assert chain.members("quiet_spenders") == QUIET_ONES


def test_approving_releases_the_dependent(chain: Chain) -> None:
    """Approved, what was blocked is used by the next sync; the dependent is due at once."""
    chain.configure(spenders=EVERYBODY)
    chain.sync("quiet_spenders")

    chain.clock.advance(timedelta(minutes=1))
    approve(chain.workspace, 3)

    assert chain.row("quiet_spenders").next_due_at == chain.workspace.clock.now_ms()
    assert chain.held() == {}
    assert states(chain.sync("quiet_spenders")) == GOOD
    assert len(chain.members("quiet_spenders")) == 13
    assert chain.runs("quiet_spenders")[1:] == [
        (
            4,
            "superseded",
            f"{BLOCKED_SPENDERS}; superseded by run 6",
        ),
        (6, "succeeded", None),
    ]


@ON_SQLITE
def test_a_plan_that_waits_for_an_approval_stays(chain: Chain) -> None:
    """Syncs of the dependent do not plan again what a person is looking at; a sync of itself does."""
    chain.configure(spenders=EVERYBODY)
    chain.sync("quiet_spenders")

    assert states(chain.sync("quiet_spenders")) == {"quiet_spenders": "held"}
    assert states(chain.sync("spenders", "quiet_spenders")) == HELD
    assert [run[:2] for run in chain.runs("spenders")] == [(1, "succeeded"), (3, "superseded"), (5, "blocked")]


def test_as_long_as_it_is_held_there_is_one_run(chain: Chain) -> None:
    """The row says since when it is held, as of which instant it was tried last, and the newest reason."""
    chain.configure(spenders=EVERYBODY)
    first = chain.sync("quiet_spenders")["quiet_spenders"]
    chain.clock.advance(timedelta(hours=2))
    again = chain.sync("spenders", "quiet_spenders", resync=True)["quiet_spenders"]

    assert isinstance(first, RunRow)
    assert isinstance(again, RunRow)
    assert again == first._replace(
        as_of=chain.workspace.clock.now_ms(),
        kind=RunKind.RESYNC,
        reason="audience `spenders` is blocked (run 5); resolve it with `audience-sync approve spenders`",
    )
    assert (first.id, first.kind, first.generation) == (4, RunKind.INCREMENTAL, 0)


def test_what_the_database_did_not_know_releases_its_dependents(
    workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path
) -> None:
    """An audience that was disabled before its first sync releases all that wait for it with its first success."""
    chain = Chain(workspace, clock, shop, tmp_path)
    chain.configure(top=TOP, settings={"spenders": "enabled = false"})
    assert states(chain.sync("top")) == {"quiet_spenders": "held", "top": "held"}

    chain.configure(top=TOP)
    assert states(chain.sync("spenders")) == {"spenders": "succeeded"}

    assert chain.row("quiet_spenders").next_due_at == chain.row("top").next_due_at == chain.workspace.clock.now_ms()


@ON_SQLITE
def test_only_an_audience_that_is_used_releases(chain: Chain) -> None:
    """The first success of another audience leaves those waiting that do not use it."""
    others = [
        '[[audiences]]\nname = "other"\nquery = "trait(\'spend\') > 1"',
        '[[audiences]]\nname = "off"\nquery = "trait(\'spend\') > 2"\nenabled = false',
    ]
    chain.configure(more="\n".join(others), quiet="trait('off') = true")
    assert states(chain.sync("quiet_spenders")) == {"quiet_spenders": "held"}

    assert states(chain.sync("other")) == {"other": "succeeded"}

    assert chain.row("quiet_spenders").next_due_at is None


@ON_SQLITE
def test_a_fault_is_said_of_the_query_that_has_it(chain: Chain) -> None:
    """A query that uses another is not blamed for it, however far away that is."""
    wrong = _BIG.replace("'spend'", "'wealth'")
    above = '[[audiences]]\nname = "above"\nquery = "trait(\'big\') = true"\n'
    chain.configure(quiet=QUIET, more=f"{wrong}\n{above}", top="trait('above') = true")

    for key in ("big", "above", "top"):
        with pytest.raises(QueryError, match=r"^the query of big, column 1: .* has no column `wealth`"):
            statement_of(chain.settings, chain.settings.audience(key), as_of=NOON)


@ON_SQLITE
def test_each_of_two_that_hold_an_audience_releases_it(chain: Chain) -> None:
    """One fails and the other is blocked: the first one is named, and each releases the dependent in turn."""
    both = {
        "quiet": "trait('spend') = 100",
        "more": _BIG,
        "top": "trait('quiet_spenders') = true AND trait('big') = true",
    }
    chain.configure(**{**both, "quiet": QUIET})
    assert set(states(chain.sync("top")).values()) == {"succeeded"}
    strict = {"quiet_spenders": "guard = { max_exit_percent = 10 }"}

    chain.configure(**{**both, "more": _BIG.replace("'spend'", "'wealth'")}, settings=strict)
    done = states(chain.sync("top"))
    assert (done["quiet_spenders"], done["top"]) == ("blocked", "held")
    assert "has no column `wealth`" in done["big"]
    failed = chain.runs("big")[-1][0]
    assert chain.held()["top"].startswith(f"audience `big` failed (run {failed}): the query of big, column 1: ")
    chain.configure(**both, settings=strict)
    done = states(chain.sync("big"))
    assert done == {"big": "succeeded"}
    blocked = chain.runs("quiet_spenders")[-1][0]
    assert states(chain.sync("top"))["top"] == "held"
    assert chain.held()["top"] == (
        f"audience `quiet_spenders` is blocked (run {blocked}); resolve it with `audience-sync approve quiet_spenders`"
    )
    approve(chain.workspace, blocked)

    assert chain.row("top").next_due_at == chain.workspace.clock.now_ms()
    assert states(chain.sync("top"))["top"] == "succeeded"


_BIG = '[[audiences]]\nname = "big"\nquery = "trait(\'spend\') >= 300"'


@ON_SQLITE
def test_a_paused_audience_holds_its_dependents(chain: Chain) -> None:
    """Paused, it is neither synced nor used, though it was accepted before; resumed, it is both."""
    chain.set_state("spenders", "paused")

    assert held_run(chain).reason == ("audience `spenders` is paused; resolve it with `audience-sync resume spenders`")
    chain.set_state("spenders", "active")
    assert chain.held() == {}
    assert states(chain.sync("quiet_spenders")) == GOOD


@ON_SQLITE
def test_an_audience_paused_before_its_first_sync_holds_its_dependents(
    workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path
) -> None:
    """It makes no difference whether what is paused was ever synced."""
    chain = Chain(workspace, clock, shop, tmp_path)
    with chain.database.write() as connection:
        one = chain.settings.audience("spenders")
        audiences.register(connection, key=one.key, name=one.name, now_ms=0, computation=one.computation)
    chain.set_state("spenders", "paused")

    assert "is paused" in str(held_run(chain).reason)


@ON_SQLITE
def test_a_failed_run_holds_the_dependent_until_the_next_one(chain: Chain) -> None:
    """What is used is tried first whenever the dependent is synced; while it fails, nothing is evaluated."""
    wrong = {"spenders": "guard = { max_exit_percent = 30 }\ncompany_keys = { groupId = 'nowhere' }"}
    chain.configure(settings=wrong)

    done = chain.sync("quiet_spenders")
    assert "has no column 'nowhere'" in str(done["spenders"])
    assert states(done)["quiet_spenders"] == "held"
    reason = (
        "audience `spenders` failed (run 3): [sources.shop.profiles] has no column 'nowhere', but"
        " `user_keys or company_keys` refers to it; fix the cause, then run `audience-sync sync spenders`"
    )
    assert chain.held() == {"quiet_spenders": reason}
    chain.configure()
    assert states(chain.sync("quiet_spenders")) == GOOD


@ON_SQLITE
def test_a_definition_that_was_accepted_once_is_not_accepted_for_ever(chain: Chain) -> None:
    """Edited back and forth, what is used counts as it is in the file; a plan of another definition holds nobody."""
    chain.configure(spenders=EVERYBODY)
    assert states(chain.sync("quiet_spenders")) == HELD

    chain.configure()
    assert chain.held() == {}
    assert states(chain.sync("quiet_spenders")) == GOOD
    assert chain.members("quiet_spenders") == QUIET_ONES

    chain.configure(spenders="trait('spend') >= 200")
    assert states(chain.sync("quiet_spenders")) == GOOD
    assert chain.members("quiet_spenders") == {"u11", "u12"}
    chain.configure()
    assert states(chain.sync("quiet_spenders")) == GOOD
    assert chain.members("quiet_spenders") == QUIET_ONES


@ON_SQLITE
def test_without_its_round_a_dependent_is_held(chain: Chain) -> None:
    """Whoever syncs a dependent alone does not get ahead: the instant and the definition must have been accepted."""
    chain.clock.advance(timedelta(minutes=1))
    behind = sync(chain.workspace, Job(settings=chain.settings, audience=chain.settings.audience("quiet_spenders"))).run
    chain.configure(spenders="trait('spend') >= 200")
    edited = sync(chain.workspace, Job(settings=chain.settings, audience=chain.settings.audience("quiet_spenders"))).run

    assert (behind.state, edited.state) == (RunState.HELD, RunState.HELD)
    assert behind.reason == (
        "audience `spenders` has not been synced as of the same instant; resolve it with `audience-sync sync spenders`"
    )
    assert edited.reason == (
        "audience `spenders` has not been synced with its current definition; resolve it with"
        " `audience-sync sync spenders`"
    )


@ON_SQLITE
def test_a_disabled_audience_holds_its_dependents(chain: Chain) -> None:
    """What is never synced is never accepted, whatever was before."""
    chain.configure(settings={"spenders": "enabled = false"})

    assert held_run(chain).reason == (
        "audience `spenders` is disabled; set `enabled = true`, then run `audience-sync sync quiet_spenders`"
    )


@ON_SQLITE
def test_a_retired_audience_holds_its_dependents(chain: Chain) -> None:
    """A retracted key says false to everybody; who still uses it in a query must say what is meant."""
    retract(chain.workspace, "spenders")

    assert held_run(chain).reason == (
        "audience `spenders` is retired; remove it from the query, then run `audience-sync sync quiet_spenders`"
    )


def test_an_audience_that_is_taken_out_of_the_file_holds_its_dependents(chain: Chain) -> None:
    """Its key does not become a trait of the profiles without a word; retracted, it does."""
    chain.configure(spenders=None)

    assert held_run(chain).reason == (
        "audience `spenders` is not in the configuration; add it again, or run `audience-sync retract spenders`"
    )
    chain.clock.advance(timedelta(minutes=1))
    retract(chain.workspace, "spenders")
    assert chain.row("quiet_spenders").next_due_at == chain.workspace.clock.now_ms()
    assert chain.held() == {}
    assert "has no column `spenders`" in str(chain.sync("quiet_spenders")["quiet_spenders"])


def test_a_limited_sync_accepts_nothing_for_others(chain: Chain) -> None:
    """Limited on purpose, what is used was not compared as a whole: the dependent is held, and synced by the next."""
    set_spend(chain.shop, [*SPEND, 300, 400])

    done = chain.sync("spenders", "quiet_spenders", limit=1)

    assert states(done) == {"spenders": "succeeded", "quiet_spenders": "held"}
    assert done["quiet_spenders"].reason == (  # type: ignore[union-attr]  # it is held, so there is a run
        "audience `spenders` was only partly synced (run 3); resolve it with `audience-sync sync spenders`"
    )
    assert chain.held() == {}  # a sync brings it along as a whole
    assert states(chain.sync("quiet_spenders")) == GOOD


@ON_SQLITE
def test_a_limit_that_cuts_nothing_holds_nobody(chain: Chain) -> None:
    """What is used was compared as a whole, so the dependent may be evaluated."""
    set_spend(chain.shop, [*SPEND, 300, 400])

    assert states(chain.sync("spenders", "quiet_spenders", limit=2)) == GOOD


@ON_SQLITE
def test_a_limited_sync_of_the_dependent_syncs_what_it_uses_as_a_whole(chain: Chain) -> None:
    """The limit is that of the audience that was named; what it uses is new or edited for nobody."""
    set_spend(chain.shop, [*SPEND, 300, 400])

    done = chain.sync("quiet_spenders", limit=1)
    chain.configure(spenders="trait('spend') >= 200")
    edited = chain.sync("quiet_spenders", only="u14")

    assert states(done) == GOOD
    assert [run.counts.entered for run in done.values() if isinstance(run, RunRow)] == [2, 1]
    assert states(edited) == {"quiet_spenders": "held"}
    assert "current definition" in str(chain.runs("quiet_spenders")[-1][2])


@ON_SQLITE
def test_another_instant(chain: Chain) -> None:
    """As of an instant for which what is used was accepted already it is not synced again, and never back in time."""
    then = NOON + timedelta(hours=1)

    assert states(chain.sync("spenders", as_of=then)) == {"spenders": "succeeded"}
    assert states(chain.sync("quiet_spenders", as_of=then)) == {"quiet_spenders": "succeeded"}
    later = chain.sync("quiet_spenders", as_of=then + timedelta(hours=1))
    assert states(later) == GOOD
    back = chain.sync("quiet_spenders", as_of=NOON, force=True)
    assert states(back) == {"quiet_spenders": "succeeded"}
    assert chain.row("spenders").applied_as_of == int((then + timedelta(hours=1)).timestamp() * 1000)


@ON_SQLITE
def test_a_clock_that_was_set_back(chain: Chain) -> None:
    """The instant of a round is not before that of any audience in it, so nobody in it is behind another."""
    chain.sync("spenders", as_of=NOON + timedelta(hours=1))

    done = chain.sync("quiet_spenders")

    assert states(done) == GOOD
    assert {run.as_of for run in done.values() if isinstance(run, RunRow)} == {
        int((NOON + timedelta(hours=1)).timestamp() * 1000)
    }


@ON_SQLITE
def test_a_resync_of_the_dependent_is_none_of_what_it_uses(chain: Chain) -> None:
    """Only what was named sends everything again."""
    done = chain.sync("quiet_spenders", resync=True)

    assert [run.kind for run in done.values() if isinstance(run, RunRow)] == [RunKind.INCREMENTAL, RunKind.RESYNC]


def test_a_chain_is_held_by_its_root(chain: Chain) -> None:
    """Each link names what holds all of them, and how it comes to use it; one approval releases all."""
    chain.configure(top=TOP)
    chain.sync("top")
    chain.configure(top=TOP, spenders=EVERYBODY)

    assert states(chain.sync("top")) == {"spenders": "blocked", "quiet_spenders": "held", "top": "held"}
    blocked = chain.runs("spenders")[-1][0]
    resolve = f"is blocked (run {blocked}); resolve it with `audience-sync approve spenders`"
    assert chain.held() == {
        "quiet_spenders": f"audience `spenders` {resolve}",
        "top": f"audience `spenders` (used by `quiet_spenders`) {resolve}",
    }
    assert held_run(chain, "top").reason == chain.held()["top"]
    approve(chain.workspace, blocked)
    now = chain.workspace.clock.now_ms()
    assert [chain.row(key).next_due_at for key in ("top", "quiet_spenders")] == [now, now]
    assert states(chain.sync("top")) == {**GOOD, "top": "succeeded"}


@ON_SQLITE
def test_a_link_that_its_own_guard_blocks_holds_the_next(chain: Chain) -> None:
    """What is in the middle of a chain may be what holds its end, and not its beginning."""
    strict = {"quiet_spenders": "guard = { max_exit_percent = 10 }"}
    chain.configure(top=TOP, settings=strict)
    chain.sync("top")
    chain.configure(top=TOP, settings=strict, quiet=f"{QUIET} AND trait('spend') > 100")

    assert states(chain.sync("top")) == {"spenders": "succeeded", "quiet_spenders": "blocked", "top": "held"}
    assert str(held_run(chain, "top").reason).startswith("audience `quiet_spenders` is blocked (run ")


@ON_SQLITE
def test_a_computed_trait_holds_the_audience_that_uses_it(chain: Chain) -> None:
    """A computed trait is used, accepted and released as an audience is."""
    trait = "[[traits]]\nname = 'Doubled'\nquery = \"trait('spend')\"\ntype = 'number'"
    quiet = "trait('doubled') >= 100 AND trait('spend') < 500"
    chain.configure(quiet=quiet, more=trait)
    assert states(chain.sync("quiet_spenders")) == {"doubled": "succeeded", "quiet_spenders": "succeeded"}
    chain.set_state("doubled", "paused")

    assert held_run(chain).reason == (
        "computed trait `doubled` is paused; resolve it with `audience-sync resume doubled`"
    )


@ON_SQLITE
def test_the_plan_of_a_dependent_says_what_its_sync_does(chain: Chain) -> None:
    """Planned together, an edited definition that no guard blocks is as good as synced."""
    chain.configure(spenders="trait('spend') >= 200")

    planned = chain.plan("quiet_spenders")
    done = chain.sync("quiet_spenders")

    assert {key: one.held for key, one in planned.items()} == {"spenders": None, "quiet_spenders": None}
    assert {key: one.counts for key, one in planned.items()} == {
        key: run.counts for key, run in done.items() if isinstance(run, RunRow)
    }


@ON_SQLITE
def test_what_holds_is_not_hidden_by_a_plan_of_it(chain: Chain) -> None:
    """A paused audience can be planned, and is not synced by that: who uses it stays held in the plan, too."""
    chain.set_state("spenders", "paused")

    assert "is paused" in str(chain.plan("spenders", "quiet_spenders")["quiet_spenders"].held)


@ON_SQLITE
def test_a_first_sync_that_died_does_not_count(
    workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path
) -> None:
    """What has never been synced as a whole is not used, though some of its members are known."""
    chain = Chain(workspace, clock, shop, tmp_path)
    done = chain.sync("spenders", "quiet_spenders", limit=2)

    assert states(done) == {"spenders": "succeeded", "quiet_spenders": "held"}
    assert chain.members("quiet_spenders") == set()
    assert "was only partly synced (run 1)" in str(chain.runs("quiet_spenders")[-1][2])


def test_retracting_what_is_held_ends_the_run(chain: Chain) -> None:
    """No run of a retired audience is left open."""
    chain.set_state("spenders", "paused")
    held_run(chain)

    retract(chain.workspace, "quiet_spenders")

    assert [state for _, state, _ in chain.runs("quiet_spenders")] == ["succeeded", "superseded", "succeeded"]


@ON_SQLITE
def test_a_paused_dependent_brings_nothing_along(chain: Chain) -> None:
    """A sync that is refused syncs nothing else, either."""
    chain.set_state("quiet_spenders", "paused")

    assert states(chain.sync("quiet_spenders")) == {"quiet_spenders": "audience 'quiet_spenders' is paused"}


@ON_SQLITE
def test_check_finds_what_would_hold(chain: Chain) -> None:
    """What a person must resolve before a sync is named with its remedy; without a database there is nothing to say."""
    chain.configure(settings={"spenders": "enabled = false"})
    found = list(look(chain.settings, chain.database, now=NOON))
    without = list(look(chain.settings, None, now=NOON))

    assert [(one.message, one.remedy) for one in found if one.subject == "quiet_spenders"][1:] == [
        (
            "the next sync would be held: audience `spenders` is disabled",
            "set `enabled = true`, then run `audience-sync sync quiet_spenders`",
        )
    ]
    assert [one.subject for one in without] == ["shop", "quiet_spenders", "spenders"]


@ON_SQLITE
def test_a_query_without_dependencies_is_never_held(chain: Chain) -> None:
    """Traits of the profiles are no audiences, and what uses others holds nobody who does not."""
    chain.set_state("quiet_spenders", "paused")

    assert states(chain.sync("spenders")) == {"spenders": "succeeded"}
    assert SPENDERS in chain.settings.audience("spenders").query  # type: ignore[operator]  # it has one


@ON_SQLITE
def test_an_instant_before_that_of_what_is_used_is_refused(chain: Chain) -> None:
    """What is used cannot be accepted for an earlier instant any more, so a dependent is not evaluated for it."""
    chain.sync("spenders")
    chain.configure(more='[[audiences]]\nname = "new"\nquery = "trait(\'spenders\') = true"')
    earlier = chain.workspace.clock.now() - timedelta(days=1)

    refused = chain.sync("new", as_of=earlier)["new"]
    assert "`spenders`, which `new` uses, was already synced as of " in str(refused)
    assert chain.members("new") == set()
    assert states(chain.sync("new", as_of=earlier, force=True)) == {"new": "succeeded"}
