"""What the tests of whole parts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_sandbox import FaultySandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[FaultySandbox]:
    """Yield a running sandbox."""
    with FaultySandbox(tmp_path / "sandbox.db") as running:
        yield running
