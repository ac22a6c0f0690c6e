"""The commands that look at the membership database and intervene in it, on both databases."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from audience_sync.cli import main, operate_commands
from audience_sync.clock import Clock
from audience_sync.config import Settings
from audience_sync.core.model import Computation, RunState
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.store import audiences, batches, erasure, leases, memberships, outbox, schema, settings_table
from audience_sync.store.database import Database
from audience_sync.store.reports import iso
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, RunReport, approve, retract, sync
from tests.factories import (
    AUDIENCE_KEY,
    AUDIENCE_NAME,
    NOON,
    ORDERS_SQL,
    FrozenClock,
    Shop,
    company_identifiers,
    make_event,
    open_changes,
    take_batch,
)
from tests.tuned import tuned_database

DAY = timedelta(days=1)


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Desk:
    """A shop, its configuration, a membership database, and the command line."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        *,
        shop: Shop,
        clock: FrozenClock,
        command: Callable[..., Result],
    ) -> None:
        self.workspace, self.settings, self.shop, self.clock, self.command = workspace, settings, shop, clock, command

    def sync(self, *orders: str | tuple[object, ...] | None, as_of: datetime | None = None) -> RunReport:
        """Put orders into the shop, sync the audience, and let a minute pass."""
        self.shop.set_orders(orders)
        job = Job(settings=self.settings, audience=self.settings.audiences[0], as_of=as_of, force=True)
        report = sync(self.workspace, job)
        self.clock.advance(timedelta(minutes=1))
        return report

    def open_changes(self) -> list[OpenChange]:
        """Return what lies in the outbox."""
        with self.workspace.database.read() as connection:
            return list(outbox.page(connection, after="", limit=10_000)[0])

    def deliver(self, *profiles: str) -> None:
        """Settle the open changes of some profiles as accepted."""
        with self.workspace.database.write() as connection:
            for profile in profiles:
                mine = open_changes(connection, profile)  # it locks rows: not in another transaction
                now = self.workspace.clock.now_ms()
                batch = take_batch(connection, make_event(*mine, sent_at=self.clock()), now_ms=now)
                batches.settle(connection, [(batch, 200)], now_ms=now)

    def attempt(self, *profiles: str, error: str) -> None:
        """Keep one batch of some profiles that failed once."""
        events = [
            make_event(change, sent_at=self.clock()) for change in self.open_changes() if change.profile_key in profiles
        ]
        now = self.workspace.clock.now_ms()
        with self.workspace.database.write() as connection:
            batch = take_batch(connection, *events, now_ms=now, holder="")
            batches.postpone(connection, batch, not_before=now + 1000, error=error)
            batches.release(connection, "")

    def kill_rows(self, *profiles: str, reason: str = "unknown trait") -> None:
        """Mark the open rows of some profiles as dead."""
        with self.workspace.database.write() as connection:
            for profile in profiles:
                connection.execute(
                    sa.text("UPDATE outbox SET dead_reason = :r WHERE profile_key = :k"), {"r": reason, "k": profile}
                )

    def members(self) -> int:
        """Return how many members the audience says to have, after counting its rows too."""
        with self.workspace.database.read() as connection:
            rows = connection.execute(sa.text("SELECT count(*) FROM memberships")).scalar_one()
            (audience,) = audiences.every(connection)
        assert audience.members == rows
        return int(rows)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs a command line on the configuration in `tmp_path`."""
    monkeypatch.setenv("AUDIENCE_SYNC_CONFIG", str(tmp_path / "config.toml"))

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["audience-sync", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Result(int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def desk(
    workspace: Workspace,
    database_url: str,
    shop: Shop,
    clock: FrozenClock,
    make_settings: Callable[..., Settings],
    command: Callable[..., Result],
) -> Desk:
    """A desk with an empty database of each kind; the file has a second audience that is never synced."""
    more = "\n".join(
        [
            "[[audiences]]",
            "name = 'Never Synced'",
            f"sql = {json.dumps(ORDERS_SQL)}",
            "[database]",
            f"url = {json.dumps(database_url)}",
        ]
    )
    return Desk(workspace, make_settings(more=more), shop=shop, clock=clock, command=command)


def test_status_names_every_state_of_an_audience(desk: Desk) -> None:
    """An operator sees which audiences are active, paused, retired, orphaned or never synced."""
    desk.sync("u1")
    with desk.workspace.database.write() as connection:
        for key in ("orphaned", "gone"):
            audiences.register(connection, key=key, name=key, now_ms=0, computation=Computation.AUDIENCE)
        audiences.set_state(connection, audiences.by_key(connection, "gone").id, "retired")

    (whole,) = desk.command("status", "--format", "json").records

    assert {one["key"]: one["state"] for one in whole["audiences"]} == {
        AUDIENCE_KEY: "active",
        "never_synced": "new",
        "orphaned": "orphan",
        "gone": "retired",
    }
    assert desk.command("pause", AUDIENCE_NAME).code == 0
    assert "paused" in desk.command("status").out


def test_status_says_what_waits_and_why(desk: Desk) -> None:
    """Open, dead and held-back rows are counted, failing batches show their error, and a blocked run how to go on."""
    desk.sync(*[f"u{n}" for n in range(200)])
    desk.attempt("u1", "u2", error="503 from Schematic")
    desk.kill_rows("u3")
    blocked = desk.sync("u1").run

    (whole,) = desk.command("status", "--format", "json").records
    table = desk.command("status")

    assert blocked.state is RunState.BLOCKED
    assert whole["deliveries"] == {
        "open": 199,
        "paused": 0,
        "dead": 1,
        "stuck": 0,
        "oldest": "2026-03-31T12:00:00.000Z",
    }
    assert [(a["error"], a["events"], a["tries"]) for a in whole["attempts"]] == [("503 from Schematic", 2, 1)]
    assert "503 from Schematic" in table.out
    assert f"audience-sync approve {AUDIENCE_KEY}" in table.err
    assert "blocked" in table.out


def test_status_calls_a_lone_event_at_the_longest_wait_stuck(desk: Desk) -> None:
    """An event that can wait no longer between two tries is shown as stuck."""
    desk.sync("u1")
    desk.attempt("u1", error="500")
    with desk.workspace.database.write() as connection:
        connection.execute(sa.text("UPDATE batches SET tries = 20 WHERE status = 'open'"))

    (whole,) = desk.command("status", "--format", "json").records

    assert whole["deliveries"]["stuck"] == 1


MOMENT = timedelta(minutes=1)


def test_status_says_who_is_at_work(desk: Desk) -> None:
    """A lease in force is shown with its holder."""
    desk.sync("u1")
    before = datetime.now(UTC)
    with desk.workspace.database.write() as connection:
        now = Clock().steady_ms() if desk.workspace.database.is_sqlite else desk.workspace.now_ms(connection)
        leases.acquire(
            connection,
            [audiences.by_key(connection, AUDIENCE_KEY).id],
            holder="elsewhere:1:x",
            now_ms=now,
            expires_at=now + 600_000,
            dead=set(),
        )

    (whole,) = desk.command("status", "--format", "json").records

    (lease,) = whole["leases"]
    until = datetime.fromisoformat(lease.pop("until")) - timedelta(minutes=10)
    assert lease == {"work": "sync", "audience": AUDIENCE_KEY, "batches": None, "holder": "elsewhere:1:x"}
    assert before - MOMENT <= until <= datetime.now(UTC) + MOMENT


def test_no_password_is_shown(desk: Desk, tmp_path: Path) -> None:
    """The password of the database is in no output, also when the database cannot be reached."""
    path = tmp_path / "config.toml"
    kept = path.read_text().partition("[database]")[0]
    path.write_text(f"{kept}[database]\nurl = 'postgresql+psycopg://reader:${{PW}}@127.0.0.1:1/none'\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PW", "s3cret")
        result = desk.command("status")

    assert result.code == 1
    assert "s3cret" not in result.out + result.err


def test_audiences_says_when_a_definition_was_edited(desk: Desk, tmp_path: Path) -> None:
    """An edit that the next sync will apply is visible before it does."""
    desk.sync("u1")
    path = tmp_path / "config.toml"
    before = {one["key"]: one["definition_changed"] for one in desk.command("audiences", "--format", "json").records}
    path.write_text(path.read_text().replace("ordered_at <= :now", "ordered_at < :now"))

    after = {one["key"]: one["definition_changed"] for one in desk.command("audiences", "--format", "json").records}

    assert before == {AUDIENCE_KEY: False, "never_synced": False}
    assert after == {AUDIENCE_KEY: True, "never_synced": False}


def test_members_are_listed_in_each_format(desk: Desk) -> None:
    """The fields are those of the view; a cell that a spreadsheet would calculate is quoted."""
    desk.sync(("u1", "c1"), "=1+1")

    rows = list(csv.DictReader(io.StringIO(desk.command("members", AUDIENCE_KEY, "--format", "csv").out)))
    records = desk.command("members", AUDIENCE_NAME, "--format", "json").records
    with desk.workspace.database.read() as connection:
        view = connection.execute(sa.text("SELECT * FROM current_members")).mappings().all()

    assert {"u1", "'=1+1"} == {row["profile_key"] for row in rows}
    assert {"u1", "=1+1"} == {record["profile_key"] for record in records}
    (mine,) = (record for record in records if record["profile_key"] == "u1")
    (viewed,) = (dict(row) for row in view if row["profile_key"] == "u1")
    assert {**viewed, "identifiers": {"company": {"groupId": "c1"}}} == mine


def test_a_list_says_what_it_leaves_out(desk: Desk) -> None:
    """Pages join without gaps or repetition, and a cut list says how to see all of it."""
    everybody = [f"u{n}" for n in range(2500)]
    desk.sync(*everybody)

    cut = desk.command("members", AUDIENCE_KEY, "--limit", "10", "--format", "json")
    whole = desk.command("members", AUDIENCE_KEY, "--limit", "0", "--format", "json")

    assert len(cut.records) == 10
    assert "2,490 more; --limit 0 shows all" in cut.err
    assert sorted(everybody) == sorted(record["profile_key"] for record in whole.records)
    assert "more" not in whole.err


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(desk: Desk, tmp_path: Path) -> None:
    """`| head` ends a long list without a word."""
    desk.sync(*[f"u{n}" for n in range(3000)])
    words = ["--config", str(tmp_path / "config.toml"), "members", AUDIENCE_KEY, "--limit", "0", "--format", "json"]

    with subprocess.Popen(
        [sys.executable, "-m", "audience_sync", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"profile_key" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_as_of_is_exact(desk: Desk) -> None:
    """Whatever came later, the members at an instant are those that the sync at that instant had found."""
    chance = random.Random(7)
    snapshots: list[tuple[datetime, dict[str, tuple[Any, str, int]]]] = []
    since: dict[str, tuple[str, int]] = {}
    for _ in range(8):
        orders = {f"u{n}": chance.choice([None, "c1", "c2"]) for n in range(60) if chance.random() < 0.6}
        at = desk.clock()
        run = desk.sync(*orders.items()).run
        since = {key: since.get(key, (iso(run.as_of) or "", run.id)) for key in orders}
        found = {key: (company and {"company": {"groupId": company}}, *since[key]) for key, company in orders.items()}
        snapshots.append((at, found))

    for at, expected in snapshots:
        for moment in (at, at + timedelta(seconds=59)):
            words = ("--as-of", moment.isoformat(), "--limit", "0", "--format", "json")
            records = desk.command("members", AUDIENCE_KEY, *words).records

            assert expected == {r["profile_key"]: (r["identifiers"], r["since"], r["run_id"]) for r in records}


def test_as_of_goes_by_the_last_word_when_time_went_back(desk: Desk) -> None:
    """After a forced sync for an earlier instant, that instant is what it said."""
    desk.sync("u1", as_of=NOON)
    desk.sync("u1", "u2", as_of=NOON + 4 * DAY)
    desk.sync("u3", as_of=NOON + 2 * DAY)

    def at(days: int) -> set[str]:
        moment = (NOON + days * DAY).isoformat()
        records = desk.command("members", AUDIENCE_KEY, "--as-of", moment, "--format", "json").records
        return {record["profile_key"] for record in records}

    assert [{"u1"}, {"u3"}, {"u3"}] == [at(1), at(3), at(5)]


def test_as_of_refuses_what_it_cannot_know(desk: Desk) -> None:
    """Before the first sync and before the history that is kept, the answer is a refusal, not a wrong list."""
    desk.sync("u1")
    desk.clock.advance(500 * DAY)
    desk.sync("u1", "u2")
    early = desk.command("members", AUDIENCE_KEY, "--as-of", "2026-03-31T11:00")
    known = desk.command("members", AUDIENCE_KEY, "--as-of", "2026-03-31T13:00", "--format", "json")
    erasure.purge(desk.workspace.database, desk.settings.retention, now_ms=desk.workspace.clock.now_ms())

    purged = desk.command("members", AUDIENCE_KEY, "--as-of", "2026-03-31T13:00")
    now = desk.command("members", AUDIENCE_KEY, "--as-of", desk.clock().isoformat(), "--format", "json")

    assert (early.code, early.out) == (2, "")
    assert "first synced as of 2026-03-31 12:00:00Z, which is after 2026-03-31 11:00:00Z" in early.err
    assert [record["profile_key"] for record in known.records] == ["u1"]
    assert (purged.code, purged.out) == (2, "")
    assert "history starts at" in purged.err
    assert {"u1", "u2"} == {record["profile_key"] for record in now.records}


def test_profile_tells_everything_about_one_user(desk: Desk) -> None:
    """Membership, what was sent, what is under way and the history are in one place."""
    desk.sync(("u1", "c1"), "u2")
    desk.deliver("u1")
    desk.sync("u2")
    desk.attempt("u1", error="timeout")

    (whole,) = desk.command("profile", "u1", "--format", "json").records
    table = desk.command("profile", "u2")

    (mine,) = whole["audiences"]
    assert (
        mine["member"],
        mine["since"],
        mine["open_value"],
        mine["open_state"],
        mine["tries"],
        mine["reason"],
    ) == (False, None, False, "retrying", 1, "timeout")
    assert [delivery["traits"] for delivery in whole["deliveries"]] == [{AUDIENCE_KEY: True}]
    assert [change["kind"] for change in whole["changes"]] == ["exited", "entered"]
    assert "waiting" in table.out
    assert desk.command("profile", "nobody").code == 2


def test_runs_changes_and_rejections_can_be_narrowed(desk: Desk) -> None:
    """Lists are newest first and obey their filters."""
    desk.sync("u1", ("u2", "c1"))
    second = desk.sync("u1", ("u2", "c2"), "u3", None, ("u3", "c3")).run
    desk.sync("u3")

    def changes(*words: str) -> list[tuple[int, str, str]]:
        records = desk.command("changes", *words, "--format", "json").records
        return [(record["run_id"], record["kind"], record["profile_key"]) for record in records]

    def seconds(later: int) -> str:
        return (NOON + timedelta(seconds=later)).isoformat()

    assert [record["id"] for record in desk.command("runs", "--format", "json").records] == [3, 2, 1]
    assert desk.command("runs", AUDIENCE_KEY, "--state", "failed", "--format", "json").records == []
    assert {(2, "updated", "u2"), (2, "entered", "u3")} == set(changes("--run", "2"))
    assert {(3, "exited", "u1"), (3, "exited", "u2")} <= set(changes(AUDIENCE_KEY, "--kind", "exited"))
    assert {3, 2} == {run for run, _, _ in changes("--since", f"{NOON:%Y-%m-%dT%H:%M}:30")}
    assert {1} == {run for run, _, _ in changes("--until", f"{NOON:%Y-%m-%dT%H:%M}:30")}
    assert {2} == {run for run, _, _ in changes("--since", seconds(30), "--until", seconds(120))}
    assert changes("--since", "today") == []
    assert len(changes("--since", "100 years ago", "--until", "yesterday")) == len(changes())
    assert list(dict.fromkeys(run for run, _, _ in changes())) == [3, 2, 1]
    between = desk.command("runs", "--since", seconds(60), "--until", seconds(120), "--format", "json").records
    assert [record["id"] for record in between] == [2]
    rejected = desk.command("rejections", "--run", str(second.id), "--format", "json").records
    assert {("null_key", None), ("duplicate", "u3")} == {(r["reason"], r["profile_key"]) for r in rejected}
    assert rejected == desk.command("rejections", AUDIENCE_KEY, "--format", "json").records


def test_a_wrong_name_is_a_usage_error(desk: Desk) -> None:
    """What is not known leaves with exit code 2, a sentence on stderr and nothing on stdout."""
    desk.sync("u1")

    for line in (
        "members no_such",
        "members never_synced",
        "runs no_such",
        "changes --run 77",
        "rejections --run 77",
        "pause no_such",
        "forget nobody --yes",
        f"members {AUDIENCE_KEY} --as-of yestreday",
        "no_such_command",
    ):
        result = desk.command(*line.split())

        assert (line, 2, "") == (line, result.code, result.out)
        assert len(result.err) > 10


def test_dead_rows_are_retried_with_the_current_value(desk: Desk) -> None:
    """A retry sends what is true now, under a new generation; the other dead rows stay."""
    desk.sync("stays", "left", "other")
    desk.deliver("stays", "left", "other")
    desk.sync(("stays", "c1"), "other")
    desk.kill_rows("stays", "left")
    with desk.workspace.database.write() as connection:  # as if an old value had died
        connection.execute(sa.text("UPDATE outbox SET value = 'true' WHERE profile_key = 'left'"))
        connection.execute(sa.text("UPDATE outbox SET value = 'false', identifiers = NULL WHERE profile_key = 'stays'"))
        newest = int(settings_table.get(connection, "generation") or 0)

    listed = desk.command("dead", "list", "--format", "json").records
    first = desk.command("dead", "retry", AUDIENCE_KEY, "--profile", "stays")
    left = desk.command("dead", "list", "--format", "json").records
    desk.command("dead", "retry")

    assert {("stays", "unknown trait"), ("left", "unknown trait")} == {(r["profile_key"], r["reason"]) for r in listed}
    assert "deliver" in first.err
    assert [record["profile_key"] for record in left] == ["left"]
    opened = {change.profile_key: change for change in desk.open_changes()}
    assert ("true", company_identifiers("c1")) == (opened["stays"].value, opened["stays"].identifiers)
    assert opened["left"].value == "false"
    assert all(change.generation >= newest for change in opened.values())
    assert opened["stays"].generation < opened["left"].generation


def test_dead_rows_are_discarded_only_with_a_yes(desk: Desk) -> None:
    """Nothing is dropped without a person's word."""
    desk.sync("u1", "u2")
    desk.kill_rows("u1")

    refused = desk.command("dead", "discard")
    kept = desk.command("dead", "list", "--format", "json").records
    done = desk.command("dead", "discard", "--yes")

    assert refused.code == 2
    assert "--yes" in refused.err
    assert len(kept) == 1
    assert done.code == 0
    assert [change.profile_key for change in desk.open_changes()] == ["u2"]
    assert desk.command("dead", "list", "--format", "json").records == []


