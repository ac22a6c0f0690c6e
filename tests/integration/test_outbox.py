"""The outbox and batches: one row for each audience and profile, and events kept word for word until accepted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import shard_of
from audience_sync.core.model import Change, ChangeKind
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import BatchContents, RenderedEvent
from audience_sync.errors import LeaseLost
from audience_sync.store import audiences, backlog, batches, memberships, outbox, runs
from audience_sync.store.batches import Batch
from audience_sync.store.database import Database
from audience_sync.store.runs import RunRow
from tests.factories import company_identifiers, make_change, make_event, make_open, make_run, open_changes, take_batch

NOW = 1_774_958_400_000
EVERYTHING = {"after": "", "limit": 1000}
LAST = "\U0010ffff"


def enqueue(connection: Connection, run: RunRow, *changes: Change) -> None:
    """Put changes into the outbox."""
    memberships.stage(connection, run, changes)
    outbox.enqueue(connection, run, upto=LAST)
    memberships.unstage(connection, run)


def apply(connection: Connection, run: RunRow, *changes: Change) -> None:
    """Make changes true."""
    memberships.apply(connection, run, changes)


def opened(connection: Connection) -> list[OpenChange]:
    """Return all open changes."""
    found, more = outbox.page(connection, **EVERYTHING)  # type: ignore[arg-type]  # the keywords of page
    assert not more
    return list(found)


def event_of(connection: Connection, profile_key: str) -> RenderedEvent:
    """Return the event of a profile's open changes."""
    return make_event(*open_changes(connection, profile_key))


def refuse(connection: Connection, event: RenderedEvent) -> None:
    """Have an event taken and refused."""
    batches.refuse(connection, take_batch(connection, event, now_ms=NOW), "refused", now_ms=NOW)


def claim(connection: Connection, *, now_ms: int = NOW, holder: str = "you", dead: Iterable[str] = ()) -> list[Batch]:
    """Claim the batches that are free."""
    return batches.claim_free(
        connection, holder=holder, dead=dead, now_ms=now_ms, claim_until=now_ms + 1000, forwarded=True
    )


def test_each_kind_of_change_has_its_value(database: Database) -> None:
    """Members are told true, those who left false, and a computed trait its value, or null where it has none now."""
    with database.write() as connection:
        run = make_run(connection)
        enqueue(
            connection,
            run,
            make_change("in", company="c1"),
            make_change("out", ChangeKind.EXITED, company="c2"),
            make_change("moved", ChangeKind.UPDATED),
            make_change("spent", value=3.5),
            make_change("gone", ChangeKind.EXITED, value=3.5),
        )

        assert {row.profile_key: (row.value, row.identifiers) for row in opened(connection)} == {
            "in": ("true", company_identifiers("c1")),
            "out": ("false", company_identifiers("c2")),
            "moved": ("true", None),
            "spent": ("3.5", None),
            "gone": ("null", None),
        }
        assert {(row.trait, row.generation, row.run_id) for row in opened(connection)} == {
            ("gold", run.generation, run.id)
        }


@pytest.mark.parametrize("dead", [False, True])
def test_a_newer_change_replaces_the_open_row(database: Database, dead: bool) -> None:
    """The last word wins under its own generation, also over a row that was given up."""
    with database.write() as connection:
        older = make_run(connection)
        enqueue(connection, older, make_change("u1", company="c1"))
        if dead:
            refuse(connection, event_of(connection, "u1"))
            assert opened(connection) == []
        newer = make_run(connection)
        enqueue(connection, newer, make_change("u1", ChangeKind.EXITED, company="c2"))

        assert opened(connection) == [
            make_open(
                "u1",
                value="false",
                identifiers=company_identifiers("c2"),
                generation=newer.generation,
                run_id=newer.id,
                kind="exited",
            )
        ]
        assert outbox.count(connection) == (1, 0, 0)


def test_settling_closes_what_was_sent(database: Database) -> None:
    """An accepted event closes its rows, is recorded with what it said, and counts for its runs."""
    with database.write() as connection:
        gold, ant = make_run(connection), make_run(connection, audience="ant")
        enqueue(connection, gold, make_change("u1"), make_change("u2"))
        enqueue(connection, ant, make_change("u1", ChangeKind.EXITED))
        event = event_of(connection, "u1")
        batch = take_batch(connection, event, now_ms=NOW)
        assert outbox.count(connection) == (3, 0, 0)
        assert batches.settle(connection, [(batch, 202)], now_ms=NOW) == []

        assert outbox.count(connection) == (1, 0, 0)
        assert [tuple(row) for row in connection.execute(sa.text("SELECT * FROM sent_deliveries"))] == [
            (
                "2026-03-31T12:00:00.000Z",
                "u1",
                '{"ant":false,"gold":true}',
                "[1, 2]",
                202,
                event.idempotency_key,
                "Identify User",
                None,
            )
        ]
        assert [runs.get(connection, run.id).sent for run in (gold, ant)] == [1, 1]


