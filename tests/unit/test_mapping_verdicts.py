"""The destination as a whole, on Segment's vectors: the same bodies for the same events, but for the known faults."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core import exact_json
from audience_sync.destinations.mappings import NO_MATCHING_MAPPING, judge, make_mapping, presets
from audience_sync.destinations.schematic.schematic_actions import ACTIONS

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "destination.json").read_text())
API_KEY = "sch_test_key"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["identify", "track", "page", "screen", "group", "alias"]) | VALUES,
        "event": VALUES,
        "userId": VALUES,
        "timestamp": st.sampled_from(["2026-01-02T03:04:05Z", 1767225600]) | VALUES,
        "traits": VALUES,
        "context": VALUES | st.fixed_dictionaries({"groupId": VALUES, "user_keys": VALUES, "company_keys": VALUES}),
        "integrations": VALUES | st.dictionaries(st.sampled_from(["All", "all", "Schematic", "schematic"]), VALUES),
    },
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["event"]["messageId"])
def test_vectors(vector: dict[str, Any]) -> None:
    """Whole bodies are those of Segment, in the order of the mappings, and nothing is touched."""
    before = copy.deepcopy(vector)
    mappings = [
        make_mapping(str(n), trigger=one["subscribe"], action=ACTIONS[one["partnerAction"]], fields=one["mapping"])
        for n, one in enumerate(vector["mappings"])
    ]

    verdict = judge(vector["event"], mappings, destination="Schematic")

    assert [{"api_key": API_KEY, **made.body} for _, made in verdict.bodies] == vector["sent"]
    assert vector == before


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["event"]["messageId"])
def test_what_is_not_sent_has_a_reason(vector: dict[str, Any]) -> None:
    """Every mapping that Segment executed is a body or a rejection with its reason, and silence is explained."""
    mappings = [
        make_mapping(str(n), trigger=one["subscribe"], action=ACTIONS[one["partnerAction"]], fields=one["mapping"])
        for n, one in enumerate(vector["mappings"])
    ]

    verdict = judge(vector["event"], mappings, destination="Schematic")

    if "filtered" in vector["outcomes"]:
        assert verdict.kept_away == "filtered_by_integrations_object"
    else:
        executed = [n for n, outcome in enumerate(vector["outcomes"]) if outcome != "not subscribed"]
        answered = [int(mapping.name) for mapping, _ in (*verdict.bodies, *verdict.rejections)]
        assert sorted(answered) == executed
        assert verdict.kept_away == (None if executed else NO_MATCHING_MAPPING)


@given(EVENTS)
def test_any_event_has_a_verdict(event: dict[str, Any]) -> None:
    """Whatever an application sends: a body that is JSON, or a reason; the event is left as it was."""
    before = copy.deepcopy(event)
    verdict = judge(event, presets(ACTIONS.values()), destination="Schematic")

    assert event == before
    assert bool(verdict.kept_away) != bool(verdict.bodies or verdict.rejections)
    for _, (body, text) in verdict.bodies:
        assert exact_json.loads(text) == body
        assert json.loads(json.dumps(body)) == body
        assert body["type"] == event["type"]


@pytest.mark.parametrize("value", ["\ud800", json.loads("[" * 300 + "]" * 300)], ids=["surrogate", "deep"])
def test_what_is_no_json_is_a_rejection(value: Any) -> None:
    """A body that cannot be written down is refused by name, whatever an event brings."""
    event: dict[str, Any] = {"type": "identify", "userId": "u1", "timestamp": 0, "traits": {"odd": value}}

    verdict = judge(event, presets(ACTIONS.values()), destination="Schematic")

    assert [rejection.reason for _, rejection in verdict.rejections] == ["unencodable"]
