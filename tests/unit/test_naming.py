"""The key of an audience: the frozen rule of design.md §4."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import audience_key

KEYS = {
    "Order Completed Last 30days": "order_completed_last_30days",
    "Big-Spender (EU)": "big_spender_eu",
    "OrderCompleted": "ordercompleted",
    "Spent 1,000": "spent_1_000",
    "Spent 1，000": "spent_1_000",
    "Spent 1.5x": "spent_1_5x",
    "O’Brien": "o_brien",
    "O'Brien": "o_brien",
    "R&amp;D": "r_amp_d",
    "A & B": "a_b",
    "&#38;": "38",
    "50% off": "50_off",
    "Spent €500": "spent_500",
    "Café": "cafe",
    "Cafe\u0301s": "cafes",
    "Straße": "strasse",
    "Большие покупатели": "bolshie_pokupateli",
    "Hot🔥Leads": "hot_leads",
    "  __already_a_key__ ": "already_a_key",
    "a -- b": "a_b",
    "🔥 (!)": "",
}


@pytest.mark.parametrize(("name", "key"), KEYS.items(), ids=KEYS.values())
def test_key_of_a_name(name: str, key: str) -> None:
    """A name has the key that it had when its trait was first written."""
    assert audience_key(name) == key


@given(st.text())
def test_key_is_made_of_letters_digits_and_single_underscores(name: str) -> None:
    """Whatever a name holds, its key is a plain word, and the key of the key is the key."""
    key = audience_key(name)

    assert re.fullmatch(r"([a-z0-9]+(_[a-z0-9]+)*)?", key)
    assert audience_key(key) == key
