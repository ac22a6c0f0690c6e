"""The statements on our own tables: what they write, and what they do to each other when several are at work."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import RejectedRow, RowFault
from audience_sync.core.model import Change, ChangeKind, Computation, Counts, Member, RunKind, RunState
from audience_sync.core.rows import to_line
from audience_sync.errors import UnknownName
from audience_sync.store import audiences, bulk, memberships, runs, schema
from audience_sync.store.database import Database
from audience_sync.store.memberships import Digest
from audience_sync.store.runs import RunRow
from tests.factories import make_change, make_member, make_run
from tests.tuned import tuned_database

NOW_US = 1_774_958_400_000_000


def table(connection: Connection, named: sa.Table) -> list[tuple[object, ...]]:
    """Return the rows of a table in the order of its primary key."""
    return [tuple(row) for row in connection.execute(sa.select(named).order_by(*named.primary_key.columns))]


@pytest.mark.parametrize("count", [0, 1, bulk.CHUNK + 1])
def test_bulk_insert_writes_every_row(database: Database, count: int) -> None:
    """Rows arrive whole and in their columns, on both sides of a chunk, from a generator too."""
    rows = [(1, f"ü{n}", "entered", None if n % 2 else '{"a":1}', None) for n in range(count)]

    with database.write() as connection:
        bulk.insert(connection, schema.staged, (row for row in rows))

    with database.read() as connection:
        assert table(connection, schema.staged) == sorted(rows, key=lambda row: row[1].encode())


def test_bulk_upsert_replaces_by_primary_key(database: Database) -> None:
    """A row of the same key is replaced, another one is left alone."""
    with database.write() as connection:
        bulk.upsert(connection, schema.digests, [(1, 1, "v", 10, "a", None), (1, 2, "v", 20, "b", None)])
        bulk.upsert(connection, schema.digests, [(1, 2, "w", 21, "ü", None), (2, 1, "v", 0, "", None)])

    with database.read() as connection:
        assert table(connection, schema.digests) == [
            (1, 1, "v", 10, "a", None),
            (1, 2, "w", 21, "ü", None),
            (2, 1, "v", 0, "", None),
        ]


def test_bulk_delete_takes_exactly_the_rows(database: Database) -> None:
    """Only rows that equal in every given column are deleted; none at all for no rows."""
    rows = [
        ("a", 1, "true", None, 5, 1, None, "entered", False, "schematic", "capture"),
        ("a", 2, "true", None, 5, 1, None, "entered", False, "schematic", "capture"),
        ("b", 1, "true", None, 6, 1, None, "entered", False, "schematic", "capture"),
    ]
    with database.write() as connection:
        bulk.insert(connection, schema.outbox, rows)
        bulk.delete(connection, schema.outbox, ("profile_key", "audience_id", "generation"), [])
        bulk.delete(
            connection,
            schema.outbox,
            ("profile_key", "audience_id", "generation"),
            [("a", 1, 5), ("b", 1, 5), ("z", 9, 9)],
        )

    with database.read() as connection:
        assert table(connection, schema.outbox) == rows[1:]


def test_an_audience_keeps_its_row(database: Database) -> None:
    """A key is one audience for ever; its name may change."""
    with database.write() as connection:
        first = audiences.register(connection, key="gold", name="Gold", now_ms=1, computation=Computation.AUDIENCE)
        again = audiences.register(connection, key="gold", name="Gold!", now_ms=2, computation=Computation.AUDIENCE)
        audiences.register(connection, key="ant", name="Ant", now_ms=2, computation=Computation.AUDIENCE)

        assert again == first._replace(name="Gold!")
        assert [audience.key for audience in audiences.every(connection)] == ["ant", "gold"]
        assert audiences.find(connection, "none") is None
        with pytest.raises(UnknownName, match="no audience 'none'"):
            audiences.by_key(connection, "none")


def test_a_run_is_kept_as_it_was_given(database: Database) -> None:
    """What is read of a run is what was written, counts and states included."""
    with database.write() as connection:
        run = make_run(connection, kind=RunKind.RESYNC, reason="only u1", partial=True, send_updates=False)
        counts = Counts(read=21, entered=1, exited=2, updated=3, unchanged=4, rejected=6, duplicates=7)
        runs.set_counts(connection, run.id, counts)
        runs.finish(connection, run.id, RunState.FAILED, now_ms=99)
        found = runs.get(connection, run.id)

    assert (run.kind, run.state, run.partial, run.send_updates) == (RunKind.RESYNC, RunState.RUNNING, True, False)
    assert found == run._replace(state=RunState.FAILED, finished_at=99, counts=counts)
    assert found.counts.changed == 6


@pytest.mark.parametrize("statement", ["state = 'succeeded'", "finished_at = 1", "state = 'done'", "kind = 'full'"])
def test_the_schema_refuses_impossible_runs(database: Database, statement: str) -> None:
    """A final run has an end, no other has one, and there are no other states: no bug can store nonsense."""
    with database.write() as connection:
        run = make_run(connection)

    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.text(f"UPDATE runs SET {statement} WHERE id = :i"), {"i": run.id})


def test_a_run_that_is_not_there_is_named(database: Database) -> None:
    """A mistyped run number gets a sentence."""
    with database.read() as connection, pytest.raises(UnknownName, match="no run 7"):
        runs.get(connection, 7)


def test_rejections_are_numbered_on(database: Database) -> None:
    """Samples of one run stay in the order in which they were met."""
    samples = [
        RejectedRow(RowFault.NULL_KEY, None, "[null]"),
        RejectedRow(RowFault.UNFIT_VALUE, "x", '["x"]', "column value: not a finite number"),
    ]
    with database.write() as connection:
        run = make_run(connection)
        runs.add_rejections(connection, run.id, samples, first=0)
        runs.add_rejections(connection, run.id, samples[:1], first=2)

        found = [row[1:] for row in table(connection, schema.rejections)]
    assert found == [
        (0, "null_key", None, "[null]", None),
        (1, "unfit_value", "x", '["x"]', "column value: not a finite number"),
        (2, "null_key", None, "[null]", None),
    ]


def lines(connection: Connection, run: RunRow) -> list[str]:
    """Return the members of a run's audience as lines."""
    return b"".join(memberships.texts(connection, run.audience_id, run.wrapping)).decode().split("\n")[:-1]


