"""One sync of one audience: what changes, what is counted, and what is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator

import pytest
import sqlalchemy as sa

from audience_sync.checks.check_members import look
from audience_sync.core.keys import RowFault
from audience_sync.core.model import ChangeKind, Counts, RunKind, RunState, Severity
from audience_sync.store import audiences, memberships
from audience_sync.sync import definition_rows
from tests.factories import AUDIENCE_KEY, company_identifiers, make_change
from tests.syncing import Syncing, adds_up, people, replayed
from tests.tuned import in_parts

pytestmark = pytest.mark.slow_on_postgres


def test_a_first_sync(syncing: Syncing) -> None:
    """Everybody enters, with their company, and is to be told so."""
    found: list[int] = []
    report = syncing.sync([("u1", "c1"), ("u2", None)], on_first=found.append)

    run = report.run
    assert (run.kind, run.state, run.counts) == (RunKind.INITIAL, RunState.SUCCEEDED, Counts(read=2, entered=2))
    assert (report.audience_key, report.members, report.rejections) == (AUDIENCE_KEY, 2, Counter())
    assert found == [2]
    assert syncing.members() == {"u1": company_identifiers("c1"), "u2": None}
    assert {(o.profile_key, o.value, o.identifiers, o.generation) for o in syncing.outbox().values()} == {
        ("u1", "true", company_identifiers("c1"), run.generation),
        ("u2", "true", None, run.generation),
    }
    assert syncing.audience().completed
    assert syncing.audience().applied_as_of == run.as_of == run.started_at


def test_an_unchanged_source_sends_nothing(syncing: Syncing) -> None:
    """A second sync of the same rows changes no table but `runs`."""
    syncing.sync([("u1", "c1"), ("u2", None)])
    syncing.clear_outbox()

    run = syncing.sync([("u2", None), ("u1", "c1")]).run

    assert (run.kind, run.counts) == (RunKind.INCREMENTAL, Counts(read=2, unchanged=2))
    assert syncing.outbox() == {}
    assert syncing.query("SELECT * FROM changes WHERE run_id = :r", r=run.id) == []


def test_entering_leaving_and_changing(syncing: Syncing) -> None:
    """Each kind of change is applied, recorded and sent; an exit goes with the identifiers seen last."""
    syncing.sync([("stays", "c1"), ("leaves", "c2"), ("moves", "c3")])
    syncing.clear_outbox()

    run = syncing.sync([("stays", "c1"), ("moves", "c4"), ("enters", "c5")]).run

    assert run.counts == Counts(read=3, entered=1, exited=1, updated=1, unchanged=1)
    assert syncing.members() == {
        "stays": company_identifiers("c1"),
        "moves": company_identifiers("c4"),
        "enters": company_identifiers("c5"),
    }
    assert {(o.profile_key, o.value, o.identifiers) for o in syncing.outbox().values()} == {
        ("leaves", "false", company_identifiers("c2")),
        ("moves", "true", company_identifiers("c4")),
        ("enters", "true", company_identifiers("c5")),
    }
    assert {o.generation for o in syncing.outbox().values()} == {run.generation}
    history = syncing.query(
        "SELECT profile_key, kind, identifiers FROM membership_changes WHERE run_id = :r ORDER BY 1", r=run.id
    )
    assert [tuple(row) for row in history] == [
        ("enters", "entered", company_identifiers("c5")),
        ("leaves", "exited", company_identifiers("c2")),
        ("moves", "updated", company_identifiers("c4")),
    ]


def test_a_member_keeps_the_run_it_entered_in(syncing: Syncing) -> None:
    """`since` is when a profile came in, not when its company changed."""
    first = syncing.sync([("u1", "c1")]).run
    syncing.sync([("u1", "c2")])

    assert [row[0] for row in syncing.query("SELECT run_id FROM current_members")] == [first.id]


def test_updates_may_be_silent(syncing: Syncing) -> None:
    """With `send_updates = false` identifiers are kept up to date for the exit, and nobody is told before."""
    syncing.configure(audience={"send_updates": False})
    syncing.sync([("u1", "c1"), ("u2", "c1")])
    syncing.clear_outbox()

    run = syncing.sync([("u1", "c2"), ("u2", "c1")]).run

    assert run.counts.updated == 1
    assert syncing.members()["u1"] == company_identifiers("c2")
    assert syncing.outbox() == {}
    syncing.sync([("u2", "c1")])
    assert syncing.outbox()["u1"].identifiers == company_identifiers("c2")


def test_rows_that_are_no_members(syncing: Syncing) -> None:
    """Bad rows are counted by reason, sampled into a table, and cost no other row; every row read is accounted for."""
    report = syncing.sync(
        [
            None,
            ("", "c1"),
            ("x" * 256, None),
            ("a\x00b", None),
            (b"raw", None),
            ("u1", "c2"),
            ("u1", "c1"),
            ("u1", "c1"),
            ("u2", b"raw"),
        ]
    )

    assert report.run.counts == Counts(read=9, entered=2, rejected=5, duplicates=2)
    assert report.rejections == Counter(
        {
            RowFault.NULL_KEY: 1,
            RowFault.EMPTY_KEY: 1,
            RowFault.LONG_KEY: 1,
            RowFault.UNUSABLE_TEXT: 1,
            RowFault.UNSUPPORTED_TYPE: 1,
            RowFault.DUPLICATE: 2,
            RowFault.OMITTED_IDENTIFIER: 1,
        }
    )
    assert syncing.members() == {"u1": company_identifiers("c1"), "u2": None}
    kept = syncing.query("SELECT reason, profile_key FROM rejections ORDER BY position")
    assert Counter(reason for reason, _ in kept) == Counter({str(k): n for k, n in report.rejections.items()})
    assert ("duplicate", "u1") in [tuple(row) for row in kept]


def test_samples_of_rejections_are_bounded(syncing: Syncing) -> None:
    """Ten thousand bad rows are counted, and a hundred are kept to look at."""
    report = syncing.sync([None] * 10_000 + ["u1"])

    assert report.run.counts == Counts(read=10_001, entered=1, rejected=10_000)
    assert syncing.query("SELECT reason, count(*) FROM rejections GROUP BY 1") == [
        ("null_key", definition_rows.SAMPLES)
    ]


def test_numbers_and_text_are_one_person(syncing: Syncing) -> None:
    """A column that changes its type does not make everybody leave and enter again."""
    syncing.sync([(1, None), (2, None)])

    assert syncing.sync([("1", None), (2.0, None)]).run.counts == Counts(read=2, unchanged=2)


def test_the_same_rows_in_another_order_are_not_compared(syncing: Syncing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may return its rows in any order: what they say is the same, and is known to be."""
    syncing.sync(people(range(2000)))

    def refuse(*_: object) -> Generator[bytes]:
        raise AssertionError("the members were looked at")

    monkeypatch.setattr(memberships, "texts", refuse)
    run = syncing.sync(list(reversed(people(range(2000))))).run

    assert run.counts == Counts(read=2000, unchanged=2000)


