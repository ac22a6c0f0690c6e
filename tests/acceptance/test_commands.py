"""The commands that sync, plan, approve, deliver and retract: what they do, what they leave alone, how they exit."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from audience_sync.store import audiences
from audience_sync.store.database import Database, connect
from tests.acceptance.running import (
    ON_ONE_DATABASE,
    Customers,
    Ended,
    Place,
    assert_settled,
    assert_stored,
    customers,
    memberships,
    open_place,
    until,
)
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME, ORDERS_SQL
from tests.support.faulty_sandbox import FaultRule

EVERYBODY = customers(range(200))
HALF = customers(range(100))
SOON = 10.0  # seconds in which an interrupted command ends

# Two hundred orders a hundred and twenty times, so that pages of them have been read when a correction overflows.
BREAKING_SQL = """
SELECT customer_id AS user_id, company_id FROM orders CROSS JOIN weeks
UNION ALL SELECT abs(amount), NULL FROM corrections
"""

ENDLESS_SQL = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS user_id FROM n"
LOCKED = """
SELECT pid FROM pg_stat_activity
WHERE application_name = 'audience-sync' AND wait_event_type = 'Lock' AND datname = current_database()
"""


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of 200 customers, not yet synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure()
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


@pytest.fixture
def synced(place: Place) -> Place:
    """A shop whose 200 customers Schematic knows."""
    place.sync_here(place.configure(), EVERYBODY)
    place.deliver_here()
    return place


def states(place: Place) -> list[str]:
    """Return the states of all runs, oldest first."""
    return [state for (state,) in place.rows("SELECT state FROM runs ORDER BY id")]


def unchanged(place: Place, members: Customers, *, received: int) -> bool:
    """Tell whether these are still the members, and the sandbox was told nothing more."""
    return (
        place.members() == memberships(members)
        and place.received() == received
        and place.traits() == {user: {AUDIENCE_KEY: True} for user in members}
        and place.rows("SELECT * FROM open_deliveries") == []
    )


# A source that says something very different, or breaks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ({}, "200 would exit: 100.0 % of the previous 200 members; max_exit_percent allows 30 %"),
        (HALF, "100 would exit: 50.0 % of the previous 200 members; max_exit_percent allows 30 %"),
    ],
    ids=["nothing", "half"],
)
def test_a_source_that_lost_its_rows_is_not_believed(synced: Place, rest: Customers, said: str) -> None:
    """A source that returns nothing, or half of its rows, blocks the run with exit code 4 and changes nothing."""
    synced.shop.set_orders(rest.items())
    ended = synced.command("sync", "--format", "json")
    (record,) = ended.records

    assert ended.code == 4
    assert {"id": 2, "audience": AUDIENCE_KEY, "kind": "incremental", "state": "blocked"}.items() <= record.items()
    assert record["reason"] == said
    assert f"blocked: {AUDIENCE_KEY}: {said}\nhint: review it with `audience-sync plan" in ended.err
    assert unchanged(synced, EVERYBODY, received=200)


def test_an_approval_sends_exactly_the_staged_plan(synced: Place) -> None:
    """What was looked at is what is sent, though the source is whole again meanwhile; a second time changes nothing."""
    synced.shop.set_orders(HALF.items())
    assert synced.command("sync").code == 4
    synced.shop.set_orders({**EVERYBODY, "u1000": "acme"}.items())
    ended = synced.command("approve", "2", "--format", "json")
    (record,) = ended.records

    assert ended.code == 0
    assert [record[name] for name in ("id", "kind", "state", "exited", "entered", "sent", "open")] == [
        2, "incremental", "succeeded", 100, 0, 100, 0,
    ]  # fmt: skip
    assert synced.received() == 300
    assert_settled(synced, HALF, before=EVERYBODY)


def test_a_stale_approval_is_refused(synced: Place) -> None:
    """A plan that a later sync has overtaken cannot be approved any more: exit code 2, and why."""
    synced.shop.set_orders(HALF.items())
    assert synced.command("sync").code == 4
    synced.shop.set_orders(EVERYBODY.items())
    assert synced.command("sync").code == 0
    ended = synced.command("approve", "2")

    assert ended.code == 2
    assert (
        f"error: run 2 cannot be approved: it was superseded by run 3\nhint: no run of {AUDIENCE_KEY} is blocked now\n"
    ) in ended.err
    assert unchanged(synced, EVERYBODY, received=200)


@ON_ONE_DATABASE
def test_a_newer_blocked_plan_takes_the_place_of_the_older(synced: Place) -> None:
    """One plan waits for an audience: that of the newest blocked run, and only it can be approved."""
    for rest in (HALF, {}):
        synced.shop.set_orders(rest.items())
        assert synced.command("sync").code == 4

    assert states(synced) == ["succeeded", "superseded", "blocked"]
    assert synced.command("approve", "2").code == 2
    assert synced.command("approve", "3").code == 0
    assert_settled(synced, {}, before=EVERYBODY)


@ON_ONE_DATABASE
def test_a_source_that_dies_between_its_rows_changes_nothing(place: Place) -> None:
    """A query that fails after pages of rows is a failed run with exit code 1: who was not read has not left."""
    place.shop.execute("CREATE TABLE corrections (amount INTEGER)")
    place.shop.execute("CREATE TABLE weeks (n)")
    place.shop.execute(f"INSERT INTO weeks VALUES {', '.join(f'({n})' for n in range(120))}")
    place.sync_here(place.configure(sql=BREAKING_SQL), EVERYBODY)
    place.deliver_here()
    place.shop.set_orders(HALF.items())
    place.shop.execute("INSERT INTO corrections VALUES (-9223372036854775807 - 1)")
    ended = place.command("sync")

    assert ended.code == 1
    assert ended.err.count("failed while reading rows: integer overflow.") == 1
    assert states(place) == ["succeeded", "failed"]
    assert unchanged(place, EVERYBODY, received=200)


@ON_ONE_DATABASE
def test_a_source_without_its_table_changes_nothing(synced: Place) -> None:
    """A table that is gone is a failed run with exit code 1, said in one sentence, and nobody leaves."""
    synced.shop.execute("ALTER TABLE orders RENAME TO gone")
    ended = synced.command("sync")

    assert ended.code == 1
    assert ended.err.splitlines()[1] == (
        f"error: {AUDIENCE_KEY}: The sqlite source {synced.folder / 'shop.db'} refused the query:"
        " no such table: orders, at line 1, column 48: `orders WHERE ordered_at <= :now`."
    )
    assert states(synced) == ["succeeded", "failed"]
    assert unchanged(synced, EVERYBODY, received=200)

    synced.shop.execute("ALTER TABLE gone RENAME TO orders")

    assert synced.command("sync").code == 0
    assert unchanged(synced, EVERYBODY, received=200)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_source_whose_server_ends_the_connection_changes_nothing(place: Place, postgres_url: str) -> None:
    """A Postgres source terminated in the middle of the query is a failed run with exit code 1."""
    with closing(connect(postgres_url)) as source:
        with source.write() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE orders (customer_id text, company_id text, ordered_at timestamptz)"
            )
            connection.exec_driver_sql(
                "INSERT INTO orders SELECT 'u' || n, 'acme', now() FROM generate_series(0, 199) n"
            )
        place.configure(source_url=postgres_url)
        assert place.command("sync", "--now", "2099-01-01").code == 0
        with source.write() as lock, place.running("sync", "--now", "2099-01-02") as syncing:
            lock.exec_driver_sql("DELETE FROM orders")
            lock.exec_driver_sql("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            until(lambda: terminate_reader(source))
            ended = syncing.end()

    assert ended.code == 1
    assert ": The connection to the postgresql source" in ended.err
    assert states(place) == ["succeeded", "failed"]
    assert unchanged(place, EVERYBODY, received=200)


def terminate_reader(database: Database) -> bool:
    """End the connection of a source's query that waits for a lock; tell whether there was one."""
    with database.read() as connection:
        return bool(connection.execute(sa.text(LOCKED.replace("pid", "pg_terminate_backend(pid)"))).all())