def changes_of(members: Iterable[Member]) -> list[Change]:
    """Return the entries of members."""
    return [Change(ChangeKind.ENTERED, *member) for member in members]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_memberships_are_read_as_lines(database: Database, at_once: int) -> None:
    """What the database joins to lines is what the core makes of the same members, however many there are at once."""
    members = [
        make_member("\\."),
        make_member("a"),
        make_member("a b", company="c\\1"),
        make_member("x%", company='"', value="v"),
        make_member("é🙂", value=[1, None]),
    ]
    with tuned_database(database, members_per_read=at_once).write() as connection:
        run, other = make_run(connection), make_run(connection, audience="other")
        memberships.apply(connection, run, changes_of(members))

        assert lines(connection, run) == [to_line(member) for member in members]
        assert lines(connection, other) == []
        assert memberships.first(connection, run.audience_id, at_most=2) == members[:2]
        assert memberships.find(connection, run.audience_id, "x%") == members[3]
        assert memberships.find(connection, run.audience_id, "x_") is None


def test_a_plan_is_staged_and_applied_in_parts(database: Database) -> None:
    """A plan is applied in the order of its profiles, in pieces of about a commit, and leaves as it becomes true."""
    plan = [make_change("a"), make_change("b", company="c"), make_change("c", company="d")]
    with database.write() as connection:
        run, other = make_run(connection), make_run(connection, audience="other")
        memberships.stage(connection, run, plan[::-1])
        memberships.stage(connection, other, plan[:1])

        assert memberships.next_staged(connection, run.id, at_most=2) == "b"
        assert memberships.next_staged(connection, run.id, at_most=99) == "c"
        memberships.apply_staged(connection, run, upto="b")
        assert memberships.next_staged(connection, run.id, at_most=99) == "c"
        assert lines(connection, run) == ["a", 'b\t{"company":{"groupId":"c"}}']
        assert audiences.by_id(connection, run.audience_id).members == 2
        memberships.unstage(connection, run)
        assert memberships.next_staged(connection, run.id, at_most=99) is None
        assert memberships.next_staged(connection, other.id, at_most=99) == "a"