def test_another_key_of_schematic_is_noticed(syncing: Syncing) -> None:
    """The same rows under another name of their company's key are other identifiers, in the same order too."""
    syncing.sync([("u1", "c1"), ("u2", None)])
    syncing.configure(company_keys={"accountId": "company_id"})

    assert syncing.sync().run.counts == Counts(read=2, updated=1, unchanged=1)
    assert syncing.members()["u1"] == '{"company":{"accountId":"c1"}}'
    assert syncing.sync().run.counts == Counts(read=2, unchanged=2)


def test_an_audience_without_digest_is_compared(syncing: Syncing) -> None:
    """Where the digest is dropped, a membership table that was tampered with is put right."""
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.execute(sa.text("DELETE FROM memberships WHERE profile_key = 'u1'"))
        audiences.add_members(connection, syncing.audience().id, -1)
    assert syncing.sync().run.counts == Counts(read=2, unchanged=2)

    with syncing.database.write() as connection:
        memberships.forget_digests(connection)
    run = syncing.sync().run

    assert run.counts == Counts(read=2, entered=1, unchanged=1)
    assert set(syncing.members()) == {"u1", "u2"}


def test_progress_is_told(syncing: Syncing) -> None:
    """Whoever watches sees rows being read, members being compared and changes being written."""
    told: list[tuple[str, int]] = []
    syncing.sync(["u1"], on_progress=lambda stage, done: told.append((stage, done)))
    syncing.sync(["u2", "u3"], on_progress=lambda stage, done: told.append((stage, done)))

    assert told == [("reading", 1), ("writing", 1), ("reading", 2), ("comparing", 1), ("writing", 3)]


