"""What the tests of the sync share: one audience of the shop, its runs, and what they left in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from audience_sync.config import Settings
from audience_sync.core.model import Change, Counts
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.store import audiences, outbox, runs
from audience_sync.store.database import Database
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, Plan, RunReport, approve, plan, retract, sync
from tests.factories import FrozenClock, Shop
from tests.tuned import tuned

MINUTE = timedelta(minutes=1)


class Syncing:
    """One audience of the shop, synced minute by minute."""

    def __init__(
        self, workspace: Workspace, clock: FrozenClock, *, shop: Shop, make_settings: Callable[..., Settings]
    ) -> None:
        self.workspace = workspace
        self.database = workspace.database
        self.clock = clock
        self.shop = shop
        self._make_settings = make_settings
        self.configure()

    def configure(self, **wanted: object) -> None:
        """Write the configuration anew; see `factories.config_text`."""
        self.settings = self._make_settings(**wanted)

    def tune(self, **changes: object) -> None:
        """Go on with other tunable numbers."""
        self.workspace = tuned(self.workspace, **changes)

    def job(self, **wanted: object) -> Job:
        """Return the job of the one audience."""
        return Job(settings=self.settings, audience=self.settings.audiences[0], **wanted)  # type: ignore[arg-type]

    def sync(self, orders: Iterable[str | tuple[object, ...] | None] | None = None, **wanted: object) -> RunReport:
        """Put orders into the shop if there are any here, and sync, a minute later than before."""
        if orders is not None:
            self.shop.set_orders(orders)
        self.clock.advance(MINUTE)
        return sync(self.workspace, self.job(**wanted))

    def plan(self) -> tuple[Plan, list[Change]]:
        """Return what a sync would do now, and its changes."""
        changes: list[Change] = []
        return plan(self.workspace, self.job(), on_found=changes.extend), changes

    def approve(self, run: RunRow) -> RunRow:
        """Say yes to a blocked run, a minute later than before."""
        self.clock.advance(MINUTE)
        return approve(self.workspace, run.id)

    def retract(self) -> RunRow:
        """Retract the audience, a minute later than before."""
        self.clock.advance(MINUTE)
        return retract(self.workspace, self.settings.audiences[0].key)

    def members(self) -> dict[str, str | None]:
        """Return the members with their identifiers, after checking that the audience's count is right."""
        found = {row.profile_key: row.identifiers for row in self.query("SELECT * FROM current_members")}
        (counted,) = self.query("SELECT members FROM audiences")
        assert counted[0] == len(found)
        return found

    def outbox(self) -> dict[str, OpenChange]:
        """Return the open rows of the outbox by profile."""
        with self.database.read() as connection:
            rows, more = outbox.page(connection, after="", limit=1_000_000)
        assert not more
        return {row.profile_key: row for row in rows}

    def clear_outbox(self) -> None:
        """Forget what is to be sent, as if all had been delivered."""
        with self.database.write() as connection:
            connection.execute(sa.text("DELETE FROM outbox"))

    def run(self, run_id: int) -> RunRow:
        """Return a run as it is now."""
        with self.database.read() as connection:
            return runs.get(connection, run_id)

    def audience(self) -> audiences.AudienceRow:
        """Return the audience's row."""
        with self.database.read() as connection:
            return audiences.by_key(connection, self.settings.audiences[0].key)

    def query(self, statement: str, **parameters: object) -> list[Any]:
        """Return the rows of a statement."""
        return query(self.database, statement, **parameters)


def query(database: Database, statement: str, **parameters: object) -> list[Any]:
    """Return the rows of a statement."""
    with database.read() as connection:
        return list(connection.execute(sa.text(statement), parameters))


def replayed(database: Database) -> dict[object, object]:
    """Return the members with their identifiers that the history leads to, refusing one that cannot be."""
    members: dict[object, object] = {}
    for key, kind, identifiers in query(
        database, "SELECT profile_key, kind, identifiers FROM membership_changes ORDER BY run_id, profile_key"
    ):
        assert (key in members) == (kind != "entered"), f"{key} {kind}"
        if kind == "exited":
            del members[key]
        else:
            members[key] = identifiers
    return members


def adds_up(counts: Counts) -> bool:
    """Tell whether every row that was read is counted once."""
    return counts.read == (counts.entered + counts.updated + counts.unchanged + counts.rejected + counts.duplicates)


def people(*numbers: range) -> list[str]:
    """Return the profile keys of some numbers."""
    return [f"u{number}" for span in numbers for number in span]