def test_newcomers_are_members_like_others(database: Database) -> None:
    """Who enters where nobody was is told, remembered and kept as anybody else, whatever a line holds."""
    groups = [
        [make_member("a"), make_member("a b", company='"c\\1"'), make_member("é🙂\\")],
        [make_member("plain"), make_member("q\"'")],
        [make_member("k", company="c1"), make_member("l", company="c2")],
        [make_member("v", company="c1", value="a\tb"), make_member("w", value=[1, None])],
    ]
    for number, members in enumerate(groups):
        found = []
        with database.write() as connection:
            for way in ("enter", "apply"):
                run = make_run(connection, audience=f"audience_{number}_{way}")
                if way == "enter":
                    memberships.enter(connection, run, sorted(map(to_line, members)))
                else:
                    memberships.apply(connection, run, changes_of(members))
                statements = (
                    f"SELECT profile_key, identifiers, value FROM current_members WHERE run_id = {run.id}",
                    f"SELECT profile_key, kind, identifiers, value FROM all_changes WHERE run_id = {run.id}",
                    f"SELECT profile_key, kind, identifiers, value FROM outbox WHERE run_id = {run.id}",
                )
                found.append([sorted(map(repr, connection.exec_driver_sql(s).all())) for s in statements])
                found[-1].append([repr(audiences.by_id(connection, run.audience_id).members)])

        assert found[0] == found[1]
        assert found[0][-1] == [repr(len(members))]


def test_a_digest_is_of_the_members_only_once_all_is_applied(database: Database) -> None:
    """It waits with its plan, any change of the members drops the older one, and with another number it is not used."""
    whole = Digest("v", 2, "1 2")
    with database.write() as connection:
        run = make_run(connection)
        memberships.keep_digest(connection, run, whole, source_sums="3 a")
        assert memberships.digest(connection, run.audience_id) is None
        memberships.enter(connection, run, ["a", "b"])
        memberships.trust_digest(connection, run)
        assert memberships.digest(connection, run.audience_id) == whole
        assert memberships.source_sums(connection, run.audience_id) == "3 a"

        newer = make_run(connection)
        memberships.keep_digest(connection, newer, whole, source_sums="3 a")
        memberships.apply(connection, newer, [make_change("b", ChangeKind.EXITED)])
        assert memberships.digest(connection, run.audience_id) is None
        assert memberships.source_sums(connection, run.audience_id) is None
        memberships.trust_digest(connection, newer)
        assert memberships.digest(connection, run.audience_id) is None
        assert table(connection, schema.digests) == []


def test_a_whole_run_corrects_the_count(database: Database) -> None:
    """A number of members that a person's hand has made wrong is right after the next run that compares everybody."""
    with database.write() as connection:
        run = make_run(connection)
        memberships.keep_digest(connection, run, Digest("v", 2, "1 2"), source_sums=None)
        memberships.enter(connection, run, ["a", "b"])
        audiences.add_members(connection, run.audience_id, 7)
        memberships.trust_digest(connection, run)

        assert audiences.by_id(connection, run.audience_id).members == 2
        assert memberships.digest(connection, run.audience_id) == Digest("v", 2, "1 2")
