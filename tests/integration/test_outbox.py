"""The outbox and its attempts: one open row for each audience and profile, and batches kept word for word."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.events import Event, OpenChange
from audience_sync.core.model import Change, ChangeKind
from audience_sync.core.shards import SHARDS, shard_of
from audience_sync.db import Database
from audience_sync.store import attempts, audiences, memberships, outbox, runs, waiting
from audience_sync.store.memberships import ShardChanges
from audience_sync.store.runs import RunRow
from tests.factories import company_identifiers, make_change, make_event, make_open, make_run

NOW = 1_774_958_400_000
EVERYTHING = {"high": 1023, "after": (-1, ""), "limit": 1000}


def enqueue(connection: Connection, run: RunRow, *changes: Change) -> None:
    """Put changes into the outbox, each in its shard."""
    memberships.stage(connection, run.id, [ShardChanges(shard_of(c.profile_key), [c], None) for c in changes])
    outbox.enqueue(connection, run, low=0, high=SHARDS - 1)
    memberships.unstage(connection, run.id)


def apply(connection: Connection, run: RunRow, *changes: Change) -> None:
    """Make changes true, each in its shard."""
    memberships.apply(connection, run, [ShardChanges(shard_of(c.profile_key), [c], None) for c in changes])


def opened(connection: Connection) -> list[OpenChange]:
    """Return all open changes."""
    found, more = outbox.page(connection, **EVERYTHING)  # type: ignore[arg-type]  # the keywords of page
    assert not more
    return found


def event_of(connection: Connection, profile_key: str) -> Event:
    """Return the event of a profile's open changes."""
    return make_event(*outbox.of_profile(connection, shard=shard_of(profile_key), profile_key=profile_key))


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
            outbox.mark_dead(connection, event_of(connection, "u1"), "refused")
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
        waiting.settle(connection, [[event]], now_ms=NOW, status=202)

        assert [row.profile_key for row in opened(connection)] == ["u2"]
        assert [tuple(row) for row in connection.execute(sa.select(tables.deliveries))] == [
            (
                shard_of("u1"),
                "u1",
                event.idempotency_key,
                '{"ant":false,"gold":true}',
                "[1, 2]",
                NOW,
                202,
                "Identify User",
                None,
            )
        ]
        assert [runs.get(connection, run.id).sent for run in (gold, ant)] == [1, 1]


def test_settling_leaves_newer_values_open(database: Database) -> None:
    """What changed while the older value was under way is still to be sent."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("u1"))
        sent = event_of(connection, "u1")
        newer = make_run(connection)
        enqueue(connection, newer, make_change("u1", ChangeKind.EXITED))
        waiting.settle(connection, [[sent]], now_ms=NOW, status=200)

        assert [(row.value, row.generation) for row in opened(connection)] == [("false", newer.generation)]


def test_death_is_of_one_generation(database: Database) -> None:
    """A refused event takes down only the values it carried, and can be taken back."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), make_change("u1"))
        sent = event_of(connection, "u1")
        enqueue(connection, make_run(connection, audience="ant"), make_change("u1"))

        outbox.mark_dead(connection, sent, "refused")
        assert [row.trait for row in opened(connection)] == ["ant"]
        assert outbox.count(connection) == (1, 0, 1)
        assert outbox.count_of_run(connection, 1) == (0, 1)
        outbox.mark_dead(connection, sent, None)
        assert outbox.count(connection) == (2, 0, 0)
        enqueue(connection, make_run(connection), make_change("u1", ChangeKind.EXITED))
        outbox.mark_dead(connection, sent, "refused")
        assert outbox.count(connection) == (2, 0, 0)


def test_a_page_has_whole_profiles(database: Database) -> None:
    """All values of a profile go in one event, whatever the size of a page, and every profile is seen once."""
    profiles = [f"u{n}" for n in range(7)]
    with database.write() as connection:
        for name in ("ant", "bee", "cat", "dog"):
            enqueue(connection, make_run(connection, audience=name), *map(make_change, profiles))

        for limit in (1, 2, 5, 8, 28, 29):
            seen: list[OpenChange] = []
            after, more = (-1, ""), True
            while more:
                found, more = outbox.page(connection, after=after, high=1023, limit=limit)
                seen += found
                after = (found[-1].shard, found[-1].profile_key) if found else after
            assert seen == opened(connection)
            assert len(seen) == 28


def test_a_page_keeps_to_its_shards(database: Database) -> None:
    """A holder of some shards sees nothing of the others."""
    with database.write() as connection:
        enqueue(connection, make_run(connection), *(make_change(f"u{n}") for n in range(200)))
        shards = {row.shard for row in outbox.page(connection, after=(100, ""), high=300, limit=1000)[0]}

    assert shards == {shard_of(f"u{n}") for n in range(200)} & set(range(100, 301))


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
    """A session with nothing to do ends; one with an attempt of unknown outcome does not."""
    with database.write() as connection:
        assert not outbox.any_deliverable(connection)
        run = make_run(connection)
        enqueue(connection, run, make_change("u1"), make_change("u2"))
        event = event_of(connection, "u1")
        outbox.mark_dead(connection, event, "refused")
        audiences.set_state(connection, run.audience_id, "paused")
        assert not waiting.any_deliverable(connection)
        attempts.add(connection, [event], now_ms=NOW)
        assert waiting.any_deliverable(connection, forwarded=False)