# How commands exit when not all is well


@ON_ONE_DATABASE
def test_dead_deliveries_are_exit_code_3(place: Place) -> None:
    """A profile that Schematic refuses is left dead and counted; everybody else is told. Retried, it is exit code 0."""
    place.sandbox.faults.set([FaultRule(user_key="u7", status=422, body={"error": "no such user"})])
    ended = place.command("sync", "--format", "json")
    (record,) = ended.records

    assert ended.code == 3
    assert [record[name] for name in ("state", "sent", "open", "dead")] == ["succeeded", 199, 0, 1]
    assert "open deliveries: 0; dead: 1" in ended.err
    assert set(place.traits()) == set(EVERYBODY) - {"u7"}

    place.sandbox.faults.clear()

    assert place.command("dead", "retry").code == 0
    assert place.command("deliver").code == 0
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_open_deliveries_are_exit_code_3(place: Place) -> None:
    """While Schematic is away the outbox keeps everything; when it is back, `deliver` sends it."""
    place.sandbox.faults.set([FaultRule(status=503)])
    ended = place.command("sync", "--wait", "1s")

    assert ended.code == 3
    assert "open deliveries: 200; dead: 0" in ended.err
    assert place.traits() == {}

    place.sandbox.faults.clear()
    delivered = place.command("deliver")

    assert delivered.code == 0
    assert "200 events accepted by Schematic" in delivered.err
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_what_cannot_be_reached_is_exit_code_3(place: Place) -> None:
    """Without anybody at the address the syncs are done all the same, and nothing is lost."""
    place.configure(destination="http://127.0.0.1:9")
    ended = place.command("sync", "--wait", "1s")

    assert ended.code == 3
    assert "error: http://127.0.0.1:9 is unavailable: " in ended.err
    assert states(place) == ["succeeded"]
    assert place.rows("SELECT count(*) FROM open_deliveries WHERE state <> 'dead'") == [(200,)]