def test_a_changed_definition_is_noticed(syncing: Syncing) -> None:
    """A run knows that it compares with what another definition said; going back to the same one is no change."""
    assert not syncing.sync(["u1", "u2"]).run.definition_changed
    assert not syncing.sync().run.definition_changed
    syncing.configure(sql="SELECT customer_id AS user_id, company_id FROM orders WHERE customer_id <> 'u2'")

    assert syncing.plan()[0].definition_changed
    assert syncing.sync().run.definition_changed
    assert not syncing.sync().run.definition_changed


def test_the_definition_is_asked_as_of_an_instant(syncing: Syncing) -> None:
    """`:now` is the run's as_of, so that a definition can be computed for another moment than the present."""
    syncing.shop.set_orders([("early", None, "2026-03-31 12:00:30"), ("late", None, "2026-03-31 12:01:30")])
    syncing.sync()  # at 12:01

    assert set(syncing.members()) == {"early"}
    syncing.sync()  # at 12:02
    assert set(syncing.members()) == {"early", "late"}


def test_a_newer_change_replaces_an_open_or_dead_one(syncing: Syncing) -> None:
    """What was not delivered yet, or was given up, gives way to the last word."""
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.execute(sa.text("UPDATE outbox SET dead_reason = 'refused' WHERE profile_key = 'u1'"))

    run = syncing.sync([]).run

    assert {(key, o.value, o.generation) for key, o in syncing.outbox().items()} == {
        ("u1", "false", run.generation),
        ("u2", "false", run.generation),
    }


def test_a_plan_is_what_a_sync_does(syncing: Syncing) -> None:
    """`plan` shows exactly the changes that the next sync makes, and stores nothing."""
    syncing.sync([("u1", "c1"), ("u2", "c1"), ("u3", None)])
    tables = ("runs", "changes", "outbox", "memberships", "digests", "staged", "rejections")
    before = [syncing.query(f"SELECT * FROM {table}") for table in tables]
    syncing.shop.set_orders([("u1", "c2"), ("u3", None), ("u4", None), None])

    planned, changes = syncing.plan()

    assert [syncing.query(f"SELECT * FROM {table}") for table in tables] == before
    assert sorted(changes, key=lambda change: change.profile_key) == [
        make_change("u1", ChangeKind.UPDATED, company="c2"),
        make_change("u2", ChangeKind.EXITED, company="c1"),
        make_change("u4"),
    ]
    assert (planned.kind, planned.counts.changed, planned.refusals) == (RunKind.INCREMENTAL, 3, [])
    assert syncing.sync().run.counts == planned.counts


