"""The commands with computed traits: what they show, what they ask, and what arrives at the sandbox."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from audience_sync.cli import main
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME, VALUES_SQL

BOUGHT = "SELECT customer_id AS user_id FROM orders WHERE ordered_at <= :now"
WITH_AUDIENCE = f"""
[[traits]]
name = "Spend"
sql = "{VALUES_SQL}"
type = "number"
"""
TRAITS_OF_U1 = {AUDIENCE_KEY: True, "spend": 12.5}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """Yield a shop with an audience of buyers and a computed trait of what they spent, and a sandbox."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure(name=AUDIENCE_NAME, sql=BOUGHT, company_keys={}, more=WITH_AUDIENCE)
        opened.shop.set_orders([("u1", 12.50), ("u2", 3), ("u3", None)])
        yield opened


def test_a_trait_is_planned_synced_and_looked_at(place: Place) -> None:
    """From the plan to Schematic and back in every list, a value is a value, and a computed trait is called one."""
    planned = place.command("plan", "Spend", "--samples", "all", "--format", "json")
    assert planned.code == 0, planned.err
    assert {(one["profile_key"], one["change"], one["value"], one["computation"]) for one in planned.records[:2]} == {
        ("u1", "entered", 12.5, "trait"),
        ("u2", "entered", 3, "trait"),
    }
    assert [(one["record"], one["enter"], one["rejected"]) for one in planned.records[2:]] == [
        ("audience", 2, 1),
        ("total", 2, 1),
    ]
    assert planned.records[0]["bodies"][0]["body"]["traits"] in ({"spend": 12.5}, {"spend": 3})
    assert ("0 have a value): 3 read, 2 would get a value, 0 would lose theirs, 0 would be updated") in planned.err
    assert "1 row: the value is missing" in planned.err

    synced = place.command("sync", "--format", "json")
    assert synced.code == 0, synced.err
    assert [(one["audience"], one["entered"], one["rejected"], one["members"]) for one in synced.records] == [
        (AUDIENCE_KEY, 3, 0, 3),
        ("spend", 2, 1, 2),
    ]
    assert place.traits() == {
        "u1": TRAITS_OF_U1,
        "u2": {AUDIENCE_KEY: True, "spend": 3},
        "u3": {AUDIENCE_KEY: True},
    }
    members = place.command("members", "spend", "--format", "json").records
    assert {(one["profile_key"], one["value"]) for one in members} == {("u1", 12.5), ("u2", 3)}
    assert "12.5" in place.command("members", "spend").out


def test_what_the_lists_say_of_a_trait(place: Place) -> None:
    """`changes`, `profile`, `status`, `audiences` and `rejections` tell computed traits from audiences."""
    assert place.command("sync").code == 0
    place.shop.set_orders([("u1", -5), ("u3", "x" * 2000)])
    assert place.command("sync").code == 0

    changes = place.command("changes", "Spend", "--format", "json").records
    assert {(one["profile_key"], one["kind"], one["value"], one["computation"]) for one in changes} == {
        ("u1", "entered", 12.5, "trait"),
        ("u2", "entered", 3, "trait"),
        ("u1", "updated", -5, "trait"),
        ("u2", "exited", 3, "trait"),
    }
    (profile,) = place.command("profile", "u1", "--format", "json").records
    assert [(one["audience"], one["computation"], one["member"], one["value"]) for one in profile["audiences"]] == [
        (AUDIENCE_KEY, "audience", True, None),
        ("spend", "trait", True, -5),
    ]
    assert profile["deliveries"][0]["traits"] == {"spend": -5}
    (status,) = place.command("status", "--format", "json").records
    assert {one["key"]: (one["computation"], one["members"]) for one in status["audiences"]} == {
        AUDIENCE_KEY: ("audience", 2),
        "spend": ("trait", 1),
    }
    listed = place.command("audiences", "--format", "json").records
    assert {one["key"]: one["computation"] for one in listed} == {AUDIENCE_KEY: "audience", "spend": "trait"}
    reasons = {one["reason"] for one in place.command("rejections", "spend", "--format", "json").records}
    assert reasons == {"null_value", "unfit_value"}
    assert place.traits()["u2"] == {AUDIENCE_KEY: False, "spend": None}


def test_retracting_a_trait_asks_in_its_own_words(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question says that null is sent, and to how many; the answer yes does it."""
    assert place.command("sync").code == 0
    asked: list[str] = []
    monkeypatch.setenv("SCHEMATIC_API_KEY", place.key)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda question, **_: asked.append(question))
    monkeypatch.setattr(
        sys, "argv", ["audience-sync", "--config", str(place.folder / "config.toml"), "retract", "spend"]
    )
    with pytest.raises(SystemExit) as left:
        main()

    assert left.value.code == 0
    assert asked == ["Send null for 2 profiles with a value for spend, and never use this key again?"]
    assert {user: traits.get("spend", "never") for user, traits in place.traits().items()} == {
        "u1": None,
        "u2": None,
        "u3": "never",
    }


@ON_ONE_DATABASE
def test_an_orphaned_trait_is_named_with_what_a_retraction_sends(place: Place) -> None:
    """`plan` names a computed trait that is not in the file any more, and says that a retraction sends null."""
    assert place.command("sync").code == 0
    place.configure(name=AUDIENCE_NAME, sql=BOUGHT, company_keys={})

    said = " ".join(place.command("plan").err.split())

    assert "spend has 2 values but is not in" in said
    assert "to send null for all of them" in said


@pytest.mark.slow
def test_a_resync_and_a_retry_carry_values(place: Place) -> None:
    """After a resync Schematic has every value again, and what was dead goes with the value of now."""
    assert place.command("sync", "--no-deliver").code == 0
    with place.database.write() as connection:
        connection.exec_driver_sql("UPDATE outbox SET dead_reason = 'refused'")
    dead = place.command("dead", "list", "spend", "--format", "json").records
    assert {one["value"] for one in dead} == {12.5, 3}
    place.shop.set_orders([("u1", 12.5)])
    assert place.command("sync", "--resync", "--no-deliver").code == 0
    assert place.command("dead", "retry").code == 0

    assert place.command("deliver").code == 0
    assert place.traits()["u1"] == TRAITS_OF_U1
    assert place.traits()["u2"] == {AUDIENCE_KEY: False, "spend": None}


@ON_ONE_DATABASE
def test_csv_has_values_as_json(place: Place) -> None:
    """CSV has values as JSON text, so that another program reads back what was computed."""
    place.shop.set_orders([("u1", 0.1 + 0.2)])
    assert place.command("sync", "--no-deliver").code == 0

    (cells,) = csv.DictReader(place.command("members", "spend", "--format", "csv").out.splitlines())

    assert json.loads(cells["value"]) == 0.3
    assert cells["computation"] == "trait"
