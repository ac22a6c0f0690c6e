"""Estimates for changes that are not sent yet: events, requests, seconds, and profiles."""

from __future__ import annotations

import pytest

from audience_sync.core.forecast import Forecast, ProfileCounter, forecast
from audience_sync.destinations.mappings import make_mapping
from audience_sync.destinations.sample_changes import Volume, joined, volume
from audience_sync.destinations.schematic.schematic_actions import IDENTIFY_USER, TRACK_EVENT
from tests.factories import make_open, make_renderer

ENTRIES = [make_open("sample", trait=f"audience_{n}", audience_id=n) for n in range(3)]
IDENTIFY = make_mapping(
    "Identify", trigger='type = "identify"', action=IDENTIFY_USER, fields=IDENTIFY_USER.preset_fields
)
WON = make_mapping(
    "Won",
    trigger='context.change = "entered"',
    action=TRACK_EVENT,
    fields={**TRACK_EVENT.preset_fields, "event_name": "won", "traits": {"@path": "$.traits"}},
)
AT_HOME = make_mapping(
    "At home",
    trigger='context.personas.namespace = "env_7"',
    action=IDENTIFY_USER,
    fields=IDENTIFY_USER.preset_fields,
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (0, Forecast(0, 0, 0)),
        (1, Forecast(1, 1, 1)),
        (100, Forecast(100, 1, 1)),
        (101, Forecast(101, 2, 1)),
        (10_000_000, Forecast(10_000_000, 100_000, 2_000)),
    ],
)
def test_a_forecast_is_full_batches_at_the_rate(events: int, expected: Forecast) -> None:
    """Requests and seconds are whole, and the least that the events take."""
    assert forecast(events, batch_size=100, per_second=50.0) == expected


def test_a_rate_below_one_request_a_second() -> None:
    """A slow rate makes the time, not the requests, longer."""
    assert forecast(250, batch_size=100, per_second=0.1) == Forecast(250, 3, 30)


@pytest.mark.parametrize("size", [0, 1, 1_000])
def test_few_profiles_are_counted_exactly(size: int) -> None:
    """A profile that comes twice counts once."""
    profiles = ProfileCounter()
    profiles.add(f"user_{n}" for n in range(size))
    profiles.add(f"user_{n}" for n in range(0, size, 3))

    assert profiles.count() == size


def test_many_profiles_are_counted_nearly() -> None:
    """Of many the count is right to a fraction of a percent, in bounded memory."""
    profiles = ProfileCounter()
    profiles.add(f"user_{n}" for n in range(200_000))
    profiles.add(f"user_{n}" for n in range(100_000, 300_000))

    assert profiles.count() == pytest.approx(300_000, rel=0.002)


def test_the_presets_send_one_event_for_a_profile() -> None:
    """All audiences of a profile that change are one identify."""
    destination = make_renderer()

    assert volume(ENTRIES[0], destination) == Volume(1, 1, 1)
    assert joined(ENTRIES, destination) == 1
    assert joined(ENTRIES[:1], destination) == 0


def test_a_mapping_for_entries_alone() -> None:
    """A track event at an entry is an event of its own, and is not joined with those of other audiences."""
    destination = make_renderer(IDENTIFY, WON)

    assert volume(ENTRIES[0], destination) == Volume(2, 1, 1)
    assert joined(ENTRIES, destination) == 1
    assert joined(ENTRIES, make_renderer(WON)) == 0


def test_a_mapping_that_looks_at_the_environment() -> None:
    """While the environment is not known, such a mapping counts as if it sent something."""
    assert volume(ENTRIES[0], make_renderer(IDENTIFY, AT_HOME, environment="")) == Volume(2, 2, 2)
    assert volume(ENTRIES[0], make_renderer(IDENTIFY, AT_HOME, environment="env_1")) == Volume(1, 1, 1)
