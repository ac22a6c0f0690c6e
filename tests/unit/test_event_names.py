"""Names of track events: what Schematic takes is lowered, everything else is snake_cased."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.destinations.schematic.schematic_bodies import event_name

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "destination.json").read_text(encoding="utf-8"))
SENT = sorted(
    {
        (case["event"]["event"], one["body"]["event"])
        for case in VECTORS
        for one in case["sent"]
        if one["type"] == "track"
    }
)

NAMES = {
    "order_completed": "order_completed",
    "OrderCompleted": "ordercompleted",
    "Sign-Up": "sign-up",
    "__A--b_": "__a--b_",
    "-": "-",
    "42": "42",
    "Order Completed": "order_completed",
    " Order  Completed ": "order_completed",
    "Order/Done": "order_done",
    "Order - Done": "order_done",
    "sign-up done": "sign_up_done",
    "h%fspr!jez(twp": "h_fspr_jez_twp",
    "Café": "cafe",
    "Заказ": "zakaz",
    "order\x00done": "order_done",
    "order\n": "order",
    "!!!": "",
    "🔥": "",
    "": "",
}


@pytest.mark.parametrize(("raw", "name"), NAMES.items(), ids=map(repr, NAMES))
def test_a_name(raw: str, name: str) -> None:
    """A name that Schematic takes keeps its dashes and underscores; one that it refuses becomes one that it takes."""
    assert name == event_name(raw)


@pytest.mark.parametrize(("raw", "name"), SENT, ids=[raw for raw, _ in SENT])
def test_a_name_that_segment_sends(raw: str, name: str) -> None:
    """Every name that Segment sends and Schematic takes is the same here."""
    assert name == event_name(raw)


@given(st.text())
def test_schematic_takes_every_name(raw: str) -> None:
    """Whatever an event is called, its name is empty or one that Schematic takes, and stays as it is."""
    name = event_name(raw)

    assert re.fullmatch("[a-z0-9_-]*", name)
    assert name == event_name(name)
