"""What the tests of whole parts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audience_sync.sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """Yield a running sandbox."""
    with Sandbox(tmp_path / "sandbox.db") as running:
        yield running
