"""Commands answer what was asked: the sentences, numbers and remedies that they print are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import ON_ONE_DATABASE, Place, customers, open_place
from tests.factories import AUDIENCE_KEY

HUNDRED = customers(range(100))
TEN = customers(range(10))
BLOCKED = "90 would exit: 90.0 % of the previous 100 members; max_exit_percent allows 30 %"

pytestmark = ON_ONE_DATABASE


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """Yield a shop of a hundred customers, not yet synced."""
    with open_place(tmp_path, database_url) as opened:
        opened.configure()
        opened.shop.set_orders(HUNDRED.items())
        yield opened


def test_an_audience_is_approved_by_its_key(place: Place) -> None:
    """The command of a warning works though another run has been blocked since: its plan is shown before it applies."""
    assert place.command("sync").code == 0
    place.shop.set_orders(customers(range(20)).items())
    assert place.command("sync").code == 4
    place.shop.set_orders(TEN.items())
    assert place.command("sync").code == 4

    unasked = place.command("approve", AUDIENCE_KEY)
    assert unasked.code == 2
    assert f"run 3 of {AUDIENCE_KEY}, as of " in unasked.err
    assert f"Z: {BLOCKED}\nerror: confirmation is needed, but standard input is not a terminal\n" in unasked.err
    assert len(place.members()) == 100

    approved = place.command("approve", AUDIENCE_KEY, "--yes", "--format", "json")
    assert [(one["id"], one["state"]) for one in approved.records] == [(3, "succeeded")]
    assert set(place.members()) == set(TEN)


@pytest.mark.parametrize(
    ("word", "sentence", "hint"),
    [
        (
            AUDIENCE_KEY,
            f"no run of {AUDIENCE_KEY} is blocked",
            f"list its runs with `audience-sync runs {AUDIENCE_KEY}`",
        ),
        ("99", "there is no run 99", "list them with `audience-sync runs`"),
        ("9" * 30, f"there is no run {'9' * 30}", "list them with `audience-sync runs`"),
        (
            "1",
            "run 1 cannot be approved: it was not blocked, and its changes were applied",
            f"no run of {AUDIENCE_KEY} is blocked now",
        ),
    ],
)
def test_what_cannot_be_approved(place: Place, word: str, sentence: str, hint: str) -> None:
    """A sentence says why, and the hint says what to do next."""
    assert place.command("sync").code == 0

    ended = place.command("approve", word)

    assert ended.code == 2
    assert f"error: {sentence}\nhint: {hint}\n" in ended.err


def test_status_says_why_an_audience_failed(place: Place) -> None:
    """The reason of the last run that failed stands in `status` until a run of the audience succeeds."""
    place.configure(sql="SELECT customer_id FROM orders")
    failed = place.command("sync")
    table, (whole,) = place.command("status"), place.command("status", "--format", "json").records
    place.configure()
    assert place.command("sync").code == 0

    (run,) = whole["failed"]
    assert f"error: {AUDIENCE_KEY}: {run['reason']}\n" in failed.err
    assert (run["id"], run["audience"]) == (1, AUDIENCE_KEY)
    assert re.search(
        rf"^failed:\nid  audience .*\n 1  {AUDIENCE_KEY}  .*Z  {re.escape(run['reason'])}$", table.out, re.MULTILINE
    )
    assert place.command("status", "--format", "json").records[0]["failed"] == []


def test_nothing_to_deliver(place: Place) -> None:
    """A delivery of nothing says so, and does not report a wrong key as good."""
    assert place.command("sync").code == 0
    place.key = "sch_dev_wrong"
    ended = place.command("deliver")
    unchanged = place.command("sync")

    assert (ended.code, unchanged.code) == (0, 0)
    assert ended.err.splitlines()[1:] == [
        "nothing to deliver",
        "the API key was not used; `audience-sync check` verifies it",
    ]
    assert unchanged.err.splitlines()[1:] == ["nothing to deliver"]


def test_a_sync_tells_its_changes_from_others(place: Place) -> None:
    """A sync sends all that waits; what it says of its own runs does not contain the changes of others."""
    assert place.command("sync", "--no-deliver").code == 0
    place.shop.set_orders(customers(range(95)).items())
    place.configure(name="Later", sql="SELECT customer_id AS user_id, company_id FROM orders WHERE customer_id < 'u2'")
    later = place.command("sync", "--format", "json")

    assert [(one["audience"], one["entered"], one["sent"]) for one in later.records] == [("later", 12, 12)]
    said = "100 events accepted by Schematic, including earlier ones; 12 changes from these runs"
    assert later.err.splitlines()[-1] == said


def test_check_shows_a_path_once(place: Place) -> None:
    """A sentence that names the file does not follow the same path; json keeps the subject."""
    missing, config = place.folder / "missing.db", place.folder / "config.toml"
    place.configure(url=f"sqlite:///{missing}")
    table = place.command("check").out.splitlines()
    (found,) = [one for one in place.command("check", "--format", "json").records if one["check"] == "database"]
    config.write_text("x = = 1")

    assert f"error    database: there is no membership database at {missing}" in table
    assert (found["subject"], found["message"]) == (
        f"sqlite:///{missing}", f"there is no membership database at {missing}",
    )  # fmt: skip
    assert place.command("check").out.startswith(f"error    configuration: {config}, line 1, column 5: ")
