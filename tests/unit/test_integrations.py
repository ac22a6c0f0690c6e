"""The integrations object: who keeps an event away from Schematic, and for which reason it is counted."""

from __future__ import annotations

import copy

import pytest

from audience_sync.core.model import Json
from audience_sync.segment.segment_events import KeptAway, kept_away

OBJECTS: list[tuple[Json, KeptAway | None]] = [
    (None, None),
    ({}, None),
    ({"All": True}, None),
    ({"All": False}, KeptAway.FILTERED),
    ({"All": False, "Schematic": True}, None),
    ({"Schematic": True, "All": False}, None),
    ({"All": False, "Schematic": {"x": 1}}, None),
    ({"All": False, "Schematic": {}}, None),
    ({"All": False, "Schematic": None}, None),
    ({"All": False, "Schematic": "false"}, None),
    ({"All": False, "Schematic": 0}, None),
    ({"All": False, "Schematic": []}, None),
    ({"Schematic": False}, KeptAway.FILTERED),
    ({"All": True, "Schematic": False}, KeptAway.FILTERED),
    ({"Schematic": False, "schematic": True}, KeptAway.FILTERED),
    ({"All": False, "schematic": True}, KeptAway.UNKNOWN_NAME),
    ({"All": False, "SCHEMATIC": {}}, KeptAway.UNKNOWN_NAME),
    ({"All": False, "Actions Schematic": True}, KeptAway.UNKNOWN_NAME),
    ({"All": False, "Schematic (Actions)": None}, KeptAway.UNKNOWN_NAME),
    ({"All": False, "schematic": False}, KeptAway.FILTERED),
    ({"All": False, "Mixpanel": True}, KeptAway.FILTERED),
    ({"All": True, "schematic": False}, None),
    ({"schematic": False}, None),
    ({"All": True, "Mixpanel": False}, None),
    ({"Mixpanel": False}, None),
    ({"all": False}, KeptAway.FILTERED),
    ({"ALL": False}, KeptAway.FILTERED),
    ({"all": True}, None),
    ({"All": False, "all": True}, KeptAway.FILTERED),
    ({"all": "x", "All": False}, None),
    ({"All": None}, None),
    ({"All": 0}, None),
    ({"All": "false"}, None),
    ({"All": {}}, None),
    ([], None),
    ([False], None),
    ("Schematic", None),
    (False, None),
    (0, None),
]

OLD: list[tuple[Json, Json, KeptAway | None]] = [
    (None, {"all": False}, KeptAway.FILTERED),
    (None, {"providers": {"All": False}}, KeptAway.FILTERED),
    (None, {"providers": {"all": None}, "all": False}, KeptAway.FILTERED),
    (None, {"providers": {"All": False, "Schematic": True}}, None),
    (None, {"All": False, "Schematic": True}, None),
    (None, {"Schematic": False}, KeptAway.FILTERED),
    (None, {"All": False, "schematic": True}, KeptAway.UNKNOWN_NAME),
    ({"All": True}, {"All": False}, KeptAway.FILTERED),
    ({"All": False}, {"providers": {"All": True}}, None),
    ({"All": False, "Schematic": True}, {"All": False}, None),
    ({}, {"Schematic": False}, None),
    ({}, {}, None),
    ({}, "x", None),
]


@pytest.mark.parametrize(("integrations", "reason"), OBJECTS, ids=lambda value: repr(value)[:60])
def test_integrations(integrations: Json, reason: KeptAway | None) -> None:
    """`All` counts for who is not named, the exact name before it, and only `false` switches off."""
    before = copy.deepcopy(integrations)

    assert reason == kept_away(integrations, destination="Schematic")
    assert integrations == before


@pytest.mark.parametrize(("integrations", "options", "reason"), OLD, ids=lambda value: repr(value)[:60])
def test_options_of_old_libraries(integrations: Json, options: Json, reason: KeptAway | None) -> None:
    """What an old library says of all destinations comes first, and its names count where there are no others."""
    assert reason == kept_away(integrations, options, destination="Schematic")


def test_reasons_are_named() -> None:
    """Reasons are counted under names that stay."""
    assert [str(reason) for reason in KeptAway] == ["filtered_by_integrations_object", "unknown_integration"]