def test_settling_leaves_newer_values_open(database: Database) -> None:
    """What changed while the older value was under way is still to be sent."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("u1"))
        sent = take_batch(connection, event_of(connection, "u1"), now_ms=NOW)
        newer = make_run(connection)
        enqueue(connection, newer, make_change("u1", ChangeKind.EXITED))
        batches.settle(connection, [(sent, 200)], now_ms=NOW)

        assert [(row.value, row.generation) for row in opened(connection)] == [("false", newer.generation)]


def test_death_is_of_one_generation(database: Database) -> None:
    """A refused event takes down only the values it carried, and can be taken back; a newer value stays."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("u1"))
        sent = event_of(connection, "u1")
        enqueue(connection, make_run(connection, audience="ant"), make_change("u1"))

        refuse(connection, sent)
        assert [row.trait for row in opened(connection)] == ["ant"]
        assert outbox.count(connection) == (1, 0, 1)
        assert outbox.count_of_run(connection, 1) == (0, 1)
        outbox.revive(connection, sent)
        assert outbox.count(connection) == (2, 0, 0)
        batch = take_batch(connection, sent, now_ms=NOW)
        enqueue(connection, make_run(connection), make_change("u1", ChangeKind.EXITED))
        batches.refuse(connection, batch, "refused", now_ms=NOW)
        assert outbox.count(connection) == (2, 0, 0)


def test_a_page_has_whole_profiles(database: Database) -> None:
    """All values of a profile go in one event, whatever the size of a page, and every profile is seen once."""
    profiles = [f"u{n}" for n in range(7)]
    with database.write() as connection:
        for name in ("ant", "bee", "cat", "dog"):
            enqueue(connection, make_run(connection, audience=name), *map(make_change, profiles))

        for limit in (1, 2, 5, 8, 28, 29):
            seen: list[OpenChange] = []
            after, more = "", True
            while more:
                found, more = outbox.page(connection, after=after, limit=limit)
                seen += found
                after = found.profile_keys[-1] if found else after
            assert seen == opened(connection)
            assert len(seen) == 28


def test_paused_audiences_wait(database: Database) -> None:
    """A pause holds back the audience's open rows and nobody else's; a retired audience's go on."""
    with database.write() as connection:
        for name, state in (("ant", "paused"), ("bee", "retired"), ("cat", "active")):
            run = make_run(connection, audience=name)
            enqueue(connection, run, make_change("u1"))
            audiences.set_state(connection, run.audience_id, state)

        assert [row.trait for row in opened(connection)] == ["bee", "cat"]
        assert outbox.count(connection) == (3, 1, 0)
        assert outbox.any_deliverable(connection)


def test_nothing_is_deliverable_while_all_is_paused_or_dead(database: Database) -> None:
    """A session with nothing to do ends; one with an open batch does not."""
    with database.write() as connection:
        assert not outbox.any_deliverable(connection)
        run = make_run(connection)
        enqueue(connection, run, make_change("u1"), make_change("u2"))
        event = event_of(connection, "u1")
        refuse(connection, event)
        audiences.set_state(connection, run.audience_id, "paused")
        assert not backlog.any_deliverable(connection)
        batches.add(connection, [BatchContents.of([event])], holder="", claim_until=0, now_ms=NOW)
        assert backlog.any_deliverable(connection, forwarded=False)


def test_reopening_sends_the_current_value(database: Database) -> None:
    """After a doubt the present truth goes again, with the identifiers of the event where the profile is gone."""
    with database.write() as connection:
        run = make_run(connection)
        apply(connection, run, make_change("in", company="now"))
        for key in ("in", "out"):
            change = make_open(key, generation=7, run_id=run.id, identifiers=company_identifiers("then"))
            outbox.reopen(connection, [make_event(change)], generation=99)

        assert {(row.profile_key, row.value, row.identifiers, row.generation) for row in opened(connection)} == {
            ("in", "true", company_identifiers("now"), 99),
            ("out", "false", company_identifiers("then"), 99),
        }