def test_an_audience_that_somebody_syncs_is_exit_code_5(synced: Place) -> None:
    """An audience held by a living process is waited for no longer than --wait; what it holds is not touched."""
    with synced.workspace() as workspace:
        with synced.database.read() as connection:
            audience = audiences.by_key(connection, AUDIENCE_KEY)
        lease = workspace.hold([audience.id], seconds=60)
        assert lease is not None
        with lease:
            ended = synced.command("sync", "--wait", "1s")
            approved = synced.command("approve", "1", "--wait", "1s")
            retracted = synced.command("retract", AUDIENCE_KEY, "--yes", "--wait", "1s")

    said = f"another process is working on audience '{AUDIENCE_KEY}'\nhint: `audience-sync status` shows the process"

    assert [ended.code, approved.code, retracted.code] == [5, 5, 5]
    assert all(f"error: {said}" in one.err for one in (ended, approved, retracted))
    assert states(synced) == ["succeeded"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["sync"], ["approve", "2"], ["retract", AUDIENCE_KEY, "--yes"]], ids=lambda w: w[0])
def test_a_command_waits_for_its_turn(synced: Place, words: list[str]) -> None:
    """A command goes on by itself as soon as the other process has finished with the audience."""
    synced.sync_here(synced.configure(), HALF)
    with synced.workspace() as workspace:
        lease = workspace.hold([1], seconds=60)
        assert lease is not None
        with lease, synced.running(*words) as waiting:
            waiting.wait_for(f"waiting: another process is working on audience '{AUDIENCE_KEY}'")
            lease.close()
            ended = waiting.end()

    assert ended.code == (4 if words == ["sync"] else 0)


