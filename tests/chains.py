"""A shop whose audiences use one another: what customers spent, who are spenders, and who of these are quiet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from audience_sync.config import load
from audience_sync.errors import AudienceSyncError
from audience_sync.store import audiences
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, Plan, Round, make_round, plan, standing_hold, sync
from tests.factories import FrozenClock, Shop
from tests.syncing import MINUTE, query

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on where memberships are kept."""

SPENDERS = "trait('spend') >= 100"
EVERYBODY = "trait('spend') >= 0"
QUIET = "trait('spenders') = true AND trait('spend') < 500"
TOP = "trait('quiet_spenders') = true AND trait('spend') >= 200"


def chain_text(
    *,
    spenders: str | None = SPENDERS,
    quiet: str = QUIET,
    top: str | None = None,
    settings: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    """Return a configuration in which `quiet_spenders` uses `spenders`, and `top`, if asked for, uses that.

    The dependents come first: the order of the file is not the order of a sync. Only `spenders` has a guard that blocks
    anything here. `settings` has more lines of each, by key; an audience whose query is None is left out.
    """
    lines = {"spenders": "guard = { max_exit_percent = 30, max_entry_percent = 200 }", **(settings or {})}
    queries = {"top": top, "quiet_spenders": quiet, "spenders": spenders}
    return "\n".join(
        [
            "[sources.shop]",
            'url = "sqlite:///shop.db"',
            "[sources.shop.profiles]",
            'sql = "SELECT customer_id AS user_id, company_id AS spend FROM orders"',
            "[guard]",
            "max_exit_percent = 100",
            "max_entry_percent = 10000",
            "min_members = 3",
            *(
                f"[[audiences]]\nname = {json.dumps(key)}\nquery = {json.dumps(query)}\n{lines.get(key, '')}"
                for key, query in queries.items()
                if query is not None
            ),
            more,
        ]
    )


def set_spend(shop: Shop, spends: Iterable[int]) -> None:
    """Put customers `u0`, `u1` … into the shop, with what each has spent."""
    shop.set_orders([(f"u{number}", spend) for number, spend in enumerate(spends)])


SPEND = (*range(0, 100, 10), 100, 200, 300, 900)
"""Ten customers who spent little, `u10` to `u12` who are quiet spenders, and `u13`, a big one."""


class Chain:
    """Audiences that use one another on a database of each kind, synced and planned round by round."""

    def __init__(self, workspace: Workspace, clock: FrozenClock, shop: Shop, folder: Path) -> None:
        self.workspace, self.clock, self.shop = workspace, clock, shop
        self.database = workspace.database
        self._path = folder / "config.toml"
        self.configure()
        set_spend(shop, SPEND)

    def configure(self, **wanted: Any) -> None:
        """Write the configuration anew; see `chain_text`."""
        self._path.write_text(chain_text(**wanted), encoding="utf-8")
        self.settings = load(self._path, {})

    def round(self, *keys: str, as_of: datetime | None = None, limited: bool = False) -> Round:
        """Return the round in which some audiences are synced, a minute later than before."""
        self.clock.advance(MINUTE)
        chosen = [self.settings.audience(key) for key in keys]
        return make_round(self.workspace, self.settings, chosen, as_of=as_of, limited=limited)

    def sync(self, *keys: str, as_of: datetime | None = None, **wanted: Any) -> dict[str, RunRow | str]:
        """Sync some audiences as the command does: the run of each, or the sentence with which it failed."""
        return self.sync_round(self.round(*keys, as_of=as_of, limited=bool(wanted)), as_of=as_of, **wanted)

    def sync_round(self, made: Round, *, as_of: datetime | None = None, **wanted: Any) -> dict[str, RunRow | str]:
        """Sync what is in a round; what is `wanted` counts for those that were chosen."""
        done: dict[str, RunRow | str] = {}
        for one in made.audiences:
            job = Job(settings=self.settings, audience=one, as_of=as_of, at_least=made.as_of)
            job = replace(job, **wanted) if one.key in made.chosen else job
            try:
                done[one.key] = sync(self.workspace, job).run
            except AudienceSyncError as error:
                done[one.key] = str(error)
        return done

    def plan(self, *keys: str) -> dict[str, Plan]:
        """Return what a sync of some audiences would do now."""
        made, plans = self.round(*keys), dict[str, Plan]()
        for one in made.audiences:
            job = Job(settings=self.settings, audience=one, at_least=made.as_of)
            plans[one.key] = plan(self.workspace, job, on_found=lambda _: None, planned=plans)
        return plans

    def held(self) -> dict[str, str]:
        """Return why audiences are held, as `status` says."""
        with self.database.read() as connection:
            found = {one.key: standing_hold(connection, self.settings, one) for one in self.settings.audiences}
        return {key: hold.reason for key, hold in found.items() if hold is not None}

    def set_state(self, key: str, state: str) -> None:
        """Make an audience active, paused or retired."""
        with self.database.write() as connection:
            audiences.set_state(connection, self.row(key).id, state)

    def row(self, key: str) -> AudienceRow:
        """Return the row of an audience."""
        with self.database.read() as connection:
            return audiences.by_key(connection, key)

    def members(self, key: str) -> set[str]:
        """Return who is in an audience."""
        rows = query(self.database, "SELECT profile_key FROM current_members WHERE audience = :a", a=key)
        return {row.profile_key for row in rows}

    def runs(self, key: str) -> list[tuple[int, str, str | None]]:
        """Return the runs of an audience: id, state and reason."""
        rows = query(self.database, "SELECT id, state, reason FROM sync_runs WHERE audience = :a ORDER BY id", a=key)
        return [(row.id, row.state, row.reason) for row in rows]


def states(done: Mapping[str, RunRow | str]) -> dict[str, str]:
    """Return the state of each run, or the sentence with which it failed."""
    return {key: run if isinstance(run, str) else run.state.value for key, run in done.items()}