def test_resending_says_everything_again(database: Database) -> None:
    """A resync sends each member's value and each remembered exit once, with the newest identifiers, part by part."""
    with database.write() as connection:
        apply(connection, make_run(connection, audience="other"), make_change("elsewhere"))
        first, second, third = make_run(connection), make_run(connection), make_run(connection)
        apply(connection, first, *(make_change(key, company="c1") for key in ("stays", "left", "back", "twice")))
        apply(connection, second, *(make_change(k, ChangeKind.EXITED, company="c2") for k in ("left", "back", "twice")))
        apply(connection, third, make_change("back"), make_change("twice", company="c3"))
        fourth = make_run(connection)
        apply(connection, fourth, make_change("twice", ChangeKind.EXITED, company="c4"))
        for run in (second, fourth):
            connection.execute(sa.text("UPDATE runs SET exited = 1 WHERE id = :i"), {"i": run.id})
        connection.execute(sa.text("DELETE FROM outbox"))
        resync = make_run(connection)
        after: str | None = ""
        resent = []
        while after is not None:
            upto = memberships.page_end(connection, resync.audience_id, after=after, at_most=1)
            resent.append(outbox.resend(connection, resync, after=after, upto=upto))
            after = upto

        assert (sum(resent), len(resent)) == (4, 3)
        assert {(row.profile_key, row.value, row.identifiers) for row in opened(connection)} == {
            ("stays", "true", company_identifiers("c1")),
            ("back", "true", None),
            ("left", "false", company_identifiers("c2")),
            ("twice", "false", company_identifiers("c4")),
        }
        assert {row.generation for row in opened(connection)} == {resync.generation}


def test_a_forgotten_person_leaves_every_batch(database: Database) -> None:
    """Nothing of a forgotten person is sent again; the others of the batch are."""
    one, two = make_event(make_open("u1")), make_event(make_open("u2"))
    with database.write() as connection:
        batches.add(connection, map(BatchContents.of, ([one, two], [one])), holder="", claim_until=0, now_ms=NOW)
        batches.forget(connection, "u1")

        assert [batch.events for batch in claim(connection)] == [(two,)]
        extent = connection.exec_driver_sql("SELECT shards, size FROM batches WHERE status = 'open'").one()
        assert tuple(extent) == (f" {shard_of('u2')} ", 1)


def test_retries_are_seen_in_the_view(database: Database) -> None:
    """Who asks what is open reads how often it was tried, why it failed and when it goes again."""
    with database.write() as connection:
        run = make_run(connection)
        enqueue(connection, run, make_change("u1"), make_change("u2"))
        batch = take_batch(connection, event_of(connection, "u1"), now_ms=NOW)
        batches.postpone(connection, batch, not_before=NOW, error="HTTP 503")
        rows = connection.exec_driver_sql(
            "SELECT profile_key, state, tries, next_try_at, reason FROM open_deliveries ORDER BY profile_key"
        )

        assert [tuple(row) for row in rows] == [
            ("u1", "retrying", 1, "2026-03-31T12:00:00.000Z", "HTTP 503"),
            ("u2", "waiting", 0, None, None),
        ]


def test_an_entry_that_waits_stays_one(database: Database) -> None:
    """What nobody was told of yet has happened, though identifiers change or all is sent again meanwhile."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("in"), make_change("out", ChangeKind.EXITED))
        enqueue(connection, make_run(connection), make_change("in", ChangeKind.UPDATED, company="c2"))
        first = {row.profile_key: row.kind for row in opened(connection)}
        enqueue(connection, make_run(connection), make_change("in", ChangeKind.EXITED), make_change("out"))
        then = {row.profile_key: row.kind for row in opened(connection)}

    assert (first, then) == ({"in": "entered", "out": "exited"}, {"in": "exited", "out": "entered"})


def test_an_entry_that_was_refused_stays_one(database: Database) -> None:
    """An update that came while its entry was refused is sent as the entry that nobody was told of."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("u1"))
        batch = take_batch(connection, event_of(connection, "u1"), now_ms=NOW)
        enqueue(connection, make_run(connection), make_change("u1", ChangeKind.UPDATED, company="c2"))
        batches.refuse(connection, batch, "refused", now_ms=NOW)

        assert [(row.kind, row.identifiers) for row in opened(connection)] == [("entered", company_identifiers("c2"))]


def kept(batch: Batch) -> dict[str, object]:
    """Return what the database has of a batch."""
    return {**vars(batch), "contents": batch.contents.dump()}


def test_a_claimed_batch_is_found_as_it_was(database: Database) -> None:
    """What was under way is claimed once its claim is over or its holder is dead: word for word, oldest first."""
    with database.write() as connection:
        events = [make_event(make_open("u1")), make_event(make_open("\u00e9\\"))]
        one = take_batch(connection, *events, now_ms=NOW)
        two = take_batch(connection, make_event(make_open("u2")), now_ms=NOW, holder="him")
        later = batches.postpone(connection, one, not_before=NOW + 5, error="HTTP 503")
        assert claim(connection) == []

        assert [*map(kept, claim(connection, dead=["me"]))] == [kept(replace(later, claim=2))]
        batches.release(connection, "him")
        assert [*map(kept, claim(connection))] == [kept(replace(two, claim=2))]
        over = claim(connection, now_ms=NOW + 1000, holder="third")
        assert [(batch.claim, batch.events) for batch in over] == [(3, one.events), (3, two.events)]