def test_a_process_that_hangs_in_its_source_is_not_joined(place: Place) -> None:
    """While one sync waits for its source, another of the same audience exits 5, and does not disturb the first."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with place.running("sync") as first:
        until(place.held)
        second = place.command("sync", "--wait", "0s")
        place.shop.execute("COMMIT")
        ended = first.end()

    assert second.code == 5
    assert ended.code == 0
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_a_refused_key_is_exit_code_6(place: Place) -> None:
    """A key that Schematic refuses stops everything and loses nothing; once it is accepted, `deliver` finishes."""
    place.sandbox.keys.revoke(place.key)
    ended = place.command("sync")

    assert ended.code == 6
    assert "refused the API key" in ended.err
    assert place.key not in ended.err
    assert place.rows("SELECT count(*) FROM open_deliveries WHERE state <> 'dead'") == [(200,)]
    assert place.command("deliver").code == 6
    assert "refused the API key" in place.command("status", "--format", "json").records[0]["delivery_stopped"]
    assert "Schematic: API key refused since " in place.command("status").out

    place.sandbox.keys.restore(place.key)

    assert place.command("deliver").code == 0
    assert place.command("status", "--format", "json").records[0]["delivery_stopped"] is None
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_a_wrong_destination_is_exit_code_1(place: Place) -> None:
    """An address that does not lead to Schematic is said at once, and nothing is given up."""
    place.configure(destination=f"{place.sandbox.url}/elsewhere")
    ended = place.command("sync")

    assert ended.code == 1
    assert f"error: {place.sandbox.url}/elsewhere is not Schematic's API: HTTP 404" in ended.err
    assert "hint: check schematic.api_url" in ended.err
    assert place.rows("SELECT count(*) FROM open_deliveries WHERE state <> 'dead'") == [(200,)]


@ON_ONE_DATABASE
def test_one_broken_audience_does_not_stop_the_others(place: Place) -> None:
    """Each audience is synced for itself: the failure of one is told, the other is delivered, the exit code is 1."""
    place.configure(more=another("Globex", "SELECT customer_id AS user_id FROM nowhere"))
    ended = place.command("sync", "--format", "json")

    assert ended.code == 1
    assert [(record["audience"], record["state"]) for record in ended.records] == [(AUDIENCE_KEY, "succeeded")]
    assert "error: globex: The sqlite source" in ended.err
    assert place.traits() == {user: {AUDIENCE_KEY: True} for user in EVERYBODY}


def another(name: str, sql: str) -> str:
    """Return one more audience for a configuration."""
    return f"[[audiences]]\nname = {json.dumps(name)}\nsql = {json.dumps(sql)}"


# What can be asked of a sync


@ON_ONE_DATABASE
def test_a_first_sync_says_what_it_will_do(place: Place) -> None:
    """Before a first sync sends anything it says how much that is, and afterwards the counts add up."""
    ended = place.command("sync", "--format", "json")
    (record,) = ended.records

    assert ended.code == 0
    assert (
        f"first sync of {AUDIENCE_KEY}: up to 200 events in 2 requests, at least 1s at 2,000"
        " requests per second; each event updates the user's last_seen_at and may trigger a webhook;"
        " Schematic creates users it does not know"
    ) in ended.err
    assert "200 events accepted by Schematic" in ended.err
    assert record == {
        "id": 1, "audience": AUDIENCE_KEY, "kind": "initial", "state": "succeeded", "read": 200, "entered": 200,
        "exited": 0, "updated": 0, "unchanged": 0, "rejected": 0, "duplicates": 0, "sent": 200, "open": 0, "dead": 0,
        "members": 200, "reason": None,
    }  # fmt: skip
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_a_limited_first_sync_announces_its_limit(place: Place) -> None:
    """Who tries five users first is not told of all."""
    ended = place.command("sync", "--limit", "5", "--no-deliver")

    assert f"first sync of {AUDIENCE_KEY}: up to 5 events in" in ended.err


@ON_ONE_DATABASE
def test_now_is_the_instant_that_the_definition_sees(place: Place) -> None:
    """`--now` stands for `:now` and is kept as the run's as_of; one before the last needs --force."""
    march = {f"m{n}": "acme" for n in range(5)}
    place.shop.set_orders(
        [(user, company, "2026-01-15 00:00:00") for user, company in EVERYBODY.items()]
        + [(user, company, "2026-03-15 00:00:00") for user, company in march.items()]
    )
    assert place.command("sync", "--now", "2026-02-01").code == 0
    assert_settled(place, EVERYBODY)
    assert place.command("sync", "--now", "2026-04-01T02:00+02:00").code == 0
    assert_settled(place, {**EVERYBODY, **march})
    assert place.rows("SELECT as_of FROM sync_runs ORDER BY id") == [
        ("2026-02-01T00:00:00.000Z",),
        ("2026-04-01T00:00:00.000Z",),
    ]
    refused = place.command("sync", "--now", "2026-02-01")

    assert refused.code == 2
    assert (
        f"error: audience '{AUDIENCE_KEY}' was already synced as of a later time,"
        " 2026-04-01 00:00:00Z\nhint: use --force to sync as of an earlier time"
    ) in refused.err
    assert place.command("sync", "--now", "2026-02-01", "--force").code == 0
    assert_settled(place, EVERYBODY, before={**EVERYBODY, **march})


@ON_ONE_DATABASE
def test_no_deliver_leaves_it_to_deliver(place: Place) -> None:
    """With --no-deliver nothing is sent, no key is needed, and `deliver` sends it later."""
    place.key = ""
    ended = place.command("sync", "--no-deliver", "--format", "json")

    assert ended.code == 0
    assert [ended.records[0][name] for name in ("entered", "sent", "open")] == [200, 0, 200]
    assert_stored(place, EVERYBODY)
    assert place.received() == 0

    missing = place.command("deliver")
    place.key = "sch_dev_sandbox"

    assert missing.code == 2
    assert place.command("deliver").code == 0
    assert_settled(place, EVERYBODY)


