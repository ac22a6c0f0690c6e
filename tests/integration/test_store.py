"""The statements on our own tables: what they write, and what they do to each other when several are at work."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import tables
from audience_sync.core.keys import Reason, Rejection
from audience_sync.core.model import Computation, Counts, RunKind, RunState
from audience_sync.core.shards import digest, to_line
from audience_sync.db import Database
from audience_sync.errors import UnknownName
from audience_sync.store import audiences, bulk, memberships, runs
from audience_sync.store.memberships import ShardChanges
from tests.factories import make_change, make_member, make_run

NOW_US = 1_774_958_400_000_000


def table(connection: Connection, named: sa.Table) -> list[tuple[object, ...]]:
    """Return the rows of a table in the order of its primary key."""
    return [tuple(row) for row in connection.execute(sa.select(named).order_by(*named.primary_key.columns))]


@pytest.mark.parametrize("count", [0, 1, bulk.CHUNK + 1])
def test_bulk_insert_writes_every_row(database: Database, count: int) -> None:
    """Rows arrive whole and in their columns, on both sides of a chunk, from a generator too."""
    rows = [(1, n % 1024, f"ü{n}", "entered", None if n % 2 else '{"a":1}', None) for n in range(count)]

    with database.write() as connection:
        bulk.insert(connection, tables.staged, (row for row in rows))

    with database.read() as connection:
        assert table(connection, tables.staged) == sorted(rows, key=lambda row: (row[1], row[2].encode()))


def test_bulk_upsert_replaces_by_primary_key(database: Database) -> None:
    """A row of the same key is replaced, another one is left alone; bytes are kept as they are."""
    with database.write() as connection:
        bulk.upsert(connection, tables.shards, [(1, 1, 10, b"\x00a"), (1, 2, 20, b"b")])
        bulk.upsert(connection, tables.shards, [(1, 2, 21, b"\xff"), (2, 1, 0, b"")])

    with database.read() as connection:
        found = [
            (*row[:3], bytes(row[3]))
            for row in connection.execute(sa.select(tables.shards).order_by("audience_id", "shard"))
        ]
    assert found == [(1, 1, 10, b"\x00a"), (1, 2, 21, b"\xff"), (2, 1, 0, b"")]


def test_bulk_delete_takes_exactly_the_rows(database: Database) -> None:
    """Only rows that equal in every given column are deleted; none at all for no rows."""
    rows = [
        (1, "a", 1, "true", None, 5, 1, None, "entered", False, "schematic", "capture"),
        (1, "a", 2, "true", None, 5, 1, None, "entered", False, "schematic", "capture"),
        (1, "b", 1, "true", None, 6, 1, None, "entered", False, "schematic", "capture"),
    ]
    with database.write() as connection:
        bulk.insert(connection, tables.outbox, rows)
        bulk.delete(connection, tables.outbox, ("shard", "profile_key", "audience_id", "generation"), [])
        bulk.delete(
            connection,
            tables.outbox,
            ("shard", "profile_key", "audience_id", "generation"),
            [(1, "a", 1, 5), (1, "b", 1, 5), (9, "z", 9, 9)],
        )

    with database.read() as connection:
        assert table(connection, tables.outbox) == rows[1:]


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
        Rejection(Reason.NULL_KEY, None, "[null]"),
        Rejection(Reason.UNFIT_VALUE, "x", '["x"]', "column value: not a finite number"),
    ]
    with database.write() as connection:
        run = make_run(connection)
        runs.add_rejections(connection, run.id, samples, first=0)
        runs.add_rejections(connection, run.id, samples[:1], first=2)

        found = [row[1:] for row in table(connection, tables.rejections)]
    assert found == [
        (0, "null_key", None, "[null]", None),
        (1, "unfit_value", "x", '["x"]', "column value: not a finite number"),
        (2, "null_key", None, "[null]", None),
    ]


def test_memberships_are_read_as_lines(database: Database) -> None:
    """What the database joins to a line is what the core makes of the same member."""
    members = [
        make_member("a"),
        make_member("a b", company="c\\1"),
        make_member("é🙂", value=[1, None]),
        make_member("x%", company='"', value="v"),
    ]
    with database.write() as connection:
        run = make_run(connection)
        for member in members:
            change = make_change(member.profile_key)._replace(identifiers=member.identifiers, value=member.value)
            memberships.apply(connection, run, [ShardChanges(3, [change], None)])

        assert memberships.lines(connection, run.audience_id, 3) == sorted(to_line(member) for member in members)
        assert memberships.lines(connection, run.audience_id, 4) == []


def test_a_plan_is_staged_and_applied_in_parts(database: Database) -> None:
    """A plan is applied in the order of its shards, in pieces of about a commit, and leaves as it becomes true."""
    first = ShardChanges(1, [make_change("a"), make_change("b", company="c")], digest(["a"]), b"as it was read")
    second = ShardChanges(5, [make_change("c", company="d")], None)
    third = ShardChanges(6, [], digest([]))
    with database.write() as connection:
        run, other = make_run(connection), make_run(connection, audience="other")
        memberships.stage(connection, run.id, [second, first, third])
        memberships.stage(connection, other.id, [third])

        assert memberships.next_staged(connection, run.id, at_most=2) == (1, 1)
        assert memberships.next_staged(connection, run.id, at_most=3) == (1, 5)
        memberships.apply_staged(connection, run, low=1, high=1)
        assert memberships.next_staged(connection, run.id, at_most=99) == (5, 6)
        assert memberships.lines(connection, run.audience_id, 1) == ["a", 'b\t{"company":{"groupId":"c"}}']
        assert memberships.digests(connection, run.audience_id) == {1: digest(["a"])}
        assert memberships.readings(connection, run.audience_id) == {1: b"as it was read"}
        memberships.unstage(connection, run.id)
        assert memberships.next_staged(connection, run.id, at_most=99) is None
        assert memberships.next_staged(connection, other.id, at_most=99) == (6, 6)
        assert table(connection, tables.staged) == []


def test_newcomers_are_members_like_others(database: Database) -> None:
    """Who enters a shard where nobody was is told, remembered and kept as anybody else, whatever a line holds."""
    shards = [
        [make_member("a"), make_member("a b", company='"c\\1"'), make_member("é🙂\\")],
        [make_member("plain"), make_member("q\"'")],
        [make_member("k", company="c1"), make_member("l", company="c2")],
        [make_member("v", company="c1", value="a\tb"), make_member("w", value=[1, None])],
    ]
    found = []
    for number in range(2):
        with database.write() as connection:
            run = make_run(connection, audience=f"audience_{number}")
            for shard, members in enumerate(shards):
                lines = sorted(map(to_line, members))
                changes = [
                    make_change(m.profile_key)._replace(identifiers=m.identifiers, value=m.value) for m in members
                ]
                whole = ShardChanges(shard, [], digest(lines), b"r", lines)
                memberships.apply(
                    connection, run, [whole if number else ShardChanges(shard, changes, digest(lines), b"r")]
                )
                assert memberships.lines(connection, run.audience_id, shard) == lines
            statements = (
                f"SELECT shard, profile_key, identifiers, value FROM memberships WHERE audience_id = {run.audience_id}",
                f"SELECT shard, profile_key, kind, identifiers, value FROM changes WHERE run_id = {run.id}",
                f"SELECT shard, profile_key, kind, identifiers, value FROM outbox WHERE run_id = {run.id}",
                f"SELECT shard, members, digest FROM shards WHERE audience_id = {run.audience_id}",
            )
            found.append([sorted(map(repr, connection.exec_driver_sql(s).all())) for s in statements])
            found[-1].append([repr(audiences.by_id(connection, run.audience_id).members)])

    assert found[0] == found[1]
    assert found[0][-1] == ["9"]