def test_reopening_sends_the_current_value(database: Database) -> None:
    """After a doubt the present truth goes again, with the identifiers of the event where the profile is gone."""
    with database.write() as connection:
        run = make_run(connection)
        apply(connection, run, make_change("in", company="now"))
        for key in ("in", "out"):
            outbox.reopen(
                connection,
                make_event(make_open(key, generation=7, run_id=run.id, identifiers=company_identifiers("then"))),
                generation=99,
            )

        assert {(row.profile_key, row.value, row.identifiers, row.generation) for row in opened(connection)} == {
            ("in", "true", company_identifiers("now"), 99),
            ("out", "false", company_identifiers("then"), 99),
        }


def test_resending_says_everything_again(database: Database) -> None:
    """A resync sends each member's value and each remembered exit once, with the newest identifiers, shard by shard."""
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
        resent = sum(outbox.resend(connection, resync, low=low, high=low + 255) for low in range(0, 1024, 256))

        assert resent == 4
        assert {(row.profile_key, row.value, row.identifiers) for row in opened(connection)} == {
            ("stays", "true", company_identifiers("c1")),
            ("back", "true", None),
            ("left", "false", company_identifiers("c2")),
            ("twice", "false", company_identifiers("c4")),
        }
        assert {row.generation for row in opened(connection)} == {resync.generation}


def test_attempts_keep_events_in_order(database: Database) -> None:
    """What was under way is found again as it was, oldest first, with its tries and its next moment."""
    with database.write() as connection:
        one = attempts.add(connection, [make_event(make_open("u1")), make_event(make_open("é\\"))], now_ms=NOW)
        two = attempts.add(connection, [make_event(make_open("u2"))], now_ms=NOW)
        later = attempts.postpone(connection, one, not_before=NOW + 5, error="HTTP 503")

        assert (later.tries, later.not_before, later.error) == (1, NOW + 5, "HTTP 503")
        assert attempts.within(connection, [(0, 1023)], now_ms=NOW) == [later, two]
        attempts.remove(connection, [one])
        assert attempts.within(connection, [(0, 1023)], now_ms=NOW) == [two]


def test_an_attempt_is_cut_at_the_borders_of_a_lease(database: Database) -> None:
    """Each holder repeats the events of its own shards, under their old keys, and no event is lost or doubled."""
    events = [make_event(make_open(f"u{n}")) for n in range(20)]
    low = [event for event in events if event.shard < 512]
    high = [event for event in events if event.shard >= 512]
    with database.write() as connection:
        attempts.add(connection, events, now_ms=NOW)

        mine = attempts.within(connection, [(0, 511)], now_ms=NOW)
        others = attempts.within(connection, [(512, 1023)], now_ms=NOW)

    assert [attempt.events for attempt in mine] == [tuple(low)]
    assert [attempt.events for attempt in others] == [tuple(high)]


def test_an_attempt_between_the_borders_is_not_ours(database: Database) -> None:
    """An attempt whose extent crosses leased shards, but without an event in them, is left alone."""
    events = sorted((make_event(make_open(f"u{n}")) for n in range(20)), key=lambda event: event.shard)
    ends = [events[0], events[-1]]
    with database.write() as connection:
        attempt = attempts.add(connection, ends, now_ms=NOW)

        assert attempts.within(connection, [(events[1].shard, events[-2].shard)], now_ms=NOW) == []
        assert attempts.within(connection, [(0, 1023)], now_ms=NOW) == [attempt]


def test_a_forgotten_person_leaves_every_attempt(database: Database) -> None:
    """Nothing of a forgotten person is sent again; the others of the batch are."""
    one, two = make_event(make_open("u1")), make_event(make_open("u2"))
    with database.write() as connection:
        attempts.add(connection, [one, two], now_ms=NOW)
        attempts.add(connection, [one], now_ms=NOW)
        attempts.forget(connection, "u1", shard=shard_of("u1"))

        assert [attempt.events for attempt in attempts.within(connection, [(0, 1023)], now_ms=NOW)] == [(two,)]
        extent = connection.exec_driver_sql("SELECT low, high, size FROM attempts").one()
        assert tuple(extent) == (shard_of("u2"), shard_of("u2"), 1)


def test_retries_are_seen_in_the_view(database: Database) -> None:
    """Who asks what is open reads how often it was tried, why it failed and when it goes again."""
    with database.write() as connection:
        run = make_run(connection)
        enqueue(connection, run, make_change("u1"), make_change("u2"))
        attempt = attempts.add(connection, [event_of(connection, "u1")], now_ms=NOW)
        attempts.postpone(connection, attempt, not_before=NOW, error="HTTP 503")
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
