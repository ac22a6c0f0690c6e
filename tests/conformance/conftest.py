"""An engine under test, and a source of it with the table `orders`."""

from __future__ import annotations

from pathlib import Path

import pytest

from audience_sync.config import Source
from tests.conformance.engine_subjects import SUBJECTS, Subject


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """An engine."""
    return SUBJECTS[request.param]


@pytest.fixture
def source(subject: Subject, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """A source of that engine."""
    folder = tmp_path / "source"
    folder.mkdir()
    return subject.make(folder, lambda name: str(request.getfixturevalue(name)))
