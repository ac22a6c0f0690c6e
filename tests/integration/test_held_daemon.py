"""The daemon syncs audiences that use one another in rounds, and syncs what is held as soon as it is released."""

from __future__ import annotations

import threading
from collections.abc import MutableMapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from audience_sync.daemon.scheduler import BusyAudiences, Syncing
from audience_sync.daemon.troubles import Troubles
from audience_sync.store import audiences, leases, runs
from audience_sync.store.workspace import Workspace
from audience_sync.sync import approve
from audience_sync.tuning import DEFAULT_TUNING
from tests.chains import EVERYBODY, ON_SQLITE, QUIET, SPEND, TOP, Chain, set_spend
from tests.factories import FrozenClock, Shop

pytestmark = pytest.mark.slow_on_postgres

HOURLY = '[schedule]\nevery = "1h"\njitter = "0s"'
HOUR = timedelta(hours=1)
AGAIN = timedelta(seconds=DEFAULT_TUNING.lease_retry_seconds)
REASON = "audience `spenders` is blocked (run 3); resolve it with `audience-sync approve spenders`"


class Daemon:
    """The scheduler's side of a daemon whose jobs are fired by the test, one after the other."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.logged: list[MutableMapping[str, Any]] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew with the configuration as it is, as a daemon that was stopped and started."""
        chain = self.chain
        troubles = Troubles(chain.clock.monotonic)
        self.syncing = Syncing(chain.workspace, chain.settings, stop=threading.Event(), troubles=troubles)
        with chain.database.read() as connection:
            rows = {row.key: row for row in audiences.every(connection)}
        for one in chain.settings.audiences:
            if one.enabled:
                first = self.syncing._first_due(one, rows.get(one.key), chain.clock())
                self.syncing._audiences[one.key] = one
                self.syncing._schedule(one.key, first)

    def fire(self, key: str) -> None:
        """Fire the job of an audience, and keep what is logged."""
        with capture_logs() as logged:
            self.syncing._run(key)
        self.logged += logged

    def due(self, key: str) -> timedelta:
        """Return how long it takes until the job of an audience fires."""
        return self.syncing._due[key] - self.chain.clock()

    def events(self, name: str) -> list[tuple[str, str | None]]:
        """Return the audiences and reasons of what was logged under a name."""
        return [(line["audience"], line.get("reason")) for line in self.logged if line["event"] == name]


@pytest.fixture
def chain(workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path) -> Chain:
    """Return a chain of two audiences on a database of each kind that are due every hour, not yet synced."""
    made = Chain(workspace, clock, shop, tmp_path)
    made.configure(more=HOURLY)
    return made


