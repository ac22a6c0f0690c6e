"""Text as people read it: durations."""

from __future__ import annotations

from datetime import timedelta

import pytest

from audience_sync.config import parse_duration
from audience_sync.core.text import short_duration


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(), "0s"),
        (timedelta(milliseconds=300), "0.3s"),
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(seconds=90, milliseconds=400), "1m30s"),
        (timedelta(seconds=59, milliseconds=999.9), "1m"),
        (timedelta(hours=2), "2h"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(days=400), "400d"),
        (timedelta(days=1, seconds=1), "1d1s"),
        (-timedelta(minutes=20), "-20m"),
    ],
)
def test_a_duration_is_shown_as_it_is_written(duration: timedelta, expected: str) -> None:
    """A duration reads like a setting: the largest units first, and none that is zero."""
    assert short_duration(duration) == expected


@pytest.mark.parametrize("text", ["30s", "1m", "1h30m", "400d", "1d2h3m4s"])
def test_a_shown_duration_can_be_copied_into_the_configuration(text: str) -> None:
    """Durations in messages are valid settings."""
    assert short_duration(parse_duration(text)) == text
