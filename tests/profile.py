"""How much generated data tests try: a small fixed amount by default, more in slow runs and with CI=true."""

from __future__ import annotations

import os

import hypothesis

_COMMON = hypothesis.settings(
    deadline=None,  # on a busy machine a first example may take seconds
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)


def load(*, large: bool) -> None:
    """Load the small or the large profile. The small one tries the same examples in every run."""
    hypothesis.settings.register_profile("small", _COMMON, max_examples=25, derandomize=True, database=None)
    hypothesis.settings.register_profile("large", _COMMON, max_examples=100)
    hypothesis.settings.load_profile("large" if large else "small")


def amount(variable: str | None = None, *, small: int, large: int) -> int:
    """Return a number of generated cases: that of an environment variable if it is set, or that of the profile."""
    is_large = hypothesis.settings.get_current_profile_name() == "large"
    return int((variable and os.environ.get(variable)) or (large if is_large else small))