def test_pause_holds_back_and_resume_lets_go(desk: Desk) -> None:
    """The open rows of a paused audience are not handed out; one that was never synced can be paused before it is."""
    desk.sync("u1")

    desk.command("pause", AUDIENCE_KEY)
    held = desk.open_changes()
    desk.command("resume", AUDIENCE_KEY)
    never = desk.command("pause", "Never Synced")

    assert held == []
    assert len(desk.open_changes()) == 1
    assert never.out == "never_synced is paused\n"
    retract(desk.workspace, AUDIENCE_KEY)
    assert desk.command("resume", AUDIENCE_KEY).code == 2


def test_forget_leaves_no_trace(desk: Desk) -> None:
    """No table holds a word of a forgotten user, counts stay right, and others keep everything."""
    desk.sync(("target", "c1"), "other", *[f"u{n}" for n in range(150)])
    desk.deliver("target", "other")
    only = Job(settings=desk.settings, audience=desk.settings.audiences[0], only="target")
    desk.shop.set_orders([("target", "c2"), ("target", "c3"), "other", *[f"u{n}" for n in range(150)]])
    sync(desk.workspace, only)
    desk.clock.advance(timedelta(minutes=1))
    desk.attempt("target", "u1", error="timeout")
    blocked = desk.sync("other", ("new", "c1")).run
    before = desk.members()

    refused = desk.command("forget", "target")
    done = desk.command("forget", "target", "--yes")

    assert blocked.state is RunState.BLOCKED
    assert refused.code == 2
    assert "memberships 1" in refused.err
    assert done.code == 0
    assert "memberships 1, staged 1, changes 2, rejections 1, batches 2" in done.out
    assert _places_with(desk.workspace.database, "target") == []
    assert desk.members() == before - 1
    assert {"batches", "memberships"} <= set(_places_with(desk.workspace.database, "other"))
    assert desk.command("profile", "target").code == 2


