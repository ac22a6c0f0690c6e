"""The commands agree on what is held, and nobody receives a trait that no accepted definition gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audience_sync.store import audiences
from tests.acceptance.local_daemon import local_daemon
from tests.acceptance.running import ON_ONE_DATABASE, Ended, Place, open_place, until
from tests.chains import EVERYBODY, SPEND, chain_text, set_spend


class Counter:
    """A shop with a chain of audiences, a sandbox, and the command line."""

    def __init__(self, place: Place) -> None:
        self.place, self.command = place, place.command

    def configure(self, **wanted: Any) -> None:
        """Write the configuration; see `chains.chain_text`."""
        url = self.place.sandbox.url
        text = "\n".join(
            [
                chain_text(**wanted),
                f'[database]\nurl = "{self.place.database_url}"',
                f'[schematic]\ncapture_url = "{url}"\napi_url = "{url}"',
                "[delivery]\nmax_requests_per_second = 2000",
            ]
        )
        (self.place.folder / "config.toml").write_text(text, encoding="utf-8")

    def states(self, ended: Ended) -> dict[str, str]:
        """Return the states of the runs that a command printed, by audience, in the order of the runs."""
        return {one["audience"]: one["state"] for one in ended.records}

    def planned(self, ended: Ended) -> dict[str, tuple[str, str | None]]:
        """Return the states and reasons of the audiences that a command planned."""
        return {one["audience"]: (one["state"], one["reason"]) for one in ended.records if one["audience"]}

    def status(self) -> dict[str, Any]:
        """Return what `status` says."""
        (whole,) = self.command("status", "--format", "json").records
        return whole

    def held(self) -> dict[str, str]:
        """Return the reasons of the audiences that `status` calls held, after checking that both places agree."""
        whole = self.status()
        held = {one["audience"]: one["reason"] for one in whole["held"]}
        assert held.keys() == {one["key"] for one in whole["audiences"] if one["state"] == "held"}
        return held

    def told(self, trait: str) -> set[str]:
        """Return who has a trait in Schematic."""
        return {user for user, traits in self.place.traits().items() if traits.get(trait) is True}


@pytest.fixture
def counter(tmp_path: Path, database_url: str) -> Iterator[Counter]:
    """Yield a chain of two audiences, not yet synced."""
    with open_place(tmp_path, database_url) as place:
        found = Counter(place)
        found.configure()
        set_spend(place.shop, SPEND)
        yield found


@pytest.mark.slow
def test_an_edited_definition_that_a_guard_blocks_reaches_nobody_through_others(counter: Counter) -> None:
    """While `spenders` is blocked, `quiet_spenders` is held: plan, sync and status agree, and approving releases it."""
    first = counter.command("sync", "--format", "json")
    assert (first.code, counter.states(first)) == (0, {"spenders": "succeeded", "quiet_spenders": "succeeded"})
    assert counter.told("spenders") == {"u10", "u11", "u12", "u13"}
    assert counter.told("quiet_spenders") == {"u10", "u11", "u12"}

    counter.configure(spenders=EVERYBODY)
    planned = counter.command("plan", "quiet_spenders", "--format", "json")
    would = "audience `spenders` would be blocked by a guard; review it with `audience-sync plan spenders`"
    assert planned.code == 4
    assert counter.planned(planned) == {
        "spenders": ("blocked", "10 would enter: 250.0 % of the previous 4 members; max_entry_percent allows 200 %"),
        "quiet_spenders": ("held", would),
    }
    assert [planned.records[1][column] for column in ("members", "enter", "requests", "time")] == [3, None, None, None]
    assert "syncing spenders first: it is used by quiet_spenders\n" in planned.err
    assert f"quiet_spenders: a sync would be held: {would}\n" in planned.err

    synced = counter.command("sync", "--format", "json")
    reason = "audience `spenders` is blocked (run 3); resolve it with `audience-sync approve spenders`"
    assert (synced.code, counter.states(synced)) == (4, {"spenders": "blocked", "quiet_spenders": "held"})
    assert synced.records[1]["reason"] == reason
    assert f"held: quiet_spenders: {reason}\n" in synced.err
    assert counter.held() == {"quiet_spenders": reason}
    (listed,) = counter.command("runs", "--state", "held", "--format", "json").records
    assert (listed["audience"], listed["state"], listed["reason"]) == ("quiet_spenders", "held", reason)
    assert "held:\n" in counter.command("status").out
    assert counter.told("quiet_spenders") == {"u10", "u11", "u12"}

    by_name = counter.command("sync", "quiet_spenders", "--format", "json")
    planned = counter.command("plan", "quiet_spenders", "--format", "json")
    assert (by_name.code, counter.states(by_name)) == (4, {"quiet_spenders": "held"})
    assert (planned.code, counter.planned(planned)) == (4, {"quiet_spenders": ("held", reason)})
    assert f"quiet_spenders: a sync would be held: {reason}\n" in planned.err

    approved = counter.command("approve", "3")
    assert approved.code == 0
    assert (
        "quiet_spenders was held because of spenders and is now due: the daemon will sync it, or run"
        " `audience-sync sync quiet_spenders`\n"
    ) in approved.err
    assert counter.held() == {}
    released = counter.command("sync", "quiet_spenders", "--format", "json")
    assert (released.code, counter.states(released)) == (0, {"spenders": "succeeded", "quiet_spenders": "succeeded"})
    assert counter.told("quiet_spenders") == {f"u{number}" for number in range(13)}
    assert counter.told("spenders") == {f"u{number}" for number in range(14)}


@ON_ONE_DATABASE
def test_who_holds_is_named_by_every_command(counter: Counter) -> None:
    """Paused: the dependent is held at once in `status`, `audiences`, `explain` and `plan`, before a sync tries it."""
    assert counter.command("sync").code == 0
    assert counter.command("pause", "spenders").code == 0
    reason = "audience `spenders` is paused; resolve it with `audience-sync resume spenders`"

    assert counter.held() == {"quiet_spenders": reason}
    listed = counter.command("audiences", "--format", "json").records
    assert {one["key"]: one["state"] for one in listed} == {"quiet_spenders": "held", "spenders": "paused"}
    explained = counter.command("explain", "u11", "quiet_spenders", "--format", "json").records[-1]
    assert f"quiet_spenders is held: {reason}; after that, the next sync would change nothing" in explained["text"]
    every = counter.command("sync", "--format", "json")
    assert (every.code, counter.states(every)) == (4, {"quiet_spenders": "held"})
    assert "skipped: spenders is paused; to continue, run `audience-sync resume spenders`\n" in every.err
    assert counter.command("plan", "--format", "json").code == 4

    assert counter.command("resume", "spenders").code == 0
    assert "quiet_spenders was held because of spenders and is now due" in counter.command("sync", "spenders").err
    assert counter.held() == {}
    due = counter.place.rows("SELECT key FROM audiences WHERE next_due_at IS NOT NULL")
    assert due == [("quiet_spenders",)]  # for the daemon, at once
    assert counter.command("sync", "quiet_spenders").code == 0
    assert [run[:1] for run in counter.place.rows("SELECT state FROM runs ORDER BY id")] == [
        ("succeeded",), ("succeeded",), ("superseded",), ("succeeded",), ("succeeded",), ("succeeded",),
    ]  # fmt: skip


@ON_ONE_DATABASE
def test_what_is_used_fails(counter: Counter) -> None:
    """The failure decides the exit code; the dependent is held, and its run says so."""
    counter.configure(settings={"spenders": "company_keys = { groupId = 'nowhere' }"})

    synced = counter.command("sync", "quiet_spenders", "--format", "json")

    assert (synced.code, counter.states(synced)) == (2, {"quiet_spenders": "held"})
    assert counter.held() == {
        "quiet_spenders": (
            "audience `spenders` failed (run 1): [sources.shop.profiles] has no column 'nowhere', but"
            " `user_keys or company_keys` refers to it; fix the cause, then run `audience-sync sync"
            " spenders`"
        )
    }
    assert f"held: quiet_spenders: {counter.held()['quiet_spenders']}\n" in synced.err
    planned = counter.command("plan", "quiet_spenders", "--format", "json")
    assert planned.code == 2
    assert counter.planned(planned)["quiet_spenders"] == (
        "held", "audience `spenders` could not be planned; `audience-sync plan spenders` shows why",
    )  # fmt: skip


@ON_ONE_DATABASE
def test_what_is_used_is_being_synced_elsewhere(counter: Counter) -> None:
    """Another process has the audience that is used: exit code 5, as for that one itself, and nothing is held."""
    assert counter.command("sync").code == 0
    with counter.place.workspace() as workspace:
        with counter.place.database.read() as connection:
            spenders = audiences.by_key(connection, "spenders")
        lease = workspace.hold([spenders.id], seconds=60)
        assert lease is not None
        with lease:
            synced = counter.command("sync", "quiet_spenders", "--wait", "0s", "--format", "json")

    assert (synced.code, synced.records) == (5, [])
    assert "error: quiet_spenders: it uses 'spenders', which another process is syncing\n" in synced.err
    assert counter.held() == {}
    assert counter.place.rows("SELECT count(*) FROM runs") == [(2,)]


@pytest.mark.parametrize("entries", ["audiences", "traits"])
def test_paused_before_its_first_sync_it_keeps_its_kind(counter: Counter, entries: str) -> None:
    """An audience and a computed trait can be paused and resumed before they are synced, and are what they are."""
    query = "trait('spend') > 50" if entries == "audiences" else "trait('spend')"
    kind = entries.removesuffix("s")
    counter.configure(more=f'[[{entries}]]\nname = "Early One"\nquery = "{query}"\n')
    for _ in range(2):
        assert counter.command("pause", "Early One").code == 0
    paused = {one["key"]: one for one in counter.status()["audiences"]}["early_one"]
    assert (paused["computation"], paused["state"]) == (kind, "paused")
    assert counter.command("sync", "early_one").code == 2

    assert counter.command("resume", "early_one").code == 0
    assert counter.command("sync", "early_one").code == 0

    assert counter.place.traits()["u11"]["early_one"] == (True if entries == "audiences" else 200)
    assert counter.place.rows("SELECT computation FROM audiences") == [(kind,)]
    assert counter.command("retract", "early_one", "--yes").code == 0
    assert counter.place.traits()["u11"]["early_one"] is (False if entries == "audiences" else None)


@ON_ONE_DATABASE
def test_a_name_is_not_taken_for_the_key_of_another(counter: Counter) -> None:
    """A computed trait whose key is the name of an audience is the one that is paused by that word."""
    more = [
        '[[audiences]]\nname = "wealth"\nkey = "rich"\nquery = "trait(\'spend\') > 500"',
        '[[traits]]\nname = "Total"\nkey = "wealth"\nquery = "trait(\'spend\')"',
    ]
    counter.configure(more="\n".join(more))

    assert counter.command("pause", "wealth").code == 0

    assert counter.place.rows("SELECT key, computation, state FROM audiences") == [("wealth", "trait", "paused")]


@pytest.mark.slow
@ON_ONE_DATABASE
def test_the_daemon_holds_and_releases(counter: Counter) -> None:
    """A blocked audience holds its dependent; approved by a command, the dependent is synced at once, and told."""
    seldom = "[schedule]\nevery = '2h'\njitter = '0s'"
    counter.configure(more=seldom)
    assert counter.command("sync").code == 0
    set_spend(counter.place.shop, SPEND[:-2])  # a truncated export: `spenders` loses half of its members
    with local_daemon(counter.place) as daemon:
        daemon.wait_for("sync_held")
        (held,) = [line for line in daemon.logged if line["event"] == "sync_held"]
        assert (held["level"], held["audience"]) == ("warning", "quiet_spenders")
        assert (
            held["reason"] == "audience `spenders` is blocked (run 3); resolve it with `audience-sync approve spenders`"
        )
        assert counter.told("quiet_spenders") == {"u10", "u11", "u12"}
        assert counter.command("approve", "3").code in {0, 3}  # 3: the daemon is delivering it
        until(lambda: counter.told("quiet_spenders") == {"u10", "u11"})

    assert counter.told("spenders") == {"u10", "u11"}
    assert [line for line in daemon.logged if line["event"] == "sync_held"] == [held]