def test_a_plan_before_the_first_sync(syncing: Syncing) -> None:
    """An audience that has never been synced can be looked at, and is not registered by it."""
    syncing.shop.set_orders(["u1", "u2"])
    planned, changes = syncing.plan()

    assert (planned.kind, planned.counts, len(changes)) == (RunKind.INITIAL, Counts(read=2, entered=2), 2)
    assert syncing.query("SELECT * FROM audiences") == []


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [7, 5000])
def test_an_audience_in_many_parts_is_as_in_one(syncing: Syncing, at_once: int) -> None:
    """A large audience that does not fit into memory is compared as a small one is."""
    rows = [(f"u{n % 900}", f"c{n % 7}") for n in range(2000)]
    syncing.tune(**vars(in_parts(at_once)))

    run = syncing.sync([*rows, ("", None)]).run

    smallest = {key: min(f"c{n % 7}" for n in range(2000) if n % 900 == int(key[1:])) for key in people(range(900))}
    assert run.counts == Counts(read=2001, entered=900, rejected=1, duplicates=1100)
    assert adds_up(run.counts)
    assert syncing.members() == {key: company_identifiers(company) for key, company in smallest.items()}
    assert replayed(syncing.database) == syncing.members()


@pytest.mark.parametrize("change", ["total = 'x'", "total = '1 2 3'", "version = 'q'", "version = '[1]'"])
def test_an_unreadable_digest_counts_as_none(syncing: Syncing, change: str) -> None:
    """A digest that a hand has changed costs a comparison; `check --deep` and the next sync go on."""
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.execute(sa.text(f"UPDATE digests SET {change}"))
    found = list(look(syncing.database))
    report = syncing.sync(["u2", "u3"])

    assert len(found) == 1
    assert (report.run.counts.entered, report.run.counts.exited) == (1, 1)
    assert syncing.members().keys() == {"u2", "u3"}
    assert [one.state for one in look(syncing.database)] == [Severity.OK]


def test_members_that_are_not_text_are_found(syncing: Syncing) -> None:
    """Bytes that SQLite cannot give as text end nothing: `check --deep` names the audience, and its remedy works."""
    if not syncing.database.is_sqlite:
        pytest.skip("PostgreSQL takes no such bytes")
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.execute(
            sa.text("UPDATE memberships SET identifiers = CAST(x'ff00' AS TEXT) WHERE profile_key = 'u2'")
        )
    (found,) = look(syncing.database)

    assert (found.state, found.message) == (
        Severity.ERROR,
        "a member has bytes that are not valid text, so the members cannot be compared",
    )
    with syncing.database.write() as connection:
        connection.execute(sa.text("DELETE FROM memberships WHERE profile_key = 'u2'"))
        connection.execute(sa.text("DELETE FROM digests"))
    syncing.sync(["u1", "u2"])
    assert syncing.members().keys() == {"u1", "u2"}


def test_members_of_an_audience_that_does_not_exist_are_found(syncing: Syncing) -> None:
    """Nobody else looks at such rows."""
    syncing.sync(["u1"])
    with syncing.database.write() as connection:
        connection.execute(sa.text("UPDATE memberships SET audience_id = 77"))

    assert next(one.message for one in look(syncing.database)) == "1 row of an audience that does not exist"


def test_a_member_of_a_run_that_does_not_exist_is_found(syncing: Syncing) -> None:
    """Views do not show such a member, so `check --deep` reports it; its remedy works."""
    syncing.sync(["u1", "u2"])
    with syncing.database.write() as connection:
        connection.execute(sa.text("UPDATE memberships SET run_id = 77 WHERE profile_key = 'u2'"))
    (found,) = look(syncing.database)

    assert found.state is Severity.ERROR
    assert found.message.startswith(
        "1 of its members have a `run_id` or `entered_run_id` that does not match any of its runs"
    )
    with syncing.database.write() as connection:
        connection.execute(sa.text("UPDATE memberships SET run_id = (SELECT max(id) FROM runs) WHERE run_id = 77"))
    syncing.sync(["u1", "u2"], resync=True)
    assert [one.state for one in look(syncing.database)] == [Severity.OK]
    assert syncing.members().keys() == {"u1", "u2"}
