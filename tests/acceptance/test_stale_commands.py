"""A pipeline stops: exits reach Schematic without a rule and none with it, and every command says so."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import ON_ONE_DATABASE, Ended, Place, open_place, until

PEOPLE = 12
HALF_AN_HOUR = timedelta(minutes=30)
RULE = 'freshness = "SELECT max(loaded_at) FROM events"\nmax_age = "20m"'


class Pipeline:
    """A source with events, the configuration that reads it, and the command line."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.stopped_at = datetime.now(UTC).replace(microsecond=0)
        self._path = place.folder / "events.db"
        with closing(sqlite3.connect(self._path)) as file, file:
            file.execute("CREATE TABLE events (user_id, event, timestamp, loaded_at)")
        self.load([self.stopped_at - n * HALF_AN_HOUR for n in range(PEOPLE)], loaded_at=self.stopped_at)

    def load(self, visits: list[datetime], *, loaded_at: datetime) -> None:
        """Load a visit of each of the first people."""
        rows = [(f"u{n:02}", "Visited", _text(at), _text(loaded_at)) for n, at in enumerate(visits)]
        with closing(sqlite3.connect(self._path)) as file, file:
            file.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)

    def configure(self, rule: str, more: str = "") -> None:
        """Write the configuration: people who visited in the last six hours, and an audience that uses them."""
        url = json.dumps(self.place.sandbox.url)
        lines = [
            f"[database]\nurl = {json.dumps(self.place.database_url)}",
            f"[schematic]\ncapture_url = {url}\napi_url = {url}",
            "[delivery]\nmax_requests_per_second = 2000",
            "[guard]\nmax_exit_percent = 30\nmin_members = 1",
            f'[sources.shop]\nurl = "sqlite:///events.db"\n{rule}',
            '[sources.shop.events]\ntable = "events"',
            "[[audiences]]\nname = 'active'\nquery = \"event('Visited').within(6 hours).count() >= 1\"",
            "[[audiences]]\nname = 'quiet'\nquery = \"trait('active') = false\"",
            more,
        ]
        (self.place.folder / "config.toml").write_text("\n".join(lines), encoding="utf-8")

    def command(self, *words: str, after: timedelta | None = None) -> Ended:
        """Run a command, some time after the pipeline stopped."""
        now = [] if after is None else ["--now", (self.stopped_at + after).isoformat()]
        return self.place.command(*words, *now)

    def told(self, value: bool) -> set[str]:
        """Return the users whose trait `active` has a value in Schematic."""
        return {user for user, traits in self.place.traits().items() if traits.get("active") is value}


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


@pytest.fixture
def pipeline(tmp_path: Path, database_url: str) -> Iterator[Pipeline]:
    """Yield a pipeline that has just stopped."""
    with open_place(tmp_path, database_url) as place:
        yield Pipeline(place)


def states(ended: Ended) -> dict[str, str]:
    """Return the states that a command printed, by audience."""
    return {one["audience"]: one["state"] for one in ended.records if one.get("audience")}


EVERYBODY = {f"u{n:02}" for n in range(PEOPLE)}


def test_without_a_rule_exits_are_sent(pipeline: Pipeline) -> None:
    """Nothing looks wrong: each sync succeeds, and the guard allows its one exit."""
    pipeline.configure("")
    assert pipeline.command("sync", "active", after=timedelta()).code == 0
    assert pipeline.told(True) == EVERYBODY

    for step in range(1, 9):
        assert pipeline.command("sync", "active", after=step * HALF_AN_HOUR).code == 0

    assert pipeline.told(False) == {f"u{n:02}" for n in range(5, PEOPLE)}


def test_with_a_rule_no_exit_is_sent(pipeline: Pipeline) -> None:
    """Each sync ends with exit code 4 and sends nothing; a person can have the old data evaluated."""
    pipeline.configure(RULE)
    assert pipeline.command("sync", "active", after=timedelta()).code == 0
    received = pipeline.place.received()

    for step in range(1, 9):
        stale = pipeline.command("sync", "active", "--format", "json", after=step * HALF_AN_HOUR)
        assert (stale.code, states(stale)) == (4, {"active": "stale"})

    assert (pipeline.place.received(), pipeline.told(True)) == (received, EVERYBODY)
    allowed = pipeline.command("sync", "active", "--allow-stale", after=9 * HALF_AN_HOUR)
    assert (allowed.code, pipeline.told(False)) == (4, set())  # the guard compares with the members of four hours ago
    assert pipeline.place.rows("SELECT exited FROM runs WHERE state = 'blocked'") == [(8,)]


