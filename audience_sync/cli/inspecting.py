"""The commands that look: status, audiences, members, profile, runs, changes, rejections. None of them changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from sqlalchemy.engine import Connection

from audience_sync import app as engine
from audience_sync.cli.context import console, seams, settings_of
from audience_sync.cli.output import Format, FormatOption, LimitOption, Sheet, json_line, print_records
from audience_sync.config import Settings
from audience_sync.core.model import ChangeKind, RunState
from audience_sync.db import display_url
from audience_sync.errors import ConfigError, UnknownName
from audience_sync.store import audiences as known
from audience_sync.store import binding, erasure, history, inspection, leases, outbox, reports
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.reports import Record, iso

PANEL = "Look"
LIMIT = 50

STATUS_COLUMNS = ("audience", "state", "members", "last_run", "kind", "result", "started_at", "next_due", "open", "dead")
AUDIENCE_COLUMNS = ("key", "name", "state", "members", "trait", "last_success", "next_due", "definition_changed")
PROFILE_COLUMNS = (
    "audience", "member", "since", "run_id", "value", "identifiers", "open_value", "open_state", "tries", "next_try_at",
    "reason",
)  # fmt: skip


def instant(text: str) -> datetime:
    """Return the instant of an ISO 8601 date or time; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 date or time, such as 2026-03-31T14:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
