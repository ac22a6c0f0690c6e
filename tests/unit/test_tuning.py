"""Tunable numbers: each is used, and travels with the database."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import audience_sync
from audience_sync.store.database import connect, tuning_of
from audience_sync.tuning import DEFAULT_TUNING, Tuning

PACKAGE = Path(audience_sync.__file__).parent


def test_every_number_is_used() -> None:
    """A number that nothing reads any more is dead code."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))

    assert [one.name for one in fields(Tuning) if not re.search(rf"\.{one.name}\b", source)] == []


def test_whoever_has_a_connection_has_the_numbers(tmp_path: Path) -> None:
    """Statements get them from the connection, everything else from the database."""
    tuning = replace(DEFAULT_TUNING, rows_per_page=7)
    database = connect(f"sqlite:///{tmp_path / 'audience_sync.db'}", create=True, tuning=tuning)
    try:
        with database.read() as connection:
            assert tuning_of(connection) == database.tuning == tuning
    finally:
        database.close()