def test_a_resync_sends_every_value_again(synced: Place) -> None:
    """Members and those who left are sent once more, and Schematic takes it: nothing is dropped as a repetition."""
    now = customers(range(20, 200))
    synced.shop.set_orders(now.items())
    assert synced.command("sync").code == 0
    ended = synced.command("sync", "--resync", "--format", "json")
    (record,) = ended.records

    assert ended.code == 0
    assert [record[name] for name in ("kind", "entered", "exited", "unchanged", "sent")] == ["resync", 0, 0, 180, 200]
    assert synced.received() == 200 + 20 + 200
    assert synced.sandbox.ledger.stats()["events"] == {"processed": 420, "duplicate": 0, "failed": 0}
    assert_settled(synced, now, before=EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_few_first(place: Place) -> None:
    """--only sends one user, --limit the next few, and the sync after them all the rest, as a first one still."""
    only = place.command("sync", "--only", "u3", "--format", "json")
    assert only.code == 0
    assert place.traits() == {"u3": {AUDIENCE_KEY: True}}
    limited = place.command("sync", "--limit", "10", "--format", "json")
    assert limited.code == 0
    assert len(place.traits()) == 11
    whole = place.command("sync", "--format", "json")

    assert [(r["kind"], r["state"], r["entered"], r["sent"]) for e in (only, limited, whole) for r in e.records] == [
        ("initial", "succeeded", 1, 1),
        ("initial", "succeeded", 10, 10),
        ("initial", "succeeded", 189, 189),
    ]
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_only_and_limit_send_exits_too(synced: Place) -> None:
    """A limited later sync applies only what it was told to, and the next one the rest."""
    now = customers(range(20, 200))
    synced.shop.set_orders(now.items())
    unknown, known = (synced.command("sync", "--only", user) for user in ("nobody", "u3"))
    assert (unknown.code, known.code) == (0, 0)
    assert f"note: nobody is not in the result of {AUDIENCE_KEY}, so nothing changed" in unknown.err
    assert "note: " not in known.err
    assert set(synced.members()) == set(EVERYBODY) - {"u3"}
    assert synced.command("sync", "--limit", "5").code == 0
    assert len(synced.members()) == 194
    assert synced.received() == 206
    assert synced.command("sync").code == 0
    assert_settled(synced, now, before=EVERYBODY)


@ON_ONE_DATABASE
def test_a_membership_database_is_made_only_when_asked(place: Place, empty_url: str) -> None:
    """Without its tables a database is refused with exit code 2; `sync --create` makes them and goes on."""
    place.configure(url=empty_url)
    refused = place.command("sync", "--no-deliver")
    created = place.command("sync", "--no-deliver", "--create", "--format", "json")

    assert refused.code == 2
    assert "`audience-sync init`" in refused.err
    assert created.code == 0
    assert [record["entered"] for record in created.records] == [200]


# Looking before it acts


def test_a_plan_is_every_change_that_a_sync_makes(synced: Place) -> None:
    """`plan` prints, as json and as csv, exactly the changes of the sync that follows, and changes nothing."""
    now = {**customers(range(20, 200)), **customers(range(100, 130), company="globex"), **customers(500, 501)}
    synced.shop.set_orders(now.items())
    before = synced.everything()
    planned = synced.command("plan", "--now", "2099-01-01", "--samples", "all", "--format", "json")
    as_csv = synced.command("plan", "--now", "2099-01-01", "--samples", "all", "--format", "csv")

    assert [planned.code, as_csv.code] == [0, 0]
    assert f"{AUDIENCE_KEY} (incremental, as of 2099-01-01 00:00:00Z, 200 members)" in planned.err
    assert (
        "182 read, 2 would enter, 20 would exit, 30 would be updated; 150 unchanged, 0 rejected, 0 duplicates"
    ) in planned.err
    assert synced.everything() == before
    assert synced.received() == 200
    assert synced.command("sync", "--now", "2099-01-01").code == 0

    made = synced.rows(
        "SELECT audience, kind, profile_key, value, identifiers FROM membership_changes WHERE run_id = 2"
    )
    columns = ("audience", "change", "profile_key", "value", "identifiers")
    samples = [record for record in planned.records if record["record"] == "sample"]

    assert sorted([record[name] for name in columns[:3]] + [record["identifiers"]] for record in samples) == sorted(
        [audience, kind, key, json.loads(identifiers)] for audience, kind, key, _, identifiers in made
    )
    in_csv = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert sorted(tuple(record[name] for name in columns) for record in in_csv) == sorted(
        tuple(cell or "" for cell in row) for row in made
    )
    assert [[record[change] for change in ("enter", "exit", "update")] for record in planned.records[52:]] == [
        [2, 20, 30],
        [2, 20, 30],
    ]
    assert {len(json.loads(record["bodies"])) for record in in_csv} == {1}
    assert len(made) == 52
    assert_settled(synced, now, before=EVERYBODY)


@ON_ONE_DATABASE
def test_a_plan_shows_the_bodies_that_are_posted(synced: Place) -> None:
    """Each body of a plan arrives as it was shown; only the time, the API key and the idempotency key are its own."""
    now = {**customers(range(20, 200)), **customers(range(100, 130), company="globex"), **customers(500, 501)}
    synced.shop.set_orders(now.items())
    planned = synced.command("plan", "--samples", "all", "--format", "json")
    synced.command("sync")

    shown = [body for record in planned.records if record["record"] == "sample" for body in record["bodies"]]
    sent = synced.sandbox.ledger.events()[200:]
    assert {(body["api_key"], body["idempotency_key"]) for body in shown} == {
        ("(the API key)", "(generated when sent)")
    }
    assert sorted((body["type"], json.dumps(body["body"])) for body in shown) == sorted(
        (event.type, json.dumps(event.body)) for event in sent
    )


@ON_ONE_DATABASE
def test_a_plan_says_what_would_be_blocked(synced: Place) -> None:
    """A plan that a guard would refuse is exit code 4, and says how it is approved; nothing else is on stdout."""
    synced.shop.set_orders(HALF.items())
    before = synced.everything()
    ended = synced.command("plan")

    assert ended.code == 4
    assert "a guard would block the sync: 100 would exit: 50.0 % of the previous 200 members" in ended.err
    assert "a sync would store this plan as a blocked run; `audience-sync approve RUN` applies it" in ended.err
    assert [line.split() for line in ended.out.splitlines()] == [
        ["audience", "enter", "exit", "update", "requests", "time", "state"],
        [AUDIENCE_KEY, "0", "100", "0", "1", "1s", "blocked"],
        ["(total)", "0", "100", "0", "1", "1s"],
    ]
    assert synced.everything() == before
    assert synced.command("sync").code == 4
    assert "run 2 is blocked; `audience-sync approve 2` applies its stored plan" in synced.command("plan").err


@ON_ONE_DATABASE
def test_a_plan_of_a_first_sync_changes_nothing(place: Place) -> None:
    """An audience that was never synced can be planned: everybody would enter, and the database does not hear of it."""
    ended = place.command("plan", "--format", "json")

    assert ended.code == 0
    assert [(one["record"], one["kind"], one["enter"], one["new_users"]) for one in ended.records] == [
        ("audience", "initial", 200, 200),
        ("total", None, 200, 200),
    ]
    assert "up to 200 users may be new to Schematic, which creates them" in ended.err
    assert place.rows("SELECT * FROM audiences") == place.rows("SELECT * FROM runs") == []


@ON_ONE_DATABASE
def test_an_edited_definition_is_noticed(synced: Place) -> None:
    """A definition that was edited between two runs is named by the plan and by the sync, once."""
    synced.configure(sql=f"{ORDERS_SQL} AND customer_id <> 'u7'")
    sentence = "its definition or something it uses has been edited"

    assert sentence in synced.command("plan").err
    said = f"note: {AUDIENCE_KEY}: {sentence} since the previous run; see `audience-sync audiences {AUDIENCE_KEY}"
    assert said in synced.command("sync").err
    assert sentence not in synced.command("sync").err
    assert_settled(synced, {u: c for u, c in EVERYBODY.items() if u != "u7"}, before=EVERYBODY)


# The end of an audience


def test_a_retracted_audience_is_false_for_everybody(synced: Place) -> None:
    """`retract` sends false to every member, retires the key for ever, and asks first."""
    asked = synced.command("retract", AUDIENCE_KEY)
    assert asked.code == 2
    assert (
        "error: confirmation is needed, but standard input is not a terminal\nhint: add --yes to answer yes to: "
        in asked.err
    )
    assert unchanged(synced, EVERYBODY, received=200)

    ended = synced.command("retract", AUDIENCE_KEY, "--yes", "--format", "json")
    (record,) = ended.records

    assert ended.code == 0
    assert [record[name] for name in ("kind", "state", "exited", "sent", "members")] == [
        "retract",
        "succeeded",
        200,
        200,
        0,
    ]
    assert (
        f"note: {AUDIENCE_KEY} is still in {synced.folder / 'config.toml'}; syncs will skip it from now on" in ended.err
    )
    assert synced.traits() == {user: {AUDIENCE_KEY: False} for user in EVERYBODY}
    assert synced.members() == {}

    skipped = synced.command("sync")
    named = synced.command("sync", AUDIENCE_NAME)

    assert [skipped.code, named.code] == [0, 2]
    assert (
        f"skipped: {AUDIENCE_KEY} is retired; remove it from the configuration, or give it a new name or key\n"
        in skipped.err
    )
    assert f"error: the key '{AUDIENCE_KEY}' is retired and cannot be used again" in named.err
    assert synced.command("retract", "nobody", "--yes").code == 2
    assert synced.received() == 400


# Ctrl-C


@ON_ONE_DATABASE
def test_an_interrupted_reading_ends_without_a_trace(place: Place) -> None:
    """Ctrl-C while a source is read ends with exit code 130 as soon as the source answers, and changes nothing."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with place.running("sync") as syncing:
        until(place.started)
        syncing.process.send_signal(signal.SIGINT)
        syncing.wait_for("stopping after the current step (press Ctrl-C again to quit now; nothing is lost)")
        place.shop.execute("COMMIT")
        ended = syncing.end(seconds=SOON)

    assert_interrupted(place, ended)
    assert place.rows("SELECT state, reason FROM runs") == [("failed", "stopped on request")]
    assert place.members() == place.traits() == {}
    assert place.command("sync").code == 0
    assert_settled(place, EVERYBODY)


@ON_ONE_DATABASE
def test_a_second_interrupt_ends_at_once(place: Place) -> None:
    """Ctrl-C twice ends a command at once, however far the first one has come; the next one takes over."""
    place.configure(sql=ENDLESS_SQL)
    with place.running("sync") as syncing:
        until(place.started)
        syncing.process.send_signal(signal.SIGINT)
        syncing.wait_for("stopping after the current step (press Ctrl-C again to quit now; nothing is lost)")
        ended = syncing.end(signal.SIGINT, seconds=SOON)
    place.configure()

    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert place.command("sync").code == 0
    assert place.rows("SELECT state FROM runs ORDER BY id") == [("failed",), ("succeeded",)]
    assert_settled(place, EVERYBODY)


@pytest.mark.slow
@ON_ONE_DATABASE
@pytest.mark.parametrize("words", [["sync"], ["approve", "2"], ["deliver"]], ids=lambda words: words[0])
def test_an_interrupted_delivery_ends_without_a_trace(synced: Place, words: list[str]) -> None:
    """Ctrl-C while Schematic keeps an answer back ends soon with exit code 130, and `deliver` goes on."""
    now = HALF if words[0] == "approve" else customers(range(180))
    if words[0] == "sync":
        synced.shop.set_orders(now.items())
    else:
        synced.sync_here(synced.configure(), now)
    synced.sandbox.faults.set([FaultRule(hold=True)])
    with synced.running(*words) as delivering:
        assert synced.sandbox.gate.wait_for(1, timeout=60)
        ended = delivering.end(signal.SIGINT, seconds=SOON)

    assert_interrupted(synced, ended)

    synced.sandbox.faults.clear()
    synced.sandbox.gate.release()

    assert synced.command("deliver").code == 0
    assert_settled(synced, now, before=EVERYBODY)


@ON_ONE_DATABASE
def test_sigterm_is_an_interrupt(place: Place) -> None:
    """A command that is told to end, as by a shutdown, leaves in the same order."""
    place.sandbox.faults.set([FaultRule(hold=True)])
    with place.running("sync") as syncing:
        assert place.sandbox.gate.wait_for(1, timeout=60)
        ended = syncing.end(signal.SIGTERM, seconds=SOON)

    assert_interrupted(place, ended)


def assert_interrupted(place: Place, ended: Ended) -> None:
    """Assert that a command ended as after Ctrl-C, and gave everything back."""
    assert ended.code == 130
    assert ended.err.endswith("interrupted\n")
    assert "Traceback" not in ended.err
    assert place.held() == []
