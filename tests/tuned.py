"""Other tunings for tests: small amounts, short waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from audience_sync import runtime
from audience_sync.store.database import TUNING_OPTION, Database
from audience_sync.store.workspace import Workspace
from audience_sync.tuning import DEFAULT_TUNING, Tuning


def in_parts(rows: int) -> Tuning:
    """Return the tuning that has comparisons go through few rows at once."""
    return replace(
        DEFAULT_TUNING,
        diff_lines_per_load=rows,
        diff_rows_per_part=rows,
        diff_hashes_per_part=rows,
        diff_rows_per_page=rows,
    )


def tuned_database(database: Database, **changes: Any) -> Database:
    """Return the same database with other tunable numbers; connections that are open keep theirs."""
    tuning = replace(database.tuning, **changes)
    return Database(database.engine.execution_options(**{TUNING_OPTION: tuning}), reach=database._reach)


def tuned(workspace: Workspace, **changes: Any) -> Workspace:
    """Return the same workspace with other tunable numbers."""
    return replace(workspace, database=tuned_database(workspace.database, **changes))


def tune_commands(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have the commands of this process, and those that it forks, run with other tunable numbers."""
    monkeypatch.setattr(runtime, "TUNING", replace(runtime.TUNING, **changes))