def test_nothing_is_written_without_the_claim(database: Database) -> None:
    """A holder whose claim is gone settles, postpones, cuts and refuses nothing."""
    with database.write() as connection:
        batch = take_batch(connection, make_event(make_open("u1")), make_event(make_open("u2")), now_ms=NOW)
        claim(connection, dead=["me"])
        parts = [[event] for event in batch.events]

        assert batches.settle(connection, [(batch, 200)], now_ms=NOW) == [batch]
        with pytest.raises(LeaseLost):
            batches.postpone(connection, batch, not_before=NOW, error="x")
        with pytest.raises(LeaseLost):
            batches.cut(connection, batch, parts, holder="me", claim_until=NOW, now_ms=NOW)
        with pytest.raises(LeaseLost):
            batches.refuse(connection, batch, "x", now_ms=NOW)
        assert [one.events for one in claim(connection, dead=["you"], holder="third")] == [batch.events]


def test_a_part_waits_for_the_parts_before_it(database: Database) -> None:
    """Of a profile in several parts the lower ones come first, whoever holds them; other profiles do not wait."""
    with database.write() as connection:
        profile = [make_event(make_open("u1", generation=n)) for n in range(4)]
        other = make_event(make_open("u2"))
        parts = map(BatchContents.of, (profile[:2], [*profile[2:], other]))
        first, second = batches.add(connection, parts, holder="me", claim_until=2**60, now_ms=NOW)
        halves = [profile[2:], [other]]
        third, fourth = batches.cut(connection, second, halves, holder="me", claim_until=2**60, now_ms=NOW)

        assert [one.part for one in (first, second, third, fourth)] == [0, 2, 2, 4]
        assert [batches.is_behind(connection, one) for one in (first, third, fourth)] == [False, True, False]
        batches.settle(connection, [(first, 200)], now_ms=NOW)
        assert not batches.is_behind(connection, third)


def test_reopening_leaves_the_forgotten_out(database: Database) -> None:
    """What was posted without a claim is sent again as it is now, but nobody who was forgotten meanwhile."""
    with database.write() as connection:
        run = make_run(connection)
        apply(connection, run, make_change("u1"), make_change("u2"))
        connection.execute(sa.text("DELETE FROM outbox"))
        carried = {"run_id": run.id, "generation": run.generation}
        batch = take_batch(connection, *(make_event(make_open(key, **carried)) for key in ("u1", "u2")), now_ms=NOW)
        claim(connection, dead=["me"])
        batches.forget(connection, "u2")
        batches.reopen(connection, [batch], now_ms=NOW)

        assert [(row.profile_key, row.value, row.generation > run.generation) for row in opened(connection)] == [
            ("u1", "true", True)
        ]


def test_a_claim_that_its_holder_does_not_know_runs_out(database: Database) -> None:
    """Of a batch whose commit was thought to have failed, nobody extends the claim, so somebody takes it over."""
    with database.write() as connection:
        known = take_batch(connection, make_event(make_open("u1")), now_ms=NOW)
        take_batch(connection, make_event(make_open("u2")), now_ms=NOW)

        assert batches.renew(connection, "me", [known.id], claim_until=NOW + 2_000_000) == {known.id: 1}
        assert [one.contents.profile_keys for one in claim(connection, now_ms=NOW + 1_000_000)] == [["u2"]]


def test_what_waits_keeps_its_kind_when_it_is_opened_again(database: Database) -> None:
    """An entry that was not told yet is still one after a doubt about an older value."""
    with database.write() as connection:
        old, run = make_run(connection), make_run(connection)
        apply(connection, run, make_change("u1"))
        enqueue(connection, run, make_change("u1"))
        lost = make_event(make_open("u1", generation=old.generation, run_id=old.id, value="false"))
        outbox.reopen(connection, [lost], generation=run.generation + 1)

        ((row),) = opened(connection)
        assert (row.value, row.kind, row.run_id, row.generation) == ("true", "entered", run.id, run.generation + 1)


def test_a_value_in_several_batches_is_counted_once_it_is_whole(database: Database) -> None:
    """What two mappings say of a change is accepted for its run when both parts are."""
    with database.write() as connection:
        run = make_run(connection)
        (carried,) = make_event(make_open("u1", run_id=run.id)).carried
        event = make_event(make_open("u1", run_id=run.id))._replace(carried=(carried._replace(shared=True),))
        whole = take_batch(connection, event, event, now_ms=NOW)
        parts = batches.cut(connection, whole, [[event], [event]], holder="me", claim_until=2**60, now_ms=NOW)

        for part, sent in zip(parts, (0, 1), strict=True):
            assert batches.settle(connection, [(part, 200)], now_ms=NOW) == []
            assert runs.get(connection, run.id).sent == sent