@ON_ONE_DATABASE
def test_every_command_says_that_the_data_is_stale(pipeline: Pipeline) -> None:
    """`sync`, `plan`, `runs`, `status` and `explain` agree, and the audience that uses the other one is held."""
    pipeline.configure(RULE)
    assert pipeline.command("sync", after=timedelta()).code == 0
    at = f"{_text(pipeline.stopped_at)}Z"
    reason = f"the newest data of source `shop` is 1h old ({at}), but max_age is 20m"
    later = 2 * HALF_AN_HOUR

    planned = pipeline.command("plan", "--format", "json", after=later)
    assert (planned.code, states(planned)) == (4, {"active": "stale", "quiet": "held"})
    assert planned.records[0]["reason"] == reason
    assert f"active: a sync would not evaluate stale data: {reason}; --allow-stale plans it anyway\n" in planned.err
    forced = pipeline.command("plan", "--allow-stale", "--format", "json", after=later)
    assert (forced.code, forced.records[0]["exit"]) == (0, 1)

    synced = pipeline.command("sync", "--format", "json", after=later)
    held = (
        f"audience `active` was not evaluated (run 3): {reason}; load new data, then run `audience-sync sync quiet`"
        " (--allow-stale evaluates the old data)"
    )
    assert (synced.code, states(synced)) == (4, {"active": "stale", "quiet": "held"})
    assert [one["reason"] for one in synced.records] == [reason, held]
    assert (
        f"stale: active: {reason}\nhint: nothing was evaluated; load new data, or run"
        " `audience-sync sync active --allow-stale`\n"
    ) in synced.err
    (listed,) = pipeline.command("runs", "--state", "stale", "--format", "json").records
    assert (listed["id"], listed["audience"], listed["state"], listed["reason"]) == (3, "active", "stale", reason)

    (whole,) = pipeline.command("status", "--format", "json").records
    assert [(one["id"], one["audience"], one["reason"]) for one in whole["stale"]] == [(3, "active", reason)]
    assert {one["key"]: one["last_run"]["state"] for one in whole["audiences"]} == {"active": "stale", "quiet": "held"}
    assert [one["audience"] for one in whole["held"]] == ["quiet"]
    assert "\nstale:\n" in pipeline.command("status").out

    explained = pipeline.command("explain", "u11", "active", "--format", "json", after=later)
    assert explained.code == 0
    assert explained.records[-1]["text"].endswith(
        f"; a sync would not evaluate stale data: {reason}; with --allow-stale, a sync as of that time would remove"
        " them"
    )
    refused = pipeline.command("approve", "3")
    assert (refused.code, f"run 3 cannot be approved: it was not evaluated: {reason}\n" in refused.err) == (2, True)


@ON_ONE_DATABASE
def test_check_reports_the_age(pipeline: Pipeline) -> None:
    """Fresh data is fine, stale data is a warning, and a query that cannot work is an error with its remedy."""
    own = "[[audiences]]\nname = 'own'\nquery = \"event('Visited').count() >= 1\"\nfreshness = \"SELECT 'soon'\""

    def ages(rule: str, more: str = "") -> list[tuple[str, str, str, str | None]]:
        pipeline.configure(rule, more)
        found = pipeline.command("check", "--format", "json").records
        return [
            (one["subject"], one["state"], one["message"], one["remedy"])
            for one in found
            if "newest data" in one["message"] or "`freshness`" in one["message"]
        ]

    ((subject, state, message, _),) = ages(RULE)
    assert (subject, state) == ("shop", "ok")
    assert message.startswith("the newest data of source `shop` is ")
    assert message.endswith("Z), and max_age is 20m")
    ((subject, state, message, remedy),) = ages(RULE.replace("loaded_at", "'2026-01-01'"))
    assert (subject, state) == ("shop", "warning")
    assert message.startswith("the next sync would not evaluate it: the newest data of source `shop` is ")
    assert remedy == "load new data; `audience-sync sync --allow-stale` evaluates the old data"
    (_, (subject, state, message, remedy)) = ages(RULE, own)
    assert (subject, state, message, remedy) == (
        "own",
        "error",
        "the `freshness` query of source `shop` returns a value that is not a time",
        "select a timestamp, a date, a text in ISO 8601 or a Unix time",
    )


@pytest.mark.slow
@ON_ONE_DATABASE
def test_the_daemon_waits_for_new_data(pipeline: Pipeline) -> None:
    """A stale source is logged once for its audiences; after new data, the next due syncs deliver."""
    pipeline.configure(
        'freshness = "SELECT max(loaded_at) FROM events"\nmax_age = "1h"', '[schedule]\nevery = "1s"\njitter = "0s"'
    )
    with closing(sqlite3.connect(pipeline.place.folder / "events.db")) as file, file:
        file.execute("UPDATE events SET loaded_at = datetime(loaded_at, '-1 days')")

    with local_daemon(pipeline.place) as daemon:
        daemon.wait_for("source_stale")
        until(lambda: len(_finished(daemon.logged)) >= 3)
        assert pipeline.told(True) == set()
        now = datetime.now(UTC)
        pipeline.load([now] * PEOPLE, loaded_at=now)
        daemon.wait_for("source_fresh")
        until(lambda: pipeline.told(True) == EVERYBODY)

    stale = [line for line in daemon.logged if line["event"] == "source_stale"]
    assert [(line["level"], line["source"]) for line in stale] == [("warning", "shop")]
    assert "1d" in stale[0]["reason"]
    assert [line["source"] for line in daemon.logged if line["event"] == "source_fresh"] == ["shop"]


def _finished(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in logged if line["event"] == "sync_finished" and line["state"] == "stale"]
