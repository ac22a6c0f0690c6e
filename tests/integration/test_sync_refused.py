"""Syncs that fail or are refused: they change nothing, say why, and leave the next one its work."""

from __future__ import annotations

import threading

import pytest

from audience_sync.core.model import Counts, RunKind, RunState
from audience_sync.errors import AudienceSyncError, BindingRefused, ConfigError, LeaseHeld, SourceError
from audience_sync.store import leases
from audience_sync.store.workspace import Workspace
from tests.factories import AUDIENCE_KEY, company_identifiers
from tests.syncing import Syncing

pytestmark = pytest.mark.slow_on_postgres


@pytest.mark.parametrize("statement", ["DROP TABLE orders", "ALTER TABLE orders DROP COLUMN company_id"])
def test_a_broken_source_changes_nothing(syncing: Syncing, statement: str) -> None:
    """A run whose source fails leaves memberships and outbox alone, and says why in its row."""
    syncing.sync([("u1", "c1")])
    syncing.clear_outbox()
    syncing.shop.execute(statement)

    with pytest.raises(SourceError) as caught:
        syncing.sync()

    (run,) = syncing.query("SELECT state, reason, finished_at FROM runs WHERE id = 2")
    assert (run.state, run.reason) == ("failed", str(caught.value))
    assert run.finished_at is not None
    assert syncing.members() == {"u1": company_identifiers("c1")}
    assert syncing.outbox() == {}
    assert syncing.query("SELECT * FROM leases WHERE holder <> ''") == []


def test_a_missing_column_is_named(syncing: Syncing) -> None:
    """A query without the column that a key needs is refused with its name."""
    syncing.configure(sql="SELECT customer_id AS id FROM orders", company_keys={})

    with pytest.raises(SourceError, match="no column 'user_id'"):
        syncing.sync(["u1"])
    assert syncing.run(1).state is RunState.FAILED


def test_a_failed_first_sync_is_followed_by_a_first_sync(syncing: Syncing) -> None:
    """Until one run has completed, everybody who enters is not a mass entry."""
    syncing.shop.execute("ALTER TABLE orders RENAME TO away")
    with pytest.raises(SourceError):
        syncing.sync()
    syncing.shop.execute("ALTER TABLE away RENAME TO orders")

    assert syncing.sync(["u1"]).run.kind is RunKind.INITIAL


def test_a_stopped_run_changes_nothing(syncing: Syncing) -> None:
    """A run that is asked to stop while reading ends as failed, and the next one does its work."""
    syncing.sync(["u1"])
    stop = threading.Event()
    stop.set()

    with pytest.raises(AudienceSyncError, match="stopped on request"):
        syncing.sync(["u2"], stop=stop)

    assert (syncing.run(2).state, syncing.run(2).reason) == (RunState.FAILED, "stopped on request")
    assert set(syncing.members()) == {"u1"}
    assert syncing.sync().run.counts == Counts(read=1, entered=1, exited=1)


def test_time_does_not_go_back_unasked(syncing: Syncing) -> None:
    """An as_of before the one applied last is refused with the way out, and `force` goes that way."""
    syncing.shop.set_orders([("early", None, "2026-03-31 11:00:00"), ("late", None, "2026-03-31 12:00:00")])
    before = syncing.clock.now
    syncing.sync()
    generation = syncing.run(1).generation

    with pytest.raises(ConfigError, match="already synced as of a later time, 2026-03-31 12:01:00Z") as caught:
        syncing.sync(as_of=before)
    assert "--force" in str(caught.value.hint)
    assert len(syncing.query("SELECT * FROM runs")) == 1

    run = syncing.sync(as_of=before.replace(hour=11, minute=30), force=True).run
    assert set(syncing.members()) == {"early"}
    assert run.generation > generation
    assert run.started_at > run.as_of


def test_the_identity_cannot_change(syncing: Syncing) -> None:
    """A database of people known by one key is not mixed with people known by another."""
    syncing.sync(["u1"])
    syncing.configure(identity="email")

    with pytest.raises(BindingRefused, match="uses the identity 'userId'"):
        syncing.sync()
    assert set(syncing.members()) == {"u1"}


def test_one_sync_at_a_time(syncing: Syncing) -> None:
    """An audience that another process works on is left to it."""
    syncing.sync(["u1"])
    audience_id = syncing.audience().id
    with syncing.database.write() as connection:
        now = syncing.workspace.now_ms(connection)
        leases.acquire(
            connection,
            [audience_id],
            holder="elsewhere:1:x",
            now_ms=now,
            expires_at=now + 600_000,
            dead=set(),
        )

    with pytest.raises(LeaseHeld, match=AUDIENCE_KEY):
        syncing.sync(["u2"])
    assert len(syncing.query("SELECT * FROM runs")) == 1


def test_a_retraction_in_between_is_seen(syncing: Syncing) -> None:
    """An audience that is retired while a sync waits for its turn is not filled again."""
    syncing.sync(["u1"])
    workspace = syncing.workspace

    class Slow(Workspace):
        """Somebody else retracts the audience just before the lease is taken."""

        def hold(self, audience_ids: object, *, seconds: float) -> object:  # type: ignore[override]
            syncing.workspace = workspace
            if syncing.audience().state == "active":
                syncing.retract()
            return workspace.hold(audience_ids, seconds=seconds)  # type: ignore[arg-type]

    syncing.workspace = Slow(database=workspace.database, holder=workspace.holder, clock=workspace.clock)
    with pytest.raises(ConfigError, match="retired"):
        syncing.sync(["u1", "u2"])
    assert syncing.members() == {}