def test_a_forgotten_user_comes_back_with_the_next_sync(desk: Desk) -> None:
    """Neither a digest nor an approved plan hides somebody who is still in the source."""
    everybody = [f"u{n}" for n in range(150)]
    desk.sync(*everybody)
    blocked = desk.sync(*everybody[:20], "fresh").run
    desk.command("forget", "u1", "--yes")
    desk.command("forget", "fresh", "--yes")

    approve(desk.workspace, blocked.id)
    approved = desk.members()
    desk.sync(*everybody[:20], "fresh")

    assert (approved, desk.members()) == (19, 21)


def test_forget_waits_for_nobody_who_works_on_the_user(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync or a delivery under way could write the user again: then nothing is erased, with exit code 5."""
    desk.sync("u1")
    monkeypatch.setattr(operate_commands, "CLAIM_TIMEOUT", 0.0)
    with desk.workspace.database.read() as connection:
        audience = audiences.by_key(connection, AUDIENCE_KEY)
    future = Workspace(
        database=desk.workspace.database,
        holder=desk.workspace.holder,
        clock=type(desk.workspace.clock)(),
    )
    held = future.hold([audience.id], seconds=60)
    assert held is not None
    with held:
        result = desk.command("forget", "u1", "--yes")

        assert result.code == 5
        assert desk.members() == 1

    assert desk.command("forget", "u1", "--yes").code == 0


def test_purge_deletes_only_what_is_past_its_retention(desk: Desk) -> None:
    """Old history goes in many small commits; memberships, open rows and what is younger stay."""
    database = tuned_database(desk.workspace.database, purged_rows_per_commit=7, purged_groups_per_read=10)
    desk.sync(*[f"u{n}" for n in range(50)], None)
    desk.deliver(*[f"u{n}" for n in range(30)])
    desk.clock.advance(500 * DAY)
    desk.sync(*[f"u{n}" for n in range(45)], None)
    desk.deliver("u49")
    now = desk.workspace.clock.now_ms()

    purged = erasure.purge(database, desk.settings.retention, now_ms=now)

    assert purged == {
        "changes": 5, "batches": 30, "deliveries": 0, "rejections": 1, "event_counts": 0, "message_ids": 0,
        "definitions": 0,
    }  # fmt: skip
    assert desk.members() == 45
    with desk.workspace.database.read() as connection:
        left = {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("changes", "batches", "rejections", "outbox")
        }
        history_from = settings_table.get(connection, memberships.HISTORY_FROM)
    assert left == {"changes": 5, "batches": 1, "rejections": 1, "outbox": 19}
    assert history_from == str(now - 400 * 86_400_000)
    again = erasure.purge(database, desk.settings.retention, now_ms=now)
    assert again == dict.fromkeys(purged, 0)


def test_purge_gives_space_back(desk: Desk) -> None:
    """A SQLite file shrinks after a purge, and its write-ahead log is emptied; on Postgres it is nothing to do."""
    database = desk.workspace.database
    for name in ("company", "another"):
        desk.sync(*[(f"u{n}", f"{name}-{n}" * 10) for n in range(3000)])
    erasure.compact(database)
    path = Path(str(database.engine.url.database))
    before = path.stat().st_size if database.is_sqlite else 1

    desk.clock.advance(500 * DAY)
    purged = erasure.purge(database, desk.settings.retention, now_ms=desk.workspace.clock.now_ms())

    assert purged["changes"] == 6000
    assert (path.stat().st_size if database.is_sqlite else 0) < before
    assert not database.is_sqlite or path.with_name(path.name + "-wal").stat().st_size == 0


def test_what_nobody_foresaw_is_one_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug leaves with exit code 1 and its type, a broken database with what the driver says: no traceback."""
    desk.sync("u1")

    def fail(_connection: object) -> None:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(audiences, "every", fail)
    bug = desk.command("status")
    monkeypatch.undo()
    with desk.workspace.database.write() as connection:
        connection.execute(sa.text("UPDATE runs SET as_of = 0"))
        connection.execute(sa.text("DROP VIEW sync_runs"))
    monkeypatch.setenv("AUDIENCE_SYNC_CONFIG", str(desk.settings.path))
    broken = desk.command("--config", str(desk.settings.path), "runs")

    assert bug.code == 1
    assert "unexpected RuntimeError: the moon is full" in bug.err
    assert "AUDIENCE_SYNC_TRACEBACK=1" in bug.err
    assert "Traceback" not in bug.err + broken.err
    assert broken.code == 1
    assert "sync_runs" in broken.err


def test_a_database_that_is_not_there_is_named(desk: Desk, tmp_path: Path) -> None:
    """Looking never creates a database: it says which is missing and how to create it."""
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().partition("[database]")[0])
    (tmp_path / "audience_sync.db").unlink(missing_ok=True)

    result = desk.command("status")

    assert result.code == 2
    assert "audience-sync init" in result.err
    assert not (tmp_path / "audience_sync.db").exists()


def _places_with(database: Database, text: str) -> list[str]:
    """Return the tables with a value in which a text occurs."""
    found = []
    with database.read() as connection:
        for table in schema.metadata.sorted_tables:
            rows = connection.execute(sa.select(table)).all()
            if any(isinstance(value, str) and text in value for row in rows for value in row):
                found.append(table.name)
    return found
