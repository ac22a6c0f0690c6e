"""A source that stops receiving data: windows over it empty its audiences little by little, unless it has a rule."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import psycopg
import pytest

from audience_sync.config import Settings, load
from audience_sync.core.model import Counts, RunState
from audience_sync.errors import SourceError
from audience_sync.store import status_report
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, Plan, RunReport, plan, sync
from tests.chains import ON_SQLITE, SPEND, Chain, set_spend, states
from tests.factories import NOON, FrozenClock, Shop
from tests.syncing import query

HALF_AN_HOUR = timedelta(minutes=30)
PEOPLE = 12
ACTIVE = "query = \"event('Visited').within(6 hours).count() >= 1\""
RULE = """freshness = 'SELECT max("timestamp") FROM events'\nmax_age = "20m"\n"""

_CREATE = 'CREATE TABLE events (user_id TEXT, event TEXT, "timestamp" TIMESTAMP)'


def visits() -> list[tuple[str, str, str]]:
    """Return one visit of each person, half an hour apart, the last at noon."""
    return [(f"u{n}", "Visited", f"{NOON - n * HALF_AN_HOUR:%Y-%m-%d %H:%M:%S}") for n in range(PEOPLE)]


class Warehouse:
    """A source with the table `events`, loaded once."""

    def __init__(self, kind: str, folder: Path, postgres_url: Callable[[], str]) -> None:
        self._kind, self._folder = kind, folder
        self._url = postgres_url() if kind == "postgresql" else f"{kind}:///{folder / 'warehouse.db'}"
        self.execute(_CREATE)
        for row in visits():
            self.load(*row)

    def load(self, user: str, event: str, at: str) -> None:
        """Load an event."""
        self.execute(f"INSERT INTO events VALUES ('{user}', '{event}', '{at}')")

    def execute(self, statement: str) -> None:
        """Run a statement on the source."""
        path = self._folder / "warehouse.db"
        if self._kind == "postgresql":
            with psycopg.connect(self._url.replace("+psycopg", "")) as server:
                server.execute(statement.encode())
        elif self._kind == "duckdb":
            with duckdb.connect(path) as file:
                file.execute(statement)
        else:
            with closing(sqlite3.connect(path)) as lite, lite:
                lite.execute(statement)

    def settings(self, rule: str = "", audience: str = "") -> Settings:
        """Return a configuration with one audience of who visited in the last six hours."""
        path = self._folder / "config.toml"
        lines = [
            "[sources.warehouse]",
            f"url = {json.dumps(self._url)}",
            rule,
            '[sources.warehouse.events]\ntable = "events"',
            "[guard]\nmax_exit_percent = 30\nmin_members = 1",
            f'[[audiences]]\nname = "active"\n{ACTIVE}\n{audience}',
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        return load(path, {})


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """A source of each kind, whose newest data is from noon."""
    folder = tmp_path / "warehouse"
    folder.mkdir()
    return Warehouse(request.param, folder, lambda: str(request.getfixturevalue("postgres_url")))


def synced(workspace: Workspace, settings: Settings, **wanted: object) -> RunReport:
    """Sync the audience."""
    job = Job(settings=settings, audience=settings.audiences[0], **wanted)  # type: ignore[arg-type]
    return sync(workspace, job)


def members(workspace: Workspace) -> set[str]:
    """Return who is in."""
    return {row.profile_key for row in query(workspace.database, "SELECT profile_key FROM current_members")}


def everything(workspace: Workspace) -> list[object]:
    """Return all that a sync may change: members, history, and what is to be sent."""
    tables = ("memberships", "changes", "outbox", "staged", "digests")
    return [query(workspace.database, f"SELECT * FROM {table}") for table in tables]


def test_without_a_rule_a_stopped_pipeline_takes_people_out(
    workspace: Workspace, clock: FrozenClock, warehouse: Warehouse
) -> None:
    """One person after the other exits, which no percentage stops, and all of them are sent."""
    settings = warehouse.settings()
    assert synced(workspace, settings).run.counts.entered == PEOPLE
    query_outbox(workspace, clear=True)

    for _ in range(8):
        clock.advance(HALF_AN_HOUR)
        assert synced(workspace, settings).run.state is RunState.SUCCEEDED

    gone = {f"u{n}" for n in range(5, PEOPLE)}
    assert members(workspace) == {"u0", "u1", "u2", "u3", "u4"}
    assert query_outbox(workspace) == [(user, "false") for user in sorted(gone)]


def test_with_a_rule_nobody_leaves_until_data_is_loaded_again(
    workspace: Workspace, clock: FrozenClock, warehouse: Warehouse
) -> None:
    """Every sync is stale, nothing changes, and the first sync after new data is as if nothing had happened."""
    settings = warehouse.settings(RULE)
    assert synced(workspace, settings).run.counts.entered == PEOPLE
    query_outbox(workspace, clear=True)
    before = everything(workspace)

    for _ in range(8):
        clock.advance(HALF_AN_HOUR)
        report = synced(workspace, settings)
        assert (report.run.state, report.run.counts, report.members) == (RunState.STALE, Counts(), PEOPLE)
        assert report.run.finished_at == workspace.clock.now_ms()

    assert everything(workspace) == before
    assert report.run.reason == (
        "the newest data of source `warehouse` is 4h old (2026-03-31 12:00:00Z), but max_age is 20m"
    )
    for person in range(PEOPLE):  # the pipeline catches up
        warehouse.load(f"u{person}", "Visited", f"{clock():%Y-%m-%d %H:%M:%S}")
    assert synced(workspace, settings).run.state is RunState.SUCCEEDED
    assert (len(members(workspace)), query_outbox(workspace)) == (PEOPLE, [])


def query_outbox(workspace: Workspace, *, clear: bool = False) -> list[tuple[str, str]]:
    """Return the pending values by profile; `clear` forgets them, as if they had been delivered."""
    found = [tuple(row) for row in query(workspace.database, "SELECT profile_key, value FROM outbox ORDER BY 1")]
    if clear:
        with workspace.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM outbox")
    return found


# The other rules do not depend on the source.


@pytest.fixture
def lite(tmp_path: Path) -> Warehouse:
    """A source in SQLite."""
    return Warehouse("sqlite", tmp_path, lambda: "")


@ON_SQLITE
def test_everything_that_evaluates_asks_for_the_age(workspace: Workspace, clock: FrozenClock, lite: Warehouse) -> None:
    """A first sync, a resync and a limited one are stale, too; with `allow_stale` the query is not even run."""
    settings = lite.settings(RULE)
    clock.advance(HALF_AN_HOUR)

    assert synced(workspace, settings).run.state is RunState.STALE
    assert members(workspace) == set()
    assert synced(workspace, settings, allow_stale=True).run.counts.entered == PEOPLE
    clock.advance(HALF_AN_HOUR)
    for wanted in ({"resync": True}, {"limit": 1}, {"only": "u11"}):
        assert synced(workspace, settings, **wanted).run.state is RunState.STALE
    wrong = lite.settings(RULE.replace("FROM events", "FROM nowhere"))
    assert synced(workspace, wrong, allow_stale=True).run.counts.exited == 1


@ON_SQLITE
def test_a_rule_of_the_audience_replaces_that_of_the_source(
    workspace: Workspace, clock: FrozenClock, lite: Warehouse
) -> None:
    """An audience that accepts older data is evaluated."""
    clock.advance(HALF_AN_HOUR)

    assert synced(workspace, lite.settings(RULE)).run.state is RunState.STALE
    assert synced(workspace, lite.settings(RULE, 'max_age = "1h"')).run.state is RunState.SUCCEEDED


@ON_SQLITE
def test_a_truncated_table_is_stale(workspace: Workspace, clock: FrozenClock, lite: Warehouse) -> None:
    """Without any data there is no newest: nobody leaves, whatever the guard allows."""
    settings = lite.settings(RULE)
    synced(workspace, settings)
    lite.execute("DELETE FROM events")
    clock.advance(timedelta(minutes=1))

    run = synced(workspace, settings).run

    assert (run.state, len(members(workspace))) == (RunState.STALE, PEOPLE)
    assert run.reason == "the `freshness` query of source `warehouse` found no data"


@ON_SQLITE
def test_a_rule_that_cannot_be_applied_fails_the_run(workspace: Workspace, clock: FrozenClock, lite: Warehouse) -> None:
    """An age that nobody knows is not taken for a good one: nothing is evaluated, and the run has the sentence."""
    synced(workspace, lite.settings())
    before = everything(workspace)
    sentences = {
        "SELECT max(nowhere) FROM events": "the `freshness` query of source `warehouse` failed: ",
        "SELECT user_id FROM events": "the `freshness` query of source `warehouse` returns more than one row",
        "SELECT '2027-01-01'": "the newest data of source `warehouse` is 275d11h in the future (2027-01-01 00:00:00Z)",
    }
    for sql, sentence in sentences.items():
        clock.advance(timedelta(minutes=1))
        with pytest.raises(SourceError) as caught:
            synced(workspace, lite.settings(f'freshness = "{sql}"\nmax_age = "1h"\n'))
        assert str(caught.value).startswith(sentence)
        assert newest(workspace, RunState.FAILED) == [str(caught.value)]
    assert everything(workspace) == before


def newest(workspace: Workspace, state: RunState) -> list[str]:
    """Return the reasons of the audiences whose newest run is in a state, as `status` has them."""
    with workspace.database.read() as connection:
        return [run["reason"] for run in status_report.newest_runs(connection, state)]


def test_stale_is_what_the_newest_run_says(workspace: Workspace, clock: FrozenClock, lite: Warehouse) -> None:
    """The view of runs has the state and the reason; a sync that succeeds ends it."""
    settings = lite.settings(RULE)
    clock.advance(HALF_AN_HOUR)
    reason = "the newest data of source `warehouse` is 30m old (2026-03-31 12:00:00Z), but max_age is 20m"
    synced(workspace, settings)

    assert newest(workspace, RunState.STALE) == [reason]
    (row,) = query(workspace.database, "SELECT state, reason, finished_at FROM sync_runs")
    assert tuple(row) == ("stale", reason, "2026-03-31T12:30:00.000Z")
    lite.load("u0", "Visited", f"{clock():%Y-%m-%d %H:%M:%S}")
    clock.advance(timedelta(minutes=1))
    synced(workspace, settings)
    assert newest(workspace, RunState.STALE) == []


def planned(workspace: Workspace, settings: Settings, as_of: datetime | None = None, **wanted: bool) -> Plan:
    """Return the plan of the audience."""
    job = Job(settings=settings, audience=settings.audiences[0], as_of=as_of, **wanted)  # type: ignore[arg-type]
    return plan(workspace, job, on_found=lambda _: None)


@ON_SQLITE
def test_a_plan_says_what_a_sync_would_do(workspace: Workspace, clock: FrozenClock, lite: Warehouse) -> None:
    """Stale, nothing is counted; asked for anyway, or as of an instant at which it was fresh, it is."""
    settings = lite.settings(RULE)
    synced(workspace, settings)
    clock.advance(timedelta(hours=1))

    made = planned(workspace, settings)
    assert (made.counts, made.held) == (Counts(), None)
    assert made.stale == "the newest data of source `warehouse` is 1h old (2026-03-31 12:00:00Z), but max_age is 20m"
    assert planned(workspace, settings, allow_stale=True).counts.exited == 1
    at_noon = planned(workspace, settings, as_of=NOON)
    assert (at_noon.stale, at_noon.counts.unchanged) == (None, PEOPLE)


# Audiences that use one another.

SPEND_RULE = "\n".join(['freshness = "SELECT max(ordered_at) FROM orders"', 'max_age = "6h"'])


@pytest.fixture
def chain(workspace: Workspace, clock: FrozenClock, shop: Shop, tmp_path: Path) -> Chain:
    """Return a chain of two audiences, synced once while the data was fresh; the used one has a rule."""
    made = Chain(workspace, clock, shop, tmp_path)
    made.configure(settings={"spenders": SPEND_RULE})
    shop.execute(f"UPDATE orders SET ordered_at = '{NOON:%Y-%m-%d %H:%M:%S}'")
    assert states(made.sync("quiet_spenders")) == {"spenders": "succeeded", "quiet_spenders": "succeeded"}
    return made


def test_dependents_are_held_and_released(chain: Chain, clock: FrozenClock, shop: Shop) -> None:
    """A dependent has no rule of its own and is held nevertheless, until what it uses is evaluated again."""
    clock.advance(timedelta(days=2))
    stale = "the newest data of source `shop` is 2d old (2026-03-31 12:00:00Z), but max_age is 6h"

    plans = chain.plan("quiet_spenders")
    assert plans["spenders"].stale is not None
    assert plans["quiet_spenders"].held == (
        f"audience `spenders` would not be evaluated: {plans['spenders'].stale}; `audience-sync plan spenders` shows"
        " whether that has changed"
    )
    assert states(chain.sync("quiet_spenders")) == {"spenders": "stale", "quiet_spenders": "held"}
    number, _, reason = chain.runs("spenders")[-1]
    assert reason is not None
    assert reason.startswith(stale[:40])
    assert chain.held() == {
        "quiet_spenders": (
            f"audience `spenders` was not evaluated (run {number}): {reason}; load new data, then run"
            " `audience-sync sync quiet_spenders` (--allow-stale evaluates the old data)"
        )
    }
    set_spend(shop, SPEND)
    shop.execute(f"UPDATE orders SET ordered_at = '{clock():%Y-%m-%d %H:%M:%S}'")
    assert states(chain.sync("spenders")) == {"spenders": "succeeded"}
    assert chain.row("quiet_spenders").next_due_at == chain.workspace.clock.now_ms()
    assert chain.held() == {}
    assert states(chain.sync("quiet_spenders")) == {"spenders": "succeeded", "quiet_spenders": "succeeded"}


@ON_SQLITE
def test_a_person_evaluates_old_data_for_the_whole_chain(chain: Chain, clock: FrozenClock) -> None:
    """With `allow_stale` for each of them, what is used is accepted, and so the dependent is evaluated."""
    clock.advance(timedelta(days=2))

    made = chain.round("quiet_spenders")
    done: dict[str, RunRow] = {}
    for one in made.audiences:
        job = Job(settings=chain.settings, audience=one, at_least=made.as_of, allow_stale=True)
        done[one.key] = sync(chain.workspace, job).run

    assert states(done) == {"spenders": "succeeded", "quiet_spenders": "succeeded"}
