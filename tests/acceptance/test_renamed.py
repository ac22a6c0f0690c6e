"""A renamed audience is recognised by `check`, `plan` and `sync` alike; a second `approve` says when the first was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from audience_sync.checks import check_audiences as checks
from audience_sync.clock import wall_clock
from audience_sync.core.model import Severity
from tests.acceptance.running import Place, customers, open_place
from tests.factories import AUDIENCE_KEY, AUDIENCE_NAME, ORDERS_SQL

EVERYBODY = customers(range(200))
SENTENCE = (
    f"was previously synced as {AUDIENCE_KEY}: a sync sends the new trait VIP to every member, and the 200"
    f" members of {AUDIENCE_KEY} keep the old trait"
)
REMEDY = f'to continue the old trait, set key = "{AUDIENCE_KEY}"; to end it, run `audience-sync retract {AUDIENCE_KEY}`'


@pytest.fixture
def synced(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop whose 200 customers Schematic knows as members of one audience."""
    with open_place(tmp_path, database_url) as opened:
        opened.sync_here(opened.configure(), EVERYBODY)
        opened.deliver_here()
        yield opened


@pytest.mark.parametrize(
    "renamed",
    [
        {"name": "VIP", "audience": {"key": "VIP"}},
        {"name": AUDIENCE_NAME, "audience": {"key": "VIP"}, "sql": f"{ORDERS_SQL} AND 1 = 1"},
    ],
    ids=["the same definition", "the same name"],
)
@pytest.mark.parametrize("words", [("plan",), ("sync", "--no-deliver"), ("sync", "--no-deliver", "VIP")], ids=" ".join)
def test_a_renamed_audience_is_named_before_everybody_enters_anew(
    synced: Place, renamed: dict[str, object], words: tuple[str, ...]
) -> None:
    """The old members would keep their trait for ever: `plan` and `sync` say so, with both ways to go on."""
    synced.configure(**renamed)  # type: ignore[arg-type]
    ended = synced.command(*words)

    assert ended.code == 0
    assert f"warning: VIP {SENTENCE}\nhint: {REMEDY}\n" in ended.err


def test_check_says_the_same(synced: Place) -> None:
    """One rule, one sentence."""
    settings = synced.configure(name="VIP", audience={"key": "VIP"})
    looked = checks.look(settings, synced.database, now=wall_clock())
    (found,) = [one for one in looked if (one.subject, one.state) == ("VIP", Severity.WARNING)]

    assert (found.message, found.remedy) == (SENTENCE, REMEDY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"name": "VIP", "audience": {"key": AUDIENCE_KEY}},
        {"name": "VIP", "sql": f"{ORDERS_SQL} AND 1 = 1"},
        {"name": AUDIENCE_NAME, "entries": "traits", "audience": {"key": "VIP"}},
    ],
    ids=["nothing changed", "the key stayed", "another audience", "a computed trait"],
)
def test_what_is_not_a_rename_is_not_called_one(synced: Place, wanted: dict[str, object]) -> None:
    """A new audience next to an orphan is a new audience."""
    synced.configure(**wanted)  # type: ignore[arg-type]

    assert ": a sync sends the new trait" not in synced.command("plan").err


def test_after_the_first_sync_there_is_nothing_to_decide(synced: Place) -> None:
    """Once the new key was synced the choice is made; the orphan is still named by `plan`."""
    synced.configure(name="VIP", audience={"key": "VIP"})
    assert synced.command("sync", "--no-deliver").code == 0
    said = synced.command("plan").err

    assert ": a sync sends the new trait" not in said
    assert f"orphan: {AUDIENCE_KEY}" in said


def test_a_second_approve_says_when_the_first_was(synced: Place) -> None:
    """Two people approve the same run: the second learns when it was done, and nothing happens or is printed twice."""
    synced.shop.set_orders(customers(range(50)).items())
    synced.configure(sql="SELECT customer_id AS user_id, company_id FROM orders WHERE 1 = 1")
    assert synced.command("sync").code == 4
    first = synced.command("approve", "2")
    received = synced.received()
    second = synced.command("approve", "2")
    again = synced.command("approve", "2", "--format", "json")

    assert (first.code, second.code) == (0, 0)
    assert "was approved at" not in first.err
    assert "note: " in first.err
    assert re.search(
        r"^run 2 was already approved at \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ, and its changes were applied$",
        second.err,
        re.MULTILINE,
    )
    assert (second.out, "note: " in second.err) == ("", False)
    assert [(one["id"], one["state"]) for one in again.records] == [(2, "succeeded")]
    assert synced.received() == received