@pytest.fixture
def daemon(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Return a daemon that has just started."""
    monkeypatch.setattr("audience_sync.daemon.scheduler.log", structlog.get_logger())  # not one that is cached
    return Daemon(chain)


def counted(chain: Chain) -> dict[str, int]:
    """Return how many runs each audience has."""
    return {one.key: len(chain.runs(one.key)) for one in chain.settings.audiences}


def test_one_round_syncs_what_is_due_in_order(daemon: Daemon, chain: Chain) -> None:
    """Whichever job fires first, each audience is synced once, behind what it uses, and stays due with the others."""
    daemon.fire("quiet_spenders")
    daemon.fire("spenders")

    assert counted(chain) == {"spenders": 1, "quiet_spenders": 1}
    assert daemon.events("sync_finished") == [("spenders", None), ("quiet_spenders", None)]
    assert (daemon.due("spenders"), daemon.due("quiet_spenders")) == (HOUR, HOUR)
    assert {row.as_of for row in _rows(chain)} == {chain.workspace.clock.now_ms()}


@ON_SQLITE
def test_a_dependent_that_is_due_alone_brings_along_what_it_uses(daemon: Daemon, chain: Chain) -> None:
    """What was brought along is due one interval later: nothing runs twice for one schedule."""
    chain.configure(more=HOURLY, settings={"spenders": 'schedule = { every = "3h" }'})
    daemon.restart()
    daemon.fire("spenders")
    chain.clock.advance(HOUR)
    daemon.fire("quiet_spenders")
    daemon.fire("spenders")

    assert counted(chain) == {"spenders": 2, "quiet_spenders": 2}
    assert (daemon.due("spenders"), daemon.due("quiet_spenders")) == (3 * HOUR, HOUR)


@ON_SQLITE
def test_what_is_used_is_due_without_its_dependents(daemon: Daemon, chain: Chain) -> None:
    """Nothing is synced because something it uses is due."""
    chain.configure(more=HOURLY, settings={"quiet_spenders": 'schedule = { every = "3h" }'})
    daemon.restart()
    daemon.fire("quiet_spenders")
    chain.clock.advance(HOUR)
    daemon.fire("spenders")

    assert counted(chain) == {"spenders": 2, "quiet_spenders": 1}


@ON_SQLITE
def test_a_blocked_audience_holds_its_dependents_on_their_schedule(daemon: Daemon, chain: Chain) -> None:
    """It is logged once, as a warning, and one run stands for all the tries; the schedule goes on."""
    daemon.fire("spenders")
    chain.configure(more=HOURLY, spenders=EVERYBODY, settings={"spenders": _SELDOM})
    daemon.restart()
    for _ in range(3):
        chain.clock.advance(HOUR)
        daemon.fire("quiet_spenders")

    assert daemon.events("sync_held") == [("quiet_spenders", REASON)]
    assert [line["log_level"] for line in daemon.logged if line["event"] == "sync_held"] == ["warning"]
    assert [run[:2] for run in chain.runs("quiet_spenders")] == [(2, "succeeded"), (4, "held")]
    assert [run[:2] for run in chain.runs("spenders")] == [(1, "succeeded"), (3, "blocked")]
    assert daemon.due("quiet_spenders") == HOUR


def test_an_approval_releases_the_dependent_at_once(daemon: Daemon, chain: Chain) -> None:
    """Another process approves; this one sees that the dependent is due, and syncs it with what was approved."""
    daemon.fire("spenders")
    chain.configure(more=HOURLY, spenders=EVERYBODY, settings={"spenders": _SELDOM})
    daemon.restart()
    chain.clock.advance(HOUR)
    daemon.fire("quiet_spenders")
    chain.clock.advance(timedelta(minutes=1))
    daemon.syncing.follow_releases()
    assert daemon.due("quiet_spenders") == HOUR - timedelta(minutes=1)

    approve(chain.workspace, 3)
    daemon.syncing.follow_releases()
    assert daemon.due("quiet_spenders") == timedelta()
    daemon.fire("quiet_spenders")

    assert len(chain.members("quiet_spenders")) == 13
    assert daemon.due("quiet_spenders") == HOUR
    events = [line["event"] for line in daemon.logged if line["event"] != "sync_recovered"]
    assert events[-3:] == ["sync_held", "sync_finished", "sync_finished"]


@ON_SQLITE
def test_a_release_within_a_round_does_not_put_the_dependent_off(
    daemon: Daemon, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an audience held is synced behind it in the same round, though the round has released it meanwhile."""
    daemon.fire("spenders")
    chain.configure(more=HOURLY, spenders=EVERYBODY)
    daemon.restart()
    chain.clock.advance(HOUR)
    daemon.fire("quiet_spenders")
    chain.configure(more=HOURLY)
    daemon.restart()
    chain.clock.advance(HOUR)
    stands = FrozenClock.__call__

    def ticking(clock: FrozenClock) -> datetime:
        clock.advance(timedelta(milliseconds=1))
        return stands(clock)

    monkeypatch.setattr(FrozenClock, "__call__", ticking)
    daemon.fire("quiet_spenders")

    assert [line["event"] for line in daemon.logged][-2:] == ["sync_finished", "sync_finished"]
    assert chain.runs("quiet_spenders")[-1][1] == "succeeded"


def test_a_release_that_comes_while_an_audience_is_held_is_not_lost(
    daemon: Daemon, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Approved between the look at what is used and the commit of the next due time, the dependent is due at once."""
    daemon.fire("spenders")
    chain.configure(more=HOURLY, spenders=EVERYBODY, settings={"spenders": _SELDOM})
    daemon.restart()
    chain.clock.advance(2 * HOUR)
    keep = daemon.syncing._keep

    def approve_before(key: str, *arguments: Any, **more: Any) -> None:
        if key == "quiet_spenders":
            approve(chain.workspace, 3)
        keep(key, *arguments, **more)

    monkeypatch.setattr(daemon.syncing, "_keep", approve_before)
    daemon.fire("quiet_spenders")

    assert chain.row("quiet_spenders").next_due_at == chain.workspace.clock.now_ms()
    daemon.syncing.follow_releases()
    assert daemon.due("quiet_spenders") == timedelta()


def test_a_held_audience_is_a_warning_for_each_cause(daemon: Daemon, chain: Chain) -> None:
    """The same cause is known at the next run; one in an audience whose key differs by a digit is not."""
    used = [f"[[audiences]]\nname = 'top_{n}'\nquery = \"trait('spend') >= 500\"\n" for n in (1, 2)]
    both = "[[audiences]]\nname = 'both'\nquery = \"trait('top_1') = true OR trait('top_2') = true\"\n"
    chain.configure(more=HOURLY + "\n" + "".join([*used, both]))
    daemon.restart()
    daemon.fire("both")
    for paused, resumed in (("top_1", None), (None, None), ("top_2", "top_1")):
        for key, state in ((paused, "paused"), (resumed, "active")):
            if key is not None:
                chain.set_state(key, state)
        chain.clock.advance(HOUR)
        daemon.fire("both")

    assert daemon.events("sync_held") == [
        ("both", f"audience `{key}` is paused; resolve it with `audience-sync resume {key}`")
        for key in ("top_1", "top_2")
    ]


def test_a_reload_in_the_middle_of_a_round(daemon: Daemon, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a round is evaluated by the new file only, once what it uses was accepted by the new file too."""
    attempt = daemon.syncing._attempt

    def reload_behind(*arguments: Any, **more: Any) -> object:
        monkeypatch.undo()
        done = attempt(*arguments, **more)
        chain.configure(more=HOURLY, spenders="trait('spend') >= 50", quiet=QUIET.replace("500", "150"))
        daemon.syncing.reload(chain.settings)
        return done

    monkeypatch.setattr(daemon.syncing, "_attempt", reload_behind)
    daemon.fire("quiet_spenders")

    assert counted(chain) == {"spenders": 1, "quiet_spenders": 0}
    assert chain.members("spenders") == {f"u{n}" for n in range(10, 14)}
    assert (daemon.due("spenders"), daemon.due("quiet_spenders")) == (timedelta(), AGAIN)

    daemon.fire("spenders")
    assert counted(chain) == {"spenders": 1, "quiet_spenders": 0}
    chain.clock.advance(AGAIN)
    daemon.fire("quiet_spenders")

    assert counted(chain) == {"spenders": 2, "quiet_spenders": 1}
    assert chain.members("spenders") == {f"u{n}" for n in range(5, 14)}
    assert chain.members("quiet_spenders") == {f"u{n}" for n in range(5, 11)}
    assert daemon.events("sync_held") == []


@ON_SQLITE
def test_a_dependent_that_a_reload_removes_in_the_middle_of_a_round(
    daemon: Daemon, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not evaluated, and no job of it is left."""
    chain.configure(more=HOURLY, top=TOP)
    daemon.restart()
    attempt = daemon.syncing._attempt

    def reload_behind(*arguments: Any, **more: Any) -> object:
        monkeypatch.undo()
        done = attempt(*arguments, **more)
        chain.configure(more=HOURLY)
        daemon.syncing.reload(chain.settings)
        return done

    monkeypatch.setattr(daemon.syncing, "_attempt", reload_behind)
    daemon.fire("top")

    assert chain.runs("top") == []
    assert daemon.syncing._due.keys() == {"spenders", "quiet_spenders"}
    assert daemon.syncing._scheduler.get_job("top") is None


@ON_SQLITE
def test_a_release_counts_once(daemon: Daemon, chain: Chain) -> None:
    """Where the next due time cannot be kept, an audience is not synced again every second."""
    daemon.fire("spenders")
    daemon.fire("quiet_spenders")
    with chain.database.write() as connection:
        runs.hold(connection, _held(chain))
        runs.release(connection, chain.row("spenders").id, now_ms=chain.workspace.clock.now_ms())
    daemon.syncing.follow_releases()
    assert daemon.due("quiet_spenders") == timedelta()

    daemon.syncing._schedule("quiet_spenders", chain.clock() + HOUR)
    daemon.syncing.follow_releases()

    assert daemon.due("quiet_spenders") == HOUR


@ON_SQLITE
def test_a_failed_run_is_tried_again_with_its_dependents(daemon: Daemon, chain: Chain) -> None:
    """One audience that fails does not end the round: what does not use it goes on, what does is held."""
    wrong = {"spenders": "company_keys = { groupId = 'nowhere' }"}
    other = "[[audiences]]\nname = 'rich'\nquery = \"trait('spend') > 500\"\n"
    both = "[[audiences]]\nname = 'both'\nquery = \"trait('rich') = true OR trait('spenders') = true\"\n"
    chain.configure(more=HOURLY + "\n" + other + both, settings=wrong)
    daemon.restart()
    daemon.fire("both")

    assert [audience for audience, _ in daemon.events("sync_failed")] == ["spenders"]
    assert daemon.events("sync_finished") == [("rich", None)]
    reason = (
        "audience `spenders` failed (run 1): [sources.shop.profiles] has no column 'nowhere', but `user_keys or"
        " company_keys` refers to it; fix the cause, then run `audience-sync sync spenders`"
    )
    assert sorted(daemon.events("sync_held")) == [("both", reason), ("quiet_spenders", reason)]


@ON_SQLITE
def test_what_another_process_works_on_is_waited_for(daemon: Daemon, chain: Chain) -> None:
    """While somebody syncs what is used, the dependent waits a few seconds, and is not held."""
    daemon.fire("spenders")
    chain.clock.advance(HOUR)
    lease = _lease_of_another(chain, "spenders")
    daemon.fire("quiet_spenders")

    assert counted(chain) == {"spenders": 1, "quiet_spenders": 1}
    assert daemon.due("quiet_spenders") == AGAIN
    with chain.database.write() as connection:
        leases.release(connection, lease)
    daemon.fire("quiet_spenders")
    assert counted(chain) == {"spenders": 2, "quiet_spenders": 2}


def test_what_another_daemon_has_synced_is_left_alone(daemon: Daemon, chain: Chain) -> None:
    """Two daemons on one database: the second finds that nothing is due, and when it is."""
    second = Daemon(chain)
    daemon.fire("quiet_spenders")
    second.fire("quiet_spenders")
    second.fire("spenders")

    assert counted(chain) == {"spenders": 1, "quiet_spenders": 1}
    assert (second.due("spenders"), second.due("quiet_spenders")) == (HOUR, HOUR)


@ON_SQLITE
def test_a_restart_in_the_middle_of_a_round_syncs_again(daemon: Daemon, chain: Chain) -> None:
    """What was accepted before the daemon died was so for an earlier instant; it comes first in the next round."""
    chain.sync("spenders")
    chain.clock.advance(HOUR)
    daemon.restart()
    daemon.fire("quiet_spenders")

    assert counted(chain) == {"spenders": 2, "quiet_spenders": 1}
    assert daemon.events("sync_held") == []


@ON_SQLITE
def test_a_paused_audience_is_not_brought_along(daemon: Daemon, chain: Chain) -> None:
    """A paused audience has no run, and its dependents are held until it is resumed."""
    chain.configure(more=HOURLY, top=TOP)
    daemon.restart()
    daemon.fire("top")
    chain.set_state("quiet_spenders", "paused")
    chain.clock.advance(HOUR)
    daemon.fire("top")

    assert counted(chain) == {"spenders": 2, "quiet_spenders": 1, "top": 2}
    assert daemon.events("sync_held") == [
        ("top", "audience `quiet_spenders` is paused; resolve it with `audience-sync resume quiet_spenders`")
    ]


@ON_SQLITE
def test_a_paused_dependent_brings_nothing_along(daemon: Daemon, chain: Chain) -> None:
    """What a paused audience uses is synced on its own schedule alone."""
    chain.configure(more=HOURLY, settings={"spenders": _SELDOM})
    daemon.restart()
    daemon.fire("spenders")
    chain.set_state("quiet_spenders", "paused")
    chain.clock.advance(HOUR)
    daemon.fire("quiet_spenders")

    assert counted(chain) == {"spenders": 1, "quiet_spenders": 1}
    assert daemon.due("quiet_spenders") == HOUR


@ON_SQLITE
def test_a_source_that_blocks_what_is_used_does_so_before_the_dependent_reads_it(daemon: Daemon, chain: Chain) -> None:
    """The dependent is due, what it uses is not for hours: still its guard sees the source first."""
    chain.configure(more=HOURLY, settings={"spenders": _SELDOM})
    daemon.restart()
    daemon.fire("spenders")
    chain.clock.advance(HOUR)
    set_spend(chain.shop, SPEND[:-2])
    daemon.fire("quiet_spenders")

    assert [state for _, state, _ in chain.runs("spenders")] == ["succeeded", "blocked"]
    assert [state for _, state, _ in chain.runs("quiet_spenders")] == ["succeeded", "held"]
    assert chain.members("quiet_spenders") == {"u10", "u11", "u12"}


def test_one_round_of_a_family_at_a_time() -> None:
    """A claim of keys fails as long as one of them is claimed, in whatever thread, and leaves nothing behind."""
    claims = BusyAudiences()
    seen = []

    def claim(*keys: str) -> None:
        with claims.claim(set(keys)) as is_free:
            seen.append(is_free)

    with claims.claim({"a", "b"}):
        for keys in (("b", "c"), ("c",), ("a",)):
            thread = threading.Thread(target=claim, args=keys)
            thread.start()
            thread.join()
    claim("a", "b", "c")

    assert seen == [False, True, False, True]


@ON_SQLITE
def test_the_job_of_an_audience_in_a_round_under_way_comes_again(daemon: Daemon, chain: Chain) -> None:
    """It does not wait in the thread of another audience, and finds the next due time a few seconds later."""
    with daemon.syncing._busy.claim({"quiet_spenders"}):
        daemon.fire("spenders")

    assert counted(chain) == {"spenders": 0, "quiet_spenders": 0}
    assert daemon.due("spenders") == AGAIN


_SELDOM = 'guard = { max_exit_percent = 30, max_entry_percent = 200 }\nschedule = { every = "9h" }'


def test_a_stale_source_is_logged_once_and_when_it_has_new_data(daemon: Daemon, chain: Chain) -> None:
    """Its audiences keep their schedules; each due sync asks again, and the first fresh answer ends it."""
    rule = 'freshness = "SELECT max(ordered_at) FROM orders"\nmax_age = "90m"'
    both = dict.fromkeys(("spenders", "quiet_spenders"), rule)
    chain.configure(more=HOURLY, settings=both)
    daemon.restart()
    load_now(chain)
    for _ in range(4):  # fresh, after one hour too; then stale
        daemon.fire("quiet_spenders")
        chain.clock.advance(HOUR)

    (stale,) = [line for line in daemon.logged if line["event"] == "source_stale"]
    assert (stale["log_level"], stale["source"], stale["run_id"]) == ("warning", "shop", 5)
    assert stale["reason"] == "the newest data of source `shop` is 2h old (2026-03-31 12:00:00Z), but max_age is 1h30m"
    assert [state for _, state, _ in chain.runs("spenders")] == ["succeeded", "succeeded", "stale", "stale"]
    assert [state for _, state, _ in chain.runs("quiet_spenders")] == ["succeeded", "succeeded", "held"]
    assert daemon.due("quiet_spenders") == timedelta()
    load_now(chain)
    daemon.fire("quiet_spenders")
    (fresh,) = [line for line in daemon.logged if line["event"] == "source_fresh"]
    assert (fresh["log_level"], fresh["source"], fresh["after_seconds"]) == ("info", "shop", 7200)
    assert [state for _, state, _ in chain.runs("quiet_spenders")][2:] == ["superseded", "succeeded"]


@ON_SQLITE
def test_an_audience_that_accepts_older_data_does_not_end_what_is_stale_for_others(
    daemon: Daemon, chain: Chain
) -> None:
    """Two maximum ages of one query are two rules: the log does not go back and forth between them."""
    query = 'freshness = "SELECT max(ordered_at) FROM orders"'
    patient = f'[[audiences]]\nname = "patient"\nquery = "trait(\'spend\') > 1"\n{query}\nmax_age = "9h"'
    chain.configure(more=f"{patient}\n{HOURLY}", settings={"spenders": f'{query}\nmax_age = "30m"'})
    load_now(chain)
    daemon.restart()
    for _ in range(3):
        chain.clock.advance(HOUR)
        daemon.fire("spenders")
        daemon.fire("patient")

    assert [line["event"] for line in daemon.logged if line["event"].startswith("source")] == ["source_stale"]
    assert [state for _, state, _ in chain.runs("patient")] == ["succeeded"] * 3
    assert [state for _, state, _ in chain.runs("spenders")] == ["stale"] * 3


def load_now(chain: Chain) -> None:
    """Load every order of the shop anew."""
    now = f"{chain.clock():%Y-%m-%d %H:%M:%S}"
    chain.shop.execute(f"UPDATE orders SET ordered_at = '{now}'")


def _rows(chain: Chain) -> list[runs.RunRow]:
    with chain.database.read() as connection:
        return [runs.get(connection, number) for number in (1, 2)]


def _held(chain: Chain) -> runs.NewRun:
    row = _rows(chain)[1]
    facts = {name: getattr(row, name) for name in runs.NewRun._fields}
    return runs.NewRun(**{**facts, "state": "held", "held_by": chain.row("spenders").id})


def _lease_of_another(chain: Chain, key: str) -> leases.Lease:
    with chain.database.write() as connection:
        now = chain.workspace.now_ms(connection)
        lease = leases.acquire(
            connection,
            [chain.row(key).id],
            holder="another",
            now_ms=now,
            expires_at=now + 600_000,
            dead=(),
        )
    assert lease is not None
    return lease
