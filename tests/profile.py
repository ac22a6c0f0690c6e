"""How much generated data tests try: a small fixed amount by default, more in slow runs, which try all of it again."""

from __future__ import annotations

import os

import hypothesis
import pytest

_COMMON = hypothesis.settings(
    deadline=None,  # on a busy machine a first example may take seconds
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)


def load(*, large: bool) -> None:
    """Load the small or the large profile. The small one tries the same examples in every run."""
    hypothesis.settings.register_profile("small", _COMMON, max_examples=15, derandomize=True, database=None)
    hypothesis.settings.register_profile("large", _COMMON, max_examples=100)
    hypothesis.settings.load_profile("large" if large else "small")


def amount(variable: str | None = None, *, small: int, large: int) -> int:
    """Return a number of generated cases: that of an environment variable if it is set, or that of the profile."""
    return int((variable and os.environ.get(variable)) or (large if is_large() else small))


def is_large() -> bool:
    """Return whether tests try much generated data."""
    return hypothesis.settings.get_current_profile_name() == "large"


def is_generated(item: pytest.Item) -> bool:
    """Return whether a test tries generated data."""
    test = getattr(item, "obj", None)
    return hypothesis.is_hypothesis_test(test) or item.get_closest_marker("generated") is not None
